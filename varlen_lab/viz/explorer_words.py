"""The words of the explorer in the browser, one table a language: English stands here, as in every other module.

The browser gets a table, not sentences, for what it says depends on what the pointer finds: templates with ``{names}``
that ``explorer.js`` fills in, and for each noun what stands for one thing and for several. A widget is sent the table
of the language spoken; a page's script holds all tables, and the data of each fragment says which is its own.
"""

from __future__ import annotations

from varlen_lab.language.saying import LANGUAGES, phrase, speaking
from varlen_lab.viz.masks import COUNTS, REACH, SUMMARY, SUMMARY_SAME

NOUNS = ("document", "token", "cell")
WORDS = {
    # around the canvas
    "role": "attention mask",
    "own": "own document",
    "cross": "another document",
    "empty": "not seen",
    "zoom out": "zoom out",
    "whole row": "whole row",
    "zoom in": "zoom in",
    "help": (
        "drag: zoom · double click or 0: whole row · arrows: move, with shift ten tokens · "
        "Home and End: first and last key · Page Up and Page Down: another document · "
        "+ and −: zoom · Escape: whole row, no cell"
    ),
    "in view": "in view: queries {top} to {bottom}, keys {left} to {right}.",
    # on it
    "Full causal": "Full causal",
    "Full": "Full",
    "Varlen": "Varlen",
    "axes": "query ↓  key →",
    "document": "document {number}",
    # of the cell under the pointer
    "place": "{token} ({document} +{offset})",
    "place with text": "{token} “{text}” ({document} +{offset})",
    "cell": "query {query} → key {key}: {full}, {varlen}",
    "later": "full blocked, later",
    "outside": "full blocked, outside the window",
    "full sees": "full sees",
    "varlen sees": "varlen sees",
    "varlen blocked": "varlen blocked",
    "stranger": "varlen blocked, another document",
    # in a page: the controls, and what PackedRow says where there is a kernel
    "documents": "documents",
    "window": "window",
    "off": "off",
    "masks": "masks",
    "both": "both",
    "full": "full causal",
    "varlen": "varlen",
    "causal": "causal",
    "kept": "This page holds the text of the first {kept} of {tokens}.",
    "full causal within": "full causal",
    "full within": "full",
    "counts": COUNTS,
    "summary": SUMMARY,
    "same": SUMMARY_SAME,
    "reach": REACH,
    "described": (
        "Two attention masks{reach} of one row of {counts}. "
        "{full}: {cells}, {share} of them look into another document. Varlen: {own}, {saving} times fewer."
    ),
}
Table = dict[str, str | list[str]]


def table() -> Table:
    """The words in the language spoken: a template, or for a noun two, of one and of several."""
    words: Table = {name: phrase(template) for name, template in WORDS.items()}
    return words | {f"# {noun}": forms(noun) for noun in NOUNS}


def forms(noun: str) -> list[str]:
    """What ``counted`` makes of one thing and of several, with the number to be filled in.

    >>> forms("cell")
    ['{count} cell', '{count} cells']
    """
    form = phrase(f"# {noun}")
    if form == f"# {noun}":
        return [f"{{count}} {noun}", f"{{count}} {noun}s"]
    return [form.replace("{count:,}", "{count}")] * 2


def tables() -> dict[str, Table]:
    """The table of every language, by its name."""
    found = {}
    for language in LANGUAGES:
        with speaking(language):
            found[language] = table()
    return found
