"""The small data set is what its generator writes, and what it says is true."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from varlen_lab.documents import load_documents
from varlen_lab.documents.builtin import builtin_tokenizer

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
    assert len(RECORDS) == 500 == len({json.dumps(record) for record in RECORDS})
    openings = [record["messages"][0]["role"] for record in RECORDS]
    assert 50 < openings.count("system") < 250
    assert 40 < sum("\u4e00" <= character <= "\u9fff" for character in map(first_han, RECORDS)) < 200
    for record in RECORDS:
        roles = [message["role"] for message in record["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(message["content"].strip() for message in record["messages"])


def first_han(record: dict) -> str:
    """The first Chinese character of a dialogue, or a blank."""
    found = re.search("[\u4e00-\u9fff]", json.dumps(record, ensure_ascii=False))
    return found[0] if found else " "


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (r"What is (\d+) \+ (\d+)\?", lambda a, b: str(int(a) + int(b))),
        (r"On which weekday was (.+)\?", lambda day: f"It was a {datetime.date.fromisoformat(day):%A}."),
        (r"Spell (\w+) backwards\.", lambda word: word[::-1]),
        (r"Write (\d+) in Roman numerals\.", lambda number: roman_by_hand(int(number))),
        (r"Convert (-?\d+) °C to Fahrenheit\.", lambda c: f"{c} °C is {1.8 * int(c) + 32:.1f} °F."),
        (r"Sort these words: (.+)\.", lambda words: ", ".join(sorted(words.split(", ")))),
        (r"(\d+)加(\d+)等于多少？", lambda a, b: f"{a}加{b}等于{int(a) + int(b)}。"),
    ],
)
def test_answers_are_true(question: str, answer: Callable[..., str]) -> None:
    checked = 0
    for record in RECORDS:
        first, second = [message for message in record["messages"] if message["role"] != "system"][:2]
        if found := re.fullmatch(question, first["content"]):
            assert second["content"] == answer(*found.groups())
            checked += 1
    assert checked > 20


def roman_by_hand(number: int) -> str:
    """Digit by digit, another way than the generator's."""
    digits = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
    places = [str.maketrans("IVX", letters) for letters in ("IVX", "XLC", "CDM", "M__")]
    written = [digits[int(digit)].translate(place) for digit, place in zip(str(number)[::-1], places)]
    return "".join(reversed(written))


def test_every_account_adds_up_from_turn_to_turn() -> None:
    checked = 0
    for record in RECORDS:
        words = " ".join(message["content"] for message in record["messages"])
        if "Keep my accounts" not in words:
            continue
        balance = int(re.findall(r"start with (\d+)", words)[0])
        for message in record["messages"]:
            if bought := re.fullmatch(r"I (buy|sell) a \w+ for (\d+) coins\.", message["content"]):
                balance += int(bought[2]) if bought[1] == "sell" else -int(bought[2])
                checked += 1
            elif message["role"] == "assistant":
                assert re.findall(r"have (\d+) coins?\.", message["content"]) == [str(balance)]
    assert checked > 50


def test_lengths_have_a_heavy_tail() -> None:
    documents = load_documents(DATA / "dialogues.jsonl", builtin_tokenizer(), progress=False)
    lengths = np.array([len(row["input_ids"]) for row in documents])
    assert len(lengths) == 500
    assert lengths.max() > 10 * np.median(lengths)
