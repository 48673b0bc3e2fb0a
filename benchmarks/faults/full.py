"""A disk that is full: at every write, from a size of file on, and in earnest.

A sentence says so, what was there before stays, no draft takes up room; when there is room again the next run ends as
if nothing had been. A cache that cannot be written costs a note.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import kills
from benchmarks.faults import stage as world
from benchmarks.faults.children import in_child
from benchmarks.faults.kills import LIMIT, OPERATIONS, Operation
from benchmarks.faults.operations import FULL, NEED_ROOM, counted
from benchmarks.faults.outcomes import SKIPPED, Case, Outcome
from benchmarks.faults.stage import Ran, Stage, left_over

SIZES = (1, 1000, 4096, 30_000, 100_000, 300_000)  # bytes that a file may have
ROOMS = (40, 200, 400, 500, 700, 900, 1100)  # KiB of a disk
NEW_NAMES = 0x20000  # CLONE_NEWNS: mounts of this process alone, gone when it is


def fills(stage: Stage) -> Iterator[Case]:
    """Every operation of ``kills`` on every kind of full disk."""
    for name, operation in OPERATIONS.items():
        seen = kills.moments(stage, operation)
        for at, what in enumerate(seen, start=1):
            if what in NEED_ROOM and at % (3 * operation.every - 2) == 0:
                words = f"{name}: full at operation {at} of {len(seen)} ({what})"
                yield Case(words, partial(filled, stage, operation, partial(counted, at, FULL)))
        for size in SIZES:
            yield Case(f"{name}: no file over {size} bytes", partial(filled, stage, operation, partial(limited, size)))
    for name in ("train", "convert", "merge", "resume"):
        for room in ROOMS:
            yield Case(f"{name}: on a disk of {room} KiB", partial(on_small_disk, stage, OPERATIONS[name], room))


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Inside, no file of this process grows over ``size`` bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def filled(stage: Stage, operation: Operation, fault: Callable[[], Any]) -> Outcome:
    """One case: the full disk, what is left, the next run when there is room."""
    kills.ready(stage, operation)

    def work() -> Ran:
        with fault():
            return operation.act()

    ended = in_child(work, LIMIT)
    if ended.hung:
        return Outcome("hang", "on a full disk")
    if not ended.whole:
        return Outcome("traceback", f"signal {ended.signal} {world.last_line(ended.problem or '-')}")
    return survived(stage, operation, ended.value)


def survived(stage: Stage, operation: Operation, ran: Ran, drafts: bool = False) -> Outcome:
    """What became of a run that found no room, or was interrupted, and of the next one.

    ``drafts``: may be left until then, as by a signal that comes while they are removed.
    """
    if not drafts and (found := left_over(Path())):
        return Outcome("lost", f"a draft is left: {', '.join(found[:3])}")
    if lost := operation.harm(stage):
        return Outcome("lost", lost)
    first = world.judged(ran, lambda: True, refusals=(2, 130, 143))
    if first.failed:
        return first
    ended = in_child(operation.again or operation.act, LIMIT)
    if not ended.whole:
        return Outcome("traceback", f"the next run: signal {ended.signal} {world.last_line(ended.problem or '-')}")
    if ended.value.code == 2:
        return Outcome("lost", f"the next run is refused: {ended.value.sentence}")
    then = world.judged(ended.value, lambda: operation.same(stage) or (operation.cleans and kills.dirty()) or True)
    return then if then.failed else first


def on_small_disk(stage: Stage, operation: Operation, room: int) -> Outcome:
    """A file system in memory of ``room`` KiB, which this process alone sees; with its inputs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or not hasattr(libc, "unshare") or libc.unshare(NEW_NAMES):
        return Outcome(SKIPPED, "nothing may be mounted here")
    stage.bring(*operation.needs)
    size = sum(path.stat().st_size + 4096 for path in Path().rglob("*")) // 1024
    Path("disk").mkdir()
    return mounted(stage, operation, Path("disk"), room + size)


def mounted(stage: Stage, operation: Operation, target: Path, room: int) -> Outcome:
    """The case of ``on_small_disk``, on its disk, where its inputs take up room, too."""
    quiet = {"capture_output": True, "check": True}
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], **quiet)  # type: ignore[call-overload]
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(target)], **quiet)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return Outcome(SKIPPED, "nothing may be mounted here")
    os.chdir(target)
    stage.bring(*operation.needs)
    ended = in_child(operation.act, LIMIT)
    if ended.hung or not ended.whole:
        return Outcome("hang" if ended.hung else "traceback", world.last_line(ended.problem or "a crash"))
    if lost := operation.harm(stage):
        return Outcome("lost", lost)
    if found := left_over(Path()):
        return Outcome("lost", f"a draft is left: {', '.join(found[:3])}")
    first = world.judged(ended.value, lambda: True)
    if first.failed:
        return first
    subprocess.run(["mount", "-o", "remount,size=40m", "."], **quiet)  # type: ignore[call-overload]
    ended = in_child(operation.again or operation.act, LIMIT)
    if not ended.whole or ended.value.code:
        return Outcome("lost", f"the next run: {ended}"[:300])
    return first
