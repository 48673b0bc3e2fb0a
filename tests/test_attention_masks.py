"""A closed mask: only our attention opens it, and what it means inside a document is read or refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from expect import refused
from packed import packed_row
from transformers import LlamaConfig
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
    sdpa_mask,
)

from varlen_lab.attention import rules
from varlen_lab.attention.huggingface import register
from varlen_lab.attention.masks import DeferredMask, rule_with_seams
from varlen_lab.attention.rules import Rule, chunked_seams
from varlen_lab.models.miniature import miniature
from varlen_lab.models.sizes import SPECIAL, VOCABULARY
from varlen_lab.packing.boundaries import Boundaries

LENGTHS = [5, 1, 17, 16, 33]  # around a window, and a chunk, of 16
WINDOWS: dict[str, dict[str, Any]] = {
    "phimoe": {"sliding_window": 16},  # in the mask only
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
    "mistral": {"sliding_window": 16},  # in the mask and in a keyword
    "llama4_text": {"attention_chunk_size": 16, "attn_temperature_tuning": False},  # chunks, in the mask only
}


def closed(create: Callable[..., Any] = create_causal_mask, tokens: int = 6, **given: Any) -> Any:
    """A mask as a model gets it, of one row."""
    register()
    config = LlamaConfig(sliding_window=3, attention_chunk_size=4, attn_implementation="varlen")
    past = "cache" if "cache" in create.__code__.co_varnames or hasattr(create, "__wrapped__") else "past_key_values"
    given = {"attention_mask": None, past: None} | given
    return create(config=config, inputs_embeds=torch.zeros(1, tokens, 8), **given)


def documents() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(SPECIAL, VOCABULARY, (length,), generator=draw) for length in LENGTHS]


def packed() -> dict[str, Any]:
    return packed_row(LENGTHS, torch.cat(documents()).tolist(), labels=None, use_cache=False)


def close(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((mine - theirs).abs().max() <= 1e-5 * theirs.abs().max())


# ------------------------------------------------------------------------------------------------ what a model may do


def test_a_slice_that_cuts_nothing_off_is_the_mask_itself() -> None:
    mask = closed()
    for same in (mask[:], mask[:, :, :, :6], mask[:, :, :, :99], mask[:, :, 0:, :], mask.to("cpu"), mask.contiguous()):
        assert same is mask
    assert mask.shape == (1, 1, 6, 6) == mask.size() and mask.ndim == 4 and mask.size(-1) == 6


def test_a_slice_that_cuts_is_remembered_and_opened_as_such() -> None:
    mask = closed()
    cut = mask[:, :, -2:, :]
    assert isinstance(cut, DeferredMask) and cut is not mask and cut.changes
    whole = sdpa_mask(batch_size=1, q_length=6, kv_length=6, allow_is_causal_skip=False)
    assert torch.equal(cut.open(True), whole[:, :, -2:, :])
    seen = torch.eye(6, dtype=torch.bool)[None, None]
    for both in (mask & seen, seen & mask, torch.logical_and(seen, mask)):
        assert isinstance(both, DeferredMask) and torch.equal(both.open(True), whole & seen)


@pytest.mark.parametrize(
    "use",
    [
        lambda mask, x: x + mask,
        lambda mask, x: mask + x,
        lambda mask, x: x.masked_fill(mask, 0.0),
        lambda mask, x: torch.where(mask, x, 0.0),
        lambda mask, x: torch.cat([mask, x], -1),
        lambda mask, x: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask),
        lambda mask, x: mask.to(torch.float32),
        lambda mask, x: mask.to(dtype=torch.bool),
        lambda mask, x: mask.float(),
        lambda mask, x: mask.dtype,
        lambda mask, x: ~mask,
        lambda mask, x: (1.0 - mask) * -1e4,
        lambda mask, x: mask == 0,
        lambda mask, x: mask < -1,
        lambda mask, x: float(mask),
        lambda mask, x: len(mask),
        lambda mask, x: bool(mask),
        operator.mul,
    ],
)
def test_a_mask_is_never_a_number(use: Callable[[Any, torch.Tensor], Any]) -> None:
    with refused("computes with its attention mask itself"):
        use(closed(), torch.zeros(1, 1, 6, 6))
    assert not hasattr(closed(), "float")  # who asks before is not told off


# --------------------------------------------------------------------------------------------------- what it means


@pytest.mark.parametrize(
    ("create", "given", "rule"),
    [
        (create_causal_mask, {}, Rule()),
        (create_sliding_window_causal_mask, {}, Rule(window=3)),
        (create_chunked_causal_mask, {}, Rule(chunk=4)),
        (create_bidirectional_mask, {}, Rule(causal=False)),
        (create_sliding_window_causal_mask, {"position_ids": torch.tensor([[0, 1, 0, 1, 2, 3]])}, Rule(window=3)),
        (create_chunked_causal_mask, {"position_ids": torch.tensor([[0, 1, 0, 1, 2, 3]])}, Rule(chunk=4)),
        (create_causal_mask, {"attention_mask": torch.ones(1, 6)}, Rule()),
        (create_causal_mask, {"block_sequence_ids": torch.full((1, 6), -1)}, Rule()),
        (create_causal_mask, {"block_sequence_ids": torch.zeros(1, 6)}, None),
        (create_causal_mask, {"or_mask_function": lambda b, h, q, k: q > 2}, None),
        (create_causal_mask, {"and_mask_function": lambda b, h, q, k: k != 1}, None),
    ],
)
def test_the_rule_of_a_mask_is_read(create: Callable[..., Any], given: dict[str, Any], rule: Rule | None) -> None:
    read = closed(create, **given).rule
    if rule is None:
        assert read.unknown is not None
    else:
        assert read == rule


@pytest.mark.parametrize("create", [create_causal_mask, create_sliding_window_causal_mask, create_chunked_causal_mask])
def test_a_rule_shows_what_the_mask_shows(create: Callable[..., Any]) -> None:
    """An independent reading: the keys that transformers' own mask shows are those of the rule."""
    mask = closed(create, tokens=9)
    mask.options["allow_is_causal_skip"] = False
    query, key = torch.arange(9)[:, None], torch.arange(9)[None]
    shown = key <= query
    if mask.rule.window is not None:
        shown &= query - key < mask.rule.window
    if mask.rule.chunk is not None:
        shown &= query // mask.rule.chunk == key // mask.rule.chunk
    assert torch.equal(mask.open(True)[0, 0], shown)


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_and_chunks_that_live_in_the_mask_are_kept(kind: str) -> None:
    mine, eager = (miniature(kind, name, **WINDOWS[kind]).eval() for name in ("varlen", "eager"))
    with torch.no_grad():
        alone = torch.cat([eager(input_ids=one[None], use_cache=False).logits[0] for one in documents()])
        wide = {name: 99 if value == 16 else value for name, value in WINDOWS[kind].items()}
        without = miniature(kind, "eager", **wide).eval()
        assert not close(without(input_ids=documents()[-1][None], use_cache=False).logits[0], alone[-33:])  # it matters
        assert close(mine(**packed()).logits[0], alone)
        assert close(torch.cat([mine(input_ids=one[None], use_cache=False).logits[0] for one in documents()]), alone)
        for side in ("left", "right"):
            ids, mask = torch.ones(len(LENGTHS), 33, dtype=torch.long), torch.zeros(len(LENGTHS), 33, dtype=torch.long)
            for row, one in enumerate(documents()):
                place = slice(33 - len(one), 33) if side == "left" else slice(0, len(one))
                ids[row, place], mask[row, place] = one, 1
            theirs, ours = (m(input_ids=ids, attention_mask=mask, use_cache=False).logits for m in (eager, mine))
            assert close(ours[mask.bool()], theirs[mask.bool()])
        asked = {"input_ids": ids.flip(1)[2:], "attention_mask": mask.flip(1)[2:], "max_new_tokens": 6}
        ours, theirs = (m.generate(**asked, do_sample=False, pad_token_id=1, eos_token_id=None) for m in (mine, eager))
        assert torch.equal(ours, theirs)


def test_chunks_are_cut_inside_documents_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Boundaries.from_lengths([3, 9, 4, 8])
    assert chunked_seams(row.cu_seqlens, 4).tolist() == [0, 3, 7, 11, 12, 16, 20, 24]
    assert chunked_seams(row.cu_seqlens, 4) is chunked_seams(row.cu_seqlens, 4)
    assert chunked_seams(row.cu_seqlens, 9) is row.cu_seqlens
    cuts: list[int] = []
    real = rules.chunker(16)
    monkeypatch.setattr(rules, "chunker", lambda size: lambda seams: cuts.append(size) or real(seams))
    reads = []
    monkeypatch.setattr(real, "read", lambda seams, read=real.read: reads.append(1) or read(seams))
    miniature("llama4_text", **WINDOWS["llama4_text"], num_hidden_layers=4)(**packed())
    assert len(cuts) > 1 == len(reads)


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_mask_that_says_more_than_seams_is_refused() -> None:
    model = miniature("llama")
    tokens = sum(LENGTHS)
    model(**packed(), attention_mask=torch.ones(1, tokens))
    hidden = torch.ones(1, tokens)
    hidden[0, [3, 30]] = 0
    with refused("attention_mask hides 2 tokens of a packed row"):
        model(**packed(), attention_mask=hidden)
    with refused("with a mask of four dimensions, which may say more than seams"):
        model(**packed(), attention_mask=torch.ones(1, 1, tokens, tokens, dtype=torch.bool))


def test_a_mask_of_ones_own_is_honoured_without_seams() -> None:
    mine, eager = (miniature("llama", name).eval() for name in ("varlen", "eager"))
    ids = documents()[2][None]
    seen = torch.ones(17, 17, dtype=torch.bool).tril() & (torch.arange(17) != 3)
    seen[3, 3] = True
    bias = torch.zeros(1, 1, 17, 17).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        theirs = eager(input_ids=ids, attention_mask=bias).logits
        for mask in (seen[None, None], bias):
            assert close(mine(input_ids=ids, attention_mask=mask).logits, theirs)


def test_a_window_in_a_keyword_that_is_not_that_of_the_mask_is_refused() -> None:
    mask, module = closed(create_sliding_window_causal_mask), torch.nn.Module()
    assert rule_with_seams(mask, module, None, 3) == Rule(window=3) == rule_with_seams(mask, module, None, None)
    with refused("sliding_window=8 and a mask whose window is 3"):
        rule_with_seams(mask, module, None, 8)
    with refused("sliding_window=8 and a mask whose window is None"):
        rule_with_seams(closed(), module, None, 8)
    for function in ({"or_mask_function": lambda b, h, q, k: q > 2}, {"and_mask_function": lambda b, h, q, k: k != 1}):
        with refused(r"a part that is not known to keep inside documents \((or_masks|test_)"):
            rule_with_seams(closed(**function), module, None, None)


@pytest.mark.parametrize("create", [create_sliding_window_causal_mask, create_chunked_causal_mask])
def test_a_window_or_a_chunk_that_is_to_look_ahead_is_refused(create: Callable[..., Any]) -> None:
    """How far it reaches among later tokens nobody says: packed, and without seams."""
    mask, module = closed(create), torch.nn.Module()
    with refused("has a window or a chunk and is to see later tokens"):
        rule_with_seams(mask, module, False, None)
    with refused("is_causal=False came to .* what these mean for later tokens is not known; leave is_causal out"):
        mask.open(False)


@pytest.mark.parametrize("kind", ["bloom", "mpt", "gpt_neox_japanese", "xglm", "roformer", "deepseek_v32", "doge"])
def test_a_model_that_adds_its_mask_is_told_so_in_every_call(kind: str) -> None:
    """Their masks are bool under our names: added to scores, True would be 1 and hide nothing."""
    model, ids = miniature(kind).eval(), torch.full((2, 8), 11)
    padding = torch.ones_like(ids)
    padding[0, :3] = 0
    for call in (
        lambda: model(**packed()),
        lambda: model(input_ids=ids),
        lambda: model(input_ids=ids, attention_mask=padding),
        lambda: model.generate(ids, attention_mask=padding, max_new_tokens=3, pad_token_id=1),
    ):
        with refused("computes with its attention mask itself"):
            call()
