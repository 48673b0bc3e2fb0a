"""Is varlen training the same training on this device? Three losses, and the control that must come out different.

The comparison is the library's own (``varlen_lab.studies.comparison``): 60M weights kept in fp32 and multiplied in
bf16, the built-in documents, the same ones in every step of the three modes, each loss over the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from varlen_lab.config.names import named_config
from varlen_lab.studies.comparison import compare

SAME, COSINE = 2e-3, 0.9995  # of the loss in any step; of the first gradient


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell: losses of every step, and what they say."""
    yield guarded(bench, "three losses", 1 if bench.rehearsal else 15, partial(three_losses, bench))


def three_losses(bench: Bench) -> dict[str, Any]:
    wanted = bench.scale.parity
    config = named_config("tiny_llama_full_docstrings_e1").replace(
        model_config=wanted["model"],
        max_length=wanted["max_length"],
        max_steps=wanted["steps"],
        device=bench.device,
        attn_backend=bench.kernels[0],
        evaluation_freq=0,
        lr=3e-4,
    )
    found = compare(config)
    losses = found.losses
    apart = {mode: [abs(a - b) / b for a, b in zip(losses[mode], losses["unpacked"])] for mode in ("varlen", "packed")}
    last = {mode: sum(values[-5:]) / len(values[-5:]) for mode, values in losses.items()}
    final = abs(last["varlen"] - last["unpacked"]) / last["unpacked"]
    cosine = found.cosines["varlen"]
    same = max(apart["varlen"]) < SAME and cosine > COSINE  # the end is told, not judged: training amplifies rounding
    return {
        "varlen_apart": max(apart["varlen"]),
        "varlen_final": final,
        "cosine": cosine,
        "packed_apart": max(apart["packed"]),
        "packed_cosine": found.cosines["packed"],
        "same": same,
        "control_differs": max(apart["packed"]) > 2 * SAME or found.cosines["packed"] < COSINE,
        "losses": losses,
        "caption": found.caption,
        "steps": len(losses["varlen"]),
    }
