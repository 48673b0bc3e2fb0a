"""The notebooks whose metadata says ``gpu: true``, on this device by papermill."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import Cell
from varlen_lab.course.lessons import Lesson, find_lessons

NEEDED = ("papermill", "nbconvert", "nbformat", "ipykernel", "datasets")


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a notebook."""
    for lesson in (lesson for lesson in find_lessons() if lesson.gpu):
        yield from bench.cell(f"notebook {lesson.name}", 15, walked, lesson, needs=NEEDED)


def walked(bench: Bench, lesson: Lesson) -> dict[str, Any]:
    """Run one lesson; RuntimeError with its own words when a cell fails."""
    from varlen_lab.course.notebooks import run_notebook

    # a kernel starts in the notebook's folder; on a machine where the package is not installed it would not find it
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_notebook(
            lesson.path, Path(folder) / lesson.path.name, {"device": bench.device, "quick": bench.rehearsal}
        )
    if outcome.status != "ok":
        raise RuntimeError(outcome.error)
    return {"seconds": outcome.seconds, "title": lesson.title}
