"""What is kept of records that are left out: their number, and a few sentences of each kind, however many there are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.loading import left_out, load_documents
from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.skipped import FEW, MOST_KINDS, Skipped

GOOD = '{"question": "2+2?", "answer": "4"}\n'
MANY = 4_000
BAD: dict[str, Callable[[int], str]] = {
    "lines that are no JSON": lambda number: "{" * (number % 7 + 1) + "\n",
    "roles that nobody knows": lambda number: f'{{"messages": [{{"role": "who{number}", "content": "x"}}]}}\n',
    "keys that stand twice": lambda number: f'{{"k{number}": 1, "k{number}": 2}}\n',
}


@pytest.mark.parametrize("kind", BAD)
def test_the_reasons_of_thousands_of_bad_records_take_no_room(kind: str, tmp_path: Path) -> None:
    """Each was kept, 782 MB for a file of a million; memory is that of the dialogues."""
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(map(BAD[kind], range(MANY))) + GOOD)
    tracemalloc.start()
    try:
        reading = read_dialogues(path, skip_bad=True, progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reading.skipped.total == MANY and len(reading.dialogues) == 1
    assert reading.skipped[0].startswith(f"{path}:1: ") and len(reading.skipped) <= 7 * FEW
    assert peak < 0.7e6, peak


def test_all_are_counted_whichever_way_they_come(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("{\n" * 50 + '{"messages": 7}\n' * 30 + GOOD)
    both = read_dialogues([str(path), str(path)], skip_bad=True, progress=False)
    assert both.skipped.total == 160 and len(both.dialogues) == 2
    with pytest.warns(UserWarning, match="80 records skipped, the first: .*:1: .*; 1 dialogues were read"):
        load_documents(str(path), builtin_tokenizer(progress=False), skip_bad=True, progress=False)


def test_a_list_of_reasons_holds_the_first_of_each_kind_and_the_number_of_all() -> None:
    skipped = Skipped(f"a.jsonl:{line}: message {line} has role 'r{line}'" for line in range(1000))
    assert skipped.total == 1000 and len(skipped) == FEW and skipped[0].startswith("a.jsonl:0: ")
    skipped.append("a.jsonl:1000: message 2 is empty")
    assert skipped[-1] == "a.jsonl:1000: message 2 is empty"
    skipped += skipped
    assert skipped.total == 2002
    for number in range(1000):
        skipped.append(f"a.jsonl:1: {'x' * number}")
    assert len(skipped.kinds) == MOST_KINDS and len(skipped) < MOST_KINDS * FEW


def test_what_is_said_of_fields_that_nothing_reads_has_an_end() -> None:
    said = left_out({f"field_{number}": 1 for number in range(10**5)})
    assert len(said) < 1000 and said.endswith("1 field_29 and 99,970 other names")
