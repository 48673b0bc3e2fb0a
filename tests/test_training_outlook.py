"""What a run is said to cost: operations counted by hand, and an outlook that comes true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.models.building import tiny
from varlen_lab.training.outlook import Work, duration, layer_count, operations_per_second, size
from varlen_lab.training.trainer import train


def test_operations_of_a_llama_by_hand() -> None:
    """2 layers, width 64, 4 heads of 16, 2 of them for keys, 176 inside, 2048 tokens; the head is not the embedding."""
    model = tiny("llama", num_key_value_heads=2)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 176 + 2 * 64
    used = 2 * layer + 64 + 2048 * 64
    work = Work.of(model)
    assert work.per_token == 6 * used
    assert work.per_squared_length == 6 * 2 * 64
    assert work.operations(10, 100) == 60 * used + 600 * 2 * 64


def test_a_tied_head_is_still_multiplied_with() -> None:
    assert Work.of(tiny("llama", tie_word_embeddings=True)).per_token == Work.of(tiny("llama")).per_token


def test_a_frozen_weight_needs_no_gradient() -> None:
    model = tiny("llama")
    whole = Work.of(model).per_token
    model.requires_grad_(False)
    assert Work.of(model).per_token == pytest.approx(whole * 4 / 6)


def test_seams_do_not_count_as_work(small: Config, tmp_path: Path) -> None:
    """Rows of one document have as many tokens as rows of many, and more attention that is needed."""
    records = {}
    for mode in ("packed", "varlen"):
        config = small.with_mode(mode).replace(work_dir=str(tmp_path / mode))
        records[mode] = train(config, progress=False).records
    assert [r["sum_squared_lengths"] for r in records["packed"]] == [
        r["sum_squared_lengths"] for r in records["varlen"]
    ]
    assert all(r["sum_squared_lengths"] < r["padded_tokens"] * 128 for r in records["varlen"])
    assert all(0 < r["mfu"] < 2 for r in records["varlen"])


def test_the_outlook_comes_true(small: Config) -> None:
    told = []
    history = train(
        small.with_mode("varlen").replace(max_steps=None, max_epochs=2), progress=False, on_start=told.append
    )
    (outlook,) = told
    assert outlook.steps == len(history.records) and outlook.documents == 40 and outlook.epochs == 2
    assert outlook.tokens_per_step * outlook.steps == pytest.approx(history.total("tokens"))
    assert outlook.trained_share == pytest.approx(history.total("trained_tokens") / history.total("tokens"))
    assert outlook.documents_per_step * outlook.steps == pytest.approx(80)
    assert outlook.parameters == outlook.trainable > 0 and outlook.memory > 16 * outlook.parameters


def test_train_says_it_first(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config_file]) == 0
    said = capsys.readouterr().out
    assert said.index("40 documents in") < said.index("loss")
    assert "of this device's speed" in said and "unpacked it would be" in said


def test_unpacked_steps_of_more_documents_are_called_so(small: Config) -> None:
    """Few rows and many batches a step: a step of lines then reaches further than a step of rows."""
    told: list = []
    train(small.replace(max_steps=1), progress=False, on_start=told.append)
    fewer, more = (" ".join(replace(told[0], steps=20, unpacked_steps=n).lines()) for n in (50, 2))
    assert "unpacked it would be 50 steps of 2.5 times fewer documents" in fewer
    assert "unpacked it would be 2 steps of 10.0 times as many documents" in more


def test_words_for_numbers() -> None:
    assert [size(2**20 * 40), size(2**30 * 3.2)] == ["40 MiB", "3.2 GiB"]
    assert [duration(0.2), duration(40), duration(420), duration(11_520)] == [
        "under a second",
        "40 s",
        "7 min",
        "3.2 h",
    ]
    assert operations_per_second(torch.device("cpu"), torch.float32) > 1e9


def test_a_config_that_names_no_layers_stops_no_run() -> None:
    assert layer_count(tiny("llama").config) == 2
    assert layer_count(tiny("starcoder", "starcoder-15b").config) == 2  # n_layer there
    assert layer_count(object()) == 1


def test_stages_that_reduce_every_batch_say_so(small: Config) -> None:
    told: list = []
    train(small.replace(max_steps=1, accumulative_counts=4), progress=False, on_start=told.append)
    lines = {engine: replace(told[0], engine=engine).lines() for engine in ("ddp", "fsdp", "zero1", "zero2", "zero3")}
    assert ["every batch, 4 times a step" in lines[engine][-1] for engine in lines] == [False] * 3 + [True] * 2
    assert replace(told[0], engine="zero2", batches=1).lines() == lines["ddp"]
    assert "a process, shared out over 8, and " in replace(told[0], engine="fsdp", processes=8).lines()[2]
