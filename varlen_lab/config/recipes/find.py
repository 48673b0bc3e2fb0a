"""Finding a name by what one remembers of it: words in any order, letters left out, slips of the hand.

Case, separators and full-width letters do not matter. Where every word stands in a name, those names are found, the one
that has them as whole parts, and early, first: ``lora`` before ``qlora``. Only where no name has all words is each word
taken for what it is nearest to.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

ENOUGH = 0.75  # likeness of a word with a slip: "qwne" and "qwen" have just that
PARTS = 3  # that a word may run over: "llama27b" is llama2, 7b


def search(pattern: str, names: list[str]) -> list[str]:
    """The names in which every word of the pattern is found, the best first; all of them for an empty pattern."""
    if not any(letter.isalnum() for letter in pattern):
        return names
    for words in (pattern.split(), re.split(r"[\W_]+", folded(pattern))):
        found = [name for name in names if all(stands_in(word, name) for word in words)]
        if found:
            return sorted(found, key=lambda name: rank(words, name))
    best = closest(pattern, names)
    score = likeness(best[0][1], pattern) if best else 0.0
    return [name for _, name in best if likeness(name, pattern) == score] if score >= ENOUGH else []


def closest(pattern: str, names: list[str]) -> list[tuple[float, str]]:
    """All names with how near they come to the pattern on the whole, the nearest first; none to what has no letters."""
    words = [word for word in re.split(r"[\W_]+", folded(pattern)) if word]
    if not any(plain(word) for word in words):
        return []
    scored = [(sum(nearness(plain(word), name) for word in words) / len(words), name) for name in names]
    return sorted(scored, key=lambda pair: (-pair[0], rank(words, pair[1])))


def likeness(name: str, pattern: str) -> float:
    """How near the worst word of the pattern comes to the name, from 0 to 1."""
    return min(nearness(plain(word), name) for word in re.split(r"[\W_]+", folded(pattern)) if word)


def stands_in(word: str, name: str) -> bool:
    """Whether a word stands in a name. Signs are nothing to look for; letters that no name has are found in none."""
    letters = plain(word)
    return letters in plain(name) if letters else not any(letter.isalnum() for letter in word)


def rank(words: list[str], name: str) -> tuple[int, int, str]:
    """Small for a good match: words that are whole parts, then words that begin one; in early parts."""
    whole, parts = runs(name), name.split("_")
    loose = at = 0
    for word in map(plain, words):
        loose += 0 if word in whole else 1 if any(run.startswith(word) for run in whole) else 2
        offset = plain(name).find(word)
        at += sum(len("".join(parts[:number])) <= offset for number in range(1, len(parts)))
    return loose, at, name


def nearness(word: str, name: str) -> float:
    """1 for a word that stands in the name, else how like it is to the nearest run of its parts."""
    if not word:
        return 0.0
    return 1.0 if word in plain(name) else max(alike(word, run) for run in runs(name))


@cache
def alike(word: str, run: str) -> float:
    """Likeness of two words; a number at the end of the second may be left out (``oaast``, ``oasst1``)."""
    return max(difflib.SequenceMatcher(None, word, other).ratio() for other in {run, run.rstrip("0123456789") or run})


@cache
def runs(name: str) -> tuple[str, ...]:
    return tuple(neighbours(name.split("_")))


def neighbours(parts: list[str]) -> Iterator[str]:
    for start in range(len(parts)):
        for end in range(start + 1, min(start + PARTS, len(parts)) + 1):
            yield "".join(parts[start:end])


def folded(text: str) -> str:
    """Full-width letters as the ordinary ones, all small."""
    return unicodedata.normalize("NFKC", text).lower()


@cache
def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", folded(text))
