"""What a template and a tokenizer say together, before any data: the mark in front of a document, the one that ends an
answer.

A template is a row of TEMPLATES or the program inside the tokenizer. Both are asked in the same way here: they write a
short dialogue, and what stands around its words are the marks.
"""

from __future__ import annotations

from typing import Any

from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.templates import segments

QUESTION, ANSWER = "question", "answer"  # of the dialogue that is written to see the marks


def end_ids(tokenizer: Any, prompt_template: str = OF_TOKENIZER) -> tuple[int, ...]:
    """The ids at which an answer is over: the template's end mark, where it is one token, and the tokenizer's eos.

    Of a mark of several tokens the first that is a token of its own (``\\n<|EOT|>``) counts; one that the tokenizer
    reads as plain text ends nothing. Empty where there is neither. Raises InputError for an unknown template.
    """
    ids = tokenizer(end_mark(tokenizer, prompt_template), add_special_tokens=False)["input_ids"]
    of_their_own = set(tokenizer.added_tokens_decoder)
    found = ids if len(ids) == 1 else [one for one in ids if one in of_their_own][:1]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(found))


def end_mark(tokenizer: Any, prompt_template: str) -> str:
    """The text a template writes behind an answer, without white space; ``""`` for none, or if it writes no answer."""
    if prompt_template == OF_TOKENIZER:
        written = written_by_tokenizer(tokenizer)
        return written.rpartition(ANSWER)[2].strip() if ANSWER in written else ""
    asked = Dialogue([{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}])
    pieces = segments(asked, prompt_template, tokenizer.eos_token or "")
    return "".join(text for text, trained in pieces if trained).rpartition(ANSWER)[2].strip()


def written_by_tokenizer(tokenizer: Any) -> str:
    """A question and its answer as the tokenizer's own template writes them; ``""`` without one that can."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        return tokenizer.apply_chat_template(asked, tokenize=False)
    except Exception:  # a template is a program, it may raise anything; that is said when a dialogue meets it
        return ""
