"""Packed rows in other people's trainers: HF Trainer and TRL's SFTTrainer see the losses of unpacked training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenised import tiny_reader, tokenised

from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.strategies import pack_dataset

STEPS, ROW = 3, 4096
LENGTHS = [(37 * k) % 700 + (1 if k % 9 == 0 else 40) for k in range(40)]


def documents() -> Dataset:
    return tokenised(LENGTHS)


def model() -> Any:
    return tiny_reader(ROW)


def unpacked_losses(rows: Dataset) -> list[float]:
    """Each row's documents alone, one forward pass each, in a plain loop: the truth."""
    net = model().train()
    net.config._attn_implementation = "sdpa"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for row in list(rows)[:STEPS]:
        ends = np.cumsum(row["seq_lengths"]).tolist()
        count = sum(label != -100 for label in row["labels"])
        total = 0.0
        for begin, end in zip([0, *ends], ends, strict=False):
            if end - begin == 1:
                continue  # nothing to predict
            ids = torch.tensor([row["input_ids"][begin:end]])
            logits = net(ids, use_cache=False).logits[0, :-1]
            labels = torch.tensor(row["labels"][begin + 1 : end])
            loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / count
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "max_steps": STEPS,
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "remove_unused_columns": False,  # or seq_lengths would be dropped
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
}


def losses_of(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def rows() -> Dataset:
    packed = pack_dataset(documents(), ROW)
    assert len(packed) >= STEPS
    return packed


@pytest.fixture(scope="module")
def expected(rows: Dataset) -> list[float]:
    return unpacked_losses(rows)


def test_hf_trainer(rows: Dataset, expected: list[float], tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), **SETTINGS)
    found = losses_of(Trainer(model(), arguments, train_dataset=rows, data_collator=VarlenCollator()))
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[-1]) > 1e-4  # it learns: the losses are not one number three times


def test_trl_sft_trainer(rows: Dataset, expected: list[float], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    from varlen_lab.documents.builtin import builtin_tokenizer

    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        packing=False,
        padding_free=False,
        max_length=None,  # its default of 1024 cuts input_ids, but not seq_lengths
        dataset_kwargs={"skip_prepare_dataset": True},
        **SETTINGS,
    )
    trainer = trl.SFTTrainer(
        model(), arguments, train_dataset=rows, data_collator=VarlenCollator(), processing_class=builtin_tokenizer()
    )
    assert losses_of(trainer) == pytest.approx(expected, abs=1e-5)


def test_the_check_can_fail(rows: Dataset, expected: list[float], tmp_path: Path) -> None:
    """The same rows without their seams: naive packing is another loss."""
    from transformers import Trainer, TrainingArguments

    from varlen_lab.packing.collators import PackedCollator

    arguments = TrainingArguments(output_dir=str(tmp_path), **SETTINGS)
    found = losses_of(Trainer(model(), arguments, train_dataset=rows, data_collator=PackedCollator()))
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) > 1e-4
