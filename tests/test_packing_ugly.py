"""Lengths that are no lengths, and sizes that fit into no memory: a sentence, before anything is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.registry import STRATEGIES
from varlen_lab.packing.strategies import pack_dataset, pack_lengths

NO_LENGTHS = [
    [10**30], [1, 10**30], [-(10**30)], [2**63], [2**62] * 4, [2**64 - 1, 1], [10**5000], ["1e9"], [1e300], [1.5],
    [float("nan")], [True], [b"a"], [np.timedelta64(1, "s")], np.array([2**63], np.uint64), np.array([10**30], object),
    np.array([2**64 - 1, 1], np.uint64), b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", {1: 2}, None, 5, [[1]],
]  # fmt: skip


def sentence(call: Any, *given: Any, **words: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*given, **words)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500, said
    return said


@pytest.mark.parametrize("number", range(len(NO_LENGTHS)))
def test_what_is_no_length_or_too_long_is_a_sentence(number: int) -> None:
    lengths = NO_LENGTHS[number]
    sentence(Boundaries.from_lengths, lengths)
    for strategy in STRATEGIES:
        for overlong in ("truncate", "split"):
            sentence(pack_lengths, lengths, 100, strategy, overlong)


def test_bytes_are_not_called_a_list_of_lengths() -> None:
    assert sentence(Boundaries.from_lengths, b"abc").startswith("the lengths are b'abc', they must be a list")


@pytest.mark.parametrize(
    "value", [0, -1, 2**31, 2**63, 10**30, 10**4000, True, 1.0, "5", b"5", None, [1], float("nan")]
)
def test_a_row_has_a_size_that_32_bits_hold(value: Any) -> None:
    for strategy in STRATEGIES:
        assert sentence(pack_lengths, [1, 2, 3], value, strategy).startswith("max_length is ")


def test_a_plan_too_large_for_memory_is_refused_before_it_is_made() -> None:
    for how in ({"overlong": "split"}, {"strategy": "concat"}):
        assert "raise max_length" in sentence(pack_lengths, [2**40], 100, **how)


def test_a_row_of_a_thousand_million_tokens_takes_the_memory_of_its_documents() -> None:
    """A count for every length up to the longest was 16 GB."""
    lengths = [2**31 - 1, 5, 2**30, 7]
    packs = pack_lengths(lengths, 2**31 - 1)
    assert [packs.seq_lengths(pack) for pack in range(len(packs))] == [[2**31 - 1], [2**30, 7, 5]]


@pytest.mark.parametrize(
    "words", [{"seed": -1}, {"seed": "a"}, {"seed": 1.5}, {"strategy": None}, {"strategy": ["a"]}, {"overlong": {}}]
)
def test_other_words_that_make_no_plan_are_a_sentence(words: dict[str, Any]) -> None:
    sentence(pack_lengths, [1, 2, 3], 8, **words)


@pytest.mark.parametrize("given", [None, "abc", [1], [{"input_ids": [1]}], ({"input_ids": [1]} for _ in range(1)), 5])
def test_what_is_no_dataset_and_no_batch_is_a_sentence(given: Any) -> None:
    assert "Dataset.from_list" in sentence(pack_dataset, given, 8)
    sentence(VarlenCollator(), given)
