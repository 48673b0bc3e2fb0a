"""Where a run begins: at step 0, or behind a checkpoint, and which one ``--resume`` means.

It is decided in the first process, while it holds the work dir, from what lies there (see ``workdir``):

    --resume        the newest checkpoint of the run whose history lies there; without a history, of the newest run
    --resume PTH    that one. Of this work dir: its run goes on. From elsewhere: a run of its own, which says in its
                    history where it comes from, and goes on from there again if it ends before its own checkpoint
    neither         step 0, and a new run
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.files.places import same_file
from varlen_lab.files.reading import read_tensors
from varlen_lab.files.windows import WINDOWS
from varlen_lab.machine import ranks
from varlen_lab.training.checkpoint import RUN_FILE, checkpoints_in, read_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.workdir import HISTORY, kept_for_one_run

ID = re.compile("[0-9a-f]{8}")
MOVE = "move it away, or choose another work_dir"


@dataclass(frozen=True)
class Beginning:
    """What a run goes on from; the same in all processes."""

    run: str | None  # its id; None of a run that began under a version without ids
    checkpoint: Path | None = None
    step: int = 0  # that the checkpoint stands behind
    own: tuple[Path, ...] = ()  # checkpoints of this run in the work dir, oldest first
    others: tuple[Path, ...] = ()  # those of others
    meta: dict[str, Any] | None = None  # of this run's history here, where it has one
    forked: dict[str, Any] | None = None  # ``run`` and ``checkpoint`` that a run comes from, of another folder
    day: str = ""  # on which its chat template was written, where the template asks for it
    anew: bool = False  # --resume was asked for, and there is nothing to go on from


def claimed(work_dir: Path, resume: bool | str | Path, until_it_ends: ExitStack) -> Beginning | InputError | None:
    """The work dir locked, in the first process, and where the run begins; None in the others.

    An InputError is raised by a process that is alone; of several it is returned, for the others to be told.
    """
    if not ranks.is_first():
        return None
    try:
        until_it_ends.enter_context(kept_for_one_run(work_dir))
        return begin(work_dir, resume)
    except InputError as problem:
        if ranks.this_process() is None:
            raise
        return problem


def told(begins: Beginning | InputError | None) -> Beginning:
    """What ``claimed`` found, in the first process; its InputError is raised."""
    if isinstance(begins, InputError):
        raise begins
    assert begins is not None
    return begins


def begin(work_dir: Path, resume: bool | str | Path) -> Beginning:
    """Decide it; InputError for files that are in the way, and for a checkpoint that is not there or not ours."""
    history, today = history_in(work_dir), datetime.date.today().isoformat()
    new, checkpoints = secrets.token_hex(4), checkpoints_in(work_dir)
    if not resume:
        for path in checkpoints:
            facts_of(path, f"a run in {work_dir} would write over it; {MOVE}")
        return Beginning(new, others=tuple(checkpoints), day=today)
    if resume is not True and not any(same_file(Path(resume), path) for path in checkpoints):
        facts = opened(path := Path(resume))
        forked = {"run": run_in(facts), "checkpoint": str(path.absolute())}
        return Beginning(new, path, facts["step"], (), tuple(checkpoints), None, forked, day_in(facts) or today)
    runs = {path: run_or_none(path) for path in checkpoints}
    named = None if resume is True else Path(resume)
    if named is None and history is None and checkpoints:
        named = checkpoints[-1]
    run = run_in(opened(named)) if named is not None else id_in(history.meta) if history else new
    own = [path for path in checkpoints if runs[path] == run]
    others = tuple(path for path in checkpoints if isinstance(runs[path], str | None) and runs[path] != run)
    meta = history.meta if history is not None and id_in(history.meta) == run else None
    # what cannot be read may be one of this run's that is damaged: it is opened, which says so
    candidates = [path for path in checkpoints if path not in others]
    if named is None and not candidates:
        return gone_on_again(work_dir, Beginning(run, others=others, meta=meta, day=today), new)
    checkpoint = named or candidates[-1]
    facts = opened(checkpoint)
    day = day_in(facts) or today
    return Beginning(run, checkpoint, facts["step"], tuple(own), others, meta, forked_in(meta), day)


def gone_on_again(work_dir: Path, stopped: Beginning, new: str) -> Beginning:
    """A run that was stopped before its first checkpoint: from where it came, or once more from step 0."""
    forked = forked_in(stopped.meta)
    if forked is None:
        return Beginning(new, others=stopped.others, day=stopped.day, anew=True)
    path = Path(forked["checkpoint"])
    if not os.path.exists(path):
        raise InputError(
            f"the run in {work_dir} went on from {path}, which is gone, and has no checkpoint of its own; name one "
            "with --resume PTH, or start anew in another work_dir."
        )
    facts = opened(path)
    if run_in(facts) != forked.get("run"):
        raise InputError(
            f"the run in {work_dir} went on from {path}, which is another run's by now, and has no checkpoint of its "
            "own; put the file back, name one with --resume PTH, or start anew in another work_dir."
        )
    return replace(stopped, checkpoint=path, step=facts["step"], forked=forked, day=day_in(facts) or stopped.day)


# ------------------------------------------------------------------------------------------------- what lies there


def history_in(work_dir: Path) -> History | None:
    """The history in a work dir, if there is one; InputError for a file of that name which is none."""
    path = work_dir / HISTORY
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise InputError(f"{path} is no file, and a run writes its history there; {MOVE}.")
    return History.read(path)


def facts_of(path: Path, instead: str) -> dict[str, Any]:
    """What a checkpoint says, without a look at its weights; InputError, which ``instead`` ends, if it is none."""
    file = path / RUN_FILE if path.is_dir() else path
    facts = read_tensors(file, instead, mmap=not WINDOWS)
    if not isinstance(facts, dict) or not str(facts.get("format")).startswith("varlen_lab checkpoint "):
        raise InputError(f"{path} was not written by varlen-lab train; {instead}.")
    return facts


def opened(path: Path) -> dict[str, Any]:
    """As ``facts_of``, of a checkpoint that is to be gone on from; the sentence says what ``read_checkpoint`` says."""
    try:
        facts = facts_of(path, "take another")
    except InputError:
        facts = read_checkpoint(path)
    step = facts.get("step")
    if type(step) is not int or step < 0:
        raise InputError(f"{path} says no step that it stands behind, it is damaged; go on from another one.")
    return facts


def run_or_none(path: Path) -> str | InputError | None:
    """The id in a checkpoint, None of an old one, the error of one that cannot be read."""
    try:
        return run_in(facts_of(path, "take another"))
    except InputError as problem:
        return problem


def run_in(facts: dict[str, Any]) -> str | None:
    """The id of the run that wrote a checkpoint."""
    meta = facts.get("meta")
    return id_in(meta) if isinstance(meta, dict) else None


def id_in(meta: dict[str, Any]) -> str | None:
    """The id of a run in its meta; None of one that had none."""
    run = meta.get("run")
    return run if isinstance(run, str) and ID.fullmatch(run) else None


def day_in(facts: dict[str, Any]) -> str | None:
    """The day on which a run's template was written, as its checkpoint says it: ``2026-01-31``."""
    meta = facts.get("meta")
    day = meta.get("template_day") if isinstance(meta, dict) else None
    try:
        return datetime.date.fromisoformat(day).isoformat() if isinstance(day, str) else None
    except ValueError:
        return None


def forked_in(meta: dict[str, Any] | None) -> dict[str, Any] | None:
    """Where a run comes from, as its history says; None of one that began at step 0."""
    forked = (meta or {}).get("forked")
    return forked if isinstance(forked, dict) and isinstance(forked.get("checkpoint"), str) else None
