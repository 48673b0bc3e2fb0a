"""How a command ends that is asked to: Ctrl-C, SIGTERM (Slurm, a container, ``kill``), SIGHUP (a terminal that closed).

Inside ``heeded`` each becomes an exception where the command stands, so that what is half written goes. A library may
swallow it, or make another error of it; then it is raised again by ``raise_heard``, and at the end of the block. Who
asks twice with Ctrl-C does not wait for that.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

STOPPED = 143  # the exit code of a run that was asked to end before its time, as a shell has it for SIGTERM
ONE_PRESS = 0.5  # seconds: a launcher passes on what the terminal has sent already, SIGHUP comes with SIGTERM
heard: list[int] = []  # signals that have come since ``heeded`` began, in this process
blocks: list[float] = []  # of ``heeded``, one in the other: in the first, when a signal came last


class Terminated(BaseException):
    """The process was asked to end by a signal other than Ctrl-C; its name is the message."""


HEARD = KeyboardInterrupt, Terminated  # what was raised where an object ends is swallowed there, and raised again


def asking() -> list[int]:
    """The signals that ask a process to end, as far as this system has them and nobody has it ignore them.

    Windows has none but Ctrl-Break, which would end Python at once. ``nohup`` and a shell's ``&`` ignore some.
    """
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def heeded() -> Iterator[None]:
    """Inside, Ctrl-C is a KeyboardInterrupt and what else asks to end ``Terminated``, whatever a library makes of it.

    In another thread than the main one, which hears no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, pressed = os.getpid(), [0]

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that was forked meanwhile: it ends as any other
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        before, blocks[0] = blocks[0], time.monotonic()
        if blocks[0] - before <= ONE_PRESS:  # or it would break into the tidying up that the first has begun
            return
        if number == signal.SIGINT:
            pressed[0] += 1
            if pressed[0] > 1:
                end_at_once()
        heard.append(number)
        raise interruption(number)

    numbers = asking()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    blocks.append(-math.inf)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda what: None if isinstance(what.exc_value, HEARD) else unraisable(what)
    before: dict[int, Any] = {number: signal.signal(number, hear) for number in numbers}
    heard.clear()
    try:
        yield
        raise_heard()
    except BaseException as error:
        if heard and not isinstance(error, HEARD):
            raise interruption(heard[0]) from None
        raise
    finally:
        heard.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = unraisable
        blocks.pop()


def interruption(number: int) -> BaseException:
    """What a signal becomes."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(signal.Signals(number).name)


def raise_heard() -> None:
    """Raise what was heard and swallowed."""
    if heard:
        raise interruption(heard[0])


def end_with(code: int) -> None:
    """A process that has no more to do but to say so and to exit, which takes torch a moment, does so with this code.

    What else asks it to end changes nothing of that; who asks later than one press does not wait.
    """
    since = time.monotonic()

    def hear(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - since > ONE_PRESS:
            end_at_once(code)

    for number in (signal.SIGINT, *asking()):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hear)


def be_deaf() -> None:
    """Hear no signal to end any more: to be registered with ``atexit`` before anything else is, so that it comes last.

    What follows is Python taking its modules apart, in which no handler of ours is called.
    """
    for number in (signal.SIGINT, *asking()):
        signal.signal(number, signal.SIG_IGN)


def end_at_once(code: int = 130) -> None:
    """End this process and those it has started, without tidying up."""
    for name in ("multiprocessing", "multiprocess"):  # the second is what ``datasets`` has
        if module := sys.modules.get(name):
            for child in module.active_children():
                with suppress(Exception):
                    child.kill()
    os._exit(code)


@contextmanager
def out_of_workers() -> Iterator[None]:
    """Processes that are started inside hear neither Ctrl-C nor SIGTERM before ``deaf_worker`` is called in them.

    A terminal and a batch system send them to all processes of a group, and who works for another ends with it.
    """
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *asking()])
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deaf_worker(number: int = 0) -> None:
    """In a worker: hear no signal to end. Who it works for tells it, and torch notices when that one is gone."""
    be_deaf()
    sys.excepthook = told_by_thread
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])


def told_by_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a thread of a worker says of itself: nothing where only the process it works for has gone."""
    if not issubclass(kind, OSError | EOFError):
        sys.__excepthook__(kind, error, trace)
