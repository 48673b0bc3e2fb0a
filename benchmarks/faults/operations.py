"""Every operation on files that a process does, counted, so that a fault can strike at each.

``counted`` puts itself in front of ``os.open``, ``replace``, ``unlink``, ``mkdir``, ``fsync`` and so on, of ``open``,
of the writer of ``varlen_lab.files``, and of safetensors' writer. What other libraries write from native code goes
through a file object of ours, or lies in a folder that has no name yet.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

KILL, TORN, FULL, BREAK = "kill", "torn", "full", "break"  # break: Ctrl-C
NAMES = ["replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "truncate", "ftruncate", "link", "symlink"]
NEED_ROOM = {"write", "mkdir", "fsync", "create"}  # what a full disk refuses
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Operations:
    """Counts, and strikes at operation number ``at`` (from 1; 0 never): see ``KILL`` and so on."""

    at: int = 0
    how: str = KILL
    seen: list[str] = field(default_factory=list)
    full: bool = False  # since the strike

    def meet(self, name: str) -> bool:
        """Before an operation; whether it is to be torn: half of it done, then the end."""
        self.seen.append(name)
        if self.full and name in NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(self.seen) != self.at:
            return False
        if self.how == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == FULL:
            self.full = True
            if name in NEED_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.how == BREAK:
            signal.raise_signal(signal.SIGINT)
        return self.how == TORN

    def write(self, plain: Callable[[Any], int], data: Any) -> int:
        """Write bytes with ``plain``, or half of them and no more."""
        if self.meet("write"):
            plain(bytes(data)[: max(1, memoryview(data).nbytes // 2)])
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(data)


@contextlib.contextmanager
def counted(at: int = 0, how: str = KILL) -> Iterator[Operations]:
    """Inside, operations on files of this process are counted, and number ``at`` fails."""
    from varlen_lab.files.writing import Noting

    found = Operations(at, how)
    with contextlib.ExitStack() as patches:
        for name in NAMES:
            patches.enter_context(mock.patch.object(os, name, before(found, name, getattr(os, name))))
        plain_write, plain_open = os.write, os.open
        write = lambda handle, data: found.write(lambda some: plain_write(handle, some), data)  # noqa: E731
        patches.enter_context(mock.patch.object(os, "write", write))

        def open_handle(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & WRITES:
                found.meet("create")
            return plain_open(path, flags, *rest, **named)

        patches.enter_context(mock.patch.object(os, "open", open_handle))
        opened = opener(found, io.open)
        for module in (builtins, io):
            patches.enter_context(mock.patch.object(module, "open", opened))
        begin, put = Noting.__init__, Noting.write

        def noting_begin(file: Any, *words: Any, **named: Any) -> None:
            found.meet("create")
            begin(file, *words, **named)

        patches.enter_context(mock.patch.object(Noting, "__init__", noting_begin))
        # beneath Noting.write, so that it notes what went wrong
        patches.enter_context(mock.patch.object(Noting, "write", noted(found, put)))
        for module in safetensors_writers():
            for name in ("save_file", "safe_save_file"):
                if hasattr(module, name):
                    save = tensors_saver(found, getattr(module, name))
                    patches.enter_context(mock.patch.object(module, name, save))
        yield found


def noted(found: Operations, put: Callable[..., int]) -> Callable[..., int]:
    """``Noting.write`` with a strike in it, kept as it keeps every problem."""

    def write(file: Any, data: Any) -> int:
        try:
            return found.write(lambda some: put(file, some), data)
        except BaseException as problem:
            file.problem = file.problem or problem
            raise

    return write


def before(found: Operations, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """``plain``, met first."""

    def call(*words: Any, **named: Any) -> Any:
        found.meet(name)
        return plain(*words, **named)

    return call


def opener(found: Operations, plain: Callable[..., Any]) -> Callable[..., Any]:
    """``open``, whose files tell of every write."""

    class Counted(io.FileIO):
        def write(self, data: Any) -> int:
            return found.write(super().write, data)

    def call(file: Any, mode: str = "r", buffering: int = -1, *words: Any, **named: Any) -> Any:
        kinds = set(mode) & set("wax+")
        if not kinds or isinstance(file, int) or named.get("opener"):
            return plain(file, mode, buffering, *words, **named)
        found.meet("create")
        raw = Counted(file, mode.replace("b", "").replace("t", ""))
        if "b" in mode:
            return raw if buffering == 0 else io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        under: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        text = io.TextIOWrapper(under, *words, **named)
        text.mode = mode  # type: ignore[misc]
        return text

    return call


def safetensors_writers() -> list[Any]:
    """Modules that hold safetensors' writer under a name of theirs."""
    import sys

    import safetensors.torch

    users = ("transformers.modeling_utils", "peft.peft_model", "peft.utils.save_and_load")
    return [safetensors.torch, *(sys.modules[name] for name in users if name in sys.modules)]


def tensors_saver(found: Operations, plain: Callable[..., Any]) -> Callable[..., Any]:
    """safetensors' ``save_file``, which writes a file from Rust: torn, half of it is there."""

    def save(tensors: Any, filename: Any, *words: Any, **named: Any) -> Any:
        from safetensors import SafetensorError

        try:
            torn = found.meet("write")
        except OSError:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)") from None
        given = plain(tensors, filename, *words, **named)
        if torn:
            with io.FileIO(filename, "r+") as file:
                file.truncate(os.stat(filename).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return given

    return save
