"""One record of a data file becomes one dialogue, whichever of the common shapes it has.

    messages   {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    sharegpt   {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    xtuner     {"conversation": [{"system": "Be brief.", "input": "Hi", "output": "Hello"}]}
    alpaca     {"instruction": "Greet", "input": "in French", "output": "Bonjour"}
    guanaco    {"text": "### Human: Hi ### Assistant: Hello"}
    moss       {"meta_instruction": "You are ...", "num_turns": 1, "chat": {"turn_1": {"Human": ..., "MOSS": ...}}}
    columns    {"question": "Hi", "answer": "Hello"}, and the other pairs of SHAPES

Two more are read only when ``map_fn`` names them, for their fields alone do not tell: ``pretrain``, where ``text``
is trained on whole, and ``msagent_react`` (see ``agents``).

The rule of a good dialogue: perhaps one system message, then user and assistant in turn, nobody silent, at
least one answer. A question nobody answers at the end is left off, as XTuner does: nothing could be trained
on it. ``BadRecord`` says what is wrong; where the record came from is known, and said, by ``sources``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from varlen_lab.documents.agents import from_moss, from_msagent
from varlen_lab.documents.fields import BadRecord, Turns, parsed
from varlen_lab.documents.templates import WRITTEN, Dialogue
from varlen_lab.errors import InputError, nearest

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant",),
}
ANSWERS = ("assistant", "text")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can write it, UTF-8 and tokenizers cannot
GUANACO_TURN = re.compile(r"### (Human|Assistant):")


def dialogue_of(record: Any, system: str = "", map_fn: str = "auto") -> Dialogue:
    """The checked dialogue in ``record``; ``system`` is put in front of one that has no system message.

    ``map_fn``: a row of MAP_FNS, the shapes looked for. Raises BadRecord with the reason.
    """
    if map_fn not in MAP_FNS:
        hint = nearest(map_fn, MAP_FNS) or f"; known are {', '.join(MAP_FNS)}."
        raise InputError(f"there is no dataset_map_fn {map_fn!r}{hint}")
    if not isinstance(record, dict):
        raise BadRecord(f"it is {type(record).__name__}, not an object with named fields")
    known = MAP_FNS[map_fn]
    for fields, turns in known.items():
        if all(record.get(field) is not None for field in fields):
            return checked(turns(record), system)
    found = ", ".join(f"{field} (empty)" if value is None else str(field) for field, value in record.items()) or "none"
    raise BadRecord(f"its fields are {found}{slip(record, list(known))}")


def slip(record: dict[Any, Any], shapes: list[tuple[str, ...]]) -> str:
    """What is wrong with the fields of a record: one of them empty, one misspelt, or none that is known."""
    for fields in shapes:
        if all(field in record for field in fields):
            return f"; {next(field for field in fields if record[field] is None)} must hold something"
    for fields in shapes:
        others = [str(field) for field in record if field not in fields]
        missing = [field for field in fields if field not in record]
        if len(missing) == 1 and (near := difflib.get_close_matches(missing[0], others, n=1, cutoff=0.75)):
            return f"; write {missing[0]!r} for {near[0]!r}"
    return f"; known shapes have {', '.join('+'.join(fields) for fields in shapes)}"


def checked(turns: Turns, system: str = "") -> Dialogue:
    """The messages of ``turns`` in their one order, the unanswered end left off."""
    dialogue: Dialogue = []
    previous = ""
    for number, (role, content) in enumerate(turns, start=1):
        if role not in WRITTEN and role not in NEXT[previous]:
            expected = " or ".join(one for one in NEXT[previous] if one != "tool")
            raise BadRecord(f"roles are out of order: message {number} is {role}, expected {expected}")
        if not isinstance(content, str):
            raise BadRecord(f"message {number} holds {type(content).__name__}, not text")
        if not content.strip() and role not in WRITTEN:
            raise BadRecord(f"message {number} ({role}) is empty")
        if not content.isascii() and HALF_CHARACTER.search(content):
            raise BadRecord(f"message {number} ({role}) holds half of a character (a lone surrogate)")
        dialogue.append({"role": role, "content": content})
        previous = role if role not in WRITTEN else previous
    if not any(message["role"] in ANSWERS and message["content"].strip() for message in dialogue):
        raise BadRecord("no assistant turn, there is nothing to train on")
    if previous in ("user", "tool"):
        dialogue.pop()
    if system and dialogue[0]["role"] in NEXT["system"]:
        dialogue.insert(0, {"role": "system", "content": system})
    return dialogue


def from_messages(record: dict[str, Any]) -> Turns:
    yield from listed(record["messages"], "messages", "role", "content")


def from_sharegpt(record: dict[str, Any]) -> Turns:
    yield from listed(record["conversations"], "conversations", "from", "value")


def from_xtuner(record: dict[str, Any]) -> Turns:
    """XTuner's own format: a turn is a question and its answer, the first may bring a system message."""
    for number, turn in enumerate(parsed(record["conversation"], "conversation"), start=1):
        if not isinstance(turn, dict) or "input" not in turn or "output" not in turn:
            raise BadRecord(f"turn {number} needs 'input' and 'output'")
        if turn.get("system"):
            yield "system", turn["system"]
        yield "user", turn["input"]
        yield "assistant", turn["output"]


def listed(messages: Any, field: str, who: str, what: str) -> Turns:
    for number, message in enumerate(parsed(messages, field), start=1):
        if not isinstance(message, dict) or who not in message or what not in message:
            raise BadRecord(f"message {number} needs {who!r} and {what!r}")
        role = ROLES.get(message[who]) if isinstance(message[who], str) else None
        if role is None:
            hint = nearest(str(message[who]), ROLES)
            raise BadRecord(f"message {number} has role {message[who]!r}; roles are system, user and assistant{hint}")
        yield role, message[what]


def from_alpaca(record: dict[str, Any]) -> Turns:
    instruction, extra = record["instruction"], record.get("input")
    if record["output"] == "<nooutput>":  # what Alpaca's generator wrote where it had none; XTuner leaves these out
        raise BadRecord("output is '<nooutput>', there is no answer")
    yield "user", f"{instruction}\n{extra}" if extra and isinstance(instruction, str) else instruction
    yield "assistant", record["output"]


def from_guanaco(record: dict[str, Any]) -> Turns:
    if not isinstance(record["text"], str):
        raise BadRecord(f"text is {type(record['text']).__name__}, not text")
    before, *pieces = GUANACO_TURN.split(record["text"])
    if before.strip() or not pieces:
        raise BadRecord(
            "text does not begin with '### Human:' (to train on all of it as it is, set dataset_map_fn = 'pretrain')"
        )
    for who, content in zip(pieces[::2], pieces[1::2], strict=True):
        # A cut-off last answer is common in this data; an empty one is not an answer.
        yield ROLES[who.lower()], content.strip()


def from_pretraining(record: dict[str, Any]) -> Turns:
    """Text that is trained on whole, with nothing around it and no end mark, as XTuner's ``pretrain_map_fn`` does."""
    yield "text", record["text"].strip() if isinstance(record["text"], str) else record["text"]


def from_colours(record: dict[str, Any]) -> Turns:
    """A description begins with the colour's name and a colon (``Sky: Pale blue``): the answer would stand in it."""
    description = record["description"]
    yield (
        "user",
        description.partition(":")[2].strip() if isinstance(description, str) and ":" in description else description,
    )
    yield "assistant", record["color"]


def from_columns(question: tuple[str, ...], answer: str, system: str = "") -> Callable[[dict[str, Any]], Turns]:
    """One question (perhaps of several columns, a line each) and one answer."""

    def turns(record: dict[str, Any]) -> Turns:
        if system and record.get(system):
            yield "system", record[system]
        asked = [record[name] for name in question if record.get(name) not in (None, "")]
        yield "user", "\n".join(asked) if all(isinstance(one, str) for one in asked) else asked
        yield "assistant", record[answer]

    return turns


# the fields a shape is known by -> how it is read; the first that fits is taken
SHAPES: dict[tuple[str, ...], Callable[[dict[str, Any]], Turns]] = {
    ("messages",): from_messages,
    ("conversations",): from_sharegpt,
    ("conversation",): from_xtuner,
    ("meta_instruction", "chat"): from_moss,  # moss-003-sft-data
    ("instruction_zh", "output_zh"): from_columns(("instruction_zh", "input_zh"), "output_zh"),  # alpaca-gpt4-chinese
    ("instruction", "output"): from_alpaca,
    ("text",): from_guanaco,
    ("context", "question", "answer"): from_columns(("context", "question"), "answer"),  # sql-create-context
    ("question", "response"): from_columns(("question",), "response", "system_prompt"),  # OpenOrca, Stack Exchange
    ("question", "answer"): from_columns(("question",), "answer"),  # law
    ("prompt", "completion"): from_columns(("prompt",), "completion"),  # CodeAlpaca
    ("prompt", "response"): from_columns(("prompt",), "response"),  # tiny-codes
    ("description", "color"): from_colours,  # colors
    ("abstract", "title"): from_columns(("abstract",), "title"),  # arXiv
    ("input", "output"): from_columns(("input",), "output"),  # CrimeKgAssitant
}

# dataset_map_fn -> the shapes it looks for; "auto" tells a record by its fields
MAP_FNS: dict[str, dict[tuple[str, ...], Callable[[dict[str, Any]], Turns]]] = {
    "auto": SHAPES,
    "pretrain": {("text",): from_pretraining},
    "msagent_react": {("conversations",): from_msagent},
}
