"""The model that lessons speak with: SmolLM2 where it is, a stand-in that says so where it is not."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from varlen_lab.course import teaching_model as opened
from varlen_lab.course.speaking import REAL, real_is_here
from varlen_lab.documents import load_documents
from varlen_lab.errors import InputError
from varlen_lab.files.writing import cache_dir
from varlen_lab.models import tiny

MODULE = importlib.import_module("varlen_lab.course.speaking")


def test_without_the_package_a_stand_in_speaks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "real_is_here", lambda: False)
    speaker = opened()
    assert not speaker.real and "random weights" in repr(speaker) and "make real" in repr(speaker)
    assert speaker.model.config._attn_implementation == "varlen" and not speaker.model.training
    ids = torch.tensor([speaker.tokenizer("a row")["input_ids"]])
    assert speaker.model(ids).logits.shape[1] == ids.shape[1]


def test_without_the_reader_of_its_file_it_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    assert not real_is_here()


def test_a_folder_of_ones_own_speaks_too(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "mine")
    opened("stand-in").tokenizer.save_pretrained(tmp_path / "mine")
    speaker = opened(str(tmp_path / "mine"), attn_implementation="sdpa")
    assert speaker.real and speaker.name == "mine" and speaker.model.config._attn_implementation == "sdpa"


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        opened(str(tmp_path / "gone"))


def test_the_built_in_corpus_comes_back_when_its_cache_is_deleted_midway(fresh_cache: Path) -> None:
    tokenizer = opened("stand-in").tokenizer
    before = load_documents("builtin:docstrings", tokenizer, progress=False)["input_ids"][:2]
    shutil.rmtree(cache_dir())
    assert load_documents("builtin:docstrings", tokenizer, progress=False)["input_ids"][:2] == before


@pytest.mark.real
def test_smollm2_speaks_where_it_is_installed(capfd: pytest.CaptureFixture[str]) -> None:
    speaker = opened()
    assert speaker.real and REAL.endswith("smollm2") and "SmolLM2-135M-Instruct: 135 million" in repr(speaker)
    assert capfd.readouterr().err == ""  # a pink box in JupyterLab
