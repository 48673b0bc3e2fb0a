"""One step of other people's trainers, with a ``LeakCheck`` in it: the receipt, and nothing else on the screen.

The trainers run as their scripts would: default settings but for those that are given, and what a lesson cannot have,
reports and files and bars.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from varlen_lab.errors import LeakFound
from varlen_lab.language.saying import say
from varlen_lab.leaks.callback import LeakCheck
from varlen_lab.leaks.receipt import Receipt

QUIET: dict[str, Any] = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
NO_TRL = "TRL is not installed here (pip install trl); its part of this lesson is left out"


def first_step_of_trainer(model: Any, dataset: Any, collator: Callable[..., Any], **settings: Any) -> Receipt:
    """What LeakCheck says of one step of transformers' ``Trainer``; ``settings`` go into its TrainingArguments."""
    from transformers import Trainer, TrainingArguments

    check = LeakCheck(None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **(QUIET | settings))
        step(Trainer(model, arguments, train_dataset=dataset, data_collator=collator, callbacks=[check]))
    return receipt_of(check)


def first_step_of_trl(model: Any, dataset: Any, **settings: Any) -> Receipt | None:
    """What LeakCheck says of one step of TRL's ``SFTTrainer`` that packs; None, and a sentence, where TRL is missing.

    ``settings`` go into its SFTConfig.
    """
    if importlib.util.find_spec("trl") is None:
        print(say(NO_TRL))
        return None
    import datasets
    from trl import SFTConfig, SFTTrainer

    from varlen_lab.documents.builtin import builtin_tokenizer

    check, bars = LeakCheck(None), datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TRL's own use of transformers
            arguments = SFTConfig(folder, packing=True, bf16=False, **(QUIET | settings))
            tokenizer = builtin_tokenizer(progress=False)
            step(SFTTrainer(model, arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[check]))
    finally:
        if bars:
            datasets.enable_progress_bars()
    return receipt_of(check)


def step(trainer: Any) -> None:
    """Let a trainer train, without its printed numbers; a leak stops it, and the check knows why."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with suppress(LeakFound), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing was checked stands in the receipt
        trainer.train()


def receipt_of(check: LeakCheck) -> Receipt:
    """The receipt of a check that a trainer has run."""
    assert check.receipt is not None
    return check.receipt
