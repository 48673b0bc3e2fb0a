"""A census that was kept: ``docs/census.json`` read back, counted, and set beside classes that are measured now."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from varlen_lab.errors import InputError
from varlen_lab.language.saying import phrase, say
from varlen_lab.studies.census import as_json, changes
from varlen_lab.studies.census_page import CAUSES
from varlen_lab.studies.census_page import word as word_of
from varlen_lab.studies.census_table import LEGEND
from varlen_lab.studies.census_table import word as word_now
from varlen_lab.studies.one_class import EXACT, LEAKS, NOT_BUILT, Outcome
from varlen_lab.studies.registry import OURS, STYLES

PANELS = {  # a style of batch -> what a reader is told of it, in the order of a figure
    "cache": ("stock, as called", "restarting positions"),
    "positions": ("stock, cache off", "restarting positions"),
    OURS: ("varlen_lab", "seams as an argument"),
}


class Cause(NamedTuple):
    """Why classes leak: a kind of finding of the audit, how many classes have it, and what it means."""

    cause: str
    classes: int
    meaning: str


@dataclass(frozen=True)
class KeptCensus:
    """The JSON document of a census."""

    kept: Mapping[str, Any]

    @property
    def classes(self) -> Mapping[str, Any]:
        """Class -> style -> the record of its verdict."""
        return self.kept["classes"]

    @property
    def built(self) -> int:
        """How many classes could be built, and so be measured."""
        return sum(any(one["verdict"] != NOT_BUILT for one in each.values()) for each in self.classes.values())

    def __repr__(self) -> str:
        versions = self.kept["versions"]
        return say(
            "{classes} causal language model classes of transformers {transformers}, "
            "{built} of them built tiny and measured (torch {torch})",
            classes=len(self.classes),
            transformers=versions["transformers"],
            built=self.built,
            torch=versions["torch"],
        )

    @property
    def message(self) -> str:
        """What the figure shows, in a line."""
        return say(
            "{leaking} of {classes} classes leak in silence, called as they are",
            leaking=self.count("cache", LEAKS),
            classes=len(self.classes),
        )

    def count(self, style: str, verdict: str = EXACT) -> int:
        """How many classes have this verdict with this style of batch."""
        return sum(each[style]["verdict"] == verdict for each in self.classes.values() if style in each)

    def totals(self) -> dict[str, dict[str, int]]:
        """Style -> word of the tables -> how many classes; words that occur, in the order of the legend."""
        found = {style: Counter(word_of(each[style]) for each in self.classes.values()) for style in STYLES}
        words = [word for word in LEGEND if any(count[word] for count in found.values())]
        return {style: {word: count[word] for word in words} for style, count in found.items()}

    def panels(self) -> dict[tuple[str, str], list[str]]:
        """What ``viz.draw_verdicts`` draws: a panel a style, the words of all classes, each at the same place."""
        order = sorted(self.classes.values(), key=lambda each: [rank(each[style]) for style in (OURS, *PANELS)])
        return {about: [word_of(each[style]) for each in order] for style, about in PANELS.items()}

    def causes(self, style: str) -> list[Cause]:
        """Why classes leak with this style of batch, the most frequent first; a class may have several causes."""
        leaking = [each[style] for each in self.classes.values() if each[style]["verdict"] == LEAKS]
        count = Counter(kind for one in leaking for kind in {cause["cause"] for cause in one.get("causes", ())})
        return [Cause(kind, number, phrase(CAUSES.get(kind, ""))) for kind, number in count.most_common()]

    def of(self, types: Iterable[str]) -> dict[str, dict[str, str]]:
        """Class -> style -> word, of these model types; one that is no class of transformers is left out."""
        known = [name for name in dict.fromkeys(types) if name in self.classes]
        return {name: {style: word_of(self.classes[name][style]) for style in PANELS} for name in known}

    def words(self, style: str, verdict: str) -> dict[str, str]:
        """Class -> the sentence that was kept with this verdict."""
        has = {name: each[style] for name, each in self.classes.items() if each[style]["verdict"] == verdict}
        return {name: one.get("words", "") for name, one in has.items()}

    def changes(self, outcomes: Sequence[Sequence[Outcome]]) -> list[str]:
        """Two lines, old and new, for each verdict that is another one when it is measured now."""
        return changes(self.kept, as_json(outcomes))


def rank(record: Mapping[str, Any]) -> int:
    """Where a verdict stands in the legend, so that equal ones lie together."""
    return list(LEGEND).index(word_of(record))


def read_census(path: str | Path = "../docs/census.json") -> KeptCensus:
    """The census that ``varlen-lab census --write`` left in ``path``; InputError for what is none."""
    path = Path(path)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"there is no census {path}: it lies in the repository's docs/, and lessons run in notebooks/; "
            "varlen-lab census --write DIR makes one in some minutes."
        ) from None
    except (ValueError, RecursionError):
        kept = None
    if not is_census(kept):
        raise InputError(f"{path} is no whole census; name the census.json that varlen-lab census --write DIR makes.")
    return KeptCensus(kept)


def is_census(kept: Any) -> bool:
    """Whether a JSON document has all that is read of a census: of every class a verdict with each style of batch."""
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), dict) for name in ("classes", "versions")):
        return False
    known = {"transformers", "torch"} <= set(kept["versions"])
    return known and all(
        isinstance(each, dict) and all(is_record(each.get(style)) for style in STYLES)
        for each in kept["classes"].values()
    )


def is_record(one: Any) -> bool:
    """Whether this is a verdict of the legend; and its causes, if there are some, each with a name and a layer."""
    if not isinstance(one, dict) or not isinstance(one.get("verdict"), str) or word_of(one) not in LEGEND:
        return False
    causes = one.get("causes", [])
    return isinstance(one.get("words", ""), str) and isinstance(causes, list) and all(map(is_cause, causes))


def is_cause(one: Any) -> bool:
    """Whether a cause says what and where."""
    return isinstance(one, dict) and all(isinstance(one.get(name), str) for name in ("cause", "layer"))


def verdict_words(outcomes: Sequence[Sequence[Outcome]]) -> dict[str, dict[str, str]]:
    """Class -> style -> word, of classes that were measured now."""
    return {each[0].name: {outcome.style: word_now(outcome) for outcome in each} for each in outcomes}
