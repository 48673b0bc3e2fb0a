"""The tables of docs/stacks.md, made of docs/stacks.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE = DOCS / "stacks.json", DOCS / "stacks.md"
SIGNS = {"isolates": "✓ isolates", "leaks": "✗ leaks", "depends": "depends"}
COLUMNS = ("stack", "packs with", "isolates with", "attention it needs", "a default run", "verdict")


def table(record: dict[str, Any]) -> str:
    """A row for every stack."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for stack in record["stacks"]:
        ran = any(one["verdict"] in SIGNS for one in stack.get("settings", ()))  # not only padded, or refused
        how = " ".join(["measured" if ran else "cited", *filter(None, [stack.get("condition")])])
        cells = (
            f"**{stack['name']}** {stack['version']}",
            *(stack[name] for name in ("packs", "isolates", "attention", "default")),
            f"{SIGNS[stack['verdict']]}, {how}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measurements(record: dict[str, Any]) -> str:
    """A row for every setting that was run."""
    lines = [
        "| stack | setting | attention | logits, packed to alone | documents | `LeakCheck` says |",
        "|---|---|---|---|---|---|",
    ]
    for stack in record["stacks"]:
        for one in stack.get("settings", ()):
            logits = f"{one['logits']:.0e}" if "logits" in one else "–"
            verdict = SIGNS.get(one["verdict"], one["verdict"])
            lines.append(
                f"| {stack['name']} | {one['what']} | {one.get('attention', '–')} | {logits} | {verdict} "
                f"| {one.get('leak_check', '–')} |"
            )
    return "\n".join(lines)


def paste(page: str, record: dict[str, Any]) -> str:
    """The page with both tables in their places, between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
    for name, text in (("table", table(record)), ("measurements", measurements(record))):
        before, rest = page.split(f"<!-- {name} -->\n")
        _, after = rest.split(f"<!-- end of {name} -->")
        page = f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}"
    return page
