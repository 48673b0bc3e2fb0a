"""The weight files of a model folder: which they are, and what a safetensors file says of itself, checked.

    bytes 0-7   how long the header is      header   {"wte.weight": {"dtype": "F32", "shape": [2, 3],
    then        the header, JSON                      "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    then        the numbers

A header that lies is found here, before anybody maps the numbers that it promises.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from varlen_lab.errors import InputError, plural, quoted
from varlen_lab.files.reading import field, parse_json, read_json

ANEW = "fetch or save the model anew"
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"  # in the order in which transformers takes them
MOST_HEADER = 100_000_000  # bytes, safetensors' own limit
LENGTH = 8  # bytes that say how long the header is
# bits of a number, for every dtype that safetensors knows
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


class Stored(NamedTuple):
    """Where a tensor lies in a safetensors file: bytes from ``begin`` up to ``end``, and what they are."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(folder: Path) -> list[Path]:
    """The files a model folder keeps its weights in, those that transformers reads; [] where it has none.

    InputError for an index that is none, and for one that names a file which is not there.
    """
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return listed_files(index)
    # the original layouts name their shards in other ways, too
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def listed_files(index: Path) -> list[Path]:
    """The shards that an index names, all of them there and beside it."""
    shards = field(read_json(index, ANEW), "weight_map", dict, str(index), ANEW)
    names = list(dict.fromkeys(shards.values() if all(isinstance(one, str) for one in shards.values()) else [None]))
    if not names or any(name in (None, "", ".", "..") or Path(name).name != name for name in names):
        raise InputError(f"{index} has a weight_map that does not name a file beside it for each weight; {ANEW}.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index.parent} lacks {missing[0]}, {plural(len(missing), 'file')} of the {len(names)} that its "
            f"{index.name} names; {ANEW}."
        )
    return [index.parent / name for name in names]


def stored_tensors(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by name, in the order of its bytes; InputError for one that is damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH), "little")
            text = file.read(length) if length <= min(MOST_HEADER, size - LENGTH) else None
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}); {ANEW}.") from None
    if text is None:
        raise InputError(f"{path} is no safetensors file, or it is cut short; {ANEW}.")
    header: dict[str, Any] = parse_json(text.decode("utf-8", "replace"), f"the header of {path}", ANEW)
    header.pop("__metadata__", None)
    start = LENGTH + length
    found = {name: stored(f"{name} in {path}", entry, start, size) for name, entry in header.items()}
    return dict(sorted(found.items(), key=lambda one: one[1].begin))


def stored(what: str, entry: Any, start: int, size: int) -> Stored:
    """An entry of a header, its offsets counted from the begin of the file, which has ``size`` bytes."""
    if not isinstance(entry, dict):
        raise InputError(f"the header says {quoted(entry)} of {what}; {ANEW}.")
    dtype = field(entry, "dtype", str, what, ANEW)
    shape = field(entry, "shape", list, what, ANEW)
    offsets = field(entry, "data_offsets", list, what, ANEW)
    if any(type(one) is not int or one < 0 for one in (*shape, *offsets)) or len(offsets) != 2:
        raise InputError(f"{what} has the shape {quoted(shape)} at the bytes {quoted(offsets)}; {ANEW}.")
    if dtype not in BITS:
        raise InputError(f"{what} has the dtype {quoted(dtype)}, which safetensors does not know; {ANEW}.")
    begin, end = start + offsets[0], start + offsets[1]
    if end > size:
        raise InputError(f"{what} ends behind the end of the file, which is cut short or damaged; {ANEW}.")
    if prod(shape) * BITS[dtype] != 8 * (end - begin):
        raise InputError(f"{what} has {end - begin:,} bytes, which are not those of {quoted(shape)} {dtype}; {ANEW}.")
    return Stored(dtype, tuple(shape), begin, end)
