"""What the readers of records share: the sentence for a bad one, and a field that should hold a list.

``BadRecord`` is half a sentence about a record; where the record stands is put in front by ``sources``. It quotes
what a person's file holds, so it is made fit to print: one line, not endless, no half characters.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

Turns = Iterator[tuple[str, Any]]  # (role, content) as found, not yet checked

LONGEST = 300  # characters of a reason


class BadRecord(Exception):
    """Why one record is no dialogue, as half a sentence: ``message 2 is empty``."""

    def __init__(self, reason: str) -> None:
        line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
        line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
        super().__init__(line if len(line) <= LONGEST else line[: LONGEST - 4] + " ...")


def parsed(value: Any, field: str, kind: type = list, what: str = "a list of messages") -> Any:
    """The list (or other ``kind``) in a field; a table's cell holds it written as JSON, or as Python writes it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(value)  # MSAgent-Bench's; literals only, nothing is run
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                raise BadRecord(f"{field} is text, not {what}") from None
    if not isinstance(value, kind):
        raise BadRecord(f"{field} is {type(value).__name__}, not {what}")
    return value
