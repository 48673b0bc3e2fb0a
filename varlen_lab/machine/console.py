"""The console: sentences, tables and bars for whoever reads them, in whatever they are read.

A console has a width, an encoding and perhaps colours, and any of the three may be less than a program would like.
What is written here is folded at words, never cut; a character that the console's encoding lacks is written in plain
letters; a terminal's commands that came with data or a path are shown, not obeyed. A pipe gets a sentence as one line,
for ``grep``, unless ``COLUMNS`` gives a width; a table fits 80 columns there too.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from varlen_lab.machine.streams import unfailing

USUAL_WIDTH = 80  # of a table where nobody says how wide the console is
LEAST_WIDTH = 20
INDENT = 4  # of a table's columns that moved to a line below
PLAIN_LETTERS = "varlen_lab.plain_letters"  # the name of our error handler among Python's codecs
PLAIN = {
    "✓": "ok",
    "✗": "x",
    "✅": "yes",
    "❌": "no",
    "·": "-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "↓": "v",
    "↑": "^",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "±": "+-",
    "×": "x",
    "÷": "/",
    "²": "^2",
    "−": "-",
    "–": "-",
    "—": "-",
    "Δ": "d",
    "Σ": "sum ",
    "⌈": "ceil(",
    "⌉": ")",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "\u00a0": " ",
    "─": "-",
    "━": "-",
    "█": "#",
    "╸": "-",
    "╺": "-",
    "é": "e",
    "µ": "u",
}
# control characters but tab and line feed; marks that turn the direction of writing; line ends that are none
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Cell = str | tuple[str, str]  # text, or text and rich's name of a style
Line = list[tuple[str, str]]  # the same, cell for cell
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


def in_plain_letters(problem: UnicodeError) -> tuple[str, int]:
    """Python's codecs call it for characters that an encoding lacks: ``≤`` becomes ``<=``, an unknown one ``?``."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return "".join(map(plain, problem.object[problem.start : problem.end])), problem.end


def plain(character: str) -> str:
    """A character in ASCII; a byte of a file name that is no text as ``\\xff``."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else PLAIN.get(character, "?")


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


def shown(text: str, stream: TextIO | None = None) -> str:
    """``text`` as ``stream`` will have it: in its encoding, a terminal's commands written out (``\\x1b``)."""
    text = COMMANDS.sub(lambda found: escaped(found[0]), text)
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    codecs.register_error(PLAIN_LETTERS, in_plain_letters)
    return text.encode(encoding, PLAIN_LETTERS).decode(encoding)


def escaped(character: str) -> str:
    """``\\x1b`` for the escape character, as Python writes it."""
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


# ------------------------------------------------------------------------------------------------- saying


def say(text: str, style: str = "", *, hang: int = 0, mark: Cell = "", stream: TextIO | None = None) -> None:
    """Write ``text`` (default: on stdout), folded at words to the width; ``mark`` before it, in a style of its own.

    Each line of ``text`` is folded alone, and what goes on below it is indented by ``hang`` columns more.
    """
    say_spans([(mark, "") if isinstance(mark, str) else mark, (text, style)], hang=hang, stream=stream)


def say_spans(spans: Line, *, hang: int = 0, stream: TextIO | None = None) -> None:
    """The same of several texts, each with a style of its own."""
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
    lines = lines_of([(text, "")], stream or sys.stdout, hang)
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


def folded(line: str, columns: int, hang: int = 0, whole_words: bool = False) -> list[str]:
    """``line`` in pieces of at most ``columns``, broken between words; what follows is indented ``hang`` more.

    ``whole_words``: a longer word stays whole, for a terminal breaks it and copies it as one.

    >>> folded("  three short words", 14, hang=2)
    ['  three short', '    words']
    """
    from rich.cells import cell_len

    if cell_len(line) <= columns:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    indent = min(indent, columns // 2)
    hang = min(hang, columns // 2 - indent)  # a word that must be broken has room
    pieces, piece = [], " " * indent
    for word, gap in re.findall(r"(\S+)(\s*)", line):
        while cell_len(piece + word) > columns:
            if piece.strip():
                pieces.append(piece.rstrip())
                piece = " " * (indent + hang)
                continue
            if cell_len(word) <= columns:  # whole, with less before it
                piece = " " * (columns - cell_len(word))
                break
            if whole_words:
                break
            room = columns - len(piece)
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or cell_len(word[:n]) <= room)
            pieces.append(piece + word[:cut])
            word, piece = word[cut:], " " * (indent + hang)
        piece += word + gap
    return [*pieces, piece.rstrip()] if piece.strip() else pieces or [""]


def folded_spans(spans: Line, columns: int, hang: int = 0, whole_words: bool = False) -> list[Line]:
    """The same of a line of texts with styles: each piece keeps its own."""
    spans = [(text.expandtabs(), style) for text, style in spans]
    line = "".join(text for text, _ in spans)
    pieces = folded(line, columns, hang, whole_words)
    if pieces == [line]:
        return [spans]
    lines, start = [], 0
    for piece in pieces:
        words = piece.strip()
        start = line.index(words, start)
        lines.append([(piece[: piece.index(words)], ""), *sliced(spans, start, start + len(words))])
        start += len(words)
    return lines


def sliced(spans: Line, start: int, stop: int) -> Line:
    """The characters from ``start`` to ``stop`` of texts with styles."""
    found = []
    for text, style in spans:
        if part := text[max(0, start) : max(0, stop)]:
            found.append((part, style))
        start, stop = start - len(text), stop - len(text)
    return found


def print_json(value: Any, indent: int | None = 1) -> None:
    """``value`` as JSON on stdout; what the console's encoding lacks, and a terminal's commands, as ``\\u`` escapes.

    NaN and infinity become null: JSON has no word for them.
    """
    utf = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(finite(value), indent=indent, ensure_ascii=not utf)
    print(re.sub("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", json_escape, text))


def finite(value: Any) -> Any:
    """``value`` with None for every number in it that JSON cannot write."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_escape(found: re.Match[str]) -> str:
    """One character as JSON writes what it cannot show."""
    return f"\\u{ord(found[0]):04x}"


# ------------------------------------------------------------------------------------------------- tables


def print_table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
    """``rows`` under ``head`` on stdout, whole whatever the width: columns that do not fit go to lines below, indented.

    A row of one cell runs across all columns. ``right``: names of columns that are set to the right, as numbers are.
    No ``head``, no line for it.
    """
    cells = [[as_cell(cell) for cell in row] for row in rows]
    lines = laid_out([(shown(name), "bold") for name in head], cells, [name in right for name in head], width())
    for line in lines:
        put(line, sys.stdout)


def as_cell(cell: Cell) -> tuple[str, str]:
    """Text and style of a cell, as the console will have it."""
    text, style = (cell, "") if isinstance(cell, str) else cell
    return shown(text).replace("\n", "\\n").expandtabs(), style


def laid_out(head: Line, rows: Sequence[Line], right: Sequence[bool], columns: int | None) -> list[Line]:
    """Lines of (text, style) spans: the head and every row, each over as many lines as ``columns`` (or 80) ask for."""
    from rich.cells import cell_len

    columns = columns or USUAL_WIDTH
    count = max(map(len, [head, *rows]))
    table = [head, *rows] if head else rows
    widths = [max((cell_len(row[n][0]) for row in table if len(row) == count), default=0) for n in range(count)]
    groups = grouped(widths, columns)
    lines: list[Line] = []
    for row in table:
        if len(row) < count:
            ((text, style),) = row
            lines += [[(piece, style)] for piece in folded(text, columns, hang=2)]
            continue
        for number, group in enumerate(groups):
            spans = [(" " * INDENT, "")] if number else []
            for n in group:
                text, style = row[n]
                room = " " * (widths[n] - cell_len(text))
                spans += [(room, ""), (text, style)] if any(right[n : n + 1]) else [(text, style), (room, "")]
                spans.append(("  ", ""))
            lines += fitted(spans, columns)
    return lines


def grouped(widths: Sequence[int], columns: int) -> list[list[int]]:
    """Numbers of the columns that share a line: as many as fit, two blanks between them, all but the first indented.

    >>> grouped([30, 30, 30], 80)
    [[0, 1], [2]]
    """
    groups: list[list[int]] = [[]]
    for n, wide in enumerate(widths):
        used = sum(widths[m] + 2 for m in groups[-1]) + INDENT * (len(groups) > 1)
        if groups[-1] and used + wide > columns:
            groups.append([])
        groups[-1].append(n)
    return groups


def fitted(spans: Line, columns: int) -> list[Line]:
    """The spans without blanks at the end, and folded where even one cell is wider than the console; [] if empty.

    A word, such as a name, stays whole whatever the width: it is there to be copied.
    """
    while spans and not spans[-1][0].strip():
        spans = spans[:-1]
    if not spans:
        return []
    return folded_spans([*spans[:-1], (spans[-1][0].rstrip(), spans[-1][1])], columns, hang=2, whole_words=True)


# ------------------------------------------------------------------------------------------------- long work


def track(work: Iterable[Item], words: str, total: int) -> Iterator[Item]:
    """All that ``work`` gives, with a bar on stderr (count, time to go) where a person looks at it; else silent."""
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
        yield from progress.track(work, total, description=words)
