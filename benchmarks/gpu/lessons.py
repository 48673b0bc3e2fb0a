"""Notebooks on this device, by papermill: 05 (training) and 08 (the three losses), whose figure is kept."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from varlen_lab.attention.dispatch import importable

ROOT = Path(__file__).resolve().parents[2]
LESSONS = {"05": None, "08": "three_losses.png"}  # the first figure of 08 is kept under this name


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a notebook."""
    missing = [package for package in ("papermill", "nbconvert", "ipykernel", "datasets") if not importable(package)]
    for number, figure in LESSONS.items():
        name = f"notebook {number}"
        if missing:
            yield {"cell": name, "status": "unsupported", "why": f"{', '.join(missing)} not installed here"}
        else:
            yield guarded(bench, name, 5 if bench.rehearsal else 40, partial(walked, bench, number, figure))


def walked(bench: Bench, number: str, figure: str | None) -> dict[str, Any]:
    """Run one lesson; RuntimeError with its own words when a cell fails."""
    from varlen_lab.course.lessons import find_lesson, read_notebook
    from varlen_lab.course.notebooks import run_notebook

    # a kernel starts in the notebook's folder; on a machine where the package is not installed it would not find it
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        path = find_lesson(number).path
        output = Path(folder) / path.name
        outcome = run_notebook(path, output, {"device": bench.device, "quick": bench.rehearsal})
        if outcome.status != "ok":
            raise RuntimeError(outcome.error)
        if figure is not None:
            (bench.folder / figure).write_bytes(first_picture(read_notebook(output)))
        return {"seconds": outcome.seconds, "figure": figure}


def first_picture(notebook: Any) -> bytes:
    """The first PNG among the outputs of a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise RuntimeError("the notebook has no figure")
