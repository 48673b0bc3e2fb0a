"""Which process takes which rows of a step: none is dropped, all have as many batches, and about as much work."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.training.plan import plan_steps, share
from varlen_lab.training.step import Batch, collator


@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 3),
    each=st.integers(1, 3),
    processes=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_shares_drop_nothing_and_keep_step(rows: int, batch: int, each: int, processes: int, seed: int) -> None:
    from varlen_lab.config.names import named_config

    config = named_config("tiny_llama_full_docstrings_e1").replace(
        batch_size=batch, accumulative_counts=each, seed=seed
    )
    plan = plan_steps(rows, config, processes)
    costs = np.random.default_rng(seed).integers(1, 1000, rows).astype(float)
    shares = [share(plan, costs, processes, rank, batch) for rank in range(processes)]
    for number, step in enumerate(plan):
        mine = [one[number] for one in shares]
        assert Counter(row for part in mine for b in part for row in b) == Counter(row for b in step for row in b)
        assert len({len(part) for part in mine}) == 1  # everyone meets everyone as often
        assert all(len(b) <= batch for part in mine for b in part)


def test_shares_are_balanced_by_squared_lengths() -> None:
    """Eight rows of cost 8, 7, ..., 1 for two processes: 18 each, worked by hand: 8+5+4+1 and 7+6+3+2."""
    costs = np.arange(8, 0, -1).astype(float)
    step = [[row] for row in range(8)]
    parts = [share([step], costs, 2, rank, 1)[0] for rank in range(2)]
    assert [sum(costs[row] for batch in part for row in batch) for part in parts] == [18, 18]
    assert parts[0] == [[0], [3], [4], [7]]


@pytest.mark.parametrize("mode", ["unpacked", "packed", "varlen"])
def test_an_empty_batch_trains_on_nothing(mode: str) -> None:
    for weighting in ("token", "sample"):
        batch = Batch.of([], collator(mode, 0), weighting)
        assert batch.tokens == 0 and (batch.labels == -100).all()
        assert batch.weights is None or not batch.weights.any()
