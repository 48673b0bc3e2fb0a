"""``python -m benchmarks.gpu``: the plan, the sections one after the other, the report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import NAMES, REPORT, chosen, clock, share
from benchmarks.gpu.store import BAD, Cell, Store, ends, newest, occupy, unfit
from varlen_lab.errors import InputError

BEGIN = time.monotonic()  # the minutes count from here: torch and transformers are imported later


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, help="everything ends by then, counted from the start (6, rehearsal 3)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-results"), metavar="DIR", help="(gpu-results)")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help=f"only these, of {', '.join(NAMES)}")
    parser.add_argument("--smoke", action="store_true", help="only the smoke, 45 seconds: does everything start here?")
    parser.add_argument("--dry-run", action="store_true", help="print the clock, run nothing")
    parser.add_argument("--rehearse", action="store_true", help="everything in miniature on the CPU; measures nothing")
    args = parser.parse_args()
    args.sections = ["smoke"] if args.smoke else args.sections
    args.minutes = (3.0 if args.rehearse else 6.0) if args.minutes is None else args.minutes
    return args


def main() -> int:
    args = arguments()
    try:
        times = clock(chosen(args.sections, args.rehearse), args.minutes)
        if args.dry_run:
            for name, start, end, what in times:
                span = f"{start:4.0f} to {end:4.0f} s" if end > start else "left out"
                say(f"{span:14}  {name:12} {what}")
            say("each ends at its limit; what one does not use flows to the later ones")
            return 0
        return measure(args)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def say(line: str) -> None:
    """A line on the screen; when nobody reads it any more the run goes on: what it measures is on the disk."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def measure(args: argparse.Namespace) -> int:
    """Run the sections; 1 when one did not end well or a cell failed or is wrong. Goals that are missed are said."""
    if args.rehearse:  # threads that share busy cores wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # sizes differ from batch to batch
    import torch  # noqa: F401  (imported once here, and there in every forked process)

    from benchmarks.gpu.bench import Bench
    from benchmarks.gpu.machine import commit, facts_of, start_method
    from benchmarks.gpu.runner import GRACE, End, cells_of, run_apart

    sections, method, device = chosen(args.sections, args.rehearse), start_method(), "cpu" if args.rehearse else "cuda"
    machine = facts_of(device, max(section.memory for section in sections), method)
    import transformers  # noqa: F401

    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    run = {"command": command, "commit": commit(), "started": started, "machine": machine, "rehearsal": args.rehearse}
    occupy(args.output)
    store = Store(args.output, run)
    say(f"{machine['device']}, torch {machine['torch']}, kernels {', '.join(machine['kernels'])}")
    for word in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # whoever ends this early gets the report
        if signal.getsignal(word) != signal.SIG_IGN:  # as nohup has it
            signal.signal(word, signal.default_int_handler)
    try:
        for number, section in enumerate(sections):
            begin = time.monotonic()
            left = max(0.0, BEGIN + 60 * args.minutes - REPORT - begin)
            ended = End(f"not reached: {left:.0f} s were left of {section.least:.0f}")
            store.run["sections"][section.name] = {"how": "interrupted", "seconds": 0.0, "limit": left, "traceback": ""}
            if limit := share(sections[number:], left):
                keep, bad = partial(kept, store, section.name), unfit(newest(store.content))
                bench = Bench(device, begin + limit - GRACE, args.output, args.rehearse, bad)
                ended = run_apart(partial(cells_of, section.name, bench), limit, keep, method)
            took = time.monotonic() - begin
            store.run["sections"][section.name] = {**ended._asdict(), "seconds": took, "limit": limit}
            trouble = store.flush()
            say(f"{section.name} {ended.how}, {took:.0f} of {limit:.0f} s{trouble and f'; {trouble}'}")
    finally:
        well = close(args.output, store.content)
    return 0 if well else 1


def kept(store: Store, section: str, cell: Cell) -> None:
    """Put a cell on the disk, then a line on the screen."""
    trouble = store.add(section, cell)
    numbers = [f"{name} {one:.4g}" for name, one in cell.items() if isinstance(one, (int, float)) and name != "took"]
    words = f"{cell['status']} ({cell['why']})" if "status" in cell else ", ".join(numbers[:5])
    say(f"  {section:12} {cell['cell']}: {words}{trouble and f'; {trouble}'}")


def close(folder: Path, content: dict[str, Any]) -> bool:
    """Write the report, say what did not go well and which goals are missed; whether all went well."""
    try:
        from benchmarks.gpu.report import missed, problems_of, write

        cells = newest(content)
        lines = [f"wrote {path}" for path in write(folder, content)] + problems_of(content, cells)
        lines += [] if content["runs"][-1]["rehearsal"] else [f"goal {line}" for line in missed(cells)]
        for line in lines:
            say(line)
        bad = any(cell["status"] in BAD for cell in cells.values())
        return not bad and all(how == "done" for how in ends(content).values())
    except Exception as problem:  # the numbers are on disk already
        say(f"the report could not be written ({problem}); python -m benchmarks.gpu.report {folder}")
        return False


if __name__ == "__main__":
    sys.exit(main())
