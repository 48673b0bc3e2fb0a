"""A folder that one process writes to at a time: who comes second is told who is there.

The lock is the system's (``flock``), not a file that says so: it ends with the process that holds it, however that
ends. The file ``.varlen_lab.lock`` only carries the name of the holder, and is gone when the lock is. A folder that is
moved takes its lock along: who holds it asks with ``check_held`` before it writes by the name that the folder had.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import digest_text
from varlen_lab.files.strict import strict_json
from varlen_lab.files.windows import WINDOWS

NAME = ".varlen_lab.lock"
FAR = 2**20  # the byte that Windows locks: where the holder's name stands, others may read

LONG_NAME = 40  # characters of a folder's name that the name of a lock beside it has

HANDLES: dict[int, int] = {}  # of the locks that are held, and the process that holds each
FOLDERS: dict[Path, tuple[int, os.stat_result]] = {}  # that are held: the handle, and which folder it is


def let_go() -> None:
    """Close in a child what its parent holds: a loader's worker that outlives a killed run would hold it on."""
    for handle in HANDLES:
        with contextlib.suppress(OSError):
            os.close(handle)
    HANDLES.clear()
    FOLDERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)


@contextmanager
def held(folder: Path, what: str, instead: str, *, beside: bool = False) -> Iterator[None]:
    """Keep a folder that is there to this process until the block ends; InputError says who holds it already.

    ``what`` this process does there, for whom it keeps out (``varlen-lab train``); ``instead``: how to say where else.
    ``beside``: of a folder that another takes the place of, or that is not there yet, the lock lies in the one above.
    A file system that knows no locks gets a warning; a link or a folder in the place of the lock is refused, for who
    put it there would let two in.
    """
    path = folder.with_name(name_beside(folder)) if beside else folder / NAME
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(
            f"{path} is no file, and the lock of {folder} lies there; take it away, or choose another {instead}."
        )
    try:
        handle = locked(path)
    except OSError as problem:
        if isinstance(problem, BlockingIOError | PermissionError) and path.exists() and os.access(path.parent, os.W_OK):
            raise InputError(
                f"{folder} is in use by {holder(path)}; wait for it, or choose another {instead}."
            ) from None
        if os.access(path.parent, os.W_OK):
            warnings.warn(
                f"{folder} cannot be locked ({problem.strerror}): let no second run write to it.", stacklevel=1
            )
            handle = -1
        else:
            raise InputError(f"{folder} cannot be written ({problem.strerror}); choose another {instead}.") from None
    try:
        if handle >= 0:
            HANDLES[handle] = os.getpid()
            facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "what": what}
            with contextlib.suppress(OSError):  # of a full disk: it is held all the same, by "another process"
                os.ftruncate(handle, 0)
                os.write(handle, strict_json(facts).encode())
            if not beside:
                FOLDERS[folder] = handle, os.stat(folder)
        yield
    finally:
        FOLDERS.pop(folder, None)
        if HANDLES.pop(handle, 0) == os.getpid():
            if not WINDOWS:  # while it is held: a name that is taken away later may be another one's
                with contextlib.suppress(OSError):  # and of a folder that was moved it is already
                    if os.path.samestat(os.fstat(handle), os.lstat(path)):
                        path.unlink()
            os.close(handle)
            if WINDOWS:
                with contextlib.suppress(OSError):
                    path.unlink()


def check_held(folder: Path) -> None:
    """InputError where the name of a folder that this process holds leads to another one by now, or to none.

    Somebody moved it, and what is written under its name would be written among another run's files.
    """
    if folder not in FOLDERS:  # a file system without locks
        return
    handle, began = FOLDERS[folder]
    path = folder / NAME
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(folder), began):
            if os.path.lexists(path) and not os.path.samestat(os.lstat(path), os.fstat(handle)):
                raise InputError(
                    f"{folder} is in use by {holder(path)} too, somebody took its lock away; nothing more is written "
                    "there: wait for the other one, then look at what lies there."
                )
            return
    raise InputError(
        f"{folder} is gone, or another folder by now, and with it what was saved there: bring it back and go on with "
        "--resume, or start anew."
    )


def name_beside(folder: Path) -> str:
    """The name of a lock beside a folder; names that begin alike have another one each."""
    name = folder.name
    return f".{name if len(name) <= LONG_NAME else f'{name[:LONG_NAME]}-{digest_text(name)[:8]}'}{NAME}"


def locked(path: Path) -> int:
    """A handle of the file ``path`` that holds its lock; BlockingIOError or PermissionError where another has it."""
    while True:
        # a link that lies there would lead to a file of somebody
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            if not WINDOWS:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # who held it before may have taken the name away since it was opened
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), os.lstat(path)):
                        return handle
            else:
                import msvcrt

                os.lseek(handle, FAR, os.SEEK_SET)
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
                os.lseek(handle, 0, os.SEEK_SET)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def holder(path: Path) -> str:
    """Who holds a lock, as it wrote there: ``varlen-lab train, process 7 on host, since ...``."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        facts = json.loads(path.read_text(encoding="utf-8"))
        here = "" if facts["host"] == socket.gethostname() else f" on {facts['host']}"
        return f"{facts['what']} (process {facts['pid']}{here}, since {facts['since']})"
    return "another process"
