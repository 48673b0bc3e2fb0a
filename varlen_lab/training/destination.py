"""Where a conversion goes: nothing of a person's lies there, or what does is brought along.

    varlen_lab.json    in a folder of ours: how it was made, and the digest of every file that was written

A file that is listed and has its digest is ours, and goes when the folder is written anew. Every other file is a
person's: it comes along, under its name. One that is listed and was changed since is both, so nothing is written until
somebody moves it. A list whose own digest does not fit, and a folder that a version without lists wrote, say nothing of
whose the files are: nothing is written there either.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import digest_file
from varlen_lab.files.locks import held
from varlen_lab.files.manifests import FILES, MANIFEST, read_manifest
from varlen_lab.files.places import check_folder, same_file
from varlen_lab.files.writing import cut, recover, remove_unfinished

INSTEAD = "SAVE_DIR"


@dataclass(frozen=True)
class Destination:
    """``given``: as a person wrote it; ``path``: the folder itself; ``seen``: what is ours in it, as it was found."""

    given: Path
    path: Path
    seen: Mapping[str, tuple[int, ...]] | None

    def check_room(self, room: int) -> None:
        """InputError when the disk has not this many bytes left."""
        check_folder(self.path.parent, INSTEAD, room)

    def check_unchanged(self) -> None:
        """InputError when another program has written to what would be replaced."""
        if look(self.path, self.seen or ()) != self.seen:
            raise InputError(
                f"{self.given} was written by another program meanwhile; nothing of it was changed, look at it and "
                f"convert again, or choose another {INSTEAD}."
            )


@contextmanager
def destination(save_dir: Path, *read: Path) -> Iterator[Destination]:
    """The place of a new folder, which is this process's until the block ends; all that can be wrong is said first.

    ``read``: files and folders that the folder is made from, none of which it may touch. A link is followed, it is how
    a person named the place. InputError, also where another conversion writes there.
    """
    for above in save_dir.parents:
        if above.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    if save_dir.is_file():
        raise InputError(f"{save_dir} is a file, the model needs a folder; choose another {INSTEAD}.")
    path = save_dir
    with contextlib.suppress(ValueError):  # of a zero byte, which is told below
        path = Path(os.path.realpath(save_dir))
    for other in read:
        if words := overlap(path, other):
            raise InputError(f"{save_dir} {words} {other}, which is read; choose another {INSTEAD}.")
    check_folder(save_dir, INSTEAD)
    check_folder(path.parent, INSTEAD)
    if path == path.parent or os.path.ismount(path) or overlap(path, Path.cwd()) in ("is", "holds"):
        raise InputError(
            f"{save_dir} is a disk of its own or the folder this command runs in, no new folder can take its place; "
            f"name one inside it as {INSTEAD}."
        )
    made = [above for above in path.parents if not above.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with held(path, "varlen-lab convert", INSTEAD, beside=True):
            recover(path)
            remove_unfinished(path.parent, glob.escape(cut(path.name)))  # of a conversion that was killed
            ours = files_of_ours(path, save_dir)
            yield Destination(save_dir, path, look(path, ours))
    except BaseException:
        for above in made:
            with contextlib.suppress(OSError):  # it holds something by now
                above.rmdir()
        raise


def overlap(path: Path, other: Path) -> str:
    """``is``, ``lies in`` or ``holds``: what a folder is to what may be a file, through links and ``..``; else ""."""
    try:
        ends = path, Path(os.path.realpath(other))
    except (OSError, ValueError) as problem:  # a zero byte in the name
        raise InputError(f"{other} cannot be read ({problem}); name another.") from None
    if same_file(*ends):
        return "is"
    if any(same_file(above, ends[1]) for above in ends[0].parents):
        return "lies in"
    return "holds" if any(same_file(ends[0], above) for above in ends[1].parents) else ""


def files_of_ours(path: Path, said: Path) -> set[str]:
    """The files in a folder, ``said`` by a person, that may be replaced; InputError where it may not be touched."""
    if not path.exists() or not any(path.iterdir()):
        return set()
    if not (path / MANIFEST).is_file():
        raise InputError(f"{said} is not empty and not a conversion of ours; choose another {INSTEAD}.")
    digests = read_manifest(path, f"remove {said} yourself, or choose another {INSTEAD}").get(FILES)
    if digests is None:
        raise InputError(
            f"{said} was converted by a version that did not list its files, so that yours are not known from ours; "
            f"remove it yourself, or choose another {INSTEAD}."
        )
    for name, digest in digests.items():
        file = path / name
        if os.path.lexists(file) and (file.is_symlink() or not file.is_file() or digest_file(file) != digest):
            raise InputError(
                f"{said / name} was changed since it was converted and would be lost; move it away, or choose another "
                f"{INSTEAD}."
            )
    return {MANIFEST, *digests}


def look(path: Path, names: Any) -> dict[str, tuple[int, ...]] | None:
    """What tells a changed file from an unchanged one, of each of ``names`` in a folder and itself; None: no folder."""
    found: dict[str, tuple[int, ...]] = {}
    for name in ["", *names]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            facts = os.lstat(path / name)
            found[name] = (facts.st_ino, facts.st_size * bool(name), facts.st_mtime_ns * bool(name))
    return found or None
