"""``varlen-lab check-custom-dataset``: is this data what a run can be trained on, and if not, where not?"""

from __future__ import annotations

import argparse
import json

from varlen_lab.cli import add_config, read_source

MOST_NAMED = 20  # bad records named; the others are counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, or the file itself."""
    add_config(parser, "source", "CONFIG|FILE", "a config (its data_path is checked), or a data file or folder")
    parser.add_argument("--skip-bad", action="store_true", help="go on without the bad records, and count them")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when every record is good, or the bad ones were to be skipped; 1 when some are bad; 2 when none can be read."""
    config = read_source(args.source, args.cfg_options)
    from varlen_lab.documents.reading import read_dialogues
    from varlen_lab.documents.tokens import encode
    from varlen_lab.packing.registry import IGNORE
    from varlen_lab.training.data import load_tokenizer, pack_rows

    # skip_bad: all bad records are wanted, not the first
    dialogues, bad, _ = read_dialogues(
        config.data_path, system=config.SYSTEM, map_fn=config.dataset_map_fn, skip_bad=True, progress=False
    )
    tokenizer = load_tokenizer(config)
    documents = encode(dialogues, tokenizer, prompt_template=config.prompt_template, progress=False)
    rows, report = pack_rows(documents, config)
    lengths = sorted(len(ids) for ids in documents["input_ids"])
    trained = sum(label != IGNORE for labels in documents["labels"] for label in labels)
    facts = {
        "good": len(dialogues),
        "bad": len(bad),
        "first_bad": bad[:MOST_NAMED],
        "without_a_trained_token": len(dialogues) - len(documents),
        "tokens": sum(lengths),
        "trained_share": trained / sum(lengths),
        "shortest": lengths[0],
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "rows": len(rows),
        "report": str(report),
    }
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else in_sentences(facts, config.data_path))
    if bad and not args.skip_bad and not args.json:
        print("Correct them, or leave them out with --skip-bad.")
    return 1 if bad and not args.skip_bad else 0


def in_sentences(facts: dict, data_path: object) -> str:
    """The facts in sentences."""
    lines = [f"{data_path}: {facts['good']:,} good records, {facts['bad']:,} bad"]
    lines += [f"  {reason}" for reason in facts["first_bad"]]
    if facts["bad"] > len(facts["first_bad"]):
        lines.append(f"  ... and {facts['bad'] - len(facts['first_bad']):,} more")
    if facts["without_a_trained_token"]:
        lines.append(f"{facts['without_a_trained_token']:,} records have no token to train on and are left out")
    lines.append(
        f"{facts['tokens']:,} tokens, {facts['trained_share']:.0%} trained on; documents of {facts['shortest']} to "
        f"{facts['longest']:,} tokens, median {facts['median']}"
    )
    return "\n".join([*lines, facts["report"]])
