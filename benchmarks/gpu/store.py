"""``results.json``: every call, every cell, on disk as soon as it is known.

    {"runs": [{"command", "commit", "started", "rehearsal", "machine": {...},
               "sections": {name: {"how": "done", "seconds", "limit", "traceback"}}}],
     "cells": [{"run": 0, "section": "kernels", "cell": "...", "status": "ok", ...numbers}]}

A cell's status is ``ok``, ``wrong`` (it ran and computed something else), ``unsupported`` (the kernel says so itself,
or a package is not there), ``out of memory``, ``not reached`` or ``failed``, with ``why`` and where there is one the
``traceback``.
"""

from __future__ import annotations

import contextlib
import json
import os
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
BAD = ("wrong", "failed")  # statuses that nobody expects
CHECKS = ("smoke", "correctness")  # sections that hold kernels to the reference


def varlen_kernels() -> list[str]:
    """Backends that take a row of documents in one call."""
    return [name for name in BACKENDS if name not in (ORACLE, EACH)]


def cell_name(mode: str, row: int, compiled: bool = False) -> str:
    """Of a training cell."""
    return f"{mode} | rows of {row:,}" + (" | compiled" if compiled else "")


def occupy(folder: Path) -> None:
    """Make the folder, and keep other runs out of it until this process ends. InputError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)  # stays open: the lock lasts as long, and leaves no file
    except OSError as problem:
        raise InputError(f"{folder} cannot be a folder ({problem.strerror}); give another with -o.") from None
    with contextlib.suppress(ImportError, OSError):  # some systems, and some file systems, know no locks
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing to {folder}; wait for it or give another with -o.") from None


class Store:
    """The results of a folder that is there, and the run that is being added. InputError when it cannot be written."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.path = folder / "results.json"
        self.content = read(self.path) if self.path.exists() else {"runs": [], "cells": []}
        self.run: dict[str, Any] = {**run, "sections": {}}
        self.content["runs"].append(self.run)
        self.number = len(self.content["runs"]) - 1
        if trouble := self.flush():
            raise InputError(f"{trouble}; give another folder with -o.")

    def add(self, section: str, cell: Cell) -> str:
        """Keep a cell, and ``flush``."""
        self.content["cells"].append({"run": self.number, "section": section, "status": "ok", **cell})
        return self.flush()

    def flush(self) -> str:
        """Write the file whole or not at all, so that a kill leaves it as it was; why that could not be, or nothing."""
        try:
            with written_whole(self.path, "w") as file:
                file.write(json.dumps(self.content, indent=1, default=str, skipkeys=True) + "\n")
        except OSError as problem:  # a full disk: the next time it is perhaps no more
            return f"{self.path} cannot be written ({problem.strerror})"
        return ""


def read(path: Path) -> dict[str, Any]:
    """The content of a results file; InputError when it is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ends(found), newest(found)  # what all readers start from can be read
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path} is no results file of this benchmark; give another folder.") from None
    return found


def newest(content: dict[str, Any]) -> dict[tuple[str, str], Cell]:
    """The cells that count: of the newest run's device and kind, the latest value of each.

    A cell is not replaced by a later call that did not reach it, and it is gone when a later call did its section to
    the end without it, as a failed test that is mended. Times of different cards, and rehearsed ones, do not go into
    one table.
    """
    found: dict[tuple[str, str], Cell] = {}
    for number, run in alike(content):
        mine = {(cell["section"], cell["cell"]): cell for cell in content["cells"] if cell["run"] == number}
        done = [name for name, facts in run["sections"].items() if facts["how"] == "done"]
        found = {key: cell for key, cell in found.items() if key in mine or key[0] not in done}
        found |= {key: cell for key, cell in mine.items() if cell["status"] != "not reached" or key not in found}
    return found


def alike(content: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The runs of the newest one's device and kind, with their numbers."""
    last = kind(content["runs"][-1])
    return [(number, run) for number, run in enumerate(content["runs"]) if kind(run) == last]


def ends(content: dict[str, Any]) -> dict[str, str]:
    """How each section ended in the newest call that has it."""
    return {name: facts["how"] for _, run in alike(content) for name, facts in run["sections"].items()}


def kind(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["machine"].get("device"), run["machine"].get("torch"), bool(run.get("rehearsal"))


def well(cells: Cells, section: str) -> list[Cell]:
    """All cells of a section that went well, but for those of unfit kernels."""
    bad = unfit(cells)
    found = [cell for (where, _), cell in cells.items() if where == section and cell["status"] == "ok"]
    return [cell for cell in found if cell.get("kernel") not in bad]


def unfit(cells: Cells) -> frozenset[str]:
    """Kernels that a check has found wrong or failing: however fast they are, it is worth nothing."""
    bad = [cell for (where, _), cell in cells.items() if where in CHECKS and cell["status"] in BAD]
    return frozenset(cell["kernel"] for cell in bad if "kernel" in cell)
