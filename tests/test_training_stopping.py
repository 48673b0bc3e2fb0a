"""Where an answer ends: the publisher's settings are kept, and the end mark that was taught is added to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from varlen_lab.config.schema import Config
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.models.building import tiny
from varlen_lab.training.conversion import convert, merge
from varlen_lab.training.stopping import stop_ids
from varlen_lab.training.trainer import train

SETTINGS = {"eos_token_id": [2, 5], "do_sample": True, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 1}
ANSWERS = {"Good?": "yes", "Bad?": "no"}
MARKS = {"internlm_chat": "<eoa>", "starcoder_chat": "<|end|>", "gemma": "<end_of_turn>"}


def base_of(folder: Path, settings: dict[str, Any], *marks: str) -> Any:
    """A tiny base with these marks in its tokenizer, none of which is its eos, and the built-in tokenizer itself."""
    tokenizer = builtin_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)}) if marks else None
    tiny("llama", vocab_size=2064, tie_word_embeddings=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return tokenizer


@pytest.fixture
def two_answers(small: Config, tmp_path: Path) -> Config:
    """A config that learns two answers by heart, over a base that ``base_of`` makes in ``base``."""
    data = tmp_path / "two.jsonl"
    with data.open("w") as file:
        for question, answer in ANSWERS.items():
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return small.with_mode("varlen").replace(
        pretrained_model_name_or_path=str(tmp_path / "base"),
        model_config=None,
        data_path=str(data),
        lr=1e-2,
        max_steps=60,
        max_epochs=60,
    )


def settings_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation_config.json").read_text())


@pytest.mark.parametrize("template", list(MARKS))
def test_plain_generate_stops_at_the_mark_it_was_taught(two_answers: Config, tmp_path: Path, template: str) -> None:
    """With defaults, opened as anybody does; and the sample answers of training stop there as well."""
    tokenizer = base_of(tmp_path / "base", {"eos_token_id": 2}, MARKS[template])
    mark = tokenizer.convert_tokens_to_ids(MARKS[template])
    assert tokenizer.eos_token_id == 2 != mark
    config = two_answers.replace(prompt_template=template, evaluation_inputs=list(ANSWERS), evaluation_freq=60)
    history = train(config, progress=False)
    assert [said.strip() for said in history.records[-1]["samples"]] == list(ANSWERS.values())
    done = convert(config, history.checkpoint or "", tmp_path / "hf")
    assert settings_in(tmp_path / "hf")["eos_token_id"] == [2, mark] and done.notes == ()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    opened = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for question, answer in ANSWERS.items():
        turns = [{"role": "user", "content": question}]
        asked = opened.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        assert torch.equal(asked, prompt_ids(question, tokenizer, template))
        said = model.generate(asked, max_new_tokens=30)[0, asked.shape[1] :].tolist()
        assert said[-1] == mark and len(said) < 30 and opened.decode(said[:-1]).strip() == answer


def test_a_model_that_does_not_know_its_mark_runs_past_it(two_answers: Config, tmp_path: Path) -> None:
    """The planted fault: the settings of the base alone, as it was before."""
    tokenizer = base_of(tmp_path / "base", {"eos_token_id": 2}, "<eoa>")
    config = two_answers.replace(prompt_template="internlm_chat")
    convert(config, train(config, progress=False).checkpoint or "", tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    asked = prompt_ids("Good?", tokenizer, "internlm_chat")
    said = model.generate(asked, max_new_tokens=30, eos_token_id=tokenizer.eos_token_id)[0, asked.shape[1] :].tolist()
    assert len(said) == 30 and tokenizer.convert_tokens_to_ids("<eoa>") in said


@pytest.mark.parametrize("sampling", [{}, {"do_sample": False}], ids=["as published", "that transformers warns about"])
def test_the_publishers_settings_are_kept(two_answers: Config, tmp_path: Path, sampling: dict[str, Any]) -> None:
    tokenizer = base_of(tmp_path / "base", SETTINGS | sampling, "<eoa>")
    mark = tokenizer.convert_tokens_to_ids("<eoa>")
    expected = SETTINGS | sampling | {"eos_token_id": [2, 5, mark]}
    config = two_answers.replace(prompt_template="internlm_chat", max_steps=1)
    convert(config, train(config, progress=False).checkpoint or "", tmp_path / "hf")
    opened = GenerationConfig.from_pretrained(tmp_path / "hf").to_dict()
    assert {name: opened[name] for name in expected} == expected
    lora = config.replace(method="lora", work_dir=str(tmp_path / "lora"))
    done = convert(lora, train(lora, progress=False).checkpoint or "", tmp_path / "adapter")
    assert done.notes == (
        f"the base stops at [2, 5], this adapter at [2, 5, {mark}]: pass eos_token_id=[2, 5, {mark}] to generate, "
        "or merge",
    )
    assert not (tmp_path / "adapter" / "generation_config.json").exists()
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    opened = GenerationConfig.from_pretrained(tmp_path / "merged").to_dict()
    assert {name: opened[name] for name in expected} == expected


def test_a_mark_of_several_tokens_is_told(two_answers: Config, tmp_path: Path) -> None:
    """generation_config has no word for it; what a person can do instead stands in the note, and works."""
    tokenizer = base_of(tmp_path / "base", {"eos_token_id": 2})
    config = two_answers.replace(prompt_template="internlm_chat")
    done = convert(config, train(config, progress=False).checkpoint or "", tmp_path / "hf")
    assert len(done.notes) == 1 and "answers end with '<eoa>', " in done.notes[0]
    assert "pass stop_strings='<eoa>'" in done.notes[0] and settings_in(tmp_path / "hf")["eos_token_id"] == [2]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    asked = prompt_ids("Good?", tokenizer, "internlm_chat")
    said = model.generate(asked, max_new_tokens=30, stop_strings="<eoa>", tokenizer=tokenizer)[0, asked.shape[1] :]
    assert tokenizer.decode(said).strip() == "yes<eoa>"


@pytest.mark.parametrize("stated, ids", [(None, [2]), (2, [2]), (7, [7, 2]), ([7, 5], [7, 5, 2]), ([2, 5], [2, 5])])
def test_the_ids_of_a_config_come_first_and_none_twice(stated: Any, ids: list[int]) -> None:
    assert stop_ids(GenerationConfig(eos_token_id=stated), builtin_tokenizer(), "tokenizer") == ids
