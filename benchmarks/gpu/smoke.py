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
from benchmarks.gpu.bench import SMALL, Bench, row_of
from benchmarks.gpu.store import Cell
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.registry import BACKENDS

GROUPED = AttentionShape(8, 2, 64, 64)  # query heads, key heads, widths of keys and values
LENGTHS = (1, 2, 63, 64, 65, 127, 128, 3)


def measure(bench: Bench) -> Iterator[Cell]:
    """Ceilings, kernels, a step, a picture; kernels that have to be compiled come last."""
    yield bench.cell("product", 2, product)
    yield bench.cell("copy", 2, copy)
    row, ready = row_of(LENGTHS, bench.device), [name for name in bench.kernels if not BACKENDS[name].compiled]
    for kernel in ready:
        yield bench.cell(f"{kernel}, 8/2 heads", 1, correctness.checked, row, kernel, GROUPED, [])
    yield bench.cell("a training step", 3, step, bench.kernels[0])
    yield bench.cell("a picture", 2, masks.crossing, bench.kernels[0], True)
    for kernel in bench.kernels[len(ready) :]:
        yield bench.cell(f"{kernel}, 8/2 heads", 10, correctness.checked, row, kernel, GROUPED, [])


def product(bench: Bench) -> dict[str, float]:
    """TFLOP/s of a large product."""
    size = bench.scale.matrix
    left, right = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    took = bench.milliseconds(lambda: left @ right)
    return {"size": size, "milliseconds": took, "tflops": 2 * size**3 / took / 1e9}


def copy(bench: Bench) -> dict[str, float]:
    """TB/s of a copy, bytes read and written counted."""
    source = torch.ones(64 * bench.scale.matrix**2, device=bench.device, dtype=torch.uint8)
    took = bench.milliseconds(source.clone)
    return {"bytes": len(source), "milliseconds": took, "terabytes_per_second": 2 * len(source) / took / 1e9}


def step(bench: Bench, kernel: str) -> dict[str, Any]:
    """A small model through the whole loop."""
    done = training.run(bench, SMALL, "D varlen", min(bench.scale.rows), kernel, 1, None, False)
    return {"loss": done["loss"], "steps": done["steps"], "kernel": kernel}
