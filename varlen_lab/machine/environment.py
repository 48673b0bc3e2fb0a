"""Facts about this machine: Python, packages, processor, accelerator, memory in use, disk. It decides nothing.

Versions are read from the installed metadata, which costs milliseconds. torch is imported only where a fact
needs it (CUDA, threads).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from varlen_lab.machine.gpu import GIB, automatic_device, automatic_dtype, gpu_facts, why_unusable

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")


class Row(NamedTuple):
    """One line of a report: ``ok``, a ``note`` (works, but know this) or ``missing`` (this cannot work)."""

    name: str
    value: str
    state: Literal["ok", "note", "missing"] = "ok"
    command: str = ""  # that changes it


def version(package: str) -> str | None:
    """The installed version of ``package``, or None; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_in_words() -> str:
    """Such as ``1 core`` or ``8 cores``."""
    return f"{cores()} {'cores' if cores() > 1 else 'core'}"


def accelerator() -> str | None:
    """The first CUDA device's name and memory, or None. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    more = f", {count} of them" if count > 1 else ""
    return f"{facts.name}, {facts.total_memory / GIB:.0f} GiB{more}"


def summary() -> dict[str, str]:
    """What a figure or a page should say about where it was made: versions and device."""
    facts = {"Python": platform.python_version()}
    facts.update({name: version(name) or "missing" for name in ("torch", "transformers")})
    facts["device"] = accelerator() or f"CPU, {cores_in_words()}"
    return facts


def survey() -> Iterator[Row]:
    """The rows of ``check-env`` that are about the machine; those about attention are the command's own."""
    yield Row("Python", f"{platform.python_version()} ({sys.executable})")
    for package in PACKAGES:
        found = version(package)
        yield Row(package, found or f"missing: pip install {package}", "ok" if found else "missing")
    yield from device_rows()
    yield Row("CPU", f"{processor()}, {cores_in_words()}")
    yield memory_row()
    free = shutil.disk_usage(Path.cwd()).free / GIB
    yield Row("disk", f"{free:.0f} GiB free here", "ok" if free > 3 else "note")


def device_rows() -> Iterator[Row]:
    """The GPUs, what ``auto`` takes of them, and torch's threads; only the fault when torch does not import."""
    try:
        import torch

        device = accelerator()
    except Exception as problem:  # a torch that cannot load is what check-env must report
        yield Row("torch import", f"fails: {problem}", "missing")
        return
    facts = gpu_facts()
    why = why_unusable(facts)
    if facts.driver is None and not facts.usable:
        yield Row("CUDA device", "none", "note")
    else:
        yield Row("CUDA device", why or str(device), "note" if why else "ok")
    if facts.mps:
        yield Row("Apple GPU", "there: device = 'mps' takes it, with per-document sdpa")
    taken = automatic_device(facts)
    slow = "; no bf16 on this card" if taken == "cuda" and not facts.has_bf16 else ""
    yield Row("auto takes", f"device {taken}, dtype {automatic_dtype(taken, facts)}{slow}")
    yield Row("torch threads", str(torch.get_num_threads()))


def memory_row() -> Row:
    """Total memory; the lessons need about 3 GiB."""
    import psutil

    total = psutil.virtual_memory().total / GIB
    return Row("memory", f"{total:.1f} GiB", "ok" if total >= 4 else "note")


def reset_peak_memory() -> None:
    """Forget earlier peaks, so that ``peak_memory`` speaks of what comes now; on a CPU only Linux can."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii", newline="\n")


def peak_memory() -> int:
    """The most bytes in use since ``reset_peak_memory``: of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"))
        return int(found[1]) * 1024 if found else 0
    except OSError:  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    # macOS counts bytes, the others kB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
