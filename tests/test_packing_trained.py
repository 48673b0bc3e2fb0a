"""What is trained is counted after truncation: documents whose answer was cut away, rows and steps without any."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from expect import refused
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.cli import main
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.packing.registry import IGNORE, OVERLONG, STRATEGIES
from varlen_lab.packing.rows import rows_from_plan
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.packing.trained import trained_in_plan, trained_in_rows
from varlen_lab.studies.comparison import compare
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train

CUT_AWAY = Path(__file__).parent / "cases" / "truncated_answers.jsonl"  # 3 of 10 answers lie behind 64 tokens


def documents(*labels: str) -> Dataset:
    """One document a word, one token a letter: ``q`` is a question's, masked, ``a`` an answer's."""
    marks = [[7 if letter == "a" else IGNORE for letter in word] for word in labels]
    return Dataset.from_dict({"input_ids": [[7] * len(word) for word in labels], "labels": marks})


def test_documents_and_rows_are_counted_by_hand() -> None:
    """Rows of 4: ``qqqqaa`` loses its answer, of ``qqqaaa`` one token stays, ``a`` has nothing before it."""
    data = documents("qqqqaa", "qqqaaa", "qa", "a")
    plan = pack_lengths([6, 6, 2, 1], 4, "sequential")
    report = plan.report(trained_in_plan(data, plan))
    assert (report.trained_tokens, report.untrained_documents, report.untrained_packs) == (2, 2, 1)
    assert str(report).endswith("2 documents have no trained token left; 1 row trains nothing")
    unknown = plan.report()
    assert unknown.untrained_documents is None and "train nothing" not in str(unknown)


@given(
    st.lists(st.text("qa", min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(2, 9),
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from(sorted(OVERLONG.keys() - {"error"})),
    st.booleans(),
)
def test_a_plan_counts_what_its_rows_hold(
    words: list[str], max_length: int, strategy: str, overlong: str, shuffled: bool
) -> None:
    data = documents(*words)
    data = data.shuffle(seed=1) if shuffled else data
    lengths = [len(ids) for ids in data["input_ids"]]
    if overlong == "drop" and min(lengths) > max_length and STRATEGIES[strategy].keeps_whole:
        return
    plan = pack_lengths(lengths, max_length, strategy, overlong)
    rows = rows_from_plan(data, plan)
    by_row = np.add.reduceat(trained_in_plan(data, plan), plan.offsets[:-1])
    assert by_row.tolist() == trained_in_rows(rows).tolist()
    assert by_row.tolist() == [sum(label != IGNORE for label in labels) for labels in rows["labels"]]


@pytest.fixture
def cut_away(tmp_path: Path) -> Config:
    """Rows of 64 from the case, one a step: of five steps three hold no trained token."""
    config = named_config("tiny_llama_full_docstrings_e1").with_mode("varlen")
    return config.replace(
        data_path=str(CUT_AWAY), max_length=64, max_steps=5, accumulative_counts=1, evaluation_freq=0, device="cpu",
        work_dir=str(tmp_path / "w"),
    )  # fmt: skip


def test_the_checks_count_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-custom-dataset", str(CUT_AWAY), "--cfg-options", "max_length=64"]) == 0
    said = capsys.readouterr().out
    assert "10 good records, 0 bad" in said
    assert "3 of 10 documents have no trained token within max_length = 64" in said and "3 of 5 rows" in said
    assert main(["check-custom-dataset", str(CUT_AWAY), "--cfg-options", "max_length=64", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["untrained_documents"], facts["untrained_rows"], facts["rows"]) == (3, 3, 5)
    assert facts["trained_tokens"] < facts["trained_tokens_before_packing"]
    assert main(["check-custom-dataset", str(CUT_AWAY)]) == 0
    assert "no trained token" not in capsys.readouterr().out


def test_a_pack_report_counts_them_for_every_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack-report", str(CUT_AWAY), "--max-length", "64", "256", "--json"]) == 0
    short, long = json.loads(capsys.readouterr().out)["reports"]
    assert (short["untrained_documents"], short["untrained_packs"]) == (3, 3)
    assert (long["untrained_documents"], long["untrained_packs"]) == (0, 0)
    assert main(["pack-report", str(CUT_AWAY), "--cfg-options", "max_length=64"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "documents that train nothing 3" in said and "packs that train nothing 3" in said and "rows of 64" in said


def test_a_run_says_it_before_and_after(cut_away: Config, capsys: pytest.CaptureFixture[str]) -> None:
    told: list = []
    history = train(cut_away, progress=False, on_start=told.append)
    (outlook,) = told
    assert (outlook.untrained_rows, outlook.rows, outlook.untrained_steps) == (3, 5, 3)
    assert any("3 of 5 rows have no token to train on" in line for line in outlook.lines())
    assert history.untrained_steps == 3 == sum(map(math.isnan, history.losses)) and len(history.trained_losses) == 2
    assert all(loss > 6 for loss in history.trained_losses), "no step has a loss of 0"
    again = History.read(Path(cut_away.work_dir or "") / "history.jsonl")
    assert again.untrained_steps == 3 and again.trained_losses == history.trained_losses


def test_the_command_line_says_it(cut_away: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from varlen_lab.config.text import render

    (tmp_path / "c.py").write_text(render(cut_away))
    assert main(["train", str(tmp_path / "c.py")]) == 0
    said = capsys.readouterr().out
    assert "3 steps had no token to train on and moved no weight" in said
    assert "→ 0.0000" not in said and "nan" not in said
    assert main(["compare", str(tmp_path / "c.py"), "--quiet", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 of 5 steps had no token to train on" in said and "nan" not in said
    assert (tmp_path / "out" / "losses.png").is_file()


def test_a_comparison_leaves_them_out(cut_away: Config) -> None:
    comparison = compare(cut_away)
    assert comparison.untrained_steps == 3 and comparison.keeps_apart
    assert comparison.first_step is not None and comparison.first_step.gradients > 0
    assert all(cosine > 0.5 for cosine in comparison.cosines.values()), "of a step that has a gradient"
    assert "in 2 of 2 steps" in comparison.packed_verdict() or "of 2 steps" in comparison.packed_verdict()
    assert not any(map(math.isnan, comparison.difference("packed")))


def test_a_run_of_such_steps_alone_is_refused(cut_away: Config) -> None:
    seeds = range(20)
    one = next(cut_away.replace(max_steps=1, seed=seed) for seed in seeds if first_row_is_untrained(cut_away, seed))
    with refused("none of the 1 steps has a token to train on"):
        train(one, progress=False)
    assert not Path(cut_away.work_dir or "").exists()
    with refused("none of the 1 steps has a token to train on"):
        compare(one)


def first_row_is_untrained(config: Config, seed: int) -> bool:
    from varlen_lab.training.data import load_rows, load_tokenizer
    from varlen_lab.training.plan import plan_steps

    rows, _ = load_rows(config, load_tokenizer(config))
    return not trained_in_rows(rows)[plan_steps(len(rows), config.replace(seed=seed))[0][0][0]]
