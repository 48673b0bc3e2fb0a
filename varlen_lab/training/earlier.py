"""What lies in the folder of a run when it begins: its own records are taken over, other runs make way whole.

Nothing of another run is lost: it goes into ``earlier-ID`` (see ``workdir``) with its history, its checkpoints, the
copy of its config and what tensorboard drew of it, and can go on there.
"""

from __future__ import annotations

import glob
import warnings
from pathlib import Path
from typing import Any

from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.documents.days import asks_for_day
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.errors import plural
from varlen_lab.training.beginning import Beginning, history_in, id_in, run_or_none
from varlen_lab.training.checkpoint import full_disk_told, number_of
from varlen_lab.training.history import History
from varlen_lab.training.workdir import HISTORY, copy_of_run, keep_config, remove_drafts, says, set_aside

EVENTS = "events.out.tfevents."  # begins the names of tensorboard's files
SAME = ("data", "plan")  # in the meta of two histories: they hold the same documents in the same order
MEASURED_ON = ("backend", "device", "dtype", "torch", "transformers")  # what may be another one when a run goes on
BEFORE = "measured_before"  # in a meta: what the steps were taken on that were not taken on what the meta says


def begin_history(work_dir: Path, beginning: Beginning, history: History, config: Config) -> None:
    """Make way in a work dir and begin the history there, with the records of the steps before; says what it did.

    A run that is finished keeps history and config as they are: no step is taken with what they would say. InputError
    for a full disk, and for what cannot be moved.
    """
    name, text, before = config.name or "config", render(config), history_in(work_dir)
    remove_drafts(work_dir, f"{glob.escape(name)}*.py")
    history.records = records_before(before, beginning)
    if before is not None and beginning.meta is not None:
        last = before.records[-1]["step"] if before.records else 0
        if last == beginning.step >= history.meta["steps"]:  # else a kill cut the last line short
            history.meta = before.meta
            return
        if parts := measured_before(before.meta, history.meta, beginning.step):
            history.meta[BEFORE] = parts
            warnings.warn(said_of_parts(parts, history.meta), stacklevel=1)
    first = history.records[0]["step"] if history.records else beginning.step + 1
    if first > 1:
        history.meta["begins_behind"] = first - 1
    for note in make_way(work_dir, before, beginning, history.meta, text.encode()):
        warnings.warn(note, stacklevel=1)
    known = before.meta.get("config_copy") if before else None
    with full_disk_told(work_dir / f"{name}.py"):
        copy = keep_config(work_dir, name, text, beginning.run, known)
    if copy["name"] != f"{name}.py" and copy != known:
        warnings.warn(
            f"{name}.py in the work dir is not this run's and stays as it is, its config is {copy['name']}",
            stacklevel=1,
        )
    history.meta["config_copy"] = copy
    history.start()


def records_before(history: History | None, beginning: Beginning) -> list[dict[str, Any]]:
    """The records of the steps before, from this run's own history; a run that comes from elsewhere has none."""
    if history is None or beginning.meta is None:
        return []
    return [record for record in history.records if record["step"] <= beginning.step]


def measured_before(before: dict[str, Any], now: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """What the steps up to ``step`` were taken on, in parts that end ``through`` a step; none where all is as ``now``.

    ``before``: the meta of the history so far, whose own parts are kept.
    """
    known = before.get(BEFORE)
    known = [one for one in known if isinstance(one, dict)] if isinstance(known, list) else []
    parts: list[dict[str, Any]] = []
    for one in [*known, {"through": step, **before}]:
        through = one.get("through")
        if isinstance(through, int) and (not parts or parts[-1]["through"] < step):
            parts.append({"through": min(through, step)} | {name: one.get(name) for name in MEASURED_ON})
    while parts and all(parts[-1][name] == now.get(name) for name in MEASURED_ON):
        parts.pop()
    return parts


def said_of_parts(parts: list[dict[str, Any]], now: dict[str, Any]) -> str:
    """What is to be said of a run that goes on with something else than before."""
    last = parts[-1]
    was = ", ".join(f"{name} {last[name]}" for name in MEASURED_ON if last[name] != now.get(name))
    return f"the steps up to {last['through']} were taken on {was}; {HISTORY} keeps that beside what it is now"


def make_way(
    work_dir: Path, history: History | None, beginning: Beginning, meta: dict[str, Any], config: bytes
) -> list[str]:
    """Move what other runs left in a work dir to where nothing is lost; what is to be said of it.

    ``history``: that lies there; ``meta``: of the one that begins; ``config``: as its copy says it. A run that took no
    step left nothing, and one that begins again with the same config and data before it had a checkpoint takes the same
    steps again.
    """
    notes, stay = [], beginning.others
    left = () if beginning.checkpoint or beginning.anew else beginning.others
    if history is not None and beginning.meta is None:
        copy = copy_of_run(work_dir, history.meta.get("config_copy"))
        again = beginning.anew and copy is not None and says(copy, config)
        again = again and all(history.meta.get(name) == meta[name] for name in SAME)
        run = id_in(history.meta)
        its = [path for path in beginning.others if run_or_none(path) == run]
        if its or (history.records and not again):
            moved = set_aside(
                work_dir, run, [*its, *([copy] if copy else []), *events_of(work_dir, history), work_dir / HISTORY]
            )
            notes.append(said_of(work_dir, moved, its))
            left, stay = (tuple(path for path in paths if path not in its) for paths in (left, stay))
    for one in dict.fromkeys(map(run_or_none, left)):
        its = [path for path in left if run_or_none(path) == one]
        notes.append(said_of(work_dir, set_aside(work_dir, one if isinstance(one, str) else None, its), its))
    return notes + about_others(beginning, len(stay))


def events_of(work_dir: Path, history: History) -> list[Path]:
    """The folder of what tensorboard drew of a run; none where it is a link, or where anything else lies in it too."""
    folder = work_dir / "tensorboard"
    if history.meta.get("visualizer") != "tensorboard" or folder.is_symlink() or not folder.is_dir():
        return []
    return [folder] if all(path.name.startswith(EVENTS) and path.is_file() for path in folder.iterdir()) else []


def said_of(work_dir: Path, moved: Path | None, checkpoints: list[Path]) -> str:
    """Where an earlier run is now, and how it goes on."""
    how = f"; it goes on with --work-dir {moved} --resume" if checkpoints else ""
    return f"{work_dir} held an earlier run ({plural(len(checkpoints), 'checkpoint')}), it is kept in {moved}{how}"


def about_others(beginning: Beginning, count: int) -> list[str]:
    """What a resumed run says of checkpoints that it does not go on from, ``count`` of which are other runs'."""
    notes = []
    if beginning.checkpoint is None and not beginning.anew:
        return []
    if count:
        are = "is of another run and stays" if count == 1 else "are of other runs and stay"
        notes.append(f"{plural(count, 'checkpoint')} in the work dir {are} as {'it is' if count == 1 else 'they are'}")
    if newer := [path.name for path in beginning.own if number_of(path) > beginning.step]:
        notes.append(
            f"the run goes back to step {beginning.step}: its later checkpoints ({', '.join(newer)}) are written anew "
            "as it comes to them"
        )
    return notes


def facts_to_keep(config: Config, beginning: Beginning, tokenizer: Any, base: str | None) -> dict[str, Any]:
    """What history and checkpoints hold of a run so that it can go on: its id, whence it comes, its template's day.

    ``base``: the fingerprint of the weights that an adapter is trained beside.
    """
    dated = config.prompt_template == OF_TOKENIZER and asks_for_day(tokenizer)
    facts = {
        "run": beginning.run,
        "forked": beginning.forked,
        "template_day": beginning.day if dated else None,
        "visualizer": config.visualizer,
        "base": base,
    }
    return {name: value for name, value in facts.items() if value is not None}
