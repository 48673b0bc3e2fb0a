"""The pack report: bounds that hold, costs worked by hand, and a command that says what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.cli import main
from varlen_lab.packing.cost import Cost, group_by_length
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.packing.whole import lower_bound


def test_lower_bounds_worked_by_hand() -> None:
    assert lower_bound(np.array([6, 6, 6]), 10) == 3  # 18 tokens, but no two share a row
    assert lower_bound(np.array([7, 7, 4, 4]), 10) == 3  # 22 tokens; beside a 7 there is no room for a 4
    assert lower_bound(np.array([5, 5, 5, 5]), 10) == 2
    assert lower_bound(np.array([1]), 10) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 90))
def test_no_strategy_beats_the_bound(lengths: list[int], max_length: int) -> None:
    for strategy in ("best_fit", "sequential", "unpacked"):
        plan = pack_lengths(lengths, max_length, strategy)
        assert len(plan) >= lower_bound(np.array(lengths), max_length) == plan.report().lower_bound


def test_a_hand_worked_cost() -> None:
    # Documents of 6 and 2 and 4, two a batch. Rows of 6: [6] and [4 2].
    plan = pack_lengths([2, 4, 6], 6)
    cost = Cost.of(plan, batch_size=2)
    assert (cost.steps_before, cost.steps_after) == (2, 1)
    assert (cost.documents_per_step_before, cost.documents_per_step_after) == (1.5, 3.0)
    assert cost.packed_padding == 0
    assert plan.report().attention_share == pytest.approx((36 + 16 + 4) / 72)
    assert cost.grouped_padding == pytest.approx(1 - 12 / (6 + 6 + 2))  # 6 4 | 2
    assert 0 < cost.padding < 0.4
    assert "2.0 times as many documents" in cost.note and "1.4 times as high" in cost.note


def test_a_batch_of_one_never_pads() -> None:
    cost = Cost.of(pack_lengths([3, 9, 1], 10), batch_size=1)
    assert cost.padding == cost.grouped_padding == 0


@given(st.lists(st.integers(1, 40), min_size=8, max_size=300), st.integers(1, 8))
def test_grouping_by_length_never_pads_more(lengths: list[int], batch_size: int) -> None:
    lengths = lengths[: len(lengths) // batch_size * batch_size]  # whole batches: a short last one may be lucky
    cost = Cost.of(pack_lengths(lengths, 40), batch_size)
    assert len(lengths) > 50 * batch_size or cost.grouped_padding <= cost.padding + 1e-12
    assert sorted(group_by_length(np.array(lengths), batch_size).tolist()) == sorted(lengths)


def test_the_note_when_nothing_changes() -> None:
    assert "keep the learning rate" in Cost.of(pack_lengths([10, 10], 10), 1).note
    assert "accumulative_counts = 1 instead of 4" in Cost.of(pack_lengths([2] * 40, 10), 1, accumulative_counts=4).note


@pytest.mark.parametrize(
    ("rows", "words"), [(1, "there is 1 step instead of 40:"), (2, "there are 2 steps instead of 80:")]
)
def test_the_note_counts_steps(rows: int, words: str) -> None:
    assert words in Cost.of(pack_lengths([1] * 40 * rows, 40), 1).note


@pytest.fixture
def dialogues_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    turns = [{"conversation": [{"input": "hello " * n, "output": "yes " * n}]} for n in (1, 3, 9, 200)]
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns), encoding="utf-8")
    return path


def test_a_file_of_ones_own(dialogues_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack-report", str(dialogues_file), "--max-length", "64", "4096", "--json"]) == 0
    short, long = json.loads(capsys.readouterr().out)["reports"]
    assert short["documents"] == long["documents"] == 4
    assert (
        short["truncated_documents"] == 1 and short["truncated_tokens"] == short["tokens"] - short["packed_tokens"] > 0
    )
    assert long["truncated_tokens"] == 0 and long["packs"] == long["lower_bound"] == 1
    assert long["learning_rate_note"]


def test_a_file_takes_the_advice_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever setting an error speaks of can be set beside a file; what is set has effect."""
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"instruction": "2+2?", "output": "4"}) + "\n{\n")
    assert main(["pack-report", str(path)]) == 2
    assert "set skip_bad = True" in capsys.readouterr().err
    changed = ["skip_bad=True", "batch_size=3", "pack_strategy=concat", "max_length=4"]
    assert main(["pack-report", str(path), "--json", "--cfg-options", *changed]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert (report["batch_size"], report["strategy"], report["max_length"]) == (3, "concat", 4)
    assert main(["pack-report", str(path), "--json", "--cfg-options", "skip_bad=True"]) == 0
    assert [one["max_length"] for one in json.loads(capsys.readouterr().out)["reports"]] == [2048, 4096, 8192]


def test_a_config_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack-report", "tiny_llama_full_docstrings_e1", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for word in ("packs", "at least needed", "fill", "tokens truncated", "padding, grouped by length", "learning rate"):
        assert word in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pack_report.json", "lengths.png", "rows.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.jsonl"], "nosuch.jsonl"),
        (["builtin:docstrings", "--max-length", "0"], "max_length is 0"),
        (["builtin:docstrings", "--strategy", "bestfit"], "best_fit"),
        (["builtin:docstrings", "--max-length", "64", "--overlong", "error"], "raise max_length"),
        (["builtin:docstrings", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack-report", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err + printed.out and "Traceback" not in printed.err
