"""The parts of ``benchmarks.packing`` that move tokens: writing packed rows, and collating them."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lengths import DISTRIBUTIONS, draw
from benchmarks.process import NotMeasured, last_line

SFT_LIKE = ("alpaca-like", "oasst-like")
VOCABULARY = 32_000
ROUNDS = 3
CHUNK = 1 << 22  # tokens; memory is measured with it, the default is smaller


def make_dataset(name: str, documents: int, folder: Path) -> Any:
    """Documents of random tokens with this distribution's lengths, on disk, labels like input_ids."""
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars, load_from_disk

    disable_progress_bars()
    lengths = draw(name, documents)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, int(lengths.sum()), dtype=np.int32)
    edges = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    column = pa.ListArray.from_arrays(edges, pa.array(tokens))
    Dataset(pa.table({"input_ids": column, "labels": column})).save_to_disk(str(folder))
    return load_from_disk(str(folder))


def trl(strategy: str) -> Callable[[Any, int, Path], Any]:
    def pack(dataset: Any, max_length: int, folder: Path) -> Any:
        from trl.data_utils import pack_dataset

        keep = {"cache_file_name": str(folder / "packed.arrow")}
        return pack_dataset(dataset, max_length, strategy=strategy, map_kwargs=keep)

    return pack


def ours(dataset: Any, max_length: int, folder: Path) -> Any:
    from varlen_lab.packing.strategies import pack_dataset

    return pack_dataset(dataset, max_length, cache_dir=folder)


def ours_in_chunks(dataset: Any, max_length: int, folder: Path) -> Any:
    from varlen_lab.packing.strategies import pack_dataset

    return pack_dataset(dataset, max_length, cache_dir=folder, chunk_tokens=CHUNK)


CONTENDERS: dict[str, Callable[[Any, int, Path], Any]] = {
    "ours": ours,
    "ours, chunks of 4M": ours_in_chunks,
    "TRL bfd (its default)": trl("bfd"),
    "TRL bfd_split": trl("bfd_split"),
    "TRL wrapped (cuts)": trl("wrapped"),
}


def anonymous() -> int:
    """Memory of this process that is its own, in kB: pages of mapped files come and go as the system likes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark measures memory on Linux")


def peak_of(work: Callable[[], Any], every: float = 0.001) -> int:
    """The most kB that ``work`` held at a time over what was there before; looks ``every`` so many seconds."""
    before, seen, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(0, max(seen) - before)


def measure(name: str, distribution: str, folder: Path) -> int:
    """In a process of its own: the median CPU seconds of three, packs, tokens, their sum, and kB at the peak."""
    import datasets

    datasets.disable_progress_bars()
    dataset = datasets.load_from_disk(str(folder))
    max_length = DISTRIBUTIONS[distribution].max_length
    pack = CONTENDERS[name]
    with tempfile.TemporaryDirectory() as first:
        pack(dataset.select(range(64)), max_length, Path(first))  # imports, and what is made once
    with tempfile.TemporaryDirectory() as target:  # before the others: what they free, the allocator may keep
        peak = peak_of(lambda: pack(dataset, max_length, Path(target)))
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as target:
            os.sync()  # what the one before has written must not be paid for by this one
            start = time.process_time()
            packed = pack(dataset, max_length, Path(target))
            seconds.append(time.process_time() - start)
            column = packed.data.column("input_ids")
            total = sum(int(chunk.values.to_numpy().astype(np.int64).sum()) for chunk in column.chunks)
            number = sum(len(chunk.values) for chunk in column.chunks)
            packs = len(packed)
            del packed, column  # its pages are given back here, not while the next one is timed
    print(float(np.median(seconds)), packs, number, total, peak)
    return 0


def dataset_section(documents: int) -> list[tuple[str, bool]]:
    """Rows written by each contender; the goals as (sentence, met)."""
    goals = []
    for name in SFT_LIKE:
        print(f"\n{documents:,} documents, {name}, on disk to packed on disk, input_ids and labels")
        print(f"    {'':<24}{'Mtok / CPU s':>12}{'packs':>10}{'peak MB':>10}")
        with tempfile.TemporaryDirectory() as folder:
            dataset = make_dataset(name, documents, Path(folder) / "documents")
            tokens = sum(len(chunk.values) for chunk in dataset.data.column("input_ids").chunks)
            truth = sum(int(chunk.values.to_numpy().sum()) for chunk in dataset.data.column("input_ids").chunks)
            runs: dict[str, list[tuple[float, ...]]] = {contender: [] for contender in CONTENDERS}
            for contender in list(CONTENDERS) * ROUNDS:
                try:
                    found = last_line("benchmarks.packing", "--one", contender, name, f"{folder}/documents")
                    runs[contender].append(tuple(map(float, found.split())))
                except NotMeasured as reason:
                    if not runs[contender]:
                        print(f"    {contender:<24}not measured: {reason}")
            speed, memory = {}, {}
            for contender, measured in runs.items():
                if not measured:
                    continue
                seconds, packs, number, total, peak = np.median(measured, axis=0).tolist()
                speed[contender], memory[contender] = tokens / seconds / 1e6, peak / 1024
                lost = "" if (number, total) == (tokens, truth) else f"   {tokens - number:,.0f} tokens lost"
                print(f"    {contender:<24}{speed[contender]:>12.1f}{packs:>10,.0f}{peak / 1024:>10.0f}{lost}")
                if lost and contender.startswith("ours"):
                    goals.append((f"{name}: {contender} lost tokens", False))
        if "TRL bfd (its default)" in speed:
            times = speed["ours"] / speed["TRL bfd (its default)"]
            goals.append((f"{name}: rows written {times:.1f} × as fast as TRL's bfd, goal 6 ×", times >= 6))
        chunk = CHUNK * 2 * 4 / 2**20  # two columns of int32
        used = memory["ours, chunks of 4M"] / chunk
        goals.append((f"{name}: peak memory {used:.2f} × a chunk of {chunk:.0f} MB, goal 1.5 ×", used <= 1.5))
    return goals


def collate_section(documents: int) -> list[tuple[str, bool]]:
    """Batches of one row, read from disk; the goals as (sentence, met)."""
    import torch
    from transformers import DataCollatorWithFlattening

    from varlen_lab.packing.collators import VarlenCollator
    from varlen_lab.packing.readers import RowReader
    from varlen_lab.packing.strategies import pack_dataset, pack_lengths

    name, wanted = SFT_LIKE[0], 300
    max_length = DISTRIBUTIONS[name].max_length
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(name, documents, Path(folder) / "documents")
        plan = pack_lengths(draw(name, documents), max_length)
        rows = RowReader(pack_dataset(dataset, max_length, cache_dir=folder))
        packs = range(min(wanted, len(plan)))
        theirs, collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True), VarlenCollator()
        features = [[dataset[document] for document in plan[pack].tolist()] for pack in packs]
        batches: dict[str, Callable[[int], dict[str, Any]]] = {
            "ours": lambda pack: collate([rows[pack]]),
            "HF flattening": lambda pack: theirs([dataset[document] for document in plan[pack].tolist()]),
            "HF flattening, fetched before": lambda pack: theirs(features[pack]),
        }
        equal = all(same(batches["ours"](pack), batches["HF flattening"](pack), torch) for pack in packs)
        seconds: dict[str, list[float]] = {each: [] for each in batches}
        for _ in range(5):
            for each, batch in batches.items():
                start = time.process_time()
                for pack in packs:
                    batch(pack)
                seconds[each].append(time.process_time() - start)
        tokens = sum(len(rows[pack]["input_ids"]) for pack in packs)
        print(f"\ncollating rows of {max_length:,}, {name}, from disk: Mtok / CPU s; tensors equal: {equal}")
        speed = {each: tokens / float(np.median(times)) / 1e6 for each, times in seconds.items()}
        for each, rate in speed.items():
            print(f"    {each:<32}{rate:>8.1f}")
    times = speed["ours"] / speed["HF flattening"]
    return [
        ("collation: tensors equal HF's", equal),
        (f"collation {times:.1f} × as fast as DataCollatorWithFlattening, goal 12 ×", times >= 12),
    ]


def same(first: dict[str, Any], second: dict[str, Any], torch: Any) -> bool:
    """Are two batches equal, key by key?"""
    buffers = [io.BytesIO(), io.BytesIO()]
    for batch, buffer in zip((first, second), buffers, strict=True):
        torch.save({name: torch.as_tensor(batch[name]).clone() for name in sorted(batch)}, buffer)
    return buffers[0].getvalue() == buffers[1].getvalue()
