"""Places where nothing can be read or written: full, foreign, wrong, looping, gone. Every verb that is told of one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults import stage as world
from benchmarks.faults.outcomes import SKIPPED, Case, Outcome
from benchmarks.faults.stage import STEPS, Ran, Stage, verb

CAPABILITIES = 0x20080522  # the version of the structures of capset(2)


def nothing() -> None:
    """The place is as bad by itself."""


def a_file() -> None:
    Path("place").write_text("mine")


def a_folder() -> None:
    Path("place").mkdir()
    Path("place/mine.txt").write_text("mine")


def a_link_nowhere() -> None:
    os.symlink("/no/such/place", "place")


def a_loop() -> None:
    os.symlink("place", "place")


def a_pipe() -> None:
    os.mkfifo("place")


def read_only() -> None:
    """A folder that this process may not write to."""
    Path("place").mkdir()
    os.chmod("place", 0o555)
    without_root()


def shut() -> None:
    """One that it may not even look into."""
    Path("place").mkdir()
    os.chmod("place", 0o000)
    without_root()


def without_root() -> None:
    """Give up what lets root pass by permissions; nothing happens for who has no such right."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head, body = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(head, body):
        raise PermissionError
    for at in range(3):  # effective, permitted, inheritable
        body[at] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(head, body):
        raise PermissionError


PLACES: dict[str, tuple[str, Callable[[], None]]] = {
    "a file": ("place", a_file),
    "below a file": ("place/x", a_file),
    "a folder": ("place", a_folder),
    "a link to nowhere": ("place", a_link_nowhere),
    "below a link to nowhere": ("place/x", a_link_nowhere),
    "a loop": ("place", a_loop),
    "below a loop": ("place/x", a_loop),
    "a pipe": ("place", a_pipe),
    "a read-only folder": ("place", read_only),
    "below a read-only folder": ("place/x", read_only),
    "a shut folder": ("place/x", shut),
    "/dev/full": ("/dev/full", nothing),
    "/dev/null": ("/dev/null", nothing),
    "below /dev/null": ("/dev/null/x", nothing),
    "/proc": ("/proc/x", nothing),
    "/sys": ("/sys/kernel/x", nothing),
    "no name": ("", nothing),
    "a zero byte": ("a\0b", nothing),
    "a long name": ("n" * 300, nothing),
    "a long path": ("/".join(["n" * 200] * 30), nothing),
    "a home of no one": ("~nobody-of-that-name/x", nothing),
    "half a character": ("\udcff", nothing),
    "a line feed": ("a\nb", nothing),
}
RUN = ("run", "c.py", "data.jsonl")
VERBS: dict[str, tuple[tuple[str, ...], Callable[[str], Ran]]] = {
    "train --work-dir": (RUN, lambda place: verb("train", "c.py", "--quiet", "--work-dir", place)),
    "train --resume": (RUN, lambda place: verb("train", "c.py", "--quiet", "--resume", place)),
    "train data": (RUN, lambda place: verb("train", "c.py", "--quiet", "--cfg-options", f"data_path={place!r}")),
    "train config": ((), lambda place: verb("train", place)),
    "convert to": (RUN, lambda place: verb("convert", "pth_to_hf", "c.py", f"run/iter_{STEPS}.pth", place)),
    "convert from": (RUN, lambda place: verb("convert", "pth_to_hf", "c.py", place, "new")),
    "merge to": (("base", "adapter"), lambda place: verb("convert", "merge", "base", "adapter", place)),
    "merge base": (("base", "adapter"), lambda place: verb("convert", "merge", place, "adapter", "new")),
    "merge adapter": (("base", "adapter"), lambda place: verb("convert", "merge", "base", place, "new")),
    "audit --model": ((), lambda place: verb("audit", "--model", place)),
    "masks -o": ((), lambda place: verb("masks", "--lengths", "2", "3", "-o", f"{place}.svg" if place else place)),
    "masks --html": ((), lambda place: verb("masks", "--lengths", "2", "3", "--html", place)),
    "pack-report -o": (RUN, lambda place: verb("pack-report", "data.jsonl", "-o", place)),
    "pack-report": ((), lambda place: verb("pack-report", place)),
    "log-dataset": ((), lambda place: verb("log-dataset", place)),
    "check-custom-dataset": ((), lambda place: verb("check-custom-dataset", place)),
    "copy-cfg": ((), lambda place: verb("copy-cfg", "tiny_llama_full_docstrings_e1", place)),
    "cache": (RUN, lambda place: with_cache(place)),
}


def with_cache(place: str) -> Ran:
    """A verb that keeps what it makes, where the cache is somewhere else."""
    if "\0" in place:
        return Ran(2, "error: no variable holds it", "")
    os.environ["VARLEN_LAB_CACHE"] = place
    return verb("pack-report", "c.py", "--json")


def wrong(stage: Stage) -> Iterator[Case]:
    """Every place, of every verb that is given one."""
    for name, (needs, act) in VERBS.items():
        for where, (place, make) in PLACES.items():
            yield Case(f"{name}: {where}", partial(placed, stage, needs, act, place, make))
    for name in ("cwd", "home"):
        for words in (("pack-report", "c.py"), ("train", "c.py", "--quiet"), ("masks", "--lengths", "2", "3")):
            yield Case(f"no {name}: {words[0]}", partial(bare, stage, name, words))


def placed(
    stage: Stage, needs: tuple[str, ...], act: Callable[[str], Ran], place: str, make: Callable[[], None]
) -> Outcome:
    """One case: the place is made, and named; what lay there stays."""
    stage.bring(*needs)
    try:
        make()
    except (PermissionError, AttributeError):
        return Outcome(SKIPPED, "the rights of root cannot be given up")
    said = world.judged(act(place), lambda: True)
    mine = Path("place/mine.txt") if make is a_folder else Path("place") if make is a_file else None
    if not said.failed and mine is not None and (not mine.is_file() or mine.read_text() != "mine"):
        return Outcome("lost", f"{mine} was a person's own")
    return said


def bare(stage: Stage, name: str, words: tuple[str, ...]) -> Outcome:
    """Without a home and a cache, or in a folder that is no more."""
    stage.bring("c.py", "data.jsonl")
    if name == "home":
        for variable in ("HOME", "VARLEN_LAB_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(variable, None)
        return world.judged(verb(*words), lambda: True)
    Path("gone").mkdir()
    os.chdir("gone")
    os.rmdir("../gone")
    return world.judged(verb(*words), lambda: True)
