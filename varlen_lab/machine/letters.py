"""Letters: what an encoding lacks is written in plain ones, and what would command a terminal is written out."""

from __future__ import annotations

import codecs
import re
import sys
from typing import TextIO

PLAIN_LETTERS = "varlen_lab.plain_letters"  # the name of our error handler among Python's codecs
PLAIN = {
    "✓": "+",
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
COMMANDS_IN_JSON = re.compile(f"{COMMANDS.pattern}|[\ud800-\udfff]")  # and half characters, which no encoding has


def in_plain_letters(problem: UnicodeError) -> tuple[str, int]:
    """Python's codecs call it for characters that an encoding lacks: ``≤`` becomes ``<=``, an unknown one ``?``."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return "".join(map(plain, problem.object[problem.start : problem.end])), problem.end


def plain(character: str) -> str:
    """A character in ASCII; a byte of a file name that is no text as ``\\xff``."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else PLAIN.get(character, "?")


def shown(text: str, stream: TextIO | None = None) -> str:
    """``text`` as ``stream`` will have it: in its encoding, a terminal's commands written out (``\\x1b``)."""
    text = COMMANDS.sub(lambda found: escaped(found[0]), text)
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    codecs.register_error(PLAIN_LETTERS, in_plain_letters)
    return text.encode(encoding, PLAIN_LETTERS).decode(encoding)


def in_one_line(text: str) -> str:
    """``text`` with its line feeds written out, as ``\\n``."""
    return text.replace("\n", "\\n")


def escaped(character: str) -> str:
    """``\\x1b`` for the escape character, as Python writes it."""
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def json_shown(text: str) -> str:
    """JSON with what would command a terminal, and half characters, as JSON's own escapes."""
    return COMMANDS_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
