"""The day that a chat template writes: Llama 3's begin with it, so the same record has other tokens tomorrow.

A run is written on one day, also when it is resumed on another. The tokenizer that writes it carries the day.
"""

from __future__ import annotations

import datetime
from typing import Any

ASKS = "strftime_now"  # what transformers gives templates to ask with
DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYeFhTCDfGgRruVzZ"  # of strftime, as templates use them
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


def with_its_day(tokenizer: Any, tools: Any = None) -> dict[str, str]:
    """What ``apply_chat_template`` is given beside the messages, so that its template finds that day; {} where none.

    transformers passes no function on, so the template gets a macro of the name, which hides the clock behind it.
    """
    day = day_written(tokenizer)
    if day is None:
        return {}
    midnight = datetime.datetime.fromisoformat(day)
    words = {f"%{letter}": midnight.strftime(f"%{letter}") for letter in DIRECTIVES}
    words |= {f"%-{one[1]}": word.lstrip("0") or "0" for one, word in words.items() if word.isdigit()}  # without zeros
    written = "".join(f"|replace({one!r}, {word!r})" for one, word in words.items())
    macro = f"{{%- macro {ASKS}(format) -%}}{{{{- format{written} -}}}}{{%- endmacro %}}\n"  # a line begins
    return {"chat_template": macro + tokenizer.get_chat_template(None, tools)}
