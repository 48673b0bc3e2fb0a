"""``varlen-lab compare``: unpacked, packed and varlen on the same documents."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from varlen_lab.cli.resolve import add_config, read_config

HELP = "Run the three modes on the same documents per step, from the same weights, and set the losses side by side."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides, and where results go."""
    add_config(parser)
    parser.add_argument("--modes", nargs="+", default=None, metavar="MODE", help="unpacked packed varlen")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("-o", "--output", type=Path, help="folder for comparison.json and losses.png")


def run(args: argparse.Namespace) -> int:
    """Print the table and the verdict; 1 when varlen and unpacked differ from the first step on."""
    config = read_config(args.config, args.cfg_options)
    from rich.console import Console
    from rich.table import Table

    from varlen_lab.compare import compare
    from varlen_lab.config import MODES

    comparison = compare(config, tuple(args.modes or MODES), progress=not args.quiet)
    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = comparison.table()
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("mode", "backend") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(shown(column, value) for column, value in row.items()))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(table)
    console.print(comparison.verdict(), markup=False, soft_wrap=True)
    console.print(comparison.caption, markup=False, style="dim", soft_wrap=True)
    if args.output is not None:
        from varlen_lab.viz import draw_losses

        args.output.mkdir(parents=True, exist_ok=True)
        unfinished = args.output / "comparison.json.tmp"
        unfinished.write_text(comparison.to_json(), encoding="utf-8")
        os.replace(unfinished, args.output / "comparison.json")
        draw_losses(comparison.losses, caption=comparison.caption).savefig(args.output / "losses.png", dpi=150)
        console.print(f"wrote {args.output}/comparison.json and losses.png", markup=False)
    both = {"unpacked", "varlen"} <= set(comparison.histories)
    return 1 if both and comparison.rounding_from() == 1 else 0


def shown(column: str, value: object) -> str:
    """A number as its column wants it."""
    if not isinstance(value, float):
        return str(value)
    if column == "padding":
        return f"{value:.1%}"
    if column.startswith("max"):
        return f"{value:.1e}"
    return f"{value:,.0f}" if "tokens" in column else f"{value:.4f}" if "loss" in column else f"{value:.1f}"
