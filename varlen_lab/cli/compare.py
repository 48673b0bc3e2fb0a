"""``varlen-lab compare``: unpacked, packed and varlen on the same documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from varlen_lab.cli import add_config, add_no_isolate, output_file, read_config, save_figure
from varlen_lab.errors import InputError
from varlen_lab.machine.ranks import is_first

if TYPE_CHECKING:
    from rich.console import Console

    from varlen_lab.studies.verdict import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides, and where results go."""
    add_config(parser)
    parser.add_argument("--modes", nargs="+", default=None, metavar="MODE", help="unpacked packed varlen")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="repeat with N seeds; the figure gets bands")
    parser.add_argument("--from", dest="start", metavar="PTH", help="an iter_N.pth all modes start from")
    add_no_isolate(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("-o", "--output", type=Path, help="folder for comparison.json and losses.png")


def run(args: argparse.Namespace) -> int:
    """Print a table and a verdict for each seed; 1 when varlen and unpacked differ by more than rounding."""
    config = read_config(args.config, [*args.cfg_options, *args.no_isolate])
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}, at least 1 run is needed.")
    from rich.console import Console

    from varlen_lab.config.schema import MODES
    from varlen_lab.studies.comparison import compare

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.quiet = not is_first()
    progress = not (args.quiet or console.quiet)
    comparisons: list[Comparison] = []
    for seed in range(config.seed, config.seed + args.seeds):
        modes = tuple(args.modes or MODES)
        kernel = comparisons[0].kernel if comparisons else None  # every seed on the one that the first chose
        comparison = compare(config.replace(seed=seed), modes, start=args.start, progress=progress, kernel=kernel)
        comparisons.append(comparison)
        show(console, comparison)
    if args.output is not None and not console.quiet:
        save(args.output, comparisons)
        console.print(f"wrote {args.output}/comparison.json and losses.png", markup=False)
    return 0 if all(comparison.keeps_apart for comparison in comparisons) else 1


def show(console: Console, comparison: Comparison) -> None:
    """The table, what it says, and what it was measured on."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = comparison.table()
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("mode", "backend") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(formatted(column, value) for column, value in row.items()))
    console.print(table)
    console.print(comparison.verdict(), markup=False, soft_wrap=True)
    if comparison.first_step is not None:
        console.print(comparison.first_step.sentence(), markup=False, soft_wrap=True)
    if comparison.packed_verdict():
        console.print(comparison.packed_verdict(), markup=False, soft_wrap=True)
    if comparison.untrained_steps:
        what = f"{comparison.untrained_steps} of {len(next(iter(comparison.losses.values())))} steps"
        console.print(f"{what} had no token to train on and moved no weight", markup=False, soft_wrap=True)
    console.print(comparison.caption, markup=False, style="dim", soft_wrap=True)


def save(folder: Path, comparisons: list[Comparison]) -> None:
    """``comparison.json`` of the first seed (``comparison_1.json``, ... of the others) and the figure over all."""
    from varlen_lab.viz.losses import draw_losses

    for number, comparison in enumerate(comparisons):
        path = folder / f"comparison{f'_{number}' if number else ''}.json"
        with output_file(path, "w") as file:
            file.write(comparison.to_json())
    first = comparisons[0]
    runs = {mode: [one.losses[mode] for one in comparisons] for mode in first.losses}
    losses = first.losses if len(comparisons) == 1 else runs
    save_figure(draw_losses(losses, caption=first.caption), folder / "losses.png")


def formatted(column: str, value: object) -> str:
    """A number as its column wants it."""
    if not isinstance(value, float):
        return str(value)
    if column == "padding":
        return f"{value:.1%}"
    if column.startswith("max"):
        return f"{value:.1e}"
    if column.endswith("cosine"):
        return f"{value:.7f}"
    return f"{value:,.0f}" if "tokens" in column else f"{value:.4f}" if "loss" in column else f"{value:.1f}"
