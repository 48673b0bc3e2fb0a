"""What a command costs before its work: CPU seconds of the second call, in fresh processes, beside the goals.

    python -m benchmarks.start

The first call fills a cache folder of its own, as a person's first one does. CPU seconds are those of the command and
of all that it starts, user and system; the goals are for a laptop with 2 cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.verdict import verdict

CONFIG = "tiny_llama_full_docstrings_e1"
SHORT = ("--quiet", "--cfg-options", "max_steps=1")
VERBS = {  # words of the command -> CPU seconds that the second call may take, None: shown only
    ("check-env",): 2.6,
    ("masks", "--lengths", "2", "4", "3"): 2.5,
    ("masks", CONFIG): 2.5,
    ("pack-report", CONFIG): None,
    ("support",): 10.0,
    ("train", CONFIG, *SHORT): 7.0,
    ("compare", CONFIG, *SHORT): None,
}


class Spent(NamedTuple):
    """What a command took."""

    cpu: float  # seconds, user and system
    wall: float  # seconds


def spent(words: tuple[str, ...], folder: Path) -> Spent:
    """Run ``varlen-lab WORDS`` in ``folder``, where its cache lies too; SystemExit when it does not end well."""
    environment = os.environ | {"VARLEN_LAB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "varlen_lab", *words]
    with (folder / "said.txt").open("w+b") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"varlen-lab {' '.join(words)}: {said.read().decode('utf-8', 'replace')}")
    return Spent(usage.ru_utime + usage.ru_stime, wall)


def brief(words: tuple[str, ...]) -> str:
    """The words without the flags that are the same for all."""
    return " ".join(word for word in words if word not in SHORT[:-1])


def main() -> int:
    """Print a row a verb; the exit code: 0 when all goals are met, else 1."""
    goals = []
    print(f"{'second call':48}{'CPU s':>8}{'wall s':>8}{'goal':>8}{'share':>8}")
    with tempfile.TemporaryDirectory() as name:
        for words, goal in VERBS.items():
            spent(words, Path(name))
            second = spent(words, Path(name))
            row = f"{brief(words):48}{second.cpu:8.1f}{second.wall:8.1f}"
            print(row + (f"{goal:8.1f}{second.cpu / goal:8.2f}" if goal else ""), flush=True)
            if goal:
                goals.append((f"{brief(words)}: {second.cpu:.1f} of {goal} CPU seconds", second.cpu <= goal))
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
