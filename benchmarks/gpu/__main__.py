"""``python -m benchmarks.gpu``: the plan, the sections one after the other, the report."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.gpu.machine import commit, facts_of, start_method
from benchmarks.gpu.plan import NAMES, Section, choose, fit
from benchmarks.gpu.store import Cell, Store
from varlen_lab.errors import InputError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="all sections and the report end by then (9)")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-results"), metavar="DIR", help="(gpu-results)")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its times, run nothing")
    parser.add_argument("--rehearse", action="store_true", help="everything in miniature on the CPU; measures nothing")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    console = Console(highlight=False)
    try:
        plan = fit(choose(args.sections), args.minutes)
        if args.dry_run:
            console.print(table_of(plan, args.minutes))
            return 0
        device = "cpu" if args.rehearse else "cuda"
        machine = facts_of(device, max(section.memory for section, _ in plan))
        return measure(console, plan, args, device, machine)
    except InputError as problem:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(str(problem))}")
        return 2
    except KeyboardInterrupt:
        return 130


def measure(
    console: Console, plan: list[tuple[Section, int]], args: argparse.Namespace, device: str, machine: dict[str, Any]
) -> int:
    """Run the plan; 1 when a section failed, 0 otherwise. Goals that are missed are in the report."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # sizes differ from batch to batch
    import transformers  # noqa: F401  (imported once here, and there in every forked section)

    from benchmarks.gpu.report import write
    from benchmarks.gpu.runner import run_section

    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    run = {"command": command, "commit": commit(), "started": started, "machine": machine, "rehearsal": args.rehearse}
    store = Store(args.output, run)
    console.print(f"[bold]{machine['device']}[/], torch {machine['torch']}, {machine['kernels']}")
    failed, method = False, start_method()
    for section, seconds in plan:
        start = time.monotonic()

        def keep(cell: Cell, name: str = section.name) -> None:
            store.add(name, cell)
            console.print(f"  {name:12} {line_of(cell)}", markup=False, soft_wrap=True)

        how = run_section(section.name, seconds, device, args.output, args.rehearse, keep, method)
        store.close(section.name, how)
        failed |= how != "done"
        console.print(f"[bold]{section.name}[/] {how}, {time.monotonic() - start:.0f} of {seconds} s")
    try:
        for path in write(args.output, store.content):
            console.print(f"wrote {path}", markup=False)
    except Exception as problem:  # the numbers are on disk already
        console.print(f"the report could not be written ({problem}); python -m benchmarks.gpu.report {args.output}")
        failed = True
    return 1 if failed else 0


def table_of(plan: list[tuple[Section, int]], minutes: float) -> Table:
    """The plan as ``--dry-run`` shows it."""
    table = Table(box=None, header_style="bold", title=f"{minutes:g} minutes on one CUDA device", title_justify="left")
    for name, justify in (
        ("section", "left"),
        ("seconds", "right"),
        ("until", "right"),
        ("GiB", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    end = 0
    for section, seconds in plan:
        end += seconds
        table.add_row(section.name, str(seconds), f"{end // 60}:{end % 60:02}", str(section.memory), section.what)
    rest = minutes * 60 - end
    table.caption = f"cells are on disk as they come; a section ends at its limit; {rest:.0f} s are left for the report"
    return table


def line_of(cell: Cell) -> str:
    """A cell as one line of the log."""
    if cell.get("status", "ok") != "ok":
        return f"{cell['cell']}: {cell['status']} ({cell.get('why', '')})"
    numbers = {name: value for name, value in cell.items() if isinstance(value, (int, float)) and name != "took"}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:5])
    return f"{cell['cell']}: {shown}"


if __name__ == "__main__":
    sys.exit(main())
