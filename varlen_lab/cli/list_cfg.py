"""``varlen-lab list-cfg``: step 2, find a config."""

from __future__ import annotations

import argparse
import difflib
import json
import sys

from varlen_lab import recipes

HELP = "List the configs, or those that match a pattern."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pattern."""
    parser.add_argument("-p", "--pattern", default="", help="words the name must contain: -p 'internlm oasst'")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the matching names; 1 when nothing matches."""
    found = recipes.search(args.pattern)
    if not found:
        close = difflib.get_close_matches(args.pattern, recipes.names(), n=3, cutoff=0.3)
        print(f"nothing matches {args.pattern!r}; closest: {', '.join(close) or 'none'}", file=sys.stderr)
        return 1
    rows = [{"name": name, **facts(name)} for name in found]
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column.replace("gpu_gib", "GPU GiB"), no_wrap=True)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
    return 0


def facts(name: str) -> dict[str, object]:
    """What a person chooses by."""
    config = recipes.get(name)
    known = recipes.facts(name)
    gib = known.pop("gpu_gib")
    more = {"varlen": config.use_varlen_attn, "max_length": config.max_length, "epochs": config.max_epochs}
    return {**known, **more, "gpu_gib": gib}
