"""Is varlen training the same training on this device? Three losses, and the control that must come out different.

The comparison is the library's own (``varlen_lab.studies.comparison``): 60M weights kept in fp32 and multiplied in
bf16, the built-in documents, a row of them a step, the same ones in all three modes, each loss over the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import Cell
from varlen_lab.attention.sdpa import without_plans
from varlen_lab.config.names import named_config
from varlen_lab.studies.comparison import compare


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell: losses of every step, and how far apart they are."""
    yield from bench.cell("three losses", 15, three_losses, needs=("datasets",))


def three_losses(bench: Bench) -> dict[str, Any]:
    """Largest distances to unpacked as shares of its loss, cosines of the first gradients with unpacked's."""
    size = {"model_config": bench.scale.parity, "max_length": bench.scale.parity_row, "max_steps": bench.scale.steps}
    way = {
        "device": bench.device,
        "attn_backend": bench.fit[0],
        "evaluation_freq": 0,
        "lr": 3e-4,
        "accumulative_counts": 1,
    }
    config = named_config("tiny_llama_full_docstrings_e1").replace(**size, **way)
    with without_plans(bench.device):  # every padded batch of the unpacked mode has its own length
        found = compare(config)
    losses = found.losses
    apart = {mode: [abs(a - b) / b for a, b in zip(losses[mode], losses["unpacked"])] for mode in ("varlen", "packed")}
    return {
        "varlen_apart": max(apart["varlen"]),
        "cosine": found.cosines["varlen"],
        "packed_apart": max(apart["packed"]),
        "packed_cosine": found.cosines["packed"],
        "kernel": config.attn_backend,
        "losses": losses,
        "caption": found.caption,
    }
