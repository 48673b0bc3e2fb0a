"""``varlen-lab census``: every causal language model class of transformers, tiny, with every style of packed batch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from varlen_lab.cli.audit import known_attention
from varlen_lab.errors import InputError
from varlen_lab.machine import threads
from varlen_lab.machine.console import USUAL_WIDTH, print_json, say, track, width
from varlen_lab.machine.folding import folded
from varlen_lab.machine.tables import print_table
from varlen_lab.studies.registry import OURS, STYLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which classes, which styles, with which attention, and how to print."""
    parser.add_argument("names", nargs="*", metavar="CLASS", help="model types, such as llama; all by default")
    parser.add_argument(
        "--batch",
        action="append",
        metavar="STYLE",
        help=f"{', '.join(STYLES)}: how the model is told of documents; may be given more than once (default: all)",
    )
    defaults = ", ".join(f"{style.name} {style.attention}" for style in STYLES.values())
    parser.add_argument("--attn", metavar="NAME", help=f"attn_implementation for all styles (default: {defaults})")
    parser.add_argument("--causes", action="store_true", help="say below each class why it is not exact")
    parser.add_argument(
        "--no-isolate", action="store_true", help="ours: no layer that leaks is run document by document"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with versions")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write census.json and census.md there as well")


def run(args: argparse.Namespace) -> int:
    """Print a line a class and the totals; 1 where our batch is silently wrong or raises what is no sentence."""
    threads.use_one_thread()  # all of them are tiny
    from varlen_lab.studies.census import as_json, causal_lm_types, census
    from varlen_lab.studies.census_page import must_be_writable, write_both
    from varlen_lab.studies.one_class import NEVER

    styles = args.batch or list(STYLES)
    partial = [word for word, given in (("--batch", args.batch), ("--attn", args.attn), ("CLASS", args.names)) if given]
    if args.write and (partial or args.no_isolate):
        less = (partial or ["--no-isolate"])[0]
        raise InputError(f"--write keeps the whole census, and with {less} it is another one; leave {less} out.")
    if args.write:
        must_be_writable(args.write)  # before minutes of work
    work = census(args.names, styles, args.attn and known_attention(args.attn), not args.no_isolate)
    outcomes = list(track(work, "measuring", len(set(args.names)) or len(causal_lm_types())))
    kept = as_json(outcomes)
    if args.write:
        write_both(kept, args.write)
    if args.json:
        print_json(kept)
    else:
        show(outcomes, args.causes or len(set(styles)) == 1, kept["versions"])
    return int(any(each.style == OURS and each.verdict in NEVER for outcome in outcomes for each in outcome))


def show(outcomes: list[Any], causes: bool, versions: dict[str, str]) -> None:
    """The table, the totals, what the words mean and what it was measured on."""
    from varlen_lab.studies.census_table import head, meanings, measured_on, rows, totals

    styles = [each.style for each in outcomes[0]]
    print_table(head(styles), (row for outcome in outcomes for row in rows(outcome, causes)))
    say("")
    verdicts, *counts = totals(outcomes)
    print_table(verdicts, counts, right=verdicts[1:])
    for words in (verdicts[1:], styles):
        say("")
        wide = max(map(len, words)) + 2
        for word, meaning in meanings(words):
            beside_table(word.ljust(wide) + meaning, hang=wide)
    say("")
    beside_table(measured_on(len(outcomes), versions), "dim")


def beside_table(text: str, style: str = "", hang: int = 0) -> None:
    """Folded like a table, in a pipe too."""
    for line in folded(text, width() or USUAL_WIDTH, hang):
        say(line, style)
