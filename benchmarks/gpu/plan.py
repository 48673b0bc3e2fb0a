"""Which sections run, in which order, and how long each may take: the one of most worth first.

A section's share is settled when it starts, from the time that is really left: what an earlier one did not use is
there for the later ones, and none takes what a later one needs at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from varlen_lab.errors import InputError, unknown_choice

REPORT = 12.0  # seconds kept for the report
MOST = 120.0  # minutes of a call
START = 20.0  # seconds that a plan expects of imports and of asking the device


class Section(NamedTuple):
    """A part of the benchmark: ``seconds`` it would like, ``least`` below which it says nothing, ``most``; GiB."""

    name: str
    what: str
    seconds: float
    least: float
    memory: int = 8
    extra: bool = False  # only when it is asked for by name
    most: float = 600


SECTIONS = [
    Section("smoke", "a ceiling, every kernel once, a step, a picture", 40, 15, 10, most=45),
    Section("correctness", "every kernel against float64: outputs, gradients, leaks", 45, 25, 22),
    Section("parity", "three losses of a model of 60M weights, with a control", 40, 34, 12, most=60),
    Section("kernels", "TFLOP/s inside documents, forward and backward", 50, 25, 16),
    Section("training", "padded, grouped, packed, varlen at 1.1B weights", 97, 55, 22),
    Section("peers", "HF Trainer with flattening, TRL packing, same kernel", 40, 25, 22),
    Section("masks", "the mask a live model used on this device", 16, 14, 4),
    Section("lessons", "the notebooks that are marked gpu, by papermill", 50, 40, 8, extra=True),
    Section("tests", "pytest -m gpu", 80, 30, 22, extra=True),
]
NAMES = [section.name for section in SECTIONS]


def chosen(names: Sequence[str] | None, rehearsal: bool = False) -> list[Section]:
    """The sections named, in their own order; without names all that are not extra."""
    for name in names or ():
        if name not in NAMES:
            raise unknown_choice("section", name, NAMES)
    found = [section for section in SECTIONS if (section.name in names if names else not section.extra)]
    return [section._replace(least=6) if rehearsal else section for section in found]


def share(sections: Sequence[Section], left: float) -> float:
    """Seconds that the first of ``sections`` may take when ``left`` remain for all of them; 0 when it cannot begin.

    Its least, and its part of what is left above the least of all.
    """
    if left < sections[0].least:
        return 0.0
    counted = [sections[0]]
    for section in sections[1:]:  # one that cannot begin any more leaves its time to the others
        counted += [section] if section.least + sum(one.least for one in counted) <= left else []
    spare, first = left - sum(one.least for one in counted), sections[0]
    part = (first.seconds - first.least) / sum(one.seconds - one.least for one in counted)
    return min(first.most, first.least + spare * part)


def clock(sections: Sequence[Section], minutes: float) -> list[tuple[str, float, float, str]]:
    """(name, start, end, what) in seconds of everything, the start and the report included, each at its limit.

    A section that cannot begin starts where it ends. InputError when even the first cannot, and for no such time.
    """
    if not 0 < minutes <= MOST:  # NaN is neither
        raise InputError(f"--minutes {minutes:g} is no time to run; give more than 0 and at most {MOST:g}.")
    end = 60 * minutes - REPORT
    if share(sections, end - START) == 0:
        least = (START + sections[0].least + REPORT) // 6 / 10 + 0.1
        raise InputError(f"--minutes {minutes:g} is too short for {sections[0].name}; give {least:.1f} or more.")
    at, lines = START, [("start", 0.0, START, "imports, what the device is")]
    for number, section in enumerate(sections):
        until = at + share(sections[number:], end - at)
        lines.append((section.name, at, until, f"{section.what} ({section.memory} GiB)"))
        at = until
    return [*lines, ("report", at, at + REPORT, "pictures and a page")]
