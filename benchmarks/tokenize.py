"""Tokenising dialogues, ours beside ``datasets.map`` with the bare fast tokenizer.

    python -m benchmarks.tokenize                        # the built-in corpus, a minute
    python -m benchmarks.tokenize --template internlm_chat --documents 4000

The peer has the easier task: each dialogue is one text already, and it makes ``input_ids`` only. Ours looks at every
prompt alone too (it must have the ids it will have when the model is asked), makes labels, and drops what has none.
CPU seconds, medians; the two take turns in one run, so the ratio holds on a noisy machine. Then the memory: what the
process grows by while it tokenises, beside the documents that come out. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RATIO, TRANSIENT = 0.8, 64  # goals: of the peer's speed; MB over the documents that come out
ROUNDS = 5


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def speed(dialogues: list, tokenizer, template: str, rounds: int) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Median CPU seconds of the peer and of ours."""
    from datasets import Dataset

    from varlen_lab.documents.tokens import encode, pieces_of

    texts = ["".join(text for text, _ in pieces) for pieces in pieces_of(dialogues, tokenizer, template)]
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"text": texts}).save_to_disk(folder)
        dataset = Dataset.load_from_disk(folder)

        def peer() -> object:
            def tokenise(batch: dict) -> dict:
                return {"input_ids": tokenizer(batch["text"], add_special_tokens=False)["input_ids"]}

            return dataset.map(tokenise, batched=True, remove_columns=["text"], load_from_cache_file=False)

        def ours() -> object:
            return encode(dialogues, tokenizer, prompt_template=template)

        taken = [(seconds(peer), seconds(ours)) for _ in range(rounds + 1)][1:]  # the first warms both up
    return statistics.median(one for one, _ in taken), statistics.median(one for _, one in taken)


def memory(dialogues: list, tokenizer, template: str) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """MB the process grows by at its peak while it tokenises, and MB of the documents that come out."""
    from varlen_lab.documents.tokens import encode

    encode(dialogues[:2000], tokenizer, prompt_template=template)  # what grows once and for all
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    documents = encode(dialogues, tokenizer, prompt_template=template)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return (peak - now) / 2**20, documents.data.nbytes / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenize", description=__doc__.split("\n")[0])
    parser.add_argument("--template", default="tokenizer", help="a chat template (default: the tokenizer's own)")
    parser.add_argument("--documents", type=int, help="only so many of the corpus")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.documents.reading import read_dialogues

    dialogues = read_dialogues("builtin:docstrings", progress=False).dialogues
    dialogues = dialogues[: args.documents]
    tokenizer = builtin_tokenizer(progress=False)
    peer, ours = speed(dialogues, tokenizer, args.template, args.rounds)
    print(
        f"{len(dialogues):,} dialogues under {args.template}: datasets.map {peer:.2f} s, ours with labels "
        f"{ours:.2f} s: {peer / ours:.2f} of its speed (goal {RATIO})"
    )
    met = peer / ours >= RATIO
    if Path("/proc/self/clear_refs").exists():
        grown, made = memory(dialogues * 8, tokenizer, args.template)
        print(
            f"{len(dialogues) * 8:,} dialogues: grows by {grown:.0f} MB, {made:.0f} MB of them documents "
            f"(goal: {TRANSIENT} MB over)"
        )
        met = met and grown <= made + TRANSIENT
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
