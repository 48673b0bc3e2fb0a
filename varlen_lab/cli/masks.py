"""``varlen-lab masks``: the mask figure of one packed row, as a file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from varlen_lab.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = "Draw who sees whom in one packed row: full causal attention beside varlen attention."
FORMATS = ("png", "svg", "pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Lengths, names, window, output file."""
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        required=True,
        metavar="N",
        help="tokens of each document, in row order: --lengths 70 300 180",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="a name for each document")
    parser.add_argument("--window", type=int, metavar="W", help="sliding window: a token sees W tokens")
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
    if args.names is not None and len(args.names) != len(args.lengths):
        raise InputError(
            f"there are {len(args.names)} names for {len(args.lengths)} documents; give one each, or no --names"
        )
    if not 20 <= args.dpi <= 1200:
        raise InputError(f"--dpi is {args.dpi}, it must be from 20 to 1200; 150 fits a page")
    from rich.console import Console

    from varlen_lab.packing.boundaries import Boundaries
    from varlen_lab.viz.figures import draw_masks

    boundaries = Boundaries.from_lengths(args.lengths)
    figure = draw_masks(boundaries, window=args.window, names=args.names)
    save(figure, args.output, suffix, args.dpi)
    Console(highlight=False, soft_wrap=True).print(f"wrote {args.output}", markup=False)
    return 0


def save(figure: Figure, path: Path, suffix: str, dpi: int) -> None:
    """Write beside, then move into place, so that a full disk never leaves half a picture."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(temporary, format=suffix, dpi=dpi)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as problem:
        raise InputError(f"{path} cannot be written ({problem.strerror}); choose another -o") from None
