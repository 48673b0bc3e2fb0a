"""The training benchmark's own checks: all contenders get the same documents, and padding is what differs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.train import OURS, batches_of, by_length, documents_of, overhead, the_config

CONFIG = the_config(2048)


@pytest.fixture(scope="module")
def rows() -> list:
    return documents_of(CONFIG, 8192)


@pytest.mark.parametrize("name", OURS)
def test_the_same_documents_for_all(name: str, rows: list) -> None:
    batches = [batch for step in batches_of(name, rows, 2048) for batch in step]
    real = sum(len(one) for row in rows for one in row)
    documents = sum(map(len, rows))
    assert sum(batch.tokens for batch in batches) == real
    trained = Counter(int(t) for batch in batches for t in batch.labels.flatten() if t != -100)
    assert sum(trained.values()) == real - documents
    assert trained == Counter(int(t) for row in rows for one in row for t in one[1:])


def test_grouping_pads_less(rows: list) -> None:
    slots = {name: sum(b.labels.numel() for s in batches_of(name, rows, 2048) for b in s) for name in OURS}
    assert slots["varlen"] < slots["grouped"] < slots["padded"]


def test_overhead_is_a_share(rows: list) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert 0 <= overhead(rows[:1], CONFIG) < 0.5
    finally:
        torch.set_num_threads(threads)


def test_groups_hold_what_a_batch_may() -> None:
    lengths = np.array([9, 1, 5, 5, 4, 20])
    groups = [lengths[group].tolist() for group in by_length(lengths, max_length=12)]
    assert sorted(groups) == [[4, 1], [5, 5], [9], [20]]
