"""The chat template inside a tokenizer: a program of its publisher, asked what it writes.

Its text is rendered twice for every answer, once up to it and once including it: the difference is what the model has
to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from varlen_lab.documents.templates import TEMPLATES, Dialogue, Segments, merged, segments
from varlen_lab.errors import InputError


def tokenizer_segments(dialogues: Sequence[Dialogue], tokenizer: Any) -> list[Segments]:
    """The pieces of every dialogue under the tokenizer's own chat template; one list per dialogue.

    Raises InputError when the tokenizer has no template, or one that rewrites earlier turns as a dialogue
    grows (some drop old reasoning): then "the text up to here" is not the beginning of the whole text.
    """
    prompts, answered = [], []
    for dialogue in dialogues:
        for turn, message in enumerate(dialogue):
            if message["role"] == "assistant":
                prompts.append(dialogue[:turn])
                answered.append(dialogue[: turn + 1])
    before = iter(rendered(tokenizer, prompts, add_generation_prompt=True))
    after = iter(rendered(tokenizer, answered, add_generation_prompt=False))
    results = []
    for dialogue in dialogues:
        answers = sum(message["role"] == "assistant" for message in dialogue)
        if not answers:  # written text: no template of the tokenizer puts its first token in front
            results.append(merged([(tokenizer.bos_token or "", False), *segments(dialogue, "plain")]))
            continue
        results.append(differences(list(islice(before, answers)), list(islice(after, answers))))
    return results


def rendered(tokenizer: Any, dialogues: list[Dialogue], add_generation_prompt: bool) -> list[str]:
    """Each dialogue as the text of the tokenizer's own chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template of its own; "
            f"set prompt_template to one of {', '.join(TEMPLATES)}."
        )
    if not dialogues:
        return []
    try:
        return tokenizer.apply_chat_template(dialogues, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # a template is a program, it may raise anything
        raise InputError(
            f"the chat template of the tokenizer refused a dialogue ({error}); set prompt_template to one of "
            f"{', '.join(TEMPLATES)}, or change the data."
        ) from None


def differences(before: list[str], after: list[str]) -> Segments:
    """Pieces of one dialogue from its texts up to each answer and including it: A ⊂ AB ⊂ ABC ⊂ ABCD.

    White space behind the end mark (``<|im_end|>\\n``) is the template's line break, not the model's word.
    """
    pieces: Segments = []
    done = ""
    for prompt, text in zip(before, after, strict=True):
        if not prompt.startswith(done) or not text.startswith(prompt):
            raise InputError(
                "the chat template of the tokenizer rewrites earlier turns when a dialogue grows, so what is "
                f"trained on cannot be told; set prompt_template to one of {', '.join(TEMPLATES)}, or cut "
                "the data into dialogues of one answer."
            )
        answer = text[len(prompt) :]
        spoken = answer.rstrip()
        pieces += [(prompt[len(done) :], False), (spoken, True), (answer[len(spoken) :], False)]
        done = text
    return merged(pieces)
