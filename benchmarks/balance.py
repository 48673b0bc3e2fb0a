"""What processes of a data-parallel run wait for each other: ``balance = "step"`` beside ``"window"``.

    python -m benchmarks.balance                       # the tables and two processes: about two minutes
    python -m benchmarks.balance --sections held-out   # what it does to the loss: about five more

``table``     work of the busiest process over the mean of all, by arithmetic, no clock: rows that the library's own
              best_fit packs from four seeded lists of lengths, its own plan and shares, Llamas of 1.1B, 7B and 70B. One
              batch a step; and four, where DDP and ZeRO-1 meet once a step, FSDP2 and ZeRO-2/3 in every batch.
``timed``     two gloo processes under DDP on rows of 4,096 tokens in documents of 64 to 4,096, both settings in turn.
              CPU seconds of the busiest process over the mean are what holds on a shared machine; wall time is beside.
``held-out``  ``train`` on the built-in docstrings, rows of 512, steps of eight rows, five seeds: the loss of documents
              that were held out, after the same number of steps; the difference is paired by seed.

Exit code 1 when a goal is missed: 8 processes, one batch a step, 1.1B, chat and reasoning: ``window`` at most 1.03.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing as multiprocessing

from benchmarks.lengths import Distribution, lognormal
from benchmarks.verdict import verdict
from varlen_lab.config.names import named_config
from varlen_lab.models.building import build_model
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.outlook import Work
from varlen_lab.training.plan import busiest, plan_steps, row_totals, share
from varlen_lab.training.step import Batch, batched, collator, optimize
from varlen_lab.training.trainer import train

SETTINGS = ("step", "window")
TEMPLATE = named_config("tiny_llama_full_docstrings_e1").with_mode("varlen").replace(evaluation_freq=0, device="cpu")
NARROW = {**(TEMPLATE.model_config or {}), "hidden_size": 64, "intermediate_size": 128}
DATA = {
    "instructions": Distribution(2048, lognormal(132, 0.7, 2048)),
    "web pages": Distribution(8192, lognormal(1200, 1.2, 8192)),
    "chat": Distribution(16384, lognormal(600, 1.1, 16384)),
    "reasoning": Distribution(32768, lognormal(4500, 0.95, 32768)),
}


def llama(layers: int, width: int, weights: float) -> Work:
    """Of a Llama; ``weights`` without its embedding, which multiplies nothing. As ``Work.of`` counts a model."""
    return Work(6 * weights, 6 * layers * width)


MODELS = {"1.1B": llama(22, 2048, 1.03e9), "7B": llama(32, 4096, 6.6e9), "70B": llama(80, 8192, 68.7e9)}
PROCESSES = (2, 8, 32, 128, 512)
VOCABULARY = 256  # of the model that is timed: a small head, so that attention is most of its work
ROWS = 65_536  # of a list of lengths: with 512 processes and four batches one window of 32 steps


class Rows(NamedTuple):
    """Tokens and sum of squared document lengths of packed rows."""

    tokens: np.ndarray
    squared: np.ndarray


def packed(data: Distribution, rows: int, seed: int = 0) -> Rows:
    """About so many rows of a distribution, as best_fit packs them."""
    generator = np.random.default_rng(seed)
    mean = data.draw(generator, 20_000).mean()
    lengths = data.draw(generator, int(rows * data.max_length / mean))
    packs = pack_lengths(lengths, data.max_length)
    documents = lengths[packs.order].astype(np.float64)
    return Rows(np.add.reduceat(documents, packs.offsets[:-1]), np.add.reduceat(documents**2, packs.offsets[:-1]))


def waiting(rows: Rows, work: Work, balance: str, processes: int, batches: int = 1, every_batch: bool = False) -> float:
    """Work of the busiest process over the mean, of one epoch."""
    config = TEMPLATE.replace(balance=balance, accumulative_counts=batches, max_steps=None, max_epochs=1)
    costs = work.operations(*rows)
    plan = plan_steps(len(costs), config, processes, costs)
    return busiest(plan, rows.squared, costs, processes, config.batch_size, every_batch)


def table_section(rows: int = ROWS, processes: tuple[int, ...] = PROCESSES) -> list[tuple[str, bool]]:
    """Print both tables; the goals with whether they were met."""
    goals, each = [], {name: packed(data, rows) for name, data in DATA.items()}
    print("work of the busiest process over the mean, step/window; one batch a step")
    print(f"{'processes':26}" + "".join(f"{number:>10}" for number in processes))
    for name, found in each.items():
        for model, work in MODELS.items():
            pairs = [[waiting(found, work, setting, number) for setting in SETTINGS] for number in processes]
            lead = f"{name:13}{DATA[name].max_length // 1024:>4}k" if model == "1.1B" else ""
            print(f"  {lead:18}{model:>5} " + "".join(f" {one:.2f}/{two:.2f}" for one, two in pairs))
            if model == "1.1B" and name in ("chat", "reasoning") and 8 in processes:
                one, two = pairs[processes.index(8)]
                said = f"{name}, 8 processes, 1.1B: {one:.3f} by step, {two:.3f} by window (goal 1.03)"
                goals.append((said, two <= 1.03))
    print("\nfour batches a step, 1.1B; processes meet once a step, or in every batch")
    for name, found in each.items():
        for every_batch in (False, True):
            pairs = [[waiting(found, MODELS["1.1B"], one, n, 4, every_batch) for one in SETTINGS] for n in processes]
            lead = f"{'' if every_batch else name:13}{'batch' if every_batch else 'step':>10}"
            print(f"  {lead} " + "".join(f" {one:.2f}/{two:.2f}" for one, two in pairs))
    return goals


def large_plan(rows: int = 2**20, processes: int = 512) -> None:
    """Print how long planning and dealing many rows takes."""
    costs = np.random.default_rng(0).random(rows)
    start = time.process_time()
    plan = plan_steps(rows, TEMPLATE.replace(balance="window", max_steps=None, max_epochs=1), processes, costs)
    planned = time.process_time()
    share(plan, costs, processes, 0, 1)
    times = planned - start, time.process_time() - planned
    print("\na plan of {:,} rows for {} processes: {:.1f} CPU s, {:.1f} to deal it".format(rows, processes, *times))


# ------------------------------------------------------------------------------------------------- two processes


def uneven_rows(rows: int, tokens: int = 4096) -> Any:
    """Rows of one length in documents of one length each, 64 to ``tokens``."""
    from datasets import Dataset

    generator = np.random.default_rng(0)
    lengths = [2 ** int(power) for power in generator.integers(6, tokens.bit_length(), rows)]
    ids = generator.integers(0, VOCABULARY, (rows, tokens))
    features = [{"input_ids": one, "labels": one, "seq_lengths": [n] * (tokens // n)} for one, n in zip(ids, lengths)]
    return Dataset.from_list(features).with_format("numpy")


def timed_process(number: int, port: int, steps: int, rounds: int, answer: Any) -> None:
    """One of the two: both settings in turn, every round; the first puts what it measured into ``answer``."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    rows = uneven_rows(2 * steps)
    small = {**NARROW, "vocab_size": VOCABULARY}
    config = TEMPLATE.replace(model_config=small, accumulative_counts=1, max_steps=steps, balance_window=steps)
    accelerator = make_accelerator(config)
    model = build_model(config)
    work = Work.of(model)
    tokens, squared = row_totals(rows)
    costs = work.operations(tokens, squared)
    engine = make_engine(model, config, 2 * steps * (rounds + 1), accelerator)
    found: dict[str, Any] = {name: {"cpu": [], "wall": []} for name in SETTINGS}

    def batches_of(balance: str) -> Iterator[list[Batch]]:
        plan = plan_steps(len(rows), config.replace(balance=balance), 2, costs)
        found[balance]["work"] = busiest(plan, squared, costs, 2, 1, every_batch=False)
        return batched(rows, share(plan, squared, 2, number, 1), collator("varlen", 0))

    for turn in range(rounds + 1):
        for balance in SETTINGS:
            records = list(optimize(engine, list(batches_of(balance))))
            mine = torch.tensor([[record["cpu_seconds"], record["seconds"]] for record in records])
            both = accelerator.gather(mine[None])  # (2, steps, 2)
            if turn:  # not the first round: memory is still being found
                found[balance]["cpu"].append(float(both[..., 0].amax(0).sum() / both[..., 0].mean(0).sum()))
                found[balance]["wall"].append(float(both[..., 1].amax(0).mean()))
    if number == 0:
        answer.put(found)
    torch.distributed.destroy_process_group()


def timed_section(steps: int = 12, rounds: int = 7) -> dict[str, Any]:
    """Print what two gloo processes took under both settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(timed_process, args=(port, steps, rounds, answer), nprocs=2)
    found = answer.get()
    print(f"\ntwo gloo processes, DDP, {steps} steps of 2 rows of 4,096 tokens, median of {rounds} rounds")
    print(f"  {'':8}{'busiest over mean: by arithmetic':>34}{'in CPU time':>13}{'wall ms a step':>16}")
    for name, one in found.items():
        cpu, wall = statistics.median(one["cpu"]), statistics.median(one["wall"])
        print(f"  {name:8}{one['work']:34.2f}{cpu:13.2f}{1000 * wall:16.0f}")
    ratios = [one / two for one, two in zip(found["step"]["wall"], found["window"]["wall"], strict=True)]
    print(
        f"  step takes {statistics.median(ratios):.2f} times as long as window ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print("  a Llama of two layers from scratch, sdpa, cpu, fp32, one thread each, seed 0")
    return found


# ------------------------------------------------------------------------------------------------- what it does


def held_out_section(seeds: int = 5, steps: int = 160, **changes: Any) -> dict[str, list[float]]:
    """Print held-out losses after so many steps under both settings; one process takes the steps of any number."""
    config = TEMPLATE.replace(
        **({"model_config": NARROW, "max_length": 512, "accumulative_counts": 8, "max_steps": steps} | changes),
        save_steps=steps,
        evaluation_share=0.1,
        evaluation_freq=steps,
        evaluation_inputs=[],
    )
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    size, rate = config.accumulative_counts, config.lr
    print(f"\nheld-out loss after {steps} steps of {size} rows of {config.max_length}, lr {rate}")
    for seed in range(seeds):
        for name in SETTINGS:
            with tempfile.TemporaryDirectory() as folder:
                history = train(config.replace(balance=name, seed=seed, work_dir=folder), progress=False)
            found[name].append(history.records[-1]["held_out_loss"])
        one, two = found["step"][-1], found["window"][-1]
        print(f"  seed {seed}: step {one:.4f}, window {two:.4f}, difference {two - one:+.4f}", flush=True)
    gaps = [two - one for one, two in zip(found["step"], found["window"], strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    print(f"  window - step: {statistics.mean(gaps):+.4f} ± {error:.4f} (standard error of {seeds} seeds, paired);")
    print(f"  between seeds step itself differs by {statistics.stdev(found['step']):.4f} (standard deviation)")
    print(f"  {history.meta['backend']} · {history.meta['device']} · {history.meta['dtype']} · seeds 0 to {seeds - 1}")
    return found


SECTIONS = ("table", "timed", "held-out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS[:2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    goals = table_section() if "table" in args.sections else []
    if goals:
        large_plan()
    if "timed" in args.sections:
        timed_section()
    if "held-out" in args.sections:
        held_out_section()
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
