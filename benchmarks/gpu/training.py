"""Whole training steps of our own loop: what varlen is worth over padding, over grouping by length, over packed-full.

    A padded     a document a line, 16 drawn at random, filled up to the longest; transformers' sdpa with a mask
    B grouped    the same, documents of about one length together, as many as fill a row
    C packed     rows of documents, every token sees the whole row before it (another training!); sdpa
    D varlen     the same rows, our attention inside documents

All take the same documents in every step, about 32k real tokens, weights in bf16, fused AdamW. Real tokens a second,
MFU on the arithmetic that is needed (documents' squares, no padding), peak memory. Where memory does not suffice,
activations are recomputed, and padded batches halved at last; the cell says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import CV_ONE, Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from benchmarks.lengths import lognormal
from benchmarks.train import by_length, feature
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.machine.gpu import GIB
from varlen_lab.models.building import PLAIN, native_config, recompute, resolve_attention
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.plan import PEAK_OPERATIONS, Work
from varlen_lab.training.step import Batch, optimize

STEPS = 12  # of different documents at most; then they come again
Documents = list[np.ndarray]  # token ids of each
Collate = Callable[[list[Any]], dict[str, Any]]


def measure(bench: Bench) -> Iterator[Cell]:
    """The cells in the order of what one wants to know first."""
    small, large = bench.scale.models
    middle, short, long = bench.scale.rows
    kernel = bench.kernels[0]
    cells: list[tuple[str, str, int, bool]] = [
        (small, "D varlen", middle, False),
        (small, "A padded", middle, False),
        (small, "B grouped", middle, False),
        (small, "C packed", middle, False),
        (small, "D varlen", long, False),
        (small, "C packed", long, False),
        (small, "D varlen", short, False),
        (small, "C packed", short, False),
        (large, "D varlen", middle, False),
        (small, "D varlen", middle, True),
        (large, "C packed", middle, False),
        (large, "D varlen", middle, True),
    ]
    if bench.rehearsal:  # a compiler takes most of its time
        cells = [cell for cell in cells if cell != (large, "D varlen", middle, True)]
    for model, mode, row, compiled in cells:
        name = cell_name(model, mode, row, compiled)
        expected = 3 if bench.rehearsal else 8 + 10 * (model == large) + 30 * compiled
        facts = {"model": model, "mode": mode, "row": row, "compiled": compiled}
        yield {**guarded(bench, name, expected, partial(measured, bench, model, mode, row, compiled, kernel)), **facts}


def cell_name(model: str, mode: str, row: int, compiled: bool = False) -> str:
    return f"{model} | {mode} | rows of {row:,}" + (" | compiled" if compiled else "")


def measured(bench: Bench, model: str, mode: str, row: int, compiled: bool, kernel: str) -> dict[str, Any]:
    """One cell, in less memory if it has to be: activations recomputed, at last smaller padded batches."""
    padded, ways = bench.scale.padded, ways_to_fit(bench, bench.scale.models[model], mode, row)
    while True:
        try:
            return run(bench, model, mode, row, compiled, kernel, padded, ways[0])
        except torch.OutOfMemoryError:
            pass  # outside of the handler, which would keep the tensors of its frames
        bench.free()
        if len(ways) > 1:
            ways = ways[1:]
        elif mode.startswith("A") and padded > 1:
            padded //= 2
        else:
            raise torch.OutOfMemoryError("even with all activations recomputed")


def ways_to_fit(bench: Bench, shape: dict[str, Any], mode: str, row: int) -> list[str | None]:
    """What of the activations to recompute, the least first that may fit: an attempt that does not costs seconds.

    Kept bytes a token, layer and channel in bf16, counted on a CPU: 45 of everything, 24 of products and attention.
    """
    slots = max(row, bench.scale.micro)
    if mode.startswith("A"):
        slots = bench.scale.padded * bench.scale.longest * 3 // 4  # the longest of 16 is hardly the longest there is
    width, layers, inner = shape["hidden_size"], shape["num_hidden_layers"], shape["intermediate_size"]
    weights = layers * width * (4 * width + 3 * inner) + 2 * shape["vocab_size"] * width
    have = bench.memory() * 0.95 - 8 * weights - 6 * slots * shape["vocab_size"]
    kept = {None: 45, "cheap": 24, "all": 2}
    may = [way for way, each in kept.items() if each * slots * layers * width < have]
    return may or ["all"]


def run(
    bench: Bench, model: str, mode: str, row: int, compiled: bool, kernel: str, padded: int, recomputed: str | None
) -> dict[str, Any]:
    """Two steps to warm up, then steps until the cell's seconds are over; at least three."""
    shape = bench.scale.models[model]
    config = config_of(bench, shape, mode, row)
    attention = hf_name_of(kernel) if mode.startswith("D") else PLAIN
    network = random_model(shape, attention, bench.device, bench.dtype)
    if recomputed:
        recompute(network, recomputed)
    if compiled:
        from varlen_lab.attention.huggingface import register

        register(compiled=True)
        network.compile(dynamic=True)
    engine = make_engine(network, config, 1000, make_accelerator(config))
    given = documents_of_steps(bench, row)
    # collated when its step has come, inside of the clock, as every trainer does it
    steps = (batches(mode, given[number % len(given)], bench, row, padded) for number in count())
    work = Work.of(network)
    bench.free()
    records = timed(bench, optimize(engine, steps))
    seconds = sum(record["seconds"] for record in records)
    tokens = sum(record["tokens"] for record in records)
    done = work.operations(tokens, sum(record["sum_squared_lengths"] for record in records))
    times = sorted(record["seconds"] for record in records)
    peak = next((value for word, value in PEAK_OPERATIONS.items() if word in device_name(bench)), None)
    return {
        "tokens_per_second": tokens / seconds,
        "mfu": done / seconds / peak if peak else None,
        "teraflops": done / seconds / 1e12,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if bench.device == "cuda" else None,
        "fill": tokens / sum(record["padded_tokens"] for record in records),
        "step_p50": statistics.median(times),
        "step_p95": times[int(0.95 * (len(times) - 1))],
        "steps": len(times),
        "loss": records[-1]["loss"],
        "kernel": kernel if mode.startswith("D") else network.config._attn_implementation,
        "padded_batch": padded if mode.startswith("A") else None,
        "recomputed": recomputed or "nothing",
        "weights": sum(p.numel() for p in network.parameters()),
    }


def timed(bench: Bench, records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the steps that count."""
    for _ in range(2):
        next(records)
    begin, found = time.monotonic(), []
    for record in records:
        found.append(record)
        if len(found) >= 3 and (time.monotonic() - begin > bench.scale.seconds or bench.left() < 5):
            break
    return found


def device_name(bench: Bench) -> str:
    return torch.cuda.get_device_name() if bench.device == "cuda" else "CPU"


def config_of(bench: Bench, shape: dict[str, Any], mode: str, row: int) -> Config:
    """Settings of the loop: fused AdamW on bf16 weights, a learning rate too small to matter."""
    config = named_config("tiny_llama_full_docstrings_e1")
    return config.replace(
        model_config=shape,
        max_length=row,
        device=bench.device,
        dtype="bf16" if bench.device == "cuda" else "fp32",
        master_weights=bench.device != "cuda",
        evaluation_freq=0,
        lr=1e-6,
    ).with_mode({"A": "unpacked", "B": "unpacked", "C": "packed", "D": "varlen"}[mode[0]])


def random_model(shape: dict[str, Any], attention: str, device: str, dtype: torch.dtype) -> Any:
    """A model of that shape with random weights, made where it will be used: seven billion numbers on a CPU take
    minutes."""
    from transformers import AutoModelForCausalLM

    from varlen_lab.attention.huggingface import register

    register()
    native = native_config(shape)
    with torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            native, attn_implementation=resolve_attention(attention, native), dtype=dtype
        )


def documents_of_steps(bench: Bench, row: int, vocabulary: int = 2000) -> list[list[Documents]]:
    """For each step its rows, for each row its documents: best-fit rows of ``row`` tokens, in random order."""
    scale, generator = bench.scale, np.random.default_rng(0)
    lengths = lognormal(scale.mean, CV_ONE, min(scale.longest, row))(generator, scale.step * STEPS // scale.mean)
    packs = pack_lengths(lengths, row)
    numbers = [packs.order[a:b] for a, b in zip(packs.offsets, packs.offsets[1:])]
    generator.shuffle(numbers)
    rows = [[generator.integers(3, vocabulary, lengths[n]) for n in row_] for row_ in numbers]
    each = max(1, scale.step // row)
    return [rows[at : at + each] for at in range(0, len(rows) - each + 1, each)]


def batches(mode: str, rows: list[Documents], bench: Bench, row: int, padded: int) -> list[Batch]:
    """The batches of a step, in one of the four ways."""
    if mode[0] in "CD":
        collate: Collate = VarlenCollator() if mode[0] == "D" else PackedCollator(0)
        each = max(1, bench.scale.micro // row)
        return [Batch.of([feature(one) for one in rows[at : at + each]], collate) for at in range(0, len(rows), each)]
    documents = [document for one in rows for document in one]
    np.random.default_rng(len(documents)).shuffle(documents)  # type: ignore[arg-type]
    if mode[0] == "A":
        groups: Sequence[Documents] = [documents[at : at + padded] for at in range(0, len(documents), padded)]
    else:
        lengths = np.array([len(one) for one in documents])
        groups = [[documents[number] for number in group] for group in by_length(lengths, bench.scale.micro)]
    return [Batch.of([feature([one]) for one in group], PaddedCollator(0)) for group in groups]
