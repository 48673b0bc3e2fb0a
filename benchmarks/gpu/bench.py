"""What a section is given: the device, how large its work is, how long it may take, and a clock."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.runner import BEGUN, described, end_of
from benchmarks.gpu.store import ORACLE, Cell
from benchmarks.lengths import lognormal
from varlen_lab.attention.choosing import import_problem, usable
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries

LEFT_OUT = (ORACLE, "flash_attn_hub")  # the second would be downloaded
COMPILING = 20.0  # seconds a compiled backend may take for one layout
CV_ONE = 0.8326  # sigma of a lognormal whose standard deviation equals its mean
REFUSALS = ("not support", "only support", "supports head", "unsupported", "No viable backend")

Work = Callable[..., dict[str, Any]]  # what a cell measures, given the bench and more
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def llama(*sizes: int, vocabulary: int) -> dict[str, Any]:
    """The shape of a Llama with these ``SIZES``."""
    shape = dict(zip(SIZES, sizes, strict=True))
    return {"model_type": "llama", **shape, "vocab_size": vocabulary, "max_position_embeddings": 32768}


TINYLLAMA = llama(2048, 22, 32, 4, 5632, vocabulary=32000)  # 1.1B weights
SIXTY = llama(768, 8, 12, 12, 2048, vocabulary=2048)  # 60M weights
SMALL = llama(256, 2, 4, 2, 512, vocabulary=2048)  # heads of 64: every build of every kernel has them


@dataclass(frozen=True)
class Scale:
    """Sizes of the work. ``REHEARSAL`` runs every line of every section on a CPU in a minute or two."""

    matrix: int = 8192  # of the product
    ugly: tuple[int, ...] = (1, 2, 63, 64, 65, 127, 128, 129, 511, 1000, 2048, 3, 2050)
    heads: tuple[tuple[int, int, int], ...] = ((32, 4, 64), (32, 32, 128))  # query heads, key heads, width
    documents: tuple[int, ...] = (512, 2048, 8192)  # fixed lengths in a kernel's row; and lognormal ones
    mean: int = 600
    longest: int = 4096  # tokens of a document, in training
    model: dict[str, Any] = field(default_factory=lambda: TINYLLAMA)
    rows: tuple[int, int, int] = (16384, 32768, 8192)  # usual, long, short; a step holds two usual ones
    padded: int = 16  # documents of a padded batch
    seconds: float = 2.0  # of timed steps in a cell, after the first two
    parity: dict[str, Any] = field(default_factory=lambda: SIXTY)
    parity_row: int = 2048  # tokens, a step: each document is a pass of its own, several times
    steps: int = 12  # of the parity


REHEARSAL = Scale(
    matrix=256,
    ugly=(1, 2, 63, 64, 65, 3),
    heads=((4, 2, 16), (4, 4, 32)),
    documents=(64, 128),
    mean=60,
    longest=256,
    model=SMALL,
    rows=(256, 512, 128),
    padded=4,
    seconds=0.2,
    parity=SMALL,
    parity_row=256,
    steps=3,
)


@dataclass(frozen=True)
class Bench:
    """One section's run."""

    device: str
    deadline: float  # of time.monotonic()
    folder: Path  # for pictures
    rehearsal: bool = False
    unfit: frozenset[str] = frozenset()  # backends that a check has found wrong or failing

    @property
    def scale(self) -> Scale:
        return REHEARSAL if self.rehearsal else Scale()

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def kernels(self) -> list[str]:
        """Backends that run here, the one that varlen training takes first; by their ``rank``."""
        return sorted((name for name in usable(self.device, self.dtype) if name not in LEFT_OUT), key=self.rank)

    def rank(self, name: str) -> tuple[bool, bool]:
        """Those that have to be compiled come late, those that are unfit last."""
        return name in self.unfit, BACKENDS[name].compiled

    @property
    def fit(self) -> list[str]:
        """Those that no check speaks against; all when it speaks against all: something must be measured."""
        return [name for name in self.kernels if name not in self.unfit] or self.kernels

    def left(self) -> float:
        """Seconds until this section has to end."""
        return self.deadline - time.monotonic()

    def cell(
        self, name: str, expected: float, measure: Work, *given: Any, needs: Sequence[str] = (), **facts: Any
    ) -> Generator[Cell, None, Cell]:
        """``measure(bench, *given)`` as a cell, whatever becomes of it; it is yielded and returned.

        ``expected`` seconds must be left to begin it, one in a rehearsal; the packages it ``needs`` must be there.
        ``facts`` are in the cell in any case; a ``kernel`` among them may refuse in words. Before it is measured the
        cell is told as begun, so that its name is known when the process dies of it. RuntimeError after the cell when
        the device can do nothing more: the next ones would only repeat that.
        """
        begin, expected, broken = time.monotonic(), min(1.0, expected) if self.rehearsal else expected, ""
        if missing := [problem for package in needs if (problem := import_problem(package))]:
            result: dict[str, Any] = {"status": "unsupported", "why": "; ".join(missing)}
        elif self.left() < expected:
            why = f"{max(0.0, self.left()):.0f} s were left of {expected:.0f}"
            result = {"status": "not reached", "why": why}
        else:
            yield {"cell": name, **facts, "status": BEGUN}
            try:
                result = measure(self, *given)
            except (Exception, SystemExit) as problem:  # a section goes on after a kernel that cannot
                result = failure(problem, refusing="kernel" in facts)
            try:
                self.free()  # outside of the handler, whose traceback holds the tensors of its frames
            except Exception as problem:  # a fault of the device comes up again, or only now
                broken = described(problem)
                result = {**failure(problem), **result, "status": "failed"}
            result = {**result, "took": round(time.monotonic() - begin, 2)}
        cell = {"cell": name, **facts, **result}
        yield cell
        if broken:
            raise RuntimeError(f"the device can do nothing more after {name} ({broken})")
        return cell

    def free(self) -> None:
        """Wait for the last cell, give its memory back and forget its peak."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def milliseconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Mean time of ``work``, one after the other without waiting, after two that do not count."""
    from torch.utils.benchmark import Timer  # asks for a GPU when it is imported: not in the process that forks

    return 1000 * Timer("work()", globals={"work": work}).timeit(repeats).mean


def failure(problem: BaseException, refusing: bool = False) -> dict[str, Any]:
    """The exception at hand in a cell: ``out of memory``, ``unsupported`` where a kernel refuses, else ``failed``."""
    words = isinstance(problem, (NotImplementedError, InputError)) or any(word in str(problem) for word in REFUSALS)
    refused = refusing and words and not isinstance(problem, ImportError)
    status = "unsupported" if refused else "failed"
    status = "out of memory" if isinstance(problem, torch.OutOfMemoryError) else status
    return {"status": status, "why": described(problem), "traceback": end_of(traceback.format_exc())}


def filling(total: int, mean: int, longest: int, seed: int = 0) -> list[int]:
    """Lognormal lengths that add up to ``total``; the last is cut."""
    drawn = lognormal(mean, CV_ONE, longest)(np.random.default_rng(seed), 4 * total // mean + 16)
    ends = np.minimum(np.cumsum(drawn), total)
    lengths = np.diff(ends, prepend=0)
    return [int(length) for length in lengths if length]


def row_of(lengths: Sequence[int], device: str) -> Boundaries:
    """The seams on the device, with its copies for the CPU made already: they cost a wait."""
    row = Boundaries.from_lengths(list(lengths), device)
    row.spans  # noqa: B018
    return row
