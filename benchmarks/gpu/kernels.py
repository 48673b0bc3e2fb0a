"""How fast the kernels are: TFLOP/s on the attention that is needed, the pairs inside documents.

A dense mask and a padded batch do more arithmetic than that, and full causal attention answers another question (it
crosses seams); all are counted by the useful part, so that the table compares time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.attention import dense, padded
from benchmarks.gpu.bench import COMPILING, Bench, filling, row_of
from benchmarks.gpu.store import EACH, FULL, Cell
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.timing import tensors
from varlen_lab.packing.boundaries import Boundaries

Heads = tuple[int, int, int]  # query heads, key heads, width
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Boundaries], torch.Tensor]
DENSE, SINGLE = "dense mask", "sdpa, each document"


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a kernel, head layout and mix of documents: forward, and forward with backward.

    First what the goals speak of: kernels that take the row in one call, with lognormal documents; then their other
    mixes, the baselines, and last what has to be compiled, for every layout anew.
    """
    ready = {name: named(name) for name in bench.kernels if name != EACH and not BACKENDS[name].compiled}
    baselines: dict[str, Kernel] = {SINGLE: named(EACH), "padded": padded, FULL: full, DENSE: dense}
    compiled = {name: named(name) for name in bench.kernels if BACKENDS[name].compiled}
    heads, mixes = bench.scale.heads, mixes_of(bench, max(bench.scale.rows))
    for group in (ready, baselines):
        for mix, layout, name in product(mixes, heads, group):
            rows = mixes_of(bench, min(bench.scale.rows)) if name == DENSE else mixes
            yield cell(bench, name, group[name], layout, mix, rows[mix], 1.5)
    for name, layout, mix in product(compiled, heads, mixes):
        first = mix == next(iter(mixes))
        yield cell(bench, name, compiled[name], layout, mix, mixes[mix], COMPILING if first else 1.5)


def cell(bench: Bench, name: str, kernel: Kernel, heads: Heads, mix: str, row: Boundaries, expected: float) -> Cell:
    """One kernel on one row."""
    full_name = f"{name} | {heads[0]}/{heads[1]} heads of {heads[2]} | documents of {mix}"
    facts = {"kernel": name, "width": heads[2], "mix": mix, "tokens": row.total}
    return bench.cell(full_name, expected, speed, kernel, row, heads, **facts)


def named(backend: str) -> Kernel:
    """A backend of ours as a function."""
    return lambda q, k, v, row: attend(q, k, v, row, backend=backend)


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """Causal attention over the whole row, as packing without seams does it."""
    batch = (x.transpose(0, 1)[None] for x in (q, k, v))
    return sdpa(*batch, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])[0].transpose(0, 1)


def mixes_of(bench: Bench, total: int) -> dict[str, Boundaries]:
    """Rows of ``total`` tokens: lognormal documents first, then documents of one length each."""
    mean, lengths = bench.scale.mean, {f"{each:,}": [each] * (total // each) for each in bench.scale.documents}
    lengths = {f"lognormal {mean}": filling(total, mean, bench.scale.longest)} | lengths
    return {name: row_of(each, bench.device) for name, each in lengths.items()}


def flops(row: Boundaries, heads: int, width: int) -> float:
    """Of a forward pass: two products, each two operations a pair inside a document and channel."""
    return float(4 * heads * width * sum(length * (length + 1) // 2 for length in row.lengths.tolist()))


def speed(bench: Bench, kernel: Kernel, row: Boundaries, heads: Heads) -> dict[str, float]:
    """TFLOP/s of the needed pairs; a backward pass counts two and a half forward ones."""
    query, keys, width = heads
    *inputs, upstream = tensors(AttentionShape(query, keys, width, width), row.total, bench.device, bench.dtype)
    q, k, v = (x.requires_grad_() for x in inputs)

    def forward() -> None:
        with torch.no_grad():
            kernel(q, k, v, row)

    needed, ahead = flops(row, query, width), bench.milliseconds(forward)
    whole = bench.milliseconds(lambda: torch.autograd.grad(kernel(q, k, v, row), (q, k, v), upstream))
    speeds = {"forward_tflops": needed / ahead / 1e9, "both_tflops": 3.5 * needed / whole / 1e9}
    return {"forward_ms": ahead, "both_ms": whole, **speeds}
