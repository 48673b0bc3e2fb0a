"""Which backends can do a job here, and which of them ``auto`` takes for a single call: the first of its order.

``why_not`` says in words what keeps a backend from it. For a whole run ``timing`` takes the fastest instead.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from functools import cache
from pkgutil import resolve_name
from typing import NamedTuple

import torch

from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.gpu import GpuFacts


class Job(NamedTuple):
    """What attention is asked to do, and on what: everything a choice depends on."""

    device: str  # cpu, cuda, mps
    dtype: str  # such as bfloat16
    head_dim: int = 64  # the widest of queries and values
    softcap: bool = False
    alibi: bool = False
    window: bool = False
    deterministic: bool = False
    capability: tuple[int, int] | None = None  # of the CUDA device; None: not known, taken to be enough


class Layout(NamedTuple):
    """The attention of a model: heads, widths, and what is done to its scores."""

    heads: int
    key_heads: int
    head_dim: int
    value_dim: int
    softcap: float | None = None
    alibi: bool = False
    window: int | None = None

    def job(self, device: str, dtype: torch.dtype, *, deterministic: bool = False) -> Job:
        """This attention on a device of this machine."""
        return Job(
            device,
            dtype_name(dtype),
            max(self.head_dim, self.value_dim),
            self.softcap is not None,
            self.alibi,
            self.window is not None,
            deterministic,
            capability_of(device),
        )


def why_not(backend: Backend, job: Job) -> str | None:
    """What keeps a backend from a job, without a full stop; None when it can. Imports its kernel if all else fits."""
    if backend.devices is not None and job.device not in backend.devices:
        return f"runs on {' and '.join(backend.devices)}, not on {job.device}"
    if job.capability is not None:
        here = "this card has " + ".".join(map(str, job.capability))
        if job.capability < backend.capability:
            return f"needs compute capability {'.'.join(map(str, backend.capability))}, {here}"
        if backend.newest is not None and job.capability[0] > backend.newest:
            return f"has code up to compute capability {backend.newest}.x, {here}"
    if backend.dtypes is not None and job.dtype not in backend.dtypes:
        return f"runs in {' or '.join(backend.dtypes)}, not in {job.dtype}"
    if backend.widest_head is not None and job.head_dim > backend.widest_head:
        return f"takes head dims up to {backend.widest_head}, not {job.head_dim}"
    cannot = [
        words
        for words, asked, can in (
            ("cap scores (softcap)", job.softcap, backend.softcap),
            ("bias scores (ALiBi)", job.alibi, backend.alibi),
            ("slide a window", job.window, backend.window),
            ("give equal bits again (deterministic)", job.deterministic and job.device != "cpu", backend.deterministic),
        )
        if asked and not can
    ]
    if cannot:
        return f"cannot {' or '.join(cannot)}"
    for module in backend.modules:
        if problem := import_problem(module):
            return problem + (f"; {backend.install}" if backend.install and "not installed" in problem else "")
    if backend.probe and not resolve_name(backend.probe)(job.head_dim, job.dtype, job.softcap, job.alibi):
        return f"this build does not compute head dim {job.head_dim} in {job.dtype}, forward and backward, on this card"
    return None


@cache
def import_problem(module: str) -> str | None:
    """Why a module does not import; None when it does. Its metadata can be there while its compiled part is broken."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as problem:
        missing = problem.name or module
        if module == missing or module.startswith(missing + "."):
            return f"{missing} is not installed"
        return f"{module} does not import ({first_line(problem)})"
    except Exception as problem:  # a kernel built for another torch fails in many ways, all of them mean "not here"
        return f"{module} does not import ({first_line(problem)})"
    return None


def usable(
    device: str, dtype: torch.dtype, head_dim: int = 64, *, softcap: bool = False, alibi: bool = False
) -> Iterator[str]:
    """Names of the backends that can do this here, in the order of ``auto``; those it never takes come last.

    A generator, because to import a kernel takes a second: ``choose`` stops at the first.
    """
    job = Job(device, dtype_name(dtype), head_dim, softcap, alibi, capability=capability_of(device))
    return (backend.name for backend in by_rank() if why_not(backend, job) is None)


def choose(
    device: str,
    dtype: torch.dtype,
    head_dim: int = 64,
    *,
    softcap: float | None = None,
    alibi: bool = False,
    facts: GpuFacts | None = None,
) -> str:
    """The name of the backend ``auto`` takes for tensors like these: the first in its order that can do what is asked.

    ``head_dim``: of the queries. ``facts``: of a machine that is not this one.
    """
    capability = capability_of(device) if facts is None else facts.capability
    return first_of(Job(device, dtype_name(dtype), head_dim, softcap is not None, alibi, capability=capability))


def first_of(job: Job) -> str:
    """The first of ``auto``'s order that can do the job; InputError when none can."""
    for backend in by_rank():
        if backend.auto_rank is not None and why_not(backend, job) is None:
            return backend.name
    raise InputError(f"no attention backend computes {job.dtype} on {job.device}; name one: {', '.join(BACKENDS)}.")


def by_rank() -> list[Backend]:
    """The records in the order of ``auto``, those it never takes last."""
    return sorted(BACKENDS.values(), key=lambda one: math.inf if one.auto_rank is None else one.auto_rank)


def capability_of(device: str) -> tuple[int, int] | None:
    """Compute capability of this machine's CUDA device; None for other devices, and where there is none."""
    return torch.cuda.get_device_capability() if device == "cuda" and torch.cuda.is_available() else None


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> "bfloat16"."""
    return str(dtype).removeprefix("torch.")
