"""Work in a process of its own that is ended when its time is over: a hanging compiler, a kernel that stops the device
or one that takes all memory costs its own section and nothing else.

The process is forked from one that has imported torch and transformers but never touched the device, so it costs a
moment and not twenty seconds. What it finds comes back through a pipe piece by piece. How it ended comes too: a failure
with its traceback, and where the process can say nothing any more, after a segmentation fault or a hang, the stacks
that ``faulthandler`` has left in a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

GRACE = 3.0  # seconds between the time that work is told to keep and its end by force
STACKS = 1.0  # seconds before the end by force at which the stacks are written down
LONGEST = 16_000  # characters kept of a traceback
FOLDERS = (f"{Path(__file__).resolve().parents[2]}/", f"{sys.prefix}/")  # of this checkout, of this Python
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
BEGUN = "begun"  # the status of a cell that is told before it is measured


class End(NamedTuple):
    """How work ended: ``done`` or why not."""

    how: str
    traceback: str = ""


def cells_of(name: str, bench: Any) -> Iterator[Any]:
    """The cells of a section, whose module is imported in its own process."""
    yield from importlib.import_module(f"benchmarks.gpu.{name}").measure(bench)


def run_apart(
    work: Callable[[], Iterator[Any]], seconds: float, keep: Callable[[Any], object], method: str = "fork"
) -> End:
    """Let ``work`` run in a process of its own, hand what it yields to ``keep``; all it started ends with it.

    A cell that was ``BEGUN`` when the process ended has failed, as the process did.
    """
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    until = time.monotonic() + seconds
    handle, log = tempfile.mkstemp(prefix="benchmark_stacks_")
    os.close(handle)
    process = context.Process(target=inside, args=(work, sender, log, max(0.1, seconds - STACKS)))
    process.start()
    sender.close()
    begun: dict[str, Any] | None = None
    ended = None
    try:
        for message in messages(receiver, process.sentinel, until):
            if isinstance(message, End):
                ended = message
                break
            begun = message if message.get("status") == BEGUN else None
            if begun is None:
                keep(message)
        if ended or not process.is_alive() or time.monotonic() < until:
            process.join(GRACE)
        if ended is None:
            how, code = f"ended by force after {seconds:.0f} s", process.exitcode
            if code is not None or time.monotonic() < until:
                how = f"its process died ({signal.Signals(-code).name if code and code < 0 else f'exit code {code}'})"
            ended = End(how, end_of(Path(log).read_text(errors="replace")))
        if begun:
            keep({**begun, "status": "failed", "why": ended.how, "traceback": ended.traceback})
            ended = ended._replace(how=f"{ended.how} in {begun['cell']}")
        return ended
    finally:
        end(process)
        receiver.close()
        os.unlink(log)


def messages(receiver: Connection, sentinel: int, until: float) -> Iterator[Any]:
    """What the process sends, until it is gone or the time is over."""
    while (left := until - time.monotonic()) > 0:
        ready = wait([receiver, sentinel], left)
        if receiver in ready or receiver.poll():  # what it sent before it died comes first
            try:
                yield receiver.recv()
            except (EOFError, OSError):
                return
        elif ready:
            return


def end(process: Any) -> None:
    """The process and all it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may not have been so far as to have a group of its own
    process.join(GRACE)


def inside(work: Callable[[], Iterator[Any]], sender: Connection, log: str, seconds: float) -> None:
    """In the new process: send everything, then how it ended."""
    os.setpgid(0, 0)  # a group of its own, so that what it starts can be ended with it
    end_with_parent()
    with open(log, "w") as file:
        faulthandler.enable(file)
        faulthandler.dump_traceback_later(seconds, file=file)
        try:
            for message in work():
                sender.send(message)
            sender.send(End("done"))
        except BaseException as problem:  # what ends a process too: its traceback says where
            sender.send(End(f"failed: {described(problem)}", end_of(traceback.format_exc())))
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            sender.close()


def end_with_parent() -> None:
    """On Linux this process is killed when the one that started it is gone, whatever ended that one."""
    with contextlib.suppress(Exception):  # elsewhere there is no such call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def described(problem: BaseException) -> str:
    """Type and first line."""
    return f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0][:300]}"


def end_of(text: str) -> str:
    """The end of a traceback, its paths from the checkout or the environment on: a result is read on other machines."""
    for folder in FOLDERS:
        text = text.replace(folder, "")
    return text[-LONGEST:]
