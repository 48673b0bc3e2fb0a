"""Digests of what lies on the disk: a bit that turned over there is found before anything is computed from it.

They are XXH3 (128 bits, 32 hex digits), which costs a tenth of reading. They find damage, not intent: who can write a
file can write its digest, so what is read stays weights-only and checked all the same.

A checkpoint carries its own: ``torch.save`` writes a zip archive, whose comment is free for ``seal``. Files of a folder
are listed beside their digests by who writes the folder, with ``listed`` and ``check_listed``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from varlen_lab.errors import InputError, plural

PIECE = 2**22  # bytes that are read at a time
DIGITS = 32
MARK = b"varlen_lab xxh3_128 "
SEAL = len(MARK) + DIGITS  # bytes behind the archive
END = b"PK\x05\x06"  # where a zip archive ends: 22 bytes, the last two say how long the comment is
END_BYTES = 22
VERIFIED: dict[str, tuple[Any, Any]] = {}  # path -> what it was when it was looked at, and what was found
T = TypeVar("T")


def digest_file(path: Path, end: int | None = None) -> str:
    """Hex digits of a file's bytes, or of the first ``end``; OSError as the system says."""
    with path.open("rb", buffering=0) as file:
        return digest_of(file, end)


def digest_of(file: Any, end: int | None = None) -> str:
    """As ``digest_file``, of what an open file still holds."""
    import xxhash

    piece = PIECE if end is None else min(PIECE, end)  # a model has thousands of small tensors
    digest, buffer, left = xxhash.xxh3_128(), memoryview(bytearray(piece)), end
    while count := file.readinto(buffer[: piece if left is None else min(piece, left)]):
        digest.update(buffer[:count])
        left = None if left is None else left - count
    return str(digest.hexdigest())


def seal(path: Path) -> None:
    """Write into the comment of a zip archive that has none the digest of all that comes before it."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - END_BYTES)
        end = file.read()
        if not end.startswith(END) or end[-2:] != b"\0\0":
            raise ValueError(f"{path} is no zip archive without a comment")
        file.seek(size - 2)
        file.write(SEAL.to_bytes(2, "little"))
        file.flush()
        file.seek(size)
        file.write(MARK + digest_file(path).encode())


def seal_holds(path: Path) -> bool | None:
    """Whether the bytes of an archive are those that were sealed; None of one without a seal.

    An archive without one is as ``torch.save`` writes it: its parts have sums of 32 bits, which ``zip_holds`` compares.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - SEAL))
        found = file.read()
    if not found.startswith(MARK):
        return None
    return digest_file(path, size - SEAL) == found[len(MARK) :].decode("ascii", "replace")


def identity(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change, and number on the disk; OSError as the system says."""
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns, about.st_ino


def looked_at_once(path: Path, facts: Any, look: Callable[[], T]) -> T:
    """What ``look()`` returns of a file or folder; not asked again in this process while its ``facts`` are the same."""
    key = os.path.abspath(path)
    known = VERIFIED.get(key)
    if known is None or known[0] != facts:
        known = VERIFIED[key] = facts, look()
    found: T = known[1]
    return found


def zip_holds(path: Path) -> bool:
    """Whether every part of a zip archive has the sum it was written with.

    Those without one are passed over: torch gives none to parts that it leaves to others to fill.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            archive.filelist = [part for part in archive.filelist if part.CRC]
            return archive.testzip() is None
    except Exception:  # a damaged archive fails in as many ways as there are lines that read it
        return False


def listed(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """The digest of every file in a folder and below, or of those ``names``, by its name from there (``a/b``)."""
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {name: digest_file(folder / name) for name in names}


def check_listed(
    folder: Path, digests: Mapping[str, str], instead: str = "", share: Callable[[int], bool] = bool
) -> None:
    """InputError that names the first file of a folder which is not there, or not as it was written.

    ``instead`` ends the sentence, if there is more to say: where whole files are. ``share``: which of them (by number,
    from 1) this process looks at, where several share the work.
    """
    instead = f"; {instead}" if instead else ""
    for number, (name, digest) in enumerate(digests.items(), start=1):
        path = folder / name
        if not path.is_file():
            missing = [one for one in digests if not (folder / one).is_file()]
            raise InputError(f"{folder} lacks {name} ({plural(len(missing), 'file')} of {len(digests)}){instead}.")
        if share(number) and digest_file(path) != digest:
            raise InputError(f"{path} is damaged, its bytes are not those that were written{instead}.")


def digest_text(text: str) -> str:
    """Hex digits of a text's bytes in UTF-8."""
    import xxhash

    return str(xxhash.xxh3_128(text.encode("utf-8", "backslashreplace")).hexdigest())


def bytes_free(folder: Path) -> int:
    """Room on the disk under a folder, for who is not its superuser."""
    found = os.statvfs(folder) if hasattr(os, "statvfs") else None
    if found is None:
        import shutil

        return shutil.disk_usage(folder).free
    return found.f_bavail * found.f_frsize
