"""JSON as people's records hold it: a line, a cell, the arguments of a tool call. A key that stands twice is no value.

Python keeps the last of two equal keys and says nothing; of two different ``messages`` one would be lost.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from varlen_lab.documents.dialogues import BadRecord


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these (key, value) pairs; BadRecord for a key that stands twice with two values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if found[key] is not value and found[key] != value:
                raise BadRecord(f"the key {key!r} stands twice with different values; keep one of them")
    return found


decoder = json.JSONDecoder(object_pairs_hook=once)
loads = decoder.decode  # as json.loads; BadRecord for a key that stands twice


def parsed(value: Any, field: str, kind: type = list, what: str = "a list of messages") -> Any:
    """The list (or other ``kind``) in a field; a table's cell holds it written as JSON, or as Python writes it."""
    if isinstance(value, str):
        try:
            value = loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(value)  # MSAgent-Bench's; literals only, nothing is run
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                raise BadRecord(f"{field} is text, not {what}") from None
    if not isinstance(value, kind):
        raise BadRecord(f"{field} is {type(value).__name__}, not {what}")
    return value
