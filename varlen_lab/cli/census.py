"""``varlen-lab census``: every causal language model class of transformers, tiny, with every style of packed batch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from varlen_lab.cli.audit import known_attention
from varlen_lab.errors import InputError
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
    from varlen_lab.studies.census import as_json, causal_lm_types, census, written
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
    outcomes = with_bar(work, len(set(args.names)) or len(causal_lm_types()))
    kept = as_json(outcomes)
    if args.write:
        write_both(kept, args.write)
    if args.json:
        print(written(kept), end="")
    else:
        show(outcomes, args.causes or len(set(styles)) == 1, kept["versions"])
    return int(any(each.style == OURS and each.verdict in NEVER for outcome in outcomes for each in outcome))


def with_bar(work: Any, total: int) -> list[Any]:
    """All that ``work`` gives, with a bar on stderr where that is a terminal: stdout holds the result alone."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(track(work, "Measuring", total, console=console, transient=True, disable=not console.is_terminal))


def show(outcomes: list[Any], causes: bool, versions: dict[str, str]) -> None:
    """The table, the totals, what the words mean and what it was measured on."""
    from rich.console import Console
    from rich.text import Text

    from varlen_lab.studies.census_table import COLOURS, head, lines, measured_on, totals

    console = Console(highlight=False, soft_wrap=True)
    if len(outcomes[0]) > 1:
        console.print(head([each.style for each in outcomes[0]]), style="bold", markup=False)
    for outcome in outcomes:
        for line in lines(outcome, causes):
            text = Text(line)
            for colour, words in () if line.startswith(" ") else COLOURS:
                text.highlight_words(words, colour)
            console.print(text)
    console.print("\n" + "\n".join(totals(outcomes)), markup=False)
    console.print("\n" + measured_on(len(outcomes), versions), markup=False, style="dim")
