"""``varlen-lab masks``: the mask figure of one packed row, as a file.

varlen-lab masks --lengths 70 300 180 -o masks.svg
varlen-lab masks tiny_llama_full_docstrings_e1 --row 3 --dark -o row3.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.cli import open_rows, read_config, save_figure
from varlen_lab.errors import InputError

FORMATS = ("png", "svg", "pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the row holds (lengths, or a config and a row of it), the window, the output file."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="draw a row of this config's packed data")
    parser.add_argument("--row", type=int, metavar="N", help="which row of CONFIG, counted from 0 (default: 0)")
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        metavar="N",
        help="instead of CONFIG: tokens of each document, in row order: --lengths 70 300 180",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="a name for each document")
    parser.add_argument("--window", type=int, metavar="W", help="sliding window: a token sees W tokens")
    parser.add_argument("--bidirectional", action="store_true", help="tokens see what follows them too, as in BERT")
    parser.add_argument("--dark", action="store_true", help="for a dark page")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("masks.png"), help="png, svg or pdf (default: masks.png)"
    )
    parser.add_argument("--dpi", type=int, default=150, help="dots per inch of a png (default: 150)")


def run(args: argparse.Namespace) -> int:
    """Draw and save; the file appears whole or not at all."""
    suffix = args.output.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{args.output} ends in {args.output.suffix or 'nothing'!r}, a figure can be "
            f"{', '.join(FORMATS)}; for example -o masks.png"
        )
    if not 20 <= args.dpi <= 1200:
        raise InputError(f"--dpi is {args.dpi}, it must be from 20 to 1200; 150 fits a page")
    if (args.config is None) == (args.lengths is None):
        raise InputError("pass either a CONFIG or --lengths; for example: varlen-lab masks --lengths 70 300 180")
    if args.row is not None and args.config is None:
        raise InputError(f"--row {args.row} is a row of a CONFIG, and there is none; put a config name before it")
    lengths, names = (args.lengths, None) if args.config is None else row_of(args.config, args.row or 0)
    if args.names is not None and len(args.names) != len(lengths):
        raise InputError(
            f"there are {len(args.names)} names for {len(lengths)} documents; give one each, or no --names"
        )
    from rich.console import Console

    from varlen_lab.packing.boundaries import Boundaries
    from varlen_lab.viz.figures import draw_masks

    boundaries = Boundaries.from_lengths(lengths)
    options = {"window": args.window, "causal": not args.bidirectional, "dark": args.dark}
    figure = draw_masks(boundaries, names=args.names or names, **options)
    save_figure(figure, args.output, args.dpi)
    Console(highlight=False, soft_wrap=True).print(f"wrote {args.output}", markup=False)
    return 0


def row_of(word: str, number: int) -> tuple[list[int], list[str]]:
    """Document lengths of one packed row of a config's data, and each document's first words."""
    rows, tokenizer, _ = open_rows(read_config(word).with_mode("varlen"))
    if not 0 <= number < len(rows):
        raise InputError(f"--row is {number}, {word} packs into rows 0 to {len(rows) - 1}; choose one of them")
    ids, lengths = rows[number]["input_ids"], rows[number]["seq_lengths"].tolist()
    names, start = [], 0
    for index, length in enumerate(lengths, start=1):
        words = tokenizer.decode(ids[start : start + min(length, 40)])
        for mark in tokenizer.all_special_tokens:
            words = words.replace(mark, " ")
        names.append(" ".join(words.split()) or f"document {index}")
        start += length
    return lengths, names
