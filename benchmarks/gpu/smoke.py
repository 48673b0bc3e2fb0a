"""The first half minute: what this card can do at best, and whether everything starts.

The product is of random numbers: one of zeros runs some 15 % faster, because switching fewer bits takes less power.
Every kernel is held to the float64 reference once, with fewer key heads than query heads: torch 2.11's ``varlen_attn``
has no argument for that and no check, so whether it does it right is asked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu import correctness, masks, training
from benchmarks.gpu.bench import SMALL, Bench, milliseconds, row_of
from benchmarks.gpu.store import Cell
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.registry import BACKENDS

GROUPED = AttentionShape(8, 2, 64, 64)  # query heads, key heads, widths of keys and values
COLD = 30  # seconds for the first kernel that is compiled in a process: 5 on one machine, more than 22 on another
LENGTHS = (1, 2, 63, 64, 65, 127, 128, 3)


def measure(bench: Bench) -> Iterator[Cell]:
    """A ceiling, kernels, a step, a picture; kernels that have to be compiled come last."""
    yield from bench.cell("product", 2, product)
    row, good = row_of(LENGTHS, bench.device), []
    for compiled in (False, True):
        for kernel in (name for name in bench.kernels if BACKENDS[name].compiled is compiled):
            what = (f"{kernel}, 8/2 heads", COLD if compiled else 1, correctness.checked, row, kernel, GROUPED)
            told = yield from bench.cell(*what, kernel=kernel)
            good += [kernel] if "status" not in told else []
        if not compiled:
            first = (good or bench.kernels)[0]
            yield from bench.cell("a training step", 3, step, first)
            yield from bench.cell("a picture", 2, masks.crossing, first, True)


def product(bench: Bench) -> dict[str, float]:
    """TFLOP/s of a large product."""
    size = bench.scale.matrix
    left, right = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    took = milliseconds(lambda: left @ right)
    return {"size": size, "milliseconds": took, "tflops": 2 * size**3 / took / 1e9}


def step(bench: Bench, kernel: str) -> dict[str, Any]:
    """A small model through the whole loop."""
    done = training.run(bench, SMALL, "D varlen", min(bench.scale.rows), kernel, 1, None, False)
    return {"loss": done["loss"], "steps": done["steps"], "kernel": kernel}
