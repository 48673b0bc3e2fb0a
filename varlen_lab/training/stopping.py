"""Where an answer ends: at what the model's publisher says, and at the end mark that training taught.

The two differ whenever a template has an end mark of its own: a model trained with ``<eoa>`` behind every answer writes
``<eoa>``, and who waits for the tokenizer's ``</s>`` waits until the last token allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from varlen_lab.documents.marks import end_ids, end_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_ids(settings: Any, tokenizer: PreTrainedTokenizerBase, prompt_template: str) -> list[int]:
    """The ids of a ``generation_config``, in its order, then those of ``end_ids`` that it lacks."""
    # the order matters: transformers pads with the first where it is told no padding id
    return list(dict.fromkeys([*ids_of(settings), *end_ids(tokenizer, prompt_template)]))


def ids_of(settings: Any) -> list[int]:
    """The eos ids of a ``generation_config``: it may have one, several or none."""
    stated = settings.eos_token_id
    return [] if stated is None else [stated] if isinstance(stated, int) else list(stated)


def notes_on_stopping(
    settings: Any, tokenizer: PreTrainedTokenizerBase, prompt_template: str, *, whole: bool
) -> tuple[str, ...]:
    """What a person must know who generates with the result: where its own settings cannot or do not stop.

    ``whole``: it is a model folder, whose ``generation_config`` gets ``stop_ids``; an adapter has none of its own.
    """
    mark = end_mark(tokenizer, prompt_template)
    pieces = tokenizer(mark, add_special_tokens=False)["input_ids"]
    if pieces and not set(pieces) & set(end_ids(tokenizer, prompt_template)):
        return (
            f"answers end with {mark!r}, {len(pieces)} tokens of this tokenizer, and generation_config stops at single "
            f"ones alone: pass stop_strings={mark!r} and the tokenizer to generate",
        )
    before, after = ids_of(settings), stop_ids(settings, tokenizer, prompt_template)
    if not whole and before != after:
        return (
            f"the base stops at {before}, this adapter at {after}: pass eos_token_id={after} to generate, or merge",
        )
    return ()
