"""The shapes of a record other than a list of ``messages``: what each turn says is read here, ``reading`` checks it.

Which fields tell a shape, and which function reads it, is a row of the registry. A function gives (role, content)
pairs; the role ``text`` is for text that is trained on as it stands, no template is put around it.
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from typing import Any

from varlen_lab.documents.dialogues import BadRecord, Turns, parsed
from varlen_lab.documents.fields import END_MARK, beside_words, is_nothing, refuse_by_name
from varlen_lab.documents.reading import messages_in
from varlen_lab.documents.registry import Shape

MESSAGES_IN_A_CELL = re.compile(r"\s*\[\s*\{\s*(['\"])(role|content)\1\s*:")
GUANACO_TURN = re.compile(r"### (Human|Assistant):")


def from_columns(record: dict[str, Any], shape: Shape) -> Turns:
    """One question, perhaps of several columns (a line each), and the answer in the last of the fields."""
    yield from earlier_turns(record, shape)
    columns = [*shape.fields[:-1], shape.optional] if shape.optional else shape.fields[:-1]
    asked = [record[name] for name in columns if not is_nothing(record.get(name))]
    yield "user", "\n".join(asked) if all(isinstance(text, str) for text in asked) else asked
    yield "assistant", record[shape.fields[-1]]


def earlier_turns(record: dict[str, Any], shape: Shape) -> Turns:
    """The turns of a column ``[[question, answer], ...]``; all answers are trained on, as LLaMA-Factory does."""
    if shape.history and not is_nothing(record.get(shape.history)):
        for number, pair in enumerate(parsed(record[shape.history], shape.history, list, "a list of turns"), start=1):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise BadRecord(f"{shape.history}: turn {number} is no pair of a question and an answer")
            yield "user", pair[0]
            yield "assistant", pair[1]


def from_prompt(record: dict[str, Any], shape: Shape) -> Turns:
    """As ``from_columns``, or two lists of messages, as TRL has them: then answers in the prompt are not trained on."""
    asked, answer = (messages_or_text(record[name], name) for name in shape.fields)
    if not isinstance(asked, list) and not isinstance(answer, list):
        yield from from_columns(record, shape)
        return
    yield from earlier_turns(record, shape)
    if isinstance(asked, list):
        for role, content, *words in messages_in(asked, shape.fields[0], shape):
            untrained = {"trained": False} if role == "assistant" else {}
            yield role, content, untrained | (words[0] if words else {})
    else:
        yield "user", asked
    if isinstance(answer, list):
        yield from messages_in(answer, shape.fields[1], shape)
    else:
        yield "assistant", answer


def messages_or_text(value: Any, field: str) -> Any:
    """The list of messages that a table's cell holds as text; every other value as it is."""
    if isinstance(value, str) and MESSAGES_IN_A_CELL.match(value):
        with suppress(BadRecord):
            return parsed(value, field)
    return value


def from_alpaca(record: dict[str, Any], shape: Shape) -> Turns:
    """As ``from_columns``; what Alpaca's generator wrote where it had no answer is a bad record, as in XTuner."""
    instruction, extra = record["instruction"], record.get(shape.optional)
    if record["output"] == "<nooutput>":
        raise BadRecord("output is '<nooutput>', there is no answer")
    yield from earlier_turns(record, shape)
    # what is no text goes on as it is, for the check behind us to name it
    if is_nothing(extra):
        yield "user", instruction
    elif instruction == "":
        yield "user", extra
    else:
        yield "user", f"{instruction}\n{extra}" if isinstance(instruction, str) and isinstance(extra, str) else extra
    yield "assistant", record["output"]


def from_xtuner(record: dict[str, Any], shape: Shape) -> Turns:
    """Turns ``{"system": "Be brief.", "input": "Hi", "output": "Hello"}``; a system message is the first one's only.

    Where no turn asks anything it is XTuner's data to continue pre-training: outputs are trained on as they stand, each
    with the tokenizer's end mark behind it unless ``need_eos_token`` is false.
    """
    turns = parsed(record["conversation"], "conversation")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or "input" not in turn or "output" not in turn:
            raise BadRecord(f"turn {number} needs 'input' and 'output'")
    pretraining = all(is_nothing(turn["input"]) for turn in turns)
    for number, turn in enumerate(turns, start=1):
        words: dict[str, Any] = {}
        if len(turn) > 2:
            words = beside_words(turn, ("system", "input", "output"), "assistant", number, "conversation", (END_MARK,))
        if pretraining:
            if not is_nothing(turn.get("system")):
                raise BadRecord(f"turn {number} has a system message and no input")
            words.setdefault("end_mark", True)
            yield "text" if words.pop("trained", True) else "context", turn["output"], words
            continue
        if not is_nothing(turn.get("system")):
            yield "system", turn["system"]
        yield "user", turn["input"]
        yield "assistant", turn["output"], words


def from_guanaco(record: dict[str, Any], shape: Shape) -> Turns:
    """All turns in one text: ``### Human: Hi ### Assistant: Hello``."""
    if not isinstance(record["text"], str):
        raise BadRecord(f"text is {type(record['text']).__name__}, not text")
    before, *pieces = GUANACO_TURN.split(record["text"])
    if before.strip() or not pieces:
        raise BadRecord(
            "text does not begin with '### Human:' (to train on all of it as it is, set dataset_map_fn = 'pretrain')"
        )
    for who, content in zip(pieces[::2], pieces[1::2], strict=True):
        # A cut-off last answer is common in this data; an empty one is not an answer.
        yield "user" if who == "Human" else "assistant", content.strip()


def from_text(record: dict[str, Any], shape: Shape) -> Turns:
    """Text that is trained on whole, with nothing around it and no end mark, as XTuner's ``pretrain_map_fn`` does."""
    yield "text", record["text"].strip() if isinstance(record["text"], str) else record["text"]


def from_colors(record: dict[str, Any], shape: Shape) -> Turns:
    """The answer is a color; a description that begins with its name (``Sky: Pale blue``) would give it away."""
    description = record["description"]
    if isinstance(description, str) and ":" in description:
        description = description.partition(":")[2].strip()
    yield "user", description
    yield "assistant", record["color"]


def unknown_shape(record: dict[Any, Any], shapes: list[tuple[str, ...]]) -> BadRecord:
    """Why a record has none of the shapes (each given by its fields), and what would give it one."""
    for field in record:
        refuse_by_name(str(field), "", ())
    found = ", ".join(f"{field} (empty)" if value is None else str(field) for field, value in record.items())
    return BadRecord(f"its fields are {found or 'none'}; {how_to_fit(record, shapes)}")


def how_to_fit(record: dict[Any, Any], shapes: list[tuple[str, ...]]) -> str:
    """Which field to fill or to rename, where one would do; otherwise the fields of every shape."""
    for fields in shapes:
        if all(field in record for field in fields):
            return f"{next(field for field in fields if record[field] is None)} must hold something"
    for fields in shapes:
        others = [str(field) for field in record if field not in fields]
        missing = [field for field in fields if field not in record]
        others = [
            name for name in others if not (missing and name.startswith((f"{missing[0][:-1]}_", f"{missing[0]}_")))
        ]
        if len(missing) == 1 and (near := difflib.get_close_matches(missing[0], others, n=1, cutoff=0.75)):
            return f"write {missing[0]!r} for {near[0]!r}"
    return f"known shapes have {', '.join('+'.join(fields) for fields in shapes)}"
