"""Where a text is cut before it is tokenised: only where a token would lie in a prompt and in its answer at once.

A document is tokenised whole, as the same text would be anywhere else. But when the model is asked, its prompt ends
where the answer begins, and what it reads then must be what it read in training. So wherever the ids of a prompt alone
are not how the ids of the document begin (``\\n`` + ``\\n`` is one token of many vocabularies; some tokenizers look one
character ahead), the text is cut there: the prompt gets the ids it has alone, and the answer those it has behind
another text, which puts no space in front that nobody wrote. Later prompts of that dialogue keep the cut, as they do
in a chat that goes on from the ids the model has written.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from varlen_lab.documents.templates import Segments

Runs = list[tuple[int, bool]]  # of a document's tokens: (how many, are they trained on?)
# Texts that stand in front of another one, so that it is no beginning; the first is taken that no token joins with it.
IN_FRONT = (".", "a", "\n", "0", "。")


class Stretch(NamedTuple):
    """A text that is tokenised in one: its ids, and how many of them begin before a character."""

    ids: list[int]
    before: Callable[[int], int]


Read = Callable[[str, bool], Stretch]  # (text, is it the beginning of a document?)


def tokens_before(encoding: Any, character: int, length: int) -> tuple[int, bool]:
    """How many tokens of an ``Encoding`` begin before a character, and whether the last of them ends behind it.

    ``length``: characters of the whole text. Characters that no token stands for (some tokenizers drop white space)
    belong to the next token. A byte-level tokenizer has several tokens for one character, the first of them counts.
    """
    for place in range(character, length):
        token = encoding.char_to_token(place)
        if token is not None:
            straddles = encoding.token_to_chars(token)[0] < character
            return token + straddles, straddles
    return len(encoding), False


def reader(backend: Any) -> Read:
    """How a tokenizer of the ``tokenizers`` library reads a text."""

    def read_behind(front: str, text: str) -> Stretch | None:
        encoding, place, length = backend.encode(front + text, add_special_tokens=False), len(front), len(front + text)
        skipped, straddles = tokens_before(encoding, place, length)
        before = lambda at: tokens_before(encoding, place + at, length)[0] - skipped  # noqa: E731
        return None if straddles else Stretch(encoding.ids[skipped:], before)

    return lambda text, begins: first_that_reads(read_behind, text, begins)


def slow_reader(tokenizer: Any) -> Read:
    """How a tokenizer written in Python reads a text: it tells no offsets, so beginnings are compared."""

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []

    def read_behind(front: str, text: str) -> Stretch | None:
        alone, ids = ids_of(front), ids_of(front + text)
        before = lambda at: common(ids, ids_of(front + text[:at])) - len(alone)  # noqa: E731
        return Stretch(ids[len(alone) :], before) if ids[: len(alone)] == alone else None

    return lambda text, begins: first_that_reads(read_behind, text, begins)


def first_that_reads(read_behind: Callable[[str, str], Stretch | None], text: str, begins: bool) -> Stretch:
    """The text behind nothing if it is a beginning, else behind the first text in front that no token joins with it."""
    stretches = (read_behind(front, text) for front in (*IN_FRONT * (not begins), ""))
    return next(stretch for stretch in stretches if stretch)


def common(one: list[int], other: list[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))


def cut_document(pieces: Segments, read: Read) -> tuple[list[int], Runs]:
    """The ids of one document, cut where it must be, and which of them are trained on."""
    text = "".join(piece for piece, _ in pieces)
    ends = [0]
    for piece, _ in pieces:
        ends.append(ends[-1] + len(piece))
    prompts = [end for end, (_, trained), before in zip(ends[1:-1], pieces[1:], pieces) if trained and not before[1]]
    ids: list[int] = []
    edges: list[int] = []  # the number of tokens up to the end of each piece
    start = 0
    while start < len(text):
        stretch, end = longest_stretch(text, start, [one for one in prompts if one > start], read)
        edges += [len(ids) + stretch.before(one - start) for one in ends[1:] if start < one < end]
        ids += stretch.ids
        edges.append(len(ids))  # an end of a piece, too
        start = end
    runs = [
        (edge - before, trained) for edge, before, (_, trained) in zip(edges, [0, *edges[:-1]], pieces, strict=True)
    ]
    return ids, runs


def longest_stretch(text: str, start: int, prompts: list[int], read: Read) -> tuple[Stretch, int]:
    """The text from ``start`` to as far as every prompt in it has the ids it has alone; and where that ends."""
    end = len(text)
    while True:
        stretch = read(text[start:end], start == 0)
        for prompt in prompts:
            alone = read(text[start:prompt], start == 0).ids if prompt < end else []
            if stretch.ids[: len(alone)] != alone:
                end = prompt
                break
        else:
            return stretch, end
