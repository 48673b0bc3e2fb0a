"""Dialogues that the template inside a tokenizer cannot write, found one by one and named with their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.registry import TEMPLATES
from varlen_lab.errors import InputError

Written = TypeVar("Written")


class Refused(Exception):
    """Why a template cannot write a dialogue, as half a sentence, and what helps. Its place is put in front later."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def one_by_one(
    dialogues: Sequence[Dialogue],
    write: Callable[[Sequence[Dialogue]], list[Written]],
    skipped: list[str] | None = None,
) -> Iterator[Written]:
    """What ``write`` makes of each dialogue. A refused one is left out and its sentence added to ``skipped``.

    Without a list for the sentences, the first refused dialogue raises InputError.
    """
    for number, dialogue in enumerate(dialogues, start=1):
        try:
            yield from write([dialogue])
        except Refused as refused:
            place = getattr(dialogue, "place", "")
            if skipped is None:
                raise InputError(f"{place or f'dialogue {number}'}: {refused}; {refused.remedy}.") from None
            skipped.append(f"{place}: {refused}" if place else str(refused))


def another_template() -> str:
    """The next step where the tokenizer's own template does not serve."""
    return f"set prompt_template to one of {', '.join(name for name in TEMPLATES if name.isidentifier())}"
