"""The settings: what people write who train packed documents on transformers' own attention."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.peers import arguments as trainer_arguments
from benchmarks.peers import silent
from varlen_lab.packing.collators import PaddedCollator, VarlenCollator

Documents = list[list[int]]
Inputs = dict[str, Any]


class Setting(NamedTuple):
    """A row of the table: who trains, what was set, and what runs it on a model of its own."""

    who: str
    what: str
    run: Callable[[Any, Documents, Any], None]  # model, documents, tokenizer


# ------------------------------------------------------------------------------------------------ loops of one's own


def row(documents: Documents) -> Inputs:
    """What a flattening collator gives: one row, position ids that restart."""
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": [len(ids)]} for ids in documents])
    return {name: batch[name] for name in ("input_ids", "position_ids")}


def seams(documents: Documents) -> Inputs:
    """``cu_seq_lens_q`` and what belongs to it."""
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": [len(ids)]} for ids in documents])
    return {name: value for name, value in batch.items() if "length" in name or "cu_seq" in name}


def running(documents: Documents) -> Inputs:
    """The row with positions that run through."""
    ids = row(documents)["input_ids"]
    return {"input_ids": ids, "position_ids": torch.arange(ids.shape[1])[None]}


def numbered(documents: Documents) -> torch.Tensor:
    """A mask that holds each token's document, from 1 on."""
    lengths = torch.tensor([len(ids) for ids in documents])
    return torch.repeat_interleave(torch.arange(len(documents)) + 1, lengths)[None]


def two_rows(documents: Documents) -> Inputs:
    """The documents in two rows, the shorter filled up; with its 2-D padding mask."""
    half = len(documents) // 2
    rows = [row(documents[:half]), row(documents[half:])]
    batch = PaddedCollator()([{"input_ids": one["input_ids"][0].numpy()} for one in rows])
    positions = torch.zeros_like(batch["input_ids"])
    for number, one in enumerate(rows):
        positions[number, : one["position_ids"].shape[1]] = one["position_ids"][0]
    return {name: batch[name] for name in ("input_ids", "attention_mask")} | {"position_ids": positions}


def without(inputs: Inputs, *names: str) -> Inputs:
    return {name: value for name, value in inputs.items() if name not in names}


def loop(prepare: Callable[[Documents], Inputs], checkpointing: bool = False) -> Callable[[Any, Documents, Any], None]:
    """A loop of one's own: ``model.train()``, a forward and a backward pass."""

    def run(model: Any, documents: Documents, _tokenizer: Any) -> None:
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**prepare(documents)).logits.float().logsumexp(-1).sum().backward()

    return run


OWN = (
    ("flattened, use_cache not passed", loop(row)),
    ("flattened, use_cache=False", loop(lambda d: row(d) | {"use_cache": False})),
    ("flattened, gradient checkpointing", loop(row, checkpointing=True)),
    (
        "flattened, use_cache=False, attention_mask of ones",
        loop(lambda d: row(d) | {"use_cache": False, "attention_mask": torch.ones_like(row(d)["input_ids"])}),
    ),
    (
        "flattened, use_cache=False, attention_mask of document numbers",
        loop(lambda d: row(d) | {"use_cache": False, "attention_mask": numbered(d)}),
    ),
    (
        "cu_seq_lens without position_ids, use_cache=False",
        loop(lambda d: without(row(d), "position_ids") | seams(d) | {"use_cache": False}),
    ),
    (
        "cu_seq_lens and running position_ids, use_cache=False",
        loop(lambda d: running(d) | seams(d) | {"use_cache": False}),
    ),
    (
        "neither position_ids nor a mask, use_cache=False",
        loop(lambda d: without(row(d), "position_ids") | {"use_cache": False}),
    ),
    ("two rows, use_cache not passed", loop(lambda d: without(two_rows(d), "attention_mask"))),
    ("two rows, use_cache=False", loop(lambda d: without(two_rows(d), "attention_mask") | {"use_cache": False})),
    ("two rows, use_cache=False, 2-D padding mask", loop(lambda d: two_rows(d) | {"use_cache": False})),
)


# ------------------------------------------------------------------------------------------------------- trainers


def options(**more: Any) -> dict[str, Any]:
    """One step that changes nothing, on the CPU."""
    given = {"max_steps": 1, "learning_rate": 0.0, "optim": "sgd", "use_cpu": True, "bf16": False}
    return trainer_arguments(1, given | more)


def trainer(
    collate: Callable[[], Any], after: Callable[[Any], None] = lambda model: None, **more: Any
) -> Callable[[Any, Documents, Any], None]:
    """HF Trainer with all documents in a batch; ``after`` is done to the model once the Trainer is there."""

    def run(model: Any, documents: Documents, _tokenizer: Any) -> None:
        from datasets import Dataset
        from transformers import Trainer, TrainingArguments

        data = Dataset.from_dict({"input_ids": documents, "labels": documents})
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(folder, per_device_train_batch_size=len(documents), **options(**more))
            made = Trainer(model, arguments, data_collator=collate(), train_dataset=data)
            after(model)
            silent(made).train()

    return run


def flattening(**more: Any) -> Callable[[], Any]:
    """DataCollatorWithFlattening, made when it is needed."""

    def make() -> Any:
        from transformers import DataCollatorWithFlattening

        return DataCollatorWithFlattening(**more)

    return make


def with_ones() -> Any:
    """DataCollatorWithFlattening, and an attention_mask of ones."""
    plain = flattening()()
    return lambda features: (batch := plain(features)) | {"attention_mask": torch.ones_like(batch["input_ids"])}


def turn_cache_on(model: Any) -> None:
    model.config.use_cache = True


def trl(strategy: str) -> Callable[[Any, Documents, Any], None]:
    """TRL's SFTTrainer with packing, as it comes but for the step."""

    def run(model: Any, documents: Documents, tokenizer: Any) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        given = {**options(), "per_device_train_batch_size": 1}
        given.pop("gradient_checkpointing")  # TRL's own default
        length = sum(map(len, documents))  # all in one row
        with tempfile.TemporaryDirectory() as folder:
            arguments = SFTConfig(folder, packing=True, packing_strategy=strategy, max_length=length, **given)
            data = Dataset.from_dict({"input_ids": documents})
            silent(SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)).train()

    return run


TRAINERS = (
    ("HF Trainer", "DataCollatorWithFlattening, defaults", trainer(flattening())),
    ("HF Trainer", "the same, TrainingArguments(use_cache=True)", trainer(flattening(), use_cache=True)),
    ("HF Trainer", "the same, model.config.use_cache = True after Trainer()", trainer(flattening(), turn_cache_on)),
    ("HF Trainer", "the same and an attention_mask of ones", trainer(lambda: with_ones())),
    ("HF Trainer", "return_flash_attn_kwargs=True", trainer(flattening(return_flash_attn_kwargs=True))),
    (
        "HF Trainer",
        "return_flash_attn_kwargs=True, return_position_ids=False",
        trainer(flattening(return_flash_attn_kwargs=True, return_position_ids=False)),
    ),
    ("TRL SFTTrainer", 'packing=True ("bfd")', trl("bfd")),
    ("TRL SFTTrainer", 'packing=True, packing_strategy="wrapped"', trl("wrapped")),
)
SETTINGS = (*(Setting("own loop", what, run) for what, run in OWN), *(Setting(*one) for one in TRAINERS))
