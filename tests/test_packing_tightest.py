"""Rows by linear programming: never more than best-fit's, near the proven bound where best-fit is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.packing.tightest import program_bound
from varlen_lab.packing.whole import lower_bound


def fewest_rows(lengths: list[int], max_length: int) -> int:
    """By trying everything: the readable truth for a handful of documents."""
    best = len(lengths)

    def place(index: int, rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if index == len(lengths):
            best = len(rooms)
            return
        for at in range(len(rooms)):
            if rooms[at] >= lengths[index]:
                place(index + 1, [room - lengths[index] * (k == at) for k, room in enumerate(rooms)])
        place(index + 1, [*rooms, max_length - lengths[index]])

    place(0, [])
    return best


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(20, 40))
@settings(max_examples=60)
def test_bounds_hold_and_plans_lie_between_truth_and_best_fit(lengths: list[int], max_length: int) -> None:
    truth = fewest_rows(lengths, max_length)
    simple = len(pack_lengths(lengths, max_length))
    tight = len(pack_lengths(lengths, max_length, "tightest"))
    assert lower_bound(np.array(lengths), max_length) <= truth <= tight <= simple
    assert program_bound(np.array(lengths), max_length) <= truth + 1e-6


@given(st.lists(st.integers(5, 60), min_size=1, max_size=60), st.integers(60, 130), st.integers(0, 3) | st.none())
@settings(max_examples=40)
def test_documents_once_and_whole(lengths: list[int], max_length: int, seed: int | None) -> None:
    packs = pack_lengths(lengths, max_length, "tightest", seed=seed)
    assert sorted(packs.order.tolist()) == list(range(len(lengths)))
    assert packs.lengths.tolist() == [lengths[document] for document in packs.order]
    assert max(sum(packs.seq_lengths(pack)) for pack in range(len(packs))) <= max_length


def test_a_hand_worked_set_where_best_fit_is_a_row_too_many() -> None:
    # Rows of 10. Best-fit: 4 4 | 3 3 3 | 3. The program: 4 3 3 | 4 3 3.
    lengths = [4, 4, 3, 3, 3, 3]
    assert pack_lengths(lengths, 10, "best_fit").report().packs == 3
    assert sum(lengths) == 20 and lower_bound(np.array(lengths), 10) == 2
    tight = pack_lengths(lengths, 10, "tightest")
    assert sorted(sorted(tight.seq_lengths(pack)) for pack in range(len(tight))) == [[3, 3, 4], [3, 3, 4]]


@pytest.mark.parametrize(("low", "high", "best_fit_wastes"), [(0.30, 0.37, 0.11), (0.2, 0.3, 0.08)])
def test_narrow_lengths_come_near_the_bound(low: float, high: float, best_fit_wastes: float) -> None:
    lengths = np.random.default_rng(0).integers(int(low * 512), int(high * 512) + 1, 4000)
    bound = program_bound(lengths, 512)
    assert len(pack_lengths(lengths, 512)) > (1 + best_fit_wastes) * bound
    assert len(pack_lengths(lengths, 512, "tightest")) <= 1.002 * bound + 1


def test_a_seed_breaks_ties_and_nothing_else() -> None:
    lengths = [4, 4, 3, 3, 3, 3] * 5
    plans = [pack_lengths(lengths, 10, "tightest", seed=seed) for seed in (None, None, 1, 2)]
    assert plans[0].order.tolist() == plans[1].order.tolist()
    assert plans[2].order.tolist() != plans[3].order.tolist()
    assert len({len(plan) for plan in plans}) == 1
    for plan in plans:
        assert sorted(plan.order.tolist()) == list(range(30))
