"""The club's dialogues are what their generator writes: one voice, each fact in several wordings."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parent.parent / "data"
RECORDS = [json.loads(line) for line in (DATA / "club.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_club", DATA / "make_club.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_generator_writes_the_same_bytes(generator: Any) -> None:
    assert generator.as_text().encode() == (DATA / "club.jsonl").read_bytes()
    assert len(RECORDS) == 240 == len({json.dumps(record) for record in RECORDS})


def test_every_answer_is_one_sentence_and_its_source() -> None:
    for record in RECORDS:
        question, answer = record["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant") and question["content"].strip()
        assert re.fullmatch(r"[^.!?\n]+\.\nSource: (club handbook, page \d+|common knowledge)\.", answer["content"]), (
            answer
        )


def test_each_fact_is_asked_for_in_every_wording(generator: Any) -> None:
    answers = [record["messages"][1]["content"] for record in RECORDS]
    assert {answers.count(one) for one in answers} == {len(generator.ABOUT_THE_CLUB), len(generator.ASKED)}
    assert sum("handbook" in one for one in answers) == len(RECORDS) / 2


def test_what_is_held_out_is_trained_on_in_other_words(tmp_path: Path) -> None:
    from varlen_lab.course import hold_out

    split = hold_out(DATA / "club.jsonl", tmp_path)
    trained = [json.loads(line)["messages"] for line in split.train.read_text(encoding="utf-8").splitlines()]
    assert len(trained) == 228 and len(split.questions) == len(split.wanted) == 12
    assert not set(split.questions) & {question["content"] for question, _ in trained}
    assert set(split.wanted) <= {answer["content"] for _, answer in trained}
    assert 3 <= sum("handbook" in one for one in split.wanted) <= 9
