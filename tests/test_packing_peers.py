"""Rows of others equal ours where both promise the same: TRL's ``bfd``, and the packer of XTuner, which cuts."""

from __future__ import annotations

from itertools import accumulate, chain

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.strategies import pack_dataset

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def documents(lengths: list[int]) -> list[list[int]]:
    """Documents whose every token is unique, so that it can be followed."""
    ends = list(accumulate(lengths))
    return [list(range(end - length, end)) for end, length in zip(ends, lengths)]


def pieces(rows: list[dict]) -> list[tuple[int, ...]]:
    """Every document, or piece of one, that lies in some row."""
    return sorted(
        tuple(row["input_ids"][end - length : end])
        for row in rows
        for end, length in zip(accumulate(row["seq_lengths"]), row["seq_lengths"])
    )


@given(LENGTHS, st.integers(5, 50), st.sampled_from(["truncate", "split"]))
@settings(max_examples=20)
def test_best_fit_is_trls_bfd(lengths: list[int], max_length: int, overlong: str) -> None:
    """The same pieces in rows equally full. Which of two rows with equal room is taken is promised by neither."""
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    data = Dataset.from_dict({"input_ids": documents(lengths)})
    theirs = trl.pack_dataset(data, max_length, strategy="bfd" if overlong == "truncate" else "bfd_split").to_list()
    ours = pack_dataset(data, max_length, "best_fit", overlong).to_list()
    assert pieces(ours) == pieces(theirs)
    assert sorted(len(row["input_ids"]) for row in ours) == sorted(len(row["input_ids"]) for row in theirs)


@given(st.sets(st.integers(1, 200), min_size=1, max_size=25), st.integers(200, 400))
@settings(max_examples=40)
def test_where_no_two_rows_have_equal_room_they_are_trls_row_for_row(lengths: set[int], max_length: int) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    data = Dataset.from_dict({"input_ids": documents(sorted(lengths))})
    room: list[int] = []
    for length in sorted(lengths, reverse=True):  # best fit, in three lines
        fitting = [left for left in room if left >= length]
        room = sorted([*room, max_length - length]) if not fitting else room
        if fitting:
            room[room.index(min(fitting))] -= length
        if len(set(room)) < len(room):
            return
    theirs = {tuple(sorted(row["input_ids"])) for row in trl.pack_dataset(data, max_length, strategy="bfd")}
    assert {tuple(sorted(row["input_ids"])) for row in pack_dataset(data, max_length)} == theirs


def packer(lengths: list[int], max_length: int) -> list[tuple[list[int], list[int], list[int]]]:
    """What XTuner's packer makes of a dataset in one process: (tokens, cumulative lengths, positions) of each full row.

    All documents end to end, cut after every ``max_length`` tokens; a cut is a seam; what is left at the end goes.
    """
    tokens = list(chain.from_iterable(documents(lengths)))
    seams = {0, *accumulate(lengths)}
    rows = []
    for start in range(0, len(tokens) - max_length + 1, max_length):
        inside = sorted(seam - start for seam in seams if start < seam < start + max_length)
        cumulative = [0, *inside, max_length]
        positions = [at for size in np.diff(cumulative) for at in range(size)]
        rows.append((tokens[start : start + max_length], cumulative, positions))
    return rows


def test_the_hand_worked_rows_of_xtuners_packer() -> None:
    rows = packer([4, 4, 7, 3, 3], 10)
    assert [row[1] for row in rows] == [[0, 4, 8, 10], [0, 5, 8, 10]]
    assert rows[1][2] == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]


@given(LENGTHS, st.integers(5, 50))
@settings(max_examples=40)
def test_concat_is_xtuners_packer_and_keeps_the_tail(lengths: list[int], max_length: int) -> None:
    rows = pack_dataset(Dataset.from_dict({"input_ids": documents(lengths)}), max_length, "concat").to_list()
    full, tail = rows[: sum(lengths) // max_length], rows[sum(lengths) // max_length :]
    expected = packer(lengths, max_length)
    assert len(full) == len(expected) and sum(len(row["input_ids"]) for row in tail) == sum(lengths) % max_length
    for row, (tokens, cumulative, positions) in zip(full, expected):
        batch = VarlenCollator()([row])
        assert batch["input_ids"].tolist() == [tokens] and batch["position_ids"].tolist() == [positions]
        assert batch["cu_seq_lens_q"].tolist() == cumulative
        # XTuner trains on every label; the first after a seam is the end of another document's sentence
        trained = torch.tensor(tokens)
        trained[cumulative[:-1]] = -100
        assert batch["labels"].tolist() == [trained.tolist()]
