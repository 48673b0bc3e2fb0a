"""Which sections run, in which order, and how long each may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from varlen_lab.errors import InputError, nearest

REPORT = 15  # seconds kept for the report


class Section(NamedTuple):
    """A part of the benchmark. ``seconds`` at full length, ``least`` below which it says nothing; GiB it needs."""

    name: str
    what: str
    seconds: int
    least: int
    memory: int = 8
    extra: bool = False  # only when it is asked for by name


SECTIONS = [
    Section("ceilings", "bf16 product of 8192 x 8192 matrices, copy of 4 GiB", 15, 4, 10),
    Section("correctness", "every backend against float64: outputs, gradients, leaks, poisoned memory", 80, 30, 40),
    Section("kernels", "TFLOP/s of every kernel, documents of 512 to 8k tokens, forward and backward", 75, 30, 24),
    Section("training", "padded, grouped, packed, varlen: tokens/s, MFU, memory at 1.1B and 7B weights", 190, 60, 70),
    Section("peers", "HF Trainer with flattening, TRL packing: the same documents and model", 90, 40, 40),
    Section("parity", "three losses on a model of 60M weights, with the control that must differ", 75, 25, 16),
    Section("masks", "the mask a live model used on this device", 15, 8),
    Section("page", "the page's six steps at 7B: three steps of training, conversion, check", 240, 120, 70, True),
    Section("lessons", "notebooks 05 and 08 by papermill on this device", 150, 60, 8, True),
]
NAMES = [section.name for section in SECTIONS]


def choose(names: Sequence[str] | None) -> list[Section]:
    """The sections named, in their own order; without names all that are not extra."""
    if not names:
        return [section for section in SECTIONS if not section.extra]
    for name in names:
        if name not in NAMES:
            raise InputError(f"there is no section {name!r}{nearest(name, NAMES)}; the sections are {', '.join(NAMES)}")
    return [section for section in SECTIONS if section.name in names]


def fit(sections: Sequence[Section], minutes: float) -> list[tuple[Section, int]]:
    """Seconds for each section so that all end within ``minutes``, the report included.

    Shorter than their full length they shrink alike, and those that would fall below their least are left out, the
    longest first, which gives the others more. Raises InputError when none is left.
    """
    have = minutes * 60 - REPORT
    kept = list(sections)
    while kept:
        share = min(1.0, have / sum(section.seconds for section in kept))
        short = [section for section in kept if section.seconds * share < section.least]
        if not short:
            return [(section, int(section.seconds * share)) for section in kept]
        kept.remove(max(short, key=lambda section: section.seconds))
    least = min(section.least for section in sections) + REPORT
    raise InputError(
        f"--minutes {minutes:g} is too short for {', '.join(section.name for section in sections)}: the shortest takes "
        f"{least} s with the report; give {least / 60:.1f} minutes or more."
    )
