"""Which process takes which rows of a step: none is dropped, all have as many batches, and about as much work."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.plan import plan_fingerprint, plan_steps, same_plan, share
from varlen_lab.training.step import Batch, collator
from varlen_lab.training.trainer import train


@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 3),
    each=st.integers(1, 3),
    processes=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_shares_drop_nothing_and_keep_step(rows: int, batch: int, each: int, processes: int, seed: int) -> None:
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


TEMPLATE = named_config("tiny_llama_full_docstrings_e1").replace(batch_size=2, accumulative_counts=3, seed=5)


@pytest.mark.parametrize("endless", [{"max_steps": 10**12}, {"max_steps": None, "max_epochs": 10**9}])
def test_a_plan_without_an_end_is_made_step_by_step(endless: dict[str, int]) -> None:
    tracemalloc.start()
    begin = time.process_time()
    plan = plan_steps(1000, TEMPLATE.replace(**endless))
    assert len(plan) >= 10**11 and plan.epochs >= 10**8
    assert plan_fingerprint(plan).startswith("first:")
    last = plan[len(plan) - 3 :][0]
    assert sum(map(len, last)) == 6 and all(0 <= row < 1000 for batch in last for row in batch)
    mine = share(plan[10**9 :], np.ones(1000), 2, 1, 2)
    assert len(mine) == len(plan) - 10**9 and sum(map(len, next(iter(mine)))) == 3
    assert tracemalloc.get_traced_memory()[1] < 20e6 and time.process_time() - begin < 5
    tracemalloc.stop()


def test_a_plan_says_what_a_list_of_its_steps_says() -> None:
    """Also to a run that an earlier version began: the fingerprint of a plan is the one of the list it was."""
    for setting in ({"max_steps": 17}, {"max_steps": None, "max_epochs": 3}, {"max_steps": 400}):
        plan = plan_steps(50, TEMPLATE.replace(**setting))
        steps = list(plan)
        assert plan == steps and len(plan) == len(steps) and plan[3:9] == steps[3:9] and plan[-1] == steps[-1]
        assert plan_fingerprint(plan) == plan_fingerprint(steps)
        assert plan_fingerprint(plan) == hashlib.sha256(repr(steps).encode()).hexdigest()[:12]
        assert plan.epochs == sum(len(batch) for step in steps for batch in step) / 50
        assert plan != plan_steps(50, TEMPLATE.replace(**setting, seed=6))


def test_another_plan_has_another_fingerprint() -> None:
    many = {"max_steps": 10**8}
    known = plan_fingerprint(plan_steps(50, TEMPLATE.replace(**many)))
    for other in ({"seed": 6}, {"batch_size": 1}, {"max_steps": 10**8 + 1}):
        assert plan_fingerprint(plan_steps(50, TEMPLATE.replace(**many | other))) != known
    assert same_plan(known, known) and same_plan("0" * 12, known) and not same_plan("0" * 12, "1" * 12)
    assert not same_plan(10**30, known)  # of a damaged checkpoint


def test_more_steps_than_a_schedule_can_tell_apart_are_refused() -> None:
    with pytest.raises(InputError, match=r"max_steps = 10{18} makes more than 9,007,199,254,740,992 steps.*lower it"):
        plan_steps(50, TEMPLATE.replace(max_steps=10**18))
    with pytest.raises(InputError, match=r"max_epochs = 10{18} makes more"):
        plan_steps(50, TEMPLATE.replace(max_steps=None, max_epochs=10**18))


class Enough(Exception):
    """The run has gone on for as long as the test looks on."""


@pytest.mark.parametrize("strategy", ["best_fit", "sequential"])
def test_a_run_without_an_end_begins_at_once(small: Config, strategy: str) -> None:
    """The losses of its first steps are those of a short run but for the schedule, whose warm-up has no end either."""
    config = small.with_mode("varlen").replace(max_steps=10**12, pack_strategy=strategy, save_steps=10**9)
    seen = []

    def look_on(record: dict[str, Any]) -> None:
        seen.append(record["loss"])
        if len(seen) == 3:
            raise Enough

    told = []
    with pytest.raises(Enough):
        train(config, progress=False, on_step=look_on, on_start=told.append)
    assert told[0].steps == 10**12 and "1,000,000,000,000 steps" in " ".join(told[0].lines())
    assert seen[0] == train(config.replace(max_steps=1, work_dir=f"{config.work_dir}_2"), progress=False).losses[0]
