"""The checks of what a person passes in: document lengths and counts. No torch: plans and pictures need none."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from itertools import compress
from typing import Any

import numpy as np

from varlen_lab.errors import InputError, quoted

MOST_TOKENS = 2**48  # of documents together: what is computed with them stays exact
LONGEST_SHOWN = 60  # characters of a length that is none
INT32_LIMIT = 2**31  # cu_seqlens is int32, and the attention kernels take nothing wider


def checked_lengths(lengths: Any, one_row: bool = False) -> np.ndarray:
    """Document lengths as an int64 array of shape (documents,): the one check of them in the library.

    ``lengths``: ``Boundaries``, an array or tensor, or anything that can be listed. ``one_row``: the documents lie in
    one packed row, so together they must stay below int32.
    Raises InputError for no documents, for a length that is below 1 or not whole, and for a row that is too long.
    """
    given = getattr(lengths, "lengths", lengths)
    given = given.cpu() if hasattr(given, "cpu") else given  # a tensor; torch itself is not asked for
    if isinstance(given, str | bytes | bytearray | memoryview | Mapping):  # they can be listed, and hold no lengths
        raise InputError(f"the lengths are {quoted(given)}, they must be a list of token counts; pass e.g. [2, 4, 3].")
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
    elif array.dtype.kind in "mM":  # numpy takes a span of time for a whole number
        whole[:] = False
    elif array.dtype.kind not in "iu" or (
        isinstance(given, list) and bool in map(type, compress(given, (array <= 1).tobytes()))
    ):
        # numpy makes one type of a mixed list (True becomes 1, 3 becomes "3"): ask each length by itself
        whole = np.array([isinstance(length, int | np.integer) and not isinstance(length, bool) for length in given])
    if not whole.all():
        first = int(np.argmin(whole))
        raise InputError(
            f"document {first} has length {str(given[first])[:LONGEST_SHOWN]}, it must be a whole number of tokens."
        )
    if array.min() < 1:
        first = int(np.argmin(array >= 1))
        cumulative = first == 0 == array[0] and len(array) > 1 and (array[1:] > array[:-1]).all()
        hint = "these look like cu_seqlens, pass lengths" if cumulative else "drop empty documents"
        raise InputError(f"document {first} has length {short(array[first])}, it must be at least 1 token; {hint}.")
    if array.max() >= MOST_TOKENS or array.sum(dtype=float) >= MOST_TOKENS:  # as floats: whole numbers wrap around
        first = int(np.argmax(array))
        raise InputError(
            f"document {first} has length {short(array[first])}, all together must stay below {MOST_TOKENS:,} tokens; "
            "pass the lengths in tokens."
        )
    if one_row and (total := int(array.sum(dtype=float))) >= INT32_LIMIT:
        raise InputError(
            f"the row has {total:,} tokens, cu_seqlens is int32 and ends below {INT32_LIMIT:,}; "
            "split it into several rows."
        )
    return array.astype(np.int64, copy=False)


def short(number: Any) -> str:
    """A whole number in words of a sentence, however many digits it has."""
    return quoted(int(number))


def checked_count(name: str, value: Any, advice: str) -> int:
    """``value`` as an int of at least 1 that fits into 32 bits, or an InputError that ends with ``advice``."""
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {quoted(value)}, it must be a whole number of at least 1; {advice}.")
    if value >= INT32_LIMIT:
        raise InputError(f"{name} is {short(value)}, it must be below {INT32_LIMIT:,}; {advice}.")
    return int(value)
