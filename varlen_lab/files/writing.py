"""Files and folders that are there whole or not at all, and texts that are kept in the user's cache folder.

The one way to write: under a name of its own beside the target, down to the disk, then moved into place. A reader sees
what was there before or what is there now; a run that is killed leaves at most a hidden ``.NAME-….partial``; two
processes at once cannot meet in one file; a symbolic link is replaced and what it points to stays as it was.

The cache keeps what is slow to make. A file's name says what it was made from, so it never expires, and a file that is
missing or damaged is made again. A folder that cannot be written costs time, not the result.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import platform
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from varlen_lab.errors import InputError
from varlen_lab.files.folders import as_the_umask_says, bring_along, exchange
from varlen_lab.files.kept import say_damaged
from varlen_lab.files.windows import flags_to_sync, replace

DRAFT_BYTES = 6  # random, in the name of a draft
LONGEST_NAME = 200  # bytes of a file's name in that of its draft
BEFORE = ".before"  # ends the name of a folder whose place another takes
DAY = 24 * 3600  # seconds: no file takes that long to write
TOLD: set[Path] = set()  # folders of which a note says that nothing can be kept there


class Noting(io.FileIO):
    """A file that keeps what went wrong when it was written to.

    torch, Arrow and others write through it from C++, where a full disk, and Ctrl-C too, becomes an error of theirs
    that says something else.
    """

    problem: BaseException | None = None

    def write(self, data: Any) -> int:
        """Called by the buffer above it."""
        try:
            return super().write(data)
        except BaseException as problem:
            self.problem = problem
            raise


@contextmanager
def written_whole(path: Path, mode: str = "wb", finish: Callable[[Path], object] | None = None) -> Iterator[IO[Any]]:
    """An open file (``mode`` is ``wb``, or ``w`` for UTF-8 text) that becomes ``path`` when the block ends well.

    The folder must exist. ``finish`` is called with the closed file under its own name, before it is moved. When the
    block fails, ``path`` is what it was and nothing else is left; what went wrong is raised on: OSError for a full
    disk and KeyboardInterrupt for Ctrl-C, whatever a library that was writing made of it.
    """
    draft, raw = draft_beside(path), None
    try:
        # "x" makes a new file or fails, and never follows a link; the user's umask decides who may read it
        if "b" in mode:
            raw = Noting(draft, "xb")
        opened: Any = draft.open("x", encoding="utf-8", newline="\n") if raw is None else io.BufferedWriter(raw)
        with opened as file:  # text has the same bytes on every system
            yield file
            file.flush()
        if finish is not None:
            finish(draft)
        sync(draft)  # down to the disk: a name must not be moved onto bytes that may get lost
        replace(draft, path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if raw is not None and raw.problem is not None and error is not raw.problem:
            raise raw.problem from None
        raise
    sync(path.parent)


@contextmanager
def folder_written_whole(path: Path, ours: Collection[str] | None = None) -> Iterator[Path]:
    """An empty folder that becomes ``path`` when the block ends well; what ``path`` was before goes.

    ``ours``: the files of the folder before (``a/b``) that may go, where others may have files in it. These come along;
    InputError where one has the name of a new file. Missing folders above ``path`` are made. When the block fails,
    ``path`` is what it was and nothing else is left. Who is killed leaves the old folder or the new one, and a hidden
    ``.NAME-….partial``; on a system that cannot exchange two names in one moment (Windows, some network disks), the old
    one may be left as ``.NAME-….before``, and has its name again before the next is written.
    """
    recover(path)
    draft, old = draft_beside(path), draft_beside(path, BEFORE)
    made = [above for above in path.parents if not above.exists()]
    try:
        draft.mkdir(parents=True)
        yield draft
        as_the_umask_says(draft)
        for inside in draft.rglob("*"):
            sync(inside)
        stay = ours if ours is not None and path.is_dir() and not path.is_symlink() else None
        if stay is not None:
            bring_along(path, draft, stay)
            shutil.copymode(path, draft)
        sync(draft)
        exchanged = os.path.lexists(path) and exchange(draft, path)
        if not exchanged:
            if os.path.lexists(path):
                replace(path, old)
            replace(draft, path)
        if stay is not None:  # what was put there since
            bring_along(draft if exchanged else old, path, stay, late=True)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            replace(old, path)
        remove(draft)
        for above in made:
            with contextlib.suppress(OSError):  # it holds something by now
                above.rmdir()
        raise
    finally:
        remove(draft)
        remove(old)
    sync(path.parent)


def recover(path: Path) -> None:
    """Give a folder its name back that a killed process had moved aside and not yet replaced."""
    if not os.path.lexists(path):
        aside = list(path.parent.glob(f".{glob.escape(cut(path.name))}-{'[0-9a-f]' * 2 * DRAFT_BYTES}{BEFORE}"))
        if aside:
            replace(max(aside, key=lambda one: one.lstat().st_ctime), path)


@contextmanager
def writable(path: Path, instead: str) -> Iterator[None]:
    """Inside, what the system says of ``path`` is an InputError; ``instead``: the option that names another place."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} has a zero byte, which no name has; choose another {instead}.")
    try:
        yield
    except OSError as problem:
        raise InputError(f"{path} cannot be written ({problem.strerror}); choose another {instead}.") from None


def draft_beside(path: Path, ending: str = ".partial") -> Path:
    """A name nobody else has, in the same folder: a move is atomic only within one file system."""
    return path.with_name(f".{cut(path.name)}-{secrets.token_hex(DRAFT_BYTES)}{ending}")


def cut(name: str) -> str:
    """As much of a file's name as leaves room for what a draft's has besides: file systems count bytes."""
    return name.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all it holds; nothing happens when there is none, or it may not be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(PermissionError):  # Windows deletes nothing that is open
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: str = "*", older_than: float = 0) -> None:
    """Delete what killed runs have left in a folder; ``older_than`` seconds, where others may be writing now.

    ``names``: a pattern of what was being written. Drafts of other programs stay: ours have a name of their own.
    """
    for path in folder.glob(f".{names}-{'[0-9a-f]' * 2 * DRAFT_BYTES}.partial"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - path.lstat().st_mtime >= older_than:
                remove(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, down to the disk; OSError when a file's contents do not get there."""
    try:
        handle = os.open(path, flags_to_sync(path))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if path.is_file():  # Windows opens no folder, and some network file systems sync none: the names are in place
            raise


def cache_dir() -> Path:
    """``$VARLEN_LAB_CACHE``, else ``$XDG_CACHE_HOME/varlen_lab``, else ``~/.cache/varlen_lab``; InputError: no home."""
    chosen, xdg = os.environ.get("VARLEN_LAB_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(xdg or "~/.cache").expanduser() / "varlen_lab"
    except RuntimeError:  # a container's user may have no home
        raise InputError("there is no home folder to keep files in; set VARLEN_LAB_CACHE to a folder.") from None


def fingerprint(*facts: object) -> str:
    """Twelve hex digits that change when this Python, this platform or one of ``facts`` does."""
    text = "\n".join([sys.version, platform.platform(), *map(str, facts)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_digest(table: Any) -> str:
    """Sixteen hex digits of the numbers in an Arrow table of lists: what ``datasets`` keeps results of ``map`` under.

    Its own digest pickles the whole table, which takes three times the memory of the documents.
    """
    digest = hashlib.blake2b(digest_size=8)
    add_to_digest(digest, table.columns)
    return digest.hexdigest()


def add_to_digest(digest: Any, columns: Iterable[Any]) -> None:
    """The numbers of Arrow columns of lists, one column behind the other, and how long each list is."""
    for column in columns:
        for chunk in getattr(column, "chunks", [column]):  # a column of a table is in chunks, one of a batch is not
            digest.update(chunk.flatten().to_numpy())
            digest.update(chunk.value_lengths().to_numpy())


def cached_text(name: str, build: Callable[[], str]) -> str:
    """The text kept under ``name`` in ``cache_dir()``; ``build()`` makes it when it is missing or damaged.

    The first line of the file is the SHA-256 of the rest, so one that was cut or edited is noticed, and a note says so.
    """
    path = cache_dir() / name
    text = read_text(path)
    if text is None:
        if path.is_file():
            say_damaged(path)
        text = build()
        body = text.encode()
        keep_in_cache(path, lambda file: file.write(digest_of(body) + b"\n" + body))
    return text


def keep_in_cache(
    path: Path, write: Callable[[IO[bytes]], object], finish: Callable[[Path], object] | None = None
) -> None:
    """``write(file)`` into a file of the cache, whole; a warning where that cannot be. ``finish``: see above."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, older_than=DAY)
        with written_whole(path, finish=finish) as file:
            write(file)
    except OSError as error:
        if path.parent not in TOLD:  # a run keeps several files there
            TOLD.add(path.parent)
            warnings.warn(f"{path} is not writable ({error}); the next run makes it again.", stacklevel=3)


def digest_of(body: bytes) -> bytes:
    """SHA-256 in hex digits, as bytes."""
    return hashlib.sha256(body).hexdigest().encode()


def read_text(path: Path) -> str | None:
    """The text of a whole, undamaged file, else None."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body.decode() if digest == digest_of(body) else None
