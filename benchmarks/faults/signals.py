"""Ctrl-C and SIGTERM, at operations on files and at calls all through a verb.

A signal ends a verb in one sentence (exit code 130, 143) or by itself, at once; nothing is lost, no draft is left, and
what comes next ends as if nothing had been.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.faults import full, kills
from benchmarks.faults import stage as world
from benchmarks.faults.children import in_child
from benchmarks.faults.kills import LIMIT, OPERATIONS, Operation
from benchmarks.faults.operations import BREAK, counted
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import Ran, Stage

CALLS = 16  # moments of a verb at which each signal comes, evenly spread over its calls
VERBS = ("train", "resume", "convert", "merge", "cached documents and rows")
OURS = f"{os.sep}varlen_lab{os.sep}"


def breaks(stage: Stage) -> Iterator[Case]:
    """Ctrl-C at operations on files, both signals at calls."""
    for name, operation in OPERATIONS.items():
        seen = kills.moments(stage, operation)
        for at, what in enumerate(seen, start=1):
            if at % (3 * operation.every - 2) == 0:
                words = f"{name}: Ctrl-C before operation {at} of {len(seen)} ({what})"
                yield Case(words, partial(interrupted, stage, operation, partial(counted, at, BREAK)))
    for name in VERBS:
        count = calls_of(stage, OPERATIONS[name])
        for number in range(CALLS):
            for which in (signal.SIGINT, signal.SIGTERM):
                at = 1 + count * number // CALLS + stage.chooser.randrange(max(1, count // CALLS))
                words = f"{name}: {which.name} in call {at} of {count}"
                yield Case(words, partial(interrupted, stage, OPERATIONS[name], partial(Calls, at, which)))


class Calls:
    """Inside, calls of functions of the library are counted, and at number ``at`` a signal comes."""

    def __init__(self, at: int, which: int) -> None:
        self.at, self.which, self.count = at, which, 0

    def __enter__(self) -> Calls:
        sys.setprofile(self.met)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(None)

    def met(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and OURS in frame.f_code.co_filename:
            self.count += 1
            if self.count == self.at:
                sys.setprofile(None)
                signal.raise_signal(self.which)


def calls_of(stage: Stage, operation: Operation) -> int:
    """How many calls of the library there are in a verb."""

    def work() -> int:
        kills.ready(stage, operation)
        with Calls(0, signal.SIGINT) as found:
            operation.act()
        return found.count

    return kills.elsewhere(stage, work)


def interrupted(stage: Stage, operation: Operation, fault: Callable[[], Any]) -> Outcome:
    """One case: the signal, what is left, what comes next."""
    kills.ready(stage, operation)

    def work() -> Ran:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without
        with fault():
            return operation.act()

    ended = in_child(work, LIMIT)
    if ended.hung:
        return Outcome("hang", "after the signal")
    if ended.signal == signal.SIGTERM:  # at once, as if killed
        if lost := operation.harm(stage):
            return Outcome("lost", lost)
        return kills.then(stage, operation)
    if ended.problem.rstrip().endswith("KeyboardInterrupt"):  # before the verb has begun, or after its end
        ended_early: Ran = Ran(130, "error: interrupted")
        return full.survived(stage, operation, ended_early, drafts=True)
    if not ended.whole:
        return Outcome("traceback", f"signal {ended.signal} {world.last_line(ended.problem or '-')}")
    return full.survived(stage, operation, library_alone(ended.value), drafts=True)


def library_alone(ran: Ran) -> Ran:
    """A call that no verb wraps gives KeyboardInterrupt on, as it must; who stops when it is told says so last."""
    if ran.code == 128 + signal.SIGTERM and "SIGTERM" in ran.said:
        return Ran(ran.code, f"error: {ran.said.strip().splitlines()[-1]}", ran.problem)
    if ran.problem.rstrip().endswith("KeyboardInterrupt") and "/cli/__init__.py" not in ran.problem:
        return Ran(130, "error: interrupted")
    return ran
