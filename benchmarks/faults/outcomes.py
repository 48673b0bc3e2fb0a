"""What a fault is, what can become of it, and how many of each there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SURVIVED = ("refused", "unharmed")
FAILED = ("lost", "executed", "traceback", "silent", "hang")
SKIPPED = "skipped"  # this machine cannot do that to us


@dataclass(frozen=True)
class Outcome:
    """What became of one fault; ``said``: the sentence, the difference, or the last line of the traceback."""

    word: str
    said: str = ""

    @property
    def failed(self) -> bool:
        return self.word in FAILED


@dataclass(frozen=True)
class Case:
    """One fault; ``act`` is called in a process and in a folder of its own, and says what became of it."""

    what: str
    act: Callable[[], Outcome]


@dataclass(frozen=True)
class Kind:
    """A way to go wrong. ``cases(chooser)`` gives them in the same order for the same seed; ``few`` are as telling."""

    about: str
    cases: Callable[[Any], Iterator[Case]]
    few: int = 6  # cases of --small, evenly spread


@dataclass
class Tally:
    """All that was tried of one kind."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    cases: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, what: str, outcome: Outcome) -> None:
        self.counts[outcome.word] += 1
        self.cases.append({"kind": self.kind, "case": number, "what": what, **vars(outcome)})

    @property
    def tried(self) -> int:
        return sum(self.counts.values()) - self.counts[SKIPPED]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [case for case in self.cases if case["word"] in FAILED]
