"""The one carrier of seams: validated, frozen, and convertible both ways."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch
from expect import refused
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import SEAMS, Boundaries, Seams


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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tensors that were read."""
    found: list[torch.Tensor] = []
    real = SEAMS.read

    def noting(cu_seqlens: torch.Tensor) -> Seams:
        found.append(cu_seqlens.clone())
        return real(cu_seqlens)

    monkeypatch.setattr(SEAMS, "read", noting)
    return found


def test_a_tensor_is_read_once_and_again_when_it_was_changed(reads: list[torch.Tensor]) -> None:
    seams = torch.tensor([0, 2, 6, 9], dtype=torch.int32)
    for _ in range(3):
        row = Boundaries(seams, 4)
        assert (row.total, row.max_seqlen, row.spans[1]) == (9, 4, (2, 6))
    assert len(reads) == 1
    seams[2] = 7
    assert row.spans[1] == (2, 7) and Boundaries(seams).max_seqlen == 5 and len(reads) == 2
    seams[2] = 1
    for _ in range(2):  # what is wrong is not remembered as right
        with refused("cu_seqlens goes from 2 to 1, it must strictly increase"):
            Boundaries(seams)
    Boundaries(torch.tensor([0, 2, 6, 9], dtype=torch.int32))  # another tensor with the same numbers
    assert len(reads) == 5


def test_what_is_remembered_keeps_no_batch_alive() -> None:
    row = Boundaries.from_lengths([2, 4, 3])
    alive, before = weakref.ref(row.cu_seqlens), len(SEAMS.known)
    assert row.total == 9
    gc.disable()  # not even in a cycle
    try:
        del row
        assert alive() is None and len(SEAMS.known) < before + 1
    finally:
        gc.enable()


def test_a_tensor_that_counts_no_changes_is_read_for_each_boundaries(reads: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        seams = torch.tensor([0, 2, 6], dtype=torch.int32)
        row = Boundaries(seams)
        assert (row.total, row.max_seqlen, len(row.spans)) == (6, 4, 2) and len(reads) == 1
        seams[1] = 3
        assert Boundaries(seams).max_seqlen == 3 and len(reads) == 2


def test_another_device_is_not_asked_for_what_is_known() -> None:
    """Nothing can be read from the meta device, as nothing should be from a GPU."""
    for row in (Boundaries.from_lengths([2, 4, 3]), Boundaries.from_lengths([2, 4, 3]).to("cpu")):
        moved = row.to("meta", non_blocking=True)
        assert moved.cu_seqlens.device.type == "meta"
        assert (moved.total, moved.max_seqlen, moved.spans) == (9, 4, row.spans)
        assert Boundaries(moved.cu_seqlens).total == 9
    with pytest.raises(Exception, match="meta"):  # the planted fault: one that nobody vouches for
        Boundaries(torch.empty(3, dtype=torch.int32, device="meta"))


def test_a_longest_length_that_is_too_short_is_refused() -> None:
    seams = torch.tensor([0, 2, 6, 9], dtype=torch.int32)
    assert Boundaries(seams, 4).max_seqlen == Boundaries(seams, 4096).max_seqlen == 4
    with refused("max_length_q is 3 and cu_seq_lens_q holds a document of 4 tokens; give the length of the longest"):
        Boundaries(seams, 3)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Boundaries.from_lengths([1]).cu_seqlens = torch.zeros(2)  # type: ignore[misc]
