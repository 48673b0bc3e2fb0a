"""A named chat template: how a dialogue becomes text, and which pieces of that text are trained on.

A dialogue is cut into segments ``(text, trained)``: everything up to an answer is not trained on, the answer
with the mark that ends it is. The templates are rows of the registry; this file is the one that fills them in.

Not here: the template inside a tokenizer, and tokens. ``tokens`` has both.
"""

from __future__ import annotations

from varlen_lab.documents.dialogues import VERBATIM, Dialogue
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES
from varlen_lab.errors import unknown_choice

Segments = list[tuple[str, bool]]  # (text, is it trained on?)


def segments(dialogue: Dialogue, name: str, eos: str = "") -> Segments:
    """The pieces of one dialogue under a named template, empty ones among them, neighbours not joined.

    ``eos`` is the tokenizer's end token, as text. Raises InputError for a name that is no row of TEMPLATES.

    >>> dialogue = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    >>> segments(dialogue, "internlm_chat")
    [('<|User|>:2+2?<eoh>\\n<|Bot|>:', False), ('4<eoa>', True), ('\\n', False)]
    """
    if name not in TEMPLATES:
        raise unknown_choice("prompt_template", name, [OF_TOKENIZER, *TEMPLATES])
    template = TEMPLATES[name]
    end = template.end.replace("{eos}", eos)
    pieces: Segments = []
    turn = 0
    for message in dialogue:
        role, content = message["role"], message["content"]
        # str.replace, not str.format: what people write holds braces. The turn's number is filled in first, for what
        # a person wrote may hold "{round}".
        if role == "system":
            pieces.append((template.system.replace("{system}", content), False))
        elif role == "user":
            turn += 1
            pieces.append((template.instruction.replace("{round}", str(turn)).replace("{input}", content), False))
        elif role == "tool":  # as XTuner writes it: a system message, and nothing asked
            turn += 1
            response = template.system.replace("{system}", content)
            pieces.append((response + template.instruction.replace("{round}", str(turn)).replace("{input}", ""), False))
        elif role in VERBATIM:
            pieces.append((content, VERBATIM[role]))
        else:
            pieces += [(content + end, True), (template.sep, False)]
    return pieces
