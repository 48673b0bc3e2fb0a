"""Attention without seams: padded rows, caches and generation are what each row is alone; nothing is ever NaN."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from expect import refused
from transformers import AutoModelForCausalLM

from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import varlen_attention
from varlen_lab.attention.ordinary import ordinary_attention
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.miniature import scale_weights
from varlen_lab.packing.boundaries import Boundaries

ALL = [(family, variant) for family in families() for variant in variants(family)]
NAMES = [variant for _, variant in ALL]
LENGTHS = [3, 14, 1, 9]  # windows of the tiny models are 8
PROMPTS = [[5, 6, 7], list(range(20, 32)), [9]]


def module(training: bool = False, **attributes: Any) -> Any:
    """A layer, as attention sees it: 4 query heads over 2 of keys."""
    return SimpleNamespace(num_key_value_groups=2, training=training, **attributes)


def tensors(queries: int = 6, keys: int = 6, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 4, queries, 8), (3, 2, keys, 8), (3, 2, keys, 8)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def seen_of(keys: int = 6) -> torch.Tensor:
    """Causal, with row 0 whole, row 1 padded on its left and row 2 on its right: (3, 1, L, L)."""
    there = torch.ones(3, keys, dtype=torch.bool)
    there[1, :3] = False
    there[2, 4:] = False
    # what is padded sees nothing, as flash attention has it; on its left that follows from causality
    return torch.ones(keys, keys, dtype=torch.bool).tril()[None, None] & there[:, None, None] & there[:, None, :, None]


FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "softcap": ({}, {"softcap": 2.0}),
    "alibi": ({"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])}, {}),
    "sinks": ({}, {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])}),
    "all": (
        {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
        {"softcap": 2.0, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    ),
}
HIDING = {"bool": None, "-inf": -math.inf, "least": "least"}


def mask_of(seen: torch.Tensor, hiding: Any, dtype: torch.dtype) -> torch.Tensor:
    if hiding is None:
        return seen
    value = torch.finfo(dtype).min if hiding == "least" else hiding
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, value)


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize(("layer", "options"), FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_query_that_sees_nothing_gets_zeros_and_others_what_they_get_alone(
    hiding: Any, layer: dict[str, Any], options: dict[str, Any], dtype: torch.dtype
) -> None:
    """Against ``attend`` of the tokens that are there; gradients are finite, and zero where nothing is."""
    seen, given = seen_of(), tensors(dtype=dtype)
    out, _ = ordinary_attention(module(**layer), *given, mask_of(seen, hiding, dtype), **options)
    out.sum().backward()
    exactly = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    for row, kept in enumerate(seen.any(-1)[:, 0]):
        assert not out[row, ~kept].any()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in given)
        assert all(not x.grad[row, :, ~kept].any() for x in given)
        q, k, v = (x[row, :, kept].transpose(0, 1).detach().requires_grad_() for x in given)
        alone = attend(q, k, v, Boundaries.from_lengths([len(q)]), backend="reference", **layer, **options)
        torch.testing.assert_close(out[row, kept], alone, **exactly)
        alone.sum().backward()
        for mine, truth in zip(given, (q, k, v), strict=True):
            torch.testing.assert_close(mine.grad[row, :, kept].transpose(0, 1), truth.grad, **exactly)


@pytest.mark.parametrize(("layer", "options"), FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("window", [None, 1, 3, 6, 99])
@pytest.mark.parametrize("causal", [True, False])
def test_without_a_mask_it_is_attend(layer: Any, options: Any, window: int | None, causal: bool) -> None:
    given, rule = tensors(), {"causal": causal, "window": window} | options
    out, _ = ordinary_attention(module(**layer), *given, None, **rule)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in given)
    truth = attend(q, k, v, Boundaries.from_lengths([6] * 3), backend="reference", **layer, **rule)
    torch.testing.assert_close(out.flatten(0, 1), truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("said", [{}, {"is_causal": True}, {"is_causal": False}])
@pytest.mark.parametrize("is_causal", [None, True, False])
def test_keywords_are_obeyed_where_there_is_no_mask(said: dict[str, bool], is_causal: bool | None) -> None:
    """``is_causal`` of the call first, then of the module, without either causal; a window that stands nowhere else."""
    given, causal = tensors(), said.get("is_causal", True) if is_causal is None else is_causal
    told = {"is_causal": is_causal, "sliding_window": 3}
    out, _ = varlen_attention(module(**said), *given, None, backend="auto", **told)
    truth, _ = ordinary_attention(module(), *given, None, causal=causal, window=3)
    torch.testing.assert_close(out, truth)
    assert not torch.allclose(out, ordinary_attention(module(), *given, None, causal=causal)[0])


@pytest.mark.parametrize(("layer", "options"), FEATURES.values(), ids=FEATURES)
def test_a_mask_of_numbers_is_added_and_one_of_yes_and_no_is_not(layer: Any, options: Any) -> None:
    given, seen = tensors(), seen_of()
    bias = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    found = ordinary_attention(module(**layer), *given, bias.masked_fill(~seen, -math.inf), **options)[0]
    plain = ordinary_attention(module(**layer), *given, seen, **options)[0]
    assert (found - plain).abs().max() > 0.1
    # a bias that is equal for all keys changes nothing, unless there is a sink beside them
    flat = ordinary_attention(
        module(**layer), *given, torch.full_like(bias, 3.0).masked_fill(~seen, -math.inf), **options
    )
    if "sinks" not in options:
        torch.testing.assert_close(flat[0], plain)
    # the same numbers on the scores by hand
    q, k, v = given
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 8**-0.5
    if "softcap" in options:
        scores = 2.0 * torch.tanh(scores / 2.0)
    if layer:
        places = torch.arange(6)
        scores = scores - layer["alibi_slopes"][:, None, None] * (places[:, None] - places).abs()
    scores = (scores + bias).masked_fill(~seen, -math.inf)
    if "sinks" in options:
        scores = torch.cat([scores, options["sinks"][:, None, None].double().expand(3, 4, 6, 1)], -1)
    truth = scores.softmax(-1)[..., :6].nan_to_num(0.0) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(found, truth.transpose(1, 2))


@pytest.mark.parametrize(("layer", "options"), FEATURES.values(), ids=FEATURES)
def test_one_query_after_a_cache_sees_all_of_it(layer: Any, options: Any) -> None:
    """And in a static cache, whose later keys are not there yet, the first of a prompt see only each other."""
    q, k, v = tensors()
    whole = ordinary_attention(module(**layer), q, k, v, None, **options)[0]
    last = ordinary_attention(module(**layer), q[:, :, -1:], k, v, None, **options)[0]
    torch.testing.assert_close(last, whole[:, -1:])
    first = ordinary_attention(module(**layer), q[:, :, :4], k, v, None, **options)[0]
    torch.testing.assert_close(first, whole[:, :4])
    later = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    later[..., 4:] = False  # in a static cache the keys of later tokens are hidden
    among = ordinary_attention(module(**layer), q[:, :, 3:4], k, v, later, **options)[0]
    torch.testing.assert_close(among, whole[:, 3:4])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(3, 6), r"a mask of shape \(3, 6\), it must be \(3, 4, 6, 6\), any but the last may be 1"),
        (torch.ones(3, 1, 6, 7), r"shape \(3, 1, 6, 7\)"),
        (torch.ones(2, 1, 6, 6), r"shape \(2, 1, 6, 6\)"),
        (torch.ones(3, 1, 6, 6, dtype=torch.int64), "a mask of torch.int64, .*; use a bool mask"),
    ],
)
def test_a_mask_that_could_mean_something_else_is_refused(mask: torch.Tensor, words: str) -> None:
    for options in ({}, {"softcap": 2.0}):
        with refused(words):
            ordinary_attention(module(), *tensors(), mask, **options)


def test_sinks_of_every_token_are_refused() -> None:
    """There are models that have one for each token and head: not what is computed here."""
    with refused(r"sinks has shape \(3, 4, 6, 1\), it needs one number a head: \(4,\)"):
        ordinary_attention(module(), *tensors(), None, sinks=torch.zeros(3, 4, 6, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masks", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}], ids=["plain", "softcap"])
def test_a_mask_may_have_another_precision(dtype: torch.dtype, masks: torch.dtype, options: Any) -> None:
    given, seen = tensors(dtype=dtype), seen_of()
    out, told = (
        ordinary_attention(module(), *given, mask_of(seen, hiding, masks), **options)[0] for hiding in ("least", None)
    )
    torch.testing.assert_close(out, told, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("layer", "options"), FEATURES.values(), ids=FEATURES)
def test_weights_are_dropped_in_training_only(layer: Any, options: Any) -> None:
    given = tensors()
    plain = ordinary_attention(module(**layer), *given, seen_of(), **options)[0]
    still = ordinary_attention(module(**layer), *given, seen_of(), dropout=0.5, **options)[0]
    assert torch.equal(plain, still)
    dropped = ordinary_attention(module(training=True, **layer), *given, seen_of(), dropout=0.5, **options)[0]
    assert not torch.allclose(plain, dropped)


# ---------------------------------------------------------------------------------------------- whole models


def model_of(family: str, variant: str) -> torch.nn.Module:
    """Tiny, with weights large enough that attention matters."""
    model = tiny(family, variant).eval()
    scale_weights(model)
    return model


def padded(documents: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """A batch of these, as a tokenizer pads it; position ids as ``generate`` makes them."""
    ids = torch.zeros(len(documents), max(map(len, documents)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, document in enumerate(documents):
        place = slice(ids.shape[1] - len(document), None) if side == "left" else slice(0, len(document))
        ids[row, place], mask[row, place] = document, 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@pytest.mark.parametrize(("family", "variant"), ALL, ids=NAMES)
def test_a_padded_row_is_its_document_alone(family: str, variant: str) -> None:
    """On both sides, past the window; logits and gradients, and the padding itself is finite."""
    model = model_of(family, variant)
    documents = list(torch.arange(10, 10 + sum(LENGTHS)).split(LENGTHS))
    alone = [model(document[None], use_cache=False).logits[0] for document in documents]
    model.zero_grad()
    torch.cat(alone).square().mean().backward()
    truth = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for side in ("left", "right"):
        batch = padded(documents, side)
        logits = model(**batch, use_cache=False).logits
        assert logits.isfinite().all()
        mine = logits[batch["attention_mask"].bool()]
        assert (mine - torch.cat(alone)).abs().max() < 1e-5 * torch.cat(alone).abs().max()
        model.zero_grad()
        mine.square().mean().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        for one, two in zip(found, truth, strict=True):
            assert (one - two).norm() <= 1e-4 * two.norm() + 1e-9


@pytest.mark.parametrize(("family", "variant"), ALL, ids=NAMES)
def test_a_batch_of_prompts_is_continued_as_each_alone(family: str, variant: str) -> None:
    """Greedily, with a cache, past the window."""
    model, told = model_of(family, variant), {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    prompts = [torch.tensor(prompt) for prompt in PROMPTS]
    batch = padded(prompts, "left")
    del batch["position_ids"]
    together = model.generate(**batch, **told, pad_token_id=0)[:, batch["input_ids"].shape[1] :]
    for row, prompt in enumerate(prompts):
        assert torch.equal(together[row], model.generate(prompt[None], **told, pad_token_id=0)[0, len(prompt) :])
    if not any(hasattr(module, "alibi_slopes") for module in model.modules()):  # eager attention knows no slopes
        eager = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").eval()
        eager.load_state_dict(model.state_dict())
        assert torch.equal(together, eager.generate(**batch, **told, pad_token_id=0)[:, batch["input_ids"].shape[1] :])


@pytest.mark.parametrize(("family", "variant"), [("baichuan", "baichuan-13b"), ("gemma", "gemma2-9b"), ("llama", None)])
def test_a_static_cache_continues_as_one_that_grows(family: str, variant: str) -> None:
    """Its last keys are not there yet: the distances of ALiBi count from the query, not from the end of the cache."""
    model, batch = model_of(family, variant), padded([torch.tensor(prompt) for prompt in PROMPTS], "left")
    del batch["position_ids"]
    told = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    told |= {"output_logits": True, "return_dict_in_generate": True}
    grows, static = (model.generate(**batch, **told, **more) for more in ({}, {"cache_implementation": "static"}))
    torch.testing.assert_close(torch.stack(static.logits), torch.stack(grows.logits), rtol=1e-4, atol=1e-4)
