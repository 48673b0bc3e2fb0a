"""The one carrier of seams: validated, frozen, and convertible both ways."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries


def test_a_hand_worked_row() -> None:
    row = Boundaries.from_lengths([2, 4, 3])
    assert row.cu_seqlens.tolist() == [0, 2, 6, 9] and row.cu_seqlens.dtype == torch.int32
    assert row.lengths.tolist() == [2, 4, 3]
    assert (row.total, row.max_seqlen, len(row.spans)) == (9, 4, 3)
    assert row.position_ids().tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2]
    assert row.document_ids().tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert row.spans == [(0, 2), (2, 6), (6, 9)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_all_views_agree(lengths: list[int]) -> None:
    row = Boundaries.from_lengths(lengths)
    assert row.lengths.tolist() == lengths == [end - start for start, end in row.spans]
    assert row.total == sum(lengths) and row.max_seqlen == max(lengths)
    assert torch.equal(Boundaries(row.cu_seqlens).document_ids(), row.document_ids())
    starts = [start for start, _ in row.spans]
    assert (row.position_ids() == 0).nonzero().flatten().tolist() == starts


def test_positions_of_one_token_documents_cannot_tell_seams() -> None:
    """Why seams are never inferred from positions: two documents and one are told apart only by cu_seqlens."""
    assert Boundaries.from_lengths([1, 1, 1]).position_ids().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("seams", "message"),
    [
        ([1, 3], "starts at 1"),
        ([0, 3, 3, 5], "3"),
        ([0, 5, 2], "5"),
        ([0], "at least"),
        ([], "at least"),
    ],
)
def test_bad_seams_are_refused(seams: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Boundaries(torch.tensor(seams, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_seams_are_int32(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match="int32"):
        Boundaries(torch.tensor([0, 2, 4], dtype=dtype))


@pytest.mark.parametrize("lengths", [[], [0], [3, -1], [2**31]])
def test_bad_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(InputError):
        Boundaries.from_lengths(lengths)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Boundaries.from_lengths([1]).cu_seqlens = torch.zeros(2)  # type: ignore[misc]
