"""The capstone's script: it trains in silence, its faults are found where they are, and mended it gets its receipt."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest

from varlen_lab.course.puzzles import stranger
from varlen_lab.course.puzzles.capstone import FAULTS, SOUND, check_findings, stranger_script
from varlen_lab.course.puzzles.mending import certify, check_mended_collate, mended

ROWS = [[list(range(10, 10 + n)) for n in (7, 1, 12)], [list(range(40, 40 + n)) for n in (5, 9)]]
SCRIPT = stranger_script()


def test_the_script_trains_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, losses = stranger.train(ROWS * 6)
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_every_piece_of_a_line_that_is_judged_is_in_one_line_of_the_script() -> None:
    pieces = [*itertools.chain.from_iterable(one.lines for one in FAULTS), *SOUND]
    assert all(sum(piece in line for line in SCRIPT.lines) == 1 for piece in pieces)
    accused = {SCRIPT.line_of(piece) for one in FAULTS for piece in one.lines}
    assert not accused & {SCRIPT.line_of(piece) for piece in SOUND}


def named(verdict: Any) -> set[str]:
    return {fault.name for fault in FAULTS if f"✗ {fault.name}," in verdict.words}


def test_leakcheck_names_all_faults_as_the_script_came_and_none_when_it_is_mended() -> None:
    came = certify(stranger.collate, stranger.mean_square, stranger.step_loss)
    assert not came.right and named(came) == {fault.name for fault in FAULTS}
    put_right = certify(*mended())
    assert put_right.right and not named(put_right)


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ("collate", {"border label", "attention_mask", "use_cache"}),
        ("mean_square", {"recurrent layer"}),
        ("step_loss", {"mean of means"}),
    ],
)
def test_each_function_left_as_it_came_is_named(kept: str, names: set[str]) -> None:
    assert named(certify(*mended()._replace(**{kept: getattr(stranger, kept)}))) == names


def test_every_line_of_a_fault_counts_and_every_other_line_is_a_false_alarm() -> None:
    for fault in FAULTS:
        for piece in fault.lines:
            assert (
                f"1 of {len(FAULTS)} faults found ({fault.name})" in check_findings({SCRIPT.line_of(piece): ""}).words
            )
    accused = {SCRIPT.line_of(piece) for one in FAULTS for piece in one.lines}
    for number in set(range(1, len(SCRIPT.lines) + 1)) - accused:
        assert f"line {number} is right" in check_findings({number: ""}).words


def test_a_certificate_never_raises() -> None:
    for hostile in (None, 3, lambda row: None, lambda row: {"input_ids": "62%"}):
        assert not certify(hostile, hostile, hostile).right


def test_the_script_is_shown_with_its_numbers() -> None:
    assert repr(SCRIPT).splitlines()[0].startswith("  1  ") and "&quot;" in SCRIPT._repr_html_()
    assert SCRIPT.train is stranger.train


def test_what_is_said_of_the_batch_decides_between_mask_and_cache() -> None:
    line = SCRIPT.line_of('"attention_mask": mask')
    assert "found (use_cache)" in check_findings({line: "no use_cache=False in what it returns"}).words
    assert "found (attention_mask)" in check_findings({line: "ones"}).words


def test_a_first_document_that_is_too_long_leaves_no_empty_row() -> None:
    assert SCRIPT.pack([[1] * 9, [2]], 4) == [[[1] * 4], [[2]]]


def test_the_first_label_of_a_row_is_the_readers_to_choose() -> None:
    def unmasked(row: list[list[int]]) -> dict[str, Any]:
        batch = mended().collate(row)
        batch["labels"][0, 0] = batch["input_ids"][0, 0]
        return batch

    assert check_mended_collate(unmasked).right
