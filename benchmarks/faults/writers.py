"""Two processes at once, where one of them would do: in one run folder, one target, one cache.

Who comes second is told who is there, or does no harm. The first one pauses at an operation on a file, so that the
other comes in the middle of it; in some cases they simply run at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults import kills
from benchmarks.faults import stage as world
from benchmarks.faults.children import Ended, in_child, in_children
from benchmarks.faults.kills import LIMIT, OPERATIONS
from benchmarks.faults.operations import Operations, counted
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import Ran, Stage, verb

MOMENTS = 8  # of the first one at which the second comes
THERE, ON = Path("FIRST_IS_THERE"), Path("FIRST_GOES_ON")


def meetings(stage: Stage) -> Iterator[Case]:
    """Every pair at moments all through the first one, and at once."""
    for (first, second), same in PAIRS.items():
        count = len(kills.moments(stage, OPERATIONS[first]))
        for at in sorted({1 + count * number // MOMENTS for number in range(MOMENTS)}):
            words = f"{second}, while {first} is at operation {at} of {count}"
            yield Case(words, partial(met, stage, first, second, same, at))
        for number in range(3):
            yield Case(f"{first} and {second} at once ({number})", partial(met, stage, first, second, same, 0))


def pausing(first: Callable[[], Ran], at: int) -> Ran:
    """The first one, which stands still at an operation until the second has ended."""
    plain = Operations.meet

    def meet(found: Operations, name: str) -> bool:
        given = plain(found, name)
        if len(found.seen) == at and not os.path.lexists(THERE):
            os.close(os.open(THERE, os.O_CREAT))  # counted, too: it is there by then
            until(ON)
        return given

    Operations.meet = meet  # type: ignore[method-assign]
    with counted():
        return first()


def until(path: Path) -> None:
    """Wait for a file, at most as long as a case may take."""
    end = time.monotonic() + LIMIT / 2
    while not os.path.lexists(path) and time.monotonic() < end:
        time.sleep(0.005)


def met(stage: Stage, first: str, second: str, same: Callable[[Stage], str], at: int) -> Outcome:
    """One case: both, what each said, and what is there in the end."""
    one, two = OPERATIONS[first], SECONDS.get(second) or OPERATIONS[second].act
    kills.ready(stage, one)

    def later() -> Ran:
        until(THERE)
        ran = in_child(two, LIMIT)
        ON.touch()
        if not ran.whole:
            raise RuntimeError(ran.problem or str(ran))
        return ran.value

    jobs = {"first": one.act, "second": two}
    if at:
        jobs = {"first": partial(pausing, one.act, at), "second": later}
    ended: dict[str, Ended] = dict(in_children(jobs, lambda name: jobs[name], 2, LIMIT, leads=False))
    for path in (THERE, ON):
        path.unlink(missing_ok=True)
    for name, how in ended.items():
        if how.hung:
            return Outcome("hang", f"the {name}")
        if not how.whole:
            return Outcome("traceback", f"the {name}: signal {how.signal} {world.last_line(how.problem or '-')}")
    outcomes = [world.judged(how.value, lambda: True) for how in ended.values()]
    for outcome in outcomes:
        if outcome.failed:
            return outcome
    words = [outcome.word for outcome in outcomes]
    if words == ["refused", "refused"]:
        return Outcome("lost", f"both are refused: {outcomes[0].said} {outcomes[1].said}")
    if found := same(stage) or kills.dirty():
        return Outcome("silent", found)
    return next((outcome for outcome in outcomes if outcome.word == "refused"), Outcome("unharmed"))


def other_seed() -> Ran:
    """Another run in the same folder."""
    return verb("train", "c.py", "--quiet", "--seed", "7")


def one_run(stage: Stage) -> str:
    """Whether the folder has one whole run of either seed: checkpoints that belong to its history."""
    import torch

    losses = [loss for _, loss, _ in world.history_says(Path("run/history.jsonl"))]
    for path in Path("run").glob("iter_*.pth"):
        kept = torch.load(path, weights_only=True)["losses"]
        if kept != losses[: len(kept)]:
            return f"{path.name} is not of the run that the history is of"
    return "" if Path(f"run/iter_{world.STEPS}.pth").exists() else "no run came to its end"


def converted_alone() -> Ran:
    """A checkpoint that the other one may be replacing."""
    return verb("convert", "pth_to_hf", "c.py", "run/iter_2.pth", "new")


def maybe_converted(stage: Stage) -> str:
    from safetensors.torch import load_file

    if not Path("new").exists():
        return ""
    import torch

    found = load_file("new/model.safetensors")
    whole = torch.load(stage.folder / "run/iter_2.pth", weights_only=True)["model"]
    return "" if all(torch.equal(value, whole[name]) for name, value in found.items()) else "other weights"


SECONDS: dict[str, Callable[[], Ran]] = {
    "train with another seed": other_seed,
    "convert of its checkpoint": converted_alone,
}
PAIRS: dict[tuple[str, str], Callable[[Stage], str]] = {
    ("train", "train with another seed"): one_run,
    ("train", "train"): one_run,
    ("resume", "resume"): one_run,
    ("resume", "train with another seed"): one_run,
    ("resume", "convert of its checkpoint"): maybe_converted,
    ("convert", "convert"): OPERATIONS["convert"].same,
    ("convert over a folder", "convert over a folder"): OPERATIONS["convert over a folder"].same,
    ("merge", "merge"): OPERATIONS["merge"].same,
    ("cached documents and rows", "cached documents and rows"): kills.always,
    ("cached text", "cached text"): kills.always,
    ("figure", "figure"): OPERATIONS["figure"].same,
    ("copy of a config", "copy of a config"): kills.always,
}
