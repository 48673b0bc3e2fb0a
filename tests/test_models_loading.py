"""Models: the same seed the same weights, and original checkpoints read into native classes exactly."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import (
    build_model,
    families,
    from_scratch,
    native_config,
    native_model_types,
    tiny,
    variants,
)
from varlen_lab.models.layouts import Layout
from varlen_lab.models.loading import layout_of, load_model
from varlen_lab.models.registry import FAMILIES


def test_names() -> None:
    assert {"internlm", "llama"} <= set(families())
    assert all(variants(family) for family in families())
    with pytest.raises(InputError, match="did you mean 'internlm'"):
        tiny("internlmm")
    with pytest.raises(InputError, match="no variant"):
        tiny("llama", "llama9")


def test_a_folder_is_all_that_must_be_said(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    assert load_model(tmp_path).config._attn_implementation.startswith("varlen")


def test_a_family_names_layouts_that_exist() -> None:
    for model_type in [name for family in FAMILIES.values() for name in family.layouts]:
        layout = layout_of({"model_type": model_type, "auto_map": {}})
        assert isinstance(layout, Layout)
        # transformers 5.24 has an internlm3 of its own: it reads a folder that brought no code
        assert layout_of({"model_type": model_type}) is (None if model_type in native_model_types() else layout)
    assert layout_of({"model_type": "llama", "auto_map": {}}) is None


def test_the_seed_decides_and_the_callers_rng_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = tiny("llama", seed=1), tiny("llama", seed=1), tiny("llama", seed=2)
    assert torch.equal(torch.rand(3), expected)
    weights = [model.state_dict()["model.embed_tokens.weight"] for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_stand_in_is_an_ordinary_folder(tmp_path: Path) -> None:
    model = tiny("llama").eval()
    model.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), "sdpa").eval()
    ids = torch.arange(9)[None]
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=5e-6)
    assert "varlen" not in (tmp_path / "config.json").read_text()


def test_an_original_internlm_folder_is_read_into_a_llama(tmp_path: Path) -> None:
    """Published layout: model_type internlm, Llama's names, biases on all four projections, a rotary buffer."""
    model = tiny("internlm", seed=3).eval()
    with torch.no_grad():  # random biases, or losing them would go unseen
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    config = {
        "model_type": "internlm",
        "architectures": ["InternLMForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM"},
        "bias": True,
        **{
            key: getattr(model.config, key)
            for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        },
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = dict(model.state_dict())
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    again = load_model(str(tmp_path), "varlen").eval()
    ids = torch.arange(20)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    for path, message in ((str(tmp_path), "config.json"), ("nobody/nothing", "neither a folder")):
        with pytest.raises(InputError, match=message):
            load_model(path, "sdpa")
    with pytest.raises(InputError, match="did you mean 'llama'"):
        from_scratch({"model_type": "lllama"}, "sdpa", seed=0)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"hidden_size": -3}, "hidden size"), ({"hidden_size": "x"}, "hidden_size")],
)
def test_a_model_config_that_describes_none_is_one_sentence(values: dict, word: str) -> None:
    with pytest.raises(InputError, match="model_config does not describe a llama") as caught:
        native_config({"model_type": "llama"} | values)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_our_model_types_are_known_and_imported_only_when_one_is_wanted() -> None:
    code = """
import sys
from varlen_lab.models.building import OUR_MODEL_TYPES, tiny
tiny("llama")
assert "varlen_lab.models.architectures" not in sys.modules
from varlen_lab.models import architectures
ours = (architectures.BaichuanConfig, architectures.DeepseekMoeConfig)
assert {config.model_type for config in ours} == OUR_MODEL_TYPES
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_opened_in_another_dtype_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny("llama").save_pretrained(tmp_path / "full")
    config = Config(pretrained_model_name_or_path=str(tmp_path / "half"), evaluation_freq=0, dtype="fp32")
    with pytest.warns(UserWarning, match="half keeps its weights in bfloat16, this run opens them in float32"):
        build_model(config)
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_model(config)  # the first process has said it
        monkeypatch.setenv("RANK", "0")
        build_model(config.replace(pretrained_model_name_or_path=str(tmp_path / "full")))
        build_model(config.replace(dtype="bf16", master_weights=False))
