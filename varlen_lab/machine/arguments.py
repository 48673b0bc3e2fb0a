"""What a word on the command line may be, before anything is read or computed: a number, a name, a place.

The parser of every verb turns words into values with these, instead of with ``int``, ``Path`` and nothing at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.errors import quoted

MOST = 2**63 - 1  # numpy and Arrow count no further


def whole(word: str) -> int:
    """A word as a whole number that fits into 64 bits."""
    try:
        number = int(word)
    except ValueError:  # thousands of digits, too, are none to Python
        raise argparse.ArgumentTypeError(f"invalid int value: {quoted(word)}") from None
    if abs(number) > MOST:
        raise argparse.ArgumentTypeError(f"{quoted(number)} is more than anything here can count ({MOST:,})")
    return number


def named(word: str) -> str:
    """A word that is not blank: an empty variable of a shell names no config, model or file."""
    if not word.strip():
        raise argparse.ArgumentTypeError(f"{word!r} is blank, a name or a path belongs there")
    return word


def place(word: str) -> Path:
    """A file or folder that a word names."""
    return Path(named(word))
