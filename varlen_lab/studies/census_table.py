"""The census in a terminal: rows of tables and pairs of words, made of outcomes; nothing is measured or printed here.

Of several styles a class has a row, a word a style; of one style a row with its reasons below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from varlen_lab.errors import plural
from varlen_lab.machine.folding import Cell
from varlen_lab.studies.one_class import EXACT, LEAKS, LENGTHS, LIMIT, NOT_BUILT, RAISES, REFUSED, SILENT, Outcome
from varlen_lab.studies.registry import STYLES

ISOLATED, UNSEEN = "exact *", "SILENT"
COLOURS = {EXACT: "green", ISOLATED: "green", LEAKS: "red", RAISES: "red", UNSEEN: "red", REFUSED: "yellow"}
LEGEND = {
    EXACT: f"the packed row is its documents alone: logits and gradients within {LIMIT:.0e} of their largest",
    ISOLATED: "the same, through layers that run document by document",
    REFUSED: "it is not run, a sentence of ours says why",
    LEAKS: "it runs and is wrong; the audit says where",
    RAISES: "the class's own exception",
    NOT_BUILT: "transformers builds no tiny one, or does not run a document alone",
    UNSEEN: "silently wrong: it runs, differs, and the audit does not see it",
}


def word(outcome: Outcome) -> str:
    """A verdict as a word of the table."""
    return shown(outcome.verdict, bool(outcome.isolated))


def shown(verdict: str, isolated: bool) -> str:
    """A verdict as a word of ``LEGEND``."""
    return ISOLATED if isolated and verdict == EXACT else UNSEEN if verdict == SILENT else verdict


def head(styles: Sequence[str]) -> list[str]:
    """The head above the classes; none for one style, where a row has its difference last."""
    return ["class", *styles] if len(styles) > 1 else []


def rows(outcomes: Sequence[Outcome], causes: bool) -> Iterator[list[Cell]]:
    """A class: a word for each style; with ``causes`` the reasons of all that are not exact below, a row each."""
    words = [word(each) for each in outcomes]
    found: list[Cell] = [outcomes[0].name, *((each, COLOURS.get(each, "")) for each in words)]
    if len(outcomes) == 1:
        found.append("" if outcomes[0].difference is None else f"{outcomes[0].difference:.0e}")
    yield found
    for outcome in outcomes if causes else ():
        before = f"{outcome.style}: " if len(outcomes) > 1 else ""
        if because := reason(outcome):
            yield [f"    {before}{because}"]


def reason(outcome: Outcome) -> str:
    """Why a class is not exact, or what makes it exact; empty where there is nothing to say."""
    if outcome.verdict == EXACT:
        return f"document by document: {', '.join(outcome.isolated)}" if outcome.isolated else ""
    named = [f"{kind} ({layer})" for kind, layer in zip(outcome.kinds, outcome.layers, strict=True)]
    return ", ".join(named) or outcome.words


def totals(outcomes: Iterable[Sequence[Outcome]]) -> list[list[str]]:
    """How many classes each style has of each verdict: a head with the verdicts, a row a style."""
    counts: dict[str, Counter[str]] = {}
    for each in outcomes:
        for outcome in each:
            counts.setdefault(outcome.style, Counter())[word(outcome)] += 1
    verdicts = [verdict for verdict in LEGEND if any(count[verdict] for count in counts.values())]
    found = [["style", *verdicts]]
    return found + [[style, *(str(count[each] or "-") for each in verdicts)] for style, count in counts.items()]


def meanings(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Verdicts and styles, each with what it means."""
    for each in words:
        yield each, LEGEND[each] if each in LEGEND else STYLES[each].about


def measured_on(classes: int, versions: dict[str, str]) -> str:
    """What the numbers were measured on."""
    named = f"{classes:,} class{'es' * (classes != 1)}"
    return (
        f"{named} of transformers {versions['transformers']}, tiny, fp32 on the CPU with torch {versions['torch']}: "
        f"{plural(len(LENGTHS), 'document')} of {plural(sum(LENGTHS), 'token')} in a row, in eval and in train mode"
    )
