"""What was measured before and is kept beside the lessons: read from its ``results.json``, never typed by hand.

``benchmarks/results`` holds a folder a measurement. Two of them are shown in lessons: a real checkpoint trained in ways
that differ in what a token sees (``YYYY-MM-DD-real-effect``), and training on a GPU (``YYYY-MM-DD-CARD``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.language.saying import listed, phrase, say

BASE = "varlen"
WAYS = {"A": "padded", "B": "grouped by length", "C": "packed", "D": "varlen"}  # of a GPU's training section
Row = dict[str, Any]


@dataclass(frozen=True)
class RealEffect:
    """Trainings of one checkpoint on the same documents, an arm and a seed each; ``arms`` as the file has them."""

    arms: list[Row]
    forward: list[Row]
    folder: str

    @cached_property
    def runs(self) -> dict[str, list[Row]]:
        """The runs of every arm, in the order of their seeds."""
        names = sorted({run["arm"] for run in self.arms}, key=lambda arm: (arm != BASE, arm))
        return {arm: sorted((r for r in self.arms if r["arm"] == arm), key=lambda r: r["seed"]) for arm in names}

    def held_out(self, arm: str) -> tuple[list[int], np.ndarray]:
        """Steps, and the loss of held-out documents alone at each: float (seeds, steps)."""
        runs = self.runs[arm]
        steps = list(runs[0]["held_out"])
        return [int(step) for step in steps], np.array([[run["held_out"][step] for step in steps] for run in runs])

    def training(self, arm: str, parts: int = 4) -> np.ndarray:
        """Mean training loss of equal parts of a run, one after the other: float (seeds, parts)."""
        return np.array(
            [[part.mean() for part in np.array_split(np.asarray(r["loss"]), parts)] for r in self.runs[arm]]
        )

    def last(self, arm: str) -> list[float]:
        """The held-out loss after the last step, one number a seed."""
        return [float(value) for value in self.held_out(arm)[1][:, -1]]

    def curves(self, parts: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
        """Means over seeds, arm -> (steps, losses): of held-out documents alone, and of equal parts of the training."""
        held = {arm: (self.held_out(arm)[0], self.held_out(arm)[1].mean(0).tolist()) for arm in self.runs}
        each = len(self.arms[0]["loss"]) / parts
        middles = [each * (part + 0.5) for part in range(parts)]
        return held, {arm: (middles, self.training(arm, parts).mean(0).tolist()) for arm in self.runs}

    def table(self) -> list[Row]:
        """A row an arm: held-out loss at the end, minus varlen seed by seed, training loss of the last quarter."""
        found = []
        for arm in self.runs:
            gaps = np.subtract(self.last(arm), self.last(BASE))
            gaps[np.abs(gaps) < 1e-5] = 0.0  # rounding: the same training
            error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            found.append(
                {
                    "trained": arm,
                    "held-out loss": float(np.mean(self.last(arm))),
                    "minus varlen": float(gaps.mean()),
                    "standard error": float(error),
                    "training loss, last quarter": float(self.training(arm)[:, -1].mean()),
                }
            )
        return sorted(found, key=lambda row: row["held-out loss"])

    def before_training(self) -> list[Row]:
        """A row a data set and row length: what neighbours change of the answers' loss when nothing was trained."""
        return [
            {
                "data": Path(piece["settings"]["data"].removeprefix("builtin:")).stem,
                "rows of": int(length),
                "varlen": row["varlen"],
                "packed − varlen": row["packed - varlen"]["mean"],
                "restarting − varlen": row["restarting - varlen"]["mean"],
            }
            for piece in self.forward
            for length, row in piece["rows"].items()
        ]

    @property
    def caption(self) -> str:
        """What it was measured on, in one line."""
        run = self.arms[0]
        settings, on = run["settings"], run["measured_on"]
        seeds = len(next(iter(self.runs.values())))
        return say(
            "{model} · {steps} steps of a row of {width} · {seeds} seeds · {machine}",
            model=settings["model"].removeprefix("pip:"),
            steps=settings["steps"],
            width=settings["max_length"],
            seeds=seeds,
            machine=f"{on['device']} · {on['dtype']} · torch {on['torch']}",
        )


@dataclass(frozen=True)
class GpuTraining:
    """Real tokens a second of the ways to feed the same documents, by row length; ``cells`` as the file has them."""

    cells: list[Row]
    machine: Row
    folder: str

    def rate(self, way: str, row: int) -> float | None:
        """Real tokens a second of one of ``WAYS`` (its letter); None where it was not measured."""
        found = [c for c in self.cells if c["mode"].startswith(way) and c["row"] == row]
        return float(found[0]["tokens_per_second"]) if found else None

    def gain(self, over: str, row: int) -> float | None:
        """Varlen's rate over that of another way."""
        varlen, other = self.rate("D", row), self.rate(over, row)
        return varlen / other if varlen and other else None

    def bars(self, row: int) -> list[tuple[str, float, str, str]]:
        """What was measured with rows of one length: way, real tokens a second, a note, and what it does with seams."""
        roles = {"D": "own", "C": "crossing"}
        return [
            (
                phrase(WAYS[cell["mode"][0]]),
                cell["tokens_per_second"],
                say(" · {fill:.0%} full, {gib:.0f} GiB", fill=cell["fill"], gib=cell["peak_gib"]),
                roles.get(cell["mode"][0], "other"),
            )
            for cell in self.cells
            if cell["row"] == row
        ]

    def gains(self, over: str = "C") -> dict[int, float]:
        """Varlen's rate over that of another way, by row length, the shortest first."""
        found = {row: self.gain(over, row) for row in sorted({cell["row"] for cell in self.cells})}
        return {row: gain for row, gain in found.items() if gain is not None}

    def claim(self, row: int) -> str:
        """Varlen over each other way, with rows of one length, as a headline."""
        gains = {name: self.gain(way, row) for way, name in WAYS.items() if way != "D"}
        told = [say("{gain:.2f}× {way}", gain=gain, way=phrase(name)) for name, gain in gains.items() if gain]
        return say("Tokens a second of varlen: {gains}; rows of {row:,}", gains=listed(told), row=row)

    @property
    def caption(self) -> str:
        """The card and the versions, in one line."""
        packages = self.machine.get("packages", {})
        named = [f"{name} {packages[name]}" for name in ("transformers", "flash-attn") if name in packages]
        return " · ".join([self.machine["name"], "bf16", f"torch {self.machine['torch']}", *named])


def kept_folders() -> list[Path]:
    """The folders of kept results, oldest first: of the clone this package is installed from, else of where we are."""
    places = (Path(__file__).resolve().parents[2], Path(), Path(".."))
    found = (sorted(place.glob("benchmarks/results/*/results.json")) for place in places)
    return [path.parent for path in next((paths for paths in found if paths), [])]


def real_effect() -> RealEffect:
    """The newest measurement of a real checkpoint; InputError where none is kept."""
    for folder in reversed(kept_folders()):
        if folder.name.endswith("-real-effect"):
            content = read(folder)
            return RealEffect(content["arms"], content["forward"], folder.name)
    raise InputError(
        "benchmarks/results has no folder *-real-effect here; run this lesson in a clone of the repository."
    )


def gpu_training() -> GpuTraining | None:
    """The newest measurement of training on a GPU; None where none is kept."""
    for folder in reversed(kept_folders()):
        content = read(folder)
        calls = content.get("runs", [])
        ok = [one for one in content.get("cells", []) if one["section"] == "training" and one["status"] == "ok"]
        newest = {one["cell"]: one for one in sorted(ok, key=lambda one: int(one["run"]))}
        cells = [one for one in newest.values() if not one.get("compiled")]
        if cells and not any(calls[one["run"]].get("rehearsal") for one in cells):
            return GpuTraining(cells, calls[cells[-1]["run"]]["machine"], folder.name)
    return None


def read(folder: Path) -> dict[str, Any]:
    """The results of a folder; InputError where the file is none."""
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise InputError(
            f"{folder.name}/results.json cannot be read ({problem}); git checkout brings it back."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{folder.name}/results.json holds no results; git checkout brings it back.")
    return content
