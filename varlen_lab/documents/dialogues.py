"""What a record becomes: a dialogue, checked, or the reason why it is none; and what a cell of it holds as JSON.

A good dialogue has perhaps one system message, then user and assistant in turn, nobody silent, at least one answer.
A question at the end that nobody answers is left off, as XTuner does: nothing could be trained on it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from typing import Any, NotRequired, TypedDict

from varlen_lab.config.schema import HALF_CHARACTER

ROLES = ("system", "user", "assistant", "tool")
ROLE_SYNONYMS = {
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("observation", "function", "tool_response", "ipython"), "tool"),
    "human": "user",
    "developer": "system",
}
CALLS = ("function_call", "tool_call")  # ShareGPT's roles of an answer that is a tool call, in JSON
ROLE_OF = {**{role: role for role in ROLES}, **ROLE_SYNONYMS, **dict.fromkeys(CALLS, "assistant")}
# Roles of text that already stands as the model shall read it, no template is put around it -> is it trained on?
VERBATIM = {"text": True, "context": False}
MAY_BE_EMPTY = (*VERBATIM, "tool")  # a tool may give back nothing
# role -> the roles that may come behind it; "" is the beginning
ALLOWED_AFTER = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
# What of a message only the chat template of a tokenizer can write -> the role that may have it
WRITTEN_BY_TOKENIZER = {
    "tool_calls": "assistant",
    "reasoning_content": "assistant",
    "name": "tool",
    "tool_call_id": "tool",
}
LONGEST_REASON = 300  # characters of a reason
MOST_LETTERS = 10_000_000  # of a dialogue; tokenizers take 200 bytes of memory a letter


class Message(TypedDict):
    """One turn. ``role``: system, user, assistant; "tool", what a tool gave back; one of VERBATIM."""

    role: str
    content: str
    trained: NotRequired[bool]  # False: an answer that is read and not trained on
    end_mark: NotRequired[bool]  # False: no end mark behind this answer; True: one behind a text of VERBATIM
    # those of WRITTEN_BY_TOKENIZER
    tool_calls: NotRequired[list[Any]]
    reasoning_content: NotRequired[str]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]


class Dialogue(list[Message]):
    """The messages of one record, where the record stands (``train.jsonl:3``), and the tools it says there are.

    ``unused``: names of what the record holds and nothing here reads, each once; ``read_dialogues`` counts them.
    """

    __slots__ = ("place", "tools", "unused")

    def __init__(self, messages: Iterable[Message] = (), place: str = "", tools: list[Any] | None = None) -> None:
        super().__init__(messages)
        self.place, self.tools = place, tools
        self.unused: tuple[str, ...] = ()


# (role, content) as found in a record, not yet checked; perhaps with other keys of a Message, and the names of what is
# left out under "unused"
Turns = Iterator[tuple[str, Any] | tuple[str, Any, dict[str, Any]]]
UNANSWERED = "a last question without an answer"  # what is left off then, counted among the unused


class BadRecord(Exception):
    """Why one record is no dialogue, as half a sentence (``message 2 is empty``); its place is put in front later.

    It quotes what a person's file holds, so it is made fit to print: one line, not endless, no half characters.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(fit_to_print(reason))


def fit_to_print(text: str) -> str:
    """What a person's file holds as one line, not endless, without half characters."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 4] + " ..."


def checked_dialogue(turns: Turns, system: str = "") -> Dialogue:
    """The messages of ``turns``, their order and contents checked, an unanswered end left off; or BadRecord.

    ``system`` is put in front unless there is a system message; an empty one is none.
    """
    dialogue = Dialogue()
    unused: dict[str, None] = {}  # in order
    previous, answered, letters = "", False, 0
    for number, turn in enumerate(turns, start=1):
        role, content = turn[0], turn[1]
        words = turn[2] if len(turn) == 3 else {}
        calls = "tool_calls" in words
        if content is None and calls:
            content = ""
        if role == "system" and (content is None or (isinstance(content, str) and not content.strip())):
            continue
        if role not in VERBATIM and role not in ALLOWED_AFTER[previous]:
            expected = " or ".join(one for one in ALLOWED_AFTER[previous] if one != "tool")
            raise BadRecord(f"roles are out of order: message {number} is {role}, expected {expected}")
        if not isinstance(content, str):
            raise BadRecord(f"message {number} holds {type(content).__name__}, not text")
        if not content.strip() and role not in MAY_BE_EMPTY and not calls:
            raise BadRecord(f"message {number} ({role}) is empty")
        if not content.isascii():
            whole(content, content, f"message {number} ({role})")
        message: Message = {"role": role, "content": content}
        if words:
            unused.update(dict.fromkeys(words.pop("unused", ())))
            message.update(words)  # type: ignore[typeddict-item]
        dialogue.append(message)
        letters += len(content)
        previous = role if role not in VERBATIM else previous
        answered = answered or role == "assistant" or (role == "text" and bool(content.strip()))
    not_too_long(letters, "the dialogue")
    if not answered:
        raise BadRecord("no assistant turn, there is nothing to train on")
    if previous in ("user", "tool"):
        unused[UNANSWERED] = None
        while dialogue[-1]["role"] in ("user", "tool"):
            dialogue.pop()
    if system and dialogue[0]["role"] in ALLOWED_AFTER["system"]:
        dialogue.insert(0, {"role": "system", "content": system})
    if unused:
        dialogue.unused = tuple(unused)
    return dialogue


def not_too_long(letters: int, what: str) -> None:
    """BadRecord for more letters than a tokenizer can be given at once."""
    if letters > MOST_LETTERS:
        raise BadRecord(f"{what} has {letters:,} letters, the most is {MOST_LETTERS:,}; cut it into several records")


def whole(value: Any, text: str, what: str) -> Any:
    """``value``, if ``text``, which is what it holds, is not too long and has whole characters only; else BadRecord.

    No tokenizer takes half of one.
    """
    not_too_long(len(text), what)
    if not text.isascii() and HALF_CHARACTER.search(text):
        raise BadRecord(f"{what} holds half of a character (a lone surrogate)")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these (key, value) pairs; BadRecord for a key that stands twice with two values.

    Python keeps the last of the two and says nothing; of two different ``messages`` one would be lost.
    """
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
