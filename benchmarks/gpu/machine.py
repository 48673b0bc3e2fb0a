"""What a benchmark is about to run on, and whether that can do it."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError


def facts_of(device: str, memory: int) -> dict[str, Any]:
    """What the numbers are measured on, asked in a process of its own: the one that forks must not touch the device.

    InputError when the device cannot do what was planned.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # counting GPUs then starts no CUDA
    with ProcessPoolExecutor(1, multiprocessing.get_context(start_method())) as pool:
        return pool.submit(look_here, device, memory).result()


def start_method() -> str:
    """``fork``, which is quick, unless a library has started CUDA here already: then a fork could not use it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return "spawn" if pool.submit(forked_too_late).result() else "fork"


def forked_too_late() -> bool:
    import torch

    return bool(torch.cuda._is_in_bad_fork())


def look_here(device: str, memory: int) -> dict[str, Any]:
    import torch

    from benchmarks.gpu.bench import Bench
    from varlen_lab.machine.environment import cores, processor, version
    from varlen_lab.machine.gpu import GIB, gpu_facts, why_unusable

    facts = gpu_facts()
    if device == "cuda" and (why := why_unusable(facts, memory * GIB)):
        raise InputError(f"{why} (or see on the CPU whether everything runs: python -m benchmarks.gpu --rehearse).")
    kernels = Bench(device, 0.0, Path()).kernels
    packages = ("transformers", "accelerate", "flash-attn", "triton", "datasets", "papermill", "trl", "peft", "numpy")
    return {
        "device": facts.name if device == "cuda" else f"CPU ({processor()}), a rehearsal",
        "memory_gib": round(facts.memory / GIB, 1),
        "capability": ".".join(map(str, facts.capability or ())),
        "driver": facts.driver,
        "cuda": facts.built_for,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cores": cores(),
        "kernels": f"kernels {', '.join(kernels)}",
        "flash_attn": "trimmed build" if trimmed() else version("flash-attn"),
        "packages": {name: version(name) for name in packages},
    }


def trimmed() -> bool:
    """Whether the flash-attn that is installed is our build for one architecture; reports must say so."""
    try:
        files = importlib.metadata.files("flash-attn") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(file.name == "trimmed_build_patch.py" for file in files)


def commit() -> str:
    """The commit that is measured; ``GIT_COMMIT`` where the checkout has no history."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or os.environ.get("GIT_COMMIT", "unknown")
