"""``varlen-lab pack-report``: what packing would do to a dataset, before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_config, check_outputs, is_data, output_file, read_source, save_figure
from varlen_lab.config.schema import Config
from varlen_lab.errors import plural
from varlen_lab.files.strict import strict_json
from varlen_lab.machine import console
from varlen_lab.machine.folding import Cell
from varlen_lab.machine.tables import print_table
from varlen_lab.packing.registry import OVERLONG, STRATEGIES

if TYPE_CHECKING:
    import numpy as np

    from varlen_lab.packing.cost import Cost
    from varlen_lab.packing.strategies import PackReport, Packs

FILES = ("pack_report.json", "lengths.png", "rows.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to pack, into which rows, and where the report goes."""
    add_config(parser, "source", "CONFIG|FILE", "a config or its name, a data file, builtin:docstrings")
    parser.add_argument(
        "--max-length", type=int, nargs="+", metavar="N", help="tokens of a row (default: the config's; 2048 4096 8192)"
    )
    parser.add_argument("--strategy", help=f"{', '.join(STRATEGIES)} (default: the config's)")
    parser.add_argument("--overlong", help=f"{', '.join(OVERLONG)} (default: the config's)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows in a batch (default: the config's; 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("-o", "--output", type=Path, help="a folder for pack_report.json, lengths.png and rows.png")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 unless the input cannot be packed."""
    from varlen_lab.packing.cost import Cost
    from varlen_lab.packing.rows import document_lengths
    from varlen_lab.packing.strategies import pack_lengths
    from varlen_lab.packing.trained import trained_in_plan
    from varlen_lab.training.data import load_tokenizer, tokenised_documents

    if args.output is not None:
        check_outputs(args.output, FILES)
    config, row_lengths = config_and_row_lengths(args.source, args.cfg_options)
    budgets = args.max_length or row_lengths
    strategy, overlong = args.strategy or config.pack_strategy, args.overlong or config.overlong
    batch_size = config.batch_size if args.batch_size is None else args.batch_size
    documents = tokenised_documents(config, load_tokenizer(config))
    lengths = document_lengths(documents)
    plans = [pack_lengths(lengths, budget, strategy, overlong) for budget in dict.fromkeys(budgets)]
    reports = [plan.report(trained_in_plan(documents, plan)) for plan in plans]
    costs = [Cost.of(plan, batch_size, config.accumulative_counts) for plan in plans]
    found = [report.to_dict() | cost.to_dict() for report, cost in zip(reports, costs, strict=True)]
    if args.json:
        console.print_json({"source": args.source, "reports": found})
    else:
        show(reports, costs)
    if args.output is not None:
        save(args.output, {"source": args.source, "reports": found}, lengths, plans[0])
        if not args.json:
            console.say(f"wrote {args.output}/pack_report.json, lengths.png and rows.png")
    return 0


def config_and_row_lengths(source: str, overrides: list[str]) -> tuple[Config, list[int]]:
    """The config whose data is packed, and the row lengths to try: its own, or for bare data those in common use."""
    config = read_source(source, overrides, batch_size=8, accumulative_counts=1)
    usual = is_data(source) and not any(pair.startswith("max_length=") for pair in overrides)
    return config, [2048, 4096, 8192] if usual else [config.max_length]


def show(reports: list[PackReport], costs: list[Cost]) -> None:
    """Counts down the side, one column for each row length; then what is to be known of each."""
    first = reports[0]
    documents, tokens = plural(first.documents, "document"), plural(first.tokens, "token")
    console.say(f"{documents}, {tokens}, {first.strategy}")
    rows: list[list[Cell]] = []
    for name, values in lines(reports, costs):
        lost = name.startswith("tokens ") or name.endswith("train nothing")
        style = "red" if lost and set(values) != {"0"} else ""
        rows.append([(text, style) for text in (name, *values)])
    lengths = [f"{report.max_length:,}" for report in reports]
    print_table(["rows of", *lengths], rows, right=lengths)
    for report, cost in zip(reports, costs, strict=True):
        console.say(f"rows of {report.max_length:,}: {cost.note}", hang=2)


def lines(reports: list[PackReport], costs: list[Cost]) -> list[tuple[str, list[str]]]:
    """The report, a line each: its name and a cell for every row length."""
    pairs = list(zip(reports, costs, strict=True))
    return [
        ("packs", [f"{r.packs:,}" for r in reports]),
        ("at least needed", [f"{r.lower_bound:,}" for r in reports]),
        ("fill", [f"{r.fill:.2%}" for r in reports]),
        ("documents a pack", [f"{r.documents_per_pack:.1f}" for r in reports]),
        ("documents truncated", [f"{r.truncated_documents:,}" for r in reports]),
        ("tokens truncated", [f"{r.truncated_tokens:,}" for r in reports]),
        ("documents split", [f"{r.split_documents:,}" for r in reports]),
        ("documents dropped", [f"{r.dropped_documents:,}" for r in reports]),
        ("tokens dropped", [f"{r.dropped_tokens:,}" for r in reports]),
        ("documents that train nothing", [f"{r.untrained_documents:,}" for r in reports]),
        ("packs that train nothing", [f"{r.untrained_packs:,}" for r in reports]),
        ("attention, Σlen² of ΣT²", [f"{r.attention_share:.2%}" for r in reports]),
        ("padding, packed", [f"{c.packed_padding:.2%}" for _, c in pairs]),
        (f"padding, {plural(costs[0].batch_size, 'document')} a batch", [f"{c.padding:.2%}" for _, c in pairs]),
        ("padding, grouped by length", [f"{c.grouped_padding:.2%}" for _, c in pairs]),
        ("steps an epoch, unpacked", [f"{c.steps_before:,}" for _, c in pairs]),
        ("steps an epoch, packed", [f"{c.steps_after:,}" for _, c in pairs]),
        ("documents a step, unpacked", [f"{c.documents_per_step_before:.1f}" for _, c in pairs]),
        ("documents a step, packed", [f"{c.documents_per_step_after:.1f}" for _, c in pairs]),
    ]


def save(folder: Path, found: dict[str, Any], lengths: np.ndarray, plan: Packs) -> None:
    """The report as JSON, the lengths as a histogram, and rows before and after packing."""
    from varlen_lab.viz.lengths import draw_lengths
    from varlen_lab.viz.rows import draw_rows

    report, *pictures = (folder / name for name in FILES)
    with output_file(report, "w") as file:
        file.write(strict_json(found, indent=2) + "\n")
    for figure, path in zip((draw_lengths(lengths, plan.max_length), draw_rows(plan)), pictures, strict=True):
        save_figure(figure, path)
