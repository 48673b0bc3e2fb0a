"""Standard streams that never fail: who reads what a command says has no say in what the command does.

A pipe whose reader has gone (``| head``), a terminal that was closed, a full disk behind ``>``: what cannot be written
is dropped, the command does its work to the end, saves what it saves, and its exit code is its own. Only where the
output was to be kept and was not (a full disk) does ``lost_output`` say so, and the command then ends with a sentence.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, TextIO

NOBODY_READS = {errno.EPIPE, errno.EIO, errno.EBADF, errno.EINVAL}  # EIO: a closed terminal; EINVAL: Windows' EPIPE


class UnfailingFile(io.FileIO):
    """A file that takes every byte; from the first one that cannot be written all are dropped."""

    problem: OSError | None = None  # why

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """How many bytes were taken."""
        if self.problem is None:
            try:
                return super().write(data)
            except OSError as problem:
                self.problem = problem
        return len(data)


def unfailing(stream: TextIO) -> TextIO:
    """``stream`` with its encoding and buffering on an ``UnfailingFile``; itself, where it is none of this process."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without buffering there is one layer less
    if type(raw) is not io.FileIO:  # a test's, a notebook's, or the console of Windows, which knows no reader
        return stream
    file = UnfailingFile(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        file if raw is buffer else io.BufferedWriter(file),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=raw is buffer,
    )


def lost_output() -> str | None:
    """Why what was said on stdout is not where it was to be kept; None where it is, and where nobody reads it."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    problem = getattr(getattr(buffer, "raw", buffer), "problem", None)
    return None if problem is None or problem.errno in NOBODY_READS else problem.strerror
