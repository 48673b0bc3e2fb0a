"""What the fields of a record and of a turn mean beside who speaks and what is said. None is passed over in silence.

A field is read (a system message, tools, whether an answer is trained on), or it is refused by its name where training
without it would teach something else than the record means (a picture, an answer marked as bad, ``Input`` for
``input``), or its name is counted: ``id``, ``source``. A field that holds nothing (null, ``""``, ``[]``) says nothing.
"""

from __future__ import annotations

import difflib
import json
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

from varlen_lab.documents.dialogues import WRITTEN_BY_TOKENIZER, BadRecord, loads, parsed, whole
from varlen_lab.documents.registry import SYSTEM, TOOLS, Shape

# public names of one thing: is this answer trained on? true or 1, false or 0
TRAINED = ("loss", "weight", "train", "trainable", "training", "loss_mask", "output_with_loss")
# names that nobody agreed on, with a word of that: it may be meant either way round
SAYS_TRAINED = re.compile(r"(?:^|_)(?:loss|train|trained|trainable|training|mask|masks|masked|learn)(?:_|$)", re.I)
OF_TRAINING = "may say what is trained on, and is not read; write {} instead, or remove it"
END_MARK = "need_eos_token"  # XTuner's: is there an end mark behind this answer?
NO_PICTURES = "only text is read, and without it the text says something else"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), NO_PICTURES),
    **dict.fromkeys(
        ("loss_scale", "train_detail"), "an answer is trained on as a whole or not; write 'loss' in a turn"
    ),
}
LABELS = ("label", "kto_tag")  # of KTO: false is an answer that nobody wants
# other names of what is read, too far from it to be found by their letters
MEANT = {
    "system_message": SYSTEM[0],
    "functions": TOOLS,
    "reasoning": "reasoning_content",
    "thinking": "reasoning_content",
    "function_call": "tool_calls",
}

WITH_MEANING = frozenset({*SYSTEM, TOOLS, *LABELS, *TRAINED})  # beside the turns
EMPTY = (str, list, dict)  # of these kinds an empty one holds nothing


def beside_turns(record: dict[str, Any], shape: Shape) -> tuple[str, list[Any] | None, tuple[str, ...]]:
    """What stands beside the turns: the system message, the tools, and the names of what nothing here reads.

    ``shape.known`` is read elsewhere. BadRecord for a field that is refused.
    """
    system, tools, unused, known = "", None, [], shape.known
    for field, value in record.items():
        if field in known or (not value and is_nothing(value)):
            continue
        if field not in WITH_MEANING:  # the common case: id, source
            if refusal(field, shape.may_have):
                refuse_by_name(field, "", tuple(name for name in shape.may_have if is_nothing(record.get(name))))
            unused.append(field or "a column without a name")
        elif field in SYSTEM and field in shape.beside:
            if system and value != system:
                raise BadRecord(f"{' and '.join(SYSTEM)} say different things; keep one of them")
            system = text_in(value, field)
            system = system if system.strip() else ""  # as among the turns
        elif field == TOOLS and field in shape.beside:
            tools = tools_in(value)
        elif field in LABELS and (value is False or is_false(value)):
            raise BadRecord(f"{field} is false, which marks a bad answer; remove the record, or the field")
        elif (
            field in TRAINED
            and value != 1
            and (value == 0 or field == "weight" or isinstance(value, list) or is_false(value))
        ):
            raise BadRecord(f"{field} = {short(value)} stands beside the turns; write it in a turn, or remove it")
        elif field not in TRAINED or value != 1:  # a loss that somebody measured
            unused.append(field)
    return system, tools, tuple(unused)


def is_false(value: Any) -> bool:
    """Whether a table's cell says false."""
    return isinstance(value, str) and value.lower() == "false"


def beside_words(
    turn: dict[str, Any], own: tuple[str, ...], role: str, number: int, where: str, reads: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a turn says beside who speaks and what is said (the fields ``own``), as keys of a Message.

    ``reads``: fields read here and not in every turn. Under ``unused``: the names of fields that nothing reads, behind
    ``where``, the name of the list. BadRecord for what contradicts itself or is refused.
    """
    found: dict[str, Any] = {}
    flags: dict[str, bool] = {}
    unused = []
    for field, value in turn.items():
        if field in own or is_nothing(value):
            continue
        if field in TRAINED or (field == END_MARK and field in reads):
            flags[field] = yes_or_no(value, field, number)
        elif field in reads and WRITTEN_BY_TOKENIZER.get(field) == role:
            found[field] = calls_in(value, number) if field == "tool_calls" else text_in(value, field, number)
        elif field in reads and field in WRITTEN_BY_TOKENIZER and field != "name":
            raise BadRecord(f"message {number} ({role}) has {field}, only {WRITTEN_BY_TOKENIZER[field]} may have it")
        else:
            names = (*reads, *TRAINED)
            refuse_by_name(field, f"message {number}: ", tuple(name for name in names if is_nothing(turn.get(name))))
            if isinstance(value, bool | int | float) and value in (0, 1) and SAYS_TRAINED.search(snake(field)):
                raise BadRecord(f"message {number}: {field} = {value!r} {OF_TRAINING.format('train, 1 or 0')}")
            unused.append(f"{where}.{field}")
    if not flags.pop(END_MARK, True):
        found["end_mark"] = False
    if len(set(flags.values())) > 1:
        raise BadRecord(f"message {number} contradicts itself: {', '.join(f'{k} = {turn[k]!r}' for k in flags)}")
    if role == "assistant" and flags:
        found["trained"] = any(flags.values())
    elif any(flags.values()):
        name = next(iter(flags))
        raise BadRecord(f"message {number} ({role}) has {name} = {turn[name]!r}, only answers are trained on")
    if unused:
        found["unused"] = unused
    return found


def yes_or_no(value: Any, field: str, number: int) -> bool:
    """true, false, 1 or 0; BadRecord for every other value, a weight of 0.5 among them."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise BadRecord(f"message {number} has {field} = {short(value)}; an answer is trained on or not, write 1 or 0")


def refuse_by_name(field: str, who: str, names: tuple[str, ...]) -> None:
    """BadRecord for a field that is refused by name, or whose name is nearly one of ``names``, which are missing."""
    if reason := refusal(field, names):
        raise BadRecord(f"{who}{reason}")


@lru_cache(maxsize=10_000)  # the same few fields come in every record
def refusal(field: str, names: tuple[str, ...]) -> str:
    """Why a field is not passed over, ``""`` when it is: its name, or that one of ``names`` was meant by it."""
    if field in REFUSED:
        return f"the field {field!r} is not read ({REFUSED[field]}); remove the record, or the field"
    word = field.lower()
    near = [MEANT[field]] if MEANT.get(field) in names else difflib.get_close_matches(word, names, n=1, cutoff=0.8)
    # input_id, tools_used: a longer name has a meaning of its own
    if near and (field in MEANT or (abs(len(near[0]) - len(word)) <= 2 and not word.startswith(f"{near[0]}_"))):
        return f"write {near[0]!r} for {field!r}"
    return ""


def snake(name: str) -> str:
    """``compute_Loss`` of ``computeLoss``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def is_nothing(value: Any) -> bool:
    """Whether a field holds nothing: null, as tables have it, or an empty text, list or object."""
    return value is None or (isinstance(value, EMPTY) and not value)


def short(value: Any) -> str:
    """A value as a sentence quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_in(value: Any, field: str, number: int = 0) -> str:
    """The text in a field; BadRecord for another kind, and for half a character, which no tokenizer takes."""
    who = f"message {number}: " if number else ""
    if not isinstance(value, str):
        raise BadRecord(f"{who}{field} is {type(value).__name__}, not text")
    return whole(value, value, f"{who}{field}")


def tools_in(value: Any) -> list[Any] | None:
    """The schemas in a field ``tools``, which may be JSON text; None where there are none."""
    tools = parsed(value, TOOLS, list, "a list of tools")
    if not all(isinstance(tool, dict) for tool in tools):
        raise BadRecord("tools must be a list of objects, one for each tool")
    return whole(tools, json.dumps(tools, ensure_ascii=False, default=str), TOOLS) or None


def calls_in(value: Any, number: int) -> list[Any]:
    """Tool calls as chat templates take them: ``[{"type": "function", "function": {"name", "arguments": {...}}}]``.

    ``value``: a list of them, or one; bare ``{"name", "arguments"}`` too; each as JSON text or not.
    """
    calls = parsed(value, f"message {number}: tool_calls", list | dict, "a tool call in JSON")  # type: ignore[arg-type]
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRecord(f"message {number} has a tool call without a name")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):
                arguments = loads(arguments)
        if not isinstance(arguments, dict):
            raise BadRecord(f"message {number} calls {function['name']!r} with arguments that are no JSON object")
        outer = call if "function" in call else {}
        found.append({**outer, "type": "function", "function": {**function, "arguments": arguments}})
    return whole(found, json.dumps(found, ensure_ascii=False, default=str), f"message {number}: tool_calls")


def text_of_parts(parts: list[Any], number: int) -> str:
    """The text of a content that is a list of parts, ``[{"type": "text", "text": "Hi"}]``, nothing put between them."""
    texts: list[str] = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"a part of type {short(kind)}" if isinstance(part, dict) else type(part).__name__
            raise BadRecord(f"message {number} holds {what}, only text is read")
        others = [name for name, value in part.items() if name not in ("type", "text") and not is_nothing(value)]
        if others:
            raise BadRecord(
                f"message {number} has a part of text with {short(others[0])}, which is not read; remove it"
            )
        texts.append(part["text"])
    return "".join(texts)
