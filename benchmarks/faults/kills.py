"""Killed at every operation on a file, and in the middle of every write; then the next run.

What was there before must be there and readable, or what is new must be whole. The next run in the folder ends as if
nothing had been, to the last bit, and leaves no draft behind.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import stage as world
from benchmarks.faults.children import Ended, in_child
from benchmarks.faults.operations import KILL, TORN, counted
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import STEPS, Ran, Stage, called, checkpoint_says, files_say, left_over, model_says, verb

LIMIT = 40  # seconds


@dataclass(frozen=True)
class Operation:
    """Something that writes. ``needs``: of the stage; ``harm``: what is lost, looked at right after the fault.

    ``same``: what is wrong after ``act`` was done again (``again``, where the next run is another command).
    """

    needs: tuple[str, ...]
    act: Callable[[], Ran]
    harm: Callable[[Stage], str]
    same: Callable[[Stage], str]
    again: Callable[[], Ran] | None = None
    cache: bool = False  # it writes to the cache, which is its own then
    cleans: bool = True  # what the killed one left is gone after it was done again
    every: int = 1  # strikes at each such operation; of a long one all kinds of moments come often


def struck(stage: Stage, operation: Operation, at: int, how: str) -> Ended:
    """Do the operation in a process, with a fault in it."""

    def work() -> tuple[Ran, list[str]]:
        with counted(at, how) as found:
            ran = operation.act()
        return ran, found.seen

    return in_child(work, LIMIT, Path("said.txt"))


def ready(stage: Stage, operation: Operation) -> None:
    """Bring what it needs into the folder of the case."""
    stage.bring(*operation.needs)
    if operation.cache:
        cache = stage.own_cache()
        for path in [*cache.glob("documents-*"), *cache.glob("packed-*")]:
            path.unlink()


def elsewhere(stage: Stage, work: Callable[[], Any]) -> Any:
    """What ``work`` gives, done without a fault in a folder that is then gone."""

    def moved() -> Any:
        with tempfile.TemporaryDirectory(dir=stage.folder.parent) as folder:
            os.chdir(folder)
            os.environ["VARLEN_LAB_CACHE"] = str(stage.folder / "cache")
            found = work()
            os.chdir("/")
            return found

    ended = in_child(moved, 2 * LIMIT)
    if not ended.whole:
        raise RuntimeError(ended.problem or str(ended))
    return ended.value


def moments(stage: Stage, operation: Operation) -> list[str]:
    """The operations on files that it does, in order; found by doing it."""

    def work() -> list[str]:
        ready(stage, operation)
        ended = struck(stage, operation, 0, KILL)
        if not ended.whole or ended.value[0].code or ended.value[0].problem:
            raise RuntimeError(f"without a fault it fails: {ended}")
        return ended.value[1]

    return elsewhere(stage, work)


def killed(stage: Stage, operation: Operation, at: int, how: str) -> Outcome:
    """One case: the kill, what it left, the next run."""
    ready(stage, operation)
    ended = struck(stage, operation, at, how)
    if ended.hung:
        return Outcome("hang", "before the kill")
    if ended.signal not in (0, signal.SIGKILL) or (ended.problem and not ended.signal):
        return Outcome("traceback", f"signal {ended.signal} {world.last_line(ended.problem or '-')}")
    if lost := operation.harm(stage):
        return Outcome("lost", lost)
    return then(stage, operation)


def then(stage: Stage, operation: Operation) -> Outcome:
    """The run after a kill: it must end as if nothing had been."""
    ended = in_child(operation.again or operation.act, LIMIT, Path("said.txt"))
    if ended.hung:
        return Outcome("hang", "the run after the kill")
    if not ended.whole:
        return Outcome("traceback", f"after the kill: signal {ended.signal} {world.last_line(ended.problem or '-')}")
    ran = ended.value
    if ran.code == 2:
        return Outcome("lost", f"the run after the kill is refused: {ran.sentence}")
    return world.judged(ran, lambda: operation.same(stage) or (operation.cleans and dirty()) or True)


def dirty() -> str:
    """What is left behind although the next run ended well; in a cache others may be writing, so it stays for a day."""
    found = [name for name in left_over(Path()) if not name.startswith("cache/")]
    return f"left behind: {', '.join(found[:3])}" if found else ""


def strikes(stage: Stage) -> Iterator[Case]:
    """Every moment of every operation, whole and torn."""
    for name, operation in OPERATIONS.items():
        seen = moments(stage, operation)
        for at, what in enumerate(seen, start=1):
            for how in (KILL, TORN) if what == "write" else (KILL,):
                if at % operation.every == 0:
                    words = f"{name}: killed {'in' if how == TORN else 'before'} operation {at} of {len(seen)} ({what})"
                    yield Case(words, partial(killed, stage, operation, at, how))


# ------------------------------------------------------------------------------------------------- what writes


def run_lost(stage: Stage, folder: str = "run", least: int = 0) -> str:
    """Whether each checkpoint is that of the undisturbed run, at least one is there, and the history is its start."""
    found = {path.name for path in Path(folder).glob("iter_*.pth")}
    if len(found) < least:
        return f"{len(found)} checkpoints are left of {least}"
    for name in sorted(found):
        if checkpoint_says(Path(folder, name)) != checkpoint_says(stage.folder / folder / name):
            return f"{name} is not that of the undisturbed run"
    history = Path(folder, "history.jsonl")
    if history.exists():
        says, whole = world.history_says(history), world.history_says(stage.folder / folder / "history.jsonl")
        if says != whole[: len(says)]:
            return "the history is not that of the undisturbed run"
    return ""


def run_ended(stage: Stage, folder: str = "run") -> str:
    """Whether a run came to its end, as the undisturbed one did."""
    last = f"iter_{STEPS}.pth"
    if not Path(folder, last).exists():
        return f"there is no {last}"
    if world.history_says(Path(folder, "history.jsonl")) != world.history_says(stage.folder / folder / "history.jsonl"):
        return "the history is not that of the undisturbed run"
    return run_lost(stage, folder)


def go_on() -> Ran:
    return verb("train", "c.py", "--quiet", "--resume", "--cfg-options", "save_total_limit=2")


def save_again() -> Ran:
    """A checkpoint over one that is there, with other contents."""
    import torch

    from varlen_lab.training.checkpoint import save_checkpoint

    def work() -> None:
        state = torch.load("run/iter_2.pth", weights_only=True)
        state.pop("format")
        save_checkpoint(Path("run/iter_1.pth"), state)

    return called(work)


def old_or_new(stage: Stage) -> str:
    """Whether iter_1.pth is what it was, or all of what took its place."""
    found = checkpoint_says(Path("run/iter_1.pth"))
    whole = {checkpoint_says(stage.folder / f"run/iter_{step}.pth") for step in (1, 2)}
    return "" if found in whole else "iter_1.pth is neither the old one nor the new one"


def convert(folder: str) -> Ran:
    return verb("convert", "pth_to_hf", "c.py", f"run/iter_{STEPS}.pth", folder)


def merge(folder: str) -> Ran:
    return verb("convert", "merge", "base", "adapter", folder)


def folder_whole(stage: Stage, folder: str, like: str, may_lack: bool) -> str:
    """Whether a folder is what it should be; ``may_lack``: or is not there at all."""
    if not Path(folder).exists():
        return "" if may_lack else f"{folder} is gone"
    return "" if model_says(Path(folder)) == model_says(stage.folder / like) else f"{folder} is not whole"


def inputs_lost(stage: Stage, *names: str) -> str:
    """What of the files that are only read is no more what it was."""
    for name in names:
        if files_say(Path(name)) != files_say(stage.folder / name):
            return f"{name} was changed"
    return ""


def kept_text() -> Ran:
    from varlen_lab.files.writing import cached_text

    return called(lambda: int(cached_text("text-of-a-case", lambda: "kept\n" * 2000) != "kept\n" * 2000))


def documents() -> Ran:
    return verb("pack-report", "c.py", "--json")


def figure() -> Ran:
    return verb("masks", "--lengths", "3", "5", "-o", "masks.svg")


def copied() -> Ran:
    return verb("copy-cfg", "tiny_llama_full_docstrings_e1", ".", "--force")


def receipt() -> Ran:
    from varlen_lab.files.writing import writable, written_whole

    def work() -> None:
        with writable(Path("receipt.json"), "receipt"), written_whole(Path("receipt.json"), "w") as file:
            file.write('{"ok": true}\n' * 900)

    return called(work)


def shards() -> Ran:
    """As a checkpoint of several processes is written, which is a folder."""
    from varlen_lab.files.writing import folder_written_whole, writable

    def work() -> None:
        with writable(Path("iter_1.pth"), "--work-dir"), folder_written_whole(Path("iter_1.pth")) as draft:
            for name in ("run.pth", "shard_0.pth", "shard_1.pth"):
                (draft / name).write_bytes(b"new" * 5000)

    return called(work)


def shards_whole(stage: Stage) -> str:
    found = files_say(Path("iter_1.pth")) if Path("iter_1.pth").exists() else {}
    return "" if len(found) in (0, 3) and len(set(found.values())) <= 1 else "a folder with a part of its files"


def always(_: Stage) -> str:
    return ""


def file_whole(name: str, size: int) -> Callable[[Stage], str]:
    """A file that is all there or not at all, of at least ``size`` bytes."""
    return lambda stage: "" if not Path(name).exists() or Path(name).stat().st_size >= size else f"{name} is cut"


OPERATIONS: dict[str, Operation] = {
    "save over a checkpoint": Operation(("run",), save_again, old_or_new, old_or_new, cleans=False),
    "train": Operation(
        ("c.py", "data.jsonl"),
        lambda: verb("train", "c.py", "--quiet", "--cfg-options", "save_total_limit=2"),
        run_lost,
        run_ended,
        again=go_on,
        every=2,
    ),
    "train, caches empty": Operation(
        ("c.py", "data.jsonl"), go_on, run_lost, run_ended, again=go_on, cache=True, every=4
    ),
    "resume": Operation(
        ("run", "c.py", "data.jsonl"), go_on, partial(run_lost, least=2), run_ended, again=go_on, every=1
    ),
    "convert": Operation(
        ("run", "c.py"),
        lambda: convert("new"),
        lambda stage: folder_whole(stage, "new", "base", True) or inputs_lost(stage, "run"),
        lambda stage: folder_whole(stage, "new", "base", False),
    ),
    "convert over a folder": Operation(
        ("run", "c.py", "base"),
        lambda: convert("base"),
        lambda stage: folder_whole(stage, "base", "base", True) or inputs_lost(stage, "run"),
        lambda stage: folder_whole(stage, "base", "base", False),
    ),
    "merge": Operation(
        ("base", "adapter"),
        lambda: merge("new"),
        lambda stage: folder_whole(stage, "new", "merged", True) or inputs_lost(stage, "base", "adapter"),
        lambda stage: folder_whole(stage, "new", "merged", False),
    ),
    "cached text": Operation((), kept_text, always, always, cache=True, cleans=False),
    "cached documents and rows": Operation(("c.py", "data.jsonl"), documents, always, always, cache=True, cleans=False),
    "figure": Operation((), figure, file_whole("masks.svg", 5000), file_whole("masks.svg", 5000), cleans=False),
    "copy of a config": Operation((), copied, always, always, cleans=False),
    "receipt": Operation(
        (), receipt, file_whole("receipt.json", 11700), file_whole("receipt.json", 11700), cleans=False
    ),
    "folder of shards": Operation((), shards, shards_whole, shards_whole, cleans=False),
}
