"""How fast the kernels are: TFLOP/s on the attention that is needed, the pairs inside documents.

A dense mask and a padded batch do more arithmetic than that, and full causal attention answers another question (it
crosses seams); all are counted by the useful part, so that the table compares time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.attention import dense, padded
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from varlen_lab.attention.dispatch import attend
from varlen_lab.packing.boundaries import Boundaries

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Boundaries], torch.Tensor]


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """Causal attention over the whole row, as packing without seams does it."""
    batch = (x.transpose(0, 1)[None] for x in (q, k, v))
    return sdpa(*batch, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])[0].transpose(0, 1)


def contenders(bench: Bench) -> dict[str, Kernel]:
    """By name; the one that has to be compiled comes last."""

    def ours(backend: str) -> Kernel:
        return lambda q, k, v, row: attend(q, k, v, row, backend=backend)

    ready = {name: ours(name) for name in bench.kernels if name not in ("sdpa", "flex")}
    ready |= {"sdpa, each document": ours("sdpa"), "padded": padded, "full causal": full, "dense mask": dense}
    return ready | ({"flex": ours("flex")} if "flex" in bench.kernels else {})


def flops(row: Boundaries, heads: int, width: int) -> float:
    """Of a forward pass: two products, each two operations a pair inside a document and channel."""
    return float(4 * heads * width * sum(length * (length + 1) // 2 for length in row.lengths.tolist()))


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a contender, head layout and mix of documents: forward, and forward with backward."""
    scale = bench.scale
    for name, kernel in contenders(bench).items():
        for heads in scale.heads:
            for mix, row in bench.mixes(scale.dense_row if name == "dense mask" else scale.row).items():
                query, keys, width = heads
                cell = f"{name} | {query}/{keys} heads of {width} | documents of {mix}"

                timed = partial(speed, bench, kernel, row, heads)
                first = name == "flex" and next(iter(bench.mixes(scale.row))) == mix  # it is compiled for each layout
                facts = {"kernel": name, "width": width, "mix": mix, "tokens": row.total}
                yield {**guarded(bench, cell, 30 if first else 1.5, timed), **facts}


def speed(bench: Bench, kernel: Kernel, row: Boundaries, heads: tuple[int, int, int]) -> dict[str, float]:
    """TFLOP/s of the needed pairs; a backward pass counts two and a half forward ones."""
    query, keys, width = heads
    q, k, v = (
        torch.randn(row.total, count, width, device=bench.device, dtype=bench.dtype, requires_grad=True)
        for count in (query, keys, keys)
    )
    upstream = torch.randn(row.total, query, width, device=bench.device, dtype=bench.dtype)
    row.spans  # noqa: B018  (read back from the device once, outside of the clock)

    def forward() -> None:
        with torch.no_grad():
            kernel(q, k, v, row)

    def both() -> None:
        torch.autograd.grad(kernel(q, k, v, row), (q, k, v), upstream)

    needed = flops(row, query, width)
    ahead, whole = bench.milliseconds(forward, 7), bench.milliseconds(both, 7)
    return {
        "forward_ms": ahead,
        "both_ms": whole,
        "forward_tflops": needed / ahead / 1e9,
        "both_tflops": 3.5 * needed / whole / 1e9,
    }
