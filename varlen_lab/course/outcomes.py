"""What became of a notebook that was run, and how long it took: the facts a page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; ``executed`` is the copy with outputs, ``error`` one line if it failed.

    ``earlier``: when it ran, if not in this walk.
    """

    name: str
    title: str
    status: Literal["ok", "failed", "not run"] = "not run"
    seconds: float = 0.0
    error: str = ""
    executed: Path | None = None
    earlier: str = ""

    @property
    def page(self) -> str:
        """File name of its HTML page."""
        return self.executed.with_suffix(".html").name if self.executed else f"{self.name}.html"

    @property
    def said(self) -> str:
        """``ran in 3.2 s``, or what else became of it."""
        if self.status == "not run":
            return "not run here"
        words = f"{'ran in' if self.status == 'ok' else 'failed after'} {duration(self.seconds)}"
        return f"{words}, {self.earlier}" if self.earlier else words


def duration(seconds: float) -> str:
    """``72.3`` -> ``1 min 12 s``; below a minute with one decimal."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def one_line(text: str, limit: int = 200) -> str:
    """``text`` without colour codes and line breaks, cut at ``limit`` characters."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
