"""Whether something can be written where a person said, asked before hours of work and not after them.

Who names a file may mean to replace it. Who names a folder does not know which names we choose in it, so a file there
that is none of ours stays.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from varlen_lab.errors import InputError, first_line, shortened
from varlen_lab.files.checksums import bytes_free

PAGE = 4096  # bytes
# how files begin that commands write into a folder: what was compared, packed, counted; a figure has title and alt text
OURS = {
    ".json": re.compile(rb'\{\s*"(runs|source|format)": '),
    ".md": re.compile(rb"# The census: "),
    ".png": re.compile(rb"\x89PNG.*Title\0.*Description\0", re.DOTALL),
}


def check_folder(path: Path, instead: str, room: int = 0) -> None:
    """InputError where ``path`` is no folder that can be written to, nor one that could be made; nothing stays.

    ``instead``: the option or setting that names another place; ``room``: bytes that will be written.
    """
    try:
        above = path
        while not there(above) and above != above.parent:
            above = above.parent
        if not above.exists():
            raise OSError(0, f"{above} is a link that leads nowhere")
        for part in path.parts[len(above.parts) :]:
            there(above / part)  # a name that is too long is one wherever it stands
        if not above.is_dir():
            raise OSError(0, f"{above} is a file, and a folder is needed there")
        with tempfile.TemporaryFile(dir=above, buffering=0) as file:  # a folder that is there may be read-only
            file.write(bytes(PAGE))  # and a full disk makes a file and takes no bytes
        free = bytes_free(above) if room else 0
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero byte, or with half a character
        raise unwritable(path, problem, instead) from None
    if room > free:
        raise InputError(
            f"{path} needs {megabytes(room)} and its disk has {megabytes(free)} left; make room, or choose another "
            f"{instead}."
        )


def there(path: Path) -> bool:
    """Whether there is something of this name, a link too; OSError or ValueError where there can be none such."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file; of what is not there, whether they are equal."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return one == other


def check_file(path: Path, instead: str, room: int = 0) -> None:
    """InputError where ``path`` cannot be a file that is written; nothing stays. See ``check_folder``."""
    try:
        there(Path(path.name))  # too long a name is one wherever it stands, and its folder may not be there yet
        folder = there(path) and path.is_dir()
    except (OSError, ValueError) as problem:
        raise unwritable(path, problem, instead) from None
    if folder:
        raise unwritable(path, OSError(0, "it is a folder, and a file is needed there"), instead)
    check_folder(path.parent, instead, room)


def check_ours(path: Path, instead: str) -> None:
    """InputError where a file lies under a name that nobody chose for it but us, and is not what we write there."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with path.open("rb") as file:
            ours = OURS[path.suffix].match(file.read(PAGE))
    except OSError as problem:
        raise unwritable(path, problem, instead) from None
    if not ours:
        raise InputError(f"{path} is no file of ours and would be lost; move it away, or choose another {instead}.")


def unwritable(path: Path, problem: OSError | ValueError, instead: str) -> InputError:
    """The error to raise for a place where nothing can be written, with what the system says of it."""
    reason = getattr(problem, "strerror", None) or first_line(problem)
    return InputError(f"{shortened(str(path), 100)} cannot be written ({reason}); choose another {instead}.")


def megabytes(size: int) -> str:
    """``1,234 MB``, or ``0.1 MB`` of less."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"
