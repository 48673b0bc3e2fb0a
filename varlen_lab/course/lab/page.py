"""The lab in a page without a kernel: recorded runs, and the very JavaScript of the widget.

``fragment`` is the HTML of a lab, for a page that has ``SCRIPT`` and ``STYLE``; without scripts it is the list of the
twelve mistakes. What a notebook brings (``LAB_TYPE``) says only which language and which switch: all that is shown
comes out of the package, so there is nothing foreign to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from varlen_lab.course.lab.record import recorded
from varlen_lab.course.lab.switches import SWITCHES, Switch
from varlen_lab.course.lab.texts import LETTERS, correct, interface, mistaken, told
from varlen_lab.errors import InputError, quoted
from varlen_lab.language.saying import LANGUAGES, TAGS, say, speaking, spoken
from varlen_lab.viz.explorer_page import EXPORT, json_in_html
from varlen_lab.viz.style import DARK, LIGHT

HERE = Path(__file__).parent
START = """
const startAll = () => {
  for (const place of document.querySelectorAll(".varlen-lab-page")) {
    const data = JSON.parse(place.querySelector('script[type="application/json"]').textContent);
    render({ model: { get: (name) => (name === "data" ? data : undefined) }, el: place });
  }
};
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
"""


def _script() -> str:
    """lab.js as a script that leaves no name behind and starts every lab of its page."""
    drawing = (HERE / "lab.js").read_text(encoding="utf-8").removesuffix(EXPORT)
    return f'"use strict";\n(() => {{\n{drawing}{START}}})();\n'


SCRIPT = _script()
STYLE = (HERE / "lab.css").read_text(encoding="utf-8")


def lab_data(record: Mapping[str, Any] | None = None, switch: str | None = None) -> dict[str, Any]:
    """All that the front end shows, as JSON, in the language spoken; ``switch``: the one that is on at first."""
    held = dict(record or recorded())
    texts = {name: each.words() for name, each in SWITCHES.items()}
    return {
        "language": TAGS[spoken()],
        "words": interface(),
        "colours": {"light": asdict(LIGHT), "dark": asdict(DARK)},
        "letters": LETTERS,
        "lengths": held["lengths"],
        "truths": held["truths"],
        "truth": held["truth"],
        "right": shown(held["right"], held),
        "switches": [
            {
                "name": name,
                **texts[name],
                "correct": correct(texts[name]),
                "mistaken": mistaken(texts[name], "{sign}"),
                "source": each.source,
                "url": each.url,
                "run": shown(held["switches"][name], held),
            }
            for name, each in SWITCHES.items()
            if name in held["switches"]
        ],
        "on": switch,
    }


def shown(run: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A run and what is said of it."""
    return run | {"told": told(run, dict(record))}


def fragment(language: str = "en", *, switch: str | None = None) -> str:
    """The lab as HTML, in ``language``; InputError for a language or a switch that there is not."""
    with speaking(language):
        data = lab_data(switch=read_asked({"language": language, "switch": switch})[1])
        items = "".join(f"<li>{listed_mistake(each)}</li>\n" for each in SWITCHES.values())
        return (
            f'<div class="varlen-lab-page" lang="{TAGS[language]}">\n'
            f'<script type="application/json">{json_in_html(data)}</script>\n'
            f"<noscript><p>{escape(say('The lab moves where scripts may run. These are its twelve mistakes:'))}</p>\n"
            f"<ol>\n{items}</ol></noscript>\n</div>\n"
        )


def listed_mistake(switch: Switch) -> str:
    """A switch as HTML of the list that stands in its place where no script runs."""
    words = {name: escape(text) for name, text in switch.words().items()}
    said = say("{label}: {deed} {fix}", label=f"<b>{words['label']}</b>", deed=words["deed"], fix=words["fix"])
    return f'{said} <a rel="noopener noreferrer" href="{escape(switch.url)}">{escape(switch.source)}</a>'


def asked(switch: str | None = None) -> dict[str, Any]:
    """What a notebook keeps of a lab: the data of ``LAB_TYPE``."""
    return {"language": spoken(), "switch": switch}


def read_asked(data: Any) -> tuple[str, str | None]:
    """Language and switch of what a notebook kept; InputError for anything else."""
    if not isinstance(data, Mapping):
        raise InputError(f"this is no lab ({quoted(data)}); break_it() makes one.")
    language, switch = data.get("language"), data.get("switch")
    if not isinstance(language, str) or language not in LANGUAGES:
        raise InputError(f"this is no lab (language {quoted(language)}); break_it() makes one.")
    if switch is not None and (not isinstance(switch, str) or switch not in SWITCHES):
        raise InputError(f"this is no lab (switch {quoted(switch)}); break_it() makes one.")
    return language, switch
