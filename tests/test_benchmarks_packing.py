"""The packing benchmark's own checks: a plan that loses a document, or overfills a pack, is said to be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lengths import DISTRIBUTIONS, draw
from benchmarks.packing import CPP, LISTED, OURS, contenders, lengths_section, problem
from varlen_lab.packing.strategies import pack_lengths

LENGTHS = np.array([4, 4, 7, 3, 3])


def test_planted_faults_are_found() -> None:
    assert problem([[2, 3], [0, 1], [4]], LENGTHS, 10, of_lengths=False) == ""
    assert problem(pack_lengths(LENGTHS, 10), LENGTHS, 10, of_lengths=False) == ""
    assert problem([[2, 3], [0, 1]], LENGTHS, 10, of_lengths=False) == "not every document once"
    assert problem([[2, 3], [0, 1], [4, 4]], LENGTHS, 10, of_lengths=False) == "not every document once"
    assert problem([[2, 0], [1, 3, 4]], LENGTHS, 10, of_lengths=False) == "a pack over the limit"
    assert problem([[7, 3], [4, 4], [3]], LENGTHS, 10, of_lengths=True) == ""
    assert problem([[7, 3], [4, 4]], LENGTHS, 10, of_lengths=True) == "not every document once"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_lengths_are_seeded_and_fit(name: str) -> None:
    lengths = draw(name, 500)
    assert len(lengths) == 500 and lengths.min() >= 1 and lengths.max() <= DISTRIBUTIONS[name].max_length
    assert np.array_equal(lengths, draw(name, 500))


def test_a_missing_peer_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "binpacking", None)
    goals = lengths_section([50], rounds=1)
    said = capsys.readouterr().out
    assert "binpacking is not measured" in said and "alpaca-like, rows of 2,048" in said
    assert all(met for _, met in goals)


def test_a_list_and_an_array_are_planned_alike() -> None:
    lengths = draw("alpaca-like", 500)
    plans = [
        contenders()[name].load()(given, 2048) for name, given in ((OURS, lengths), (OURS + LISTED, lengths.tolist()))
    ]
    assert np.array_equal(plans[0].order, plans[1].order) and np.array_equal(plans[0].offsets, plans[1].offsets)


def test_lightbinpack_is_checked_like_ours() -> None:
    pytest.importorskip("lightbinpack", reason="pip install --no-deps lightbinpack, with a C++ compiler")
    lengths = draw("alpaca-like", 500)
    for name, given in ((CPP, lengths), (CPP + LISTED, lengths.tolist())):
        assert problem(contenders()[name].load()(given, 2048), lengths, 2048, of_lengths=False) == ""
