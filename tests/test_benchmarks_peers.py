"""The clock of the peers: trainers collate ahead, and are not to be paid less or more for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.peers import Clock


def test_tokens_are_counted_by_the_steps_that_took_them() -> None:
    """Batches of 10, 20, ... 60 tokens, two a step, one fetched ahead: steps two and three took 30 + 40 + 50 + 60."""
    times = iter([100.0, 103.0, 109.0])
    clock = Clock(lambda: next(times))
    collate = clock.counting(lambda features: features)
    arguments, state = SimpleNamespace(gradient_accumulation_steps=2), SimpleNamespace(global_step=0)
    for number in range(1, 8):
        if number <= 6:
            collate([{"input_ids": [0] * 10 * number}])
        if number % 2 and number > 1:  # the step ends when the first batch of the next one is there already
            state.global_step += 1
            clock.callback.on_step_end(arguments, state, None)
    assert clock.rate() == pytest.approx((30 + 40 + 50 + 60) / 9)


def test_a_shorter_last_step_counts_what_is_left() -> None:
    times = iter([0.0, 2.0])
    clock = Clock(lambda: next(times))
    collate = clock.counting(lambda features: features)
    for size in (4, 4, 4):
        collate([{"input_ids": [0] * size}])
    for step in (1, 2):
        arguments = SimpleNamespace(gradient_accumulation_steps=2)
        clock.callback.on_step_end(arguments, SimpleNamespace(global_step=step), None)
    assert clock.rate() == 2.0


def test_the_first_step_counts_where_asked() -> None:
    times = iter([1.0, 5.0])
    clock = Clock(lambda: next(times), first=True)
    clock.callback.on_train_begin(None, None, None)
    clock.counting(lambda features: features)([{"input_ids": [0] * 8}])
    clock.callback.on_step_end(SimpleNamespace(gradient_accumulation_steps=1), SimpleNamespace(global_step=1), None)
    assert clock.rate() == 2.0
