"""The poke figure: what moves is counted and said, what does not is said to be exactly 0."""

from __future__ import annotations

import pytest
from expect import refused
from matplotlib.patches import Polygon

from varlen_lab.viz import draw_masks, draw_poke

TOKENS = [" My", " dog", " barks", "2", "\n"]
MOVED = {"packed": [0, 0.4, 0.3, 0.2, 0.1], "varlen": [0, 0.4, 0.3, 0, 0]}


def words_of(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def hatched(figure) -> int:
    return sum(isinstance(patch, Polygon) and bool(patch.get_hatch()) for axes in figure.axes for patch in axes.patches)


def test_a_hand_worked_poke() -> None:
    said = {"packed": [" cat", " dog"], "varlen": [" cat", " cat"]}
    figure = draw_poke([3, 2], TOKENS, MOVED, poked=1, became=" cat", next_words=said)
    told = words_of(figure)
    assert "“dog” becomes “cat”. Who notices?" in told
    assert "Packed: all 2 tokens of strangers move, by up to 20 %" in told
    assert "Varlen: none of the strangers' 2 tokens moves, not by one bit" in told
    assert {"next word: cat → dog", "next word: cat → cat", "exactly 0", "↵"} <= set(told)
    assert hatched(figure) == 2 and told.count("exactly 0") == 1
    assert "packed: before “cat”, after “dog”" in figure.alt_text


def test_a_leak_under_varlen_is_shown_as_one() -> None:
    figure = draw_poke([3, 2], TOKENS, MOVED | {"varlen": [0, 0.4, 0.3, 0, 1e-12]}, poked=1, became="cat")
    assert "Varlen: 1 of 2 tokens of strangers move, by up to <0.1 %" in words_of(figure)
    assert hatched(figure) == 3 and "exactly 0" not in words_of(figure)


def test_ugly_rows_are_drawn() -> None:
    one = draw_poke([1], [""], {"a": [0.0], "b": [0.0]}, poked=0, became="$x$")
    assert "A: there is no other document" in words_of(one) and "␣" in words_of(one)
    draw_poke([1] * 80, ["<|im_end|>"] * 80, {"a": [1.0] * 80, "b": [1e-9] * 80}, poked=79, became="x", dark=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": ["a"]}, "1 tokens for a row of 5"),
        ({"poked": 5}, "tokens 0 to 4"),
        ({"moved": {"packed": MOVED["packed"]}}, "two modes"),
        ({"moved": {"packed": [0, 1], "varlen": MOVED["varlen"]}}, "5 shares"),
        ({"moved": {"packed": [0, 2, 0, 0, 0], "varlen": MOVED["varlen"]}}, "between 0 and 1"),
        ({"moved": {"packed": [float("nan")] * 5, "varlen": MOVED["varlen"]}}, "between 0 and 1"),
        ({"boundaries": [81]}, "at most 80"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict, words: str) -> None:
    given = {"boundaries": [3, 2], "tokens": TOKENS, "moved": MOVED, "poked": 1} | change
    boundaries, tokens, moved, poked = (given[name] for name in ("boundaries", "tokens", "moved", "poked"))
    with refused(words):
        draw_poke(boundaries, tokens, moved, poked=poked, became="cat")


def test_the_mask_figure_writes_tokens_where_cells_are_drawn() -> None:
    assert {"barks", "↵"} <= set(words_of(draw_masks([3, 2], tokens=TOKENS)))
    assert "tok" not in words_of(draw_masks([30, 20], tokens=["tok"] * 50))
    with refused("1 tokens for a row of 5"):
        draw_masks([3, 2], tokens=["a"])
