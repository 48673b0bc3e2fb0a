"""The command in consoles one has not got: another encoding, a pipe without a reader, a full disk, a terminal.

``Consoles`` starts one Python that has imported what verbs import; for each run it forks, and the copy sets its
standard streams up as a Python does that starts in that console, and is the command. A run costs no imports.
Run as a program, this file is that Python: a job a line on stdin, an exit code a line on stdout.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOSED, GONE, FULL = "closed", "gone", "/dev/full"  # a stream that is closed, a pipe without a reader, a full disk


@dataclass(frozen=True)
class Shown:
    """What came of a run: its exit code, and what its console got."""

    code: int
    out: bytes
    err: bytes

    @property
    def traceback(self) -> bool:
        return b"Traceback" in self.out + self.err or b"Exception ignored" in self.err


class Consoles:
    """Runs of the command, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0"}
        self.python = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.lock = threading.Lock()

    def run(self, *words: str, out: str = "", err: str = "", terminal: int = 0, **environment: str) -> Shown:
        """``varlen-lab WORDS`` in ``folder``. ``out``, ``err``: CLOSED, GONE or FULL, else what is written is kept.

        ``terminal``: both are one of so many columns. ``environment``: ``PYTHONIOENCODING`` and others.
        """
        kept = [self.folder / "out.txt", self.folder / "err.txt"]
        for file in kept:
            file.write_bytes(b"")
        job = {"words": words, "out": out or str(kept[0]), "err": err or str(kept[1]), "terminal": terminal}
        job |= {"environment": {"PYTHONIOENCODING": "utf-8", **environment}, "folder": str(self.folder)}
        assert self.python.stdin and self.python.stdout
        self.python.stdin.write(json.dumps(job) + "\n")
        self.python.stdin.flush()
        code = int(self.python.stdout.readline())
        return Shown(code, kept[0].read_bytes(), kept[1].read_bytes())

    def close(self) -> None:
        """End the other Python."""
        assert self.python.stdin and self.python.stdout
        self.python.stdin.close()
        self.python.wait()
        self.python.stdout.close()


def serve() -> None:
    """Take jobs until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_what_verbs_import()
    for line in sys.stdin:
        print(answered(json.loads(line)), file=answers, flush=True)
    os._exit(0)  # taking down what was imported takes seconds


def import_what_verbs_import() -> None:
    """Once, for all."""
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import rich.progress  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import varlen_lab.cli
    import varlen_lab.leaks.rows
    import varlen_lab.studies.comparison
    import varlen_lab.training.trainer  # noqa: F401


def answered(job: dict[str, Any]) -> int:
    """The exit code of a job, which a copy of this process does."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty() if job["terminal"] else (-1, -1)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            be_the_command(job, theirs)
        os._exit(99)
    if job["terminal"]:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, job["terminal"], 0, 0))
        os.close(theirs)
        with open(job["out"], "wb") as file, contextlib.suppress(OSError):  # the end of a terminal is an error
            while data := os.read(ours, 1 << 16):
                file.write(data)
        os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def be_the_command(job: dict[str, Any], terminal: int) -> None:
    """Never comes back."""
    os.environ.pop("COLUMNS", None)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.stdin = open(os.devnull)  # noqa: SIM115
    encoding, _, errors = job["environment"]["PYTHONIOENCODING"].partition(":")
    for number, name in ((1, "out"), (2, "err")):
        stream = None
        if job[name] == CLOSED:
            os.close(number)
        else:
            os.dup2(terminal if terminal > 0 else opened(job[name]), number)
            file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
            errors = errors or ("strict" if number == 1 else "backslashreplace")
            stream = io.TextIOWrapper(file, encoding, errors, line_buffering=number == 2 or terminal > 0)
        setattr(sys, f"std{name}", stream)
        setattr(sys, f"__std{name}__", stream)
    from varlen_lab.cli import main

    sys.argv = ["varlen-lab", *map(os.fsdecode, job["words"])]
    try:
        code = main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):  # as Python does at its end
        if stream is not None:
            try:
                stream.flush()
            except Exception:
                code = 120
    os._exit(code)


def opened(place: str) -> int:
    """A file descriptor to write to."""
    if place != GONE:
        return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    read, write = os.pipe()
    os.close(read)
    return write


if __name__ == "__main__":
    serve()
