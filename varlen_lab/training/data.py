"""From a config to batches: documents, rows, and how rows become what a model takes.

Three modes, all explicit. They see the same documents and train on the same tokens; what differs is who can see
whom and how much is padding:

    unpacked   a document a line, padded          transformers' own sdpa with an attention mask
    packed     several documents a row, no seams  transformers' own sdpa, positions run through
    varlen     several documents a row, seams     our attention
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.loading import only_local
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator, collated, token_weights
from varlen_lab.packing.rows import IGNORE, document_lengths, rows_from_plan
from varlen_lab.packing.strategies import PackReport, pack_lengths
from varlen_lab.training.plan import Step

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
NOTHING = {"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "seq_lengths": [2]}  # a row that trains on nothing


class Batch(NamedTuple):
    """What one forward pass takes: the model's keyword arguments and the labels; and what the step counts."""

    inputs: dict[str, Any]
    labels: torch.Tensor
    tokens: int  # that are no padding
    weights: torch.Tensor | None = None  # of each label in the loss; None: all the same
    squares: int = 0  # sum of squared document lengths: the attention that is needed, whatever is computed

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait."""
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        return self._replace(inputs=inputs, labels=self.labels.to(device, non_blocking=True), weights=weights)

    @classmethod
    def of(
        cls,
        features: Sequence[Mapping[str, Any]],
        collate: Callable[[list[Any]], dict[str, Any]],
        weighting: str = "token",
    ) -> Batch:
        """Collate rows; without rows a batch that trains on nothing, for a process that is left over in a step.

        A feature that brings ``weights`` keeps them.
        """
        features = list(features) or [NOTHING]
        inputs = collate(features)
        labels = inputs.pop("labels")
        if features[0] is NOTHING:
            return cls(inputs, labels, 0, None if weighting == "token" else torch.zeros(labels.shape))
        weights = None
        if weighting != "token":
            given = [one["weights"] if "weights" in one else token_weights(one, weighting) for one in features]
            weights = collated(collate, features, given)
        lengths = [
            np.asarray(one["seq_lengths"] if "seq_lengths" in one else [len(one["input_ids"])]) for one in features
        ]
        squares = sum(int((one.astype(np.int64) ** 2).sum()) for one in lengths)
        return cls(inputs, labels, sum(len(one["input_ids"]) for one in features), weights, squares)


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
    from varlen_lab.documents.builtin import builtin_tokenizer

    name = config.pretrained_model_name_or_path
    if name is None:
        builtin = builtin_tokenizer()
        size = (config.model_config or {}).get("vocab_size", len(builtin))
        if isinstance(size, int) and size < len(builtin):
            raise InputError(
                f"model_config has vocab_size {size}, the built-in tokenizer of a model from scratch writes "
                f"{len(builtin):,} tokens; make it at least that."
            )
        return builtin
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
    return load_parts(config, tokenizer, progress=progress)[:2]


def load_parts(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, progress: bool = False
) -> tuple[Dataset, PackReport, Dataset | None]:
    """As ``load_rows``, with the rows of the documents that ``evaluation_share`` holds out, or None."""
    from varlen_lab.documents import load_documents

    documents = load_documents(
        config.data_path,
        tokenizer,
        prompt_template=config.prompt_template,
        system=config.SYSTEM,
        map_fn=config.dataset_map_fn,
        skip_bad=config.skip_bad,
        progress=progress,
    )
    held_out = None
    if config.evaluation_share:
        order = np.random.default_rng(config.seed).permutation(len(documents))
        cut = int(np.ceil(len(documents) * config.evaluation_share))
        if cut == len(documents):
            raise InputError(
                f"evaluation_share = {config.evaluation_share} holds out all {cut} documents of {config.data_path!r}; "
                "lower it, or set it to 0.0."
            )
        held_out, _ = pack_rows(documents.select(np.sort(order[:cut])).flatten_indices(), config)
        documents = documents.select(np.sort(order[cut:])).flatten_indices()
    rows, report = pack_rows(documents, config)
    return rows, report, held_out


def pack_rows(documents: Dataset, config: Config) -> tuple[Dataset, PackReport]:
    """Documents as rows, in the way of the config. InputError when none of their tokens is trained on."""
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


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id padding is written with; it is masked everywhere, so any id serves when there is none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def batched(
    rows: Dataset,
    steps: list[Step],
    collate: Callable[[list[Any]], dict[str, Any]],
    workers: int = 0,
    weighting: str = "token",
) -> Iterator[list[Batch]]:
    """The batches of each step, collated, by ``workers`` processes ahead of time if there are any."""
    from torch.utils.data import DataLoader

    loader = iter(
        DataLoader(
            rows,  # type: ignore[arg-type]
            batch_sampler=[batch for step in steps for batch in step],
            collate_fn=partial(Batch.of, collate=collate, weighting=weighting),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
    )
    for step in steps:
        yield [next(loader) for _ in step]
