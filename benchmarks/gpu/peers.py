"""The same documents and the same model in the trainers people use, on this device.

    HF flattening, our kernel   HF Trainer with the seams given explicitly and the kernel that varlen takes here
    TRL packing, our kernel     SFTTrainer(packing=True), best-fit rows, with the same kernel
    HF flattening, fa2          transformers' own flash_attention_2, where flash-attn is installed

Batches hold about as many tokens as our own batches do, accumulated to the same step; weights in bf16, fused AdamW.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import SAME_KERNEL, Cell
from benchmarks.gpu.training import documents_of_steps, random_model
from benchmarks.peers import Clock, flattening, trl_packing
from varlen_lab.attention.choosing import import_problem
from varlen_lab.attention.huggingface import hf_name_of


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a peer; those that are not installed are named."""
    ours = hf_name_of(bench.kernels[0])
    contenders = {
        SAME_KERNEL: (ours, False, ("datasets",)),
        "TRL packing, our kernel": (ours, True, ("datasets", "trl")),
        "HF flattening, fa2": ("flash_attention_2", False, ("datasets", "flash_attn")),
    }
    for name, (attention, packing, needed) in contenders.items():
        if missing := [problem for package in needed if (problem := import_problem(package))]:
            yield {"cell": name, "status": "unsupported", "why": "; ".join(missing)}
        else:
            yield bench.cell(name, 10, rate, attention, packing)


def rate(bench: Bench, attention: str, packing: bool) -> dict[str, Any]:
    """Real tokens a second of a trainer, from the end of its first step on."""
    row, accumulate = bench.scale.rows[0], 2  # a step holds two rows, as ours does
    model = random_model(bench.scale.model, attention, bench.device, bench.dtype)
    steps = documents_of_steps(bench, row)[: 6 if bench.device == "cuda" else 3]
    documents = [document.tolist() for step in steps for one in step for document in one]
    options: dict[str, Any] = {"bf16": False, "learning_rate": 1e-6, "use_cpu": bench.device == "cpu"}
    clock = Clock(lambda: (bench.synchronize(), time.perf_counter())[1])
    if packing:
        from varlen_lab.documents.builtin import builtin_tokenizer

        trl_packing(model, documents, row, accumulate, options, clock, builtin_tokenizer())
    else:
        options["seams"] = True
        flattening(model, documents, max(1, round(len(documents) / sum(map(len, steps)))), accumulate, options, clock)
    tokens = sum(clock.batches) / len(clock.batches)
    return {"tokens_per_second": clock.rate(), "attention": attention, "row": row, "tokens_a_batch": tokens}
