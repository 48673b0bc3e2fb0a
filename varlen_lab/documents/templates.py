"""A named chat template: how a dialogue becomes text, and which pieces of that text are trained on.

A dialogue is cut into segments ``(text, trained)``: everything up to an answer is not trained on, the answer
with the mark that ends it is. The templates are rows of the registry; this file is the one that fills them in.

Not here: the template inside a tokenizer, and tokens. ``tokens`` has both.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from varlen_lab.documents.dialogues import VERBATIM, WRITTEN_BY_TOKENIZER, BadRecord, Dialogue, Message
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES, Template
from varlen_lab.errors import unknown_choice

Segments = list[tuple[str, bool]]  # (text, is it trained on?)

ASKING = ("user", "tool")  # the roles that the model answers


def template_named(name: str) -> Template:
    """The row of TEMPLATES; InputError for a name that is none, with those near it."""
    if name not in TEMPLATES:
        raise unknown_choice("prompt_template", name, [OF_TOKENIZER, *TEMPLATES])
    return TEMPLATES[name]


def whose(name: str) -> str:
    """What ``prompt_template`` means, in a line: whose format it is and where that stands.

    >>> whose("mistral")
    'prompt_template mistral: Mistral v1, as in InstructTokenizerV1 of mistral-common'
    """
    if name == OF_TOKENIZER:
        return f"prompt_template {name}: the chat template inside the tokenizer"
    template = template_named(name)
    return f"prompt_template {name}: {template.about}, as in {template.source}"


def segments(dialogue: Dialogue, name: str, eos: str = "", bos: str = "") -> Segments:
    """The pieces of one dialogue under a named template, empty ones among them, neighbours not joined.

    ``eos`` and ``bos`` are the tokenizer's end and begin mark, as text. Raises InputError for a name that is no row of
    TEMPLATES, BadRecord for a dialogue that the template has no form for.

    >>> dialogue = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    >>> segments(dialogue, "yi")[2:]
    [('<|im_start|>user\\n2+2?<|im_end|>\\n<|im_start|>assistant\\n', False), ('4<|im_end|>', True), ('\\n', False)]
    """
    template = with_marks(template_named(name), bos, eos)
    check_writable(dialogue, name, template)
    if all(message["role"] in VERBATIM for message in dialogue):
        return [verbatim(message, eos) for message in dialogue]
    system = system_of(dialogue, template)
    asked = [number for number, message in enumerate(dialogue) if message["role"] in ASKING]
    with_system = {"first": asked[:1], "last": asked[-1:]}.get(template.system_in, [])  # the question that S stands in
    pieces: Segments = [(template.prefix, False), ("" if template.system_in else system, False)]
    turn, ended = 0, False  # has the answer before this question got the mark that ends it?
    for number, message in enumerate(dialogue):
        role = message["role"]
        if role in VERBATIM:
            pieces.append(verbatim(message, eos))
        elif role == "assistant":
            ended = message.get("end_mark", True)
            pieces += answer_of(message, template, ended, last=number == len(dialogue) - 1)
        elif role in ASKING:
            turn += 1
            text = question_of(message, template, turn, system if number in with_system else "")
            pieces.append((text.removeprefix(template.end) if ended and template.end_is_next else text, False))
            ended = False
    return pieces


def verbatim(message: Message, eos: str) -> tuple[str, bool]:
    """Text that already stands as the model shall read it; the tokenizer's end mark behind it where it asks for one."""
    return message["content"] + (eos if message.get("end_mark") else ""), VERBATIM[message["role"]]


def named_segments(dialogue: Dialogue, tokenizer: Any, name: str) -> Segments:
    """The segments of a dialogue under a named template, with the tokenizer's own marks."""
    begin = begin_of(template_named(name), tokenizer.bos_token or "")
    return segments(dialogue, name, eos=tokenizer.eos_token or "", bos=begin)


@cache
def begin_of(template: Template, bos: str) -> str:
    """What ``{bos}`` stands for; "" where the tokenizer's begin mark is a mark of the template already.

    SmolLM2 names ``<|im_start|>``, with which InternLM2's template begins every turn: it would stand there twice.
    """
    values = [getattr(template, row.name) for row in fields(template) if row.name not in ("about", "source")]
    return "" if bos and any(isinstance(value, str) and bos in value for value in values) else bos


@cache
def with_marks(template: Template, bos: str, eos: str) -> Template:
    """The template with the tokenizer's marks written into its strings."""
    values: dict[str, Any] = {row.name: getattr(template, row.name) for row in fields(template)}
    for name, value in values.items():
        if isinstance(value, str):
            values[name] = value.replace("{bos}", bos).replace("{eos}", eos)
    return Template(**values)


def check_writable(dialogue: Dialogue, name: str, template: Template) -> None:
    """BadRecord for what a named template has no form for: nothing of a record may vanish unsaid."""
    if getattr(dialogue, "tools", None):
        raise BadRecord(f"it has a list of tools, {no_form(name)}")
    for number, message in enumerate(dialogue, start=1):
        role = message["role"]
        for key in WRITTEN_BY_TOKENIZER:
            if message.get(key):
                raise BadRecord(f"message {number} ({role}) has {key}, {no_form(name)}")
        if role == "tool" and not template.tool:
            raise BadRecord(f"message {number} is what a tool gave back, {no_form(name)}")
        if role == "tool" and dialogue[number - 2]["role"] == "tool":
            raise BadRecord(f"message {number} is what a second tool gave back at once, {no_form(name)}")
        if role == "assistant" and number < len(dialogue) and thinks(message["content"], template):
            raise BadRecord(f"message {number} (assistant) holds a thought and is not the last answer, {no_form(name)}")
        if role == "system" and number > 1:
            raise BadRecord(f"message {number} is a system message behind others, {no_form(name)}")
        if role == "system" and not template.system:
            raise BadRecord(f"message {number} is a system message, {no_form(name)}")


def no_form(name: str) -> str:
    """The end of a reason."""
    return f"for which prompt_template {name} has no form"


def system_of(dialogue: Dialogue, template: Template) -> str:
    """The system message of a dialogue as the template writes it, its default where there is none, or ``""``.

    str.replace and not str.format, here and below: what people write holds braces.
    """
    said = dialogue[0]["content"] if dialogue[0]["role"] == "system" else template.default_system
    return "" if said is None else template.system.replace("{system}", said)


def question_of(message: Message, template: Template, turn: int, system: str) -> str:
    """One question, or what a tool gave back, up to where the model speaks; ``system`` in front of what is asked."""
    begin = template.begin if turn > 1 else ""
    asked = template.instruction.replace("{round}", str(turn))  # first: what a person wrote may hold "{round}"
    if message["role"] == "tool":
        return begin + template.system.replace("{system}", message["content"]) + asked.replace("{input}", "")
    return begin + asked.replace("{input}", system + message["content"])


def answer_of(message: Message, template: Template, ended: bool, last: bool) -> Segments:
    """An answer, with its end mark if it is ``ended``, trained on unless the message says no; and what parts turns."""
    before, end, sep = (of_last(template, one) if last else getattr(template, one) for one in ("answer", "end", "sep"))
    if thinks(message["content"], template):
        before = template.answer
    return [(before + message["content"] + (end if ended else ""), message.get("trained", True)), (sep, False)]


def thinks(answer: str, template: Template) -> bool:
    """Does what is said hold a thought, where the template has a form for one?"""
    return bool(template.thought_end) and template.thought_end in answer


def of_last(template: Template, name: str) -> str:
    """The string of a name as it is in the last answer."""
    text = getattr(template, f"last_{name}")
    return getattr(template, name) if text is None else text
