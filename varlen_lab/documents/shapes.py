"""The shapes of a record other than a list of ``messages``: what each turn says is read here, ``reading`` checks it.

Which fields tell a shape, and which function reads it, is a row of the registry. A function gives (role, content)
pairs; the role ``text`` is for text that is trained on as it stands, no template adds to it.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from varlen_lab.documents.dialogues import BadRecord, Turns
from varlen_lab.documents.reading import parsed
from varlen_lab.documents.registry import Shape

GUANACO_TURN = re.compile(r"### (Human|Assistant):")


def from_columns(record: dict[str, Any], shape: Shape) -> Turns:
    """One question, perhaps of several columns (a line each), and the answer in the last of the fields."""
    if shape.system and record.get(shape.system):
        yield "system", record[shape.system]
    columns = [*shape.fields[:-1], shape.optional] if shape.optional else shape.fields[:-1]
    asked = [record[name] for name in columns if record.get(name) not in (None, "")]
    yield "user", "\n".join(asked) if all(isinstance(text, str) for text in asked) else asked
    yield "assistant", record[shape.fields[-1]]


def from_alpaca(record: dict[str, Any], shape: Shape) -> Turns:
    """As ``from_columns``; what Alpaca's generator wrote where it had no answer is a bad record, as in XTuner."""
    instruction, extra = record["instruction"], record.get(shape.optional)
    if record["output"] == "<nooutput>":
        raise BadRecord("output is '<nooutput>', there is no answer")
    # what is no text goes on as it is, for the check behind us to name it
    yield "user", f"{instruction}\n{extra}" if extra and isinstance(instruction, str) else instruction
    yield "assistant", record["output"]


def from_xtuner(record: dict[str, Any], shape: Shape) -> Turns:
    """Turns ``{"system": "Be brief.", "input": "Hi", "output": "Hello"}``; a system message is the first one's only."""
    for number, turn in enumerate(parsed(record["conversation"], "conversation"), start=1):
        if not isinstance(turn, dict) or "input" not in turn or "output" not in turn:
            raise BadRecord(f"turn {number} needs 'input' and 'output'")
        if turn.get("system"):
            yield "system", turn["system"]
        yield "user", turn["input"]
        yield "assistant", turn["output"]


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
        if len(missing) == 1 and (near := difflib.get_close_matches(missing[0], others, n=1, cutoff=0.75)):
            return f"write {missing[0]!r} for {near[0]!r}"
    return f"known shapes have {', '.join('+'.join(fields) for fields in shapes)}"
