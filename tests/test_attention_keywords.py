"""A keyword that attention does not know is refused by its name, whatever the call; those it knows are obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from expect import refused
from test_attention_guard import IDS, LENGTHS, packed

from varlen_lab.attention.huggingface import NOT_OF_ATTENTION
from varlen_lab.models.miniature import miniature

PADDING = torch.ones(2, 8, dtype=torch.long)
PADDING[0, :3] = 0


CALLS: dict[str, Callable[..., Any]] = {
    "packed": lambda model, **more: model(**packed(), **more),
    "unpacked": lambda model, **more: model(input_ids=IDS[None], **more),
    "padded": lambda model, **more: model(input_ids=IDS[:16].view(2, 8), attention_mask=PADDING, **more),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["position_bias", "indices", "block_indices", "head_mask", "anything_new"])
def test_a_keyword_that_is_not_known_is_refused_by_name(call: str, name: str) -> None:
    model = miniature("llama")
    with refused(f"LlamaForCausalLM hands its attention {name}, which our attention does not know"):
        CALLS[call](model, **{name: torch.zeros(1)})
    CALLS[call](model, **{name: None})


def test_it_is_refused_while_generating_too() -> None:
    model = miniature("inkling_text").eval()  # each layer has a bias for every distance
    with refused("InklingForCausalLM hands its attention position_bias"):
        model.generate(IDS[None], max_new_tokens=2)


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_business_of_attention_changes_nothing(call: str) -> None:
    model = miniature("llama").eval()
    left = {"position_ids", "logits_to_keep", "max_length_k"} | ({"seq_idx"} if call != "packed" else set())
    others = [name for name in NOT_OF_ATTENTION if name not in left]
    with torch.no_grad():
        plain = CALLS[call](model).logits
        told = CALLS[call](model, **dict.fromkeys(others, 1), output_attentions=False).logits
    assert torch.equal(plain, told)


@pytest.mark.parametrize("kind", ["gpt_oss", "mimo_v2_flash"])
def test_sinks_are_obeyed(kind: str) -> None:
    mine, eager = (miniature(kind, name).eval() for name in ("varlen", "eager"))
    with torch.no_grad():
        alone = torch.cat([eager(input_ids=one[None], use_cache=False).logits[0] for one in IDS.split(LENGTHS)])
        torch.testing.assert_close(mine(**packed(), use_cache=False).logits[0], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", CALLS)
def test_is_causal_false_looks_ahead_inside_of_documents(call: str) -> None:
    """By the keyword: a bias that hides nothing but padding is what eager attention needs for the same."""
    mine, eager = (miniature("llama", name).eval() for name in ("varlen", "eager"))

    def ahead(ids: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(len(ids), 1, 1, ids.shape[1]).masked_fill(shown[:, None, None] == 0, -1e30)
        return eager(input_ids=ids, attention_mask=bias.expand(-1, -1, ids.shape[1], -1), use_cache=False).logits

    with torch.no_grad():
        got = CALLS[call](mine, is_causal=False, use_cache=False).logits
        if call == "padded":
            want = ahead(IDS[:16].view(2, 8), PADDING)[PADDING.bool()]
            got = got[PADDING.bool()]
        else:
            parts = IDS.split(LENGTHS) if call == "packed" else [IDS]
            want = torch.cat([ahead(one[None], torch.ones(1, len(one)))[0] for one in parts])
            got = got[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_a_layer_that_is_not_causal_beside_a_mask_that_is_is_refused() -> None:
    """transformers' sdpa obeys the one and eager the other."""
    model = miniature("llama")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    for call in CALLS.values():
        with refused("LlamaAttention has is_causal=False and its mask is causal"):
            call(model)
        call(model, is_causal=False)


def test_seams_of_keys_that_are_not_those_of_queries_are_refused() -> None:
    wrong = packed() | {"cu_seq_lens_k": torch.tensor([0, 5, 32], dtype=torch.int32)}
    with refused("cu_seq_lens_k differs from cu_seq_lens_q"):
        miniature("llama")(**wrong)


def test_queries_scaled_by_their_place_in_the_row_are_refused_where_it_shows() -> None:
    model = miniature("llama4_text", floor_scale=16)
    with refused("Llama4TextAttention scales queries by their place in the row, .* floor_scale=16 tokens on"):
        model(**packed())
    miniature("llama4_text", floor_scale=33)(**packed())
    model(input_ids=IDS[None])
