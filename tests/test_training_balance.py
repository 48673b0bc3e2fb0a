"""``balance``: which rows share a step, what processes then wait for each other, and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.cli import main
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.studies.comparison import compare
from varlen_lab.training.checkpoint import save_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.outlook import Outlook, Work
from varlen_lab.training.plan import Step, balance_lines, busiest, plan_steps
from varlen_lab.training.trainer import train

TEMPLATE = named_config("tiny_llama_full_docstrings_e1").replace(max_steps=None, max_epochs=2)
WINDOW = TEMPLATE.replace(balance="window", balance_window=4)


def costs_of(rows: int, seed: int = 0, kinds: int = 1000) -> np.ndarray:
    """Costs of rows, many of them equal where there are few ``kinds``."""
    return np.random.default_rng(seed).integers(1, 1 + kinds, rows).astype(float)


def rows_in(steps: list[Step]) -> list[int]:
    return [row for step in steps for batch in step for row in batch]


some = st.integers(1, 5)


@given(rows=st.integers(1, 120), batch=some, each=some, window=st.integers(2, 9), seed=some, kinds=some)
def test_a_window_holds_the_rows_it_held_and_each_once(
    rows: int, batch: int, each: int, window: int, seed: int, kinds: int
) -> None:
    """Windows are cut before anything is sorted, and the short last step is left as it was drawn."""
    config = TEMPLATE.replace(batch_size=batch, accumulative_counts=each, seed=seed)
    drawn = plan_steps(rows, config)
    made = plan_steps(rows, config.replace(balance="window", balance_window=window), costs=costs_of(rows, kinds=kinds))
    assert [[len(one) for one in step] for step in made] == [[len(one) for one in step] for step in drawn]
    full, epoch = rows // (batch * each), len(drawn) // 2
    windows = np.array_split(np.arange(full), max(1, -(-full // window)))
    for start in (0, epoch):
        assert Counter(rows_in(made[start : start + epoch])) == dict.fromkeys(range(rows), 1)
        assert made[start + full : start + epoch] == drawn[start + full : start + epoch]
        for steps in windows:
            assert len(steps) <= window
            one, two = ([plan[start + number] for number in steps] for plan in (made, drawn))
            assert sorted(rows_in(one)) == sorted(rows_in(two))


@given(rows=st.integers(1, 100), batch=st.integers(1, 3), seed=some, balance=st.sampled_from(["step", "window"]))
def test_the_plan_knows_no_processes(rows: int, batch: int, seed: int, balance: str) -> None:
    """Eight batches a step: of one process, of eight, or of some of both."""
    config = WINDOW.replace(batch_size=batch, seed=seed, balance=balance)
    plans = [
        plan_steps(rows, config.replace(accumulative_counts=8 // processes), processes, costs_of(rows))
        for processes in (1, 2, 4, 8)
    ]
    assert all(plan == plans[0] for plan in plans)


@given(rows=st.integers(12, 100), steps=st.integers(1, 40), seed=some)
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(rows: int, steps: int, seed: int) -> None:
    """So the number of a step says where a run stands, and a resumed one goes on with the same rows."""
    config = WINDOW.replace(accumulative_counts=3, seed=seed)
    short, long = (plan_steps(rows, config.replace(max_steps=n), costs=costs_of(rows)) for n in (steps, 60))
    assert short == long[:steps]


def test_steps_of_a_window_cost_differently_and_come_in_any_order() -> None:
    """No row of a step lies between two of another in the same window; and the steps are not left sorted."""
    costs = costs_of(96, kinds=10**6)
    plan = plan_steps(96, WINDOW.replace(accumulative_counts=6), costs=costs)[:16]
    ups = 0
    for start in range(0, 16, 4):
        spans = [(costs[rows_in([step])].min(), costs[rows_in([step])].max()) for step in plan[start : start + 4]]
        assert all(one[1] < two[0] for one, two in pairwise(sorted(spans)))
        ups += sum(one < two for one, two in pairwise(spans))
    assert 2 < ups < 10
    for step in plan:  # batches that lie side by side are computed at one time
        assert list(costs[rows_in([step])]) == sorted(costs[rows_in([step])], reverse=True)


def test_rows_that_cost_the_same_share_the_steps_they_were_drawn_for() -> None:
    config = WINDOW.replace(accumulative_counts=4, max_epochs=1)
    made = plan_steps(64, config, costs=np.ones(64))
    assert sorted(made) == sorted(plan_steps(64, config.replace(balance="step")))
    assert made != plan_steps(64, config.replace(seed=5), costs=np.ones(64))


def test_a_window_needs_costs() -> None:
    with pytest.raises(InputError, match="pass plan_steps their costs"):
        plan_steps(8, WINDOW)


# ------------------------------------------------------------------------------------------------- what is waited for


def test_the_busiest_by_hand() -> None:
    """Costs 9, 8, 2, 1 in two batches of two processes: 9 + 1 and 8 + 2 meet evenly; 9 | 8 and then 1 | 2 do not."""
    costs = np.array([9.0, 8.0, 2.0, 1.0])
    step = [[[0], [1], [2], [3]]]
    assert busiest(step, costs, costs, 2, 1, every_batch=False) == 1
    assert busiest(step, costs, costs, 2, 1, every_batch=True) == pytest.approx((9 + 2) / 10)
    assert busiest([[[0], [1]], [[2], [3]]], costs, costs, 2, 1, every_batch=False) == pytest.approx(11 / 10)
    assert busiest([[[0]]], costs, costs, 2, 1, every_batch=False) == 2  # the other has nothing to do


@pytest.mark.parametrize("every_batch", [False, True])
def test_a_window_leaves_little_to_wait_for(every_batch: bool) -> None:
    costs = np.random.default_rng(0).uniform(1, 3, 4096)  # a row has an end, and so have costs
    for each in (1, 4):
        config = TEMPLATE.replace(accumulative_counts=each, max_epochs=1)
        found = [
            busiest(plan_steps(4096, setting, 8, costs), costs, costs, 8, 1, every_batch)
            for setting in (config, config.replace(balance="window"))
        ]
        assert found[1] <= 1.03 and found[0] > (1.25 if each == 1 else 1.1 if every_batch else 1.01)


def test_the_outlook_names_both(small: Config) -> None:
    costs = costs_of(400)
    for engine, where in {"ddp": "step", "zero1": "step", "fsdp": "batch", "zero2": "batch", "zero3": "batch"}.items():
        (line,) = balance_lines(small, 200, costs, costs, 2, engine)
        assert line.startswith(f"in a {where} the busiest process has 1.") and "with balance = 'step', 1.0" in line
    assert balance_lines(small, 200, costs, costs, 1, "ddp") == []


def test_what_a_window_cannot_do_is_said(small: Config) -> None:
    costs = costs_of(400)
    window = small.replace(balance="window", accumulative_counts=2)
    assert balance_lines(window, 9, costs, costs, 1, "ddp") == [
        "balance = 'window' is for several processes and this run has one; 'step' draws rows at random"
    ]
    lines = balance_lines(window.replace(balance_window=101), 9, costs, costs, 2, "ddp")
    assert len(lines) == 2
    assert lines[1] == "balance_window = 101 is more than the 100 whole steps of an epoch, which are one window"
    assert len(balance_lines(window.replace(balance_window=100), 9, costs, costs, 2, "ddp")) == 1


def test_a_window_that_nobody_asked_for_is_refused(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config_file, "--cfg-options", "balance_window=8"]) == 2
    assert "balance_window = 8 has no effect with balance = 'step'" in capsys.readouterr().err
    assert main(["train", config_file, "--cfg-options", "balance=window", "balance_window=1"]) == 2
    assert "balance_window is 1, it must be at least 2" in capsys.readouterr().err
    assert main(["train", config_file, "--cfg-options", "balance=windows"]) == 2
    assert "did you mean 'window'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- runs


def test_all_modes_see_the_documents_of_a_window(small: Config) -> None:
    """Varlen still equals unpacked, from the same documents in every step; without costs there would be no plan."""
    config = small.replace(balance="window", balance_window=4, accumulative_counts=2, max_steps=4)
    comparison = compare(config)
    assert max(map(abs, comparison.difference("varlen"))) <= 1e-5
    counts = [[record["trained_tokens"] for record in history.records] for history in comparison.histories.values()]
    assert counts[0] == counts[1] == counts[2]


def test_a_run_in_windows_resumes_to_the_bit_and_keeps_its_windows(small: Config, tmp_path: Path) -> None:
    config = small.with_mode("varlen").replace(balance="window", balance_window=3, accumulative_counts=4, max_steps=9)
    told: list[Outlook] = []
    whole = train(config.replace(work_dir=str(tmp_path / "whole")), progress=False, on_start=told.append)
    assert any("is for several processes" in line for line in told[0].lines())

    def stop(record: dict) -> None:
        if record["step"] == 5:
            raise KeyboardInterrupt

    broken = config.replace(work_dir=str(tmp_path / "broken"), save_steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=False, on_step=stop)
    for change in ({"balance": "step"}, {"balance_window": 4}):
        with pytest.raises(InputError, match=f"was trained with {next(iter(change))} = "):
            train(broken.replace(**change), progress=False, resume=True)
    train(broken, progress=False, resume=True)
    assert History.read(tmp_path / "broken" / "history.jsonl").losses == whole.losses


def test_a_resume_that_would_plan_other_steps_is_refused(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs come from the model, and a model from transformers: another version may count other weights."""
    config = small.with_mode("varlen").replace(balance="window", balance_window=4, accumulative_counts=4, max_steps=4)
    path = train(config.replace(save_steps=2), progress=False).checkpoint
    assert path is not None
    monkeypatch.setattr(Work, "of", lambda model: Work(-1, 1))
    with pytest.raises(InputError, match="in another order than they are planned in now, some would come twice"):
        train(config, progress=False, resume=path.with_name("iter_2.pth"))
    state = torch.load(path, weights_only=True)
    del state["meta"]["plan"]  # as it was before plans were compared
    save_checkpoint(path.with_name("old.pth"), state)
    train(config, progress=False, resume=path.with_name("old.pth"))


def test_documents_on_lines_of_their_own_need_less_padding(small: Config) -> None:
    """Unpacked, a document a row: what costs alike is as long, so batches of a window are grouped by length."""
    config = small.with_mode("unpacked").replace(batch_size=4, accumulative_counts=1, max_steps=10, balance_window=10)
    drawn, window = (
        train(config.replace(balance=name, work_dir=f"{small.work_dir}/{name}"), progress=False)
        for name in ("step", "window")
    )
    assert drawn.total("tokens") == window.total("tokens")
    assert window.padding_share < drawn.padding_share / 3
