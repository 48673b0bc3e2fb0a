"""``varlen-lab check-custom-dataset``: is this data what a run can be trained on, and if not, where not?"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_config, is_data, read_source
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, plural
from varlen_lab.machine import console

if TYPE_CHECKING:
    from datasets import Dataset

    from varlen_lab.training.limits import Limits

MOST_NAMED = 20  # bad records named; the others are counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, or the file itself."""
    add_config(parser, "source", "CONFIG|FILE", "a config (its data_path is checked), or a data file or folder")
    parser.add_argument("--skip-bad", action="store_true", help="go on without the bad records, and count them")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when all is good, or the bad records were to be skipped; 1 when some are bad, or the model cannot take them.

    2 when none can be read.
    """
    config = read_source(args.source, args.cfg_options)
    facts = facts_of(config, model_known=not is_data(args.source) or config.pretrained_model_name_or_path is not None)
    bad = facts["bad"] and not (args.skip_bad or config.skip_bad)
    if args.json:
        console.print_json(facts)
    else:
        for line in in_sentences(facts, config):
            console.say(line, hang=2)
        if bad:
            console.say("Correct them, or leave them out with --skip-bad.")
    return 1 if bad or facts["refused_by_the_model"] else 0


def facts_of(config: Config, model_known: bool) -> dict[str, Any]:
    """What there is to say of the data of a config; InputError where no record of it can be read."""
    from varlen_lab.documents.loading import documents_at
    from varlen_lab.packing.registry import IGNORE
    from varlen_lab.training.data import document_settings, load_tokenizer, pack_rows

    tokenizer = load_tokenizer(config)
    # skip_bad: all bad records are wanted, not the first
    documents, good, untrained, bad, counted, notes = documents_at(
        config.data_path, tokenizer, **document_settings(config), skip_bad=True, progress=False
    )
    rows, report = pack_rows(documents, config)
    limits = limits_of(config, rows, tokenizer) if model_known else None
    lengths = sorted(len(ids) for ids in documents["input_ids"])
    trained = sum(label != IGNORE for labels in documents["labels"] for label in labels)
    return {
        "good": good,
        "bad": bad.total,
        "first_bad": bad[:MOST_NAMED],
        "left_out": counted,
        "without_a_trained_token": untrained,
        "documents": len(documents),
        "tokens": sum(lengths),
        "trained_share": trained / sum(lengths),
        "shortest": lengths[0],
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "rows": len(rows),
        "trained_tokens_before_packing": trained,
        "trained_tokens": report.trained_tokens,
        "untrained_documents": report.untrained_documents,
        "untrained_rows": report.untrained_packs,
        "refused_by_the_model": limits.broken if limits else [],
        "notices": [*notes, *(limits.notices if limits else [])],
        "report": str(report),
    }


def limits_of(config: Config, rows: Dataset, tokenizer: Any) -> Limits | None:
    """What the model of a config cannot take of these rows; None where it cannot be had."""
    from varlen_lab.training.limits import Limits, shapes_of

    with suppress(InputError):  # the data is checked here: train says what is wrong with a model
        return Limits.of(config, shapes_of(config), rows, tokenizer)
    return None


def in_sentences(facts: dict[str, Any], config: Config) -> list[str]:
    """The facts, a sentence each."""
    from varlen_lab.documents.loading import left_out

    lines = [f"{config.data_path}: {plural(facts['good'], 'good record')}, {facts['bad']:,} bad"]
    lines += [f"  {reason}" for reason in facts["first_bad"]]
    if facts["bad"] > len(facts["first_bad"]):
        lines.append(f"  ... and {facts['bad'] - len(facts['first_bad']):,} more")
    if facts["left_out"]:
        lines.append(left_out(facts["left_out"]))
    if without := facts["without_a_trained_token"]:
        lines.append(f"{plural(without, 'record')} without a token to train on: left out")
    lines.append(
        f"{plural(facts['tokens'], 'token')}, {facts['trained_share']:.0%} trained on; documents of "
        f"{facts['shortest']:,} to {plural(facts['longest'], 'token')}, median {facts['median']:,}"
    )
    if facts["untrained_documents"]:
        lines.append(
            f"{facts['untrained_documents']:,} of {plural(facts['documents'], 'document')} have no trained token "
            f"within max_length = {config.max_length}, their answers are cut away; {facts['untrained_rows']:,} of "
            f"{plural(facts['rows'], 'row')} have none at all: raise max_length, or shorten what stands before the "
            "answers"
        )
    lines += [f"the model cannot take it: {sentence}" for sentence in facts["refused_by_the_model"]]
    return [*lines, *(f"note: {notice}" for notice in facts["notices"]), facts["report"]]
