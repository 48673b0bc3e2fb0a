"""The kernel for a whole run: the fastest on the run's own seams, and a receipt that says why.

On a GPU the backends that can do it are timed forward and backward, for two seconds together. Each is first compared
with the oracle on a short row, and with torch's own kernel on the run's: one that computes something else is not taken,
however fast it is.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pkgutil import resolve_name

import torch

from varlen_lab.attention.choosing import AttentionShape, Job, by_rank, first_able, why_not
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.environment import version
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.packing.boundaries import Boundaries

SECONDS = 2.0  # all timing together
REPEATS = 5  # of one kernel at most, the best counts
TOLERANCE = 0.03  # of a difference, as a share: rounding of bf16 is below 0.01
ORACLE = "reference"
BASELINE = "sdpa"  # what the oracle is too slow for: the run's own row
CHECKED = (3, 1, 200, 64, 130, 40, 7)  # documents every kernel is asked about, whatever the run's own are like
CHECKED_WINDOW = 100  # at most: two of them reach beyond it
PACKAGES = ("torch", "flash-attn", "flash-attn-3", "flash-attn-4", "kernels", "triton")


@dataclass(frozen=True)
class Choice:
    """The receipt: which backend a run uses, and why."""

    backend: str
    reason: str
    milliseconds: dict[str, float] = field(default_factory=dict)  # forward + backward of one layer, the fastest first
    measured_on: str = ""
    ineligible: dict[str, str] = field(default_factory=dict)  # backend -> what keeps it from this job
    versions: dict[str, str] = field(default_factory=dict)

    def sentence(self) -> str:
        """Such as ``fastest of 3: 1.21 ms beside torch_varlen 1.30, sdpa 9.80``."""
        if len(self.milliseconds) < 2:
            return self.reason
        others = [f"{name} {took:.2f}" for name, took in self.milliseconds.items() if name != self.backend]
        return f"{self.reason}: {self.milliseconds[self.backend]:.2f} ms beside {', '.join(others)}"


def choose_kernel(
    shape: AttentionShape, boundaries: Boundaries, device: str, dtype: torch.dtype, *, measuring: bool | None = None
) -> Choice:
    """The backend for a run whose first batch has these seams, with the receipt. InputError when none can do it.

    ``measuring``: time the eligible kernels, by default on a GPU and only where torch was not told to be repeatable:
    times vary from run to run, and with them the choice would.
    """
    job = shape.job(device, dtype)
    reasons = {backend.name: not_timed(backend, job) for backend in by_rank()}
    eligible = [name for name, reason in reasons.items() if reason is None]
    against = {name: why for name, why in reasons.items() if why is not None}
    if measuring is None:
        measuring = device == "cuda" and not job.deterministic
    times: dict[str, float] = {}
    failed: dict[str, str] = {}
    if measuring and len(eligible) > 1:
        times, failed, late = measure(eligible, shape, boundaries, device, dtype)
        against |= failed | dict.fromkeys(late, f"was not timed, the {SECONDS:g} s for it were over")
    if len(times) > 1:
        backend, reason = next(iter(times)), f"fastest of {len(times)}"
    else:  # too little to compare, or a kernel must be compiled first: the order of auto knows
        backend = first_able(job, without=failed)
        reason = "first in the order of auto" + (f", after {' and '.join(failed)} failed" if failed else "")
        reason += ", nothing is timed: deterministic = True" if job.deterministic else ""
    return Choice(
        backend,
        reason,
        milliseconds=times,
        measured_on=described(shape, boundaries, device, dtype) if times else "",
        ineligible={name: why for name, why in against.items() if name != backend},
        versions=versions(),
    )


def not_timed(backend: Backend, job: Job) -> str | None:
    """Why a backend is not timed for a job; None when it is."""
    if reason := why_not(backend, job):
        return reason
    if backend.auto_rank is None:
        return "is taken only when it is named"
    if backend.compiled:
        return "is compiled at its first call, which takes longer than the timing may; name it to use it"
    return "is the slow formula the others are measured against" if backend.name == ORACLE else None


def measure(
    names: list[str],
    shape: AttentionShape,
    boundaries: Boundaries,
    device: str,
    dtype: torch.dtype,
    seconds: float = SECONDS,
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Milliseconds of forward + backward of each kernel on these seams, the fastest first; why others failed; the rest.

    Begins no kernel after ``seconds``, and those of the best rank come first. Before it is timed a kernel must agree
    with the oracle on a short row, and on the run's own with torch's kernel for one document. InputError when one stops
    the device.
    """
    small = Boundaries.from_lengths(CHECKED, device)
    narrowed = shape._replace(window=shape.window and min(shape.window, CHECKED_WINDOW))
    few, whole = (tensors(shape, row.total, device, dtype) for row in (small, boundaries))
    truth = forward_backward(ORACLE, narrowed, small, [x.float() for x in few])
    baseline = None
    if BASELINE in names and fits(forward_backward_or_none(BASELINE, narrowed, small, few), truth):
        baseline = forward_backward_or_none(BASELINE, shape, boundaries, whole)
    begin, times, failed, late = time.perf_counter(), {}, {}, []
    for name in names:
        if time.perf_counter() - begin > seconds:
            late.append(name)
            continue
        try:
            gap = difference(forward_backward(name, narrowed, small, few), truth)
            found = forward_backward(name, shape, boundaries, whole)  # not timed: memory is taken, kernels are loaded
            other = 0.0 if baseline is None else difference(found, baseline)
            if max(gap, other) > TOLERANCE:
                told = f"{gap:.2g} away from the {ORACLE}" if gap > TOLERANCE else f"{other:.2g} away from {BASELINE}"
                failed[name] = f"computes something else here: {told}"
                continue
            spent = [seconds_of(name, shape, boundaries, whole)]
            while len(spent) < REPEATS and time.perf_counter() - begin + spent[-1] < seconds:
                spent.append(seconds_of(name, shape, boundaries, whole))
            times[name] = 1000 * min(spent)
        except Exception as problem:  # whatever a kernel throws: this run does without it
            failed[name] = f"failed when it was tried ({first_line(problem)})"
            refuse_dead_device(name, device, problem)
    if device == "cuda":
        torch.cuda.empty_cache()  # the model comes next and may want all of it
    return {name: times[name] for name in sorted(times, key=times.__getitem__)}, failed, late


def forward_backward_or_none(
    name: str, shape: AttentionShape, boundaries: Boundaries, given: list[torch.Tensor]
) -> list[torch.Tensor] | None:
    """``forward_backward``; None where it cannot, or where a number is not finite: then it can judge nobody."""
    try:
        found = forward_backward(name, shape, boundaries, given)
    except Exception:
        return None
    return found if all(bool(x.isfinite().all()) for x in found) else None


def fits(found: list[torch.Tensor] | None, truth: list[torch.Tensor]) -> bool:
    """Whether there are numbers, and they are the truth up to rounding."""
    return found is not None and difference(found, truth) <= TOLERANCE


def refuse_dead_device(name: str, device: str, problem: Exception) -> None:
    """InputError when a device answers no more: after an illegal access nothing can run in this process."""
    try:
        wait_for(torch.device(device))
    except Exception:
        raise InputError(
            f"attention backend {name!r} stopped the device when it was tried ({first_line(problem)}); start again "
            "with another one, such as attn_backend = 'sdpa'."
        ) from None


def tensors(shape: AttentionShape, total: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and the gradient of the output, random; the random numbers of the run are left alone."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = (
        (total, shape.heads, shape.head_dim),
        (total, shape.key_heads, shape.head_dim),
        (total, shape.key_heads, shape.value_dim),
        (total, shape.heads, shape.value_dim),
    )
    return [torch.randn(size, generator=generator, device=device).to(dtype) for size in sizes]


def forward_backward(
    name: str, shape: AttentionShape, boundaries: Boundaries, given: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Output and the gradients of q, k and v by one backend, for ``tensors``; before them that of sinks, if any.

    In a graph the backward pass of a kernel that is not traced computes the output once more, and so does this.
    """
    *inputs, upstream = given
    inputs = [x.detach().requires_grad_() for x in inputs]
    slopes = torch.logspace(-1, -8, shape.heads, base=2, device=upstream.device) if shape.alibi else None
    sinks = torch.linspace(-1, 2, shape.heads, device=upstream.device, requires_grad=True) if shape.sinks else None
    options = Options(shape.head_dim**-0.5, True, shape.window, shape.softcap, slopes, sinks)
    learned = inputs if sinks is None else [sinks, *inputs]
    for _ in range(2 if shape.compiled and BACKENDS[name].traced is None else 1):
        out = resolve_name(BACKENDS[name].function)(*inputs, boundaries, options)
    return [out.detach(), *torch.autograd.grad(out, learned, upstream)]


def seconds_of(name: str, shape: AttentionShape, boundaries: Boundaries, given: list[torch.Tensor]) -> float:
    """Of one ``forward_backward``, the device waited for."""
    wait_for(given[0].device)
    begin = time.perf_counter()
    forward_backward(name, shape, boundaries, given)
    wait_for(given[0].device)
    return time.perf_counter() - begin


def wait_for(device: torch.device) -> None:
    """Until the device has done what was queued; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def difference(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    """How far output and gradients are from the truth, as a share; infinite where a number is not finite.

    The L2 norm of a difference over that of the truth: for the output of each token by itself, because late tokens are
    small and a leak there would drown; for a gradient as a whole, because many tokens have next to none.
    """
    (out, *gradients), (right, *rights) = ([x.float() for x in tensors] for tensors in (found, truth))
    gaps = [((out - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1).clamp(min=1e-30)).max()]
    least = rights[-1].norm() / 4  # documents of one token have no gradient of q and k: what is left is rounding
    gaps += [(mine - other).norm() / other.norm().clamp(min=least) for mine, other in zip(gradients, rights)]
    return max(float(gap) if torch.isfinite(gap) else math.inf for gap in gaps)


def described(shape: AttentionShape, boundaries: Boundaries, device: str, dtype: torch.dtype) -> str:
    """What was timed, in words."""
    card = torch.cuda.get_device_name() if device == "cuda" else device
    return (
        f"{len(boundaries.lengths):,} documents, {boundaries.total:,} tokens, {shape.heads}/{shape.key_heads} heads "
        f"of {shape.head_dim}, {dtype_name(dtype)}, forward and backward{' in a graph' * shape.compiled}, {card}"
    )


def versions() -> dict[str, str]:
    """Versions of torch and of the packages that bring kernels, where they are installed."""
    found = {package: known for package in PACKAGES if (known := version(package))}
    active = torch.nn.attention.current_flash_attention_impl()
    return found | ({"flash attention of torch": active} if active else {})
