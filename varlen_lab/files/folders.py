"""What a folder that takes the place of another owes it: one moment, its modes, and the files of other people in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.files.windows import WINDOWS

SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
HERE = -100  # AT_FDCWD: names are as seen from the working folder


def exchange(one: Path, other: Path) -> bool:
    """Whether two names changed places, in one moment; where the system has no such move, False and nothing happened.

    Two ordinary moves have a moment between them in which one of the names leads nowhere.
    """
    if WINDOWS:
        return False
    import ctypes

    try:
        system = ctypes.CDLL(None, use_errno=True)
    except OSError:  # a Python that is one file
        return False
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(system, "renameat2"):
        return bool(system.renameat2(HERE, names[0], HERE, names[1], ctypes.c_uint(SWAP)) == 0)
    if hasattr(system, "renamex_np"):
        return bool(system.renamex_np(names[0], names[1], ctypes.c_uint(SWAP)) == 0)
    return False


def as_the_umask_says(folder: Path) -> None:
    """Who may read a new ``folder`` may read the files in it: some libraries write theirs for the user alone."""
    if WINDOWS:
        return
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def bring_along(old: Path, new: Path, ours: Collection[str], below: str = "", *, late: bool = False) -> None:
    """What lies in ``old`` besides ``ours`` (names such as ``a/b``) lies in ``new`` as well: the same files, no copies.

    A file system without hard links gets copies. InputError where ``new`` has a file of that name already; ``late``:
    what is there stays without a word, so that only what came meanwhile is brought.
    """
    for entry in sorted(os.scandir(old), key=lambda one: one.name):
        name, target = f"{below}{entry.name}", new / entry.name
        if name in ours:
            continue
        if entry.is_dir(follow_symlinks=False) and not (os.path.lexists(target) and not target.is_dir()):
            there = target.is_dir()
            target.mkdir(exist_ok=True)
            bring_along(Path(entry.path), target, ours, f"{name}/", late=late)
            if not there:
                shutil.copymode(entry.path, target)
                if any(one.startswith(f"{name}/") for one in ours):  # it was made for what is gone
                    with contextlib.suppress(OSError):
                        target.rmdir()
        elif not os.path.lexists(target):
            link_or_copy(Path(entry.path), target)
        elif not late:
            raise InputError(
                f"{entry.path} is no file of ours and would be lost, a file of this name is written; move it away, or "
                "choose another folder."
            )


def link_or_copy(source: Path, target: Path) -> None:
    """``target`` becomes another name of a file or link, or a copy where there can be no other name."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        if not (source.is_file() or source.is_symlink()):
            raise  # a pipe would be waited for without end
        shutil.copy2(source, target, follow_symlinks=False)
