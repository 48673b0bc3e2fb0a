"""What a cache keeps is as it was written, or it is made again: a file ends in a digest of all its bytes, a
folder lists those of its files.

It is compared when a process opens the file first, and again only when the file is another one (its size, time or
number on the disk). That costs a tenth of reading the file from a disk, about 0.1 s for each GB.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from varlen_lab.files.checksums import MARK, check_listed, digest_file, listed, seal_holds
from varlen_lab.files.reading import read_json
from varlen_lab.files.strict import strict_json

DIGESTS = "checksums.json"  # of the files of a folder
VERIFIED: dict[str, Any] = {}  # path -> what the file, or those of the folder, were when the digest held


def end_with_digest(path: Path) -> None:
    """Add to a file the digest of what it holds; its readers must stop before it, as those of Arrow streams do."""
    digest = digest_file(path)
    with path.open("ab") as file:
        file.write(MARK + digest.encode())


def as_written(path: Path) -> bool:
    """Whether a file that ``end_with_digest`` ended is what was written; one that is there and is not gets a note."""
    try:
        facts = identity(path)
    except OSError:  # it is not there, or may not be looked at
        return False
    if VERIFIED.get(str(path)) == facts:
        return True
    try:
        holds = seal_holds(path) is True
    except OSError:  # a page of the disk that cannot be read
        holds = False
    if not holds:
        say_damaged(path)
        return False
    VERIFIED[str(path)] = facts
    return True


def list_digests(folder: Path) -> None:
    """Write into a folder the digest of every file that it has now."""
    (folder / DIGESTS).write_text(strict_json(listed(folder)), encoding="utf-8", newline="\n")


def folder_as_written(folder: Path) -> bool:
    """As ``as_written``, of a folder whose files ``list_digests`` has listed."""
    if not folder.is_dir():
        return False
    try:
        digests: dict[str, str] = read_json(folder / DIGESTS, "it is made again")
        facts = [(name, *identity(folder / name)) for name in (*digests, DIGESTS)]
        if VERIFIED.get(str(folder)) == facts:
            return True
        check_listed(folder, digests, "it is made again")
    except (ValueError, OSError):  # InputError is one of the first; so is a name that no file can have
        say_damaged(folder)
        return False
    VERIFIED[str(folder)] = facts
    return True


def identity(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change, and number on the disk; OSError as the system says."""
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns, about.st_ino


def say_damaged(path: Path) -> None:
    """The note on something in a cache that is not what was written."""
    warnings.warn(f"{path} is damaged, its bytes are not those that were written; it is made again", stacklevel=4)
