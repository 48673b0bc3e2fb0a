"""``results.json``: every call, every cell, on disk as soon as it is known.

    {"runs": [{"command", "commit", "started", "machine": {...}, "sections": {name: "done"}, "rehearsal"}],
     "cells": [{"run": 0, "section": "kernels", "cell": "...", "status": "ok", ...numbers}]}

A status is ``ok``, ``unsupported`` (the kernel says so itself), ``failed``, ``out of memory`` or ``not reached``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError

Cell = dict[str, Any]


class Store:
    """The results of a folder, and the run that is being added."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.path = folder / "results.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.content = read(self.path) if self.path.exists() else {"runs": [], "cells": []}
        self.content["runs"].append({**run, "sections": {}})
        self.number = len(self.content["runs"]) - 1

    @property
    def run(self) -> dict[str, Any]:
        return self.content["runs"][self.number]

    def add(self, section: str, cell: Cell) -> None:
        """Keep a cell, and write the file."""
        self.content["cells"].append({"run": self.number, "section": section, "status": "ok", **cell})
        self.flush()

    def close(self, section: str, how: str) -> None:
        """Say how a section ended: ``done`` or why not."""
        self.run["sections"][section] = how
        self.flush()

    def flush(self) -> None:
        """Whole or not at all: a kill leaves the file as it was."""
        unfinished = self.path.with_name(self.path.name + ".tmp")
        unfinished.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)


def read(path: Path) -> dict[str, Any]:
    """The content of a results file; InputError when it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["runs"], list) or not isinstance(found["cells"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no results file of this benchmark; give another folder with -o.") from None
    return found


def newest(content: dict[str, Any]) -> dict[tuple[str, str], Cell]:
    """The cells that count, by (section, cell): of the newest run's device and kind, the latest value of each.

    A cell that went well is not replaced by a later call that did not reach it. Times of different cards, and rehearsed
    ones, do not go into one table.
    """
    if not content["runs"]:
        return {}
    last = content["runs"][-1]
    same = {number for number, run in enumerate(content["runs"]) if kind(run) == kind(last)}
    found: dict[tuple[str, str], Cell] = {}
    for cell in content["cells"]:
        key = (cell["section"], cell["cell"])
        if cell["run"] in same and (cell["status"] == "ok" or found.get(key, {}).get("status") != "ok"):
            found[key] = cell
    return found


def kind(run: dict[str, Any]) -> tuple[Any, ...]:
    machine = run.get("machine", {})
    return machine.get("device"), machine.get("torch"), bool(run.get("rehearsal"))
