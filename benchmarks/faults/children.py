"""Work in a forked process, which may be killed, crash or hang without taking this one along.

A fork of a process that has torch and transformers imported starts in hundredths of a second; a fresh Python takes ten.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Job = TypeVar("Job")
PIECE = 2**16


@dataclass(frozen=True)
class Ended:
    """How a process ended: with a value, with an exception (its traceback), by a signal, or not in time (hung)."""

    value: Any = None
    problem: str = ""
    signal: int = 0
    hung: bool = False

    @property
    def whole(self) -> bool:
        return not (self.problem or self.signal or self.hung)


@dataclass
class Child:
    """A process that was forked to do ``work``; what it gives comes through a pipe."""

    pid: int
    pipe: int
    deadline: float
    found: bytes = b""

    def read(self) -> bool:
        """Take what is there; whether that was all."""
        piece = os.read(self.pipe, PIECE)
        self.found += piece
        return not piece

    def end(self, hung: bool = False) -> Ended:
        """Wait for its end; a process that hangs is killed, with all that it has started."""
        if hung:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        if hung:
            return Ended(hung=True)
        if os.WIFSIGNALED(status):
            return Ended(signal=os.WTERMSIG(status))
        try:
            value, problem = pickle.loads(self.found)
        except (EOFError, pickle.UnpicklingError):
            return Ended(problem=f"the process ended with exit code {os.WEXITSTATUS(status)} and said nothing")
        return Ended(value, problem)


def forked(work: Callable[[], Any], limit: float, said: Path | None = None, leads: bool = False) -> Child:
    """Begin ``work`` in a process; what it prints goes to the file ``said``, or nowhere.

    ``leads``: it and all that it starts is a group of its own, which ends as one.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        if leads:
            os.setpgid(0, 0)
        printed = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        try:
            found: tuple[Any, str] = (work(), "")
        except BaseException:
            found = (None, traceback.format_exc())
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(BaseException):
            body = memoryview(pickle.dumps(found))
            while body:
                body = body[os.write(writing, body) :]
        os._exit(0)
    os.close(writing)
    return Child(pid, reading, time.monotonic() + limit)


def in_child(work: Callable[[], Any], limit: float = 60, said: Path | None = None) -> Ended:
    """``work`` done in a process, and how it ended."""
    return next(ended for _, ended in in_children([work], lambda job: job, 1, limit, said, leads=False))


def in_children(
    jobs: Iterable[Job],
    work: Callable[[Job], Callable[[], Any]],
    count: int,
    limit: float,
    said: Path | None = None,
    leads: bool = True,
) -> Iterator[tuple[Job, Ended]]:
    """All jobs, ``count`` processes at a time, each as it ends."""
    waiting, running = iter(jobs), {}
    with selectors.DefaultSelector() as watched:
        while True:
            while len(running) < count and (job := next(waiting, None)) is not None:
                child = forked(work(job), limit, said, leads)
                running[child.pipe] = (job, child)
                watched.register(child.pipe, selectors.EVENT_READ)
            if not running:
                return
            soon = min(child.deadline for _, child in running.values()) - time.monotonic()
            for key, _ in watched.select(max(soon, 0.01)):
                job, child = running[key.fd]
                if child.read():
                    watched.unregister(key.fd)
                    del running[key.fd]
                    yield job, child.end()
            for pipe, (job, child) in list(running.items()):
                if time.monotonic() > child.deadline:
                    watched.unregister(pipe)
                    del running[pipe]
                    yield job, child.end(hung=True)
