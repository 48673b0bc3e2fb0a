"""The mask a live model really used on this device, asked of its own attention and drawn beside the promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import COMPILING, SMALL, Bench
from benchmarks.gpu.store import Cell
from benchmarks.gpu.training import random_model
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = (14, 30, 9, 11)
PICTURE = "mask.png"


def measure(bench: Bench) -> Iterator[Cell]:
    """A cell for every kernel: how much of its attention crosses a seam. The first one's mask is drawn."""
    for number, kernel in enumerate(bench.fit):
        expected = COMPILING if BACKENDS[kernel].compiled else 1
        yield from bench.cell(kernel, expected, crossing, kernel, number == 0)


def crossing(bench: Bench, kernel: str, drawn: bool) -> dict[str, Any]:
    """The largest share of a layer's attention that goes to another document; 0 in a model that isolates."""
    from varlen_lab.viz import draw_seen

    model = random_model(SMALL, hf_name_of(kernel), bench.device, bench.dtype)
    ids = torch.arange(sum(LENGTHS)) % 500
    batch = VarlenCollator()([{"input_ids": ids.numpy(), "labels": ids.numpy(), "seq_lengths": list(LENGTHS)}])
    batch = {name: value.to(bench.device) if hasattr(value, "to") else value for name, value in batch.items()}
    seen = attention_seen(model, batch)
    if drawn:
        caption = f"{kernel} · {bench.device} · {str(bench.dtype).removeprefix('torch.')} · torch {torch.__version__}"
        figure = draw_seen(list(seen.lengths), seen.mass, cells=seen.cells, layers=seen.layers, caption=caption)
        figure.savefig(bench.folder / PICTURE)
    worst = float(seen.crossing.max())
    wrong = {"status": "wrong", "why": f"{worst:.2%} of the attention crosses a seam"} if worst else {}
    return {"crossing": worst, "layers": len(seen.layers), "documents": len(LENGTHS), **wrong}
