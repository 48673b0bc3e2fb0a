"""Dialogues that the template inside a tokenizer cannot write, found one by one and named with their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.registry import TEMPLATES
from varlen_lab.errors import InputError

Written = TypeVar("Written")
SYSTEM_MESSAGE = "the system message"
BEYOND_TEXT = ("tool_calls", "reasoning_content")  # of a message: what a template writes, or drops without a word


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


def check_written(dialogue: Dialogue, text: str, write: Callable[[Dialogue], str]) -> None:
    """Raise Refused where ``text``, a template's form of the dialogue, is the same without a part of it."""
    system = dialogue[0] if dialogue[0]["role"] == "system" else None
    if system and system["content"].strip() not in text:
        compare(SYSTEM_MESSAGE, Dialogue(dialogue[1:], tools=dialogue.tools), text, write)
    if dialogue.tools:
        compare("tools", Dialogue(dialogue), text, write)
    for key in BEYOND_TEXT:
        if any(message.get(key) for message in dialogue):
            bare = [{name: value for name, value in message.items() if name != key} for message in dialogue]
            compare(key, Dialogue(bare, tools=dialogue.tools), text, write)  # type: ignore[arg-type]


def compare(what: str, without: Dialogue, text: str, write: Callable[[Dialogue], str]) -> None:
    """Raise Refused if the dialogue without ``what`` has the same text."""
    try:
        dropped = write(without) == text
    except Refused:  # it cannot do without: it reads it
        return
    if dropped:
        # of the named templates some write a system message, none writes the others
        another = another_template() if what == SYSTEM_MESSAGE else "take a tokenizer whose template does"
        remedy = f"take {what} out of the data, {another}, or skip it with skip_bad = True"
        raise Refused(f"the chat template of the tokenizer does not write {what}", remedy)


def another_template() -> str:
    """The next step where the tokenizer's own template does not serve."""
    return f"set prompt_template to one of {', '.join(name for name in TEMPLATES if name.isidentifier())}"
