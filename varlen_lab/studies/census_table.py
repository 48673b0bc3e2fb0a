"""The census in a terminal: lines of at most 80 characters from outcomes, nothing is measured or printed here.

Of several styles a class has one line, a word a style; of one style a line with its reasons below.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from varlen_lab.studies.one_class import EXACT, LEAKS, LENGTHS, LIMIT, NOT_BUILT, RAISES, REFUSED, SILENT, Outcome
from varlen_lab.studies.registry import STYLES

WIDTH = 80  # of a terminal
NAME, COLUMN = 26, 11
ISOLATED, UNSEEN = "exact *", "SILENT"
COLOURS = (("green", (f" {EXACT}",)), ("red", (f" {LEAKS}", f" {RAISES}", " SILENT")), ("yellow", (f" {REFUSED}",)))
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


def head(styles: Sequence[str]) -> str:
    """The line above the classes."""
    return "class".ljust(NAME) + "".join(style.ljust(COLUMN) for style in styles).rstrip()


def lines(outcomes: Sequence[Outcome], causes: bool) -> list[str]:
    """A class: a word for each style; with ``causes`` the reasons of all that are not exact below, indented."""
    found = [outcomes[0].name.ljust(NAME) + "".join(word(each).ljust(COLUMN) for each in outcomes).rstrip()]
    if len(outcomes) == 1 and outcomes[0].difference is not None:
        found[0] = f"{found[0].ljust(NAME + 15)}{outcomes[0].difference:7.0e}"
    for outcome in outcomes if causes else ():
        before = f"{outcome.style}: " if len(outcomes) > 1 else ""
        if because := reason(outcome):
            found += [f"    {line}" for line in textwrap.wrap(before + because, WIDTH - 4)]
    return found


def reason(outcome: Outcome) -> str:
    """Why a class is not exact, or what makes it exact; empty where there is nothing to say."""
    if outcome.verdict == EXACT:
        return f"document by document: {', '.join(outcome.isolated)}" if outcome.isolated else ""
    named = [f"{kind} ({layer})" for kind, layer in zip(outcome.kinds, outcome.layers, strict=True)]
    return ", ".join(named) or outcome.words


def totals(outcomes: Iterable[Sequence[Outcome]]) -> list[str]:
    """How many classes each style has of each verdict, a line a style, and what the words mean."""
    counts: dict[str, Counter[str]] = {}
    for each in outcomes:
        for outcome in each:
            counts.setdefault(outcome.style, Counter())[word(outcome)] += 1
    verdicts = [verdict for verdict in LEGEND if any(count[verdict] for count in counts.values())]
    found = ["".ljust(10) + "  ".join(verdicts)]
    for style, count in counts.items():
        cells = (str(count[verdict] or "-").rjust(len(verdict)) for verdict in verdicts)
        found.append(style.ljust(10) + "  ".join(cells))
    found.append("")
    for verdict in verdicts:
        found += wrapped(verdict, LEGEND[verdict])
    found.append("")
    for style in counts:
        found += wrapped(style, STYLES[style].about)
    return found


def wrapped(word: str, meaning: str) -> list[str]:
    """A word and what it means, in lines of the terminal's width."""
    width = max(map(len, LEGEND)) + 2
    return textwrap.wrap(meaning, WIDTH, initial_indent=word.ljust(width), subsequent_indent=" " * width)


def measured_on(classes: int, versions: dict[str, str]) -> str:
    """What the numbers were measured on."""
    named = f"{classes:,} class{'es' * (classes != 1)}"
    return (
        f"{named} of transformers {versions['transformers']}, tiny, fp32 on the CPU with torch {versions['torch']}:\n"
        f"{len(LENGTHS)} documents of {sum(LENGTHS)} tokens in a row, in eval and in train mode"
    )
