"""What an audit found: a matrix, three differences, and a sentence for each finding."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.errors import plural

if TYPE_CHECKING:
    from varlen_lab.leaks.measure import Parity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where (layer type or batch key), how to put it right, how large."""

    kind: str
    where: str
    what: str
    fix: str
    size: str = ""

    @property
    def name(self) -> str:
        """What it is called: its kind."""
        return self.kind

    @property
    def cause(self) -> str:
        """What is wrong, with how much of it was measured."""
        return f"{self.what} ({self.size})" if self.size else self.what

    def __str__(self) -> str:
        return f"{self.kind}, {self.where}: {self.cause}. Fix: {self.fix}."


@dataclass(frozen=True, eq=False)
class AuditReport:
    """``leaks[i, j]``: largest gradient of document i's outputs with respect to document j's inputs, 0 if i = j."""

    leaks: np.ndarray
    future: float  # the same from the early tokens of a document to its later ones: 0 for a causal model
    parity: Parity
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    lengths: tuple[int, ...]
    attention: str
    mode: str

    @property
    def ok(self) -> bool:
        """No finding."""
        return not self.findings

    @property
    def leaking(self) -> int:
        """How many documents hear another one."""
        return int((self.leaks != 0).any(1).sum())

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; None where nothing was measured or NaN was."""
        return {
            "ok": self.ok,
            "attention": self.attention,
            "mode": self.mode,
            "lengths": list(self.lengths),
            "leaks": [[known(value) for value in row] for row in self.leaks.tolist()],
            "future": known(self.future),
            "logits": known(self.parity.logits),
            "loss": known(self.parity.loss),
            "gradients": known(self.parity.gradients),
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if np.isnan(self.leaks).any():
            measured = ["nothing was measured: the model refuses the packed batch"]
        else:
            measured = self.measured()
        lines = [
            f"{'✓ ok' if self.ok else '✗ not ok'}: {plural(len(self.lengths), 'document')} of "
            f"{plural(sum(self.lengths), 'token')}, "
            f"attention {self.attention!r}, {self.mode} mode",
            *measured,
            *(f"✗ {finding}" for finding in self.findings),
            *(f"· {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def measured(self) -> list[str]:
        """The two measurements, a line each."""
        return [
            f"leak: {hearing(self.leaking)} (largest gradient {np.abs(self.leaks).max():.1e})"
            if self.leaking
            else "leak: none, every gradient across a seam is exactly 0",
            f"packed against alone: max |Δ logits| {self.parity.logits:.1e}, |Δ loss| {self.parity.loss:.1e}, "
            f"max |Δ gradient| {self.parity.gradients:.1e}",
        ]


def hearing(leaking: int, documents: int | None = None) -> str:
    """``1 document hears another one``, or ``1 of 5 documents hears another one`` where it is said of how many."""
    who = plural(leaking, "document") if documents is None else f"{leaking} of {plural(documents, 'document')}"
    return f"{who} hear{'s' * (leaking == 1)} another one"


def known(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


def grouped(name: str, paths: Iterable[str]) -> str:
    """A class and the layers it was met in, by their numbers in ``named_modules`` paths.

    >>> grouped("Conv", ["model.layers.0.conv", "model.layers.2.conv", "model.layers.3.conv", "model.layers.4.conv"])
    'Conv of layers 0, 2-4'
    """
    numbers = sorted({int(found[0]) for path in paths if (found := re.findall(r"(?:^|\.)(\d+)(?=\.|$)", path))})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))
        for run in runs  # 0, 1, but 0-2
    ]
    return f"{name} of layer{'s' * (len(numbers) > 1)} {', '.join(words)}" if numbers else name
