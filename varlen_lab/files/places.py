"""Whether something can be written where a person said, asked before hours of work and not after them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import bytes_free


def check_folder(path: Path, instead: str, room: int = 0) -> None:
    """InputError where ``path`` is no folder that can be written to, nor one that could be made; nothing stays.

    ``instead``: the option or setting that names another place; ``room``: bytes that will be written.
    """
    try:
        above = path
        while not os.path.lexists(above) and above != above.parent:
            above = above.parent
        if not above.exists():
            raise InputError(
                f"{path} cannot be written ({above} is a link that leads nowhere); choose another {instead}."
            )
        if not above.is_dir():
            raise InputError(
                f"{path} cannot be written ({above} is a file, and a folder is needed there); choose another {instead}."
            )
        with tempfile.TemporaryFile(dir=above):
            pass  # a folder that is there may still be read-only
        for name in path.parts[len(above.parts) :]:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(above / name)  # a name may be too long, or one that this system does not take
        free = bytes_free(above) if room else 0
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero byte; InputError is one, too
        if isinstance(problem, InputError):
            raise
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InputError(f"{path} cannot be written ({reason}); choose another {instead}.") from None
    if room > free:
        raise InputError(
            f"{path} needs {megabytes(room)} and its disk has {megabytes(free)} left; make room, or choose another "
            f"{instead}."
        )


def check_file(path: Path, instead: str, room: int = 0) -> None:
    """InputError where ``path`` cannot be a file that is written; nothing stays. See ``check_folder``."""
    try:
        folder = path.is_dir()
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InputError(f"{path} cannot be written ({reason}); choose another {instead}.") from None
    if folder:
        raise InputError(f"{path} is a folder, and a file is needed there; choose another {instead}.")
    check_folder(path.parent, instead, room)


def megabytes(size: int) -> str:
    """``1,234 MB``, or ``0.1 MB`` of less."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"
