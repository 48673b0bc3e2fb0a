"""The command ``varlen-lab``: one thin file for each verb, imported only when its verb is asked for.

A verb's file has ``add_arguments(parser)`` and ``run(args) -> int``. What ``run`` returns is the exit code: 0 done, 1
the check says no, 2 the input or the machine cannot, 130 Ctrl-C, 143 SIGTERM or SIGHUP. An ``InputError`` becomes one
line on stderr and exit code 2; every other exception is a bug of ours and keeps its traceback.

Below the command itself lies what several verbs do: reading a config, telling data from a config, opening the rows of
a config's data, saving a figure. ``CONFIG`` on a command line is a file that exists, or a name that ``list-cfg`` shows.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from varlen_lab.cli.registry import VERBS
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load_config, override
from varlen_lab.documents.registry import READERS
from varlen_lab.errors import InputError, LeakFound, nearest, one_of, quoted
from varlen_lab.files.places import check_file, check_ours
from varlen_lab.files.writing import writable, written_whole
from varlen_lab.language.saying import speaking
from varlen_lab.machine import console, signals, starting
from varlen_lab.machine.arguments import named, place, whole
from varlen_lab.machine.folding import folded
from varlen_lab.machine.letters import shown
from varlen_lab.machine.streams import lost_output

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

    from varlen_lab.packing.strategies import PackReport


_python_warning = warnings.formatwarning
# what can be wrong with a path that somebody named: too long, not theirs, a loop of links, no room behind it
OF_PATHS = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOSPC}


class _Help(argparse.HelpFormatter):
    """argparse's help, no line of it longer than the console, which argparse itself does not promise."""

    def __init__(self, prog: str, **layout: Any) -> None:
        self._columns = console.width() or console.USUAL_WIDTH
        super().__init__(prog, **{"width": self._columns - 2} | layout)

    def format_help(self) -> str:
        """The whole text."""
        lines = super().format_help().splitlines()
        return "".join(f"{piece}\n" for line in lines for piece in folded(line, self._columns, hang=2))


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors told our way: one sentence, no usage dump, exit code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help} | settings)
        for kind, read in ((int, whole), (Path, place), (None, named)):
            self.register("type", kind, read)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown, use {one_of(value, list(action.choices))}")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` shows what is possible")


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser with ``verb``'s arguments filled in; the other verbs are only names and help lines."""
    from varlen_lab import __version__

    parser = _Parser(
        prog="varlen-lab",
        description="See, prove and use variable-length attention.",
        formatter_class=lambda prog: _Help(prog, max_help_position=18),
        epilog="Start with `varlen-lab check-env`; it says what comes next.",
    )
    parser.add_argument("--version", action="version", version=f"varlen-lab {__version__}")
    parser.set_defaults(options=["--help", "--version"])
    commands = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for name, record in VERBS.items():
        if name == verb:
            module = importlib.import_module(f"varlen_lab.cli.{record.module}")
            command = commands.add_parser(name, help=record.help, description=record.description)
            getattr(module, record.add_arguments)(command)
            command.set_defaults(run=getattr(module, record.run), options=list(command._option_string_actions))
        else:
            commands.add_parser(name, help=record.help, add_help=False)
    return parser


def _silence_other_libraries() -> None:
    """Leave out what other libraries say that nobody who runs a verb can act on."""
    # what they will rename in a year is a matter between these libraries
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    # where it reports missing weights, load_model has a note
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # peft opens it for every adapter, and it misses a kernel for four bits where nothing has four bits
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # accelerate opens it for every checkpoint, and it misses a GPU, on stdout. It sets a level of its own
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: ``sys.argv[1:]``) and return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # a terminal, not a program that has its own way to show warnings
        warnings.formatwarning = _format_warning
        _silence_other_libraries()
        starting.begin()
        atexit.register(signals.be_deaf)
        console.prepare()
        if console.is_terminal(sys.stderr):
            logging.getLogger("varlen_lab").addHandler(_OnTerminal())
            logging.getLogger("varlen_lab").setLevel(logging.INFO)
    # other libraries' bars: loading 20 tensors, writing a shard; set to 0 they are shown, as for a long download
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        with signals.heeded(), speaking("en"):  # whatever a notebook that calls it speaks
            code = _obey(words)
        if argv is None:
            signals.end_with(code)
        return code
    except InputError as error:
        # what a leak check found stands below its sentence; any other line feed came with a name
        _print_error(*(str(error).split("\n") if isinstance(error, LeakFound) else [str(error)]))
        return error.exit_code
    except OSError as problem:
        if problem.errno not in OF_PATHS or not isinstance(problem.filename, (str, bytes)):
            raise
        _print_error(f"{quoted(os.fsdecode(problem.filename))}: {problem.strerror}; name another path.")
        return InputError.exit_code
    except (KeyboardInterrupt, signals.Terminated) as asked:
        code = 130 if isinstance(asked, KeyboardInterrupt) else signals.STOPPED
        if argv is None:
            signals.end_with(code)
        if code == 130:
            _print_error("interrupted")
        else:  # of a verb that has nothing to say of what it leaves
            console.say(f"stopped by {asked}", stream=sys.stderr)
        return code


def _obey(words: list[str]) -> int:
    """The exit code of a verb and its arguments, which ``main`` heeds signals around; InputError."""
    verb = words[0] if words and not words[0].startswith("-") else None
    check_here()
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
    code = int(args.run(args) or 0)
    if why := lost_output():
        raise InputError(
            f"stdout could not be written ({why}): what was printed is lost, files that were to be saved are "
            "whole; make room there, or send the output elsewhere."
        )
    return code


def check_here() -> None:
    """InputError in a folder that was deleted meanwhile: no library can be imported, no relative path is one."""
    try:
        os.getcwd()
    except OSError as problem:
        raise InputError(f"the current folder is gone ({problem.strerror}); cd into one that is there.") from None


class _OnTerminal(logging.Handler):
    """Our own log, for people who look on: a line each, above the bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by ``logging``."""
        from tqdm import tqdm

        tqdm.write(console.as_said(f"varlen_lab: {record.getMessage()}", sys.stderr), file=sys.stderr, end="")


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours as one sentence, those of others as Python writes them, with file and line."""
    ours = category is UserWarning and os.path.dirname(os.path.dirname(__file__)) in filename
    if ours:
        return console.as_said(f"note: {message}", sys.stderr, hang=2)
    return shown(_python_warning(message, category, filename, lineno, line), sys.stderr)


def _print_error(sentence: str, *below: str) -> None:
    """One sentence on stderr, ``error:`` in red on a terminal, and what stands below it."""
    # Of several processes the first says what is wrong for all, and the launcher then ends the others: on busy
    # cores that takes a while. Who is still alive after ten seconds has a complaint of its own.
    rank = os.environ.get("RANK", "0")  # which may be what is wrong
    if rank.isdecimal() and int(rank):
        time.sleep(10)
        sentence = f"process {rank}: {sentence}"
    console.say(sentence, mark=("error: ", "bold red"), hang=2, stream=sys.stderr)
    for line in below:
        console.say(line, hang=2, stream=sys.stderr)


def add_config(
    parser: argparse.ArgumentParser,
    name: str = "config",
    metavar: str = "CONFIG",
    about: str = "a config file, or a name from list-cfg",
) -> None:
    """The argument ``name`` that says which config, and ``--cfg-options``."""
    parser.add_argument(name, metavar=metavar, help=about)
    about = "settings to change: --cfg-options max_steps=20 seed=1"
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="NAME=VALUE", help=about)


def add_no_isolate(parser: argparse.ArgumentParser) -> None:
    """``--no-isolate``, as ``args.no_isolate``: the overrides that it stands for, none where it is not given."""
    about = "refuse a model whose layers carry a state along the row; do not run them document by document"
    parser.add_argument("--no-isolate", action="store_const", const=["isolate=False"], default=[], help=about)


def read_config(word: str, overrides: list[str] | None = None, *, acting: bool = False) -> Config:
    """The Config that ``word`` names, with ``name=value`` overrides put in and checked as a whole.

    ``acting``: an override that does nothing in a run of this config is refused, not only one that breaks a rule.
    """
    config = load_config(word)
    return override(config, overrides or [], acting=acting)


def is_data(word: str) -> bool:
    """Whether a word names data and no config: a file with a data ending, a folder, the built-in corpus."""
    return word.startswith("builtin:") or word.lower().endswith(tuple(READERS)) or Path(word).is_dir()


def read_source(word: str, overrides: list[str], **of_data: Any) -> Config:
    """The Config that ``word`` names; where it is data, one that reads it with the built-in tokenizer.

    ``of_data``: settings that this one has besides, where ``overrides`` say nothing else.
    """
    if not is_data(word):
        return read_config(word, overrides)
    config = load_config("tiny_llama_full_docstrings_e1").replace(data_path=word, max_length=2048, **of_data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model which is named takes the place of the template's
        return override(config, overrides, acting=False)


def open_rows(config: Config) -> tuple[Dataset, Any, PackReport]:
    """The rows that a config trains on, the tokenizer they were made with, and what became of the documents."""
    from varlen_lab.training.data import load_rows, load_tokenizer

    tokenizer = load_tokenizer(config)
    rows, report = load_rows(config, tokenizer)
    return rows, tokenizer, report


@contextmanager
def output_file(path: Path, mode: str = "wb", instead: str = "-o") -> Iterator[IO[Any]]:
    """An open file that becomes ``path`` whole or not at all; InputError where it cannot be written."""
    with writable(path, instead):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, mode) as file:
            yield file


def check_outputs(folder: Path, names: Sequence[str], instead: str = "-o") -> None:
    """InputError where files of these names cannot be written into ``folder``, or would take the place of a person's.

    Asked before there is any work.
    """
    for name in names:
        check_file(folder / name, instead)
        check_ours(folder / name, instead)


def to_paste(parts: Sequence[str], room: int = console.USUAL_WIDTH) -> str:
    """``parts`` in one line for a report, the first and each that still has ``room``: what matters most comes first.

    >>> to_paste(["audit ok: a model", "8 documents", "a very long name of a device", "fp32"], room=40)
    'audit ok: a model, 8 documents, fp32'
    """
    line, *others = filter(None, parts)
    for part in others:
        if len(line) + len(part) + 2 <= room:
            line += f", {part}"
    return line


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the picture in the format of its ending."""
    with output_file(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".").lower(), dpi=dpi)
