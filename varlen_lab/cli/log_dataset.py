"""``varlen-lab log-dataset``: a packed row as the model will get it, with its seams."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_config, open_rows, read_source
from varlen_lab.errors import InputError
from varlen_lab.packing.registry import IGNORE

if TYPE_CHECKING:
    from rich.text import Text

SHOWS = ("text", "masked_text", "input_ids", "labels", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """XTuner's ``--show``, and which row."""
    add_config(parser, about="a config file, a name from list-cfg, or a data file", metavar="CONFIG|FILE")
    parser.add_argument("--show", choices=SHOWS, default="text", help="masked_text puts [-100] in place of the rest")
    parser.add_argument("--row", type=int, default=0, metavar="N", help="which row, from 0 (default: the first)")


def run(args: argparse.Namespace) -> int:
    """Print one row, document by document."""
    config = read_source(args.config, args.cfg_options)
    from rich.console import Console

    from varlen_lab.documents.templates import whose

    rows, tokenizer, report = open_rows(config)
    if not -len(rows) <= args.row < len(rows):
        raise InputError(f"--row is {args.row}, there are {len(rows)} rows; take 0 to {len(rows) - 1}.")
    number = args.row % len(rows)
    row = {name: value.tolist() for name, value in rows[number].items()}
    console = Console(highlight=False, soft_wrap=True)
    trained = sum(label != IGNORE for label in row["labels"])
    console.print(str(report), markup=False)
    if config.dataset_map_fn != "pretrain":  # its text is written as it stands
        console.print(whose(config.prompt_template), markup=False)
    console.print(
        f"row {number} of {len(rows)}: {len(row['input_ids'])} tokens in {len(row['seq_lengths'])} documents, "
        f"{trained} trained on; cu_seqlens {seams(row['seq_lengths'])}",
        markup=False,
    )
    for line in lines(row, tokenizer, args.show):
        console.print(line, markup=False)
    return 0


def seams(lengths: list[int]) -> list[int]:
    """cu_seqlens of documents of these lengths: ``[2, 4] -> [0, 2, 6]``."""
    return list(accumulate(lengths, initial=0))


def lines(row: dict[str, list[int]], tokenizer: Any, show: str) -> Iterator[Text | str]:
    """The row as it is printed: a rule before each document, then what was asked for."""
    edges = seams(row["seq_lengths"])
    for number, (start, end) in enumerate(pairwise(edges)):
        ids, labels = row["input_ids"][start:end], row["labels"][start:end]
        count = sum(label != IGNORE for label in labels)
        yield (
            f"── document {number}: tokens {start} to {end - 1}, positions 0 to {end - start - 1}, {count} trained on "
            + "─" * 12
        )
        if show in ("text", "all"):
            yield coloured(ids, labels, tokenizer, masked=False)
        if show in ("masked_text", "all"):
            yield coloured(ids, labels, tokenizer, masked=True)
        if show in ("input_ids", "all"):
            yield f"input_ids {ids}"
        if show in ("labels", "all"):
            yield f"labels {labels}"


def coloured(ids: list[int], labels: list[int], tokenizer: Any, masked: bool) -> Text:
    """The text of a document, what is trained on in green; ``masked``: each other token as ``[-100]``, in place."""
    from rich.text import Text

    text = Text()
    for trained, run_of in groupby(zip(ids, labels), key=lambda pair: pair[1] != IGNORE):
        tokens = [token for token, _ in run_of]
        if trained:
            text.append(tokenizer.decode(tokens), style="green")
        else:
            text.append("[-100]" * len(tokens) if masked else tokenizer.decode(tokens), style="dim")
    return text
