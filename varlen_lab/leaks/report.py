"""What an audit found: a matrix, three differences, and a sentence for each finding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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

    def __str__(self) -> str:
        size = f" ({self.size})" if self.size else ""
        return f"{self.kind}, {self.where}: {self.what}{size}. Fix: {self.fix}."


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

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "ok": self.ok,
            "attention": self.attention,
            "mode": self.mode,
            "lengths": list(self.lengths),
            "leaks": self.leaks.tolist(),
            "future": self.future,
            "logits": self.parity.logits,
            "loss": self.parity.loss,
            "gradients": self.parity.gradients,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        leaking = int((self.leaks != 0).any(1).sum())
        lines = [
            f"{'✓ ok' if self.ok else '✗ not ok'}: {len(self.lengths)} document{'s' * (len(self.lengths) != 1)} of "
            f"{sum(self.lengths)} tokens, "
            f"attention {self.attention!r}, {self.mode} mode",
            f"leak: {leaking} documents hear another one (largest gradient {np.abs(self.leaks).max():.1e})"
            if leaking
            else "leak: none, every gradient across a seam is exactly 0",
            f"packed against alone: max |Δ logits| {self.parity.logits:.1e}, |Δ loss| {self.parity.loss:.1e}, "
            f"max |Δ gradient| {self.parity.gradients:.1e}",
            *(f"✗ {finding}" for finding in self.findings),
            *(f"· {note}" for note in self.notes),
        ]
        return "\n".join(lines)
