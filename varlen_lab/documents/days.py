"""The day that a chat template writes: Llama 3's begin with it, so the same record has other tokens tomorrow.

A run is written on one day, also when it is resumed on another. The tokenizer that writes it carries the day.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

ASKS = "strftime_now"  # what transformers gives templates to ask with
CARRIED = "_varlen_lab_day"


def asks_for_day(tokenizer: Any) -> bool:
    """Whether the tokenizer's own chat template writes what day it is."""
    return ASKS in str(getattr(tokenizer, "chat_template", None) or "")


def write_on(tokenizer: Any, day: str) -> None:
    """Have a tokenizer's template write this day (``2026-01-31``) and not today."""
    setattr(tokenizer, CARRIED, day)


def day_written(tokenizer: Any) -> str | None:
    """The day that a tokenizer's template writes; None of one that writes none."""
    if not asks_for_day(tokenizer):
        return None
    return getattr(tokenizer, CARRIED, None) or datetime.date.today().isoformat()


def clock(tokenizer: Any) -> dict[str, Callable[[str], str]]:
    """What ``apply_chat_template`` is given with the messages, so that the template finds that day at midnight."""
    day = day_written(tokenizer)
    if day is None:
        return {}
    return {ASKS: datetime.datetime.fromisoformat(day).strftime}
