"""One record makes a chat template, a shape of a record or a file format: whatever uses them finds it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.dialogues import BadRecord, Turns
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.reading import dialogue_of, read_dialogues
from varlen_lab.documents.registry import MAP_FNS, READERS, SHAPES, TEMPLATES, Shape, Template
from varlen_lab.documents.sources import locate
from varlen_lab.documents.tokens import encode
from varlen_lab.errors import InputError

TOKENIZER = builtin_tokenizer(progress=False)
DIALOGUE = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def from_pair(record: dict[str, Any], shape: Shape) -> Turns:
    """A shape of this test: a list of the question and the answer."""
    question, answer = record[shape.fields[0]]
    yield from [("user", question), ("assistant", answer)]


def tab_records(path: Path) -> Iterator[tuple[str, Any]]:
    """A file format of this test: a question, a tab and an answer a line."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        yield f"{path}:{number}", {"pair": line.split("\t")}


def test_every_record_names_a_function_that_is_there_and_says_what_it_is() -> None:
    shapes = [shape for known in MAP_FNS.values() for shape in known.values()]
    for function in [shape.function for shape in shapes] + list(READERS.values()):
        assert callable(resolve_name(function))
    assert all(one.about and "\n" not in one.about for one in [*shapes, *TEMPLATES.values()])


def test_a_new_template_is_written_and_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEMPLATES, "dummy", Template("of this test", instruction="Q:{input} A:", end="!{eos}", sep="|"))
    row = encode([DIALOGUE], TOKENIZER, prompt_template="dummy")[0]
    assert TOKENIZER.decode(row["input_ids"]) == "<s>Q:2+2? A:4!</s>|"
    assert TOKENIZER.decode([label for label in row["labels"] if label != -100]) == "4!</s>"
    assert TOKENIZER.decode(prompt_ids("2+2?", TOKENIZER, "dummy")[0]) == "<s>Q:2+2? A:"
    with pytest.raises(InputError, match=r"prompt_template 'dumy' is unknown.*did you mean 'dummy'"):
        prompt_ids("2+2?", TOKENIZER, "dumy")


def test_a_new_shape_and_a_new_file_format_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SHAPES, "dummy", Shape(("pair",), f"{__name__}:from_pair", "of this test"))
    monkeypatch.setitem(READERS, ".tab", f"{__name__}:tab_records")
    assert dialogue_of({"pair": ["2+2?", "4"]}) == DIALOGUE
    with pytest.raises(BadRecord, match="write 'pair' for 'piar'"):
        dialogue_of({"piar": ["2+2?", "4"]})
    path = tmp_path / "two.tab"
    path.write_text("2+2?\t4\n\t\n")
    assert locate(str(path)) == ("file", path)
    dialogues, skipped, _ = read_dialogues(path, skip_bad=True)
    assert dialogues == [DIALOGUE] and skipped == [f"{path}:2: message 1 (user) is empty"]


def test_a_way_to_read_records_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAP_FNS, "dummy", {"pair": Shape(("text",), f"{__name__}:from_pair", "of this test")})
    assert dialogue_of({"text": ["2+2?", "4"]}, map_fn="dummy") == DIALOGUE


def test_what_a_name_stands_for_is_told_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "data.JSONL"
    path.write_text("{")
    assert locate(str(path)) == ("file", path) and locate(str(tmp_path)) == ("folder", tmp_path)
    assert locate("builtin:docstrings")[0] == "builtin"
    assert locate("owner/name")[0] == locate("name")[0] == "hub"
    for name in ("builtin:docstring", "data.jsonl", "./owner/name", "a/b/c", "~nobody-of-this-name/data", "\0.json"):
        with pytest.raises(InputError):
            locate(name)


def test_a_column_without_a_name_belongs_to_no_shape() -> None:
    """A table written with its index has a column named "": it is neither a question nor a system message."""
    assert dialogue_of({"": "7", "question": "2+2?", "answer": "4"}) == DIALOGUE
