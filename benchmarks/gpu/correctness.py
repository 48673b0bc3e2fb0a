"""Every backend of this device against the readable reference in float64, on lengths nobody would choose.

``errors``    output, dq, dk, dv: the norm of the difference over the norm of the reference, beside what attention of
              each document alone by torch's own kernel loses in the same precision. Limits: 5e-3 for outputs, 1e-2 for
              gradients, and twice that kernel's loss.
``isolated``  with other numbers in the first documents, no bit of another document's output changes
``leak``      the gradient of one document's outputs with respect to the others' queries, keys and values: 0, exactly
``poison``    the memory the kernel is given holds NaN before: whatever it leaves unwritten shows

A backend that misses one of them is ``wrong``, and the cell says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product
from typing import Any

import torch

from benchmarks.gpu.bench import COMPILING, Bench, row_of
from benchmarks.gpu.store import EACH, ORACLE, Cell
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.timing import forward_backward, tensors
from varlen_lab.packing.boundaries import Boundaries

LIMITS = {"out": 5e-3, "dq": 1e-2, "dk": 1e-2, "dv": 1e-2}
WINDOW = 100


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a backend, head layout and window; those that have to be compiled come late, those found unfit last."""
    row, layouts = row_of(bench.scale.ugly, bench.device), list(product((None, WINDOW), bench.scale.heads))
    for (_, compiled), kernels in groupby(bench.kernels, key=bench.rank):
        for (window, (query, keys, width)), kernel in product(layouts, kernels):
            name = f"{kernel} {query}/{keys} heads of {width}" + (f", window {window}" if window else "")
            shape = AttentionShape(query, keys, width, width, window=window)
            yield from bench.cell(name, COMPILING if compiled else 3, checked, row, kernel, shape, kernel=kernel)


def checked(bench: Bench, row: Boundaries, kernel: str, shape: AttentionShape) -> dict[str, Any]:
    """All four checks of one backend."""
    given = tensors(shape, row.total, bench.device, bench.dtype)
    truth = forward_backward(ORACLE, shape, row, [x.double() for x in given])
    usual = errors(forward_backward(EACH, shape, row, given), truth)
    poison = [torch.full_like(given[0], float("nan")) for _ in range(8)]
    del poison  # the kernel's empty tensors lie in it now
    lost = errors(forward_backward(kernel, shape, row, given), truth)
    same, reached = isolation(row, kernel, shape.window, given[:3])
    limits = {what: min(most, 2 * usual[what] + 1e-6) for what, most in LIMITS.items()}
    bad = [f"error {what} {lost[what]:.1e} above {most:.1e}" for what, most in limits.items() if not lost[what] <= most]
    bad += [] if same else ["other documents' outputs change"]
    bad += [] if reached == 0 else [f"a gradient of {reached:.1e} crosses a seam"]
    found = {f"error {what}": value for what, value in lost.items()} | {"torch's out": usual["out"]}
    wrong = {"status": "wrong", "why": "; ".join(bad)} if bad else {}
    return {**found, "isolated": same, "leak": reached, "exact": not bad, **wrong}


def errors(found: list[torch.Tensor], truth: list[torch.Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm of the truth; NaN stays NaN, and is above every limit."""
    return {
        what: float((mine.double() - right).norm() / right.norm().clamp(min=1e-30))
        for what, mine, right in zip(LIMITS, found, truth, strict=True)
    }


def isolation(row: Boundaries, kernel: str, window: int | None, given: list[torch.Tensor]) -> tuple[bool, float]:
    """(are other documents bitwise unchanged, how much of one document's gradient reaches the others)."""
    (_, end), (start, stop) = row.spans[3], row.spans[4]  # two neighbours of many tokens
    inputs = [x.detach().requires_grad_() for x in given]
    clean = attend(*inputs, row, backend=kernel, window=window)
    other = [torch.cat([torch.randn_like(x[:end]), x[end:]]) for x in given]
    changed = attend(*other, row, backend=kernel, window=window)
    gradients = torch.autograd.grad(clean[start:stop].float().sum(), inputs)
    reached = max(float(part.abs().max()) for x in gradients for part in (x[:end], x[stop:]))
    return torch.equal(clean[end:], changed[end:]), reached
