"""How fast the kernels are: TFLOP/s on the attention that is needed, the pairs inside documents.

A dense mask and a padded batch do more arithmetic than that, and full causal attention answers another question (it
crosses seams); all are counted by the useful part, so that the table compares time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.attention import dense, padded
from benchmarks.gpu.bench import COMPILING, Bench, filling, milliseconds, row_of
from benchmarks.gpu.store import EACH, FULL, Cell
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.timing import tensors
from varlen_lab.packing.boundaries import Boundaries

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Boundaries], torch.Tensor]
DENSE = "dense mask"


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a kernel, head layout and mix of documents: forward, and forward with backward.

    First what the goals speak of: kernels that take the row in one call, with lognormal documents; then their other
    mixes, the baselines, and last what has to be compiled, for every layout anew.
    """
    ready = [name for name in bench.fit if name != EACH and not BACKENDS[name].compiled]
    compiled = [name for name in bench.fit if BACKENDS[name].compiled]
    rows, short = mixes_of(bench, max(bench.scale.rows)), mixes_of(bench, min(bench.scale.rows))
    layouts = bench.scale.heads
    cells = [*product(rows, layouts, ready), *product(rows, layouts, [EACH, *BASELINES])]
    cells += [(mix, layout, name) for name, layout, mix in product(compiled, layouts, rows)]
    made: set[tuple[str, int]] = set()  # kernels that need no compiler any more
    for mix, (query, keys, width), name in cells:
        row = (short if name == DENSE else rows)[mix]
        kernel = BASELINES.get(name) or partial(attend, backend=name)
        expected = COMPILING if name in compiled and (name, width) not in made else 1.5
        full_name = f"{name} | {query}/{keys} heads of {width} | documents of {mix}"
        facts = {"kernel": name, "width": width, "mix": mix, "tokens": row.total}
        shape = AttentionShape(query, keys, width, width)
        told = yield from bench.cell(full_name, expected, speed, kernel, row, shape, **facts)
        made |= set() if "status" in told else {(name, width)}


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """Causal attention over the whole row, as packing without seams does it."""
    batch = (x.transpose(0, 1)[None] for x in (q, k, v))
    return sdpa(*batch, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])[0].transpose(0, 1)


BASELINES: dict[str, Kernel] = {"padded": padded, FULL: full, DENSE: dense}


def mixes_of(bench: Bench, total: int) -> dict[str, Boundaries]:
    """Rows of ``total`` tokens: lognormal documents first, then documents of one length each."""
    mean, lengths = bench.scale.mean, {f"{each:,}": [each] * (total // each) for each in bench.scale.documents}
    lengths = {f"lognormal {mean}": filling(total, mean, bench.scale.longest)} | lengths
    return {name: row_of(each, bench.device) for name, each in lengths.items()}


def flops(row: Boundaries, heads: int, width: int) -> float:
    """Of a forward pass: two products, each two operations a pair inside a document and channel."""
    return float(4 * heads * width * sum(length * (length + 1) // 2 for length in row.lengths.tolist()))


def speed(bench: Bench, kernel: Kernel, row: Boundaries, shape: AttentionShape) -> dict[str, float]:
    """TFLOP/s of the needed pairs; a backward pass counts two and a half forward ones."""
    *inputs, upstream = tensors(shape, row.total, bench.device, bench.dtype)
    q, k, v = (x.requires_grad_() for x in inputs)
    needed = flops(row, shape.heads, shape.head_dim)
    ahead = milliseconds(torch.no_grad()(partial(kernel, q, k, v, row)))
    whole = milliseconds(lambda: torch.autograd.grad(kernel(q, k, v, row), (q, k, v), upstream))
    speeds = {"forward_tflops": needed / ahead / 1e9, "both_tflops": 3.5 * needed / whole / 1e9}
    return {"forward_ms": ahead, "both_ms": whole, **speeds}
