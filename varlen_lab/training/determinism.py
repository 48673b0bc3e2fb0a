"""``deterministic = True``: the same run gives the same bits again, on a GPU too, or is refused in one sentence.

A GPU adds up where threads meet in the order in which they arrive, and floats added in another order end in other
bits. So do several threads of a CPU, but only where a token is gathered many times, as by a mixture of experts that
sends it to three experts or more: every other run on a CPU gives the same bits without this setting.

``torch_compile`` is repeatable too: torch's compiler then chooses nothing by timing. On a CPU a compiled run also went
on from a checkpoint in the same bits. On a GPU kernels are shaped after the first rows the compiler meets, and a run
that goes on meets others first: there a compiled run is promised to repeat from its start only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from varlen_lab.errors import InputError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # read once, at the first matrix product of a process
REPEATABLE_WORKSPACES = (":4096:8", ":16:8")  # what NVIDIA promises equal bits for
CANNOT = re.compile(r"(\S+) does not have a deterministic implementation")  # in torch's own words


@contextmanager
def repeatable(wanted: bool, device: str) -> Iterator[None]:
    """Inside, torch takes the algorithms that give the same bits again, if ``wanted``; afterwards all is as it was.

    ``device``: cpu, cuda or mps. To be entered before the first tensor is on a GPU. InputError for an operation that
    has no such algorithm, and for a device on which nobody promises it.
    """
    if not wanted:
        yield
        return
    if device == "mps":
        raise InputError(
            "deterministic = True was set and device is 'mps', where torch does not promise equal bits; set "
            "deterministic = False, or device = 'cpu'."
        )
    with repeatable_cublas(device), repeatable_torch():
        try:
            yield
        except RuntimeError as problem:
            if sentence := what_cannot(problem, device):
                raise InputError(sentence) from None
            raise


@contextmanager
def repeatable_torch() -> Iterator[None]:
    """torch's own switches, put back afterwards."""
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # a module with a property, which mypy does not know
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        # without the last, torch writes NaN into every new tensor: it costs an eighth of the loss over a large
        # vocabulary, and changes only what reads memory that nothing was written to
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, False
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = before


@contextmanager
def repeatable_cublas(device: str) -> Iterator[None]:
    """The variable without which cuBLAS promises nothing; InputError when it comes too late, or says something else."""
    found = os.environ.get(CUBLAS)
    if device != "cuda" or found in REPEATABLE_WORKSPACES:
        yield
        return
    if found is not None:
        raise InputError(
            f"{CUBLAS} is {found!r}, with deterministic = True it must be {' or '.join(REPEATABLE_WORKSPACES)}; set it "
            "so before the program starts, or leave it unset."
        )
    if gpu_was_used():
        raise InputError(too_late())
    os.environ[CUBLAS] = REPEATABLE_WORKSPACES[0]
    try:
        yield
    finally:
        # once read it holds for this process; it stays, and says so to the next run
        if not gpu_was_used():
            del os.environ[CUBLAS]


def gpu_was_used() -> bool:
    """Whether this process ever had a tensor on a CUDA device: without one, cuBLAS has not been started."""
    if not torch.cuda.is_initialized():
        return False
    devices = range(torch.cuda.device_count())
    return any(torch.cuda.memory_stats(one).get("allocated_bytes.all.allocated", 0) for one in devices)


def too_late() -> str:
    """The sentence for a process whose cuBLAS was started without its variable."""
    return (
        f"deterministic = True needs the environment variable {CUBLAS} before a GPU is first used, and this process "
        f"has used one without; set {CUBLAS}={REPEATABLE_WORKSPACES[0]} before the program or the notebook's kernel "
        "starts, or set deterministic = False."
    )


def what_cannot(problem: RuntimeError, device: str) -> str | None:
    """The sentence for an operation that torch refused to repeat; None when the error is another one."""
    if CUBLAS in str(problem):
        return too_late()
    if not (found := CANNOT.search(str(problem))):
        return None
    elsewhere = "" if device == "cpu" else ", or device = 'cpu'"
    return (
        f"deterministic = True was set and torch has no {found[1]} on {device} that gives the same bits again; set "
        f"deterministic = False{elsewhere}."
    )
