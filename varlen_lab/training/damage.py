"""Whether the bytes of a checkpoint are those that were written.

Since format 3 their digest stands behind them. In earlier ones every part of the archive has a sum of its own, but for
those that several processes filled, which have none. A file is read for it once a process, while it stays as it is.

A checkpoint that is a folder lists the digests of its other files in its run.pth.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import check_listed, identity, looked_at_once, seal_holds, zip_holds

RUN_FILE = "run.pth"  # in a checkpoint that is a folder, as DeepSpeed's are: everything but the shards
FILES = "files"  # the key in it: the digest of every other file, by its name from the folder


def check_bytes(path: Path) -> bool:
    """Whether a digest stands behind a file, and holds; InputError where the file is damaged."""
    try:
        return bool(looked_at_once(path, identity(path), lambda: compare(path)))
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}).") from None


def compare(path: Path) -> bool | None:
    """As ``check_bytes``, each time anew; OSError as the system says."""
    if not path.is_file():
        raise InputError(f"{path} is no file.")
    sealed = seal_holds(path)
    if sealed is False:
        raise InputError(f"{path} is damaged, its bytes are not those that were written.")
    if packed(path) or (sealed is None and not zip_holds(path)):
        raise InputError(f"{path} is damaged, cut short, or no checkpoint at all: it cannot be read as a checkpoint.")
    return sealed


def packed(path: Path) -> bool:
    """Whether a part of an archive is compressed, which torch never does: a small file could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
    except Exception:  # a damaged archive fails in as many ways as there are lines that read it
        return True


def check_files(
    path: Path, state: Mapping[str, Any], inside: str = "", share: Callable[[int], bool] = lambda number: True
) -> None:
    """InputError that names a file of a checkpoint folder which is missing, damaged, or not of those in its run.pth.

    ``state``: its run.pth. ``inside``: the folder in it where no other file may be. ``share``: as ``check_listed``.
    """
    digests = state.get(FILES)
    if digests is None:  # written by an earlier version
        return
    if not isinstance(digests, dict) or not all(isinstance(word, str) for pair in digests.items() for word in pair):
        raise InputError(f"{path / RUN_FILE} has no list of files, it is damaged or made by another program.")
    for name in files_in(path):
        # a name with a point is a file manager's
        if name not in digests and name.startswith(f"{inside}/") and not name.rpartition("/")[2].startswith("."):
            raise InputError(f"{path / name} was not written by the run, move it away.")
    try:
        check_listed(path, digests, share=share)
    except OSError as problem:
        raise InputError(f"{problem.filename or path} cannot be read ({problem.strerror}).") from None


def files_in(folder: Path) -> list[str]:
    """Every file of a checkpoint folder but its run.pth, by its name from there."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name != RUN_FILE]
