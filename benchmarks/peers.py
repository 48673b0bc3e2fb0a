"""The trainers people use, over documents we hand them: HF Trainer with flattening, TRL's SFTTrainer with packing.

Both get the model as it is, with whatever attention it has, and a ``Clock`` that counts real tokens from the end of the
first step on. Checkpoints, logs and evaluation are off, and gradient checkpointing unless it is asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

Documents = Sequence[Sequence[int]]


class Clock:
    """Time and tokens of a trainer; ``now`` is the clock: CPU seconds, or one that waits for a GPU first.

    ``first``: the first step counts too. Else it warms up.
    """

    def __init__(self, now: Callable[[], float], first: bool = False) -> None:
        from transformers import TrainerCallback

        self.batches: list[int] = []  # real tokens of every batch that was collated
        self.marks: list[tuple[float, int]] = []  # at the end of every step: the time, batches trained on so far
        outer = self

        class Callback(TrainerCallback):
            def on_train_begin(self, *more: Any, **options: Any) -> None:
                if first:
                    outer.marks.append((now(), 0))

            def on_step_end(self, args: Any, state: Any, *more: Any, **options: Any) -> None:
                outer.marks.append((now(), state.global_step * args.gradient_accumulation_steps))

        self.callback = Callback()

    def counting(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def counted(features: list[Any]) -> Any:
            self.batches.append(sum(len(one["input_ids"]) for one in features))
            return collate(features)

        return counted

    def rate(self) -> float:
        """Real tokens a second, from the first mark to the last."""
        # trainers collate batches ahead, so tokens are counted by the batches that steps have taken
        (start, before), (end, after) = self.marks[0], self.marks[-1]
        return sum(self.batches[before:after]) / (end - start)


def arguments(accumulate: int, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_train_epochs": 1,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_accumulation_steps": accumulate,
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        **options,
    }


def flattening(
    model: Any, documents: Documents, batch: int, accumulate: int, options: dict[str, Any], clock: Clock
) -> None:
    """HF Trainer, ``batch`` documents end to end in a row, seams in position ids and ``cu_seq_lens``.

    ``batch`` 0: rows are packed already, each of ``documents`` is a row of documents.
    """
    from datasets import Dataset
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    collate = clock.counting(DataCollatorWithFlattening(return_flash_attn_kwargs=options.pop("seams", False)))

    def unpacked(features: list[Any]) -> Any:
        return collate([{"input_ids": one, "labels": one} for row in features for one in row["input_ids"]])

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(folder, per_device_train_batch_size=batch or 1, **arguments(accumulate, options)),
            data_collator=collate if batch else unpacked,
            train_dataset=Dataset.from_dict({"input_ids": documents, "labels": documents}),
            callbacks=[clock.callback],
        )
        silent(trainer).train()


def trl_packing(
    model: Any,
    documents: Documents,
    max_length: int,
    accumulate: int,
    options: dict[str, Any],
    clock: Clock,
    tokenizer: Any,
) -> None:
    """SFTTrainer(packing=True): best-fit rows, seams in position ids."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            SFTConfig(
                folder,
                per_device_train_batch_size=1,
                packing=True,
                max_length=max_length,
                **arguments(accumulate, options),
            ),
            train_dataset=Dataset.from_dict({"input_ids": documents}),
            processing_class=tokenizer,
            callbacks=[clock.callback],
        )
        trainer.data_collator = clock.counting(trainer.data_collator)
        silent(trainer).train()


def silent(trainer: Any) -> Any:
    """The trainer without its prints."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer
