"""The numbers of an executed notebook beside those it is kept with: what a change of the library changed in a lesson.

A cell whose metadata say ``"tolerance": 0.05`` is compared: each number of its outputs may differ by that share of
itself. Below 1e-5 two numbers are the same, for that is what rounding leaves on different machines; a tolerance of 0
forgives nothing. The numbers of cells tagged ``real`` come from SmolLM2: they are compared where it is installed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from varlen_lab.course.lessons import Lesson, read_notebook
from varlen_lab.course.outcomes import Outcome
from varlen_lab.errors import plural
from varlen_lab.machine.console import say

ROUNDING = 1e-5
NUMBER = re.compile(r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])", re.ASCII)
MARKUP = re.compile(r"<style.*?</style>|<[^>]+>|\x1b\[[0-9;]*m|\bat 0x[0-9a-f]+", re.DOTALL)


def compare_walk(
    lessons: Sequence[Lesson], outcomes: Mapping[str, Outcome], given: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The differences of the lessons that ran in full, each said aloud; ``given`` are the parameters each ran with."""
    from varlen_lab.course.speaking import real_is_here  # imports torch

    ran = [lesson for lesson in lessons if outcomes[lesson.address].status == "ok"]
    full = [lesson for lesson in ran if "quick" not in given[lesson.address]]
    found, real = [], real_is_here()
    for lesson in full:
        executed = read_notebook(outcomes[lesson.address].executed or lesson.path)
        found += compare_numbers(lesson.notebook, executed, lesson.address, real=real)
    for sentence in found:
        say(sentence, mark=("differs: ", "red"), hang=2)
    if quick := [lesson.address for lesson in ran if lesson not in full]:
        say(f"not compared, for they ran quickly: {', '.join(quick)}", hang=2)
    if not real and (speak := [lesson.address for lesson in full if any(map(is_real, lesson.notebook.cells))]):
        say(f"not compared, for SmolLM2 is not installed (make real): its cells in {', '.join(speak)}", hang=2)
    say(f"compared {plural(len(full), 'lesson')} with the numbers they are kept with: {len(found)} outside tolerance")
    return found


def compare_numbers(kept: Any, executed: Any, name: str, *, real: bool = True) -> list[str]:
    """A sentence for each number of ``executed`` that is not that of ``kept``: lesson ``name``, cell, both numbers.

    Both are notebooks as nbformat reads them; a cell is found again by its id. Without ``real`` the cells that speak
    with SmolLM2 are left out.
    """
    again = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    found = []
    for cell in kept.cells:
        if "tolerance" not in cell.metadata or (is_real(cell) and not real):
            continue
        where = f"{name}, cell [{cell.get('execution_count') or '?'}]"
        if cell.id not in again:
            found.append(f"{where} was not run")
            continue
        before, after = numbers_of(cell), numbers_of(again[cell.id])
        if not before:
            found.append(f"{where} is kept without a number; `make notebooks` writes its output anew")
        elif len(before) != len(after):
            found.append(f"{where} prints {plural(len(after), 'number')}, and {plural(len(before), 'number')} are kept")
        else:
            pairs = enumerate(zip(before, after, strict=True), start=1)
            found += [
                f"{where}, number {place} is {now:g}, and {was:g} is kept (tolerance {cell.metadata['tolerance']:g})"
                for place, (was, now) in pairs
                if not same(was, now, cell.metadata["tolerance"])
            ]
    return found


def is_real(cell: Any) -> bool:
    """Whether the numbers of a cell come from the real model."""
    return "tolerance" in cell.metadata and "real" in cell.metadata.get("tags", [])


def same(was: float, now: float, tolerance: float) -> bool:
    """Whether two numbers differ by no more than the share ``tolerance``."""
    return math.isclose(was, now, rel_tol=tolerance, abs_tol=ROUNDING if tolerance else 0.0)


def numbers_of(cell: Any) -> list[float]:
    """The numbers that a cell shows, in their order: ``8,475`` is one, the 32 of ``fp32`` is none."""
    text = " ".join(text_of(output) for output in cell.get("outputs", []))
    return [float(number.replace(",", "")) for number in NUMBER.findall(MARKUP.sub(" ", text))]


def text_of(output: Any) -> str:
    """What a reader sees of an output as text; the HTML of a table, not the name of its class."""
    if output.output_type == "stream":
        return str(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    return str(data.get("text/plain" if "image/png" in data or "text/html" not in data else "text/html", ""))
