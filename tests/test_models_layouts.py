"""Original checkpoints, read into native classes: equal to a forward written from the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import original_checkpoints
import original_forwards
import pytest
import torch

from varlen_lab.errors import InputError
from varlen_lab.models.architectures import alibi_slopes
from varlen_lab.models.building import tiny
from varlen_lab.models.layouts import Layout
from varlen_lab.models.loading import layout_of, load_model

LLAMA = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
}
ALIBI = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"} | {"model_max_length": 4096}
GLM = {
    "padded_vocab_size": 2048,
    "hidden_size": 64,
    "ffn_hidden_size": 176,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 16,
    "add_qkv_bias": True,
    "layernorm_epsilon": 1e-5,
    "seq_length": 4096,
}
QWEN = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_epsilon": 1e-6,
    "seq_length": 2048,
}
EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CASES = {  # variant: (original config.json, forward)
    ("internlm", "internlm2-7b"): (
        LLAMA | {"model_type": "internlm2", "num_key_value_heads": 2, "rope_theta": 1e6, "bias": False},
        original_forwards.internlm2,
    ),
    ("baichuan", "baichuan-7b"): (LLAMA | {"model_type": "baichuan"}, original_forwards.baichuan),
    ("baichuan", "baichuan-13b"): (ALIBI | {"model_type": "baichuan"}, original_forwards.baichuan),
    ("baichuan", "baichuan2-7b"): (LLAMA | {"model_type": "baichuan", "z_loss_weight": 0}, original_forwards.baichuan),
    ("baichuan", "baichuan2-13b"): (ALIBI | {"model_type": "baichuan", "z_loss_weight": 0}, original_forwards.baichuan),
    ("qwen", "qwen-7b"): (QWEN | {"model_type": "qwen"}, original_forwards.qwen),
    ("chatglm", "chatglm2-6b"): (GLM | {"model_type": "chatglm"}, original_forwards.chatglm),
    ("chatglm", "chatglm3-6b-32k"): (GLM | {"model_type": "chatglm", "rope_ratio": 50}, original_forwards.chatglm),
    ("deepseek", "deepseek-moe-16b"): (
        LLAMA | EXPERTS | {"model_type": "deepseek", "first_k_dense_replace": 1, "num_key_value_heads": 4},
        original_forwards.deepseek,
    ),
}
each_case = pytest.mark.parametrize(("key", "case"), CASES.items(), ids=[variant for _, variant in CASES])


def layout_named(model_type: str) -> Layout:
    """As for a folder that brought its own code."""
    layout = layout_of({"model_type": model_type, "auto_map": {}})
    assert layout is not None
    return layout


def shaken(family: str, variant: str, **config) -> torch.nn.Module:
    """A stand-in in which every tensor matters: norms are not 1, biases are not 0, scores are not all alike."""
    model = tiny(family, variant, **config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def written(folder: Path, key: tuple[str, str], config: dict) -> torch.nn.Module:
    """The stand-in, saved as its original authors would have."""
    model = shaken(*key)
    layout = layout_named(config["model_type"])
    original = original_checkpoints.original_weights(layout, model.state_dict(), model.config.to_dict())
    torch.save(original, folder / "pytorch_model.bin")
    auto = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config | auto | {"tie_word_embeddings": False}))
    return model


@each_case
def test_a_folder_in_the_original_layout_opens_exactly(key: tuple[str, str], case: tuple, tmp_path: Path) -> None:
    config, forward = case
    model = written(tmp_path, key, config)
    opened = load_model(str(tmp_path), "varlen").eval()
    ids = torch.randint(0, 2048, (40,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = opened(ids[None], use_cache=False).logits[0]
        oracle = forward(torch.load(tmp_path / "pytorch_model.bin"), config, ids)
        torch.testing.assert_close(logits, oracle, rtol=1e-4, atol=1e-4 * float(oracle.abs().max()))
        assert torch.equal(logits, model(ids[None], use_cache=False).logits[0])


def test_a_folder_in_an_original_layout_answers_as_it_says(tmp_path: Path) -> None:
    """The native class is given the weights alone, and would stop at the eos of its config."""
    key, (config, _) = next(iter(CASES.items()))
    written(tmp_path, key, config)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 103028], "temperature": 0.8}')
    for empty in (False, True):
        said = load_model(str(tmp_path), "varlen", empty=empty).generation_config
        assert said.eos_token_id == [2, 103028] and said.temperature == 0.8


@each_case
def test_a_folder_in_the_original_layout_keeps_its_dtype_if_asked(
    key: tuple[str, str], case: tuple, tmp_path: Path
) -> None:
    written(tmp_path, key, case[0])
    halves = {name: value.bfloat16() for name, value in torch.load(tmp_path / "pytorch_model.bin").items()}
    torch.save(halves, tmp_path / "pytorch_model.bin")
    opened = load_model(str(tmp_path), "varlen", "auto")
    # a router stays in fp32, as transformers wants it
    assert {p.dtype for name, p in opened.named_parameters() if ".gate." not in name} == {torch.bfloat16}
    whole = load_model(str(tmp_path), "varlen")
    assert all(torch.equal(one, two) for one, two in zip(opened.buffers(), whole.buffers(), strict=True))


@each_case
def test_there_and_back_again(key: tuple[str, str], case: tuple) -> None:
    layout, model = layout_named(case[0]["model_type"]), shaken(*key)
    native, config = dict(model.state_dict()), model.config.to_dict()
    original = original_checkpoints.original_weights(layout, native, config)
    again = layout.native_weights(original, config)
    assert again.keys() == native.keys() and all(torch.equal(again[name], native[name]) for name in native)
    assert sum(t.numel() for t in original.values()) == sum(t.numel() for t in native.values())


def test_a_tensor_the_layout_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match=r"layers\.0\.adapter"):
        layout_named("internlm2").native_weights({"model.layers.0.adapter.weight": torch.ones(1)}, {})


def test_a_wrong_cut_would_be_seen() -> None:
    """The planted fault: InternLM 2's groups read as thirds give another model."""
    config, forward = CASES["internlm", "internlm2-7b"]
    model = shaken("internlm", "internlm2-7b")
    layout = layout_named("internlm2")
    original = original_checkpoints.original_weights(layout, model.state_dict(), model.config.to_dict())
    for name in original:
        if name.endswith("wqkv.weight"):
            q, k, v = original[name].split([64, 32, 32])
            original[name] = torch.cat([k, v, q])
    ids = torch.arange(20)
    with torch.no_grad():
        assert (forward(original, config, ids) - model(ids[None]).logits[0]).abs().max() > 1e-2


def test_norm_head_stays_trainable() -> None:
    """Baichuan 2's published output matrix is not normalised; its gradient has no part along itself."""
    model = tiny("baichuan", "baichuan2-7b")
    model(torch.arange(9)[None]).logits.square().sum().backward()
    weight, grad = model.lm_head.weight, model.lm_head.weight.grad
    assert grad.abs().max() > 0
    assert float((weight * grad).sum(-1).abs().max().detach()) < 1e-4


def test_alibi_slopes_by_hand() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12)[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_saved_stand_ins_without_a_native_class_open_again(tmp_path: Path) -> None:
    for family, variant in (("baichuan", "baichuan2-13b"), ("deepseek", "deepseek-moe-16b")):
        model = shaken(family, variant)
        model.save_pretrained(tmp_path / variant)
        again = load_model(str(tmp_path / variant), "varlen").eval()
        with torch.no_grad():
            assert torch.equal(again(torch.arange(30)[None]).logits, model(torch.arange(30)[None]).logits)
