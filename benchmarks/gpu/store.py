"""``results.json``: every call, every cell, on disk as soon as it is known.

    {"runs": [{"command", "commit", "started", "rehearsal", "machine": {...},
               "sections": {name: {"how": "done", "seconds", "limit", "traceback"}}}],
     "cells": [{"run": 0, "section": "kernels", "cell": "...", "status": "ok", ...numbers}]}

A cell's status is ``ok``, ``wrong`` (it ran and computed something else), ``unsupported`` (the kernel says so itself),
``out of memory``, ``not reached`` or ``failed``, with ``why`` and where it helps the ``traceback``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole

Cell = dict[str, Any]
Cells = Mapping[tuple[str, str], Cell]  # by (section, cell)
# what is in the cells that others read
RATE = "tokens_per_second"
ORACLE, EACH = "reference", "sdpa"  # what kernels are measured against; the one that is called document by document
FULL, SAME_KERNEL = "full causal", "HF flattening, our kernel"
ROW, LONG = 16384, 32768  # tokens of a row, in training


def varlen_kernels() -> list[str]:
    """Backends that take a row of documents in one call."""
    return [name for name in BACKENDS if name not in (ORACLE, EACH)]


def cell_name(mode: str, row: int, compiled: bool = False) -> str:
    """Of a training cell."""
    return f"{mode} | rows of {row:,}" + (" | compiled" if compiled else "")


class Store:
    """The results of a folder, and the run that is being added."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.path = folder / "results.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InputError(f"{folder} cannot be a folder ({problem.strerror}); give another with -o.") from None
        self.content = read(self.path) if self.path.exists() else {"runs": [], "cells": []}
        self.run: dict[str, Any] = {**run, "sections": {}}
        self.content["runs"].append(self.run)
        self.number = len(self.content["runs"]) - 1
        self.flush()

    def add(self, section: str, cell: Cell) -> None:
        """Keep a cell, and write the file."""
        self.content["cells"].append({"run": self.number, "section": section, "status": "ok", **cell})
        self.flush()

    def flush(self) -> None:
        """Whole or not at all: a kill leaves the file as it was."""
        with written_whole(self.path, "w") as file:
            file.write(json.dumps(self.content, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The content of a results file; InputError when it is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["runs"], list) or not isinstance(found["cells"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no results file of this benchmark; give another folder with -o.") from None
    return found


def newest(content: dict[str, Any]) -> dict[tuple[str, str], Cell]:
    """The cells that count: of the newest run's device and kind, the latest value of each.

    A cell that went well is not replaced by a later call that did not reach it. Times of different cards, and rehearsed
    ones, do not go into one table.
    """
    last = kind(content["runs"][-1])
    same = {number for number, run in enumerate(content["runs"]) if kind(run) == last}
    found: dict[tuple[str, str], Cell] = {}
    for cell in content["cells"]:
        key = (cell["section"], cell["cell"])
        told = cell["status"] in ("ok", "wrong")
        if cell["run"] in same and (told or found.get(key, {}).get("status") != "ok"):
            found[key] = cell
    return found


def kind(run: dict[str, Any]) -> tuple[Any, ...]:
    machine = run.get("machine", {})
    return machine.get("device"), machine.get("torch"), bool(run.get("rehearsal"))


def ok(cells: Cells, section: str, cell: str) -> Cell | None:
    """A cell that went well, or None."""
    found = cells.get((section, cell))
    return found if found is not None and found["status"] == "ok" else None


def well(cells: Cells, section: str) -> list[Cell]:
    """All cells of a section that went well."""
    return [cell for (where, _), cell in cells.items() if where == section and cell["status"] == "ok"]
