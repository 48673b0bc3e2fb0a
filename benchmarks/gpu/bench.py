"""What a section is given: the device, how large its work is, how long it may take, and a clock."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lengths import lognormal
from varlen_lab.attention.dispatch import usable
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.packing.boundaries import Boundaries

LONGEST = 4096  # tokens of a document, in training
ORACLE = "reference"
CV_ONE = 0.8326  # sigma of a lognormal whose standard deviation equals its mean


@dataclass(frozen=True)
class Scale:
    """Sizes of the work. ``REHEARSAL`` runs every line of every section on a CPU in a minute or two."""

    matrix: int = 8192
    copied: int = 2**32  # bytes
    ugly: tuple[int, ...] = (1, 2, 63, 64, 65, 127, 128, 129, 511, 1000, 2048, 3, 4054)
    row: int = 32768  # tokens of a kernel's row
    dense_row: int = 8192  # the dense mask of a row is row squared
    documents: tuple[int, ...] = (512, 2048, 8192)  # fixed lengths; and lognormal ones
    heads: tuple[tuple[int, int, int], ...] = ((32, 4, 64), (32, 32, 128))  # query heads, key heads, width
    mean: int = 600
    longest: int = LONGEST
    rows: tuple[int, ...] = (16384, 8192, 32768)
    step: int = 32768  # real tokens of an optimizer step
    micro: int = 16384  # slots of one forward pass
    padded: int = 16  # documents of a padded batch
    seconds: float = 5.0  # of timed steps in a cell, after the first two
    models: dict[str, dict[str, Any]] = field(default_factory=lambda: {"TinyLlama-1.1B": TINYLLAMA, "7B": SEVEN})
    parity: dict[str, Any] = field(default_factory=lambda: {"model": SIXTY, "steps": 40, "max_length": 4096})
    page: dict[str, Any] = field(default_factory=lambda: {"model": INTERNLM, "steps": 3, "max_length": 2048})


def llama(width: int, layers: int, heads: int, key_heads: int, inner: int, vocabulary: int = 32000) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
    }


TINYLLAMA = llama(2048, 22, 32, 4, 5632)
SEVEN = llama(4096, 32, 32, 32, 11008)
SIXTY = llama(768, 8, 12, 12, 2048, vocabulary=2048)  # 60M weights
INTERNLM = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
SMALL = llama(64, 2, 4, 2, 128, vocabulary=2048)

REHEARSAL = Scale(
    matrix=256,
    copied=2**20,
    ugly=(1, 2, 63, 64, 65, 3),
    row=512,
    dense_row=256,
    documents=(64, 128),
    heads=((4, 2, 16), (4, 4, 32)),
    mean=60,
    longest=256,
    rows=(256, 128, 512),
    step=512,
    micro=256,
    padded=4,
    seconds=0.3,
    models={"TinyLlama-1.1B": SMALL, "7B": llama(96, 2, 4, 4, 128, vocabulary=2048)},
    parity={"model": SMALL, "steps": 3, "max_length": 256},
    page={"model": {}, "steps": 3, "max_length": 128},
)


@dataclass(frozen=True)
class Bench:
    """One section's run."""

    device: str
    deadline: float  # of time.monotonic()
    folder: Path  # for figures
    rehearsal: bool = False

    @property
    def scale(self) -> Scale:
        return REHEARSAL if self.rehearsal else Scale()

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def kernels(self) -> list[str]:
        """Backends that can run here beside the oracle, the one ``auto`` would take first."""
        return [name for name in usable(self.device, self.dtype) if name != ORACLE]

    def memory(self) -> float:
        """Bytes of the device; on a CPU enough for a rehearsal."""
        return torch.cuda.get_device_properties(0).total_memory if self.device == "cuda" else 2.0**33

    def left(self) -> float:
        """Seconds until this section has to end."""
        return self.deadline - time.monotonic()

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give memory of the last cell back, and forget its peak."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def milliseconds(self, work: Callable[[], object], repeats: int = 10) -> float:
        """Median time of ``work`` after three calls that do not count; CUDA events, a clock on a CPU."""
        for _ in range(3):
            work()
        times = []
        for _ in range(repeats):
            if self.device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                work()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begin = time.perf_counter()
                work()
                times.append(1000 * (time.perf_counter() - begin))
        return statistics.median(times)

    def mixes(self, total: int) -> dict[str, Boundaries]:
        """Rows of ``total`` tokens: documents of one length each, and lognormal ones."""
        scale, rows = self.scale, {}
        for length in scale.documents:
            if length <= total:
                rows[f"{length:,}"] = Boundaries.from_lengths([length] * (total // length), self.device)
        lengths = filling(total, scale.mean, scale.longest)
        rows[f"lognormal {scale.mean}"] = Boundaries.from_lengths(lengths, self.device)
        return rows


def varlen_kernels() -> list[str]:
    """Backends that take a row of documents in one call; sdpa is called for each document."""
    return [name for name in BACKENDS if name not in (ORACLE, "sdpa")]


def filling(total: int, mean: int, longest: int, seed: int = 0) -> list[int]:
    """Lognormal lengths that add up to ``total``; the last is cut."""
    drawn = lognormal(mean, CV_ONE, longest)(np.random.default_rng(seed), 4 * total // mean + 16)
    ends = np.minimum(np.cumsum(drawn), total)
    lengths = np.diff(ends, prepend=0)
    return [int(length) for length in lengths if length]
