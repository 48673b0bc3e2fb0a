"""The calculator of steps: by hand, against the plan of real rows, and what it advises is true."""

from __future__ import annotations

import numpy as np
import pytest
from expect import refused

from varlen_lab.packing.cost import Cost
from varlen_lab.packing.steps import count_steps
from varlen_lab.packing.strategies import pack_lengths


def test_a_run_counted_by_hand() -> None:
    """1,000 documents, 5 in a row: 200 rows. Steps of 8 rows: 125 an epoch before, 25 after; 3 epochs."""
    count = count_steps(1000, 5, batch_size=8, epochs=3, learning_rate=1e-4)
    assert (count.rows, count.steps_before, count.steps_after, count.times) == (200, 375, 75, 5.0)
    assert count.learning_rates == pytest.approx((1e-4 * 5**0.5, 5e-4))
    assert str(count).splitlines()[3].split() == ["optimizer", "steps", "375", "75"]
    assert "batch_size = 2 instead of 8 makes 300 steps" in str(count)


def test_it_agrees_with_the_plan_of_real_rows() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 700)
    packs = pack_lengths(lengths, 512)
    cost = Cost.of(packs, batch_size=2, accumulative_counts=4)
    count = count_steps(700, packs.report().documents_per_pack, batch_size=2, accumulative_counts=4)
    assert (count.steps_before, count.steps_after) == (cost.steps_before, cost.steps_after)


@pytest.mark.parametrize(("per_row", "batch", "accumulated"), [(5.4, 8, 1), (5.4, 1, 16), (20, 1, 4), (3, 2, 1)])
def test_what_it_advises_gives_steps_back(per_row: float, batch: int, accumulated: int) -> None:
    count = count_steps(1000, per_row, batch, accumulated)
    before, after = count.steps_before, count.steps_after
    words = [line for line in count.advice if line.startswith("Or keep the batch")]
    assert words and "Same learning rate" in count.advice[0]
    steps = int(words[0].rsplit("makes ", 1)[1].split()[0].replace(",", ""))
    assert abs(steps - before) < abs(after - before)


def test_rows_of_one_document_change_nothing() -> None:
    assert count_steps(1000, 1).advice == ["A step sees about as many documents as before: keep everything."]
    assert count_steps(3, 10, batch_size=8).steps_after == 1
    html = count_steps(1000, 5)._repr_html_()
    assert "<td" in html and "1,000" in html and "200" in html


def test_what_no_run_can_have_is_refused() -> None:
    for wrong in ({"documents": 0}, {"documents_per_row": 0.5}, {"epochs": 0}, {"learning_rate": 0}):
        with refused(next(iter(wrong))):
            count_steps(**{"documents": 10, "documents_per_row": 2} | wrong)
    for value in (float("nan"), "5", None, True):
        with refused("documents_per_row"):
            count_steps(10, value)
