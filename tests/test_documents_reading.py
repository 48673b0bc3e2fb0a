"""The same dialogue in five shapes and four file formats, and every bad record named with its place."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from varlen_lab.documents.dialogues import BadRecord
from varlen_lab.documents.reading import dialogue_of, read_dialogues
from varlen_lab.errors import InputError

DIALOGUE = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
SHAPES = [
    {"messages": DIALOGUE},
    {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    {"conversation": [{"system": "", "input": "2+2?", "output": "4"}]},
    {"instruction": "2+2?", "input": "", "output": "4"},
    {"text": "### Human: 2+2? ### Assistant: 4"},
]


@pytest.mark.parametrize("record", SHAPES, ids=lambda record: next(iter(record)))
def test_every_shape_gives_the_same_dialogue(record: dict) -> None:
    assert dialogue_of(record) == DIALOGUE


def test_alpaca_input_follows_the_instruction() -> None:
    record = {"instruction": "Greet", "input": "in French", "output": "Bonjour"}
    assert dialogue_of(record)[0]["content"] == "Greet\nin French"


def test_xtuners_turns_with_a_system_message() -> None:
    turns = [{"system": "Be brief.", "input": "2+2?", "output": "4"}, {"input": "3+3?", "output": "6"}]
    assert [m["role"] for m in dialogue_of({"conversation": turns})] == ["system", *["user", "assistant"] * 2]


def test_a_question_without_answer_at_the_end_is_left_off() -> None:
    assert dialogue_of({"messages": [*DIALOGUE, {"role": "user", "content": "and 3+3?"}]}) == DIALOGUE


def test_the_system_prompt_is_put_in_front_unless_there_is_one() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert dialogue_of({"messages": DIALOGUE}, "Be brief.") == [system, *DIALOGUE]
    assert dialogue_of({"messages": [system, *DIALOGUE]}, "Be long.") == [system, *DIALOGUE]


BAD = [
    ([], "not an object"),
    ({"prompt": "x"}, "its fields are prompt"),
    ({"messages": []}, "no assistant turn"),
    ({"messages": "hello"}, "not a list of messages"),
    ({"messages": [{"role": "user"}]}, "needs 'role' and 'content'"),
    ({"messages": [{"role": "oracle", "content": "x"}]}, "role 'oracle'"),
    ({"messages": DIALOGUE[::-1]}, "out of order"),
    ({"messages": [DIALOGUE[0], DIALOGUE[0]]}, "out of order: message 2"),
    ({"messages": [DIALOGUE[0], {"role": "assistant", "content": " "}]}, "message 2 (assistant) is empty"),
    ({"messages": [DIALOGUE[0], {"role": "assistant", "content": 4}]}, "holds int"),
    ({"conversation": [{"input": "x"}]}, "turn 1 needs 'input' and 'output'"),
    ({"instruction": None, "output": "x"}, "its fields are"),
    ({"instruction": "x", "ouput": "y"}, "its fields are instruction, ouput; write 'output' for 'ouput'"),
    ({"mesages": DIALOGUE}, "its fields are mesages; write 'messages' for 'mesages'"),
    ({"messages": [{"role": "asistant", "content": "x"}]}, "did you mean 'assistant'?"),
    ({"instruction": "x", "output": "<nooutput>"}, "there is no answer"),
    ({"text": "hello"}, "### Human:"),
]


@pytest.mark.parametrize(("record", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_record_says_why(record: object, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        dialogue_of(record)
    assert reason in str(caught.value)


# ------------------------------------------------------------------------------------------------------- files


def write(path: Path, records: list[dict]) -> Path:
    """The records in the format of the path's suffix; in a table's cell a list is JSON."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(records).to_parquet(path)
    else:
        with path.open("w", newline="") as file:
            rows = csv.DictWriter(file, fieldnames=list(records[0]))
            rows.writeheader()
            rows.writerows(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()} for record in records
            )
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("record", SHAPES[:3], ids=lambda record: next(iter(record)))
def test_every_format_gives_the_same_dialogues(suffix: str, record: dict, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", [record, record])
    assert read_dialogues(path, progress=False) == ([DIALOGUE, DIALOGUE], [], {})


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"messages": DIALOGUE}]).save_to_disk(tmp_path / "saved")
    assert read_dialogues(tmp_path / "saved", progress=False)[0] == [DIALOGUE]


def test_a_damaged_saved_dataset_is_read_or_refused(tmp_path: Path) -> None:
    """Before, offsets that point nowhere ended the process, and text that is none a traceback."""
    from datasets import Dataset

    folder, chance, refused = tmp_path / "saved", random.Random(0), 0
    Dataset.from_list([{"messages": DIALOGUE}] * 30).save_to_disk(folder)
    (file,) = folder.glob("*.arrow")
    whole = file.read_bytes()
    for _ in range(60):
        start = chance.randrange(len(whole) - 8)
        file.write_bytes(whole[:start] + chance.randbytes(8) + whole[start + 8 :])
        try:
            read_dialogues(folder, skip_bad=True, progress=False)
        except InputError:
            refused += 1
    assert refused > 20


def test_a_broken_line_is_named_and_skipping_loses_only_it(tmp_path: Path) -> None:
    good = json.dumps({"messages": DIALOGUE})
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join([good] * 500 + ['{"messages": [', json.dumps({"messages": []})] + [good] * 500))
    with pytest.raises(InputError, match=r"many\.jsonl:501: the line is not JSON"):
        read_dialogues(path, progress=False)
    dialogues, skipped, _ = read_dialogues(path, skip_bad=True, progress=False)
    assert len(dialogues) == 1000
    assert [reason.split(": ")[0].split(":")[-1] for reason in skipped] == ["501", "502"]


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}')
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "notes.docx").write_text("no")
    (tmp_path / "dialogues.jsonl").write_text("")
    for name, message in (
        ("empty.jsonl", "holds no dialogue"),
        ("latin.jsonl", "UTF-8"),
        ("bad.parquet", "no readable Parquet"),
        ("notes.docx", "docx"),
        ("dialoges.jsonl", "did you mean"),
        (".", "folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_dialogues(tmp_path / name, progress=False)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'builtin:docstrings'"):
        read_dialogues("builtin:docstring", progress=False)


def test_a_hub_name_out_of_reach_is_one_sentence_and_soon() -> None:
    with pytest.raises(InputError, match="nor a dataset the hub gives us"):
        read_dialogues("nobody/no-such-dataset-of-ours", progress=False)
