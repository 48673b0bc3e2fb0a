"""What a record becomes: a dialogue, checked, or the reason why it is none.

A good dialogue has perhaps one system message, then user and assistant in turn, nobody silent, at least one answer.
A question at the end that nobody answers is left off, as XTuner does: nothing could be trained on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NotRequired, TypedDict

from varlen_lab.config.schema import HALF_CHARACTER

ROLES = ("system", "user", "assistant")
ROLE_SYNONYMS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
# Roles of text that already stands as the model shall read it, no template adds to it -> is it trained on?
VERBATIM = {"text": True, "context": False}
# role -> the roles that may come behind it; "" is the beginning
ALLOWED_AFTER = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant",),
}
LONGEST_REASON = 300  # characters of a reason


class Message(TypedDict):
    """One turn. ``role``: system, user, assistant; "tool", what a tool gave back; one of VERBATIM."""

    role: str
    content: str
    trained: NotRequired[bool]  # False: an answer that is read and not trained on
    end_mark: NotRequired[bool]  # False: no end mark behind this answer
    # what only the template of a tokenizer can write
    tool_calls: NotRequired[list[Any]]
    reasoning_content: NotRequired[str]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]


class Dialogue(list[Message]):
    """The messages of one record, where the record stands (``train.jsonl:3``), and the tools it says there are."""

    __slots__ = ("place", "tools")

    def __init__(self, messages: Iterable[Message] = (), place: str = "", tools: list[Any] | None = None) -> None:
        super().__init__(messages)
        self.place, self.tools = place, tools


Turns = Iterator[tuple[str, Any]]  # (role, content) as found in a record, not yet checked


class BadRecord(Exception):
    """Why one record is no dialogue, as half a sentence (``message 2 is empty``); its place is put in front later.

    It quotes what a person's file holds, so it is made fit to print: one line, not endless, no half characters.
    """

    def __init__(self, reason: str) -> None:
        line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
        line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
        super().__init__(line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 4] + " ...")


def checked_dialogue(turns: Turns, system: str = "") -> Dialogue:
    """The messages of ``turns``, their order and contents checked, an unanswered end left off; or BadRecord."""
    dialogue = Dialogue()
    previous = ""
    for number, (role, content) in enumerate(turns, start=1):
        if role not in VERBATIM and role not in ALLOWED_AFTER[previous]:
            expected = " or ".join(one for one in ALLOWED_AFTER[previous] if one != "tool")
            raise BadRecord(f"roles are out of order: message {number} is {role}, expected {expected}")
        if not isinstance(content, str):
            raise BadRecord(f"message {number} holds {type(content).__name__}, not text")
        if not content.strip() and role not in VERBATIM:
            raise BadRecord(f"message {number} ({role}) is empty")
        if not content.isascii() and HALF_CHARACTER.search(content):
            raise BadRecord(f"message {number} ({role}) holds half of a character (a lone surrogate)")
        dialogue.append({"role": role, "content": content})
        previous = role if role not in VERBATIM else previous
    if not any(message["role"] in ("assistant", "text") and message["content"].strip() for message in dialogue):
        raise BadRecord("no assistant turn, there is nothing to train on")
    if previous in ("user", "tool"):
        dialogue.pop()
    if system and dialogue[0]["role"] in ALLOWED_AFTER["system"]:
        dialogue.insert(0, {"role": "system", "content": system})
    return dialogue
