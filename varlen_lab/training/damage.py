"""Whether the bytes of a checkpoint are those that were written.

Since format 3 their digest stands behind them. In earlier ones every part of the archive has a sum of its own, but for
those that several processes filled, which have none. A file is read for it once a process, while it stays as it is.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import seal_holds, zip_holds

compared: dict[tuple[str, int, int, int], bool | None] = {}  # path, size, time and inode of a whole file: sealed or not


def check_bytes(path: Path) -> bool:
    """Whether a digest stands behind a file, and holds; InputError where the file is damaged."""
    try:
        about = path.stat()
        key = (str(path.absolute()), about.st_size, about.st_mtime_ns, about.st_ino)
        if key not in compared:
            compared[key] = compare(path)
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}).") from None
    return bool(compared[key])


def compare(path: Path) -> bool | None:
    """As ``check_bytes``, each time anew; OSError as the system says."""
    if not path.is_file():
        raise InputError(f"{path} is no file.")
    sealed = seal_holds(path)
    if sealed is False:
        raise InputError(f"{path} is damaged, its bytes are not those that were written.")
    if packed(path) or (sealed is None and not zip_holds(path)):
        raise InputError(f"{path} is damaged, cut short, or no checkpoint at all.")
    return sealed


def packed(path: Path) -> bool:
    """Whether a part of an archive is compressed, which torch never does: a small file could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
    except Exception:  # a damaged archive fails in as many ways as there are lines that read it
        return True
