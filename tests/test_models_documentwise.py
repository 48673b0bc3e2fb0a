"""Arguments of a layer are cut at the seams and its outputs laid end to end: by shape, or refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from expect import refused

from varlen_lab.attention.masks import DeferredMask, varlen_mask
from varlen_lab.models.documentwise import by_document
from varlen_lab.packing.boundaries import Boundaries

ROW = Boundaries.from_lengths([2, 1, 3])  # one row of 6, or two of 3
HIDDEN = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 4)


def given_to(*args: Any, rows: int = 1, **options: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a layer is called with, document by document."""
    calls = []

    def layer(hidden: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        calls.append(((hidden, *more), named))
        return hidden

    hidden = HIDDEN.reshape(rows, 6 // rows, 4)
    out = by_document(layer, "Layer", ROW, (hidden, *args), options)
    assert torch.equal(out, hidden)
    return calls


def test_what_has_a_place_for_each_token_is_cut() -> None:
    tables = torch.arange(12.0).view(1, 6, 2)
    calls = given_to(position_embeddings=(tables, tables + 1), position_ids=torch.tensor([[0, 1, 0, 0, 1, 2]]))
    assert [args[0][0, :, 0].tolist() for args, _ in calls] == [[0, 1], [2], [3, 4, 5]]
    assert torch.equal(calls[2][1]["position_embeddings"][1], tables[:, 3:] + 1)
    assert [named["position_ids"].tolist() for _, named in calls] == [[[0, 1]], [[0]], [[0, 1, 2]]]


def test_rows_are_laid_end_to_end_and_what_they_share_is_cut_for_each() -> None:
    shared = torch.arange(6.0).view(1, 3, 2)
    calls = given_to(rows=2, position_embeddings=shared, flat=torch.arange(6.0)[:, None])
    assert [args[0][0, :, 0].tolist() for args, _ in calls] == [[0, 1], [2], [3, 4, 5]]
    assert [named["position_embeddings"].shape[1] for _, named in calls] == [2, 1, 3]
    assert torch.equal(calls[1][1]["position_embeddings"], shared[:, 2:])
    assert [named["flat"][:, 0].tolist() for _, named in calls] == [[0, 1], [2], [3, 4, 5]]


def test_a_document_starts_at_0_and_knows_of_no_other() -> None:
    none = dict.fromkeys(("cu_seq_lens_q", "max_length_q", "seq_idx", "past_key_values", "cache_params"), 7)
    mask = torch.ones(1, 6, dtype=torch.long)
    calls = given_to(cache_position=torch.arange(6), attention_mask=mask, use_cache=True, scale=3, **none)
    assert [named["cache_position"].tolist() for _, named in calls] == [[0, 1], [0], [0, 1, 2]]
    assert all(set(named) == {"cache_position", "use_cache", "scale"} for _, named in calls)
    assert all(named["use_cache"] is False and named["scale"] == 3 for _, named in calls)


def test_an_argument_that_must_be_given_is_given_as_none() -> None:
    def layer(hidden: torch.Tensor, attention_mask: Any, cache: Any) -> torch.Tensor:
        assert attention_mask is None and cache is None
        return hidden

    by_document(layer, "Layer", ROW, (HIDDEN, torch.ones(1, 6)), {"cache": object()})


def test_a_mask_of_four_dimensions_is_cut_to_the_block_of_the_document() -> None:
    mask = torch.zeros(1, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    calls = given_to(attention_mask=mask)
    for (args, named), length in zip(calls, [2, 1, 3]):
        assert torch.equal(named["attention_mask"], mask[:, :, :length, :length]) and args[0].shape[1] == length


def closed(**options: Any) -> Any:
    from transformers.masking_utils import causal_mask_function

    made = {"batch_size": 1, "q_length": 6, "kv_length": 6, "q_offset": 0, "kv_offset": 0, "device": "cpu"}
    return varlen_mask(**made | {"mask_function": causal_mask_function, "dtype": torch.float32} | options)


def test_our_closed_mask_is_opened_for_the_document() -> None:
    mask = closed()
    assert isinstance(mask, DeferredMask)
    for (_, named), length in zip(given_to(attention_mask=mask), [2, 1, 3]):
        assert (named["attention_mask"][0, 0] < -1e30).tolist() == torch.ones(length, length).triu(1).bool().tolist()


def test_a_closed_mask_that_says_more_is_refused() -> None:
    with refused("Layer .* has a mask that is not known to keep inside documents .*its code has changed it"):
        given_to(attention_mask=closed() & torch.ones(1, 1, 6, 6, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(8, 1, 6), (4, 6, 3), (1, 2, 1, 6)])
def test_a_tensor_whose_tokens_cannot_be_told_is_refused(shape: tuple[int, ...]) -> None:
    with refused(r"Layer .* is given bias of shape \(.*\), of which it is not known where its tokens are"):
        given_to(bias=torch.zeros(shape))


class Pair(NamedTuple):
    hidden: torch.Tensor
    state: torch.Tensor | None


def test_outputs_keep_their_make() -> None:
    """States are those of the last document of a row; weights of attention are not kept."""

    def layer(hidden: torch.Tensor) -> Any:
        length = hidden.shape[1]
        last = hidden[:, -1:].sum(-1, keepdim=True).expand(1, 1, 5)
        return {"pair": Pair(hidden + 1, None), "list": [hidden, torch.zeros(1, 2, length, length), last, "word"]}

    for rows, ends in ((1, [20.0]), (2, [8.0, 20.0])):
        hidden = HIDDEN.reshape(rows, 6 // rows, 4)
        out = by_document(layer, "Layer", ROW, (hidden,), {})
        assert isinstance(out["pair"], Pair) and torch.equal(out["pair"].hidden, hidden + 1)
        assert torch.equal(out["list"][0], hidden) and out["list"][1] is None and out["list"][3] == "word"
        assert out["list"][2][:, 0, 0].tolist() == ends


def test_a_number_of_each_call_is_refused() -> None:
    with refused("Layer .* returns a number of each call, which cannot be put together"):
        by_document(lambda hidden: (hidden, hidden.sum()), "Layer", ROW, (HIDDEN,), {})
