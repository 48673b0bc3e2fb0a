"""The one way to read what others wrote: nothing in it is run, and what is not as it should be is one sentence.

``read_text``, ``read_json``   text, and what it says, of a size that fits
``read_tensors``               what ``torch.save`` wrote: weights and plain values, never a pickled object
``field``                      a value of a record, of the type that it must have
``refuse_pipe``                what stands in a file's place and would be waited for, or has no end

A file is somebody else's even when we wrote it: it was copied, edited, cut short, or made to look like one of ours.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, TypeVar

from varlen_lab.errors import InputError, first_line, quoted

MOST_TEXT = 2**28  # bytes of a text that is read whole
NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
T = TypeVar("T")


def refuse_pipe(path: Path, instead: str) -> None:
    """InputError, which ``instead`` ends, for a pipe or a device: who opens it waits, or reads for ever."""
    if path.is_fifo() or path.is_char_device():
        raise InputError(f"{path} is a pipe or a device, and a file is needed there; {instead}.")


def read_text(path: Path, instead: str, most: int = MOST_TEXT) -> str:
    """A file as UTF-8 text; InputError, which ``instead`` ends, where it is none or has over ``most`` bytes."""
    try:
        refuse_pipe(path, instead)
        with path.open("rb") as file:
            body = file.read(most + 1)
    except InputError:
        raise
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{path} cannot be read ({getattr(problem, 'strerror', None) or problem}); {instead}."
        ) from None
    if len(body) > most:
        raise InputError(f"{path} has more than {most / 1e6:,.0f} MB, it is no such file; {instead}.")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InputError(f"{path} is no UTF-8 text (byte {problem.start:,}); {instead}.") from None


def read_json(
    path: Path,
    instead: str,
    kind: type[T] = dict,  # type: ignore[assignment]
    most: int = MOST_TEXT,
    words: bool = False,
) -> T:
    """What a JSON file says, of this ``kind``; InputError, which ``instead`` ends, where it says no such thing."""
    return parse_json(read_text(path, instead, most), str(path), instead, kind, words)


def parse_json(
    text: str,
    where: str,
    instead: str,
    kind: type[T] = dict,  # type: ignore[assignment]
    words: bool = False,
) -> T:
    """As ``read_json``, of a text that stands in ``where``.

    NaN and Infinity, which are no JSON, are none here either, but for ``words``: files of ours had them once, and
    transformers writes Infinity into the configs of some models.
    """

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        found = json.loads(text, parse_constant=float if words else refuse)
    except RecursionError:
        raise InputError(f"{where} is nested too deep to be read; {instead}.") from None
    except ValueError as problem:
        raise InputError(f"{where} is no JSON ({first_line(problem)}); {instead}.") from None
    if type(found) is not kind:
        raise InputError(f"{where} holds {quoted(found)}, it must be {NAMES.get(kind, kind.__name__)}; {instead}.")
    return found


def read_tensors(path: Path, instead: str, mmap: bool = False, allowed: tuple[Any, ...] = ()) -> Any:
    """What ``torch.save`` wrote, on the CPU, without running anything in it; InputError, which ``instead`` ends.

    ``mmap``: weights stay on the disk until they are used. ``allowed``: classes it may hold besides tensors.
    """
    import torch

    try:
        refuse_pipe(path, instead)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than weights and plain values, and what it holds is not run; {instead}."
        ) from None
    except (InputError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as problem:  # a damaged archive fails in as many ways as there are lines that read it
        raise InputError(
            f"{path} cannot be read ({type(problem).__name__}: {first_line(problem)}); {instead}."
        ) from None


def field(
    values: Mapping[str, Any], name: str, kind: type[T] | tuple[type, ...] | UnionType, where: str, instead: str
) -> Any:
    """``values[name]``, which must be of this ``kind`` (a bool is no number); InputError, which ``instead`` ends."""
    if name not in values:
        raise InputError(f"{where} has no {name!r}, it is damaged or made by another program; {instead}.")
    value = values[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} has {name} = {quoted(value)}, which is no such value; {instead}.")
    return value
