"""Streams: the same laws as for plans, and a stream that stops anywhere goes on exactly there."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from varlen_lab.errors import InputError
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.readers import PackedStream
from varlen_lab.packing.sequential import SequentialPacker
from varlen_lab.packing.strategies import pack_dataset, pack_lengths

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60)


def documents(lengths: list[int]) -> list[dict[str, list[int]]]:
    """Documents whose every token is unique, so that it can be followed."""
    ends = np.cumsum(lengths)
    return [{"input_ids": list(range(end - length, end))} for end, length in zip(ends.tolist(), lengths)]


def plain(row: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in row.items()}


@given(LENGTHS, st.integers(20, 50), st.integers(1, 12))
def test_a_stream_packs_as_the_plan_says(lengths: list[int], max_length: int, lookahead: int) -> None:
    rows = [row["seq_lengths"].tolist() for row in PackedStream(documents(lengths), max_length, lookahead=lookahead)]
    plan = pack_lengths(lengths, max_length, "sequential", lookahead=lookahead)
    assert rows == [plan.seq_lengths(pack) for pack in range(len(plan))]


@given(LENGTHS, st.integers(20, 50), st.integers(1, 12))
def test_documents_once_and_whole_and_nobody_waits_long(lengths: list[int], max_length: int, lookahead: int) -> None:
    packer = SequentialPacker(max_length, lookahead)
    seen: list[int] = []
    for number, length in enumerate(lengths):
        for row in packer.feed(length):
            assert sum(lengths[each] for each in row) <= max_length
            seen += row
        assert number + 1 - len(seen) <= lookahead + max_length  # the waiting, and the row begun
    assert sorted(seen + [each for row in packer.finish() for each in row]) == list(range(len(lengths)))


@given(
    LENGTHS, st.integers(1, 30), st.integers(1, 8), st.integers(0, 30), st.sampled_from(["truncate", "split", "drop"])
)
def test_resumed_anywhere_equals_no_interruption(
    lengths: list[int], max_length: int, lookahead: int, stop: int, overlong: str
) -> None:
    whole = [plain(row) for row in PackedStream(documents(lengths), max_length, overlong, lookahead)]
    first = PackedStream(documents(lengths), max_length, overlong, lookahead)
    begun = [plain(row) for row in islice(iter(first), stop)]
    state = json.loads(json.dumps(first.state_dict()))  # plain numbers and lists: what a checkpoint can hold
    second = PackedStream(documents(lengths), max_length, overlong, lookahead)
    if begun:
        second.load_state_dict(state)
    assert begun + [plain(row) for row in second] == whole
    assert [plain(row) for row in second] == whole  # and the next epoch begins at the beginning


@given(LENGTHS, st.integers(1, 30), st.sampled_from(["truncate", "split", "drop"]))
def test_every_token_arrives_or_is_counted(lengths: list[int], max_length: int, overlong: str) -> None:
    stream = PackedStream(documents(lengths), max_length, overlong)
    tokens = [token for row in stream for token in row["input_ids"].tolist()]
    assert len(set(tokens)) == len(tokens) == sum(lengths) - stream.dropped_tokens
    expected = pack_lengths(lengths, max_length, overlong=overlong).report() if tokens else None
    if expected:
        assert stream.dropped_tokens == expected.truncated_tokens + expected.dropped_tokens


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_through_a_loader(workers: int) -> None:
    lengths = [3, 9, 4, 4, 7, 1, 1, 8, 2, 5] * 4
    source = Dataset.from_list(documents(lengths)).to_iterable_dataset(num_shards=4)
    loader: Any = DataLoader(pack_dataset(source, 10), batch_size=2, num_workers=workers, collate_fn=VarlenCollator())
    tokens = [token for batch in loader for token in batch["input_ids"][0].tolist()]
    assert sorted(tokens) == list(range(sum(lengths)))


def test_an_iterable_dataset_resumes_from_its_own_place() -> None:
    lengths = [3, 9, 4, 4, 7, 1, 1, 8, 2, 5] * 3
    source = Dataset.from_list(documents(lengths)).to_iterable_dataset(num_shards=3)
    whole = [plain(row) for row in pack_dataset(source, 10, lookahead=4)]
    first = pack_dataset(source, 10, lookahead=4)
    begun = [plain(row) for row in islice(iter(first), 5)]
    second = pack_dataset(Dataset.from_list(documents(lengths)).to_iterable_dataset(num_shards=3), 10, lookahead=4)
    second.load_state_dict(first.state_dict())
    assert begun + [plain(row) for row in second] == whole


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no documents"):
        list(PackedStream([], 10))
    with pytest.raises(InputError, match="has text, packing needs input_ids"):
        list(PackedStream([{"text": "a"}], 10))
    with pytest.raises(InputError, match="0 input_ids"):
        list(PackedStream([{"input_ids": []}], 10))
    with pytest.raises(InputError, match="raise max_length"):
        list(PackedStream([{"input_ids": [1] * 11}], 10, "error"))
    with pytest.raises(InputError, match="did you mean 'split'"):
        PackedStream([], 10, "splt")
    with pytest.raises(InputError, match="lookahead is 0"):
        SequentialPacker(10, 0)
    with pytest.raises(InputError, match="needs all lengths at once"):
        pack_dataset(Dataset.from_list(documents([3])).to_iterable_dataset(), 10, "best_fit")
    packer = SequentialPacker(10, 4)
    with pytest.raises(InputError, match="the saved state has max_length 20"):
        packer.load_state_dict(SequentialPacker(20, 4).state_dict())
