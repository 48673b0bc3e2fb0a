"""``varlen-lab list-cfg``: step 2, find a config."""

from __future__ import annotations

import argparse
import sys

from varlen_lab.config.names import closest_names, config_facts, search_names
from varlen_lab.machine.console import print_json, say
from varlen_lab.machine.tables import print_table

# What a name does not say comes first: where the rest does not fit beside it, it goes below.
HEAD = {
    "name": "name",
    "varlen": "varlen",
    "max_length": "max_length",
    "gpu_gib": "GPU GiB",
    "family": "family",
    "size": "size",
    "method": "method",
    "dataset": "dataset",
    "epochs": "epochs",
}
NUMBERS = ("max_length", "GPU GiB")


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
        say(f"nothing matches {pattern!r}; closest: {close}", hang=2, stream=sys.stderr)
        return 1
    rows = [{"name": name, **config_facts(name)} for name in found]
    if args.json:
        print_json(rows)
    else:
        print_table(list(HEAD.values()), ([str(row[fact]) for fact in HEAD] for row in rows), right=NUMBERS)
    return 0
