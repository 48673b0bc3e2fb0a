"""The mask a live model really used on this device, asked of its own attention and drawn beside the promise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from benchmarks.gpu.training import random_model
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = (14, 30, 9, 11)
SHAPE = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 512,
}


def measure(bench: Bench) -> Iterator[Cell]:
    """A cell for every kernel: how much of its attention crosses a seam. The first one's mask is drawn."""
    for number, kernel in enumerate(bench.kernels):
        yield guarded(bench, kernel, 1 if kernel != "flex" else 8, partial(crossing, bench, kernel, number == 0))


def crossing(bench: Bench, kernel: str, drawn: bool) -> dict[str, Any]:
    from varlen_lab.viz.seen import draw_seen

    model = random_model(SHAPE, hf_name_of(kernel), bench.device, bench.dtype)
    ids = torch.arange(sum(LENGTHS)) % 500
    batch = VarlenCollator()([{"input_ids": ids.numpy(), "labels": ids.numpy(), "seq_lengths": list(LENGTHS)}])
    batch = {name: value.to(bench.device) if hasattr(value, "to") else value for name, value in batch.items()}
    seen = attention_seen(model, batch)
    if drawn:
        where = torch.cuda.get_device_name() if bench.device == "cuda" else "CPU"
        caption = f"{kernel} · {where} · {str(bench.dtype).removeprefix('torch.')} · torch {torch.__version__}"
        figure = draw_seen(list(seen.lengths), seen.mass, cells=seen.cells, layers=seen.layers, caption=caption)
        figure.savefig(bench.folder / "mask.png", dpi=150)
    return {"crossing": float(seen.crossing.max()), "layers": len(seen.layers), "documents": len(LENGTHS)}
