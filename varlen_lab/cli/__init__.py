"""The command ``varlen-lab``: one thin module a verb, imported only when its verb is asked for.

A verb module has three names: ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int``. What
``run`` returns is the exit code: 0 done, 1 the check says no, 2 the input or the machine cannot, 130 Ctrl-C.
An ``InputError`` becomes one line on stderr and exit code 2; every other exception is a bug of ours and keeps
its traceback. This module decides nothing else.

``CONFIG`` on a command line: a file that exists, or a name that ``list-cfg`` shows.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import warnings
from typing import NoReturn

from varlen_lab.config.schema import Config
from varlen_lab.config.text import load_config, override
from varlen_lab.errors import InputError, nearest

# verb -> (module, one line for --help). The help lines are kept here so that --help imports no verb.
VERBS: dict[str, tuple[str, str]] = {
    "check-env": ("check_env", "what this machine can run, with a numeric check"),
    "list-cfg": ("list_cfg", "the configs that exist; -p PATTERN narrows the list"),
    "copy-cfg": ("copy_cfg", "copy a config into a folder, to edit it there"),
    "check-custom-dataset": ("check_custom_dataset", "bad records by line and reason, token counts, the pack report"),
    "log-dataset": ("log_dataset", "a packed row with its seams and what is trained on"),
    "train": ("train", "train from a config file or a config name"),
    "compare": ("compare", "three losses: unpacked, packed and varlen"),
    "support": ("support", "the support table of eleven model families, measured now"),
    "audit": ("audit", "does packing change what a model computes? leaks, parity, traps"),
    "convert": ("convert", "checkpoints to Hugging Face folders: pth_to_hf"),
    "pack-report": ("pack_report", "what packing does to a dataset: fill, losses, cost, steps"),
    "masks": ("masks", "draw who sees whom in one packed row"),
    "run": ("run", "run one notebook with parameters, and keep its page"),
    "walkthrough": ("walkthrough", "run every notebook, then show it all on one page"),
}


_python_warning = warnings.formatwarning


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors told our way: one sentence, no usage dump, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` shows what is possible")


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser with ``verb``'s arguments filled in; the other verbs are only names and help lines."""
    from varlen_lab import __version__

    parser = _Parser(
        prog="varlen-lab",
        description="See, prove and use variable-length attention.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
        epilog="Start with `varlen-lab check-env`, then `varlen-lab walkthrough`.",
    )
    parser.add_argument("--version", action="version", version=f"varlen-lab {__version__}")
    parser.set_defaults(options=["--help", "--version"])
    commands = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for name, (module_name, help_line) in VERBS.items():
        if name == verb:
            module = importlib.import_module(f"varlen_lab.cli.{module_name}")
            command = commands.add_parser(name, help=help_line, description=module.HELP)
            module.add_arguments(command)
            command.set_defaults(run=module.run, options=list(command._option_string_actions))
        else:
            commands.add_parser(name, help=help_line, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv[1:]``) and return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # a terminal, not a program that has its own way to show warnings
        warnings.formatwarning = _note
    if not sys.stderr.isatty():  # other libraries' bars do not ask whether a log wants them
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    verb = words[0] if words and not words[0].startswith("-") else None
    try:
        if verb is not None and verb not in VERBS:
            raise InputError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; the verbs are {', '.join(VERBS)}")
        parser = build_parser(verb)
        if not words:
            parser.print_help()
            return 0
        args, unknown = parser.parse_known_args(words)
        if unknown:
            raise InputError(
                f"unknown argument {unknown[0]!r}{nearest(unknown[0], args.options)}; "
                f"`varlen-lab {verb + ' ' if verb else ''}--help` shows what is possible"
            )
        args.argv = words
        return int(args.run(args) or 0)
    except InputError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # `varlen-lab list-cfg | head`
        sys.stderr.close()
        return 0


def _note(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours as one sentence, those of others as Python writes them, with file and line."""
    ours = category is UserWarning and os.path.dirname(os.path.dirname(__file__)) in filename
    return f"note: {message}\n" if ours else _python_warning(message, category, filename, lineno, line)


def _complain(sentence: str) -> None:
    """One line on stderr, ``error:`` in red on a terminal; brackets in the sentence stay as they are."""
    from rich.console import Console
    from rich.text import Text

    if rank := int(os.environ.get("RANK", 0)):  # the first process says it, and the others end with it; else ...
        time.sleep(2)
        sentence = f"process {rank}: {sentence}"
    line = Text.assemble(("error: ", "bold red"), sentence)
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The config and the overrides every verb that trains takes."""
    parser.add_argument("config", metavar="CONFIG", help="a config file, or a name from list-cfg")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings to change: --cfg-options max_steps=20 seed=1",
    )


def read_config(word: str, overrides: list[str] | None = None, *, acting: bool = False) -> Config:
    """The Config that ``word`` names, with ``name=value`` overrides put in and checked as a whole.

    ``acting``: an override that does nothing in a run of this config is refused, not only one that breaks a rule.
    """
    config = load_config(word)
    return override(config, overrides or [], acting=acting)
