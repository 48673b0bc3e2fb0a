"""An adapter added to weights: in fp32, rounded once, in the dtype of the base, every layer proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.errors import InputError
from varlen_lab.models.adapters import add_adapter
from varlen_lab.models.building import tiny
from varlen_lab.training.conversion import merge

peft = pytest.importorskip("peft")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KINDS = [("internlm", None), ("llama", None)]  # q, k, v, o with biases; tied to nothing, tied embeddings


def saved(folder: Path, dtype: torch.dtype, family: str = "internlm") -> None:
    """A base of this dtype in ``folder/base`` and an adapter that does something in ``folder/adapter``."""
    model = tiny(family, seed=3).to(dtype)
    model.save_pretrained(folder / "base")
    builtin_tokenizer().save_pretrained(folder / "base")
    both = add_adapter(model, Config(method="lora", pretrained_model_name_or_path="x", lora_r=4, evaluation_freq=0))
    generator = torch.Generator().manual_seed(0)
    for name, weight in both.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.02
    both.save_pretrained(folder / "adapter")


def sums(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of base plus adapter in fp32, by hand: W + B A · alpha / r."""
    weights = {name: value.float() for name, value in load_file(folder / "base" / "model.safetensors").items()}
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    for name in adapter:
        if name.endswith("lora_A.weight"):
            target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            weights[target] += adapter[name.replace("lora_A", "lora_B")] @ adapter[name] * (16 / 4)
    return weights


@pytest.mark.parametrize("base", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("word", ["auto", "fp32", "bf16", "fp16"])
def test_a_sum_is_rounded_once_into_the_dtype_of_the_base_or_the_one_named(
    tmp_path: Path, base: str, word: str
) -> None:
    saved(tmp_path, DTYPES[base])
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", dtype=word)
    dtype = DTYPES[base if word == "auto" else word]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {dtype} and done.dtype == str(dtype).removeprefix("torch.")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == dtype
    assert any("rounded to" in note for note in done.notes) is (dtype is not torch.float32)
    for name, exact in sums(tmp_path).items():
        # products summed in another order are another fp32 number, and may fall to the neighbour of the rounded one
        assert torch.isclose(merged[name].float(), exact.to(dtype).float(), rtol=1e-5, atol=1e-7).float().mean() > 0.999
        error = (merged[name].double() - exact.double()).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * exact.double().abs() + 1e-7).all()
    assert done.parameters == tiny("internlm").num_parameters()
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before


def test_a_base_that_is_rounded_before_the_sum_is_seen(tmp_path: Path) -> None:
    """The fault that the test above must find: opened in bf16, merged, and rounded again."""
    saved(tmp_path, torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    twice = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload().state_dict()
    within = [
        (twice[name].double() - exact.double()).abs() <= 2**-8 * exact.double().abs() + 1e-7
        for name, exact in sums(tmp_path).items()
    ]
    assert not all(one.all() for one in within)


@pytest.mark.parametrize("word", ["fp32", "bf16"])
def test_tied_parameters_are_counted_and_written_once(tmp_path: Path, word: str) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    saved(tmp_path, DTYPES[word], "llama")
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert done.parameters == sum(tensor.numel() for tensor in written.values()) == opened.num_parameters()


@pytest.mark.parametrize("word", ["fp32", "bf16"])
def test_a_layer_that_is_merged_wrongly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """The planted fault: one per cent too much of the adapter, far below what bf16 does to logits."""
    from peft.tuners.lora import Linear

    saved(tmp_path, DTYPES[word])
    real = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: 1.01 * real(self, adapter))
    with pytest.raises(InputError, match=r"layers\.0\.\S+ with its adapter merged differs by"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_has_no_room_in_fp16_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, torch.bfloat16)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.model.norm.weight.data[3] = 2.0**20
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"model\.norm\.weight has a weight of 1.05e\+06, float16 ends at 6.55e\+04"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", dtype="fp16")
    assert not (tmp_path / "merged").exists()


def test_the_command_takes_a_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, torch.bfloat16)
    base, adapter, merged = (str(tmp_path / name) for name in ("base", "adapter", "merged"))
    assert main(["convert", "merge", base, adapter, merged]) == 0
    assert "in bfloat16" in capsys.readouterr().out
    assert main(["convert", "merge", base, adapter, merged, "--dtype", "fp32"]) == 0
    assert "in float32" in capsys.readouterr().out
    assert main(["convert", "merge", base, adapter, merged, "--dtype", "fp31"]) == 2
    assert "fp31" in capsys.readouterr().err


# adapters of peft's that ours are not: on embedding and head, whole copies of layers, other methods
OTHERS: dict[str, Any] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2, 3]},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


def of_peft(folder: Path, settings: Any, **config: Any) -> Any:
    """A base in ``folder/base`` and, in ``folder/adapter``, an adapter of these settings; returns the two together."""
    model = tiny("llama", seed=3, **config)
    model.save_pretrained(folder / "base")
    builtin_tokenizer().save_pretrained(folder / "base")
    both = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), settings)
    generator = torch.Generator().manual_seed(0)
    for weight in both.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape, generator=generator) * 0.02
    both.save_pretrained(folder / "adapter")
    return both.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", OTHERS)
def test_embedding_and_head_may_have_adapters_and_are_untied_where_only_one_of_them_moves(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    settings = peft.LoraConfig(task_type="CAUSAL_LM", **OTHERS[kind])
    both = of_peft(tmp_path, settings, tie_word_embeddings=tied)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        assert torch.allclose(opened(input_ids=ids).logits, both(input_ids=ids).logits, atol=2e-4)
    # where one moves, whoever reads config.json alone knows that there are two; peft moves tokens in both
    assert opened.config.tie_word_embeddings is (tied and kind == "tokens")


def test_an_adapter_that_cannot_become_a_part_of_the_weights_is_refused(tmp_path: Path) -> None:
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    biased = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_bias=True)
    for name, settings, words in (
        ("prompt", prompt, "a PromptTuning, which"),
        ("bias", biased, "layer has no bias"),
    ):
        of_peft(tmp_path / name, settings)
        with pytest.raises(InputError, match=f"{words}.*use it beside the model"):
            merge(tmp_path / name / "base", tmp_path / name / "adapter", tmp_path / name / "merged")
        assert not (tmp_path / name / "merged").exists()
