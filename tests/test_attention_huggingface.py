"""Our attention inside transformers models: exact with seams, ordinary without, and never silently wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, StaticCache

from varlen_lab.attention import guard
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.recomputing import recompute
from varlen_lab.packing.boundaries import SEAMS
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = [5, 1, 17, 9]
ROW = {"input_ids": list(range(10, 42)), "labels": list(range(10, 42)), "seq_lengths": LENGTHS}
ALL = [(family, variant) for family in families() for variant in variants(family)]


def batch(rows: list[dict] | None = None) -> dict:
    made = VarlenCollator()(rows or [ROW])
    del made["labels"]
    return made


def alone(model: torch.nn.Module) -> torch.Tensor:
    """Logits of every document run by itself, end to end."""
    ids = torch.tensor(ROW["input_ids"]).split(LENGTHS)
    with torch.no_grad():
        return torch.cat([model(document[None], use_cache=False).logits[0] for document in ids])


def other(model: torch.nn.Module, attention: str) -> torch.nn.Module:
    """The same weights under another attention."""
    again = AutoModelForCausalLM.from_config(model.config, attn_implementation=attention, dtype=model.dtype)
    again.load_state_dict(model.state_dict())
    return again.eval()


@pytest.mark.parametrize(("family", "variant"), ALL, ids=[variant for _, variant in ALL])
def test_a_packed_row_equals_its_documents_alone(family: str, variant: str) -> None:
    model = tiny(family, variant).eval()
    with torch.no_grad():
        packed = model(**batch()).logits[0]
    torch.testing.assert_close(packed, alone(model), rtol=0, atol=5e-6)


@pytest.mark.parametrize("extra", [{}, {"use_cache": True}, {"attention_mask": torch.ones(1, 32, dtype=torch.long)}])
@pytest.mark.parametrize("training", [False, True])
def test_the_known_traps_do_not_spring(extra: dict, training: bool) -> None:
    """use_cache not passed, an all-ones mask, train(): each of these leaks under transformers' own attention."""
    model = tiny("llama").train(training)
    with torch.no_grad():
        packed = model(**batch(), **extra).logits[0]
    torch.testing.assert_close(packed, alone(model), rtol=0, atol=5e-6)


def test_the_trap_is_real() -> None:
    """The planted fault: transformers' sdpa with restarting positions and an all-ones mask leaks in silence."""
    model = other(tiny("llama"), "sdpa")
    given = {"input_ids": batch()["input_ids"], "position_ids": batch()["position_ids"]}
    with torch.no_grad():
        leaky = model(**given, attention_mask=torch.ones(1, 32, dtype=torch.long), use_cache=False).logits[0]
    assert (leaky - alone(model)).abs().max() > 1e-3


def test_gradients_of_a_packed_row_are_those_of_its_documents() -> None:
    packed, single = tiny("llama").double(), tiny("llama").double()
    packed(**batch()).logits.square().sum().backward()
    for document in torch.tensor(ROW["input_ids"]).split(LENGTHS):
        single(document[None]).logits.square().sum().backward()
    for one, two in zip(packed.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-8)


def test_several_rows_flatten_into_one() -> None:
    model = tiny("llama").eval()
    rows = [
        {"input_ids": ROW["input_ids"][:6], "labels": ROW["labels"][:6], "seq_lengths": [5, 1]},
        {"input_ids": ROW["input_ids"][6:], "labels": ROW["labels"][6:], "seq_lengths": [17, 9]},
    ]
    with torch.no_grad():
        assert torch.equal(model(**batch(rows)).logits, model(**batch()).logits)


def test_missing_seams_are_not_guessed() -> None:
    model = tiny("llama")
    given = {"input_ids": batch()["input_ids"], "position_ids": batch()["position_ids"]}
    with pytest.raises(InputError, match="VarlenCollator"):
        model(**given)


def cache_name(forward: Callable[..., Any]) -> str:
    """transformers 5.24 renamed the argument; the older name is deprecated there."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def test_seams_with_a_cache_are_refused() -> None:
    model = tiny("llama").eval()
    past = {cache_name(model.forward): model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values}
    seams = torch.tensor([0, 2], dtype=torch.int32)
    with pytest.raises(InputError, match="generate"):
        model(torch.tensor([[4, 5]]), **past, cu_seq_lens_q=seams, cu_seq_lens_k=seams)


def test_attention_dropout_is_refused_in_training() -> None:
    model = tiny("llama", attention_dropout=0.1)
    with pytest.raises(InputError, match="attention_dropout=0"):
        model.train()(**batch())


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("what", [None, "all", "cheap"])
def test_seams_are_checked_once_a_batch(layers: int, what: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layers, and although they are computed again; on a GPU each check would wait for it."""
    reads: list[int] = []
    real = SEAMS.read
    monkeypatch.setattr(SEAMS, "read", lambda cu_seqlens: reads.append(len(cu_seqlens)) or real(cu_seqlens))
    model = tiny("llama", num_hidden_layers=layers).train()
    if what:
        recompute(model, what)
    for _ in range(2):
        model(**batch(), use_cache=False).logits.sum().backward()
    assert reads == [5, 5]
    again = batch()
    for _ in range(2):  # a batch that is used again and again, changed on the way
        model(**again)
        again["cu_seq_lens_q"][1] = 4
    assert reads == [5] * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cu_seq_lens_q": [0, 5, 6, 23, 31]}, "the boundaries end at 31 and q has 32 tokens"),
        ({"cu_seq_lens_q": [0, 5, 6, 23, 33]}, "the boundaries end at 33 and q has 32 tokens"),
        ({"cu_seq_lens_q": [0, 6, 5, 23, 32]}, "goes from 6 to 5, it must strictly increase"),
        ({"cu_seq_lens_q": [0.0, 32.0]}, "cu_seqlens is torch.float32, it must be an int32 tensor"),
        ({"max_length_q": 16}, "max_length_q is 16 and cu_seq_lens_q holds a document of 17 tokens"),
    ],
)
def test_seams_that_do_not_fit_the_batch_are_refused(change: dict, words: str) -> None:
    given = batch() | change
    if "cu_seq_lens_q" in change:
        seams = torch.tensor(change["cu_seq_lens_q"])
        given["cu_seq_lens_q"] = given["cu_seq_lens_k"] = seams if seams.is_floating_point() else seams.int()
    with pytest.raises(InputError, match=words):
        tiny("llama")(**given)


def test_positions_without_seams_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = guard.first_restart
    monkeypatch.setattr(guard, "first_restart", lambda *given: looks.append(1) or real(*given))
    model = tiny("llama", num_hidden_layers=4)
    positions = torch.arange(6)[None]
    model(torch.ones(1, 6, dtype=torch.long), position_ids=positions)
    assert len(looks) == 1
    positions[0, 3:] -= 3
    with pytest.raises(InputError, match="go back to 0 at token 3 of row 0"):
        model(torch.ones(1, 6, dtype=torch.long), position_ids=positions)


@pytest.mark.parametrize(("family", "variant"), ALL, ids=[variant for _, variant in ALL])
def test_attention_is_called_with_the_widths_that_a_kernel_was_chosen_for(
    family: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the config names no head_dim, and where hidden_size / heads is not it."""
    widths = set()
    monkeypatch.setattr(
        "varlen_lab.attention.huggingface.attend",
        lambda q, k, v, row, **asked: widths.add((q.shape[-1], v.shape[-1])) or attend(q, k, v, row, **asked),
    )
    model = tiny(family, variant).eval()
    shape = AttentionShape.of(model)
    model(**batch())
    assert widths and (shape.head_dim, shape.value_dim) == tuple(map(max, zip(*widths, strict=True)))


# ------------------------------------------------------------------------ without seams: an ordinary attention


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_eager(side: str) -> None:
    model = tiny("llama").eval()
    eager = other(model, "eager")
    ids = torch.randint(3, 2000, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row, short in enumerate((4, 0, 7)):
        mask[row, slice(0, short) if side == "left" else slice(11 - short, 11)] = 0
    with torch.no_grad():
        mine, theirs = (m(ids, attention_mask=mask).logits[mask.bool()] for m in (model, eager))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("static", [False, True])
def test_generation_equals_eager(static: bool) -> None:
    model = tiny("llama").eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    said = []
    for each in (model, other(model, "eager")):
        cache = StaticCache(config=each.config, max_cache_len=16) if static else None
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        options |= {cache_name(each.forward): cache}
        said.append(each.generate(ids, attention_mask=mask, **options))
    assert torch.equal(*said)


def test_one_name_for_every_backend() -> None:
    assert {"varlen", "varlen_reference", "varlen_sdpa", "varlen_fa2", "varlen_torch"} <= set(register())
    model = tiny("llama").eval()
    reference = other(model, "varlen_reference")
    with torch.no_grad():
        torch.testing.assert_close(reference(**batch()).logits, model(**batch()).logits, rtol=0, atol=5e-6)
    with pytest.raises(InputError, match="runs on cuda, not on cpu"):
        other(model, "varlen_torch")(**batch())
