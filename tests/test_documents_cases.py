"""Small inputs from public reports (``cases/README.md``): what the product must do with each, through its commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.reading import dialogue_of, read_dialogues
from varlen_lab.documents.tokens import encode

CASES = Path(__file__).parent / "cases"
TOKENIZER = builtin_tokenizer(progress=False)


def read_lines(path: Path, folder: Path) -> dict[int, tuple[list[dict], list[str], dict[str, int]]]:
    """Each line of a file read alone: its dialogues, the reasons why not, what was counted."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        (folder / "one.jsonl").write_text(line + "\n" + json.dumps({"question": "2+2?", "answer": "4"}))
        reading = read_dialogues(folder / "one.jsonl", skip_bad=True, progress=False)
        found[number] = (reading.dialogues[:-1], reading.skipped, reading.counted)
    return found


def words(dialogue: list[dict]) -> list[str]:
    return [message["content"] for message in dialogue]


def test_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every one of seventeen fields is honoured, refused by name, or counted."""
    found = read_lines(CASES / "fields.jsonl", tmp_path)
    read = {1: ["SYS", "Q", "A"], 2: ["SYS", "Q", "A"], 3: ["SYS", "q0", "a0", "Q", "A"], 6: ["Q", "I look."]}
    read |= {13: ["SYS", "Q", "A"], 14: ["SYS", "Q", "A"], 17: ["Q", "A"]}
    read |= {number: ["Q", "A"] for number in (7, 9, 11, 12, 15, 16)}
    assert {number: words(dialogues[0]) for number, (dialogues, *_) in found.items() if dialogues} == read
    assert found[1][0][0].tools == [{"name": "t"}]
    assert found[6][0][0][1]["tool_calls"][0]["function"] == {"name": "t", "arguments": {}}
    assert found[7][0][0][1]["reasoning_content"] == "THINK"
    assert found[11][0][0][1]["trained"] is found[12][0][0][1]["trained"] is False
    refused = {number: reasons[0] for number, (_, reasons, _) in found.items() if reasons}
    for number, reason in ((4, "'input' for 'Input'"), (5, "'input' for 'inputs'"), (8, "label"), (10, "'images'")):
        assert reason in refused.pop(number)
    assert not refused
    assert found[9][2] == {"rejected_response": 1}

    assert main(["check-custom-dataset", str(CASES / "fields.jsonl")]) in (1, 2)
    said = capsys.readouterr()
    assert "fields.jsonl:4: " in said.out + said.err


@pytest.mark.parametrize("template", ["tokenizer", "internlm2_chat", "zephyr"])
def test_loss_masks(template: str, capsys: pytest.CaptureFixture[str]) -> None:
    """BAD-ANSWER is never a label, GOOD-ANSWER is: in the documents, and in what log-dataset shows as trained."""
    path = CASES / "loss_masks.jsonl"
    for row in encode(read_dialogues(path, progress=False).dialogues, TOKENIZER, prompt_template=template):
        trained = TOKENIZER.decode([label for label in row["labels"] if label != -100])
        assert "GOOD-ANSWER eight." in trained and "BAD" not in trained and "six" not in trained
        assert "BAD-ANSWER six." in TOKENIZER.decode(row["input_ids"])
    options = ["--show", "masked_text", "--cfg-options", f"data_path={path}", f"prompt_template={template}"]
    assert main(["log-dataset", "tiny_llama_full_docstrings_e1", *options]) == 0
    said = capsys.readouterr().out
    assert said.count("GOOD-ANSWER eight.") == 5 and "BAD-ANSWER" not in said


def test_prompt_completion(capsys: pytest.CaptureFixture[str]) -> None:
    path = CASES / "prompt_completion.jsonl"
    assert [words(one) for one in read_dialogues(path, progress=False).dialogues] == [["Hi", "Hello."]]
    assert main(["check-custom-dataset", str(path)]) == 0
    assert "1 good record, 0 bad" in capsys.readouterr().out


def test_xtuner_pretrain(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in ``output`` is trained on, and the end mark behind it, as XTuner 0.1.23 does."""
    path = CASES / "xtuner_pretrain.json"
    rows = list(encode(read_dialogues(path, progress=False).dialogues, TOKENIZER))
    texts = [turns["conversation"][0]["output"] for turns in json.loads(path.read_text())]
    assert [TOKENIZER.decode([label for label in row["labels"] if label != -100]) for row in rows] == [
        f"{text}</s>" for text in texts
    ]
    options = ["--show", "masked_text", "--cfg-options", f"data_path={path}"]
    assert main(["log-dataset", "tiny_llama_full_docstrings_e1", *options]) == 0
    said = capsys.readouterr().out
    assert all(f"[-100]{text}</s>\n" in said for text in texts)


@pytest.mark.parametrize("template", ["tokenizer", "plain", "internlm2_chat"])
def test_xtuners_end_mark_behind_text(template: str) -> None:
    """By hand, as ``encode_fn`` of XTuner 0.1.23: its eos unless somebody says no, trained as its text is."""
    turns = [
        {"input": "", "output": "Tides", "need_eos_token": False},
        {"input": "", "output": " are long.", "output_with_loss": False},
        {"input": "", "output": "So is the sea.", "need_eos_token": True},
        {"input": "", "output": "Boats float."},
    ]
    row = encode([dialogue_of({"conversation": turns})], TOKENIZER, prompt_template=template)[0]
    assert TOKENIZER.decode(row["input_ids"]) == "<s>Tides are long.</s>So is the sea.</s>Boats float.</s>"
    trained = TOKENIZER.decode([label for label in row["labels"] if label != -100])
    assert trained == "TidesSo is the sea.</s>Boats float.</s>"


def test_tools_are_kept(tmp_path: Path) -> None:
    """Every call and every result is in its dialogue, for a template that can write it."""
    found = read_lines(CASES / "tools.jsonl", tmp_path)
    called = {
        number: [one["role"] for one in dialogues[0] if "tool_calls" in one]
        for number, (dialogues, *_) in found.items()
    }
    assert called == {number: ["assistant"] for number in (1, 2, 3, 4)}
    assert [one["role"] for one in found[1][0][0]] == ["user", "assistant", "tool", "assistant"]
    assert [one["role"] for one in found[4][0][0]] == ["user", "assistant", "tool", "assistant"]
    assert found[1][0][0][2]["tool_call_id"] == "c1"
    assert found[1][0][0][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert found[2][0][0].tools and found[4][0][0].tools is None


@pytest.mark.parametrize("template", ["internlm2_chat", "xtuner:qwen_chat"])
def test_tools_are_refused_by_a_template_that_cannot_write_them(
    template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No call is dropped in silence: each record of the file is refused with its line and the reason."""
    options = ["--json", "--cfg-options", f"data_path={CASES / 'tools.jsonl'}", f"prompt_template={template}"]
    assert main(["check-custom-dataset", "tiny_llama_full_docstrings_e1", *options]) == 2
    said = capsys.readouterr().err
    assert (
        "all 4" in said and "tools.jsonl:1: " in said and f"tools, for which prompt_template {template} has no" in said
    )
