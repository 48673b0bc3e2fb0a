"""A command beside a program that keeps cores busy: how many times longer it takes than alone, on the clock.

    python -m benchmarks.neighbour

``one``: one busy loop beside it; ``all``: one for every core, so that half of each core is left. Runs alone and beside
take turns, and medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.start import CONFIG, SHORT, VERBS, brief, spent
from benchmarks.verdict import verdict
from varlen_lab.machine.environment import cores

GOAL = 2.2
ROUNDS = 3
FEW = (*SHORT[:-1], "max_steps=10")
WORDS = [*(words for words in VERBS if words[0] != "train"), ("train", CONFIG, *FEW), ("audit", CONFIG)]


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Inside, so many processes of one thread compute without a pause."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> int:
    """Print a row a verb; the exit code: 0 when no verb is more than ``GOAL`` times slower, else 1."""
    goals = []
    print(f"{'wall seconds':48}{'alone':>8}{'one':>8}{'all':>8}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as name:
        for words in WORDS:
            spent(words, Path(name))  # fills the cache
            taken: dict[int, list[float]] = {0: [], 1: [], cores(): []}
            for _ in range(ROUNDS):
                for loops, walls in taken.items():
                    with busy(loops):
                        walls.append(spent(words, Path(name)).wall)
            alone, one, every = (statistics.median(taken[loops]) for loops in (0, 1, cores()))
            ratio = max(one, every) / alone
            print(f"{brief(words):48}{alone:8.1f}{one:8.1f}{every:8.1f}{ratio:8.2f}", flush=True)
            goals.append((f"{brief(words)}: {ratio:.2f} times slower beside others, at most {GOAL}", ratio <= GOAL))
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
