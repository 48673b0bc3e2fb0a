"""The ways to a varlen kernel on a machine: which are there, which would fit, the command, what each cannot do.

A machine is its ``GpuFacts``, so that one has not got can be shown: nothing here asks CUDA. Of this machine a kernel is
"here" when it really imports; of another one, only what comes with torch is taken to be there.

``here``    can be used            ``fits``   would run on this card and is not installed
``broken``  installed, and its import fails   ``no``  this device or card cannot run it
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from varlen_lab.attention.choosing import Job, by_rank, facts_against, import_problem
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.machine.gpu import DTYPES, GpuFacts, automatic_device, automatic_dtype, flash_attn_wheel, why_unusable

AGAIN = "pip install --force-reinstall --no-deps --no-cache-dir"  # pip leaves alone what it finds installed
WITH_TORCH = ("torch", "triton")  # triton comes with torch's builds for CUDA
# torch's name of an implementation -> the backend whose package it needs, and what is good to know
TORCH_RUNS = {
    "FA3": ("flash_attn_3", ""),
    "FA4": ("flash_attn_4", "torch 2.13 and flash-attn 4.0.0b36 do not fit together: name flash_attn_4 instead"),
}


State = Literal["here", "fits", "broken", "no"]


class Route(NamedTuple):
    """One way to a kernel on one machine."""

    name: str  # of the backend; "torch_varlen on FA3" where torch runs another's kernel
    state: State
    why: str = ""  # why not, or what is broken
    command: str = ""  # the one command that brings it, or mends it
    cannot: tuple[str, ...] = ()
    note: str = ""

    def sentence(self) -> str:
        """Such as ``would run here; cannot fp32, head dims above 256; downloaded at its first call``; no command."""
        parts = {"here": "here", "fits": "would run here", "broken": self.why, "no": f"no: {self.why}"}
        limits = f"cannot {', '.join(self.cannot)}" if self.cannot and self.state != "no" else ""
        return "; ".join(part for part in (parts[self.state], limits, self.note) if part)


def kernel_routes(
    facts: GpuFacts, device: str | None = None, dtype: str | None = None, *, this: bool = True
) -> list[Route]:
    """The routes of a machine, in the order in which ``auto`` tries them; what is only taken when named comes last.

    ``device`` and ``dtype`` (fp32, bf16, fp16): by default what ``auto`` takes there. ``this``: False for a machine
    that is not this one, where only what comes with torch is installed.
    """
    device = device or automatic_device(facts)
    job = Job(device, DTYPES[dtype or automatic_dtype(device, facts)], capability=facts.capability)
    problem = import_problem if this else not_with_torch
    found = [route(backend, job, facts, problem) for backend in by_rank()]
    return found + list(torch_routes({one.name: one for one in found}, this))


def route(backend: Backend, job: Job, facts: GpuFacts, problem: Callable[[str], str | None]) -> Route:
    """How one backend stands to one machine."""
    # the record first: a kernel that could not run here is not imported to learn whether it could be
    why = facts_against(backend, job)
    if why is None and job.device == "cuda":
        why = why_unusable(facts)
    if why:
        return Route(backend.name, "no", why)
    cannot, note = tuple(limits(backend)), notes(backend)
    problems = [(module, said) for module in backend.modules if (said := problem(module))]
    if not problems:
        return Route(backend.name, "here", "", "", cannot, note)
    module, said = problems[0]
    if backend.name == "flash_attn":
        note = f"nothing is compiled with a wheel named {flash_attn_wheel(facts)}"
    state: State = "fits" if "not installed" in said else "broken"
    return Route(backend.name, state, said, command(backend, module, state, facts), cannot, note)


def limits(backend: Backend) -> Iterator[str]:
    """What a backend cannot do, from its record."""
    if not backend.softcap:
        yield "softcap"
    if not backend.alibi:
        yield "ALiBi"
    if backend.dtypes is not None and "float32" not in backend.dtypes:
        yield "fp32"
    if backend.widest_head is not None:
        yield f"head dims above {backend.widest_head}"
    if not backend.sinks:
        yield "sinks"
    if not backend.deterministic:
        yield "equal bits again"


def notes(backend: Backend) -> str:
    """What is good to know before the first call."""
    if backend.compiled:
        return "compiled at its first call"
    return "downloaded at its first call" if backend.downloaded else ""


def command(backend: Backend, module: str, state: State, facts: GpuFacts) -> str:
    """The command that brings a backend, or the module of it that is missing; once more, where it is broken."""
    if backend.install is None:
        return f"pip install --upgrade {module.partition('.')[0]}"
    found = backend.install
    if backend.name == "flash_attn_4" and (facts.built_for or "").startswith("13"):
        found = 'pip install --pre "flash-attn-4[cu13]"'  # for a torch built for CUDA 13
    return found if state == "fits" else found.replace("pip install", AGAIN, 1)


def torch_routes(known: dict[str, Route], this: bool) -> Iterator[Route]:
    """``torch_varlen`` on another's kernel, by ``activate_flash_attention_impl``; ``known``: the routes so far."""
    active = torch.nn.attention.current_flash_attention_impl() if this else None
    ours = known["torch_varlen"]
    for name in torch.nn.attention.list_flash_attention_impls():
        backend, note = TORCH_RUNS.get(name, ("", ""))
        if backend not in known:  # an implementation that is news to us
            continue
        theirs = known[backend]
        if "no" in (ours.state, theirs.state):
            yield Route(f"torch_varlen on {name}", "no", theirs.why or ours.why)
            continue
        widest = min(BACKENDS[one].widest_head or sys.maxsize for one in (ours.name, theirs.name))
        state: State = "here" if name == active else "fits"
        call = f'torch.nn.attention.activate_flash_attention_impl("{name}")'
        yield Route(
            f"torch_varlen on {name}",
            state,
            "",
            call if theirs.state == "here" else f"{call}, once {backend} is there",
            tuple(limits(replace(BACKENDS[ours.name], widest_head=widest))),
            note,
        )


def not_with_torch(module: str) -> str | None:
    """Why a module would be missing on a machine that has torch and nothing else."""
    root = module.partition(".")[0]
    return None if root in WITH_TORCH else f"{root} is not installed"
