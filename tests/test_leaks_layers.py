"""Layers that carry information across seams are found by their gradients, whatever they are called; no others are."""

from __future__ import annotations

import pytest
import torch

from varlen_lab.leaks.layers import leaking_layers
from varlen_lab.leaks.planted_layers import ShortConvolution
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.leaks.running import noise_off
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

DOCUMENTS = Boundaries.from_lengths(LENGTHS)
# model_type -> class and number of the modules that leak in its miniature
CARRY = {
    "mamba": ("MambaMixer", 2),
    "mamba2": ("Mamba2Mixer", 2),
    "qwen3_next": ("Qwen3NextGatedDeltaNet", 1),
    "recurrent_gemma": ("RecurrentGemmaRecurrentBlock", 1),
    "jamba": ("JambaMambaMixer", 1),
    "bamba": ("BambaMixer", 1),
    "falcon_h1": ("FalconH1Mixer", 2),
    "minimax": ("MiniMaxLightningAttention", 1),
    "zaya": ("ZayaCCAProjection", 2),
    "xlstm": ("xLSTMLayer", 2),
    "kimi_linear": ("KimiLinearDeltaAttention", 1),
    "granitemoehybrid": ("GraniteMoeHybridMambaLayer", 1),
}


def leaking(model, **batch):
    ids = torch.randint(10, 100, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "position_ids": DOCUMENTS.position_ids()[None], "use_cache": False} | batch
    with noise_off(model):
        return leaking_layers(model, batch, DOCUMENTS)


@pytest.mark.parametrize("kind", CARRY)
def test_what_carries_a_state_is_named(kind: str) -> None:
    name, least = CARRY[kind]
    found = leaking(miniature(kind, "eager"))
    assert {type(layer.module).__name__ for layer in found} == {name} and len(found) >= least
    assert all(layer.strength > 0 and not layer.attends for layer in found)


def test_a_short_convolution_is_named_by_the_module_that_holds_it() -> None:
    found = leaking(miniature("lfm2", "eager", layer_types=["conv", "full_attention", "conv"], num_hidden_layers=3))
    assert [layer.path for layer in found] == ["model.layers.0.conv", "model.layers.2.conv"]
    assert type(found[0].module).__name__ == "Lfm2ShortConv"


def test_a_layer_that_leaks_beside_its_parts_is_named_as_a_whole() -> None:
    """RWKV shifts by a torch.nn module, which leaks, and carries a state around it, which leaks too."""
    found = leaking(miniature("rwkv", "eager", attention_hidden_size=64))
    assert {type(layer.module).__name__ for layer in found} == {"RwkvSelfAttention", "RwkvFeedForward"}


def test_attention_that_nobody_dispatches_is_named() -> None:
    found = leaking(miniature("bloom", "eager"))
    assert {type(layer.module).__name__ for layer in found} == {"BloomAttention"}
    assert all(layer.attends for layer in found)


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "seed_oss", "mixtral", "qwen3_moe", "gemma3_text"])
def test_experts_routers_and_dispatched_attention_are_not_named(kind: str) -> None:
    """Also not where attention leaks, as with running positions: ``causes`` explains that."""
    model = miniature(kind, "eager")
    assert leaking(model) == []
    assert leaking(model, position_ids=torch.arange(sum(LENGTHS))[None]) == []


@pytest.mark.parametrize("name", ["short convolution", "recurrence", "norm of the row"])
@pytest.mark.parametrize("training", [False, True])
def test_a_planted_layer_is_named_with_its_path(name: str, training: bool) -> None:
    model, batch = specimen(FAULTS[name])
    assert leaking(model, **batch) == []
    batch = plant(FAULTS[name], model, batch)
    (found,) = leaking(model.train(training), **batch)
    assert found.path == "model.layers.1.mlp.planted"


def test_only_the_first_two_tokens_of_documents_leak_and_it_is_seen() -> None:
    """A convolution of width 3, as weak as can be: what is small is not taken for rounding."""

    class Faint(ShortConvolution):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden + 1e-12 * super().forward(hidden)

    model, batch = specimen(FAULTS["short convolution"])
    model.model.layers[0].mlp = torch.nn.Sequential(Faint(), model.model.layers[0].mlp)
    (found,) = leaking(model, **batch)
    assert type(found.module) is Faint and 0 < found.strength < 1e-10


def test_the_model_is_left_as_it_was_found() -> None:
    model = miniature("lfm2", "eager", layer_types=["conv", "full_attention"])
    model.model.embed_tokens.weight.requires_grad_(False)
    leaking(model.train())
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == ["model.embed_tokens.weight"]
    assert model.training and not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
