"""SKILL.md, which an agent follows to the letter: its commands run, its fields and kinds of findings exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from varlen_lab.cli import build_parser, main
from varlen_lab.config.text import load_config
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.models.building import tiny

ROOT = Path(__file__).resolve().parent.parent
SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", SKILL, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("varlen-lab ")
]
WORDS = "Several documents lie in one row and none of them may hear another one, so attention ends at every seam."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model and the data that SKILL.md speaks of."""
    monkeypatch.chdir(tmp_path)
    tokenizer = builtin_tokenizer()
    tiny("llama", vocab_size=len(tokenizer)).save_pretrained("my_model")
    tokenizer.save_pretrained("my_model")
    with Path("chat.jsonl").open("w", encoding="utf-8") as file:
        for number in range(40):
            said = [{"role": "user", "content": f"Why? ({number})"}, {"role": "assistant", "content": WORDS * 3}]
            file.write(json.dumps({"messages": said}) + "\n")
    return tmp_path


@pytest.mark.slow
def test_the_commands_run_in_their_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {}
    for words in COMMANDS:
        assert main(words) == 0, words
        said = capsys.readouterr().out
        if "--json" in words:
            found[words[0]] = json.loads(said)
    assert {"ok", "rows"} <= set(found["check-env"]) and {"state", "value", "command"} <= set(
        found["check-env"]["rows"][0]
    )
    assert {"ok", "findings", "leaks", "logits", "loss", "gradients", "notes"} <= set(found["audit"])
    assert "first_bad" in found["check-custom-dataset"]
    named = {"max_length", "truncated_tokens", "dropped_tokens", "untrained_documents"}
    assert named | {"documents_per_step_before", "documents_per_step_after"} <= set(found["pack-report"]["reports"][0])
    assert load_config("my_model_copy.py").mode == "varlen"
    assert list(folder.glob("work_dirs/my_model_copy/iter_20.pth"))


def test_bad_records_and_a_leak_end_as_the_skill_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path("chat.jsonl")
    data.write_text(data.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")
    assert main(["check-custom-dataset", "chat.jsonl", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["first_bad"]
    assert main(["audit", "--model", "my_model", "--attn", "sdpa", "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert finding["kind"] == "use_cache" and f"`{finding['kind']}`" in SKILL
    assert main(["audit", "--model", "nowhere"]) == 2


def test_every_command_is_one_and_every_step_has_some() -> None:
    assert [words[0] for words in COMMANDS] == [
        *("check-env", "audit", "check-custom-dataset", "pack-report", "copy-cfg", "compare", "train")
    ]
    for words in COMMANDS:
        build_parser(words[0]).parse_args(words)


def test_every_kind_of_finding_that_is_named_exists() -> None:
    table = SKILL.partition("| kind | what to do |")[2].partition("\n\n")[0]
    kinds = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "varlen_lab" / "leaks").glob("*.py"))
    assert len(kinds) > 12
    assert [kind for kind in kinds if f'"{kind}"' not in source] == []


def test_the_front_matter_is_that_of_a_skill() -> None:
    front = yaml.safe_load(SKILL.split("---\n")[1])
    assert set(front) == {"name", "description"}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", front["name"]) and len(front["name"]) <= 64
    assert "Use it when" in front["description"] and len(front["description"]) <= 1024


@pytest.mark.slow
def test_the_code_runs_as_it_stands(folder: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    trainer, batches = re.findall(r"```python\n(.*?)```", SKILL, re.DOTALL)
    given = {
        "tokenised": Dataset.from_dict({"input_ids": [[token % 900 for token in range(n)] for n in (300, 400, 500)]}),
        "args": TrainingArguments("out", max_steps=1, report_to=[], use_cpu=True, per_device_train_batch_size=1),
        "Trainer": Trainer,
    }
    exec(batches, given)
    given["model"] = AutoModelForCausalLM.from_pretrained("my_model", attn_implementation="varlen")
    exec(trainer, given)
    assert json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["ok"]
