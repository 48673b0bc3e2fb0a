"""From a config to batches: documents, rows, and which rows make one optimizer step.

Three modes, all explicit. They see the same documents and train on the same tokens; what differs is who can see
whom and how much is padding:

    unpacked   a document a line, padded          transformers' own sdpa with an attention mask
    packed     several documents a row, no seams  transformers' own sdpa, positions run through
    varlen     several documents a row, seams     our attention
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from varlen_lab.config import Config
from varlen_lab.errors import InputError
from varlen_lab.hub import only_local
from varlen_lab.models import PLAIN
from varlen_lab.packing import PackedCollator, PackReport, PaddedCollator, VarlenCollator, pack_lengths
from varlen_lab.packing.rows import IGNORE, document_lengths, rows_from_plan

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

ATTENTION_NAMES = {
    "auto": "varlen",
    "reference": "varlen_reference",
    "sdpa": "varlen_sdpa",
    "flash_attn": "varlen_fa2",
    "torch_varlen": "varlen_torch",
    "flex": "varlen_flex",
}

TOKENIZER_FILES = ("*token*", "*vocab*", "*merges*", "*.model", "*.tiktoken")
Step = list[list[int]]  # the batches of one optimizer step, each a list of row numbers


class Batch(NamedTuple):
    """What one forward pass takes: the model's keyword arguments, the labels, and how many tokens are no padding."""

    inputs: dict[str, Any]
    labels: torch.Tensor
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait."""
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        return Batch(inputs, self.labels.to(device, non_blocking=True), self.tokens)


def attention_name(config: Config) -> str:
    """The attention for the mode of this config, as ``models`` takes it."""
    return ATTENTION_NAMES[config.attn_backend] if config.mode == "varlen" else PLAIN


def collator(mode: str, pad_token_id: int) -> Callable[[list[Any]], dict[str, Any]]:
    """The collator of a mode; all three take the same packed rows."""
    if mode == "varlen":
        return VarlenCollator()
    return PackedCollator(pad_token_id) if mode == "packed" else PaddedCollator(pad_token_id)


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the model; a model from scratch takes the built-in one.

    A tiny stand-in saved by ``varlen_lab.models`` has no tokenizer but the built-in one's vocabulary size, and is
    given it; any other folder without a tokenizer is refused.
    """
    from varlen_lab.documents import builtin_tokenizer

    name = config.pretrained_model_name_or_path
    if name is None:
        return builtin_tokenizer()
    from transformers import AutoConfig, AutoTokenizer

    try:
        # for some model types transformers makes an empty tokenizer out of nothing and does not say so
        if Path(name).is_dir() and not any(any(Path(name).glob(pattern)) for pattern in TOKENIZER_FILES):
            raise OSError("the folder has no tokenizer files")
        return AutoTokenizer.from_pretrained(name, local_files_only=only_local(name))
    except Exception as problem:  # transformers raises many kinds for one fact: there is no usable tokenizer
        try:
            vocabulary = AutoConfig.from_pretrained(name, local_files_only=True).vocab_size
        except (OSError, ValueError):
            vocabulary = None
        builtin = builtin_tokenizer()
        if vocabulary == len(builtin):
            return builtin
        reason = str(problem).strip().splitlines()[0].rstrip(".")
        if not Path(name).is_dir():
            raise InputError(
                f"{name!r} is neither a model folder here nor one the hub gives us ({reason}); check "
                "pretrained_model_name_or_path and the network, or name a folder."
            ) from None
        raise InputError(
            f"{name!r} has no tokenizer that can be opened here ({reason}); save one beside the model with "
            "tokenizer.save_pretrained."
        ) from None


def load_rows(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, progress: bool = False
) -> tuple[Dataset, PackReport]:
    """The rows of a run: packed, or one document a row when unpacked; and what became of the documents."""
    from varlen_lab.documents import load_documents

    documents = load_documents(
        config.data_path,
        tokenizer,
        prompt_template=config.prompt_template,
        system=config.SYSTEM,
        progress=progress,
    )
    strategy = "unpacked" if config.mode == "unpacked" else config.pack_strategy
    packs = pack_lengths(document_lengths(documents), config.max_length, strategy, config.overlong)
    rows = rows_from_plan(documents, packs)
    labels = rows.with_format("arrow")[:]["labels"].combine_chunks()
    if not (labels.flatten().to_numpy() != IGNORE).any():
        raise InputError(
            f"no token of {config.data_path!r} is trained on, every label within max_length = {config.max_length} is "
            "masked; raise max_length, or check that the data has assistant answers."
        )
    return rows.with_format("numpy"), packs.report()


def plan_steps(rows: int, config: Config) -> list[Step]:
    """Row numbers of every optimizer step of a run: shuffled anew each epoch, none left out, none repeated.

    The last step of an epoch takes what remains. ``max_steps`` stops early, or repeats the data if it must.
    """
    steps: list[Step] = []
    epoch = 0
    while len(steps) < config.max_steps if config.max_steps else epoch < config.max_epochs:
        order = np.random.default_rng([config.seed, epoch]).permutation(rows).tolist()
        batches = [order[i : i + config.batch_size] for i in range(0, rows, config.batch_size)]
        each = config.accumulative_counts
        steps += [batches[i : i + each] for i in range(0, len(batches), each)]
        epoch += 1
    return steps[: config.max_steps]


def batched(
    rows: Dataset, steps: list[Step], collate: Callable[[list[Any]], dict[str, Any]], workers: int = 0
) -> Iterator[list[Batch]]:
    """The batches of each step, collated, by ``workers`` processes ahead of time if there are any."""
    from torch.utils.data import DataLoader

    def collate_counted(features: list[Any]) -> Batch:
        inputs = collate(features)
        return Batch(inputs, inputs.pop("labels"), sum(len(feature["input_ids"]) for feature in features))

    loader = iter(
        DataLoader(
            rows,  # type: ignore[arg-type]
            batch_sampler=[batch for step in steps for batch in step],
            collate_fn=collate_counted,
            num_workers=workers,
        )
    )
    for step in steps:
        yield [next(loader) for _ in step]
