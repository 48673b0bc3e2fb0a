"""``varlen-lab convert``: step 6, a checkpoint becomes a Hugging Face folder."""

from __future__ import annotations

import argparse
import re
import shlex
import sys

from varlen_lab.cli import read_config
from varlen_lab.errors import InputError, plural
from varlen_lab.machine import console, signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """XTuner's words and flags."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    pth = kinds.add_parser("pth_to_hf", help="iter_N.pth -> a folder that from_pretrained opens (LoRA: an adapter)")
    pth.add_argument("config", metavar="CONFIG", help="the config it was trained with: a file or a name")
    pth.add_argument("pth_model", metavar="PTH", help="work_dirs/NAME/iter_N.pth, a file or DeepSpeed's folder")
    pth.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
    pth.add_argument("--fp32", action="store_true", help="the same as --dtype fp32")
    both = kinds.add_parser("merge", help="a model and an adapter folder -> one model folder")
    both.add_argument("llm", metavar="LLM", help="the model the adapter was trained on: a folder or hub name")
    both.add_argument("adapter", metavar="ADAPTER", help="what pth_to_hf made of a LoRA checkpoint")
    both.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
    for kind, kept in ((pth, "as it was trained"), (both, "as LLM has it")):
        kind.add_argument("--dtype", default="auto", help=f"auto ({kept}), fp32, bf16 or fp16")
        kind.add_argument("--max-shard-size", default="2GB", help="largest size of one weights file (default 2GB)")
        kind.add_argument(
            "--safe-serialization", action="store_true", help="safetensors; always so here, as in XTuner's flag"
        )


def run(args: argparse.Namespace) -> int:
    """Convert, and print the check; 143 where a signal asked it to end, and then nothing is left half written."""
    try:
        with signals.heeded():
            return convert_and_print(args)
    except signals.Terminated as asked:
        said = f"stopped by {asked}; {args.save_dir} is what it was before, or whole"
        console.say(said, hang=2, stream=sys.stderr)
        return signals.STOPPED


def convert_and_print(args: argparse.Namespace) -> int:
    """As ``run``, which heeds signals around it."""
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]?i?B", args.max_shard_size, re.IGNORECASE):
        raise InputError(f"--max-shard-size is {args.max_shard_size!r}, it is a size such as 2GB or 500MB.")
    from transformers.utils import logging

    logging.disable_progress_bar()  # of shards and weights, there and back
    if args.kind == "merge":
        from varlen_lab.training.conversion import merge

        shards = args.max_shard_size
        done = merge(args.llm, args.adapter, args.save_dir, dtype=args.dtype, max_shard_size=shards)
        against = "adapter"
    else:
        config = read_config(args.config)
        from varlen_lab.training.conversion import convert

        how = {"fp32": args.fp32, "dtype": args.dtype, "max_shard_size": args.max_shard_size}
        done = convert(config, args.pth_model, args.save_dir, **how)
        against = "checkpoint"
    for note in done.notes:
        console.say(f"note: {note}", hang=2)
    console.say(
        f"{plural(done.parameters, 'parameter')} of step {done.step} in {done.dtype}; "
        f"logits of the folder against the {against}: max |Δ| = {done.max_logit_difference:.1e}"
    )
    if done.kind == "adapter":
        console.say(f"All done! {done.folder} is an adapter. This makes it a model:")
        console.say_command(f"varlen-lab convert merge LLM {shlex.quote(str(done.folder))} OUT")
    else:
        console.say("All done! This opens it:")
        console.say(f"  AutoModelForCausalLM.from_pretrained({str(done.folder)!r})")
    return 0
