"""``varlen-lab list-cfg``: step 2, find a config."""

from __future__ import annotations

import argparse
import json
import sys

from varlen_lab.config.names import closest_names, config_facts, search_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pattern."""
    about = "words the name must contain: -p internlm oasst"
    parser.add_argument("-p", "--pattern", nargs="+", action="extend", default=[], metavar="WORD", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the matching names; 1 when nothing matches."""
    pattern = " ".join(args.pattern)
    found = search_names(pattern)
    if not found:
        close = ", ".join(closest_names(pattern)) or "none; without -p all names are listed"
        print(f"nothing matches {pattern!r}; closest: {close}", file=sys.stderr)
        return 1
    rows = [{"name": name, **config_facts(name)} for name in found]
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for line in table(rows):
        print(line)
    return 0


def table(rows: list[dict[str, object]]) -> list[str]:
    """The rows in columns, whole whatever the width; by hand, for rich takes half a second for all names."""
    head = [column.replace("gpu_gib", "GPU GiB") for column in rows[0]]
    cells = [head, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    # bold for people; a pipe gets plain text
    if sys.stdout.isatty():
        lines[0] = f"\033[1m{lines[0]}\033[0m"
    return lines
