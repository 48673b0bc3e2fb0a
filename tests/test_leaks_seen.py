"""What a live model's own attention says it looked at: the weights are its weights, and a leak cannot hide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from packed import packed_row

from varlen_lab.errors import InputError
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.models.building import families, tiny

LENGTHS = [5, 1, 8, 3]


def packed(lengths: list[int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 100, (sum(lengths),), generator=generator).tolist()
    return packed_row(lengths, ids)


def leaky(batch: dict[str, Any]) -> dict[str, Any]:
    """The same row with an all-ones mask, as most trainers pass it: stock attention then ignores the seams."""
    return {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}


def block_diagonal(lengths: list[int]) -> np.ndarray:
    document = np.repeat(np.arange(len(lengths)), lengths)
    return (document[:, None] == document) & np.tri(len(document), dtype=bool)


@pytest.mark.parametrize("family", families())
def test_ours_sees_exactly_the_promised_mask(family: str) -> None:
    seen = attention_seen(tiny(family), packed(LENGTHS))
    assert seen.cells is not None and len(seen.layers) == len(seen.mass) == len(seen.cells)
    promised = block_diagonal(LENGTHS)
    assert ((seen.cells != 0) <= promised).all()
    if family != "gemma":  # its sliding layers see less
        assert ((seen.cells != 0) == promised).all()
    assert (seen.crossing == 0).all()
    np.testing.assert_allclose(seen.cells.sum(-1), 1, atol=1e-5)


def test_an_all_ones_mask_leaks_and_is_seen_to() -> None:
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    seen = attention_seen(model, leaky(packed(LENGTHS)), boundaries=LENGTHS)
    assert seen.cells is not None
    assert ((seen.cells != 0) == np.tri(sum(LENGTHS), dtype=bool)).all()
    assert (seen.mass[:, 1, 0] > 0.5).all()  # the one token of document 2 looks mostly at the five before it
    assert (seen.crossing > 0.2).all()


def test_the_weights_are_those_the_model_reports_itself() -> None:
    """Eager attention hands its weights out: asked through its values it must say the same."""
    model = tiny("llama")
    model.set_attn_implementation("eager")
    batch = leaky(packed(LENGTHS))
    with torch.no_grad():
        told = model.eval()(**batch, output_attentions=True).attentions
    seen = attention_seen(model, batch, boundaries=LENGTHS)
    assert seen.cells is not None and len(told) == len(seen.cells)
    for layer, cells in zip(told, seen.cells):
        np.testing.assert_allclose(cells, layer[0].double().mean(0).numpy(), atol=1e-6)


def test_mass_is_the_sum_of_the_cells() -> None:
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    seen = attention_seen(model, leaky(packed(LENGTHS)), boundaries=LENGTHS)
    document = np.repeat(np.eye(len(LENGTHS)), LENGTHS, axis=0)  # (T, documents)
    by_hand = document.T @ seen.cells @ document / np.array(LENGTHS)[:, None]
    np.testing.assert_allclose(seen.mass, by_hand, atol=1e-6)
    cells = np.where(document @ document.T == 0, seen.cells, 0)
    np.testing.assert_allclose(seen.crossing, cells.sum((1, 2)) / sum(LENGTHS), atol=1e-6)


def test_beyond_64_tokens_only_documents_are_asked_for() -> None:
    lengths = [40, 3, 60, *[2] * 40]  # more documents than a head is wide
    seen = attention_seen(tiny("llama"), packed(lengths))
    assert seen.cells is None and seen.mass.shape[1:] == (43, 43)
    np.testing.assert_allclose(seen.mass, np.broadcast_to(np.eye(43), seen.mass.shape), atol=1e-6)


def test_padded_rows_are_documents_of_their_own_rows() -> None:
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    seen = attention_seen(model, {"input_ids": torch.randint(5, 99, (3, 4))}, boundaries=[4, 4, 2, 2])
    assert seen.mass[0, 3, 2] > 0 and (seen.mass[0, 2:, :2] == 0).all() and (seen.mass[0, 1, 0] == 0).all()


def test_the_model_is_left_as_it_was_found() -> None:
    model = tiny("llama").train()
    batch = packed(LENGTHS)
    before = model(**batch).logits
    parameters = [parameter.clone() for parameter in model.parameters()]
    attention_seen(model, batch)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(parameters, model.parameters()))
    assert torch.equal(model(**batch).logits, before)


def test_one_wrong_seam_is_one_wrong_cell_block() -> None:
    """Planted fault: the batch says document 2 belongs to document 1."""
    batch = packed([5, 1, 8, 3])
    merged = packed([6, 8, 3])
    seen = attention_seen(tiny("llama"), merged, boundaries=[5, 1, 8, 3])
    assert np.argwhere((seen.mass[0] != 0) & ~np.eye(4, dtype=bool)).tolist() == [[1, 0]]
    assert attention_seen(tiny("llama"), batch).crossing.max() == 0


class Mute(torch.nn.Module):
    """A model without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.device = type("Config", (), {})(), torch.device("cpu")

    def forward(self, **_: Any) -> None:
        return None


def test_a_model_that_returns_no_attention_is_told_so() -> None:
    with pytest.raises(InputError, match="Mute made no attention call"):
        attention_seen(Mute(), packed(LENGTHS))
    with pytest.raises(InputError, match="neither cu_seq_lens_q nor position_ids"):
        attention_seen(tiny("llama"), {"input_ids": torch.ones(1, 4, dtype=torch.long)})
