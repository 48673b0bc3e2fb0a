"""``varlen-lab log-dataset``: a packed row as the model will get it, with its seams."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise
from typing import Any

from varlen_lab.cli import add_config, open_rows, read_source
from varlen_lab.errors import InputError, plural
from varlen_lab.machine import console
from varlen_lab.machine.folding import Line
from varlen_lab.packing.registry import IGNORE

SHOWS = ("text", "masked_text", "input_ids", "labels", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """XTuner's ``--show``, and which row."""
    add_config(parser, about="a config file, a name from list-cfg, or a data file", metavar="CONFIG|FILE")
    parser.add_argument("--show", choices=SHOWS, default="text", help="masked_text puts [-100] in place of the rest")
    parser.add_argument("--row", type=int, default=0, metavar="N", help="which row, from 0 (default: the first)")
    parser.add_argument("--json", action="store_true", help="print JSON: text, input_ids and labels of each document")


def run(args: argparse.Namespace) -> int:
    """Print one row, document by document."""
    config = read_source(args.config, args.cfg_options)
    from varlen_lab.documents.templates import whose

    rows, tokenizer, report = open_rows(config)
    if not -len(rows) <= args.row < len(rows):
        there = "one row, 0" if len(rows) == 1 else f"rows 0 to {len(rows) - 1}; choose one of them"
        raise InputError(f"--row is {args.row}, the data packs into {there}.")
    number = args.row % len(rows)
    row = {name: value.tolist() for name, value in rows[number].items()}
    # the text of "pretrain" is written as it stands
    notes = [str(report), *([] if config.dataset_map_fn == "pretrain" else [whose(config.prompt_template)])]
    if args.json:
        console.print_json({"notes": notes, "row": number, "rows": len(rows)} | as_facts(row, tokenizer))
        return 0
    for note in notes:
        console.say(note)
    trained = sum(label != IGNORE for label in row["labels"])
    tokens, documents = plural(len(row["input_ids"]), "token"), plural(len(row["seq_lengths"]), "document")
    console.say(
        f"row {number} of {len(rows)}: {tokens} in {documents}, "
        f"{trained:,} trained on; cu_seqlens {seams(row['seq_lengths'])}"
    )
    for line in lines(row, tokenizer, args.show):
        console.say_spans(line)
    return 0


def seams(lengths: list[int]) -> list[int]:
    """cu_seqlens of documents of these lengths: ``[2, 4] -> [0, 2, 6]``."""
    return list(accumulate(lengths, initial=0))


def as_facts(row: dict[str, list[int]], tokenizer: Any) -> dict[str, Any]:
    """The row as JSON has it: its seams, and each document as text and as numbers."""
    documents = [
        {"text": tokenizer.decode(ids), "input_ids": ids, "labels": labels} for ids, labels, _ in documents_of(row)
    ]
    return {"cu_seqlens": seams(row["seq_lengths"]), "documents": documents}


def documents_of(row: dict[str, list[int]]) -> Iterator[tuple[list[int], list[int], int]]:
    """input_ids and labels of each document of a row, and where it starts."""
    for start, end in pairwise(seams(row["seq_lengths"])):
        yield row["input_ids"][start:end], row["labels"][start:end], start


def lines(row: dict[str, list[int]], tokenizer: Any, show: str) -> Iterator[Line]:
    """The row as it is printed: a rule before each document, then what was asked for."""
    for number, (ids, labels, start) in enumerate(documents_of(row)):
        count = sum(label != IGNORE for label in labels)
        place = f"tokens {start:,} to {start + len(ids) - 1:,}, positions 0 to {len(ids) - 1:,}, {count:,} trained on"
        yield [(f"── document {number}: {place} ──", "bold")]
        if show in ("text", "all"):
            yield coloured(ids, labels, tokenizer, masked=False)
        if show in ("masked_text", "all"):
            yield coloured(ids, labels, tokenizer, masked=True)
        if show in ("input_ids", "all"):
            yield [(f"input_ids {ids}", "")]
        if show in ("labels", "all"):
            yield [(f"labels {labels}", "")]


def coloured(ids: list[int], labels: list[int], tokenizer: Any, masked: bool) -> Line:
    """The text of a document, what is trained on in green; ``masked``: each other token as ``[-100]``, in place."""
    spans = []
    for trained, run_of in groupby(zip(ids, labels), key=lambda pair: pair[1] != IGNORE):
        tokens = [token for token, _ in run_of]
        text = "[-100]" * len(tokens) if masked and not trained else tokenizer.decode(tokens)
        spans.append((text, "green" if trained else "dim"))
    return spans
