"""The small data set is what its generator writes, and what it says is true."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from varlen_lab.documents import builtin_tokenizer, load_documents

DATA = Path(__file__).resolve().parent.parent / "data"
RECORDS = [json.loads(line) for line in (DATA / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_generator_writes_the_same_bytes() -> None:
    spec = importlib.util.spec_from_file_location("make_dialogues", DATA / "make_dialogues.py")
    assert spec and spec.loader
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.as_text().encode() == (DATA / "dialogues.jsonl").read_bytes()
    assert generator.roman_numeral(1994) == "MCMXCIV" and generator.roman_numeral(3888) == "MMMDCCCLXXXVIII"
    assert (DATA / "dialogues.jsonl").stat().st_size < 200_000


def test_every_dialogue_alternates_and_ends_with_an_answer() -> None:
    assert len(RECORDS) == 500
    for record in RECORDS:
        roles = [message["role"] for message in record["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(message["content"].strip() for message in record["messages"])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (r"What is (\d+) \+ (\d+)\?", lambda a, b: str(int(a) + int(b))),
        (r"On which weekday was (.+)\?", lambda day: f"It was a {datetime.date.fromisoformat(day):%A}."),
        (r"Spell (\w+) backwards\.", lambda word: word[::-1]),
    ],
)
def test_answers_are_true(question: str, answer) -> None:
    checked = 0
    for record in RECORDS:
        first, second = record["messages"][:2]
        if found := re.fullmatch(question, first["content"]):
            assert second["content"] == answer(*found.groups())
            checked += 1
    assert checked > 20


def test_lengths_have_a_heavy_tail() -> None:
    documents = load_documents(DATA / "dialogues.jsonl", builtin_tokenizer(), progress=False)
    lengths = np.array([len(row["input_ids"]) for row in documents])
    assert len(lengths) == 500
    assert lengths.max() > 10 * np.median(lengths)
