"""Layers that carry a state run document by document: packed is alone, and nothing else about a model changes."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from expect import refused
from packed import packed_row

from varlen_lab.models.isolation import in_words, isolate_layers, isolated_layers, known_layers, release
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.studies.census import LIMIT, apart, plain_model, run_alone, run_packed

KINDS = ["lfm2", "jamba", "qwen3_next", "mamba", "mamba2", "recurrent_gemma", "rwkv", "zamba2", "nemotron_h"]
MORE = ["qwen3_5_text", "granitemoehybrid", "bamba", "falcon_h1", "xlstm", "minimax", "kimi_linear", "lfm3"]
LENGTHS = [5, 1, 17, 1, 8]


def isolated(kind: str, attention: str = "varlen", **changes: Any) -> Any:
    model = miniature(kind, attention, **changes)
    return isolate_layers(model, known_layers(model))


# -------------------------------------------------------------------------------------------------- packed is alone


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_a_packed_row_is_its_documents_alone(kind: str) -> None:
    """Logits and gradients, in train and in eval mode."""
    alone, model = plain_model(kind), isolated(kind)
    model.load_state_dict(alone.state_dict())
    assert isolated_layers(model) == known_layers(model) != []
    for training in (True, False):
        assert apart(run_packed(model.train(training)), run_alone(alone.train(training))) <= LIMIT


@pytest.mark.parametrize("kind", ["lfm2", "mamba2", "rwkv"])
def test_several_rows_are_as_one(kind: str) -> None:
    """Seams run through all rows of a batch, laid end to end."""
    model = isolated(kind).eval()
    batch = packed_row([5, 1, 10, 16], labels=None)
    one = model(**batch, use_cache=False).logits
    two = {name: x.view(2, 16) if name in ("input_ids", "position_ids") else x for name, x in batch.items()}
    assert torch.allclose(model(**two, use_cache=False).logits.view_as(one), one, atol=1e-5)


@pytest.mark.parametrize("kind", ["lfm2", "mamba"])
@pytest.mark.parametrize("lengths", [[1], [9], [1, 1, 1], [1, 8], [8, 1]])
def test_ugly_rows(kind: str, lengths: list[int]) -> None:
    model = isolated(kind).eval()
    batch = packed_row(lengths, labels=None)
    row = model(**batch, use_cache=False).logits[0]
    for start, end in Boundaries.from_lengths(lengths).spans:
        alone = model(input_ids=batch["input_ids"][:, start:end], use_cache=False).logits[0]
        assert torch.allclose(row[start:end], alone, atol=1e-5)


def test_a_layer_computes_to_the_bit_what_it_computes_alone() -> None:
    model = isolated("lfm2").eval()
    layer, seen = model.get_submodule(isolated_layers(model)[0]), {}

    def look(_: Any, args: Any, options: dict[str, Any], out: torch.Tensor) -> None:
        seen.update(given=options["hidden_states"], out=out)

    layer.register_forward_hook(look, with_kwargs=True)
    model(**packed_row(LENGTHS, labels=None), use_cache=False)
    packed = dict(seen)
    for start, end in Boundaries.from_lengths(LENGTHS).spans:
        assert torch.equal(packed["out"][:, start:end], layer(hidden_states=packed["given"][:, start:end]))


# --------------------------------------------------------------------------------------- and all else is as it was


def test_without_seams_nothing_changes() -> None:
    plain, model = miniature("lfm2").eval(), isolated("lfm2").eval()
    ids = torch.arange(10, 22)[None]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))
    padded = {
        "input_ids": torch.arange(10, 22).view(2, 6),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]),
    }
    assert torch.equal(model(**padded).logits, plain(**padded).logits)


def test_weights_and_their_names_are_untouched(tmp_path: Any) -> None:
    plain, model = miniature("lfm2"), isolated("lfm2")
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    for one, its in ((model, plain), (copy.deepcopy(model), plain)):
        assert list(one.state_dict()) == list(its.state_dict())
    for one, folder in ((plain, "plain"), (model, "isolated")):
        one.save_pretrained(tmp_path / folder)
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "isolated" / file.name).read_bytes() == file.read_bytes()


def test_once_more_is_once_and_release_takes_it_off() -> None:
    plain, model = miniature("lfm2"), isolated("lfm2")
    layer = model.get_submodule(isolated_layers(model)[0])
    forward, hooks = layer.forward, len(model._forward_hooks)
    isolate_layers(model, known_layers(model))
    assert layer.forward is forward and len(model._forward_hooks) == hooks == 1
    assert inspect.signature(layer.forward) == inspect.signature(type(layer)(model.config, 1).forward)
    assert release(model) is model and isolated_layers(model) == [] and in_words(model) == ""
    assert vars(layer).keys() == vars(plain.get_submodule(known_layers(plain)[0])).keys()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert in_words(isolated("jamba")) == "isolated: 1 of 2 layers"


def test_a_copy_has_documents_of_its_own() -> None:
    model = isolated("lfm2").eval()
    twin = copy.deepcopy(model)
    release(model)
    batch = packed_row(LENGTHS, labels=None)
    row = twin(**batch, use_cache=False).logits[0]
    last = twin(input_ids=batch["input_ids"][:, -LENGTHS[-1] :]).logits[0]
    assert torch.allclose(row[-LENGTHS[-1] :], last, atol=1e-5)


def test_a_path_that_is_not_there_is_said() -> None:
    with refused("has no module 'model.layers.9.conv' to isolate"):
        isolate_layers(miniature("lfm2"), ["model.layers.9.conv"])
