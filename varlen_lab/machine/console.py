"""The console: sentences, JSON and bars for whoever reads them, in whatever they are read.

A console has a width, an encoding and perhaps colours, and any of the three may be less than a program would like.
What is written here is folded at words, never cut; a character that the console's encoding lacks is written in plain
letters; a terminal's commands that came with data or a path are shown, not obeyed. A pipe gets a sentence as one line,
for ``grep``, unless ``COLUMNS`` gives a width. Beside it: ``letters``, ``folding`` and ``tables``.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from varlen_lab.files.strict import strict_json
from varlen_lab.machine.folding import Cell, Line, folded, folded_spans
from varlen_lab.machine.letters import PLAIN_LETTERS, in_one_line, in_plain_letters, json_shown, shown
from varlen_lab.machine.ranks import is_first
from varlen_lab.machine.streams import unfailing

USUAL_WIDTH = 80  # of a table where nobody says how wide the console is
LEAST_WIDTH = 20
Item = TypeVar("Item")


# ------------------------------------------------------------------------------------------------- setting up


def prepare() -> None:
    """Make the three standard streams safe to write to: call it once, before a command writes anything.

    One that is closed becomes the null device, or the next file that is opened would get its number and our words.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if taken != number:
                os.dup2(taken, number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    codecs.register_error(PLAIN_LETTERS, in_plain_letters)
    sys.stdout, sys.stderr = unfailing(sys.stdout), unfailing(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN_LETTERS)


# ------------------------------------------------------------------------------------------------- what a console is


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def width(stream: TextIO | None = None) -> int | None:
    """Columns of ``stream`` (default: stdout): ``COLUMNS``, or the terminal's; None in a pipe, where none is said."""
    stream = stream or sys.stdout
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return max(LEAST_WIDTH, int(given))
    if not is_terminal(stream):
        return None
    try:
        return max(LEAST_WIDTH, os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH)
    except (OSError, ValueError):
        return USUAL_WIDTH


# ------------------------------------------------------------------------------------------------- saying


def say(text: str, style: str = "", *, hang: int = 0, mark: Cell = "", stream: TextIO | None = None) -> None:
    """Write ``text`` (default: on stdout), folded at words to the width; ``mark`` before it, in a style of its own.

    What goes on below is indented by ``hang`` columns more. A line feed in ``text`` came with a name or with data: it
    is written out as ``\\n`` and makes no line that looks like one of ours.
    """
    before = (mark, "") if isinstance(mark, str) else mark
    say_spans([before, (in_one_line(text), style)], hang=hang, stream=stream)


def say_spans(spans: Line, *, hang: int = 0, stream: TextIO | None = None) -> None:
    """The same of several texts, each with a style of its own; here a line feed ends a line, which is folded alone."""
    stream = stream or sys.stdout
    for line in lines_of(spans, stream, hang):
        put(line, stream)


def say_command(command: str, before: str = "  ") -> None:
    """A command to copy, on stdout after ``before``: where it is folded, a shell reads on."""
    line, columns = shown(before + command), width()
    if columns is not None and os.name != "nt":
        line = re.sub(
            r"""(["']).*?\1""", lambda quoted: quoted[0].replace(" ", "\ue000"), line
        )  # never folded in quotes
        line = " \\\n".join(folded(line, columns - 2, 4, is_terminal(sys.stdout))).replace("\ue000", " ")
    put([(line, "")], sys.stdout)


def as_said(text: str, stream: TextIO | None = None, hang: int = 0) -> str:
    """What ``say`` writes: lines that end in a line feed."""
    lines = lines_of([(in_one_line(text), "")], stream or sys.stdout, hang)
    return "".join("".join(text for text, _ in line) + "\n" for line in lines)


def lines_of(spans: Line, stream: TextIO, hang: int) -> list[Line]:
    """Texts with styles as ``stream`` will have them, a line each."""
    lines: list[Line] = [[]]
    for text, style in spans:
        first, *others = shown(text, stream).split("\n")
        lines[-1].append((first, style))
        lines += [[(other, style)] for other in others]
    columns = width(stream)
    if columns is None:
        return lines
    whole_words = is_terminal(stream)
    return [piece for line in lines for piece in folded_spans(line, columns, hang, whole_words)]


def put(spans: Line, stream: TextIO) -> None:
    """One line made of texts with styles; a console without colours gets the texts."""
    if not is_terminal(stream) or not any(style for _, style in spans):
        stream.write("".join(text for text, _ in spans) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(*((text, style) for text, style in spans if text))
    Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False).print(line)


def tell(words: str) -> None:
    """What a run decides on its way: in a notebook a line of output, elsewhere a record of the log ``varlen_lab``.

    The command shows its records on terminals, above the bar that is being drawn; a pipe has them where it asks for
    them. Of several processes the first speaks.
    """
    if not is_first():
        return
    if type(sys.stderr).__module__.startswith("ipykernel"):  # stdout, for a notebook shows stderr as an error
        print(f"varlen_lab: {in_one_line(shown(words))}")
    else:
        logging.getLogger("varlen_lab").info("%s", words)


def print_json(value: Any, indent: int | None = 1) -> None:
    """``value`` as JSON on stdout; what the console's encoding lacks, and a terminal's commands, as ``\\u`` escapes.

    NaN and infinity become null: JSON has no word for them.
    """
    utf = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = strict_json(value, indent=indent, ensure_ascii=not utf)
    print(json_shown(text))


# ------------------------------------------------------------------------------------------------- long work


def track(work: Iterable[Item], words: str, total: int) -> Iterator[Item]:
    """All that ``work`` gives, with a bar on stderr (count, time to go) where a person looks at it; else silent."""
    with bar(words) as update:
        update(0, total)
        for done, item in enumerate(work, start=1):
            yield item
            update(done, total)


@contextmanager
def bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """The bar alone, for work that is no loop of ours: yields ``update(done, total)``; it vanishes at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    hidden = not is_terminal(sys.stderr) or console.is_dumb_terminal  # which cannot go back to draw it again
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(words, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
