"""Packing, ours beside the packers of PyPI: planning rows, writing them, and collating them.

    python -m benchmarks.packing                                # all of it, about ten minutes
    python -m benchmarks.packing --quick                        # 10k documents only
    python -m benchmarks.packing --sections lengths --documents 1000000

``lengths``   lengths in, packs out, on eight distributions: CPU time, packs, fill, packs over the lower bound. Every
              plan is checked: each document in one pack, no pack over the limit. Each packer gets the form it is best
              at, a numpy array or a list, made before the clock starts; ours and LightBinPack get both.
``dataset``   a tokenised dataset on disk, ``input_ids`` and ``labels``, to a packed one on disk, beside TRL (``bfd``,
              ``bfd_split``; ``wrapped`` cuts documents and is only printed), with the peak memory over the imports.
``collate``   a batch of packed rows read from disk, beside HF's DataCollatorWithFlattening on the same documents.

CPU seconds, medians; contenders take turns in one run, so ratios hold on a noisy machine. A peer that is not installed
is named (``pip install seqpacker binpacking trl``; ``pip install --no-deps llamafactory``, which wants an older stack;
``pip install --no-deps lightbinpack``, which a C++ compiler builds for the processor at hand). Exit code 1 when a goal
is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.lengths import DISTRIBUTIONS, draw
from varlen_lab.packing.registry import STRATEGIES
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.packing.whole import lower_bound

ROUNDS = 5
Plan = Sequence[Sequence[int]]  # packs, each the document numbers of it, or (LLaMA-Factory) their lengths
Lengths = np.ndarray | list[int]
Packer = Callable[[Lengths, int], Plan]


def ours(strategy: str) -> Packer:
    """Its plan stays in CSR form; ``problem`` reads it."""
    return lambda lengths, max_length: pack_lengths(lengths, max_length, strategy)  # type: ignore[return-value]


def seqpacker() -> Packer:
    from seqpacker import Packer as Theirs

    # .bins is where it turns its plan into Python lists; without it there is nothing to train on.
    return lambda lengths, max_length: Theirs(capacity=max_length, strategy="obfd").pack(lengths).bins


def lightbinpack() -> Packer:
    from lightbinpack import obfd  # the compiled function: ``lightbinpack.pack`` takes no array

    return obfd


def binpacking() -> Packer:
    from binpacking import to_constant_volume

    def pack(lengths: Lengths, max_length: int) -> Plan:
        return [list(pack) for pack in to_constant_volume(dict(enumerate(lengths)), max_length)]

    return pack


def llama_factory() -> Packer:
    """Its packer alone: importing the package needs all of its dependencies, at its versions of them."""
    spec = importlib.util.find_spec("llamafactory")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("llamafactory is not installed")
    path = Path(spec.submodule_search_locations[0]) / "data" / "processor" / "processor_utils.py"
    module_spec = importlib.util.spec_from_file_location("processor_utils", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules["processor_utils"] = module  # where its dataclasses look themselves up
    module_spec.loader.exec_module(module)
    # it sorts what it is given
    return lambda lengths, max_length: module.greedy_knapsack(list(lengths), max_length)


class Contender(NamedTuple):
    load: Callable[[], Packer]
    most: int = 10**9  # documents; with more it takes minutes
    listed: bool = False  # gets the lengths as a list


OURS, RUST, CPP = "ours, best_fit", "seqpacker obfd", "LightBinPack obfd"
LISTED = ", from a list"
PEERS = {
    RUST: Contender(seqpacker),
    CPP: Contender(lightbinpack),
    CPP + LISTED: Contender(lightbinpack, listed=True),
    "LLaMA-Factory": Contender(llama_factory, 100_000, listed=True),
    "binpacking": Contender(binpacking, 10_000, listed=True),
}
SLOW = {"tightest": 10_000, "sequential": 100_000}


def contenders() -> dict[str, Contender]:
    """Our strategies that keep documents whole, and the peers."""
    names = [name for name, strategy in STRATEGIES.items() if strategy.keeps_whole and strategy.setting]
    mine = {f"ours, {name}": Contender(partial(ours, name), SLOW.get(name, 10**9)) for name in names}
    return mine | {OURS + LISTED: Contender(partial(ours, "best_fit"), listed=True)} | PEERS


def available() -> dict[str, Packer]:
    """The packers that are installed; the others are named."""
    found = {}
    for name, contender in contenders().items():
        try:
            found[name] = contender.load()
        except ImportError as reason:
            print(f"  {name} is not measured: {reason}")
    return found


def problem(plan: Plan, lengths: np.ndarray, max_length: int, of_lengths: bool) -> str:
    """What is wrong with a plan, or nothing: every document once, no pack over the limit."""
    if hasattr(plan, "offsets"):
        order, sizes = plan.order, np.add.reduceat(lengths[plan.order], plan.offsets[:-1])
    else:
        order = np.fromiter((each for pack in plan for each in pack), dtype=np.int64)
        edges = np.cumsum([0, *map(len, plan)])[:-1]
        sizes = np.add.reduceat(order if of_lengths else lengths[order], edges)
    expected = np.sort(lengths) if of_lengths else np.arange(len(lengths))
    if not np.array_equal(np.sort(order), expected):
        return "not every document once"
    return "a pack over the limit" if sizes.max() > max_length else ""


def lengths_section(sizes: list[int], rounds: int) -> list[tuple[str, bool]]:
    """The table, and the goals as (sentence, met)."""
    from varlen_lab.packing.tightest import program_bound

    packers, known, goals = available(), contenders(), []
    for documents in sizes:
        print(f"\n{f'{documents:,} documents':<36}{'CPU ms':>9}{'packs':>11}{'fill':>9}   packs / bound")
        for name, (max_length, _, like_sft) in DISTRIBUTIONS.items():
            lengths = draw(name, documents)
            listed = lengths.tolist()
            bound = lower_bound(lengths, max_length)
            taken = {packer: fn for packer, fn in packers.items() if documents <= known[packer].most}
            seconds: dict[str, list[float]] = {packer: [] for packer in taken}
            plans = {}
            for _ in range(rounds):
                for packer, pack in taken.items():
                    if seconds[packer] and seconds[packer][0] > 2:
                        continue  # a slow one is timed once
                    plans.pop(packer, None)  # to free a plan of lists takes time too: before the clock starts
                    given = listed if known[packer].listed else lengths
                    start = time.process_time()
                    plans[packer] = pack(given, max_length)
                    seconds[packer].append(time.process_time() - start)
            median = {packer: float(np.median(times)) for packer, times in seconds.items()}
            print(f"{name}, rows of {max_length:,}, at least {bound:,}")
            for packer, plan in plans.items():
                wrong = problem(plan, lengths, max_length, of_lengths=packer == "LLaMA-Factory")
                fill, share = lengths.sum() / (len(plan) * max_length), f"{len(plan) / bound:.5f}   {wrong}"
                print(f"    {packer:<32}{1000 * median[packer]:>9,.1f}{len(plan):>11,}{fill:>9.2%}   {share}")
                if wrong and packer.startswith("ours"):
                    goals.append((f"{packer} on {name}: {wrong}", False))
            packs = {packer: len(plan) for packer, plan in plans.items()}
            where = f"{documents:,} {name}"
            if like_sft and documents >= 1_000_000:
                over = packs[OURS] / bound
                goals.append((f"{where}: {over:.5f} of the bound, goal 1.0002", over <= 1.0002))
            for peer in (RUST, CPP):
                if peer in packs:
                    said = f"{where}: {packs[OURS]:,} packs, {peer} {packs[peer]:,}"
                    goals.append((said, packs[OURS] <= packs[peer]))
            if CPP in packs and documents >= 1_000_000:
                for form in ("", LISTED):
                    times = median[CPP + form] / median[OURS + form]
                    goals.append((f"{where}: {CPP}{form} takes {times:.2f} × ours, goal 1 ×", times >= 1))
            if RUST in packs and documents >= 1_000_000:
                least = 4 if name in ("alpaca-like", "oasst-like") else 1.5
                times = median[RUST] / median[OURS]
                goals.append((f"{where}: seqpacker takes {times:.1f} × ours, goal {least} ×", times >= least))
            if "ours, tightest" in packs and name.endswith("row") and documents == 10_000 and "to" in name:
                over, took = packs["ours, tightest"] / program_bound(lengths, max_length), median["ours, tightest"]
                goals.append((f"{where}: tightest {over:.4f} of the program's bound, goal 1.002", over <= 1.002))
                goals.append((f"{where}: tightest in {took:.1f} CPU s, goal 5 s", took <= 5))
    return goals


def main() -> int:
    """The sections asked for; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=("lengths", "dataset", "collate"), default=None)
    parser.add_argument("--documents", type=int, nargs="+", metavar="N", help="how many (10000 100000 1000000)")
    parser.add_argument("--quick", action="store_true", help="10k documents only")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    from benchmarks import packing_rows

    if args.one:
        return packing_rows.measure(args.one[0], args.one[1], Path(args.one[2]))
    sections = args.sections or ["lengths", "dataset", "collate"]
    goals: list[tuple[str, bool]] = []
    if "lengths" in sections:
        goals += lengths_section(args.documents or ([10_000] if args.quick else [10_000, 100_000, 1_000_000]), ROUNDS)
    documents = max(args.documents) if args.documents else 10_000 if args.quick else 100_000
    if "dataset" in sections:
        goals += packing_rows.dataset_section(documents)
    if "collate" in sections:
        goals += packing_rows.collate_section(documents)
    print()
    for what, met in goals:
        print(f"  {'met    ' if met else 'NOT met'}  {what}")
    return 0 if all(met for _, met in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
