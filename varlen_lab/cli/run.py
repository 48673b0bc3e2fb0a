"""``varlen-lab run``: one notebook, with parameters, into an executed copy and its page; ``walkthrough``: all."""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.machine.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The notebook, where to put the copy, and its parameters."""
    parser.add_argument("notebook", nargs="?", help="a path, or a lesson's name or number: 05_train, 05; zh/05")
    parser.add_argument("-o", "--output", type=Path, help="the executed notebook (default: runs/<name>.ipynb)")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="variables of the notebook's parameters cell: -p steps=50 (or -p steps 50; repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """0 when every cell ran, 1 when one failed; either way the copy and the page are written."""
    from varlen_lab.course.lessons import find_lesson
    from varlen_lab.course.notebooks import run_shown
    from varlen_lab.course.parameters import pairs_of

    parameters, rest = pairs_of(args.parameter)
    words = [word for word in [args.notebook, *rest] if word is not None]  # -p takes a notebook's name after it, too
    if not words:
        raise InputError("run takes a notebook; name a lesson or a file, as in `varlen-lab run 05 -p steps=50`.")
    if rest and args.notebook is not None:
        raise InputError(f"-p {rest[0]} has no value; write -p {rest[0]}=VALUE.")
    lesson = find_lesson(words[0])
    output = args.output or Path("runs") / f"{lesson.address}.ipynb"
    outcome = run_shown(lesson, output, parameters)
    for written in (output, output.with_suffix(".html")):
        say(f"  {written}")
    return 0 if outcome.status == "ok" else 1


def add_arguments_of_all(parser: argparse.ArgumentParser) -> None:
    """Where to write, how long to take, which notebooks, on what, and whether their numbers are compared."""
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("runs/walkthrough"), help="folder (default: runs/walkthrough)"
    )
    parser.add_argument("--quick", action="store_true", help="shorter trainings: quick=True where a lesson has it")
    parser.add_argument("--only", nargs="+", metavar="NB", help="only these: --only 05 08_for_loop")
    parser.add_argument("--device", help="device of the lessons, each of which must have one: --only 05 --device cuda")
    about = (
        "set the numbers beside those the notebooks were kept with; exit code 1 where one lies outside its tolerance"
    )
    parser.add_argument("--compare", action="store_true", help=about)
    parser.add_argument(
        "--language", nargs="+", metavar="LANGUAGE", default=["en"], help="en, zh or both: the twins that run (en)"
    )


def run_all(args: argparse.Namespace) -> int:
    """0 when every notebook ran, 1 when one failed or has another number."""
    from varlen_lab.course.notebooks import walkthrough

    return walkthrough(
        args.out, args.quick, args.only, device=args.device, compare=args.compare, languages=args.language
    )
