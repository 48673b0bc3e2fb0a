"""A picture of an output as HTML: as it is, or, if it is one of ours, with its twins for dark and for narrow pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from varlen_lab.course.pages.pictures import data_uri, picture
from varlen_lab.language.saying import say

NARROW = "(max-width: 600px)"
DARK = "(prefers-color-scheme: dark)"


def figure(data: bytes, alt: str, details: Mapping[str, Any]) -> str:
    """The picture ``data`` in a ``figure``, or ''; ``details``: the output's metadata of it, as Picture writes them."""
    shown = picture(data, alt, details.get("width"))
    ours = details.get("varlen_lab")
    if not shown:
        return ""
    if not isinstance(ours, dict):
        return f'<figure class="print">{shown}</figure>'
    from varlen_lab.course.pages.twins import twins  # here: it costs numpy and scipy

    made = twins(data, ours)
    sources = "".join(
        f'<source media="{media}" srcset="{data_uri(file)}"{size}>'
        for media, file, size in (
            (f"{NARROW} and {DARK}", made.stacked_dark, f' width="{made.narrow}"'),
            (NARROW, made.stacked, f' width="{made.narrow}"'),
            (DARK, made.dark, ""),
        )
        if file
    )
    kind = "ours" if made.dark else "print"
    label = escape(say("figure, scrolls sideways"))
    wide = "" if made.stacked else f' tabindex="0" aria-label="{label}"'
    return f'<figure class="{kind}{"" if made.stacked else " wide"}"{wide}><picture>{sources}{shown}</picture></figure>'
