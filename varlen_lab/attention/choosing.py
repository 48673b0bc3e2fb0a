"""Which backends can do a job here, and which of them ``auto`` takes for a single call: the first of its order.

``why_not`` says in words what keeps a backend from it. For a whole run ``timing`` takes the fastest instead.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Container, Iterator
from functools import cache
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch

from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.gpu import GpuFacts, capability_of, dtype_name


class Job(NamedTuple):
    """What attention is asked to do, and on what: everything a choice depends on."""

    device: str  # cpu, cuda, mps
    dtype: str  # such as bfloat16
    head_dim: int = 64  # the widest of queries and values
    softcap: bool = False
    alibi: bool = False
    sinks: bool = False
    deterministic: bool = False
    capability: tuple[int, int] | None = None  # of the CUDA device; None: not known, taken to be enough


class AttentionShape(NamedTuple):
    """The attention of a model: heads, widths, what is done to its scores, and whether torch.compile makes a graph."""

    heads: int
    key_heads: int
    head_dim: int
    value_dim: int
    softcap: float | None = None
    alibi: bool = False
    window: int | None = None
    sinks: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, model: Any) -> AttentionShape:
        """Of a transformers model; where layers differ, the widest head.

        A width is what the layers have, where they say it: many configs leave it out, and some layers are wider.
        """
        config, modules = model.config.get_text_config(), list(model.modules())
        heads = getattr(config, "num_attention_heads", None) or 1
        usual = getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads * 64) // heads
        head_dim = max(widths(modules, "qk_head_dim") or widths(modules, "head_dim"), default=usual)
        return cls(
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            head_dim,
            max(widths(modules, "v_head_dim"), default=head_dim),
            getattr(config, "attn_logit_softcapping", None),
            any(hasattr(module, "alibi_slopes") for module in modules),
            getattr(config, "sliding_window", None) or None,
            any(has_sinks(module) for module in modules),
            any(module._compiled_call_impl is not None for module in modules),
        )

    def job(self, device: str, dtype: torch.dtype) -> Job:
        """This attention on a device of this machine, as repeatable as torch was told to be."""
        width = max(self.head_dim, self.value_dim)
        return job_of(device, dtype, width, softcap=self.softcap is not None, alibi=self.alibi, sinks=self.sinks)


def widths(modules: list[Any], name: str) -> list[int]:
    """The widths that layers carry as an attribute of this name."""
    values = [vars(module).get(name) for module in modules]
    return [value for value in values if isinstance(value, int) and value > 0]


def has_sinks(module: Any) -> bool:
    """Whether an attention layer has learned sinks, one a head; where layers differ, heads may too."""
    sinks = getattr(module, "sinks", None)
    return isinstance(sinks, torch.nn.Parameter) and sinks.ndim == 1


def job_of(device: str, dtype: torch.dtype, head_dim: int, *, softcap: bool, alibi: bool, sinks: bool = False) -> Job:
    """A job on this machine, as repeatable as torch was told to be."""
    exactly = torch.are_deterministic_algorithms_enabled()
    return Job(device, dtype_name(dtype), head_dim, softcap, alibi, sinks, exactly, capability_of(device))


def job_of_call(q: torch.Tensor, v: torch.Tensor, options: Options) -> Job:
    """What a call asks of its kernel."""
    width = max(q.shape[-1], v.shape[-1])
    softcap, alibi, sinks = (x is not None for x in (options.softcap, options.alibi_slopes, options.sinks))
    return job_of(q.device.type, q.dtype, width, softcap=softcap, alibi=alibi, sinks=sinks)


def why_not(backend: Backend, job: Job) -> str | None:
    """What keeps a backend from a job, without a full stop; None when it can. Imports its kernel if all else fits."""
    if why := facts_against(backend, job) or import_against(backend):
        return why
    failure = resolve_name(backend.probe)(backend.name, job) if backend.probe else None
    return failure and f"fails at head dim {job.head_dim} in {job.dtype} ({failure})"


def facts_against(backend: Backend, job: Job) -> str | None:
    """What in the record of a backend speaks against a job; nothing is imported."""
    if backend.devices is not None and job.device not in backend.devices:
        return f"runs on {' and '.join(backend.devices)}, not on {job.device}"
    if job.capability is not None:
        here = f"this card has {dotted(job.capability)}"
        if job.capability < backend.capability:
            return f"needs compute capability {dotted(backend.capability)}, {here}"
        if backend.newest is not None and job.capability[0] > backend.newest:
            return f"has code up to compute capability {backend.newest}.x, {here}"
    if backend.dtypes is not None and job.dtype not in backend.dtypes:
        return f"runs in {' or '.join(backend.dtypes)}, not in {job.dtype}"
    if backend.widest_head is not None and job.head_dim > backend.widest_head:
        return f"takes head dims up to {backend.widest_head}, not {job.head_dim}"
    exactly = job.deterministic and job.device != "cpu"
    if exactly and backend.widest_repeatable is not None and job.head_dim > backend.widest_repeatable:
        return f"is repeatable for head dims up to {backend.widest_repeatable}, not for {job.head_dim}"
    cannot = [
        words
        for words, asked, can in (
            ("cap scores (softcap)", job.softcap, backend.softcap),
            ("bias scores (ALiBi)", job.alibi, backend.alibi),
            ("add sinks to the softmax", job.sinks, backend.sinks),
            ("give equal bits again (deterministic)", exactly, backend.deterministic),
        )
        if asked and not can
    ]
    return f"cannot {' or '.join(cannot)}" if cannot else None


def import_against(backend: Backend) -> str | None:
    """What keeps a backend from being imported, with the command that brings it; None when nothing does."""
    for module in backend.modules:
        if problem := import_problem(module):
            return f"cannot be loaded: {problem}" + (f"; {backend.install}" if backend.install else "")
    return None


def refuse_unable(name: str, job: Job) -> None:
    """InputError when a backend that was named cannot do a job, with what keeps it from it."""
    if why := facts_against(BACKENDS[name], job) or import_against(BACKENDS[name]):
        raise InputError(f"attention backend {name!r} {why}; use 'auto', or one that varlen-lab check-env lists.")


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
    except (Exception, SystemExit) as problem:  # a kernel built for another torch fails in many ways
        return f"{module} does not import ({first_line(problem)})"
    return None


def usable(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Names of the backends that run here on heads of 64, in the order of ``auto``; those it never takes come last.

    A generator, because to import a kernel takes a second.
    """
    job = job_of(device, dtype, 64, softcap=False, alibi=False)
    return (backend.name for backend in by_rank() if why_not(backend, job) is None)


def choose(
    device: str,
    dtype: torch.dtype,
    head_dim: int = 64,
    *,
    softcap: float | None = None,
    alibi: bool = False,
    sinks: bool = False,
    facts: GpuFacts | None = None,
) -> str:
    """The name of the backend ``auto`` takes for tensors like these: the first in its order that can do what is asked.

    ``head_dim``: of the queries. ``facts``: of a machine that is not this one. InputError when none can.
    """
    job = job_of(device, dtype, head_dim, softcap=softcap is not None, alibi=alibi, sinks=sinks)
    return first_able(job if facts is None else job._replace(capability=facts.capability))


def first_able(job: Job, without: Container[str] = ()) -> str:
    """The first of ``auto``'s order that can do the job, but for those ``without``; InputError when none can."""
    for backend in by_rank():
        if backend.auto_rank is not None and backend.name not in without and why_not(backend, job) is None:
            return backend.name
    raise InputError(f"no attention backend computes {job.dtype} on {job.device}; name one: {', '.join(BACKENDS)}.")


def by_rank() -> list[Backend]:
    """The records in the order of ``auto``, those it never takes last."""
    return sorted(BACKENDS.values(), key=lambda one: math.inf if one.auto_rank is None else one.auto_rank)


def dotted(capability: tuple[int, int]) -> str:
    """(8, 0) -> "8.0"."""
    return ".".join(map(str, capability))
