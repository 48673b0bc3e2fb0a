"""Facts of machines one has not got, and the GPU benchmark's work on this one."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.gpu.bench import Bench
from varlen_lab.machine.gpu import GIB, GpuFacts

CODE = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")  # of PyPI's torch for CUDA 13


def card(name: str, capability: tuple[int, int], gib: int) -> GpuFacts:
    """A machine with one NVIDIA card, its driver and a torch for CUDA 13."""
    return GpuFacts("2.11.0+cu130", "13.0", "580.159", "13.0", True, name, capability, CODE, gib * GIB)


T4, A100 = card("Tesla T4", (7, 5), 15), card("NVIDIA A100", (8, 0), 79)
H100, B200 = card("NVIDIA H100", (9, 0), 79), card("NVIDIA B200", (10, 0), 179)
M2 = GpuFacts("2.13.0", mps=True, name="Apple M2")
LAPTOP = GpuFacts("2.13.0+cpu")


def rehearsing(folder: Path, seconds: float = 60) -> Bench:
    """What a section of the GPU benchmark is given in a rehearsal."""
    return Bench("cpu", time.monotonic() + seconds, folder, rehearsal=True)
