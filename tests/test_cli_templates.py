"""log-dataset shows what each named template writes, character by character, and says whose it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from written import WRITTEN, as_written

from varlen_lab.cli import main
from varlen_lab.config import Config
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES
from varlen_lab.errors import InputError

TURNS = [("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
MESSAGES = [{"role": role, "content": content} for role, content in TURNS]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Settings that show the two dialogues of this test in one row, in their order."""
    return [f"data_path={tmp_path / 'two.jsonl'}", "pack_strategy=sequential", "max_length=4096", "SYSTEM="]


def shown(
    words: list[str], path: Path, dialogues: list[list[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> str:
    """What log-dataset prints of these dialogues."""
    path.write_text("".join(json.dumps({"messages": dialogue}) + "\n" for dialogue in dialogues), encoding="utf-8")
    assert main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", WRITTEN)
def test_log_dataset_shows_the_bytes_of_a_template(
    name: str, config_file: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = [False, True][: 1 + bool(TEMPLATES[name].system)]
    words = ["log-dataset", config_file, "--show", "text", "--cfg-options", f"prompt_template={name}", *options]
    said = shown(words, tmp_path / "two.jsonl", [MESSAGES[not system :] for system in systems], capsys)
    documents = re.split(r"── document .*\n", said)[1:]
    assert len(documents) == len(systems)
    for document, system in zip(documents, systems):
        written = re.sub("[⟦⟧]", "", as_written(name, system)) + "\n"
        # a tokenizer that puts its begin mark in front of every text does so here too
        assert document in (written, f"<s>{written}")
    row = TEMPLATES[name]
    assert f"prompt_template {name}: {row.about}, as in {row.source}\n" in said


def test_log_dataset_says_so_where_the_template_is_the_tokenizers_or_none(
    config_file: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["log-dataset", config_file, "--cfg-options", *options]
    said = shown(words, tmp_path / "two.jsonl", [MESSAGES], capsys)
    assert "prompt_template tokenizer: the chat template inside the tokenizer\n" in said
    (tmp_path / "two.jsonl").write_text('{"text": "as it stands"}\n')
    assert main([*words, "dataset_map_fn=pretrain", "prompt_template=plain"]) == 0
    assert "prompt_template" not in capsys.readouterr().out


UNKNOWN = {
    "mistrall": "did you mean 'mistral'",
    "mistral@v4": "'mistral@v3'",
    "vicuna": "did you mean 'xtuner:vicuna'",
    "qwen": "'qwen_chat'",
    "xtuner:llama2": "'xtuner:llama2_chat'",
    "nothing_like_it_at_all": "one of tokenizer, default, plain, moss_sft, internlm_chat, internlm2_chat, ",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_gets_near_misses_and_not_sixty_names(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"prompt_template is '{name}', it must be one of ")) as caught:
        Config(prompt_template=name)
    assert UNKNOWN[name] in str(caught.value)
    assert len(str(caught.value)) < 400 and str(caught.value).count("xtuner:") < 5


def test_every_template_is_a_choice(small: Config) -> None:
    for name in (OF_TOKENIZER, *TEMPLATES):
        assert small.replace(prompt_template=name).prompt_template == name
