"""The most memory this process had since ``restart``: of the GPU where there is one, else of the process itself."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import torch


def restart() -> None:
    """Forget earlier peaks; on a CPU only Linux can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or not allowed: peak() is then that of the whole life
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes. On a CPU this counts the whole process, Python and libraries included."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else 0
    except OSError:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
