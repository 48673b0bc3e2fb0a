"""What a benchmark is about to run on, and whether that can do it."""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.runner import run_apart
from varlen_lab.errors import InputError

LEAST_CAPABILITY = (8, 0)  # Ampere: what is measured is bf16
ANSWER = 60.0  # seconds in which a device should say its name
PACKAGES = ("transformers", "accelerate", "flash-attn", "triton", "datasets", "papermill", "trl", "peft", "numpy")


def facts_of(device: str, memory: int, method: str = "fork") -> dict[str, Any]:
    """What the numbers are measured on, asked in a process of its own: the one that forks must not touch the device.

    InputError when the device cannot do what was planned, or does not answer.
    """
    found: list[dict[str, Any]] = []
    ended = run_apart(partial(look_here, device, memory), ANSWER, found.append, method)
    if not found:
        last = (ended.traceback.strip().splitlines() or [""])[-1]
        raise InputError(f"the device could not be asked what it is ({ended.how}; {last}); see what nvidia-smi says.")
    if why := found[0].get("unusable"):
        raise InputError(f"{why} (or see on the CPU whether everything runs: python -m benchmarks.gpu --rehearse).")
    return found[0]


def start_method() -> str:
    """``fork``, which is quick, unless a library has started CUDA here already: then a fork could not use it."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # counting GPUs then starts no CUDA
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return "spawn" if pool.submit(forked_too_late).result() else "fork"


def forked_too_late() -> bool:
    import torch

    return bool(torch.cuda._is_in_bad_fork())


def look_here(device: str, memory: int) -> Iterator[dict[str, Any]]:
    """The facts, once, or why there is no GPU that can be used: none, too old, too little memory."""
    from benchmarks.gpu.bench import LEFT_OUT, Bench
    from varlen_lab.attention.choosing import job_of, why_not
    from varlen_lab.attention.registry import BACKENDS
    from varlen_lab.machine.environment import cores, processor, version
    from varlen_lab.machine.gpu import GIB, gpu_facts, why_unusable

    facts = gpu_facts()
    if device == "cuda" and (why := why_unusable(facts, memory * GIB, LEAST_CAPABILITY)):
        yield {"unusable": why}
        return
    bench = Bench(device, 0.0, Path())
    job = job_of(device, bench.dtype, 64, softcap=False, alibi=False)
    reasons = {one.name: why_not(one, job) for one in BACKENDS.values() if one.name not in LEFT_OUT}
    yield {
        **asdict(facts),
        "device": facts.name if device == "cuda" else f"CPU ({processor()}), a rehearsal",
        "python": platform.python_version(),
        "cores": cores(),
        "kernels": bench.kernels,
        "not_here": {name: why for name, why in reasons.items() if why},
        "packages": {name: version(name) for name in PACKAGES},
    }


def commit() -> str:
    """The commit that is measured: ``GIT_COMMIT`` where it is set, for a copy may have no history, or an older one."""
    status, said = subprocess.getstatusoutput("git rev-parse --short HEAD")
    return os.environ.get("GIT_COMMIT") or (said if status == 0 else "unknown")
