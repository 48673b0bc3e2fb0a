"""The house stays small: its size, its longest functions, the files of a step, the files that carry a batch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_a_line_of_code_holds_more_than_a_comment_or_a_docstring() -> None:
    source = (
        '"""Module,\n\nof three lines."""\n\nimport os  # one\n\n\n'
        'def f(x):\n    """Doc."""\n    # a comment\n    return (\n        x\n    )\n'
    )
    assert house.code_lines(source) == 5
    assert house.code_lines('text = """two\nlines"""\n') == 2  # text that is a value is code


def test_the_library_is_as_small_as_its_limits() -> None:
    files = house.modules()
    assert sum(house.code_lines(path.read_text(encoding="utf-8")) for path in files) <= house.LIMITS["lines_of_code"]
    assert len(files) <= house.LIMITS["modules"]


@pytest.mark.parametrize("path", house.spine(), ids=lambda path: path.stem)
def test_no_function_on_the_spine_is_long(path: Path) -> None:
    assert [pair for pair in house.functions(path) if pair[1] > house.LIMITS["function_lines"]] == []


def test_a_batch_is_carried_through_the_files_that_contributing_walks() -> None:
    """Traced in a fresh Python, for a profiler sees the calls of all that runs in its process."""
    done = subprocess.run([sys.executable, "tests/house_trace.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    called, carried = (set(re.findall(r"^  (\S+\.py)$", part, re.M)) for part in done.stdout.split("files carry"))
    assert len(called) <= house.LIMITS["files_of_a_step"], sorted(called)
    spine = house.LIMITS["spine"]
    assert carried <= set(spine), carried - set(spine)
    assert {"documents/reading.py", "packing/collators.py", "attention/sdpa.py", "training/loss.py"} <= carried
    walk = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .partition("## The walk of a batch")[2]
        .partition("\n## ")[0]
    )
    assert re.findall(r"^\d+\. `varlen_lab/(\S+)`", walk, re.M) == spine and len(spine) <= 12


def test_a_new_link_of_the_walk_would_be_seen() -> None:
    """The trace finds a file by what its functions are given: a tensor, ids, a text; not by a count or a loss."""
    import numpy as np
    import torch
    from house_trace import Trace

    trace = Trace(mark="m1", tokens=37)
    for value in (
        torch.zeros(1, 37),
        np.zeros((2, 37)),
        list(range(37)),
        {"ids": [list(range(37))]},
        "said m1",
        [("m1", True)],
    ):
        assert trace.holds(value), value
    for value in (torch.zeros(1, 36), 37, 0.5, "said", [1, 2], torch.zeros(())):
        assert not trace.holds(value), value
