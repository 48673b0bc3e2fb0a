"""What a cache keeps is as it was written, or it is made again: a file ends in a digest of all its bytes, a
folder lists those of its files.

It is compared when a process opens the file first, and again only when the file is another one (its size, time or
number on the disk). That costs a tenth of reading the file from a disk, about 0.1 s for each GB.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from varlen_lab.files.checksums import MARK, check_listed, digest_file, identity, listed, looked_at_once, seal_holds
from varlen_lab.files.reading import read_json
from varlen_lab.files.strict import strict_json

DIGESTS = "checksums.json"  # of the files of a folder


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
    try:
        holds = looked_at_once(path, facts, lambda: seal_holds(path) is True)
    except OSError:  # a page of the disk that cannot be read
        holds = False
    if not holds:
        say_damaged(path)
    return holds


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
        looked_at_once(folder, facts, lambda: check_listed(folder, digests, "it is made again"))
    except (ValueError, OSError):  # InputError is one of the first; so is a name that no file can have
        say_damaged(folder)
        return False
    return True


def say_damaged(path: Path) -> None:
    """The note on something in a cache that is not what was written."""
    warnings.warn(f"{path} is damaged, its bytes are not those that were written; it is made again", stacklevel=4)
