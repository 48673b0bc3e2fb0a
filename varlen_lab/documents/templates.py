"""Chat templates: how a dialogue becomes text, and which pieces of that text are trained on.

A dialogue is cut into segments ``(text, trained)``: everything up to an answer is not trained on, the answer
with the mark that ends it is. Named templates are XTuner's, rows of TEMPLATES: facts, no code; a new one is a
new row. The name ``tokenizer`` means the template inside the tokenizer itself, which ``own_template`` asks.

Not here: tokens. ``encode`` turns segments into ids, and adds the one ``bos`` of a document.
"""

from __future__ import annotations

from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES, Template
from varlen_lab.errors import InputError, nearest

# messages {"role": ..., "content": ...}: system, user, assistant; "tool", what a tool gave back; and the two of WRITTEN
Dialogue = list[dict[str, str]]
Segments = list[tuple[str, bool]]  # (text, is it trained on?)

# Text that already stands as the model shall read it, no template puts anything around it -> is it trained on?
WRITTEN = {"text": True, "context": False}


def names() -> list[str]:
    """Everything ``prompt_template`` may be: ``tokenizer`` and the rows of TEMPLATES."""
    return [OF_TOKENIZER, *TEMPLATES]


def get(name: str) -> Template:
    """The row called ``name``, or an InputError that suggests the near one."""
    if name not in TEMPLATES:
        hint = nearest(name, names()) or f"; known are {', '.join(names())}."
        raise InputError(f"there is no prompt_template {name!r}{hint}")
    return TEMPLATES[name]


def segments(dialogue: Dialogue, template: Template | str, eos: str = "") -> Segments:
    """The pieces of one dialogue under a named template; ``eos`` is the tokenizer's end token, as text.

    >>> dialogue = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    >>> segments(dialogue, "internlm_chat")
    [('<|User|>:2+2?<eoh>\\n<|Bot|>:', False), ('4<eoa>', True), ('\\n', False)]
    """
    form = get(template) if isinstance(template, str) else template
    end = form.suffix if form.suffix_as_eos else form.suffix + eos
    pieces: Segments = []
    turn = 0
    for message in dialogue:
        # str.replace, not str.format: what people write holds braces.
        if message["role"] == "system":
            pieces.append((form.system.replace("{system}", message["content"]), False))
        elif message["role"] == "user":
            turn += 1
            # the number first: what a person wrote may hold "{round}"
            asked = form.instruction.replace("{round}", str(turn)).replace("{input}", message["content"])
            pieces.append((asked, False))
        elif message["role"] == "tool":  # as XTuner writes it: a system message, and nothing asked
            turn += 1
            told = form.system.replace("{system}", message["content"])
            pieces.append((told + form.instruction.replace("{round}", str(turn)).replace("{input}", ""), False))
        elif message["role"] in WRITTEN:
            pieces.append((message["content"], WRITTEN[message["role"]]))
        else:
            pieces += [(message["content"] + end, True), (form.sep, False)]
    return merged(pieces)


def merged(pieces: Segments) -> Segments:
    """The same text with empty pieces gone and untrained neighbours joined."""
    result: Segments = []
    for text, trained in pieces:
        if text and result and not trained and not result[-1][1]:
            result[-1] = (result[-1][0] + text, False)
        elif text:
            result.append((text, trained))
    return result
