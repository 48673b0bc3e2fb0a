"""A section runs in a process of its own and is ended when its time is over: a hanging compiler, a kernel that stops
the device or one that takes all memory costs its own section and nothing else.

The process is forked from one that has imported torch and transformers but never touched the device, so it costs two
seconds and not twenty. Cells come back through a pipe one by one, and are on disk before the next is begun.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import Cell

GRACE = 5.0  # seconds between the time a section is told to keep and its end by force


def run_section(
    name: str,
    seconds: float,
    device: str,
    folder: Path,
    rehearsal: bool,
    keep: Callable[[Cell], object],
    method: str = "fork",
) -> str:
    """Run a section, hand its cells to ``keep`` as they come, and say how it ended: ``done`` or why not."""
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    deadline = time.monotonic() + seconds
    bench = Bench(device, deadline, folder, rehearsal)
    process = context.Process(target=work, args=(name, bench, sender))
    process.start()
    sender.close()
    try:
        for message in messages(receiver, deadline + GRACE):
            if isinstance(message, str):
                process.join(GRACE)
                return message
            keep(message)
        if process.is_alive() and time.monotonic() >= deadline + GRACE:
            return f"ended by force after {seconds + GRACE:.0f} s"
        process.join(GRACE)
        return f"its process died (exit code {process.exitcode})"
    finally:
        if process.is_alive():
            process.terminate()
            process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
        receiver.close()


def messages(receiver: Connection, until: float) -> Iterator[Any]:
    """What the process sends, until it is gone or the time is over."""
    while (left := until - time.monotonic()) > 0 and receiver.poll(left):
        try:
            yield receiver.recv()
        except EOFError:
            return


def work(name: str, bench: Bench, sender: Connection) -> None:
    """In the new process: send every cell, then one word about the end."""
    try:
        module = importlib.import_module(f"benchmarks.gpu.{name}")
        for cell in module.measure(bench):
            sender.send(cell)
        sender.send("done")
    except Exception as problem:
        traceback.print_exc()
        sender.send(f"failed: {first_line(problem)}")
    finally:
        sender.close()


def guarded(bench: Bench, cell: str, expected: float, measure: Callable[[], dict[str, Any]]) -> Cell:
    """One cell, whatever becomes of it; ``expected`` seconds must be left to begin it."""
    if bench.left() < expected:
        return {"cell": cell, "status": "not reached", "why": f"{bench.left():.0f} s were left of {expected:.0f}"}
    begin = time.monotonic()
    try:
        result = measure()
    except Exception as problem:  # a section goes on after a kernel that cannot
        result = {"status": status_of(problem), "why": first_line(problem)}
    bench.free()  # outside of the handler, whose traceback holds the tensors of its frames
    return {"cell": cell, **result, "took": round(time.monotonic() - begin, 2)}


def status_of(problem: Exception) -> str:
    """``out of memory``, ``unsupported`` when a kernel refuses in words, else ``failed``."""
    import torch

    from varlen_lab.errors import InputError

    if isinstance(problem, torch.OutOfMemoryError):
        return "out of memory"
    refusals = ("not support", "only support", "supports head", "unsupported", "No viable backend")
    refused = isinstance(problem, (NotImplementedError, InputError, ImportError)) or any(
        word in str(problem) for word in refusals
    )
    return "unsupported" if refused else "failed"


def first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0][:300]}"
