"""The next-token loss from hidden states beside the plain one: memory and CPU time, the same numbers.

    python -m benchmarks.loss                 # 2,048 tokens, 49,152 classes, half a minute
    python -m benchmarks.loss --tokens 4096

    logits     the head's T x V logits, then their loss: what is done below the budget
    hidden     ours, chunk by chunk (``training/chunks.py``), with per-token weights as easily as without
    torch      F.linear_cross_entropy with its own choice of chunks, where torch has it (2.13)

Loss and gradients of hidden states and weight, on one thread; each way in processes of its own, in turns, so that
neither finds the other's memory. ``memory``: what the peak of the process grows by, the weight's gradient included.
Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.process import last_line
from benchmarks.verdict import verdict

WIDTH = 576  # of SmolLM2-135M's hidden states
MEMORY, CPU, SAME = 0.25, 1.35, 1e-6  # goals: GB at 2,048 tokens; times the plain loss; of its numbers


def ways() -> dict[str, Callable]:  # type: ignore[type-arg]
    """Name -> (head, hidden states (T, D), targets (T,)) -> summed loss."""
    import torch
    import torch.nn.functional as F

    from varlen_lab.training.chunks import Head, summed_loss_of
    from varlen_lab.training.loss import BlockwiseLoss

    found: dict[str, Callable] = {  # type: ignore[type-arg]
        "logits": lambda head, hidden, target: BlockwiseLoss.apply(head(hidden), target, torch.ones(len(target))),
        "hidden": lambda head, hidden, target: summed_loss_of(
            Head(head, head.forward, None, head.out_features), hidden, target, torch.ones(len(target))
        ),
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["torch"] = lambda head, hidden, target: F.linear_cross_entropy(
            hidden, head.weight, target, reduction="sum", options=torch.nn.LinearCrossEntropyOptions()
        )
    return found


def one(way: str, tokens: int, classes: int) -> dict[str, float]:
    """Measure a way in this process, which has measured nothing yet."""
    import torch

    from varlen_lab.machine.environment import peak_memory

    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(WIDTH, classes, bias=False)
    with torch.no_grad():
        head.weight.normal_(std=0.03, generator=random)
    hidden = torch.randn(tokens, WIDTH, generator=random).requires_grad_()
    target = torch.randint(0, classes, (tokens,), generator=random)
    (torch.randn(64, WIDTH) @ head.weight.detach()[:2048].T).sum()  # the library of the product is loaded
    run, before, start = ways()[way], peak_memory(), time.process_time()
    loss = run(head, hidden, target)
    (loss / tokens).backward()
    spent, grown = time.process_time() - start, peak_memory() - before
    assert hidden.grad is not None and head.weight.grad is not None
    sums = [float(grad.double().norm()) for grad in (hidden.grad, head.weight.grad)]
    return {"cpu": spent, "memory": grown / 1e9, "loss": float(loss.detach()), "hidden": sums[0], "weight": sums[1]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(one(args.one, args.tokens, args.classes)))
        return 0
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for way in ways():
            words = ["--one", way, "--tokens", str(args.tokens), "--classes", str(args.classes)]
            runs.setdefault(way, []).append(json.loads(last_line("benchmarks.loss", *words)))
    table = {
        way: {key: statistics.median(run[key] for run in found) for key in found[0]} for way, found in runs.items()
    }
    plain = table["logits"]
    print(f"{args.tokens:,} tokens, {args.classes:,} classes, hidden states of {WIDTH}, float32, one thread\n")
    print(f"  {'':8} {'CPU s':>6} {'times plain':>12} {'memory GB':>10} {'of plain':>9}")
    for way, row in table.items():
        times, share = row["cpu"] / plain["cpu"], row["memory"] / plain["memory"]
        print(f"  {way:8} {row['cpu']:6.2f} {times:12.2f} {row['memory']:10.2f} {share:9.2f}")
    mine = table["hidden"]
    apart = max(abs(mine[key] - plain[key]) / plain[key] for key in ("loss", "hidden", "weight"))
    allowed = MEMORY * max(1.0, args.tokens / 2048) * max(1.0, args.classes / 49152)
    goals = [
        (f"memory {mine['memory']:.2f} GB, at most {allowed:.2f}", mine["memory"] <= allowed),
        (
            f"{mine['cpu'] / plain['cpu']:.2f} times the CPU time of the plain loss, at most {CPU}",
            mine["cpu"] <= CPU * plain["cpu"],
        ),
        (f"loss and norms of gradients within {apart:.0e} of the plain ones, at most {SAME:.0e}", apart <= SAME),
    ]
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
