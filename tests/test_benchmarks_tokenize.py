"""The tokenising benchmark runs, and what it measures is measured: ids like the peer's, memory like the documents'."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import tokenize
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.reading import read_dialogues


def test_it_says_ratio_and_goal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tokenize", "--documents", "200", "--rounds", "1"])
    assert tokenize.main() in (0, 1)
    said = capsys.readouterr().out
    assert "200 dialogues under tokenizer: datasets.map" in said and "of its speed (goal 0.8)" in said


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_is_that_of_the_documents() -> None:
    """No copy of the whole: what the process grows by beyond the documents does not grow with them."""
    dialogues = read_dialogues("builtin:docstrings", progress=False)[0]
    grown, made = tokenize.memory(dialogues * 2, builtin_tokenizer(progress=False), "default")
    assert made > 12 and grown < made + 40
