"""The same documents and the same model in the trainers people use, on this device.

    HF flattening, our kernel   HF Trainer with the seams given explicitly and the kernel that varlen takes here
    HF flattening, fa2          the same with transformers' own flash_attention_2, where flash-attn is installed
    HF flattening, sdpa         HF Trainer with sdpa, which finds the seams and builds a mask of T x T cells; half the
                                documents a batch, or the masks of all layers do not fit beside the activations
    TRL packing, our kernel     SFTTrainer(packing=True), best-fit rows, with the kernel that varlen takes here

Batches hold about as many tokens as our own batches do, accumulated to the same step; weights in bf16, fused AdamW.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from benchmarks.gpu.training import documents_of_steps, random_model
from benchmarks.peers import Clock, flattening, trl_packing
from varlen_lab.attention.dispatch import importable
from varlen_lab.attention.huggingface import hf_name_of


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a peer; those that are not installed are named."""
    ours = hf_name_of(bench.kernels[0])
    contenders = {
        "HF flattening, our kernel": (ours, False),
        "HF flattening, sdpa": ("sdpa", False),
        "TRL packing, our kernel": (ours, True),
        "HF flattening, fa2": ("flash_attention_2", False),
    }
    for name, (attention, packing) in contenders.items():
        missing = [package for package in ("datasets", *["trl"][: int(packing)]) if not importable(package)]
        if attention == "flash_attention_2" and not importable("flash_attn"):
            missing.append("flash_attn")
        if missing:
            yield {"cell": name, "status": "unsupported", "why": f"{' and '.join(missing)} not installed here"}
            continue
        yield guarded(bench, name, 2 if bench.rehearsal else 15, partial(rate, bench, attention, packing))


def rate(bench: Bench, attention: str, packing: bool) -> dict[str, Any]:
    """Real tokens a second of a trainer, from the end of its first step on."""
    scale = bench.scale
    shape = next(iter(scale.models.values()))
    row = scale.rows[0]
    model = random_model(shape, attention, bench.device, bench.dtype)
    steps = documents_of_steps(bench, row)[: 6 if bench.device == "cuda" else 3]
    documents = [document.tolist() for step in steps for one in step for document in one]
    rows = sum(map(len, steps))
    options: dict[str, Any] = {"bf16": False, "learning_rate": 1e-6, "use_cpu": bench.device == "cpu"}

    def now() -> float:
        bench.synchronize()
        return time.perf_counter()

    clock = Clock(now)
    accumulate = max(1, scale.step // row)
    if packing:
        from varlen_lab.documents.builtin import builtin_tokenizer

        trl_packing(model, documents, row, accumulate, options, clock, builtin_tokenizer())
    else:
        options["seams"] = attention != "sdpa"
        batch = max(1, round(len(documents) / rows))
        if attention == "sdpa":
            batch, accumulate = max(1, batch // 2), 2 * accumulate
        flattening(model, documents, batch, accumulate, options, clock)
    tokens = sum(clock.batches) / len(clock.batches)
    return {"tokens_per_second": clock.rate(), "attention": attention, "row": row, "tokens_a_batch": tokens}
