"""What a model reads before it answers: a question, written and tokenised as the questions of its training were."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from varlen_lab.documents.cuts import reader, slow_reader
from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.marks import facts_of
from varlen_lab.documents.refusals import one_by_one
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.tokens import rendered, with_begin, with_control_tokens, written_by_name

if TYPE_CHECKING:
    import torch


def prompt_ids(
    question: str,
    tokenizer: Any,
    prompt_template: str = OF_TOKENIZER,
    *,
    system: str = "",
    special_tokens_in_text: str = "keep",
) -> torch.Tensor:
    """What a model reads before it answers ``question``: int64 ids of shape (1, T), as in training."""
    import torch

    dialogue = Dialogue([{"role": "system", "content": system}] if system else [])
    dialogue.append({"role": "user", "content": question})
    facts = facts_of(tokenizer, prompt_template, special_tokens_in_text)
    asked = with_control_tokens([dialogue], facts, [])
    by_name = partial(written_by_name, tokenizer=tokenizer, prompt_template=prompt_template)
    if prompt_template == OF_TOKENIZER:
        text = next(one_by_one(asked, lambda one: rendered(tokenizer, one, add_generation_prompt=True)))
    else:
        text = "".join(text for text, _ in next(one_by_one(asked, by_name)))
    ids = (reader(facts.backend) if facts.backend else slow_reader(tokenizer))(text, True).ids
    return torch.tensor([with_begin(ids, facts.begin)])
