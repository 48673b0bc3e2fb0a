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

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import CV_ONE, Bench
from benchmarks.gpu.store import Cell, cell_name
from benchmarks.lengths import lognormal
from benchmarks.train import by_length, feature
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.attention.sdpa import without_plans
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.machine.gpu import GIB
from varlen_lab.models.building import PLAIN, from_scratch
from varlen_lab.models.recomputing import recompute
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.outlook import Work, operations_per_second
from varlen_lab.training.step import Batch, optimize

STEPS = 12  # of different documents at most; then they come again
Documents = list[np.ndarray]  # token ids of each
Shape = dict[str, Any]  # of a model, as its config.json says it
MODES = {"A": "unpacked", "B": "unpacked", "C": "packed", "D": "varlen"}  # as settings call them
RECOMPUTED = (None, "cheap", "all")  # of the activations, until it fits
COMPILED = 120  # seconds that the compiled cell needs, nearly all of them for the compiler: 70 were not enough


def measure(bench: Bench) -> Iterator[Cell]:
    """The cells in the order of what one wants to know first."""
    middle, long, short = bench.scale.rows
    four = [(mode, middle) for mode in ("D varlen", "A padded", "B grouped", "C packed")]
    pairs = [(mode, row) for row in (long, short) for mode in ("D varlen", "C packed")]
    kernel = bench.fit[0]
    for (mode, row), compiled in [*((one, False) for one in four + pairs), (four[0], True)]:
        name, facts = cell_name(mode, row, compiled), {"mode": mode, "row": row, "compiled": compiled}
        yield from bench.cell(name, COMPILED if compiled else 6, measured, mode, row, compiled, kernel, **facts)


def measured(bench: Bench, mode: str, row: int, compiled: bool, kernel: str) -> dict[str, Any]:
    """One cell, in less memory if it has to be: activations recomputed, at last smaller padded batches."""
    shape, padded = bench.scale.model, bench.scale.padded
    tries = [(padded, again) for again in RECOMPUTED]
    tries += [(padded // 2**n, "all") for n in range(1, padded.bit_length()) if mode.startswith("A")]
    for padded, again in tries:
        with contextlib.suppress(torch.OutOfMemoryError):
            return run(bench, shape, mode, row, kernel, padded, again, compiled)
        bench.free()  # outside of the handler, which would keep the tensors of its frames
    raise torch.OutOfMemoryError("even with all activations recomputed")


def run(
    bench: Bench, shape: Shape, mode: str, row: int, kernel: str, padded: int, again: str | None, compiled: bool
) -> dict[str, Any]:
    """Two steps to warm up, then steps until the cell's seconds are over; at least three."""
    config = config_of(bench, shape, mode, row)
    attention = hf_name_of(kernel) if mode.startswith("D") else PLAIN
    network = random_model(shape, attention, bench.device, bench.dtype)
    if again:
        recompute(network, again)
    if compiled:
        # in a rehearsal the graph is traced and not compiled: that takes a CPU a minute and shows nothing more
        network.compile(dynamic=True, backend="aot_eager" if bench.rehearsal else "inductor")
    engine = make_engine(network, config, 1000, make_accelerator(config))
    given = documents_of_steps(bench, row)
    # collated when its step has come, inside of the clock, as every trainer does it
    steps = (batches(mode, given[number % len(given)], bench, row, padded) for number in count())
    work = Work.of(network)
    bench.free()
    # padded batches differ in length, rows hardly: each way with the kernels that are best for it
    with without_plans(bench.device if mode[0] in "AB" else "none"):
        records = timed(bench, optimize(engine, steps))
    seconds = sum(record["seconds"] for record in records)
    tokens = sum(record["tokens"] for record in records)
    done = work.operations(tokens, sum(record["sum_squared_lengths"] for record in records))
    return {
        "tokens_per_second": tokens / seconds,
        "mfu": done / seconds / operations_per_second(network.device, bench.dtype),
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if bench.device == "cuda" else None,
        "fill": tokens / sum(record["padded_tokens"] for record in records),
        "steps": len(records),
        "loss": records[-1]["loss"],
        "kernel": kernel if mode.startswith("D") else f"transformers {network.config._attn_implementation}",
        "recomputed": again or "nothing",
    }


def timed(bench: Bench, records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the steps that count: those after the first two."""
    begin, found = float("inf"), []
    for number, record in enumerate(records):
        found += [record] if number >= 2 else []
        begin = time.monotonic() if number == 1 else begin
        if len(found) >= 3 and (time.monotonic() - begin > bench.scale.seconds or bench.left() < 5):
            break
    return found


def config_of(bench: Bench, shape: Shape, mode: str, row: int) -> Config:
    """Settings of the loop: fused AdamW on bf16 weights, a learning rate too small to matter."""
    half = bench.device == "cuda"
    way = {"device": bench.device, "dtype": "bf16" if half else "fp32", "master_weights": not half}
    config = named_config("tiny_llama_full_docstrings_e1").with_mode(MODES[mode[0]])
    return config.replace(model_config=shape, max_length=row, evaluation_freq=0, lr=1e-6, **way)


def random_model(shape: Shape, attention: str, device: str, dtype: torch.dtype) -> Any:
    """A model of that shape with random weights, made where it will be used: a billion on a CPU take a minute."""
    with torch.device(device):
        model = from_scratch(shape, attention, seed=0)
    for weight in model.parameters():  # not the buffers: frequencies of positions stay exact
        weight.data = weight.data.to(dtype)
    return model


def documents_of_steps(bench: Bench, row: int, vocabulary: int = 2000) -> list[list[Documents]]:
    """For each step its rows, for each row its documents: best-fit rows of ``row`` tokens, in random order."""
    scale, generator = bench.scale, np.random.default_rng(0)
    lengths = lognormal(scale.mean, CV_ONE, min(scale.longest, row))(generator, 2 * scale.rows[0] * STEPS // scale.mean)
    packs = pack_lengths(lengths, row)
    numbers = [packs.order[a:b] for a, b in zip(packs.offsets, packs.offsets[1:])]
    generator.shuffle(numbers)
    rows = [[generator.integers(3, vocabulary, lengths[n]) for n in row_] for row_ in numbers]
    each = max(1, 2 * scale.rows[0] // row)
    return [rows[at : at + each] for at in range(0, len(rows) - each + 1, each)]


def batches(mode: str, rows: list[Documents], bench: Bench, row: int, padded: int) -> list[Batch]:
    """The batches of a step, in one of the four ways."""
    if mode[0] in "CD":
        collate = VarlenCollator() if mode[0] == "D" else PackedCollator(0)
        each = max(1, bench.scale.rows[0] // row)
        return [Batch.of([feature(one) for one in rows[at : at + each]], collate) for at in range(0, len(rows), each)]
    documents = [document for one in rows for document in one]
    np.random.default_rng(len(documents)).shuffle(documents)  # type: ignore[arg-type]
    if mode[0] == "A":
        groups: Sequence[Documents] = [documents[at : at + padded] for at in range(0, len(documents), padded)]
    else:
        lengths = np.array([len(one) for one in documents])
        groups = [[documents[number] for number in group] for group in by_length(lengths, bench.scale.rows[0])]
    return [Batch.of([feature([one]) for one in group], PaddedCollator(0)) for group in groups]
