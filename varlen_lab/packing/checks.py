"""The checks of what a person passes in: document lengths and counts. No torch: plans and pictures need none."""

from __future__ import annotations

import reprlib
from itertools import compress
from typing import Any

import numpy as np

from varlen_lab.errors import InputError

INT32_LIMIT = 2**31  # cu_seqlens is int32, and the attention kernels take nothing wider


def checked_lengths(lengths: Any, one_row: bool = False) -> np.ndarray:
    """Document lengths as an int64 array of shape (documents,): the one check of them in the library.

    ``lengths``: ``Boundaries``, an array or tensor, or anything that can be listed. ``one_row``: the documents lie in
    one packed row, so together they must stay below int32.
    Raises InputError for no documents, for a length that is below 1 or not whole, and for a row that is too long.
    """
    given = getattr(lengths, "lengths", lengths)
    given = given.cpu() if hasattr(given, "cpu") else given  # a tensor; torch itself is not asked for
    try:
        given = given if hasattr(given, "__array__") else list(given)
        array = np.asarray(given)
    except (TypeError, ValueError):  # no list at all, or lists of different lengths in a list
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise InputError(
            f"the lengths are {reprlib.repr(lengths)}, they must be a flat list of token counts; pass e.g. [2, 4, 3]."
        )
    if not len(array):
        raise InputError("there are no documents, at least one is needed; pass their lengths, e.g. [70, 300, 180].")
    whole = np.ones(len(array), dtype=bool)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinite % 1 is nan, which is not whole either
            whole = array % 1 == 0
    elif array.dtype.kind not in "iu" or (
        isinstance(given, list) and bool in map(type, compress(given, (array <= 1).tobytes()))
    ):
        # numpy makes one type of a mixed list (True becomes 1, 3 becomes "3"): ask each length by itself
        whole = np.array([isinstance(length, int | np.integer) and not isinstance(length, bool) for length in given])
    if not whole.all():
        first = int(np.argmin(whole))
        raise InputError(f"document {first} has length {given[first]!s}, it must be a whole number of tokens.")
    if array.min() < 1:
        first = int(np.argmin(array >= 1))
        cumulative = first == 0 == array[0] and len(array) > 1 and (array[1:] > array[:-1]).all()
        hint = "these look like cu_seqlens, pass lengths" if cumulative else "drop empty documents"
        raise InputError(f"document {first} has length {array[first]:.0f}, it must be at least 1 token; {hint}.")
    if one_row and array.sum() >= INT32_LIMIT:
        raise InputError(
            f"the row has {array.sum():,.0f} tokens, cu_seqlens is int32 and ends below {INT32_LIMIT:,}; "
            "split it into several rows."
        )
    return array.astype(np.int64, copy=False)


def checked_count(name: str, value: Any, advice: str) -> int:
    """``value`` as an int of at least 1, or an InputError that ends with ``advice``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}, it must be a whole number of at least 1; {advice}.")
    return int(value)
