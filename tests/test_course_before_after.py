"""Before and after a fine-tuning: what is held out, what is asked, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from expect import refused

from varlen_lab.course import (
    BeforeAfter,
    answers_of,
    at_hand,
    hold_out,
    loss_alone,
    saved_model,
    teaching_model,
    with_trained,
)
from varlen_lab.packing import pack_dataset


def written(folder: Path, count: int, name: str = "mine.jsonl") -> Path:
    path = folder / name
    lines = [json.dumps({"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."}) for n in range(count)]
    path.write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("count", "held"), [(4, 2), (10, 2), (40, 2), (41, 3)])
def test_some_records_are_held_out_and_none_is_lost(tmp_path: Path, count: int, held: int) -> None:
    split = hold_out(written(tmp_path, count), tmp_path / "split")
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (split.train, split.held_out)]
    assert [len(one) for one in lines] == [count - held, held] and not set(lines[0]) & set(lines[1])
    assert split.questions[0] == "Question 0?" and split.wanted[0] == "Answer 0."


def test_a_line_ends_where_json_lines_end(tmp_path: Path) -> None:
    """Not at the other letters that Python takes for an end, which may stand in a text."""
    records = [{"instruction": f"A\u2028B {n}", "input": "", "output": "C\x85D"} for n in range(4)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in records), "utf-8", newline="")
    split = hold_out(path, tmp_path / "split")
    assert len(split.questions) == 2 and split.questions[0] == "A\u2028B 0" and split.wanted[0] == "C\x85D"


def test_what_cannot_be_split_is_a_sentence(tmp_path: Path) -> None:
    with refused("has 3 records, at least 4 are needed"):
        hold_out(written(tmp_path, 3), tmp_path)
    with refused("name a .jsonl file"):
        hold_out(written(tmp_path, 9, "mine.json"), tmp_path)
    with refused("nowhere"):
        hold_out(tmp_path / "nowhere.jsonl", tmp_path)
    bad = written(tmp_path, 6)
    bad.write_text(bad.read_text(encoding="utf-8-sig") + '{"instruction": "Why?"}\n', encoding="utf-8")
    with refused(r"mine.jsonl:12: "):
        hold_out(bad, tmp_path)


def test_a_loss_alone_is_that_of_each_document_alone() -> None:
    model = teaching_model("stand-in").model
    ids = [torch.arange(3, 3 + n).tolist() for n in (5, 1, 9, 30)]
    labels = [[-100, *one[1:]] for one in ids]
    rows = pack_dataset(Dataset.from_dict({"input_ids": ids, "labels": labels}), 32).with_format("numpy")
    total = count = 0.0
    for one in ids:
        with torch.no_grad():
            logits = model(torch.tensor([one]), use_cache=False).logits[0, :-1]
        total += float(
            torch.nn.functional.cross_entropy(logits, torch.tensor(one[1:], dtype=torch.int64), reduction="sum")
        )
        count += len(one) - 1
    assert loss_alone(model, rows) == pytest.approx(total / count, abs=1e-5)


def test_answers_end_where_the_model_ends_them_or_say_that_they_were_cut() -> None:
    speaker = teaching_model("stand-in")
    once, again = answers_of(speaker, ["How many?"], 5), answers_of(speaker, ["How many?"], 5)
    assert once == again and once[0].endswith(" …")

    def generate(input_ids: torch.Tensor, eos_token_id: list[int], **_: Any) -> torch.Tensor:
        said = speaker.tokenizer("yes", add_special_tokens=False)["input_ids"] + eos_token_id[:1]
        return torch.cat([input_ids, torch.tensor([said])], 1)

    ends = SimpleNamespace(generate=generate, generation_config=speaker.model.generation_config, device="cpu")
    assert answers_of(SimpleNamespace(model=ends, tokenizer=speaker.tokenizer), ["How?"]) == ["yes"]  # type: ignore[arg-type]


def test_form_and_fact_are_counted_apart() -> None:
    wanted = ["It is green.\nSource: handbook, page 2.", "No."]
    asked = BeforeAfter(["Colour?", "Alive?"], wanted, ["", "No."], ["It is <red>.\nSource: handbook, page 9.", "Yes."])
    assert (asked.in_form(asked.before), asked.right(asked.before)) == (1, 1)
    assert (asked.in_form(asked.after), asked.right(asked.after)) == (1, 0)
    assert "before: 1 in the form of the data, 1 right" in str(asked)
    page = asked._repr_html_()
    assert "&lt;red&gt;" in page and page.count("<th") == 2 and page.count("the data") == 4


def test_what_is_not_installed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert at_hand("torch") and not at_hand("no_such_package")
    said = capsys.readouterr()
    assert "pip install no_such_package" in " ".join((said.out + said.err).split())


def test_a_stand_in_is_saved_and_comes_back_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speaker = teaching_model("stand-in")
    folder = Path(saved_model(speaker, tmp_path / "model"))
    assert (folder / "config.json").is_file() and "shards" not in capsys.readouterr().err
    back = with_trained(speaker, SimpleNamespace(kind="model", folder=folder))  # type: ignore[arg-type]
    assert all(map(torch.equal, back.model.parameters(), speaker.model.parameters())) and not back.model.training
