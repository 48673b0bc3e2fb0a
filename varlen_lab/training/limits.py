"""What a model cannot take, said before the first step instead of in a traceback from inside of it.

Token ids past the embedding, positions past a learned table, steps without a trained token are refused. Rotary
positions have no end: past what a model was made for there is a notice only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.leaks.rows import MOST_POSITIONS, position_limit, position_table
from varlen_lab.models.building import build_model
from varlen_lab.packing.registry import IGNORE
from varlen_lab.packing.trained import trained_in_rows
from varlen_lab.training.data import pad_id
from varlen_lab.training.lazily import Step
from varlen_lab.training.plan import row_totals, trains

if TYPE_CHECKING:
    from datasets import Dataset

WRONG_TOKENIZER = (
    "the tokenizer is another model's, or got tokens that the model did not; take the model's own, or give the model "
    "room with resize_token_embeddings and save both"
)


@dataclass(frozen=True)
class Limits:
    """What rows ask for that a model does not have (``broken``), and what may surprise (``notices``): sentences."""

    broken: list[str]
    notices: list[str]

    @classmethod
    def of(cls, config: Config, model: Any, rows: Dataset, tokenizer: Any) -> Limits:
        """Look at the rows of a run in the mode of its config; the model may be an empty one."""
        broken = [
            *not_causal(model),
            *unknown_tokens(model, rows, tokenizer),
            *unknown_padding(config, model, tokenizer),
            *unknown_labels(model, rows),
            *missing_positions(config, model, rows),
        ]
        return cls(broken, far_positions(config, model, rows))


def check_limits(
    config: Config, model: Any, rows: Dataset, steps: Sequence[Step], tokenizer: Any, held_out: Dataset | None = None
) -> list[str]:
    """The notices of a run before its first step; InputError with the first limit that it breaks.

    ``steps``: all of the run's, or none where they are not known yet.
    """
    found = [Limits.of(config, model, part, tokenizer) for part in (rows, held_out) if part is not None]
    if broken := [sentence for limits in found for sentence in limits.broken]:
        raise InputError(f"{broken[0]}.")
    trained = trained_in_rows(rows)
    if steps and not any(trains(step, trained) for step in steps):
        raise InputError(
            f"none of the {len(steps)} steps has a token to train on, the answers lie behind max_length = "
            f"{config.max_length}; raise it, or take more steps."
        )
    return found[0].notices


def check_limits_of_modes(
    config: Config, modes: Sequence[str], rows: Dataset, steps: Sequence[Step], tokenizer: Any, unpacked_batch: int
) -> list[str]:
    """``check_limits`` of a comparison, before any of its modes is run; ``unpacked_batch`` documents are padded."""
    model = shapes_of(config)
    notices: list[str] = []
    for mode in modes:
        one = config.with_mode(mode)
        one = one.replace(batch_size=unpacked_batch) if mode == "unpacked" else one
        notices += check_limits(one, model, rows, steps, tokenizer)
    return list(dict.fromkeys(notices))


def shapes_of(config: Config) -> Any:
    """The model of a run without memory for its weights: what a limit is told by."""
    # of the two with an adapter, for weights in four bits are never empty
    return build_model(config.replace(method="lora") if config.method == "qlora" else config, empty=True)


def not_causal(model: Any) -> list[str]:
    """A model whose tokens see those behind them: of masked words, as BERT, and not told to be a decoder."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    config = model.config
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_decoder", True):
        return []
    return [
        f"{config.model_type} is no causal language model, its tokens see those behind them, the answer among them; "
        "take a decoder, or set is_decoder to true in its config.json"
    ]


def unknown_tokens(model: Any, rows: Dataset, tokenizer: Any) -> list[str]:
    """Ids that the model's embedding has no row for."""
    size = model.get_input_embeddings().num_embeddings
    least, most = extremes(rows, "input_ids")
    if least >= 0 and most < size:
        return []
    token = least if least < 0 else most
    text = f" ({tokenizer.convert_ids_to_tokens(most)!r})" if least >= 0 and most < len(tokenizer) else ""
    return [f"the data has the token {token}{text} and the model knows 0 to {size - 1}: {WRONG_TOKENIZER}"]


def unknown_padding(config: Config, model: Any, tokenizer: Any) -> list[str]:
    """A padding token that the model's embedding has no row for, where a batch is padded."""
    size, token = model.get_input_embeddings().num_embeddings, pad_id(tokenizer)
    if token < size or config.mode == "varlen" or config.batch_size == 1:
        return []
    return [
        f"padding is the token {token} ({tokenizer.pad_token!r}) and the model knows 0 to {size - 1}; set "
        "batch_size = 1, which pads nothing, or the tokenizer's pad_token to one that the model knows"
    ]


def unknown_labels(model: Any, rows: Dataset) -> list[str]:
    """Labels that the model has no logit for; data that comes with its own may hold any number."""
    head = model.get_output_embeddings()
    size = len(head.weight) if head is not None else model.get_input_embeddings().num_embeddings
    least, most = extremes(rows, "labels")
    wrong = most if most >= size else least
    return (
        [
            f"the data has the label {wrong} and the model has logits for 0 to {size - 1}; mask with {IGNORE}, and "
            "take the model's own tokenizer"
        ]
        if most >= size or least < 0
        else []
    )


def extremes(rows: Dataset, column: str) -> tuple[int, int]:
    """The smallest and the largest number in a column of lists, masks left out; (0, 0) of none."""
    found = [0, 0]
    for chunk in rows.with_format("arrow")[:][column].chunks:
        numbers = chunk.flatten().to_numpy()
        if column == "labels":
            numbers = numbers[numbers != IGNORE]
        if len(numbers):
            found = [min(found[0], int(numbers.min())), max(found[1], int(numbers.max()))]
    return found[0], found[1]


def longest(config: Config, rows: Dataset) -> tuple[int, int]:
    """Tokens of the longest document, and positions that occur: in packed rows without seams they run on."""
    lengths = rows.with_format("arrow")[:]["seq_lengths"].chunks
    document = max(int(chunk.flatten().to_numpy().max()) for chunk in lengths)
    return document, int(np.max(row_totals(rows)[0])) if config.mode == "packed" else document


def missing_positions(config: Config, model: Any, rows: Dataset) -> list[str]:
    """Positions past a table of them, such as GPT-2's and OPT's."""
    table = position_table(model).get(MOST_POSITIONS)
    document, positions = longest(config, rows)
    if table is None or positions <= table:
        return []
    what = f"the longest document has {document:,} tokens"
    instead = ""
    if config.mode == "packed":
        what = f"positions run through a packed row, here to {positions:,}"
        if document <= table:
            instead = ", or use_varlen_attn = True, where they start anew with each document"
    return [f"{what}, and the model has a table of {table:,} positions; set max_length = {table}{instead}"]


def far_positions(config: Config, model: Any, rows: Dataset) -> list[str]:
    """Positions past what a model without such a table was made for."""
    limit = position_limit(model.config)
    if limit is None or config.max_length <= limit or position_table(model):
        return []
    _, positions = longest(config, rows)
    here = f"here they go to {positions:,}" if positions > limit else f"here none goes past it, to {positions:,} only"
    return [
        f"max_length = {config.max_length:,} is more than the {limit:,} positions that the model was made for "
        f"(max_position_embeddings), {here}"
    ]


def refuse_format(config: Config, deepspeed: str | None, fsdp: bool) -> None:
    """InputError when ``checkpoint_format`` asks for what the engine of the run does not write."""
    if config.checkpoint_format == "sharded" and not (fsdp or deepspeed):
        raise InputError(
            "checkpoint_format = 'sharded' shares a checkpoint out as --fsdp does a model; add --fsdp, or set it to "
            "'auto'."
        )
    if config.checkpoint_format == "whole" and deepspeed:
        raise InputError(
            "checkpoint_format = 'whole' was set and DeepSpeed writes shards; use --fsdp, or set it to 'auto'."
        )
