"""What was hoped for, and what came out: must, goal, stretch on one H200, from the step model in our notes.

A goal reads its value from cells; where a cell is missing the value is None and the verdict says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.gpu.bench import varlen_kernels
from benchmarks.gpu.store import Cell

Cells = Mapping[tuple[str, str], Cell]
Pair = tuple[tuple[str, str, int], tuple[str, str, int]]  # (model, mode, row) of two training cells
SMALL, LARGE = "TinyLlama-1.1B", "7B"


class Goal(NamedTuple):
    """``value(cells)`` against three levels; ``unit`` after the number. Larger is better, or ``below``."""

    name: str
    value: Callable[[Cells], float | None]
    must: float
    goal: float
    stretch: float
    unit: str = "×"
    below: bool = False
    section: str = "training"
    pair: Pair | tuple[()] = ()  # the training cells of a ratio


class Verdict(NamedTuple):
    goal: Goal
    value: float | None
    word: str  # stretch, goal, must, missed, not measured
    why: str


def ok(cells: Cells, section: str, cell: str) -> Cell | None:
    found = cells.get((section, cell))
    return found if found is not None and found["status"] == "ok" else None


def kernel(width: int) -> Callable[[Cells], float | None]:
    """The best varlen kernel with lognormal documents, forward and backward."""

    def value(cells: Cells) -> float | None:
        rates = [
            cell["both_tflops"]
            for (section, _), cell in cells.items()
            if section == "kernels"
            and cell["status"] == "ok"
            and cell["width"] == width
            and cell["mix"].startswith("lognormal")
            and cell["kernel"] in varlen_kernels()
        ]
        return max(rates, default=None)

    return value


def trained(model: str, mode: str, row: int, what: str) -> Callable[[Cells], float | None]:
    """A number of the training cell, the better one of eager and compiled."""

    def value(cells: Cells) -> float | None:
        names = (f"{model} | {mode} | rows of {row:,}{compiled}" for compiled in ("", " | compiled"))
        found = [cell[what] for name in names if (cell := ok(cells, "training", name)) and cell[what] is not None]
        return max(found, default=None)

    return value


def ratio(pair: Pair, what: str) -> Callable[[Cells], float | None]:
    """Of a number in two eager training cells."""

    def value(cells: Cells) -> float | None:
        top, bottom = (ok(cells, "training", f"{model} | {mode} | rows of {row:,}") for model, mode, row in pair)
        if top is None or bottom is None or not top.get(what) or not bottom.get(what):
            return None
        return float(top[what] / bottom[what])

    return value


def against(peer: str) -> Callable[[Cells], float | None]:
    """Our varlen rows of 16k, the better of eager and compiled, over a peer's tokens a second."""

    def value(cells: Cells) -> float | None:
        mine = trained(SMALL, "D varlen", 16384, "tokens_per_second")(cells)
        theirs = ok(cells, "peers", peer)
        return None if mine is None or theirs is None else mine / theirs["tokens_per_second"]

    return value


def parity(what: str) -> Callable[[Cells], float | None]:
    def value(cells: Cells) -> float | None:
        cell = ok(cells, "parity", "three losses")
        return None if cell is None else float(cell[what])

    return value


def over(mode: str, row: int, name: str, what: str, *levels: float, below: bool = False) -> Goal:
    """Varlen over another way to feed the same documents."""
    pair = (SMALL, "D varlen", row), (SMALL, mode, row)
    return Goal(name, ratio(pair, what), *levels, below=below, pair=pair)


RATE = "tokens_per_second"
GOALS = [
    Goal("varlen kernel, documents of ~600, head width 64", kernel(64), 140, 180, 210, " TFLOP/s", section="kernels"),
    Goal("varlen kernel, documents of ~600, head width 128", kernel(128), 160, 210, 250, " TFLOP/s", section="kernels"),
    Goal(f"{SMALL}, rows of 16k", trained(SMALL, "D varlen", 16384, "tokens_per_second"), 54e3, 68e3, 80e3, " tok/s"),
    Goal(f"{SMALL}, rows of 16k, MFU", trained(SMALL, "D varlen", 16384, "mfu"), 0.36, 0.45, 0.53, ""),
    Goal(f"{LARGE}, rows of 16k", trained(LARGE, "D varlen", 16384, "tokens_per_second"), 10e3, 12e3, 13.5e3, " tok/s"),
    Goal(f"{LARGE}, rows of 16k, MFU", trained(LARGE, "D varlen", 16384, "mfu"), 0.41, 0.50, 0.56, ""),
    over("A padded", 16384, "varlen over padded", RATE, 2.3, 2.8, 3.2),
    over("B grouped", 16384, "varlen over grouped by length", RATE, 1.0, 1.05, 1.07),
    over("C packed", 8192, "varlen over packed-full, rows of 8k", RATE, 1.3, 1.5, 1.65),
    over("C packed", 16384, "varlen over packed-full, rows of 16k", RATE, 1.9, 2.2, 2.47),
    over("C packed", 32768, "varlen over packed-full, rows of 32k", RATE, 2.8, 3.5, 4.1),
    Goal(
        "against HF Trainer with the same kernel", against("HF flattening, our kernel"), 1.0, 1.15, 1.3, section="peers"
    ),
    Goal("against HF Trainer with sdpa", against("HF flattening, sdpa"), 2.0, 3.0, 3.0, section="peers"),
    over("A padded", 16384, "peak memory over padded", "peak_gib", 0.8, 0.6, 0.6, below=True),
    Goal(
        "parity: |varlen - unpacked| / loss, worst step", parity("varlen_apart"), 2e-3, 2e-3, 2e-3, "", True, "parity"
    ),
    Goal("parity: gradient cosine", parity("cosine"), 0.9995, 0.9995, 0.9995, "", section="parity"),
]


def judge(cells: Cells) -> list[Verdict]:
    """Every goal with what was measured, in words that a person reads."""
    verdicts = []
    for goal in GOALS:
        value = goal.value(cells)
        if value is None:
            verdicts.append(Verdict(goal, None, "not measured", why_not(goal, cells)))
            continue
        levels = (("stretch", goal.stretch), ("goal", goal.goal), ("must", goal.must))
        met = next((word for word, level in levels if (value <= level if goal.below else value >= level)), "missed")
        verdicts.append(Verdict(goal, value, met, unequal(goal, cells)))
    return verdicts


def unequal(goal: Goal, cells: Cells) -> str:
    """What two cells of a ratio did not have in common: it then compares more than the way documents are fed."""
    found = [ok(cells, "training", f"{model} | {mode} | rows of {row:,}") for model, mode, row in goal.pair]
    ways = [cell.get("recomputed", "nothing") for cell in found if cell is not None]
    if len(set(ways)) < 2:
        return ""
    words = [f"{mode[2:]} {way}" for (_, mode, _), way in zip(goal.pair, ways)]
    return f"not alike: of activations, {' and '.join(words)} is recomputed"


def why_not(goal: Goal, cells: Cells) -> str:
    """Which cells of the goal's section did not come out."""
    bad = [cell for (where, _), cell in cells.items() if where == goal.section and cell["status"] != "ok"]
    if not any(where == goal.section for where, _ in cells):
        return f"section {goal.section} was not run"
    return "; ".join(f"{cell['cell']}: {cell['status']}" for cell in bad[:2]) or "its cells are missing"
