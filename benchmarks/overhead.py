"""CPU seconds of each verb here, as a multiple of those in another checkout: what a change costs who notices it least.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.overhead --against /tmp/before

Every verb runs in a fresh Python, here and there in turn, so that what else the machine does meets both alike. Each
checkout makes the runs and folders that its own verbs then read. Exit code 1 where a verb's median ratio is over the
limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.verdict import verdict

HERE = Path(__file__).resolve().parent.parent
LIMIT = 1.10
CONFIG = "tiny_llama_full_docstrings_e1"
SMALL = ("max_length=512", "accumulative_counts=2", "evaluation_freq=0", "device=cpu", "use_varlen_attn=True")
STEPS = ("max_steps=20", "save_steps=5", "save_total_limit=-1")
LORA = ("pretrained_model_name_or_path=base", "model_config=None", "method=lora", "lora_r=4", "max_steps=2")

# what each checkout makes first, in order: no figures are taken of it
MADE: tuple[tuple[str, ...], ...] = (
    ("copy-cfg", CONFIG, ".", "--set", *SMALL, *STEPS),
    ("train", "c.py", "--work-dir", "run", "--quiet"),
    ("convert", "pth_to_hf", "c.py", "run/iter_20.pth", "base"),
    ("copy-cfg", CONFIG, "lora", "--set", *SMALL, *LORA),
    ("train", "lora.py", "--work-dir", "lora_run", "--quiet"),
    ("convert", "pth_to_hf", "lora.py", "lora_run/iter_2.pth", "adapter"),
)
# verbs that are measured; what they write is removed in between
VERBS: dict[str, tuple[str, ...]] = {
    "train": ("train", "c.py", "--work-dir", "out", "--quiet"),
    "train, a save a step": ("train", "c.py", "--work-dir", "out", "--quiet", "--cfg-options", "save_steps=1"),
    "resume": ("train", "c.py", "--work-dir", "out", "--quiet", "--resume", "run/iter_10.pth"),
    "train lora": ("train", "lora.py", "--work-dir", "out", "--quiet"),
    "convert": ("convert", "pth_to_hf", "c.py", "run/iter_20.pth", "out"),
    "merge": ("convert", "merge", "base", "adapter", "out"),
    "audit": ("audit", "c.py"),
    "audit --model": ("audit", "--model", "base"),
    "compare": ("compare", "c.py", "--quiet", "-o", "out", "--cfg-options", "max_steps=4"),
    "pack-report": ("pack-report", "c.py", "-o", "out"),
    "log-dataset": ("log-dataset", "c.py"),
    "check-custom-dataset": ("check-custom-dataset", "c.py"),
    "masks": ("masks", "c.py", "-o", "out/masks.svg"),
    "copy-cfg": ("copy-cfg", CONFIG, "out"),
    "list-cfg": ("list-cfg",),
}


def spent(words: tuple[str, ...], checkout: Path, folder: Path) -> float:
    """CPU seconds of a command of a checkout, in a folder; SystemExit with what it said where it fails."""
    subprocess.run(["rm", "-rf", "out"], cwd=folder, check=True)
    env = os.environ | {"PYTHONPATH": str(checkout), "VARLEN_LAB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # or every run would compile what an installed library has compiled
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "varlen_lab", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1) or (done.returncode and words[0] != "audit"):
        raise SystemExit(f"{checkout}: varlen-lab {' '.join(words)} failed: {done.stderr[-400:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make(checkout: Path, folder: Path) -> None:
    """A folder with all that the verbs read."""
    folder.mkdir()
    for words in MADE:
        spent(words, checkout, folder)
        for copy, name in ((f"{CONFIG}_copy.py", "c.py"), (f"lora/{CONFIG}_copy.py", "lora.py")):
            if (folder / copy).exists():
                (folder / copy).rename(folder / name)


def ratios(names: list[str], against: Path, runs: int) -> dict[str, tuple[float, float, float]]:
    """Of each verb: median CPU seconds there, here, and the median of the ratios of runs in turn."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="overhead-") as root:
        places = {"there": (against, Path(root, "there")), "here": (HERE, Path(root, "here"))}
        for checkout, folder in places.values():
            make(checkout, folder)
        for name in names:
            for one in places.values():
                spent(VERBS[name], *one)  # bytecode and caches
            taken: dict[str, list[float]] = {"there": [], "here": []}
            for number in range(runs):
                for side in sorted(places, reverse=number % 2 == 0):  # neither is always the first
                    taken[side].append(spent(VERBS[name], *places[side]))
            each = [here / there for here, there in zip(taken["here"], taken["there"], strict=True)]
            medians = [statistics.median(taken[side]) for side in ("there", "here")]
            found[name] = (*medians, statistics.median(each))
            print(f"{name:22}{medians[0]:10.2f}{medians[1]:10.2f}{found[name][2]:10.2f}", flush=True)
    return found


def main(words: list[str] | None = None) -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--only", nargs="+", choices=VERBS, default=list(VERBS), metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("--runs", type=int, default=7, help="of each verb, in each checkout (%(default)s)")
    args = parser.parse_args(words)
    if args.against is None or not (args.against / "varlen_lab").is_dir():
        what = "--against is missing" if args.against is None else f"{args.against} is no checkout of this project"
        print(f"error: {what}; make one with `git worktree add /tmp/before COMMIT`.", file=sys.stderr)
        return 2
    print(f"{'CPU seconds':22}{'there':>10}{'here':>10}{'ratio':>10}")
    found = ratios(args.only, args.against.resolve(), args.runs)
    return verdict([(f"{name}: {ratio:.2f} <= {LIMIT:.2f}", ratio <= LIMIT) for name, (_, _, ratio) in found.items()])


if __name__ == "__main__":
    sys.exit(main())
