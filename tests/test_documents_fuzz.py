"""Whole data files, made and damaged by hypothesis: every record is read or named with its place, and none is lost."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from varlen_lab.documents.dialogues import LONGEST_REASON
from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.registry import MAP_FNS
from varlen_lab.errors import InputError

GOOD = {"instruction": "2+2?", "output": "4"}
DIALOGUE = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]

texts = st.text(max_size=8) | st.sampled_from(["user", "human", "gpt", "assistant", "system", "### Human: a", "\ud800"])
fields = st.sampled_from(
    ["messages", "conversations", "conversation", "instruction", "input", "output", "text", "role", "content", "from",
     "value", "question", "answer", "response", "prompt", "completion", "context", "abstract", "title", "color",
     "description", "meta_instruction", "chat", "num_turns", "turn_1", "Human", "MOSS", "Tool Responses"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields | texts, inner, max_size=4),
    max_leaves=12,
)
records = st.dictionaries(fields, values, max_size=4) | values
damage = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 5)), max_size=4)


def damaged(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """Bytes put in, and some after them taken out."""
    for place, new, gone in edits:
        at = place % (len(content) + 1)
        content = content[:at] + new + content[at + gone :]
    return content


def read(name: str, content: bytes, map_fn: str = "auto") -> tuple[int, list[str]]:
    """(good, reasons) of a file under skip_bad; a file that is refused as a whole says so in one line with its name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            dialogues, reasons, _ = read_dialogues(path, map_fn=map_fn, skip_bad=True, progress=False)
        except InputError as problem:
            sentence = str(problem)
            assert name in sentence and "\n" not in sentence and len(sentence) < 1000
            found = re.search(r"all (\d+) records were skipped", sentence)
            return 0, [f"{path}: all"] * (int(found[1]) if found else 0)
        for reason in reasons:
            assert re.match(rf"{re.escape(str(path))}(:\d+|, record \d+): \S", reason), reason
            assert "\n" not in reason and len(reason) < LONGEST_REASON + 200 and reason.encode()
        for dialogue in dialogues:
            json.dumps(dialogue, ensure_ascii=False).encode()  # all of it is text that can be written
        return len(dialogues), reasons


@given(st.lists(records, max_size=5), st.sampled_from(list(MAP_FNS)))
@settings(max_examples=150)
def test_any_json_is_read_or_named(found: list[Any], map_fn: str) -> None:
    """The same records as lines and as a list: the same are good, and good and bad are all of them."""
    lines = "\n".join(map(json.dumps, found)).encode()
    good, bad = read("a.jsonl", lines, map_fn)
    assert good + len(bad) == len(found)
    listed, bad_listed = read("a.json", json.dumps(found).encode(), map_fn)
    assert (listed, len(bad_listed)) == (good, len(bad))


@given(st.integers(0, 6), damage)
@settings(max_examples=150)
@example(5, [(30, b"\xff", 0)])  # a byte that is not UTF-8
@example(5, [(30, b"\x00", 0)])
@example(0, [(0, b"\xa0", 0)])  # white space in Latin-1 only
def test_damaged_lines_cost_themselves_only(count: int, edits: list[tuple[int, bytes, int]]) -> None:
    content = damaged(b"".join(json.dumps(GOOD).encode() + b"\n" for _ in range(count)), edits)
    good, bad = read("a.jsonl", content)
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert good >= content.split(b"\n").count(json.dumps(GOOD).encode())
        assert good + len(bad) == sum(bool(line.decode(errors="surrogateescape").strip()) for line in lines)


@given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=5), damage)
@settings(max_examples=150)
@example([["a", "b"]] * 3, [(20, b'"', 0)])  # a quote that never closes
def test_any_csv_is_read_or_named(rows: list[list[str]], edits: list[tuple[int, bytes, int]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["instruction", "output"], *rows])
    content = file.getvalue().encode("utf-8", "surrogatepass")
    good, bad = read("a.csv", content)
    assert good + len(bad) == len(rows)
    read("a.csv", damaged(content, edits))


def test_a_csv_row_that_does_not_close_costs_its_line_only() -> None:
    lines = ["instruction,output"] + ["a,b"] * 3 + ['a,"b'] + ["a,b"] * 3 + ["a,b,c"] + ["a"] + ['""a,b', "c,d"]
    good, bad = read("a.csv", "\n".join(lines).encode())
    assert good == 7
    assert [(reason.split(":")[1], reason.split(": ")[1]) for reason in bad] == [
        ("5", "the row opens a quote that never closes"),
        ("9", "the row has 3 cells, there are 2 column names; quote the separators"),
        ("10", "its fields are instruction, output (empty); output must hold something"),
        ("11", "the row is not CSV (',' expected after '\"')"),
    ]  # fmt: skip


@given(damage)
@settings(max_examples=100)
@example([])
def test_a_damaged_parquet_file_is_read_or_refused(edits: list[tuple[int, bytes, int]]) -> None:
    good, bad = read("a.parquet", damaged(PARQUET, edits))
    if not edits:
        assert good + len(bad) == len(ROWS)


ROWS = [GOOD, {"instruction": "x", "output": None}, {"instruction": "y", "output": "ü"}, GOOD] * 3


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, compression="none", use_dictionary=False)
    return sink.getvalue()


PARQUET = parquet()


def test_a_parquet_text_that_is_not_utf8_costs_its_record_only() -> None:
    good, bad = read("a.parquet", PARQUET.replace("ü".encode(), b"\xff\xfe"))
    places = [reason.split(", record ")[1].split(": ") for reason in bad]
    assert good == 6 and [int(number) for number, *_ in places] == [2, 3, 6, 7, 10, 11]
    assert all(("the row cannot be read" in why) == (number in ("3", "7", "11")) for number, why, *_ in places)


def test_the_rest_of_100_000_lines_is_kept_and_counted(tmp_path: Path) -> None:
    """A broken line and a foreign byte in the middle: named, counted, and memory is that of the dialogues."""
    path = tmp_path / "long.jsonl"
    line = json.dumps(GOOD).encode() + b"\n"
    path.write_bytes(line * 50_000 + b'{"instruction": \n' + b'{"output": "\xff"}\n' + line * 50_000)
    dialogues, reasons, _ = read_dialogues(path, skip_bad=True, progress=False)
    assert len(dialogues) == 100_000 and dialogues[-1] == DIALOGUE
    assert reasons == [
        f"{path}:50001: the line is not JSON (Expecting value, column 17)",
        f"{path}:50002: the line is not UTF-8 text (byte 12 of it)",
    ]
