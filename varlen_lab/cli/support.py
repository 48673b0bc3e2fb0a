"""``varlen-lab support``: the page's support table, measured on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from varlen_lab.errors import plural
from varlen_lab.machine import threads
from varlen_lab.machine.console import print_json, say, track
from varlen_lab.machine.folding import Cell
from varlen_lab.machine.tables import print_table

if TYPE_CHECKING:
    from varlen_lab.studies.support import Support

HEAD = ("ours", "model", "XTuner", "logits", "grad", "leak", "class")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which families, and how to print."""
    parser.add_argument("--family", nargs="+", metavar="FAMILY", help="only these")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print one row a variant under its family; 1 when any is ❌."""
    threads.use_one_thread()  # all of them are tiny
    from dataclasses import asdict

    from varlen_lab.models.building import families, variants
    from varlen_lab.studies.support import measure

    wanted = args.family or families()
    work = [(family, variant) for family in wanted for variant in variants(family)]  # a typo is found before any work
    rows = [measure(*each) for each in track(work, "auditing", len(work))]
    if args.json:
        print_json([asdict(row) | {"ok": row.ok} for row in rows])
    else:
        print_table(HEAD, table(wanted, rows), right=("logits", "grad", "leak"))
        for line in notes(wanted, rows):
            say(line, "dim")
        for row in rows:
            for finding in row.findings:
                say(f"{row.variant}: {finding}", hang=2)
    return 0 if all(row.ok for row in rows) else 1


def table(wanted: Sequence[str], rows: Sequence[Support]) -> Iterator[Sequence[Cell]]:
    """A row a family with our mark and that of XTuner's page, below it a row a variant, and what leaks below that."""
    from varlen_lab.models.registry import FAMILIES
    from varlen_lab.studies.support import mark

    for family in wanted:
        mine, record = [row for row in rows if row.family == family], FAMILIES[family]
        yield mark(all(row.ok for row in mine)), (record.title, "bold"), mark(record.on_page), "", "", "", ""
        for row in mine:
            numbers = [f"{value:.0e}" for value in (row.logits, row.gradients)]
            leak = f"{row.leak:.0e}" if row.leak else "0"
            yield mark(row.ok), f" {row.variant}", "", *numbers, leak, row.native_class
            if not row.ok:
                yield ((f"       {why(row)}", "red"),)


def why(row: Support) -> str:
    """Which leak it is: the kind of each finding and where, such as ``merged documents, batch['cu_seq_lens_q']``."""
    found = [finding.split(": ")[0] for finding in row.findings]
    return "; ".join(found) or (f"leak of {row.leak:.0e}" if row.leak else f"logits differ by {row.logits:.0e}")


def notes(wanted: Sequence[str], rows: Sequence[Support]) -> Iterator[str]:
    """What was measured, what the marks and numbers mean, and by which attention."""
    from varlen_lab.studies.support import LENGTHS, LIMIT

    families = f"{len(wanted)} {'family' if len(wanted) == 1 else 'families'}"
    yield (
        f"{plural(len(rows), 'variant')} in {families}: tiny random stand-ins of the real architectures, "
        f"{plural(len(LENGTHS), 'document')} of {plural(sum(LENGTHS), 'token')} packed against each alone, fp32"
    )
    yield (
        f"ours: ✅ is no leak and logits within {LIMIT:.0e}; XTuner: what its page says of the family; "
        "logits, grad: largest difference; leak: largest gradient across a seam"
    )
    usual = max({row.backend for row in rows}, key=[row.backend for row in rows].count)
    others = [f"{row.variant} by {row.backend}" for row in rows if row.backend != usual]
    yield f"attention by {usual}" + (f", but {', '.join(others)}" if others else "")
