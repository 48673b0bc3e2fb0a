"""``varlen-lab masks``: the mask figure of one packed row as a file, or the explorer as a page.

varlen-lab masks --lengths 70 300 180 -o masks.svg
varlen-lab masks tiny_llama_full_docstrings_e1 --row 3 --dark -o row3.png
varlen-lab masks tiny_llama_full_docstrings_e1 --html row0.html
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import check_outputs, open_rows, output_file, read_config, save_figure
from varlen_lab.errors import InputError, plural
from varlen_lab.files.places import check_file
from varlen_lab.machine.arguments import whole
from varlen_lab.machine.console import say

if TYPE_CHECKING:
    from varlen_lab.viz.masks import PackedRow

FORMATS = ("png", "svg", "pdf")
PAGES = (".html", ".htm")
WORD_BEGINS = "\u2581"  # SentencePiece's blank
PICTURE = Path("masks.png")
MOST_WRITTEN = 200  # characters of a list that is written another way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the row holds (lengths, or a config and a row of it), the window, the output file."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="draw a row of this config's packed data")
    parser.add_argument("--row", type=int, metavar="N", help="which row of CONFIG, counted from 0 (default: 0)")
    parser.add_argument(
        "--lengths",
        type=length,
        nargs="+",
        metavar="N",
        help="instead of CONFIG: tokens of each document, in row order: --lengths 70 300 180",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="a name for each document")
    parser.add_argument("--window", type=int, metavar="W", help="sliding window: a token sees W tokens")
    parser.add_argument("--bidirectional", action="store_true", help="tokens see what follows them too, as in BERT")
    parser.add_argument("--dark", action="store_true", help="for a dark page")
    parser.add_argument("-o", "--output", type=Path, help=f"png, svg or pdf (default: {PICTURE}, or none with --html)")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page to walk through the masks, with the text of every token of CONFIG's row",
    )
    parser.add_argument("--dpi", type=int, default=150, help="dots per inch of a png (default: 150)")


def length(word: str) -> int:
    """A word behind ``--lengths`` as a number; what argparse says of another one tells how several are written."""
    try:
        return whole(word)
    except argparse.ArgumentTypeError as problem:
        instead = f", write --lengths {' '.join(word.replace(',', ' ').split())}" if "," in word[:MOST_WRITTEN] else ""
        raise argparse.ArgumentTypeError(f"{problem}{instead[:MOST_WRITTEN]}") from None


def run(args: argparse.Namespace) -> int:
    """Draw and save; a file appears whole or not at all."""
    check_arguments(args)
    lengths, names, tokens = (args.lengths, None, None) if args.config is None else row_of(args.config, args.row or 0)
    if args.names is not None and len(args.names) != len(lengths):
        raise InputError(
            f"there are {plural(len(args.names), 'name')} for {plural(len(lengths), 'document')}; "
            "give one each, or no --names"
        )
    from varlen_lab.viz.masks import PackedRow

    row = PackedRow(lengths, args.window, args.names or names, not args.bidirectional)
    if args.output or not args.html:
        save_picture(row, args.output or PICTURE, args.dark, args.dpi)
    if args.html:
        title = (
            f"{Path(args.config).name}, row {args.row or 0}" if args.config else "One packed row, two attention masks"
        )
        save_page(row, tokens, args.html, title, args.dark)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """InputError for endings, dots and combinations that cannot be, before anything is read."""
    suffix = (args.output or PICTURE).suffix
    if suffix.removeprefix(".").lower() not in FORMATS:
        page = "; for a page use --html" if suffix.lower() in PAGES else ""
        raise InputError(
            f"{args.output} ends in {suffix or 'nothing'!r}, a figure can be "
            f"{', '.join(FORMATS)}; for example -o masks.png{page}"
        )
    if args.html and args.html.suffix.lower() not in PAGES:
        raise InputError(
            f"--html {args.html} ends in {args.html.suffix or 'nothing'!r}, a page ends in .html; "
            "for a picture use -o, for a page for example --html masks.html"
        )
    if not 20 <= args.dpi <= 1200:
        raise InputError(f"--dpi is {args.dpi}, it must be from 20 to 1200; 150 fits a page")
    if (args.config is None) == (args.lengths is None):
        raise InputError("pass either a CONFIG or --lengths; for example: varlen-lab masks --lengths 70 300 180")
    if args.row is not None and args.config is None:
        raise InputError(f"--row {args.row} is a row of a CONFIG, and there is none; put a config name before it")
    if args.output:
        check_file(args.output, "-o")
    elif not args.html:
        check_outputs(Path(), [str(PICTURE)])
    if args.html:
        check_file(args.html, "--html")


def save_picture(row: PackedRow, path: Path, dark: bool, dpi: int) -> None:
    """The figure of ``draw_masks`` in the format of the file's ending."""
    from varlen_lab.viz.figures import draw_masks

    save_figure(draw_masks(row.lengths, window=row.window, names=row.names, causal=row.causal, dark=dark), path, dpi)
    say(f"wrote {path}")


def save_page(row: PackedRow, tokens: Iterator[str] | None, path: Path, title: str, dark: bool) -> None:
    """The explorer as one file that asks for nothing."""
    from varlen_lab.viz.explorer_page import page

    text = page(row, tokens, title, dark=dark)
    with output_file(path, instead="--html") as file:
        file.write(text.encode("utf-8"))
    say(f"wrote {path}")


def row_of(word: str, number: int) -> tuple[list[int], list[str], Iterator[str]]:
    """Document lengths of one packed row of a config's data, each document's first words, and each token's text."""
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
    return lengths, names, texts_of(ids.tolist(), tokenizer)


def texts_of(ids: Sequence[int], tokenizer: Any) -> Iterator[str]:
    """The text of each token, with the blank before a word; a part of a character is the tokenizer's own name of it."""

    @cache
    def text_of(token: int) -> str:
        piece, text = tokenizer.convert_ids_to_tokens(token), tokenizer.decode([token])
        if "\ufffd" in text:  # bytes of a character that takes several tokens
            return str(piece)
        begins = str(piece).startswith(WORD_BEGINS) and not text.startswith(" ")  # SentencePiece's decoding drops it
        return f" {text}" if begins else str(text)

    return map(text_of, ids)
