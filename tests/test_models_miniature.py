"""A tiny model of any class: it is tiny, it keeps the switches of a config, and every layer matters in its logits."""

from __future__ import annotations

import pytest
import torch
from expect import refused
from transformers import AutoConfig

from varlen_lab.errors import InputError
from varlen_lab.models.miniature import miniature, miniature_config, scale_weights, tiny_of

LAYOUTS = ["llama", "gemma3", "jamba", "mamba2", "deepseek_v3", "gpt2", "bart", "zamba", "gemma3n_text", "dbrx", "lfm2"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_miniature_is_small_and_the_same_each_time(kind: str) -> None:
    one, two = (miniature(kind, "eager", seed=3) for _ in range(2))
    assert sum(p.numel() for p in one.parameters()) < 1_000_000
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert {p.dtype for p in one.parameters()} == {torch.float32}


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    miniature("llama", seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_switches_of_a_config_stay_and_sizes_shrink() -> None:
    config = AutoConfig.for_model(
        "gemma2",
        num_hidden_layers=6,
        layer_types=["full_attention", *["sliding_attention"] * 5],
        attn_logit_softcapping=20.0,
        sliding_window=4096,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 8.0,
            "original_max_position_embeddings": 4096,
        },
    )
    tiny = miniature_config(config, rope_parameters={"original_max_position_embeddings": 48})
    assert tiny.layer_types == ["full_attention", "sliding_attention"]
    assert tiny.attn_logit_softcapping == 20.0 and tiny.sliding_window == 16
    assert tiny.rope_parameters["factor"] == 8.0 and tiny.rope_parameters["original_max_position_embeddings"] == 48
    assert miniature_config(config, sliding_window=5).sliding_window == 5
    assert config.num_hidden_layers == 6  # the user's is not touched


def test_lists_of_frequencies_are_cut_to_the_heads() -> None:
    factors = [1.0 + number / 10 for number in range(48)]
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "long_factor": factors,
        "short_factor": factors,
        "original_max_position_embeddings": 4096,
    }
    config = AutoConfig.for_model("phi3", rope_parameters=rope, max_position_embeddings=131072, num_hidden_layers=2)
    model = miniature(config)
    assert len(model.config.rope_parameters["long_factor"]) == 8
    assert model(input_ids=torch.arange(40)[None]).logits.isfinite().all()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_token_before_matters(kind: str) -> None:
    """With weights as transformers draws them a change at the first token is lost in rounding."""
    model = miniature(kind, "eager").eval()
    ids = torch.arange(10, 22)[None]
    other = ids.clone()
    other[0, 0] = 99
    with torch.no_grad():
        change = (model(input_ids=ids).logits - model(input_ids=other).logits)[0].abs().amax(-1)
        scale = model(input_ids=ids).logits.abs().max()
    assert change[-1] > 1e-4 * scale and scale > 0.1


def test_scaling_is_deterministic_and_leaves_norms_near_one() -> None:
    model = miniature("llama", seed=5)
    weights = [p.clone() for p in model.parameters()]
    scale_weights(model, seed=6)
    assert any(not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert 0.5 < model.model.norm.weight.mean() < 1.5


def test_what_cannot_be_built_is_said_in_a_sentence() -> None:
    with pytest.raises(InputError, match="knows no model_type 'lama'; did you mean 'llama'"):
        miniature("lama")
    with pytest.raises(InputError, match="transformers builds no tiny llama"):
        miniature("llama", num_attention_heads=0)


def test_a_tiny_model_of_any_type_is_the_miniature_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    mine, its = (build("lfm2", "eager").state_dict() for build in (tiny_of, miniature))
    assert list(mine) == list(its) and all(torch.equal(mine[name], its[name]) for name in its)
    capfd.readouterr()
    tiny_of("mamba")
    assert capfd.readouterr().err == ""
    with refused("nonsense"):
        tiny_of("nonsense")
