"""Plans: every document once and whole, no row over the limit, and nothing lost in silence."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.strategies import Packs, pack_lengths

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def row_tokens(packs: Packs) -> list[int]:
    return [sum(packs.seq_lengths(pack)) for pack in range(len(packs))]


def rows(packs: Packs) -> list[list[int]]:
    return [packs.seq_lengths(pack) for pack in range(len(packs))]


def naive_best_fit(lengths: list[int], max_length: int) -> int:
    """Rows that best-fit decreasing needs, one document at a time."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [room for room in rooms if room >= length]
        if fits:
            rooms.remove(min(fits))
            rooms.append(min(fits) - length)
        else:
            rooms.append(max_length - length)
    return len(rooms)


def test_the_example_of_the_docstring() -> None:
    lengths = [4, 4, 7, 3, 3]
    assert sorted(map(sorted, rows(pack_lengths(lengths, 10)))) == [[3], [3, 7], [4, 4]]
    assert rows(pack_lengths(lengths, 10, "concat")) == [[4, 4, 2], [5, 3, 2], [1]]
    assert rows(pack_lengths(lengths, 10, "unpacked")) == [[4], [4], [7], [3], [3]]


def test_concat_cuts_where_xtuner_cuts_and_keeps_the_tail() -> None:
    packs = pack_lengths([4, 4, 7, 3, 3], 10, "concat")
    seams = [np.cumsum([0, *row]).tolist() for row in rows(packs)]
    assert seams[:2] == [[0, 4, 8, 10], [0, 5, 8, 10]]
    assert seams[2:] == [[0, 1]]


@given(LENGTHS, st.integers(1, 70), st.sampled_from(["best_fit", "unpacked"]))
def test_whole_documents_each_once(lengths: list[int], max_length: int, strategy: str) -> None:
    packs = pack_lengths(lengths, max_length, strategy)
    assert sorted(packs.order.tolist()) == list(range(len(lengths)))
    assert packs.starts.tolist() == [0] * len(lengths)
    assert packs.lengths.tolist() == [min(lengths[i], max_length) for i in packs.order]
    assert max(row_tokens(packs)) <= max_length and min(row_tokens(packs)) > 0


@given(
    LENGTHS, st.integers(1, 70), st.sampled_from([("concat", "truncate"), ("best_fit", "split"), ("unpacked", "split")])
)
def test_cut_documents_keep_every_token(lengths: list[int], max_length: int, how: tuple[str, str]) -> None:
    packs = pack_lengths(lengths, max_length, *how)
    seen = Counter(
        (document, token)
        for document, start, length in zip(packs.order.tolist(), packs.starts.tolist(), packs.lengths.tolist())
        for token in range(start, start + length)
    )
    assert seen == Counter((document, token) for document, length in enumerate(lengths) for token in range(length))
    assert max(row_tokens(packs)) <= max_length
    assert packs.report().packed_tokens == sum(lengths)


@given(LENGTHS, st.integers(1, 70))
def test_concat_wastes_only_the_last_row(lengths: list[int], max_length: int) -> None:
    tokens = row_tokens(pack_lengths(lengths, max_length, "concat"))
    assert all(total == max_length for total in tokens[:-1])
    assert len(tokens) == -(-sum(lengths) // max_length)


@given(LENGTHS, st.integers(60, 150))
def test_counted_lengths_fill_rows_like_one_document_at_a_time(lengths: list[int], max_length: int) -> None:
    assert len(pack_lengths(lengths, max_length)) == naive_best_fit(lengths, max_length)


@given(
    LENGTHS,
    st.integers(1, 70),
    st.sampled_from(["truncate", "split", "drop"]),
    st.sampled_from(["best_fit", "unpacked"]),
)
def test_the_report_accounts_for_every_token(lengths: list[int], max_length: int, overlong: str, strategy: str) -> None:
    if overlong == "drop" and min(lengths) > max_length:
        with pytest.raises(InputError, match="leaves nothing"):
            pack_lengths(lengths, max_length, strategy, overlong)
        return
    report = pack_lengths(lengths, max_length, strategy, overlong).report()
    assert report.tokens == report.packed_tokens + report.truncated_tokens + report.dropped_tokens == sum(lengths)
    over = sum(length > max_length for length in lengths)
    assert report.truncated_documents + report.split_documents + report.dropped_documents == over
    assert 0 < report.fill <= 1 and 0 < report.attention_share <= 1 and report.packs >= report.lower_bound


def test_a_hand_worked_report() -> None:
    report = pack_lengths([7, 3, 4, 12], 10).report()
    assert (report.documents, report.tokens, report.packs, report.packed_tokens) == (4, 26, 3, 24)
    assert (report.truncated_documents, report.truncated_tokens, report.lower_bound) == (1, 2, 3)
    assert report.fill == pytest.approx(24 / 30)
    assert report.attention_share == pytest.approx((49 + 9 + 16 + 100) / (100 + 16 + 100))
    assert "2 tokens truncated from 1 document" in str(report)
    assert "nothing lost" in str(pack_lengths([1, 2], 10).report())


@pytest.mark.parametrize("strategy", ["best_fit", "concat", "unpacked"])
@pytest.mark.parametrize("lengths", [[1], [10], [10] * 5, [1] * 100, [6] * 7, [10, 1, 9, 2, 8]])
def test_ugly_inputs(strategy: str, lengths: list[int]) -> None:
    packs = pack_lengths(lengths, 10, strategy)
    assert packs.report().packed_tokens == sum(lengths)
    assert packs.offsets[0] == 0 and packs.offsets[-1] == len(packs.order) and (np.diff(packs.offsets) > 0).all()


def test_the_same_input_gives_the_same_plan() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 1, 5000).astype(int) + 1
    one, two = pack_lengths(lengths, 2048), pack_lengths(lengths.tolist(), 2048)
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("order", "starts", "offsets"))
    assert one.report().packs <= 1.01 * one.report().lower_bound


def test_a_pack_is_indexed_like_a_list() -> None:
    packs = pack_lengths([4, 4, 7], 8)
    assert len(packs) == 2 and packs[-1].tolist() == packs[1].tolist()
    with pytest.raises(IndexError):
        packs[2]


BAD = [
    (([], 10), "there are no documents"),
    (([3, 0], 10), "document 1 has length 0"),
    (([3, -2], 10), "document 1 has length -2"),
    (([1.5], 10), "document 0 has length 1.5"),
    (([3, float("nan")], 10), "document 1 has length nan"),
    (([float("inf")], 10), "document 0 has length inf"),
    (([3, "a"], 10), "document 1 has length a"),
    (([3, True], 10), "document 1 has length True"),
    (([0, 2, 6], 10), "look like cu_seqlens"),
    (([[1, 2], [3]], 10), "flat list"),
    ((5, 10), "the lengths are 5"),
    (([[1, 2]], 10), "flat list"),
    (([3], 0), "max_length is 0"),
    (([3], 2.5), "max_length is 2.5"),
    (([3], True), "max_length is True"),
    (([3], 10, "best_fitt"), "did you mean 'best_fit'"),
    (([3], 10, "best_fit", "truncat"), "did you mean 'truncate'"),
    (([3, 12], 10, "best_fit", "error"), "document 1 has 12 tokens"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_sentence(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack_lengths(*arguments)
