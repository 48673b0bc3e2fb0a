"""The records that were left out: all are counted, and of each kind of reason the first few are kept in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

FEW = 10  # sentences kept of a kind
MOST_KINDS = 100
OWN_WORDS = re.compile(r"\d+|'[^']*'|\"[^\"]*\"")  # what differs between two sentences of a kind


class Skipped(list[str]):
    """Sentences for records that were left out, the first few of each kind; ``total``: how many were left out.

    A file may hold nothing but bad records, millions of them.
    """

    def __init__(self, sentences: Iterable[str] = ()) -> None:
        super().__init__()
        self.total = 0
        self.kinds = Counter[str]()
        self += sentences

    def append(self, sentence: str) -> None:
        """Count one more (``train.jsonl:3: message 2 is empty``), and keep it if there are few of its kind."""
        self.total += 1
        kind = OWN_WORDS.sub("", sentence.partition(": ")[2])
        if self.kinds[kind] < FEW if kind in self.kinds else len(self.kinds) < MOST_KINDS:
            self.kinds[kind] += 1
            super().append(sentence)

    def __iadd__(self, sentences: Iterable[str]) -> Skipped:  # type: ignore[override,misc]
        """Count those of ``sentences``, which may have been cut to a few itself."""
        given = [*sentences]
        total = self.total + (sentences.total if isinstance(sentences, Skipped) else len(given))
        for sentence in given:
            self.append(sentence)
        self.total = total
        return self
