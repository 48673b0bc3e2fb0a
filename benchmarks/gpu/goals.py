"""What was hoped for on one H100 SXM, and what came out: must, goal, stretch, from the step model in our notes.

A value is a number of a cell, or one over another, as they are: nothing is scaled to another card. The note says what
it is made of, or why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.store import LONG, RATE, ROW, SAME_KERNEL, Cell, Cells, varlen_kernels, well

CARD = "H100"


class Number(NamedTuple):
    """The best of ``key`` among the cells of a section that ``fits`` takes."""

    section: str
    key: str
    fits: Callable[[Cell], bool] = lambda cell: True

    def best(self, cells: Cells) -> Cell | None:
        """Its cell; None where there is none."""
        return max(filter(self.fits, well(cells, self.section)), key=lambda cell: cell[self.key], default=None)


class Goal(NamedTuple):
    """A number, or ``top`` over ``bottom``, against three levels. Larger is better, or ``below``."""

    name: str
    top: Number
    must: float
    goal: float
    stretch: float
    unit: str = ""
    bottom: Number | None = None
    below: bool = False


Verdict = tuple[Goal, float | None, str, str]  # what was measured; a word; what it is made of, or why there is none


def kernel(width: int) -> Number:
    """Varlen kernels on lognormal documents, forward and backward."""

    def fits(cell: Cell) -> bool:
        return cell["width"] == width and "lognormal" in cell["mix"] and cell["kernel"] in varlen_kernels()

    return Number("kernels", "both_tflops", fits)


def trained(mode: str, row: int = ROW, compiled: bool = False) -> Number:
    """Tokens a second of training, eager; ``compiled``: or compiled, whichever is faster."""
    kinds = (False, compiled)
    return Number("training", RATE, lambda one: (one["mode"], one["row"]) == (mode, row) and one["compiled"] in kinds)


MINE = trained("D varlen", compiled=True)
SAME = 2e-3  # of the loss: within it two trainings are the same, beyond it they differ
D, LONG_D, LONG_C = trained("D varlen"), trained("D varlen", LONG), trained("C packed", LONG)
HF = Number("peers", RATE, lambda cell: cell["cell"] == SAME_KERNEL)
GOALS = [
    Goal("varlen kernel, documents of ~600, head dim 64", kernel(64), 140, 180, 210, " TFLOP/s"),
    Goal("varlen kernel, documents of ~600, head dim 128", kernel(128), 160, 210, 250, " TFLOP/s"),
    Goal("1.1B weights, rows of 16k", MINE, 54e3, 68e3, 80e3, " tok/s"),
    Goal("varlen over padded (D/A)", D, 2.3, 2.8, 3.2, "×", trained("A padded")),
    Goal("varlen over grouped by length (D/B)", D, 1.0, 1.05, 1.07, "×", trained("B grouped")),
    Goal("varlen over packed, rows of 32k (D/C)", LONG_D, 2.8, 3.5, 4.1, "×", LONG_C),
    Goal("over HF Trainer with flattening, same kernel", MINE, 1.0, 1.15, 1.3, "×", HF),
    Goal("parity: |D - A| / loss, worst step", Number("parity", "varlen_apart"), SAME, SAME, SAME, below=True),
    Goal("parity: gradient cosine", Number("parity", "cosine"), 0.9995, 0.9995, 0.9995),
    Goal("control: |C - A| / loss, worst step", Number("parity", "packed_apart"), SAME, SAME, SAME),
]


def judge(cells: Cells) -> list[Verdict]:
    """Every goal and its word: stretch, goal, must (met where there is one level), missed, not measured."""
    verdicts: list[Verdict] = []
    for goal in GOALS:
        numbers = [number for number in (goal.top, goal.bottom) if number is not None]
        found = [number.best(cells) for number in numbers]
        if missing := [number for number, cell in zip(numbers, found) if cell is None]:
            verdicts.append((goal, None, "not measured", why_not(missing[0], cells)))
            continue
        values = [float(cell[number.key]) for number, cell in zip(numbers, found) if cell is not None]
        value = values[0] / values[1] if goal.bottom else values[0]
        levels = [("stretch", goal.stretch), ("goal", goal.goal), ("must", goal.must)]
        levels = [("met", goal.must)] if goal.must == goal.stretch else levels
        word = next((word for word, level in levels if (value < level if goal.below else value >= level)), "missed")
        verdicts.append((goal, value, word, made_of([cell for cell in found if cell], values)))
    return verdicts


def made_of(found: list[Cell], values: list[float]) -> str:
    """The cells behind a value; two that recompute differently are not alike but for the way documents are fed."""
    ways = [cell.get("recomputed", "nothing") for cell in found]
    names = [cell["cell"] + ("" if way == "nothing" else f" ({way} recomputed)") for cell, way in zip(found, ways)]
    told = " over ".join(f"{name}: {value:,.0f}" for name, value in zip(names, values)) if len(found) > 1 else names[0]
    alike = found[0]["section"] != found[-1]["section"] or ways[0] == ways[-1]
    return told if alike else f"not alike: {told}"


def why_not(number: Number, cells: Cells) -> str:
    """What became of the cells that would have had this number."""
    there = [cell for (where, _), cell in cells.items() if where == number.section]
    unlike = "left out, a check found its kernel wrong or failing"  # or it went well, and would be the number
    told = [f"{one['cell']}: {one['status']}, {one.get('why', unlike)}" for one in there if number.fits(one)]
    return "; ".join(told[:2]) or f"no such cell of {number.section}"
