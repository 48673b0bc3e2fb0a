"""Each record of the registry planted in a plain training script of transformers or TRL: LeakCheck names it."""

from __future__ import annotations

import random
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from varlen_lab.errors import InputError
from varlen_lab.leaks import FAULTS, LeakCheck, plant_in_trainer
from varlen_lab.leaks.registry import Fault
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.strategies import pack_dataset

LENGTHS = [5, 1, 17, 9, 12, 7, 3, 20, 2, 30, 4, 11]


def documents(vocabulary: int = 120) -> Dataset:
    draw = random.Random(0)
    ids = [[draw.randrange(3, vocabulary) for _ in range(length)] for length in LENGTHS * 4]
    return Dataset.from_dict({"input_ids": ids})


def hf_trainer(model: Any, folder: Path, check: LeakCheck) -> Trainer:
    """Trainer with default settings on transformers' own collator."""
    args = TrainingArguments(str(folder), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True)
    collate = DataCollatorWithFlattening()
    return Trainer(model, args, train_dataset=documents(), data_collator=collate, callbacks=[check])


def our_rows(model: Any, folder: Path, check: LeakCheck) -> Trainer:
    """Trainer with default settings on rows of ours."""
    args = TrainingArguments(
        str(folder), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, per_device_train_batch_size=2
    )
    rows = pack_dataset(documents(), 64)
    return Trainer(model, args, train_dataset=rows, data_collator=VarlenCollator(), callbacks=[check])


def sft_trainer(model: Any, folder: Path, check: LeakCheck) -> Any:
    """SFTTrainer that packs."""
    from trl import SFTConfig, SFTTrainer

    from varlen_lab.documents.builtin import builtin_tokenizer

    args = SFTConfig(
        str(folder),
        max_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        packing=True,
        max_length=64,
        bf16=False,
        per_device_train_batch_size=1,
    )
    tokenizer = builtin_tokenizer(progress=False)
    return SFTTrainer(model, args, train_dataset=documents(), processing_class=tokenizer, callbacks=[check])


TRAINERS = {"Trainer": hf_trainer, "our rows": our_rows, "SFTTrainer": sft_trainer}
# TRL asks the class of "chunk ignored" for an output that it has not
PAIRS = [
    (trainer, name) for trainer in TRAINERS for name in FAULTS if (trainer, name) != ("SFTTrainer", "chunk ignored")
]
FAST = random.Random(3).sample([one for one in PAIRS if one[1] != "mean of means"], 15) + [
    (trainer, "mean of means") for trainer in TRAINERS
]


def model_for(fault: Fault, trainer: str) -> Any:
    vocabulary = {"vocab_size": 4096} if trainer == "SFTTrainer" else {}
    attention = "varlen" if trainer == "our rows" else "sdpa"
    attention = "eager" if attention == "sdpa" and fault.model in ("gemma2", "gpt_oss") else attention
    return miniature(fault.model, attention, **fault.config, **vocabulary)


def receipt_of(trainer: str, model: Any, folder: Path, fault: Fault | None) -> Any:
    """What LeakCheck says of two steps, with a fault or without."""
    check = LeakCheck(folder / "receipt.json", on_leak="warn")
    built = TRAINERS[trainer](model, folder, check)
    if fault is not None:
        plant_in_trainer(fault, built)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(InputError, IndexError):  # what our attention or a table of positions refuses by itself
            built.train()
    assert check.receipt is not None
    return check.receipt


def named(trainer: str, name: str, folder: Path) -> None:
    fault = FAULTS[name]
    receipt = receipt_of(trainer, model_for(fault, trainer), folder, fault)
    assert not receipt.ok and {one.name for one in receipt.findings} <= set(fault.expected), str(receipt)


@pytest.mark.parametrize(("trainer", "name"), FAST)
def test_a_fault_planted_in_a_trainer_is_named(trainer: str, name: str, tmp_path: Path) -> None:
    named(trainer, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_fault_planted_in_every_trainer_is_named(trainer: str, name: str, tmp_path: Path) -> None:
    if (trainer, name) in PAIRS:
        named(trainer, name, tmp_path)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("model", ["llama", "mistral"])
def test_without_a_fault_a_run_is_ok(trainer: str, model: str, tmp_path: Path) -> None:
    receipt = receipt_of(trainer, model_for(replace(FAULTS["border label"], model=model), trainer), tmp_path, None)
    assert receipt.ok, str(receipt)


def test_only_a_trainer_takes_a_fault_of_a_trainer() -> None:
    with pytest.raises(InputError, match="a dict has no model and no data_collator and no args"):
        plant_in_trainer(FAULTS["border label"], {})


def test_a_fault_that_a_model_cannot_have_is_refused(tmp_path: Path) -> None:
    trainer = hf_trainer(tiny("llama"), tmp_path, LeakCheck(None))
    before = trainer.data_collator
    with pytest.raises(InputError, match="no layer of it has a sliding window"):
        plant_in_trainer(FAULTS["window missing"], trainer)
    assert trainer.data_collator is before


def test_a_planted_collator_goes_into_workers_of_a_loader() -> None:
    import pickle

    trainer = SimpleNamespace(model=tiny("llama"), data_collator=VarlenCollator(), args=None)
    plant_in_trainer(FAULTS["border label"], trainer)
    (row,) = pack_dataset(documents(), 512, strategy="sequential").to_list()[:1]
    batch = pickle.loads(pickle.dumps(trainer.data_collator))([row])
    starts = batch["cu_seq_lens_q"][1:-1].long()
    assert len(starts) and torch.equal(batch["labels"][0, starts], batch["input_ids"][0, starts])
