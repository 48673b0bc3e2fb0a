"""``varlen-lab compare``: unpacked, packed and varlen on the same documents."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_config, add_no_isolate, check_outputs, output_file, read_config, save_figure, to_paste
from varlen_lab.errors import InputError, plural
from varlen_lab.machine import threads
from varlen_lab.machine.console import print_json, say
from varlen_lab.machine.ranks import is_first
from varlen_lab.machine.tables import print_table

if TYPE_CHECKING:
    from varlen_lab.studies.verdict import Comparison

COST = ("real tokens/s", "padding", "CPU seconds", "peak MiB", "backend")  # columns of the second table
PICTURE = "losses.png"
MOST_CHECKED = 100  # files of seeds that are looked for before any work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides, and where results go."""
    add_config(parser)
    parser.add_argument("--modes", nargs="+", default=None, metavar="MODE", help="unpacked packed varlen")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="repeat with N seeds; the figure gets bands")
    parser.add_argument("--from", dest="start", metavar="PTH", help="an iter_N.pth all modes start from")
    add_no_isolate(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("-o", "--output", type=Path, help="folder for comparison.json and losses.png")
    parser.add_argument("--json", action="store_true", help="print what comparison.json holds; a list if several seeds")


def run(args: argparse.Namespace) -> int:
    """Print a table and a verdict for each seed; 1 when varlen and unpacked differ by more than rounding."""
    config = read_config(args.config, [*args.cfg_options, *args.no_isolate])
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}, at least 1 run is needed.")
    first = is_first()  # of several processes it speaks for all
    if first and args.output is not None:
        check_outputs(args.output, (PICTURE, *(json_name(number) for number in range(min(args.seeds, MOST_CHECKED)))))
    threads.suit(config.model_config, config.pretrained_model_name_or_path)  # all modes on the same number
    from varlen_lab.config.schema import MODES
    from varlen_lab.studies.comparison import compare

    progress = first and not args.quiet
    comparisons: list[Comparison] = []
    for seed in range(config.seed, config.seed + args.seeds):
        modes = tuple(args.modes or MODES)
        kernel = comparisons[0].kernel if comparisons else None  # every seed on the one that the first chose
        comparison = compare(config.replace(seed=seed), modes, start=args.start, progress=progress, kernel=kernel)
        comparisons.append(comparison)
        if first and not args.json:
            show(comparison)
    if first and args.output is not None:
        save(args.output, comparisons)
    if first and args.json:
        found = [json.loads(comparison.to_json()) for comparison in comparisons]
        print_json(found[0] if args.seeds == 1 else found)
    elif first:
        if args.output is not None:
            say(f"wrote {args.output}/comparison.json and losses.png")
        for comparison in comparisons:
            say(to_paste(comparison.in_brief()), "bold", hang=2)
    return 0 if all(comparison.keeps_apart for comparison in comparisons) else 1


def show(comparison: Comparison) -> None:
    """Losses and cost in two tables, what they say, and what they were measured on."""
    rows = comparison.table()
    losses = [column for column in rows[0] if column not in COST]
    for columns in (losses, ["mode", *COST]):
        cells = ([formatted(column, row[column]) for column in columns] for row in rows)
        print_table(columns, cells, right=[column for column in columns if column not in ("mode", "backend")])
        say("")
    proof = comparison.first_step.sentence() if comparison.first_step else ""
    for sentence in filter(None, (comparison.verdict(), proof, comparison.packed_verdict())):
        say(sentence, hang=2)
    if untrained := comparison.untrained_steps:
        steps = plural(len(next(iter(comparison.losses.values()))), "step")
        say(f"{untrained} of {steps} had no token to train on and moved no weight", hang=2)
    say(comparison.caption, "dim", hang=2)


def save(folder: Path, comparisons: list[Comparison]) -> None:
    """``comparison.json`` of the first seed (``comparison_1.json``, ... of the others) and the figure over all."""
    from varlen_lab.viz.losses import draw_losses

    for number, comparison in enumerate(comparisons):
        with output_file(folder / json_name(number), "w") as file:
            file.write(comparison.to_json())
    first = comparisons[0]
    runs = {mode: [one.losses[mode] for one in comparisons] for mode in first.losses}
    losses = first.losses if len(comparisons) == 1 else runs
    rounding = max(first.tolerance()) if "unpacked" in first.losses else 0.0
    save_figure(draw_losses(losses, caption=first.caption, rounding=rounding), folder / PICTURE)


def json_name(number: int) -> str:
    """The file of a seed, counted from 0."""
    return f"comparison{f'_{number}' if number else ''}.json"


def formatted(column: str, value: Any) -> str:
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
