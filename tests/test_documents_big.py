"""Documents of any length, and files that are none: read in bounded memory, or refused in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from varlen_lab.documents import dialogues, load_documents, reading, tokens
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.errors import InputError

TOKENIZER = builtin_tokenizer(progress=False)


def record(words: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": words}]})


def test_parts_that_are_tokenised_together_are_bounded_and_change_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(record("word " * count + str(count)) for count in (1, 500, 3, 2, 900, 1, 1)))
    whole = load_documents(path, TOKENIZER, progress=False)
    parts: list[int] = []
    own = tokens.ids_and_runs
    monkeypatch.setattr(tokens, "LETTERS_AT_ONCE", 1000)
    monkeypatch.setattr(
        tokens, "ids_and_runs", lambda pieces, facts: (parts.append(len(pieces)), own(pieces, facts))[1]
    )
    cut = load_documents(path, TOKENIZER, progress=False)
    assert parts == [1, 1, 2, 1, 2]
    assert cut.to_list() == whole.to_list() and cut._fingerprint == whole._fingerprint


@pytest.mark.parametrize("kind", ["one word", "many words", "a thought", "a completion", "tools"])
def test_a_document_too_long_for_a_tokenizer_is_refused_with_the_limit(kind: str, tmp_path: Path) -> None:
    words = ("a" if kind == "one word" else "ab ") * dialogues.MOST_LETTERS
    value = json.loads(record("b"))
    if kind == "a thought":
        value["messages"][1]["reasoning_content"] = words
    elif kind == "a completion":
        value = {"prompt": "a", "completion": words}
    elif kind == "tools":
        value["tools"] = [{"name": words}]
    else:
        value["messages"][1]["content"] = words
    path = tmp_path / "a.jsonl"
    path.write_text(f"{record('b')}\n{json.dumps(value)}\n")
    with pytest.raises(
        InputError, match=r"a\.jsonl:2: .* letters, the most is 10,000,000; cut it into several records"
    ):
        load_documents(path, TOKENIZER, progress=False)
    with pytest.warns(UserWarning, match="1 record skipped"):
        assert len(load_documents(path, TOKENIZER, skip_bad=True, progress=False)) == 1


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text(f"{record('b')}\n{record('b' * 2000)}\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2: the line is longer than 1,000 letters"):
        load_documents(path, TOKENIZER, skip_bad=True, progress=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name, what in {"pipe.jsonl": "pipe", "loop.jsonl": "leads to no file", "zero.json": "device"}.items():
        with pytest.raises(InputError, match=f"{name} is .*{what}"):
            load_documents(tmp_path / name, TOKENIZER, progress=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_saved_dataset_with_a_pipe_in_it_is_not_waited_for(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["one"]}).save_to_disk(tmp_path / "saved")
    (part,) = (tmp_path / "saved").glob("*.arrow")
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(InputError, match=f"{part.name} is a pipe"):
        load_documents(tmp_path / "saved", TOKENIZER, progress=False)


def test_many_columns_are_read_in_a_time_that_grows_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    names = [f"c{number}" for number in range(100_000)]
    path.write_text(",".join([*names, "c7"]) + "\n")
    with pytest.raises(InputError, match="the column 'c7' is there twice"):
        load_documents(path, TOKENIZER, progress=False)


def test_offsets_that_point_nowhere_do_not_end_the_process(tmp_path: Path) -> None:
    lists = pa.list_(pa.int32())
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema([("input_ids", lists)])) as stream:
        stream.write_batch(pa.record_batch([pa.array([[5, 6, 7], [5, 6]], lists)], names=["input_ids"]))
    whole = path.read_bytes()
    edges = (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (5).to_bytes(4, "little")
    assert whole.count(edges) == 1
    path.write_bytes(whole.replace(edges, edges[:8] + (1 << 30).to_bytes(4, "little")))
    script = (
        "from varlen_lab.documents import load_documents\n"
        "from varlen_lab.documents.builtin import builtin_tokenizer\n"
        f"load_documents({str(path)!r}, builtin_tokenizer(progress=False), progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "no readable Arrow file" in done.stderr
