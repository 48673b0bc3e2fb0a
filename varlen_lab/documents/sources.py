"""What ``data_path`` means: the built-in corpus, a file, a folder of ``Dataset.save_to_disk``, or a name on the hub.

The kinds of files are rows of the registry; what none of these can be is refused with what is near it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varlen_lab.documents.registry import COMPRESSED, INSTEAD, READERS
from varlen_lab.errors import InputError, nearest

BUILTIN = "builtin:docstrings"


@dataclass
class Position:
    """How far data was read: whoever reads moves it, and who is given one begins behind it."""

    record: int = 0  # records (of JSON lines: lines) that were passed
    offset: int = 0  # bytes of a text file, out of its compression
    state: Any = None  # what an ``IterableDataset`` says of itself


def locate(name: str) -> tuple[str, Path]:
    """``builtin``, ``file``, ``folder`` (a saved dataset) or ``hub``; and the path of the middle two. Or InputError."""
    if name.startswith("builtin:"):
        if name != BUILTIN:
            raise InputError(f"there is no built-in dataset {name!r}{nearest(name, [BUILTIN]) or f'; use {BUILTIN}.'}")
        return "builtin", Path()
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):  # unlike path.is_dir() it survives a name no file can have
        return "folder", path
    ending = ending_of(path)
    if os.path.isfile(path):
        if ending not in READERS:
            known = ", ".join(one for one in READERS if one.count(".") == 1)
            packed = " and ".join(COMPRESSED)
            what = INSTEAD.get(ending, f"rename it ({packed} may stand behind the ending of a text file)")
            raise InputError(f"{path} ends in {ending or 'nothing'!r}, data files end in {known}; {what}.")
        return "file", path
    if os.path.lexists(path):
        what = "is a pipe, a device or a socket" if os.path.exists(path) else "is a link that leads to no file"
        raise InputError(f"{path} {what}, data is read more than once; name a file.")
    # the hub's names are "owner/name" or "name": no ending of a data file, no other path
    if ending in READERS or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"there is no file {name}{similar_name(path) or '; check the path.'}")
    return "hub", Path()


def ending_of(path: Path) -> str:
    """``.jsonl`` of ``a.jsonl``; of a compressed file both endings, ``.jsonl.gz``."""
    endings = [one.lower() for one in path.suffixes[-2:]]
    return "".join(endings if endings[-1:] != endings and endings[-1] in COMPRESSED else endings[-1:])


def similar_name(path: Path) -> str:
    """The hint at a file beside ``path`` whose name is nearly the same, or ``""``."""
    return nearest(path.name, os.listdir(path.parent) if os.path.isdir(path.parent) else [])
