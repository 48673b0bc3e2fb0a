"""What this card can do at best: a large bf16 product of random numbers, and a copy.

Random, because a product of zeros runs some 15 % faster: switching fewer bits takes less power.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell


def measure(bench: Bench) -> Iterator[Cell]:
    """Two cells: ``product`` in TFLOP/s and ``copy`` in TB/s, bytes read and written counted."""

    def product() -> dict[str, float]:
        size = bench.scale.matrix
        left, right = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
        took = bench.milliseconds(lambda: left @ right)
        return {"size": size, "milliseconds": took, "tflops": 2 * size**3 / took / 1e9}

    def copy() -> dict[str, float]:
        source = torch.randint(0, 255, (bench.scale.copied,), device=bench.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        took = bench.milliseconds(lambda: target.copy_(source))
        return {"bytes": len(source), "milliseconds": took, "terabytes_per_second": 2 * len(source) / took / 1e9}

    yield guarded(bench, "product", 2, product)
    yield guarded(bench, "copy", 2, copy)
