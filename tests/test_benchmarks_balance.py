"""The benchmark of ``balance``: its lists of lengths give the figures it is quoted for, and its sections run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.balance import (
    DATA,
    MODELS,
    Rows,
    held_out_section,
    large_plan,
    packed,
    table_section,
    timed_section,
    waiting,
)


@pytest.mark.parametrize(("name", "drawn"), [("chat", 1.16), ("reasoning", 1.41)])
def test_eight_processes_with_one_batch_each(name: str, drawn: float) -> None:
    rows = packed(DATA[name], 8192)
    assert rows.tokens.max() <= DATA[name].max_length
    assert rows.tokens.sum() > 0.99 * len(rows.tokens) * DATA[name].max_length  # full rows: only attention differs
    assert waiting(rows, MODELS["1.1B"], "step", 8) == pytest.approx(drawn, abs=0.02)
    assert waiting(rows, MODELS["1.1B"], "window", 8) <= 1.03


def test_equal_rows_are_never_waited_for() -> None:
    rows = Rows(np.full(64, 100.0), np.full(64, 1e4))
    assert waiting(rows, MODELS["7B"], "step", 8, 2, every_batch=True) == pytest.approx(1)


def test_the_table_fits_80_columns_and_meets_its_goals(capsys: pytest.CaptureFixture[str]) -> None:
    goals = table_section(rows=2048, processes=(2, 8, 16, 32, 64))
    large_plan(rows=4096)
    said = capsys.readouterr().out
    assert len(goals) == 2 and all(met for _, met in goals)
    assert all(len(line) <= 80 for line in said.splitlines()) and said.count("/") >= 5 * (12 + 8)


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_and_held_out_losses(capsys: pytest.CaptureFixture[str], dialogues: object) -> None:
    found = timed_section(steps=4, rounds=1)
    assert found["step"]["work"] >= found["window"]["work"] >= 1
    losses = held_out_section(seeds=2, steps=2, data_path=str(dialogues), max_length=128, accumulative_counts=2)
    assert all(len(one) == 2 and min(one) > 0 for one in losses.values())
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
