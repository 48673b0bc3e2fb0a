"""How each stack is started: its own entry point, its own data pipeline, one step that changes nothing, on the CPU.

Every function takes a folder that ``corpus.prepare`` filled, the callbacks to hand to the trainer in the stack's own
way, and the settings under test. All raise what the stack raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.stacks.corpus import LENGTH

ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "learning_rate": 0.0,
    "optim": "sgd",
    "report_to": "none",
    "save_strategy": "no",
}
Callbacks = Sequence[Any]


def opened(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")


def lines(folder: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("json", data_files=str(folder / "text.jsonl"), cache_dir=str(folder / "cache"), split="train")


def hf_trainer(
    folder: Path, callbacks: Callbacks, collator: str = "flattening", ones: bool = False, **more: Any
) -> None:
    """HF Trainer; ``collator``: flattening, or chunks, as run_clm.py makes them; ``ones``: with an attention_mask."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments, default_data_collator

    model, tokenizer = opened(folder)
    data = lines(folder).map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns=["text"])
    data = data.map(lambda row: {"labels": row["input_ids"]})
    collate: Any = DataCollatorWithFlattening()
    if collator == "chunks":
        joined = [token for row in data["input_ids"] for token in row]
        chunk = {"input_ids": joined[:128], "attention_mask": [1] * 128, "labels": joined[:128]}
        data, collate = [chunk], default_data_collator
    if ones:
        flatten, collate = collate, lambda rows: with_ones(flatten(rows))
    arguments = TrainingArguments(
        str(folder / "out"), use_cpu=True, per_device_train_batch_size=6, **{**ONE_STEP, **more}
    )
    Trainer(model, arguments, data_collator=collate, train_dataset=data, callbacks=list(callbacks)).train()


def with_ones(batch: Any) -> Any:
    import torch

    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def trl(folder: Path, callbacks: Callbacks, batch_size: int = 1, length: int | None = LENGTH, **more: Any) -> None:
    """TRL's SFTTrainer."""
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = opened(folder)
    given = {**ONE_STEP, "bf16": False, "max_length": length, "per_device_train_batch_size": batch_size, **more}
    arguments = SFTConfig(str(folder / "out"), use_cpu=True, **given)
    SFTTrainer(
        model, arguments, train_dataset=lines(folder), processing_class=tokenizer, callbacks=list(callbacks)
    ).train()


def axolotl(folder: Path, callbacks: Callbacks, **more: Any) -> None:
    """``axolotl train`` on a config file; the callbacks come through a plugin, as axolotl wants them."""
    import yaml
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets
    from axolotl.train import train

    from benchmarks.stacks import axolotl_plugin

    axolotl_plugin.CALLBACKS[:] = callbacks
    config = {
        "base_model": str(folder / "model"),
        "datasets": [{"path": str(folder / "text.jsonl"), "ds_type": "json", "type": "completion", "field": "text"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "dataset_num_proc": 1,
        "output_dir": str(folder / "out"),
        "sequence_len": LENGTH,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "learning_rate": 0.0,
        "optimizer": "sgd",
        "bf16": False,
        "tf32": False,
        "save_strategy": "no",
        "plugins": ["benchmarks.stacks.axolotl_plugin.Handing"],
        **more,
    }
    (folder / "axolotl.yml").write_text(yaml.safe_dump(config))
    loaded = load_cfg(str(folder / "axolotl.yml"))
    train(cfg=loaded, dataset_meta=load_datasets(cfg=loaded))


def llamafactory(folder: Path, callbacks: Callbacks, **more: Any) -> None:
    """``llamafactory-cli train``."""
    from llamafactory.train.tuner import run_exp

    arguments = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(folder / "model"),
        "dataset": "asked",
        "dataset_dir": str(folder),
        "template": "empty",
        "cutoff_len": LENGTH,
        "finetuning_type": "full",
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 1,
        "use_cpu": True,
        "overwrite_cache": True,
        **ONE_STEP,
        **more,
    }
    run_exp(arguments, list(callbacks))


def swift(folder: Path, callbacks: Callbacks, unguarded: bool = False, **more: Any) -> None:
    """``swift sft``; ``unguarded``: without its refusal of attention that is not flash, to see what it would do."""
    from swift.arguments import SftArguments
    from swift.callbacks import callbacks_map
    from swift.pipelines import sft_main

    names = [f"handed {number}" for number in range(len(callbacks))]
    for name, callback in zip(names, callbacks, strict=True):
        callbacks_map[name] = lambda _arguments, _trainer, callback=callback: callback
    if unguarded:

        def check(self: Any) -> None:
            self.padding_free = self.padding_free or self.packing

        SftArguments._check_padding_free = check
    arguments = SftArguments(
        model=str(folder / "model"),
        model_type="llama",
        template="dummy",
        dataset=[str(folder / "query.jsonl")],
        tuner_type="full",
        torch_dtype="float32",
        max_length=LENGTH,
        output_dir=str(folder / "out"),
        callbacks=names,
        use_hf=True,
        split_dataset_ratio=0.0,
        dataset_num_proc=1,
        dataloader_num_workers=0,
        per_device_train_batch_size=1,
        **ONE_STEP,
        **more,
    )
    sft_main(arguments)


def unsloth(folder: Path, callbacks: Callbacks, batch_size: int = 6, **more: Any) -> None:
    """unsloth's FastLanguageModel, LoRA, in TRL's SFTTrainer as unsloth patches it."""
    import torch
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder / "model"), max_seq_length=LENGTH, load_in_4bit=False, dtype=torch.float32
    )
    model = FastLanguageModel.get_peft_model(model, r=4)
    from trl import SFTConfig, SFTTrainer

    given = {**ONE_STEP, "bf16": False, "fp16": False, "max_length": LENGTH, "dataset_text_field": "text", **more}
    arguments = SFTConfig(str(folder / "out"), per_device_train_batch_size=batch_size, **given)
    SFTTrainer(
        model=model, args=arguments, train_dataset=lines(folder), processing_class=tokenizer, callbacks=list(callbacks)
    ).train()


class Tokens:
    """The built-in tokenizer, as torchtune's text_completion_dataset asks for it."""

    max_seq_len = LENGTH

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.tokenizer.bos_token_id] * add_bos + ids + [self.tokenizer.eos_token_id] * add_eos


def torchtune(folder: Path, callbacks: Callbacks, **more: Any) -> None:
    """The data set, collator and Llama of torchtune's recipes; its models are its own, so they are measured here."""
    from torchtune.data import padded_collate_packed
    from torchtune.datasets import text_completion_dataset
    from torchtune.models.llama2 import llama2

    from benchmarks.stacks.seen import OWN, Seen, apart, documents_of
    from varlen_lab.models.miniature import scale_weights

    data = text_completion_dataset(
        Tokens(opened(folder)[1]), source="json", data_files=str(folder / "text.jsonl"), split="train", **more
    )
    batch = padded_collate_packed([data[0]])
    model = llama2(
        vocab_size=2048,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        embed_dim=64,
        max_seq_len=LENGTH,
        intermediate_dim=176,
    )
    scale_weights(model)
    ids, documents = batch["tokens"], documents_of(batch["tokens"])
    packed = model(ids, mask=batch["mask"], input_pos=batch["input_pos"])
    callbacks[0].seen = Seen(OWN, len(documents), len(documents) > len(ids), apart(packed, model, ids, documents))
