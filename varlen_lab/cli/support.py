"""``varlen-lab support``: the page's support table, measured on this machine."""

from __future__ import annotations

import argparse
import json

COLUMNS = ("model", "class", "backend", "max |Δ logits|", "|Δ loss|", "max |Δ grad|", "leak", "here", "XTuner's page")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which families, and how to print."""
    parser.add_argument("--family", nargs="+", metavar="FAMILY", help="only these")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print one row a variant under its family; 1 when any is ❌."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from varlen_lab.models.building import families, variants
    from varlen_lab.models.registry import FAMILIES
    from varlen_lab.studies.support import LENGTHS, LIMIT, Support, measure

    wanted = args.family or families()
    work = [(family, variant) for family in wanted for variant in variants(family)]  # a typo is found before any work
    # on stderr, so that stdout holds the table or the JSON and nothing else
    progress = Console(stderr=True)
    hidden = not progress.is_terminal
    rows: list[Support] = [
        measure(*each) for each in track(work, "Auditing", console=progress, transient=True, disable=hidden)
    ]
    ok = all(row.ok for row in rows)
    if args.json:
        print(json.dumps([asdict(row) | {"ok": row.ok} for row in rows], indent=1, ensure_ascii=False))
        return 0 if ok else 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if "Δ" in column or column == "leak" else "left", no_wrap=True)
    for family in wanted:
        mine = [row for row in rows if row.family == family]
        record = FAMILIES[family]
        table.add_row(f"[bold]{record.title}[/]", *[""] * 6, mark(all(row.ok for row in mine)), mark(record.on_page))
        for row in mine:
            numbers = (f"{value:.1e}" for value in (row.logits, row.loss, row.gradients))
            leak = f"{row.leak:.1e}" if row.leak else "0"
            table.add_row(f"  {row.variant}", row.native_class, row.backend, *numbers, leak, mark(row.ok), "")
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(table)
    console.print(
        f"{len(rows)} variants in {len(wanted)} families: tiny random stand-ins of the real architectures, "
        f"{len(LENGTHS)} documents of {sum(LENGTHS)} tokens packed against each alone, fp32; ✅ is no leak and "
        f"|Δ logits| ≤ {LIMIT:.0e}",
        style="dim",
        soft_wrap=True,
    )
    for row in rows:
        for finding in row.findings:
            console.print(f"{row.variant}: {finding}", markup=False, soft_wrap=True)
    return 0 if ok else 1


def mark(yes: bool) -> str:
    """✅ or ❌, as XTuner's page marks it."""
    return "✅" if yes else "❌"
