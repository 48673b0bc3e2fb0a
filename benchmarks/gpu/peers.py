"""The same documents and the same model in the trainers people use, on this device.

    HF flattening, our kernel   HF Trainer with the seams given explicitly and the kernel that varlen takes here
    TRL packing, our kernel     SFTTrainer(packing=True), best-fit rows, with the same kernel
    HF flattening, fa2          transformers' own flash_attention_2, where flash-attn runs

Batches hold about as many tokens as our own batches do, accumulated to the same step; weights in bf16, fused AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.benchmark.utils.timer import timer

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import SAME_KERNEL, Cell
from benchmarks.gpu.training import documents_of_steps, random_model
from benchmarks.peers import Clock, flattening, trl_packing
from varlen_lab.attention.huggingface import hf_name_of


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a peer; those whose packages are not here are named."""
    ours, hf = bench.fit[0], hf_name_of(bench.fit[0])
    yield from bench.cell(SAME_KERNEL, 10, rate, ours, hf, needs=("datasets",))
    yield from bench.cell("TRL packing, our kernel", 10, rate, ours, hf, True, needs=("datasets", "trl"))
    if "flash_attn" in bench.fit:
        yield from bench.cell("HF flattening, fa2", 10, rate, "flash_attn", "flash_attention_2", needs=("datasets",))


def rate(bench: Bench, kernel: str, attention: str, packing: bool = False) -> dict[str, Any]:
    """Real tokens a second of a trainer, from the end of its first step on; ``attention``: transformers' name of it."""
    row, accumulate = bench.scale.rows[0], 2  # a step holds two rows, as ours does
    model = random_model(bench.scale.model, attention, bench.device, bench.dtype)
    steps = documents_of_steps(bench, row)[: 6 if bench.device == "cuda" else 3]
    documents = [document.tolist() for step in steps for one in step for document in one]
    options: dict[str, Any] = {"bf16": False, "learning_rate": 1e-6, "use_cpu": bench.device == "cpu"}
    clock = Clock(timer)  # which waits for the device
    if packing:
        from varlen_lab.documents.builtin import builtin_tokenizer

        trl_packing(model, documents, row, accumulate, options, clock, builtin_tokenizer())
    else:
        options["seams"] = True
        flattening(model, documents, max(1, round(len(documents) / sum(map(len, steps)))), accumulate, options, clock)
    tokens = sum(clock.batches) / len(clock.batches)
    told = {"kernel": kernel, "attention": attention, "row": row, "tokens_a_batch": tokens}
    return {"tokens_per_second": clock.rate(), **told}
