"""Pictures of a packed row's mask: ours beside attention-gym's plot, FlexAttention's BlockMask.to_string, and imshow.

    python -m benchmarks.masks               # 1k and 8k tokens for all, 128k for ours; minutes, and 5 GB for the peers
    python -m benchmarks.masks --quick       # 1k tokens for all, 8k and 128k for ours

Every contender runs in a process of its own, its imports not counted: CPU seconds of the first picture after a tiny one
(fonts and caches are made there), and the peak memory over what the imports took. attention-gym is measured where it is
installed (``pip install attn-gym``); a contender that is not there, or fails, is said to be so.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.attention import high_water
from benchmarks.process import NotMeasured, last_line

LIMIT = 300  # seconds for one picture
MB, CPU = 100, {"ours": 1.0, "ours, 1,000 documents": 2.0}  # goals


def documents(total: int, count: int) -> list[int]:
    """``count`` lengths, lognormal, that add up to ``total``."""
    from varlen_lab.viz.explorer import example_lengths

    return example_lengths(count, total)


def ours(total: int, count: int = 8) -> None:
    from varlen_lab.viz.figures import draw_masks

    draw_masks(documents(total, count)).savefig(io.BytesIO(), format="png", dpi=100)


def ours_many(total: int) -> None:
    ours(total, 1000)


def imshow(total: int) -> None:
    """Two panels of n x n pixels, as most notebooks draw a mask."""
    from matplotlib.figure import Figure

    document = np.repeat(np.arange(8), documents(total, 8))
    full = np.tri(total, dtype=bool)
    panels = Figure(figsize=(8.3, 4.4), dpi=100).subplots(1, 2)
    for axes, mask in zip(panels, (full, full & (document[:, None] == document)), strict=True):
        axes.imshow(mask)
    panels[0].figure.savefig(io.BytesIO(), format="png")


def document_mod(total: int) -> Callable:
    import torch

    document = torch.repeat_interleave(torch.arange(8), torch.tensor(documents(total, 8)))
    return lambda b, h, q, k: (document[q] == document[k]) & (q >= k)


def block_mask(total: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    create_block_mask(document_mod(total), 1, 1, total, total, device="cpu").to_string()


def attention_gym(total: int) -> None:
    import torch
    from attn_gym import visualize_attention_scores

    x = torch.ones(1, 1, total, 64)
    with tempfile.TemporaryDirectory() as folder:
        visualize_attention_scores(x, x, mask_mod=document_mod(total), device="cpu", path=Path(folder) / "mask.png")


CONTENDERS: dict[str, Callable[[int], None]] = {
    "ours": ours,
    "ours, 1,000 documents": ours_many,
    "imshow": imshow,
    "BlockMask.to_string": block_mask,
    "attention-gym": attention_gym,
}


def measure(name: str, total: int) -> None:
    """In a process of its own: prints CPU seconds and MB."""
    CONTENDERS[name](1024 if name == "ours, 1,000 documents" else 64)
    before, start = high_water(), time.process_time()
    CONTENDERS[name](total)
    print(f"{time.process_time() - start:.3f} {(high_water() - before) / 1024:.0f}")


def measured(name: str, total: int) -> tuple[float, float] | None:
    """(CPU seconds, MB), or None with the reason printed."""
    try:
        found = last_line("benchmarks.masks", "--one", name, "--tokens", str(total), timeout=LIMIT)
    except NotMeasured as reason:
        print(f"  {name:<22} {total:>8,}   not measured: {reason}")
        return None
    seconds, megabytes = map(float, found.split())
    print(f"  {name:<22} {total:>8,}   {seconds:8.2f} CPU s   {megabytes:7,.0f} MB")
    return seconds, megabytes


def main() -> int:
    """The table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="peers at 1k tokens only")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=1024, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one, args.tokens)
        return 0
    print("a picture of one packed row of 8 documents: contender, tokens, cost")
    sizes = {name: [1024] if args.quick else [1024, 8192] for name in CONTENDERS}
    sizes |= {"ours": [1024, 8192, 131072], "ours, 1,000 documents": [131072]}
    results = {(name, total): measured(name, total) for name, totals in sizes.items() for total in totals}
    print()
    return 0 if all([*goals(results)]) else 1


def goals(results: dict[tuple[str, int], tuple[float, float] | None]) -> list[bool]:
    """Print every goal and whether it is met; one that could not be measured counts as not met."""
    own = [results["ours", total] for total in (1024, 8192, 131072)]
    many, gym = results["ours, 1,000 documents", 131072], results.get(("attention-gym", 8192))
    if None in own or many is None:
        print("goals NOT met: ours could not be measured")
        return [False]
    seconds, megabytes = zip(*[each for each in own if each], strict=True)
    told = [
        (f"1k, 8k, 128k within {max(seconds) / min(seconds):.2f}×", max(seconds) <= 1.5 * min(seconds), "1.5×"),
        (f"at most {max(seconds):.2f} CPU s", max(seconds) <= CPU["ours"], "1 s"),
        (f"at most {max(*megabytes, many[1]):.0f} MB over its imports", max(*megabytes, many[1]) <= MB, f"{MB} MB"),
        (f"128k × 1,000 documents in {many[0]:.2f} CPU s", many[0] <= CPU["ours, 1,000 documents"], "2 s"),
    ]
    if gym:
        times = gym[0] / seconds[1]
        told.append((f"attention-gym at 8k takes {times:.0f} × ours", times >= 50, "50 ×"))
    for what, met, goal in told:
        print(f"  {what}   goal {goal}: {'met' if met else 'NOT met'}")
    return [met for _, met, _ in told]


if __name__ == "__main__":
    sys.exit(main())
