"""What became of a notebook that was run, and how long it took: the facts a page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from varlen_lab.language.saying import say


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; ``executed`` is the copy with outputs, ``error`` one line if it failed.

    ``earlier``: when it ran, if not in this walk; ``quick``: it ran with shortened trainings then. ``language``: that
    of the lesson. ``kept``: it was not run, and what its page shows are the outputs that the course keeps.
    """

    name: str
    title: str
    status: Literal["ok", "failed", "not run"] = "not run"
    seconds: float = 0.0
    error: str = ""
    executed: Path | None = None
    earlier: str = ""
    quick: bool = False
    language: str = "en"
    kept: bool = False

    @property
    def page(self) -> str:
        """File name of its HTML page."""
        return self.executed.with_suffix(".html").name if self.executed else f"{self.name}.html"

    @property
    def address(self) -> str:
        """``05_train``, and ``zh/05_train`` in Chinese: what a walk knows it by."""
        return self.name if self.language == "en" else f"{self.language}/{self.name}"

    @property
    def said(self) -> str:
        """``ran in 3.2 s``, or what else became of it."""
        if self.status == "not run":
            return say("kept with the course") if self.kept else say("not run here")
        took = duration(self.seconds)
        words = say("ran in {took}", took=took) if self.status == "ok" else say("failed after {took}", took=took)
        return say("{words}, {when}", words=words, when=self.when) if self.earlier else words

    @property
    def in_short(self) -> str:
        """``ran``, ``failed``, ``not run``, or that its outputs are those the course keeps."""
        if self.status == "not run":
            return say("as kept") if self.kept else say("not run")
        return say("ran") if self.status == "ok" else say("failed")

    @property
    def when(self) -> str:
        """When it ran, if not in this walk, and that it was a quick one."""
        return say("{when}, quick", when=self.earlier) if self.quick else self.earlier


def duration(seconds: float) -> str:
    """``72.3`` -> ``1 min 12 s``; below a minute with one decimal."""
    if seconds < 60:
        return say("{seconds:.1f} s", seconds=seconds)
    return say("{minutes} min {seconds:02d} s", minutes=int(seconds) // 60, seconds=int(seconds) % 60)


def one_line(text: str, limit: int = 200) -> str:
    """``text`` without colour codes and line breaks, cut at ``limit`` characters."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
