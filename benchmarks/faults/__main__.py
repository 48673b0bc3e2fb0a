"""The command: faults of every kind, a table, exit code 1 where one did harm."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import benchmarks.faults as package
from benchmarks.faults.children import Ended, in_children
from benchmarks.faults.outcomes import FAILED, SKIPPED, SURVIVED, Case, Outcome, Tally
from benchmarks.faults.stage import Stage, build, last_line

LIMIT = 100  # seconds of a case, in which a tiny run ends many times
SHOWN = 30  # failures of a kind that are printed


def main(words: list[str] | None = None) -> int:
    """Parse, try, print; the exit code."""
    from benchmarks.faults.registry import KINDS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--case", type=int, help="this one alone, of the kind that --only names")
    parser.add_argument("--seed", type=int, default=0, help="of the places that are chosen at random (%(default)s)")
    parser.add_argument("--small", action="store_true", help="a few cases of each kind")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the folders of cases that failed")
    parser.add_argument("-o", "--output", type=Path, help="JSON of every case")
    args = parser.parse_args(words)
    if not hasattr(os, "fork"):
        print("error: faults are done to forked processes, which Windows does not have.", file=sys.stderr)
        return 2
    warm_up()
    begun, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="faults-"))
    os.chmod(root, 0o755)  # a case may be another user
    try:
        stage = build(root / "stage", args.seed)
        tallies = [tried(name, stage, args) for name in args.only]
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    if args.output:
        args.output.write_text(json.dumps([case for tally in tallies for case in tally.cases], indent=1) + "\n")
    print("\n" + table(tallies) + f"\n{time.monotonic() - begun:,.0f} s, seed {args.seed}")
    return int(any(tally.failures for tally in tallies))


def warm_up() -> None:
    """Import here what every case needs; one thread, for a fork takes one along."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch

    torch.set_num_threads(1)
    for name in ("accelerate", "datasets", "peft", "transformers", "transformers.modeling_utils", "matplotlib.figure"):
        __import__(name)
    for name in ("training.trainer", "training.conversion", "cli.train", "cli.convert", "leaks.running", "packing"):
        __import__(f"varlen_lab.{name}")


def tried(name: str, stage: Stage, args: argparse.Namespace) -> Tally:
    """All cases of a kind, or those that were asked for."""
    from benchmarks.faults.registry import KINDS

    kind, tally = KINDS[name], Tally(name)
    stage.chooser.seed(f"{name} {args.seed}")
    numbered: Iterator[tuple[int, Case]] = enumerate(kind.cases(stage), start=1)
    if args.case is not None:
        numbered = itertools.islice(numbered, args.case - 1, args.case)
    elif args.every > 1:
        numbered = itertools.islice(numbered, args.every // 2, None, args.every)
    elif args.small:
        every = list(numbered)
        numbered = iter(every[len(every) // kind.few // 2 :: max(1, len(every) // kind.few)][: kind.few])
    shown = sys.stderr.isatty()
    for (number, case), ended in in_children(numbered, lambda job: placed(name, *job, stage), args.jobs, LIMIT):
        outcome = outcome_of(ended)
        tally.add(number, case.what, outcome)
        folder = stage.folder.parent / f"{name}-{number}"
        if not (args.keep and outcome.failed):
            shutil.rmtree(folder, ignore_errors=True)
        if shown:
            print(f"\r{name}: {tally.tried} tried, {len(tally.failures)} failed ", end="", file=sys.stderr)
        if outcome.failed and len(tally.failures) <= SHOWN:
            again = f"--only {name} --case {number}" + (f" --seed {args.seed}" if args.seed else "")
            print(f"{outcome.word}: {case.what}: {outcome.said}\n  {again}", flush=True)
    if shown:
        print(file=sys.stderr)
    return tally


def placed(kind: str, number: int, case: Case, stage: Stage):  # type: ignore[no-untyped-def]
    """A case in its folder."""

    def work() -> Outcome:
        folder = stage.folder.parent / f"{kind}-{number}"
        folder.mkdir()
        os.chdir(folder)
        os.environ["VARLEN_LAB_CACHE"] = str(stage.folder / "cache")
        return case.act()

    return work


def outcome_of(ended: Ended) -> Outcome:
    """Of a case whose own process ended: badly is a failure, too."""
    if ended.hung:
        return Outcome("hang", f"no end within {LIMIT} s")
    if ended.signal:
        return Outcome("traceback", f"the process crashed (signal {ended.signal})")
    return Outcome("traceback", last_line(ended.problem)) if ended.problem else ended.value


def table(tallies: list[Tally]) -> str:
    """A line a kind, and one of all."""
    words = ["tried", *SURVIVED, *FAILED]
    heads = ["tried", *SURVIVED, "lost", "executed", "tracebacks", "silent", "hang"]
    rows = ["kind".ljust(10) + "".join(f"  {word}" for word in heads)]
    total: Counter[str] = Counter()

    def row(name: str, numbers: Counter[str]) -> str:
        return name.ljust(10) + "".join(f"  {numbers[word]:{len(head)},}" for word, head in zip(words, heads))

    for tally in tallies:
        numbers = Counter(tally.counts, tried=tally.tried)
        total += numbers
        skipped = f"  ({tally.counts[SKIPPED]} skipped)" if tally.counts[SKIPPED] else ""
        rows.append(row(tally.kind, numbers) + skipped)
    rows.append(row("all", total))
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
