"""A model built without weights is the real one but for the memory: names, shapes, dtypes, ties and buffers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.models.building import TINY, build_model, tiny
from varlen_lab.models.registry import FAMILIES

VARIANTS = [(family, variant) for family, record in FAMILIES.items() for variant in record.variants]


def assert_alike(empty: Any, real: Any) -> None:
    """Everything about the two that can be told without looking at a weight, and every buffer to the bit."""
    facts = [
        {name: (p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
        for model in (empty, real)
    ]
    assert facts[0] == facts[1]
    assert [name for name, _ in empty.named_parameters()] == [name for name, _ in real.named_parameters()]  # ties
    assert all(p.is_meta for p in empty.parameters())
    there = dict(real.named_buffers())
    assert {name for name, _ in empty.named_buffers()} == there.keys()
    for name, buffer in empty.named_buffers():
        assert buffer.dtype == there[name].dtype and torch.equal(buffer, there[name]), name


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_every_variant_from_scratch(family: str, variant: str, small: Config) -> None:
    config = small.with_mode("varlen").replace(model_config=TINY | FAMILIES[family].variants[variant])
    before = torch.get_rng_state()
    empty = build_model(config, empty=True)
    assert torch.equal(torch.get_rng_state(), before)  # those that draw weights and those that do not go on alike
    assert_alike(empty, build_model(config))


@pytest.mark.parametrize(("dtype", "master"), [("fp32", True), ("bf16", False)])
def test_from_a_folder(dtype: str, master: bool, small: Config, tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    model.generation_config.repetition_penalty = 1.5
    model.save_pretrained(tmp_path / "base")
    config = small.with_mode("varlen").replace(
        pretrained_model_name_or_path=str(tmp_path / "base"), model_config=None, dtype=dtype, master_weights=master
    )
    empty, real = build_model(config, empty=True), build_model(config)
    assert_alike(empty, real)
    assert empty.generation_config.to_dict() == real.generation_config.to_dict()  # or processes answer differently


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_with_an_adapter(gradient_checkpointing: bool, small: Config, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = small.with_mode("varlen").replace(method="lora", lora_r=4, gradient_checkpointing=gradient_checkpointing)
    before = torch.get_rng_state()
    empty = build_model(config, empty=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert_alike(empty, build_model(config))


def test_in_an_original_layout(small: Config, tmp_path: Path) -> None:
    """The weights of such a folder are read by rules; without weights only its config is."""
    from varlen_lab.models.originals import BAICHUAN

    original = TINY | {"model_type": "baichuan", "auto_map": {}, "hidden_act": "silu", "model_max_length": 4096}
    del original["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(original))
    config = small.with_mode("varlen").replace(pretrained_model_name_or_path=str(tmp_path), model_config=None)
    empty = build_model(config, empty=True)
    assert empty.config.model_type == BAICHUAN.native_config(original)["model_type"]
    assert all(p.is_meta for p in empty.parameters())
