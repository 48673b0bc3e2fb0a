"""The mask explorer in a page without a kernel: the widget's own JavaScript, started from plain arrays.

``row_data`` makes the arrays of a row, ``fragment`` the HTML that holds them, ``page`` a whole file. ``SCRIPT`` finds
every fragment of its page and starts it; ``STYLE`` is how it looks. Names and texts of tokens are somebody else's:
they lie in the page as JSON that no parser of HTML can take for markup, and are shown as text.
"""

from __future__ import annotations

import base64
import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, quoted
from varlen_lab.language.saying import LANGUAGES, TAGS, counted, phrase, say, speaking, spoken
from varlen_lab.viz.explorer_words import tables
from varlen_lab.viz.masks import PackedRow, legible
from varlen_lab.viz.policy import csp
from varlen_lab.viz.style import DARK, LIGHT, Theme

HERE = Path(__file__).parent
DOCUMENT_LIMIT = 10_000  # the browser draws so many in a moment
ROW_LIMIT = 1_000  # steps of a slider
TEXT_BUDGET = 100_000  # bytes of names, and bytes of tokens' texts, that a page holds
PICTURE_LIMIT = 150_000  # bytes of the picture for a browser without scripts
UNSAFE = re.compile("[<>&\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]")
MODES = ("both", "full", "varlen")
EXPORT = "export default { render };\n"  # such a file is a module for anywidget; a page has no modules


def _script() -> str:
    """explorer.js and explorer_page.js as one script that leaves no name behind."""
    drawing, starting = ((HERE / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer_page.js"))
    colours = json.dumps({"light": asdict(LIGHT), "dark": asdict(DARK)}, allow_nan=False)
    words = json.dumps(tables(), allow_nan=False, ensure_ascii=False)
    begin = f'"use strict";\n(() => {{\nconst COLOURS = {colours};\nconst WORDS = {words};\n'
    return f"{begin}{drawing.removesuffix(EXPORT)}\n{starting}}})();\n"


SCRIPT = _script()
STYLE = "".join((HERE / name).read_text(encoding="utf-8") for name in ("explorer.css", "explorer_page.css"))


def row_data(
    row: PackedRow,
    tokens: Iterable[str] | None = None,
    *,
    dark: bool | None = None,
    mode: str = "both",
    rows: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """What the browser draws of ``row``, as JSON: the data of ``fragment``, small even for a wide row.

    ``tokens``: the text of each, the first ones within a budget are kept. ``dark``: None is as the page is.
    ``rows``: lengths of the rows that the slider of documents goes through; None: the first documents of this one.
    """
    names = [row.name(index) for index in range(len(row.lengths))] if row.names else []
    return {
        "lengths": checked(row).lengths.tolist(),
        "total": row.total,
        "names": within_budget(names),
        "tokens": within_budget(tokens or []),
        "window": row.window,
        "causal": row.causal,
        "mode": mode,
        "dark": dark,
        "language": spoken(),
        "rows": None if rows is None else [list(lengths) for lengths in rows],
    }


def checked(row: PackedRow) -> PackedRow:
    """The row, or an InputError when it has more documents than a browser draws in a moment."""
    if len(row.lengths) > DOCUMENT_LIMIT:
        raise InputError(
            f"the row has {len(row.lengths):,} documents, the explorer shows at most {DOCUMENT_LIMIT:,}; "
            "use draw_masks, or a part of it."
        )
    return row


def within_budget(texts: Iterable[str]) -> list[str]:
    """The first of ``texts``, as many as the budget allows."""
    kept: list[str] = []
    room = TEXT_BUDGET
    for text in map(storable, texts):
        room -= len(text.encode("utf-8")) + 3  # quotes and a comma
        if room < 0:
            break
        kept.append(text)
    return kept


def storable(text: str) -> str:
    """Text that a file in UTF-8 can hold: half a character is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def fragment(data: Mapping[str, Any], *, label: str, picture: str = "") -> str:
    """The explorer of ``row_data`` as HTML, for a page with SCRIPT and STYLE; without them it is the alt text.

    ``data`` may come from a file: it is checked, and what is not a row is an InputError. ``label``: what a screen
    reader calls it. ``picture``: HTML for a browser without scripts, above the words. It speaks the language of
    ``data``, whatever its page does.
    """
    row, data = read_data(data)
    shown = f"<noscript>{picture}</noscript>\n" if picture else ""
    with speaking(data["language"]):
        label, told = heading(phrase(label)), escape(row.alt_text())
    tongue = "" if data["language"] == "en" else f' lang="{TAGS[data["language"]]}"'
    return (
        f'<div class="varlen-page"{tongue} role="group" aria-label="{label}">\n'
        f'<script type="application/json">{json_in_html(data)}</script>\n'
        f'{shown}<p class="varlen-fallback">{told}</p>\n</div>\n'
    )


def read_data(data: Mapping[str, Any]) -> tuple[PackedRow, dict[str, Any]]:
    """The row of ``data`` and the same data, made anew from what was read; InputError when it is none."""
    try:
        lengths, texts, rows = data["lengths"], data.get("tokens") or [], data.get("rows")
        names, dark, mode = data.get("names") or [], data.get("dark"), data.get("mode", "both")
        language = str(data.get("language", "en"))
        row = PackedRow(lengths, data.get("window"), None, data.get("causal", True))
        if rows is not None and len(rows) > ROW_LIMIT:
            raise InputError(f"the explorer has {len(rows):,} rows to choose from, it shows at most {ROW_LIMIT:,}.")
        rows = None if rows is None else [checked(PackedRow(each, None, None)).lengths.tolist() for each in rows]
    except (KeyError, TypeError, AttributeError, OverflowError) as problem:
        raise InputError(f"this is no row of the explorer ({problem!r}); make one with row_data.") from None
    if not all(isinstance(texts_, list) and all(isinstance(t, str) for t in texts_) for texts_ in (names, texts)):
        raise InputError("names and tokens of a row must be lists of texts; make the row with row_data.")
    if mode not in MODES or dark not in (None, True, False) or len(names) > len(row.lengths):
        raise InputError(f"this is no row of the explorer (mode {quoted(mode)}); make one with row_data.")
    if language not in LANGUAGES:
        raise InputError(f"this is no row of the explorer (language {quoted(language)}); make one with row_data.")
    if len(names) == len(row.lengths):
        row.names = names
    with speaking(language):
        made = row_data(row, texts[: row.total], dark=dark, mode=mode, rows=rows)
    return row, made | {"names": within_budget(names)}


def json_in_html(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: nothing in it ends the element, a line, or the direction of writing."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return UNSAFE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def page(
    row: PackedRow,
    tokens: Iterable[str] | None = None,
    title: str = "One packed row, two attention masks",
    *,
    dark: bool = False,
) -> str:
    """A whole file, HTML that asks for nothing: the explorer of ``row``, each token's text under the pointer.

    ``dark``: dark always; else as the reader's browser asks.
    """
    data = row_data(row, tokens, dark=True if dark else None)
    title = phrase(title)
    words = heading(title)
    light_colours, dark_colours = page_colours(DARK if dark else LIGHT), page_colours(DARK)
    return f"""<!doctype html>
<html lang="{TAGS[spoken()]}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp([SCRIPT])}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="{"dark" if dark else "light dark"}">
<title>{words}</title>
<link rel="icon" href="data:,">
<style>
:root {{ {light_colours} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark_colours} }} }}
@media print {{ :root {{ {page_colours(LIGHT)} color-scheme: light; }} }}
body {{ margin: 0; padding: clamp(12px, 4vw, 44px); background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", sans-serif; }}
main {{ max-width: 960px; margin: 0 auto; }}
h1 {{ margin: 0 8px 14px; font-size: 22px; line-height: 1.25; letter-spacing: -0.01em; overflow-wrap: anywhere; }}
noscript img {{ max-width: 100%; height: auto; }}
{STYLE}</style>
</head>
<body>
<main>
<h1>{words}</h1>
{fragment(data, label=title, picture=picture(row, dark))}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def heading(text: str) -> str:
    """Somebody's words as one line of HTML."""
    return escape(" ".join(legible(text).split()))


def page_colours(colours: Theme) -> str:
    """Declarations of the page's own colours."""
    return f"--page: {colours.page}; --ink: {colours.ink};"


def picture(row: PackedRow, dark: bool) -> str:
    """An ``img`` of draw_masks' SVG for a browser without scripts; '' where the file would grow by too much."""
    from varlen_lab.viz.figures import draw_masks

    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts that lack a sign: most readers see the browser's fonts
        figure = draw_masks(row.lengths, window=row.window, names=row.names, causal=row.causal, dark=dark)
        figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()
    if len(svg) > PICTURE_LIMIT:
        return ""
    documents = counted(len(row.lengths), "document")
    words = say("{full} and varlen attention of {documents} in one row", full=row.full, documents=documents)
    return f'<img alt="{words}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode("ascii")}">'
