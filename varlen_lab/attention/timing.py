"""The kernel for a whole run: the fastest on the run's own seams, and a receipt that says why.

On a GPU the backends that can do it are timed forward and backward, for two seconds together. Their numbers are
compared with the per-document kernel's first: one that computes something else is not taken, however fast it is.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from dataclasses import asdict, dataclass, field
from pkgutil import resolve_name
from typing import Any

import torch

from varlen_lab.attention.choosing import Job, Layout, by_rank, dtype_name, first_of, why_not
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.errors import first_line
from varlen_lab.packing.boundaries import Boundaries

SECONDS = 2.0  # all measuring together
REPEATS = 5  # of one kernel at most, the best counts
APART = 0.05  # norm of the difference over the norm, of outputs and gradients: rounding of fp16 and bf16 is below 0.01
BASELINE = "sdpa"  # torch's own kernel, document by document: what the others must agree with
ORACLE = "reference"
PACKAGES = ("torch", "flash-attn", "flash-attn-3", "flash-attn-4", "kernels", "triton")


@dataclass(frozen=True)
class Choice:
    """The receipt: which backend a run uses, and why."""

    backend: str
    reason: str
    milliseconds: dict[str, float] = field(default_factory=dict)  # forward + backward of one layer
    measured_on: str = ""
    ineligible: dict[str, str] = field(default_factory=dict)  # backend -> what keeps it from this job
    versions: dict[str, str] = field(default_factory=dict)

    def sentence(self) -> str:
        """Such as ``fastest of 3: 1.21 ms beside torch_varlen 1.30, sdpa 9.80``."""
        if len(self.milliseconds) < 2:
            return self.reason
        others = [f"{name} {took:.2f}" for name, took in self.milliseconds.items() if name != self.backend]
        return f"{self.reason}: {self.milliseconds[self.backend]:.2f} ms beside {', '.join(others)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a history and a checkpoint."""
        return asdict(self)


def choose_kernel(
    layout: Layout,
    boundaries: Boundaries,
    device: str,
    dtype: torch.dtype,
    *,
    deterministic: bool = False,
    measuring: bool | None = None,
) -> Choice:
    """The backend for a run whose first batch has these seams, with the receipt.

    ``measuring``: time the eligible kernels, by default on a GPU and only where nothing must be repeatable: times vary
    from run to run, and with them the choice would. InputError when no backend can do it.
    """
    job = layout.job(device, dtype, deterministic=deterministic)
    reasons = {backend.name: not_for_auto(backend, job) for backend in by_rank()}
    eligible = [name for name, reason in reasons.items() if reason is None]
    ineligible = {name: reason for name, reason in reasons.items() if reason is not None}
    if not eligible:
        eligible = [first_of(job)]  # a kernel that is compiled first, where no other can; or InputError
    if measuring is None:
        measuring = device == "cuda" and not deterministic
    times: dict[str, float] = {}
    if measuring and len(eligible) > 1:
        times, failed = measure(eligible, layout, boundaries, device, dtype)
        if device == "cuda":
            torch.cuda.empty_cache()  # the model comes next and may want all of it
        ineligible |= failed
        eligible = sorted(times, key=times.__getitem__) or [first_of(job)]
    if times:
        reason = f"fastest of {len(times)}" if len(times) > 1 else "the only one that ran"
    else:
        reason = "first in the order of auto" + (", nothing is timed: deterministic = True" if deterministic else "")
    return Choice(
        eligible[0],
        reason,
        {name: times[name] for name in eligible if name in times},
        described(layout, boundaries, device, dtype) if times else "",
        {name: why for name, why in ineligible.items() if name != eligible[0]},
        versions(),
    )


def not_for_auto(backend: Backend, job: Job) -> str | None:
    """Why ``auto`` does not time a backend for this job."""
    if reason := why_not(backend, job):
        return reason
    if backend.compiled:
        return "is compiled at its first call, which takes longer than the timing may; name it to use it"
    if backend.name == ORACLE and not job.softcap:
        return "is the slow formula the others are measured against"
    return None if backend.auto_rank is not None else "is taken only when it is named"


def measure(
    names: list[str],
    layout: Layout,
    boundaries: Boundaries,
    device: str,
    dtype: torch.dtype,
    seconds: float = SECONDS,
) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of forward + backward of each kernel on these seams; and why the others have none.

    Begins no kernel after ``seconds``; the baseline comes first, because the others must agree with it.
    """
    begin, times, failed = time.perf_counter(), {}, {}
    given = tensors(layout, boundaries, device, dtype)
    truth: list[torch.Tensor] | None = None
    for name in sorted(names, key=lambda name: name != BASELINE):
        if time.perf_counter() - begin > seconds:
            failed[name] = f"was not timed, the {seconds:g} s for it were over"
            continue
        try:
            found = passes(name, layout, boundaries, given)  # not timed: it loads the kernel
            if truth is not None and (gap := apart(found, truth)) > APART:
                failed[name] = f"computes something else here: {gap:.2g} away from {BASELINE}"
                continue
            truth = found if name == BASELINE else truth
            spent = [clocked(name, layout, boundaries, given)]
            while len(spent) < REPEATS and time.perf_counter() - begin + spent[-1] < seconds:
                spent.append(clocked(name, layout, boundaries, given))
            times[name] = 1000 * min(spent)
        except Exception as problem:  # whatever a kernel throws: this run does without it
            failed[name] = f"failed when it was tried ({first_line(problem)})"
    return times, failed


def tensors(layout: Layout, boundaries: Boundaries, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and a gradient from above, random; the random numbers of the run are left alone."""
    total = boundaries.total
    generator = torch.Generator(device).manual_seed(0)
    shapes = (
        (total, layout.heads, layout.head_dim),
        (total, layout.key_heads, layout.head_dim),
        (total, layout.key_heads, layout.value_dim),
        (total, layout.heads, layout.value_dim),
    )
    return [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]


def passes(name: str, layout: Layout, boundaries: Boundaries, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """Forward and backward of one backend: out, dq, dk, dv."""
    *inputs, upstream = given
    inputs = [x.detach().requires_grad_() for x in inputs]
    slopes = torch.ones(layout.heads, device=upstream.device) if layout.alibi else None
    scale = layout.head_dim**-0.5
    options = Options(scale, window=layout.window, softcap=layout.softcap, alibi_slopes=slopes)
    out = resolve_name(BACKENDS[name].function)(*inputs, boundaries, options)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


def clocked(name: str, layout: Layout, boundaries: Boundaries, given: list[torch.Tensor]) -> float:
    """Seconds of one forward and backward, the device waited for."""
    wait_for(given[0].device)
    begin = time.perf_counter()
    passes(name, layout, boundaries, given)
    wait_for(given[0].device)
    return time.perf_counter() - begin


def wait_for(device: torch.device) -> None:
    """Until the device has done what was queued; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def apart(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    """The largest norm of a difference over the norm; infinite where a number is not finite."""
    gaps = [
        float((mine.float() - right.float()).norm() / right.float().norm().clamp(min=1e-30))
        for mine, right in zip(found, truth, strict=True)
    ]
    return max((gap if math.isfinite(gap) else math.inf) for gap in gaps)


def described(layout: Layout, boundaries: Boundaries, device: str, dtype: torch.dtype) -> str:
    """What was timed, in words."""
    card = torch.cuda.get_device_name() if device == "cuda" else device
    return (
        f"{len(boundaries.lengths):,} documents, {boundaries.total:,} tokens, {layout.heads}/{layout.key_heads} heads "
        f"of {layout.head_dim}, {dtype_name(dtype)}, forward and backward, {card}"
    )


def versions() -> dict[str, str]:
    """Versions of torch and of the packages that bring kernels, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    active = torch.nn.attention.current_flash_attention_impl()
    return found | ({"flash attention of torch": active} if active else {})
