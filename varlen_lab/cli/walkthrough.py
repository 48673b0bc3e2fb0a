"""``varlen-lab walkthrough``: every notebook, then one page that shows what came out."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Run every notebook in order, then write one page that opens offline: runs/walkthrough/index.html."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, how long to take, and which notebooks."""
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("runs/walkthrough"), help="folder (default: runs/walkthrough)"
    )
    parser.add_argument("--quick", action="store_true", help="shorter trainings: quick=True in each notebook")
    parser.add_argument("--only", nargs="+", metavar="NB", help="only these: --only 05 07_masks")


def run(args: argparse.Namespace) -> int:
    """0 when every notebook ran, 1 when one failed."""
    from varlen_lab.course.notebooks import walkthrough

    return walkthrough(args.out, quick=args.quick, only=args.only)
