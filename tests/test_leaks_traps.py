"""What a look at a batch tells: labels against loss masks, positions of several planes, seams against positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packed import packed_row

from varlen_lab.errors import InputError
from varlen_lab.leaks.before import few_documents
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.planting import LENGTHS, specimen
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.leaks.traps import documents_of, wrong_labels
from varlen_lab.models.building import tiny
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import LOSS_MASKS


@pytest.mark.parametrize("mask", LOSS_MASKS)
def test_a_label_of_a_token_that_a_mask_leaves_out_is_named(mask: str) -> None:
    batch = packed_row([3, 1, 4])
    batch[mask] = torch.tensor([[0, 1, 1, 0, 0, 0, 1, 1]])  # by hand: token 5 is trained, first tokens never are
    (finding,) = audit(tiny("llama"), batch).findings
    assert finding.kind == "prompts trained" and "token 5" in finding.what and mask in finding.fix
    batch["labels"][0, 5] = -100
    assert audit(tiny("llama"), batch).ok


def test_two_masks_leave_out_what_either_does() -> None:
    batch = packed_row([4, 4])
    batch["completion_mask"] = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 1]])
    batch["assistant_masks"] = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]])
    (finding,) = wrong_labels(batch, Boundaries.from_lengths([4, 4]))
    assert finding.what.startswith("3 of 6")


def test_a_mask_of_another_shape_is_refused() -> None:
    batch = packed_row([3, 5])
    with pytest.raises(InputError, match=r"completion_mask has the shape \(1, 7\) and input_ids \(1, 8\)"):
        audit(tiny("llama"), batch | {"completion_mask": torch.ones(1, 7)})
    with pytest.raises(InputError, match="completion_mask of the batch is a list"):
        audit(tiny("llama"), batch | {"completion_mask": [1] * 8})


def test_four_planes_are_read_and_three_are_not() -> None:
    model, batch = specimen(FAULTS["3-D positions"])
    plain = batch["position_ids"][None]
    assert audit(model, batch | {"position_ids": plain.expand(4, -1, -1).contiguous()}).ok
    (finding,) = audit(model, batch | {"position_ids": plain.expand(3, -1, -1).contiguous()}).findings
    assert finding.kind == "3-D positions" and "3 planes" in finding.what


def test_planes_that_run_on_are_harmless_where_attention_knows_the_seams() -> None:
    fault = FAULTS["3-D positions"]
    model, batch = specimen(fault)
    model.set_attn_implementation("varlen")
    seams = Boundaries.from_lengths(LENGTHS).cu_seqlens
    ran = torch.arange(sum(LENGTHS)).expand(3, 1, -1)
    for far in (0, 3000):  # further on, angles round more
        given: dict[str, Any] = {"position_ids": ran + far, "cu_seq_lens_q": seams, "cu_seq_lens_k": seams}
        report = audit(model, without_cache(batch) | given)
        assert report.ok, str(report)


def without_cache(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "use_cache"}


@pytest.mark.parametrize(
    ("seams", "positions", "lengths"),
    [
        ([0, 3, 8], [0, 1, 2, 0, 1, 2, 3, 4], [3, 5]),  # they agree
        ([0, 8], [0, 1, 2, 0, 1, 2, 3, 4], [3, 5]),  # seams were lost
        ([0, 3, 8], [0, 1, 2, 3, 4, 5, 6, 7], [3, 5]),  # positions run on
        ([0, 3, 8], [2, 3, 4, 2, 3, 4, 5, 6], [3, 5]),  # positions that start behind padding's
        ([0, 3, 8], [0, 1, 2, 0, 1, 0, 0, 0], [3, 5]),  # a tail of zeros is padding
        ([0, 3, 5, 8], [0, 1, 2, 0, 1, 0, 0, 0], [3, 2, 3]),
    ],
)
def test_documents_by_seams_and_by_positions(seams: list[int], positions: list[int], lengths: list[int]) -> None:
    batch = packed_row([8]) | {"cu_seq_lens_q": torch.tensor(seams), "position_ids": torch.tensor([positions])}
    assert documents_of(batch, None)[0].lengths.tolist() == lengths


def test_one_row_of_positions_for_all_rows() -> None:
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.long), "position_ids": torch.tensor([[0, 1, 0, 1, 2]])}
    assert documents_of(batch, None)[0].lengths.tolist() == [2, 3, 2, 3]


def test_positions_that_run_on_do_so_in_the_few_documents_too() -> None:
    """Nothing may tell transformers' attention of a document where the batch does not."""
    batch = packed_row([12, 17, 20, 23]) | {"position_ids": torch.arange(72)[None]}
    few, documents = few_documents(batch, [12, 17, 20, 23])
    assert documents.lengths.tolist() == [12, 3, 9]
    assert few["position_ids"].diff().eq(1).all()
    restarting, _ = few_documents(packed_row([12, 17, 20, 23]))
    assert torch.equal(restarting["position_ids"].flatten(), documents.position_ids())
