"""Every backend of this device against the readable reference in float64, on lengths nobody would choose.

``errors``    output, dq, dk, dv: the norm of the difference over the norm of the reference, beside what attention of
              each document alone by torch's own kernel loses in the same precision. Limits: 5e-3 for outputs, 1e-2 for
              gradients, and twice that kernel's loss.
``isolated``  with other numbers in the first document, no bit of another document's output changes
``leak``      the gradient of the second document's outputs with respect to the first one's keys and values: 0, exactly
``poison``    the memory the kernel is given holds NaN before: whatever it leaves unwritten shows
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.attention import isolated
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from varlen_lab.attention.dispatch import attend
from varlen_lab.packing.boundaries import Boundaries

LIMITS = {"out": 5e-3, "dq": 1e-2, "dk": 1e-2, "dv": 1e-2}
WINDOW = 100
Case = tuple[tuple[int, int, int], int | None]  # (query heads, key heads, width), window


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a backend, head layout and window; the backend that has to be compiled comes last."""
    row = Boundaries.from_lengths(bench.scale.ugly, bench.device)
    cases = [(heads, window) for heads in layouts(bench) for window in (None, WINDOW)]
    truths: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for backend in bench.kernels:
        for case in cases:
            (query, keys, width), window = case
            name = f"{backend} {query}/{keys} heads of {width}" + (f", window {window}" if window else "")
            check = partial(checked, bench, row, backend, case, truths[case])
            yield {**guarded(bench, name, 25 if backend == "flex" else 3, check), "backend": backend}


def layouts(bench: Bench) -> list[tuple[int, int, int]]:
    """Both widths with grouped heads and with as many keys as queries."""
    if bench.rehearsal:
        return list(bench.scale.heads)
    return [(query, keys, width) for query, keys in ((32, 4), (16, 16)) for width in (64, 128)]


def checked(bench: Bench, row: Boundaries, backend: str, case: Case, truth: list[dict[str, Any]]) -> dict[str, object]:
    """All four checks of one backend. ``truth`` is filled by the first that comes: the reference, torch's errors."""
    heads, window = case
    q, k, v, upstream = tensors(bench, row.total, heads)
    if not truth:
        wide = [x.double().requires_grad_() for x in (q, k, v)]
        truth.append(passes(lambda *x: attend(*x, row, backend="reference", window=window), wide, upstream.double()))
        truth.append({})
        if window is None:  # torch's kernel for one document has no window
            truth[1] = errors(passes(lambda *x: isolated(*x, row), fresh(q, k, v), upstream), truth[0])
    poison(bench, q)
    found = passes(lambda *x: attend(*x, row, backend=backend, window=window), fresh(q, k, v), upstream)
    lost = errors(found, truth[0])
    usual = truth[1]
    bad = [what for what, limit in LIMITS.items() if not lost[what] <= limit]
    bad += [what for what in usual if lost[what] > 2 * usual[what] + 1e-6]
    same, reached = isolation(row, backend, window, (q, k, v))
    return {
        **{f"error {what}": value for what, value in lost.items()},
        **{f"torch's {what}": value for what, value in usual.items()},
        "isolated": same,
        "leak": reached,
        "exact": not bad and same and reached == 0.0,
        "beyond": bad,
    }


def tensors(bench: Bench, total: int, heads: tuple[int, int, int]) -> list[torch.Tensor]:
    """q, k, v and a gradient from above, random, in the precision of the device."""
    query, keys, width = heads
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(total, count, width, generator=generator).to(bench.device, bench.dtype)
        for count in (query, keys, keys, query)
    ]


def fresh(*given: torch.Tensor) -> list[torch.Tensor]:
    return [x.detach().clone().requires_grad_() for x in given]


def passes(
    attention: Callable[..., torch.Tensor], inputs: list[torch.Tensor], upstream: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Forward and backward: out, dq, dk, dv."""
    out = attention(*inputs)
    gradients = torch.autograd.grad(out, inputs, upstream)
    return dict(zip(LIMITS, (out.detach(), *gradients), strict=True))


def errors(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm of the truth; NaN stays NaN, and is above every limit."""
    return {
        what: float((found[what].double() - right).norm() / right.norm().clamp(min=1e-30))
        for what, right in truth.items()
    }


def poison(bench: Bench, like: torch.Tensor) -> None:
    """Fill memory with NaN and give it back, so that the kernel's empty tensors lie in it."""
    blocks = [torch.full_like(like, float("nan")) for _ in range(8)]
    bench.synchronize()
    del blocks


def isolation(row: Boundaries, backend: str, window: int | None, given: tuple[torch.Tensor, ...]) -> tuple[bool, float]:
    """(are other documents bitwise unchanged, how much of the second's gradient reaches the first)."""
    (_, end), (start, stop) = row.spans[3], row.spans[4]  # two neighbours of many tokens
    clean = attend(*given, row, backend=backend, window=window)
    other = [x.clone() for x in given]
    for x in other:
        x[:end] = torch.randn_like(x[:end])
    changed = attend(*other, row, backend=backend, window=window)
    inputs = fresh(*given)
    attend(*inputs, row, backend=backend, window=window)[start:stop].float().sum().backward()
    reached = max(float(x.grad[:end].abs().max()) for x in inputs if x.grad is not None)
    reached = max(reached, *(float(x.grad[stop:].abs().max()) for x in inputs if x.grad is not None))
    return torch.equal(clean[end:], changed[end:]), reached
