"""``varlen-lab list-cfg``: step 2, find a config."""

from __future__ import annotations

import argparse
import json
import sys

from varlen_lab import recipes
from varlen_lab.errors import nearest

HELP = "List the configs, or those that match a pattern."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pattern."""
    parser.add_argument("-p", "--pattern", default="", help="words the name must contain: -p 'internlm oasst'")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the matching names; 1 when nothing matches."""
    found = recipes.search(args.pattern)
    if not found:
        print(f"nothing matches {args.pattern!r}{nearest(args.pattern, recipes.names())}", file=sys.stderr)
        return 1
    rows = [{"name": name, **facts(name)} for name in found]
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
    return 0


def facts(name: str) -> dict[str, object]:
    """What a person chooses by."""
    config = recipes.get(name)
    model = config.pretrained_model_name_or_path or f"{(config.model_config or {})['model_type']} from scratch"
    return {"model": model, "data": config.data_path, "max_length": config.max_length, "epochs": config.max_epochs}
