"""The notebooks whose metadata says ``gpu: true``, on this device by papermill; their first pictures are kept."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import Cell
from varlen_lab.attention.choosing import import_problem
from varlen_lab.course.lessons import Lesson, find_lessons, read_notebook

PICTURES = 2  # of the eight files that a folder of results has


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a notebook."""
    needed = map(import_problem, ("papermill", "nbconvert", "nbformat", "ipykernel", "datasets"))
    if missing := [problem for problem in needed if problem]:
        yield {"cell": "notebooks", "status": "unsupported", "why": "; ".join(missing)}
        return
    for number, lesson in enumerate(lesson for lesson in find_lessons() if lesson.gpu):
        yield bench.cell(f"notebook {lesson.name}", 20, walked, lesson, number < PICTURES)


def walked(bench: Bench, lesson: Lesson, drawn: bool) -> dict[str, Any]:
    """Run one lesson; RuntimeError with its own words when a cell fails."""
    from varlen_lab.course.notebooks import run_notebook

    # a kernel starts in the notebook's folder; on a machine where the package is not installed it would not find it
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    # and packages in a folder of their own (pip install --target) have their templates there, where nobody looks
    os.environ["JUPYTER_PATH"] = os.pathsep.join(str(Path(place, "share", "jupyter")) for place in sys.path)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / lesson.path.name
        outcome = run_notebook(lesson.path, output, {"device": bench.device, "quick": bench.rehearsal})
        if outcome.status != "ok":
            raise RuntimeError(outcome.error)
        if drawn and (picture := first_picture(read_notebook(output))):
            (bench.folder / f"lesson_{lesson.name[:2]}.png").write_bytes(picture)
    return {"seconds": outcome.seconds, "title": lesson.title}


def first_picture(notebook: Any) -> bytes | None:
    """The first PNG among the outputs of a notebook."""
    outputs = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    return next((base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data), None)
