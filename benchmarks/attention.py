"""Attention inside documents on a CPU: our path beside a dense mask, a padded batch, and the documents one by one.

    python -m benchmarks.attention            # T = 4096 and 8192, forward and backward, CPU seconds on one thread
    python -m benchmarks.attention --memory   # and the peak memory of T = 32768, in a process of its own

Ratios are taken in one run, each contender in turn, the best of three. H = 8, D = 64, fp32, documents of lognormal
length around 270 tokens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from varlen_lab.attention.dispatch import attend
from varlen_lab.packing.boundaries import Boundaries

HEADS, DIM, PADDED_BATCH, REPEATS = 8, 64, 8, 3
GOALS = {
    4096: {"dense": 10.0, "padded": 2.5, "isolated": 1 / 1.1},
    8192: {"dense": 18.0, "padded": 2.5, "isolated": 1 / 1.1},
}


def lengths_of(total: int, mean: int = 270, seed: int = 0) -> list[int]:
    """Lognormal document lengths that add up to ``total``."""
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(min(total - sum(lengths), max(1, int(generator.lognormal(np.log(mean) - 0.5, 1.0)))))
    return lengths


def tensors(total: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(total, HEADS, DIM, generator=generator, requires_grad=True) for _ in range(3)]


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    return attend(q, k, v, row, backend="sdpa")


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """One call with the block-diagonal mask written out, as frameworks without varlen attention do it."""
    document = row.document_ids()
    mask = (document[:, None] == document[None, :]).tril()
    if grouped(q, k):  # with a mask no fast kernel of torch's takes grouped heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return sdpa(*(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask)[0].transpose(0, 1)


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """Batches of eight documents, each as long as its longest."""
    outputs = []
    for first in range(0, len(row.spans), PADDED_BATCH):
        spans = row.spans[first : first + PADDED_BATCH]
        batch = [torch.nn.utils.rnn.pad_sequence([x[a:b] for a, b in spans], batch_first=True) for x in (q, k, v)]
        rows = (x.transpose(1, 2) for x in batch)
        out = sdpa(*rows, is_causal=True, enable_gqa=grouped(q, k)).transpose(1, 2)
        outputs += [out[i, : b - a] for i, (a, b) in enumerate(spans)]
    return torch.cat(outputs)


def isolated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries) -> torch.Tensor:
    """Every document in a tensor of its own, never part of a row: the least that can be done call by call."""
    outputs = []
    for x, y, z in zip(*(t.split(row.lengths.tolist()) for t in (q, k, v)), strict=True):
        batch = (t.transpose(0, 1)[None] for t in (x, y, z))
        outputs.append(sdpa(*batch, is_causal=True, enable_gqa=grouped(q, k))[0].transpose(0, 1))
    return torch.cat(outputs)


def grouped(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether several query heads share a key head."""
    return q.shape[1] != k.shape[1]


CONTENDERS: dict[str, Callable[..., torch.Tensor]] = {
    "ours": ours,
    "isolated": isolated,
    "padded": padded,
    "dense": dense,
}


def cpu_seconds(contender: Callable[..., torch.Tensor], total: int, row: Boundaries) -> float:
    """Best of three, forward and backward."""
    best = float("inf")
    for _ in range(REPEATS):
        q, k, v = tensors(total)
        start = time.process_time()
        contender(q, k, v, row).sum().backward()
        best = min(best, time.process_time() - start)
    return best


def table(total: int) -> bool:
    """Print one row a contender; whether every goal is met."""
    row = Boundaries.from_lengths(lengths_of(total))
    q, k, v = tensors(total)
    expected = ours(q, k, v, row)
    seconds, met = {}, True
    print(f"\nT = {total:,}, {len(row.spans)} documents, forward + backward, one thread")
    for name, contender in CONTENDERS.items():
        torch.testing.assert_close(contender(q, k, v, row), expected, rtol=1e-4, atol=1e-5)
        seconds[name] = cpu_seconds(contender, total, row)
        ratio, goal = seconds[name] / seconds["ours"], GOALS[total].get(name)
        verdict = "" if goal is None else f"   goal {goal:.2f}: {'met' if ratio >= goal else 'NOT met'}"
        met &= goal is None or ratio >= goal
        print(f"  {name:<9} {seconds[name]:7.3f} CPU s   {ratio:6.2f} × ours{verdict}")
    return met


def peak(total: int) -> None:
    """Peak memory of one forward and backward over what the tensors take, in MB; run in a process of its own."""
    row = Boundaries.from_lengths(lengths_of(total))
    q, k, v = tensors(total)
    before = high_water()
    ours(q, k, v, row).sum().backward()
    print(f"{(high_water() - before) / 1024:.0f}")


def high_water() -> int:
    """Peak memory of this process in kB. (``ru_maxrss`` would carry the parent's peak over on Linux.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM: --memory runs on Linux")


def main() -> int:
    """The tables; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure the peak memory at T = 32768 too")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        peak(args.peak)
        return 0
    met = True
    for total in GOALS:
        met &= table(total)
    if args.memory:
        command = [sys.executable, "-m", "benchmarks.attention", "--peak", "32768"]
        megabytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        met &= megabytes <= 500
        print(f"\nT = 32,768: {megabytes} MB over its inputs   goal 500: {'met' if megabytes <= 500 else 'NOT met'}")
    print(f"\ntorch {torch.__version__}, fp32, H {HEADS}, D {DIM}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
