"""HF Trainer and SFTTrainer with their default settings: the losses of our own train(), map-style and streamed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from varlen_lab.config.schema import Config
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.packed import PackedRows
from varlen_lab.packing.readers import PackedStream, RowReader
from varlen_lab.packing.strategies import pack_dataset
from varlen_lab.training.beginning import begin
from varlen_lab.training.optimizer import make_optimizer, make_schedule
from varlen_lab.training.trainer import Run, prepared
from varlen_lab.training.workdir import work_dir_of

# what both sides must share, and what keeps a test silent and on the CPU; nothing about data, columns or dispatch
SHARED: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 1,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
}
WAYS = ("map", "reader", "stream", "iterable")


class Own:
    """Our own run on a few rows in their order: its model before the first step, its rows, its losses."""

    def __init__(self, config: Config, rows: Dataset | None = None) -> None:
        work_dir = work_dir_of(config)
        work_dir.mkdir(parents=True, exist_ok=True)
        self.run: Run = prepared(config, None, False, None, begin(work_dir, False), None, False)
        each = config.batch_size * config.accumulative_counts
        if rows is None:
            order = [row for step in self.run.data.plan for batch in step for row in batch]
            rows = PackedRows.of(self.run.data.rows.with_format(None).select(order))
        assert len(rows) >= each * len(self.run.data.plan)  # no step is short
        batches = np.arange(each * len(self.run.data.plan)).reshape(len(self.run.data.plan), -1, config.batch_size)
        self.rows, self.run.data.rows, self.run.data.plan = rows, rows.with_format("numpy"), batches.tolist()
        self.model = copy.deepcopy(self.run.engine.unwrapped_model)
        self.run.take_steps(False, None)
        self.losses = self.run.history.losses

    def losses_in(self, kind: Any, arguments: Any, data: Any, **options: Any) -> list[float]:
        """The losses of another trainer on ``data``, by the same optimizer and schedule."""
        model, config = copy.deepcopy(self.model), self.run.config
        optimizer = make_optimizer(model, config)
        schedule = make_schedule(optimizer, config, len(self.run.data.plan))
        trainer = kind(
            model,
            arguments,
            train_dataset=data,
            data_collator=VarlenCollator(),
            optimizers=(optimizer, schedule),
            **options,
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    def arguments(self, kind: Any, folder: Path, **options: Any) -> Any:
        config = self.run.config
        return kind(
            output_dir=str(folder),
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulative_counts,
            max_steps=len(self.run.data.plan),
            max_grad_norm=config.max_norm,
            # rows in their order, as a stream has them; the default draws another
            train_sampling_strategy="sequential",
            **SHARED,
            **options,
        )


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(batch_size=2, accumulative_counts=2, lr=0.01)


def stream_of(rows: Dataset) -> PackedStream:
    """A stream over the documents of packed rows; how it packs them is its own affair."""
    documents = [
        {"input_ids": ids.tolist(), "labels": labels.tolist()}
        for row in rows
        for ids, labels in zip(
            np.split(row["input_ids"], np.cumsum(row["seq_lengths"])[:-1]),
            np.split(row["labels"], np.cumsum(row["seq_lengths"])[:-1]),
        )
    ]
    return pack_dataset(Dataset.from_list(documents).to_iterable_dataset(), max(map(len, rows["input_ids"])))


def given(own: Own, way: str, config: Config) -> tuple[Own, Any]:
    """The rows of a run in one of the ways in which people hand rows to a trainer."""
    if way == "stream":  # it packs in its own order, so the truth is our own run on its rows
        stream = stream_of(own.rows)
        own = Own(config, Dataset.from_list([{k: v.tolist() for k, v in row.items()} for row in stream]))
        return own, stream
    if way == "reader":
        return own, RowReader(own.rows)
    return own, own.rows if way == "map" else own.rows.to_iterable_dataset()


@pytest.mark.parametrize("way", WAYS)
def test_hf_trainer_with_nothing_set_is_our_own_run(config: Config, way: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    own, data = given(Own(config), way, config)
    found = own.losses_in(Trainer, own.arguments(TrainingArguments, tmp_path), data)
    assert found == pytest.approx(own.losses, abs=1e-5)
    assert abs(found[0] - found[-1]) > 1e-3  # it learns


@pytest.mark.parametrize("way", ("map", "stream", "iterable"))
def test_sft_trainer_with_nothing_set_is_our_own_run(config: Config, way: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    own, data = given(Own(config), way, config)
    data = data.to_iterable_dataset() if way == "stream" else data  # TRL takes no other stream
    tokenizer = builtin_tokenizer()
    found = own.losses_in(trl.SFTTrainer, own.arguments(trl.SFTConfig, tmp_path), data, processing_class=tokenizer)
    assert found == pytest.approx(own.losses, abs=1e-5)


@pytest.mark.parametrize("other", ["Trainer", "SFTTrainer"])
def test_a_hybrid_whose_layers_run_document_by_document(config: Config, other: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    import transformers

    hybrid = {**(config.model_config or {}), "model_type": "lfm2", "layer_types": ["conv", "full_attention"]}
    own = Own(config.replace(model_config=hybrid | {"num_hidden_layers": 2, "block_multiple_of": 32}))
    assert isolated_layers(own.model)
    kind, arguments, options = {
        "Trainer": (transformers.Trainer, transformers.TrainingArguments, {}),
        "SFTTrainer": (trl.SFTTrainer, trl.SFTConfig, {"processing_class": builtin_tokenizer()}),
    }[other]
    found = own.losses_in(kind, own.arguments(arguments, tmp_path), own.rows, **options)
    assert found == pytest.approx(own.losses, abs=1e-5)
