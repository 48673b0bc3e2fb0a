"""Data that is tokenised already is taken as it stands; what training would trip over is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.cli import main
from varlen_lab.documents import load_documents
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.dialogues import BadRecord
from varlen_lab.documents.tokenised import MASKS, PADDED, WITHOUT_LABELS, documents_in, read_tokenised
from varlen_lab.errors import InputError

TOKENIZER = builtin_tokenizer(progress=False)
RECORDS = [
    {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
    {"input_ids": [9, 10, 11], "labels": [-100, 10, 11]},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """The records under the ending of a path; without one, a saved dataset."""
    from datasets import Dataset

    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        Dataset.from_list(records).to_parquet(path)
    elif path.suffix == ".arrow":
        Dataset.from_list(records).save_to_disk(path.parent / "saved")
        (path.parent / "saved" / "data-00000-of-00001.arrow").rename(path)
    else:
        Dataset.from_list(records).with_format("numpy").save_to_disk(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow", "a"])
def test_documents_are_taken_as_they_stand(name: str, tmp_path: Path) -> None:
    documents = load_documents(write(tmp_path / name, RECORDS), TOKENIZER, progress=False)
    assert list(documents) == RECORDS
    assert str(documents.features["input_ids"]) == str(documents.features["labels"]) and len(documents) == 2


def test_labels_that_are_missing_are_the_tokens_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"input_ids": [5, 6]}])
    with pytest.warns(UserWarning, match="without labels: 1; every token of them is trained on"):
        assert list(load_documents(path, TOKENIZER, progress=False)) == [{"input_ids": [5, 6], "labels": [-100, 6]}]
    with pytest.warns(UserWarning, match="prompt_template = 'zephyr' and SYSTEM = 'Be brief.' have no say in it"):
        load_documents(path, TOKENIZER, prompt_template="zephyr", system="Be brief.", progress=False)
    (document,), seen = documents_in({"input_ids": [5, 6, 7], "assistant_masks": [0, 1, 0]}, 10)
    assert document[1].tolist() == [-100, 6, -100] and seen == []


def test_padding_goes_and_a_packed_row_is_its_documents() -> None:
    padded = {"input_ids": [0, 5, 6, 7, 0, 0], "labels": [0, 5, 6, 7, -100, -100], "attention_mask": [0, 1, 1, 1, 0, 0]}
    (document,), seen = documents_in({**padded, "token_type_ids": [0] * 6}, 10)
    assert [one.tolist() for one in document] == [[5, 6, 7], [-100, 6, 7]] and seen == ["token_type_ids", PADDED]
    row = {"input_ids": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]}
    for positions in ([0, 1, 0, 1, 2], [0, 1, 2, 3, 4]):
        documents, _ = documents_in({**row, "position_ids": positions}, 10)
        assert [(a.tolist(), b.tolist()) for a, b in documents] == [([5, 6], [-100, 6]), ([7, 8, 9], [-100, 8, 9])]


BAD = [
    ({"input_ids": [5, 6, 4096]}, "input_ids holds 4096 (token 2), the tokenizer has 4,096 ids"),
    ({"input_ids": [5, -1]}, "input_ids holds -1 (token 1)"),
    ({"input_ids": []}, "input_ids is empty"),
    ({"input_ids": [[5, 6]]}, "no list of whole numbers"),
    ({"input_ids": [[5], [6, 7]]}, "no list of whole numbers"),
    ({"input_ids": [5, 6.5]}, "no list of whole numbers"),
    ({"input_ids": "5 6"}, "no list of whole numbers"),
    ({"input_ids": [5, None]}, "no list of whole numbers"),
    ({"input_ids": [5, 6, 7], "labels": [5, 6]}, "input_ids has 3 tokens and labels 2"),
    ({"input_ids": [5, 6, 7], "labels": [5, 9, 7]}, "label 1 is 9 and the token there 6; labels are the token or -100"),
    ({"input_ids": [5, 6, 7], "labels": [6, 7, -100]}, "they are moved by one"),
    ({"input_ids": [5, 6], "attention_mask": [1]}, "attention_mask 1"),
    ({"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, "tell documents by seq_lengths"),
    ({"input_ids": [5, 6, 7], "attention_mask": [1, 1, 2]}, "tell documents by seq_lengths"),
    ({"input_ids": [5, 6], "attention_mask": [0, 0]}, "tell documents by seq_lengths"),
    ({"input_ids": [5, 6, 7], "seq_lengths": [2, 2]}, "seq_lengths adds up to 4, there are 3 tokens"),
    ({"input_ids": [5, 6, 7], "seq_lengths": [3, 0]}, "seq_lengths adds up to 3"),
    ({"input_ids": [5, 6, 7], "position_ids": [0, 1, 0]}, "tell the documents by seq_lengths"),
    ({"input_ids": [5, 6], "labels": [-100, 6], "completion_mask": [1, 0]}, "a mask of the record leaves out"),
    ({"input_ids": [5, 6], "completion_mask": [1, 2]}, "other numbers than 0 and 1"),
    (
        {"input_ids": [5, 6], "labels": [5, 6], "cumulative_len": [0, 1, 2]},
        "cumulative_len may tell where documents begin",
    ),
    ({"input_ids": [5, 6], "cu_seqlens": [0, 1, 2]}, "write their lengths as seq_lengths"),
    ({"input_ids": [5, 6], "prompt_mask": [1, 0]}, "prompt_mask may say what is trained on"),
    ({"input_ids": [5, 6], "loss_weights": [0.0, 1.0]}, "loss_weights may say what is trained on"),
    ({"input_ids": [5, 6], "label": [5, 6]}, "write 'labels' for 'label'"),
    ({"input_ids": [5, 6], "images": ["cat.png"]}, "the field 'images' is not read"),
    ({"messages": []}, "it has no input_ids"),
    ([5, 6], "it has no input_ids"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_bad_document_says_why(record: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        documents_in(record, 4096)
    assert reason in str(caught.value)


def test_bad_documents_have_a_place_and_are_skipped_and_others_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*RECORDS, {"input_ids": [10**6]}, {"input_ids": [5, 6], "labels": [5, -100]}])
    with pytest.raises(InputError, match=r"a\.jsonl:3: input_ids holds 1000000 .*skip_bad = True"):
        load_documents(path, TOKENIZER, progress=False)
    with pytest.warns(UserWarning, match=r"1 record skipped, the first: .*a\.jsonl:3"):
        documents = load_documents(path, TOKENIZER, skip_bad=True, progress=False)
    assert list(documents) == RECORDS and "1 without a token to train on" in documents.info.description
    with pytest.raises(InputError, match=r"holds no document with a token to train on \(0 records read, 1 skipped"):
        read_tokenised(iter([("x:1", {"input_ids": []})]), "x", 10, skip_bad=True)


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_says_what_is_trained_on(mask: str) -> None:
    (document,), _ = documents_in({"input_ids": [5, 6, 7], mask: [0, 0, 1], "special_tokens_mask": [0, 0, 0]}, 10)
    assert document[1].tolist() == [-100, -100, 7]


def test_many_documents_in_many_tables() -> None:
    records = [("x:1", {"input_ids": [1, number]}) for number in range(2500)]
    found = read_tokenised(iter(records), "x", 4096, skip_bad=False)
    assert [ids[1] for ids in found.table["input_ids"].to_pylist()] == list(range(2500))
    assert found.read == 2500 and found.counted == {WITHOUT_LABELS: 2500}


def test_beside_dialogues_and_through_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.parquet", [{**one, "id": 3} for one in RECORDS])
    chat = tmp_path / "b.jsonl"
    chat.write_text(json.dumps({"question": "2+2?", "answer": "4"}))
    alone = list(load_documents(chat, TOKENIZER, progress=False))
    assert list(load_documents([str(path), str(chat)], TOKENIZER, progress=False)) == [*alone, *RECORDS]

    assert main(["check-custom-dataset", str(path)]) == 0
    said = capsys.readouterr().out
    assert "2 good records, 0 bad" in said and "2 id" in said and "7 tokens" in said
    assert main(["pack-report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"][0]["documents"] == 2
    options = ["--show", "labels", "--cfg-options", f"data_path={path}"]
    for _ in range(2):  # made, and from the cache
        assert main(["log-dataset", "tiny_llama_full_docstrings_e1", *options]) == 0
        assert "labels [-100, -100, 7, 8]" in capsys.readouterr().out
