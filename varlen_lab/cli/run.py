"""``varlen-lab run``: one notebook, with parameters, into an executed copy and its page; ``walkthrough``: all."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The notebook, where to put the copy, and its parameters."""
    parser.add_argument("notebook", help="a path, or a lesson's name or number: 05_train, 05")
    parser.add_argument("-o", "--output", type=Path, help="the executed notebook (default: runs/<name>.ipynb)")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a variable of the notebook's parameters cell: -p quick True (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """0 when every cell ran, 1 when one failed; either way the copy and the page are written."""
    from rich.console import Console

    from varlen_lab.course.lessons import find_lesson, value_of
    from varlen_lab.course.notebooks import run_shown

    lesson = find_lesson(args.notebook)
    output = args.output or Path("runs") / lesson.path.name
    console = Console(highlight=False, soft_wrap=True)
    outcome = run_shown(lesson, output, {name: value_of(word) for name, word in args.parameter}, console)
    console.print(f"  {output}\n  {output.with_suffix('.html')}", markup=False)
    return 0 if outcome.status == "ok" else 1


def add_arguments_of_all(parser: argparse.ArgumentParser) -> None:
    """Where to write, how long to take, and which notebooks."""
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("runs/walkthrough"), help="folder (default: runs/walkthrough)"
    )
    parser.add_argument("--quick", action="store_true", help="shorter trainings: quick=True in each notebook")
    parser.add_argument("--only", nargs="+", metavar="NB", help="only these: --only 05 07_masks")


def run_all(args: argparse.Namespace) -> int:
    """0 when every notebook ran, 1 when one failed."""
    from varlen_lab.course.notebooks import walkthrough

    return walkthrough(args.out, quick=args.quick, only=args.only)
