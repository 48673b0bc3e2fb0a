"""The folder of a run: one run writes to it at a time, and what the run did not write itself stays as it is.

A run has an id, eight hex digits: ``run`` in the meta of its history and in each of its checkpoints. Its own files are

    history.jsonl        whose first line has its id
    iter_N.pth           with its id inside
    NAME.py              the copy of its config, which the history's meta names with its digest

and they alone are ever written over, or deleted to make room. A run that begins where another one lies moves that one
into ``earlier-ID`` first, whole, so that it can go on from there; a file that is nobody's run makes it refuse, or take
another name. Versions before ids wrote none: what lies in such a folder belongs together.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.files.checksums import digest_file
from varlen_lab.files.locks import held
from varlen_lab.files.places import check_folder
from varlen_lab.files.windows import replace
from varlen_lab.files.writing import remove_unfinished, written_whole
from varlen_lab.models.adapters import bytes_held

HISTORY = "history.jsonl"
EARLIER = "earlier"
BATCHES = "nonfinite_step_*.pt"


def work_dir_of(config: Config) -> Path:
    """Where a run writes; InputError for ``~`` where nobody has a home."""
    try:
        return Path(config.work_dir or Path("work_dirs") / (config.name or "unnamed")).expanduser()
    except RuntimeError:
        raise InputError(
            f"work_dir {config.work_dir} is in a home folder and there is none; set HOME, or choose another."
        ) from None


@contextmanager
def kept_for_one_run(work_dir: Path) -> Iterator[None]:
    """The folder, made where it is missing and locked for the block; folders that stay empty are removed after it.

    InputError when it cannot be written to, or while another process holds it.
    """
    check_place(work_dir)
    made: list[Path] = []
    try:
        with ExitStack() as lock:
            for attempt in range(3):
                make(work_dir, made)
                try:
                    lock.enter_context(held(work_dir, "varlen-lab train", "work_dir"))
                    break
                except InputError:  # a run that was refused may have removed the folder it had made
                    if work_dir.is_dir() or attempt == 2:
                        raise
            yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def check_place(work_dir: Path, room: int = 0) -> None:
    """InputError where no folder can be written, or its disk has less than ``room`` bytes left."""
    try:
        check_folder(work_dir, "work_dir", room)
    except InputError as problem:
        raise InputError(f"work_dir {problem}") from None


def make(work_dir: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and note in ``made`` those that were missing."""
    try:
        missing = [folder for folder in (work_dir, *work_dir.parents) if not os.path.lexists(folder)]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        work_dir.mkdir(exist_ok=True)
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero byte
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InputError(f"work_dir {work_dir} cannot be written ({reason}); choose another.") from None


def checkpoint_bytes(config: Config, model: torch.nn.Module) -> int:
    """At least so many bytes does a checkpoint take: what is kept of the weights, and the optimizer's averages."""
    parameters = list(model.parameters())
    trained = sum(bytes_held(p) for p in parameters if p.requires_grad)
    kept = trained if any(not p.requires_grad for p in parameters) else sum(bytes_held(p) for p in parameters)
    return kept + trained * (2 if config.optim_type == "AdamW" else 1)


# ------------------------------------------------------------------------------------------------- whose files


def set_aside(work_dir: Path, run: str | None, paths: Iterable[Path]) -> Path | None:
    """Move what another run left into a folder of its own, where nothing is written over; None if there is nothing.

    Checkpoints come in the order given and the history should be last: a move that is cut off is gone on with.
    """
    paths = [path for path in paths if os.path.lexists(path)]
    if not paths:
        return None
    name = f"{EARLIER}-{run or 'run'}"

    def taken(folder: Path) -> bool:  # a link would lead to where somebody else's files lie
        there = folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir())
        return there or any(os.path.lexists(folder / path.name) for path in paths)

    target = free(work_dir / name, taken)
    try:
        target.mkdir(exist_ok=True)
        for path in paths:
            replace(path, target / path.name)
    except OSError as problem:
        raise InputError(
            f"{work_dir} holds another run, which could not be moved to {target} ({problem.strerror}); choose another "
            "work_dir."
        ) from None
    return target


def free(path: Path, taken: Callable[[Path], bool] = os.path.lexists) -> Path:
    """The first of ``NAME``, ``NAME-2``, ``NAME-3`` ... beside it that is not taken."""
    number, found = 1, path
    while taken(found):
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def keep_config(work_dir: Path, name: str, text: str, run: str | None, known: Any) -> dict[str, str]:
    """Write the copy of a config; ``name`` and, if the run wrote it, ``digest``: what a history keeps of it.

    ``known``: what the history of this run says of an earlier copy. Where a file of somebody else has the name, the
    copy takes another; one that says the same serves as it is.
    """
    body = text.encode()
    path = copy_of_run(work_dir, known)
    if path is None:
        path = work_dir / f"{name}.py"
        if os.path.lexists(path) and not says(path, body) and run:
            path = path.with_name(f"{name}-{run}.py")
        path = free(path, lambda one: os.path.lexists(one) and not says(one, body))
        if os.path.lexists(path):
            return {"name": path.name}
    with written_whole(path) as file:
        file.write(body)
    return {"name": path.name, "digest": digest_file(path)}


def copy_of_run(work_dir: Path, known: Any) -> Path | None:
    """The copy that a history's ``config_copy`` names, if it is there as the run wrote it; else None."""
    name, digest = (known.get("name"), known.get("digest")) if isinstance(known, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(digest, str) or Path(name).name != name:
        return None
    path = work_dir / name
    with suppress(OSError, ValueError):
        if path.is_file() and not path.is_symlink() and digest_file(path) == digest:
            return path
    return None


def says(path: Path, body: bytes) -> bool:
    """Whether a file holds these bytes."""
    try:
        return path.is_file() and path.stat().st_size == len(body) and path.read_bytes() == body
    except OSError:
        return False


def remove_drafts(work_dir: Path, copy: str) -> None:
    """Delete what a killed run was writing here; drafts under other names are of somebody who may be at it.

    ``copy``: a pattern of the names that its config may have.
    """
    for names in (HISTORY, "iter_*.pth", BATCHES, copy):
        remove_unfinished(work_dir, names)


def keep_batches(work_dir: Path, name: str, batches: list[dict[str, Any]]) -> Path:
    """Write batches as ``name`` or beside it; where the same ones lie already, they serve. OSError for a full disk."""
    buffer = io.BytesIO()
    torch.save(batches, buffer)
    body = buffer.getvalue()
    path = free(work_dir / name, lambda one: os.path.lexists(one) and not says(one, body))
    if not os.path.lexists(path):
        with written_whole(path) as file:
            file.write(body)
    return path
