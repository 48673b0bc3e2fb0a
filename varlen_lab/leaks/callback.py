"""``LeakCheck``: the leak check of ``varlen-lab train`` in anybody's trainer, and for loops of one's own.

    Trainer(model, ..., callbacks=[LeakCheck()])            # HF Trainer, TRL's SFTTrainer, and what derives from them
    receipt = LeakCheck.check(model, batch)                 # a loop of one's own

In a trainer it looks at the first training batch with a seam, exactly as it comes to the model: behind the collator,
the columns that the trainer drops, what accelerate does with tensors, under the trainer's autocast. Nothing is taken
from the loader, random states stay as they are, and the losses of the run are the same to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.leaks.first_batch import examine
from varlen_lab.leaks.receipt import Receipt
from varlen_lab.leaks.waiting import Watch, is_first
from varlen_lab.packing.through import merged_rows

RAISE, WARN = "raise", "warn"


class OnBoth:
    """A method that works on the class too, there with the defaults."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any) -> Callable[..., Any]:
        return partial(self.function, instance if instance is not None else owner())


class LeakCheck(TrainerCallback):  # type: ignore[misc]
    """A leak check on the first training batch of a trainer, with a receipt.

    ``receipt``: the JSON file to write, or None for none. ``on_leak``: "raise" stops before a step is taken (LeakFound,
    whose ``receipt`` says all), "warn" says it once and training goes on; so does what cannot be checked.
    """

    def __init__(self, receipt: str | Path | None = "receipt.json", on_leak: str = RAISE) -> None:
        if on_leak not in (RAISE, WARN):
            raise unknown_choice("on_leak", str(on_leak), (RAISE, WARN))
        if receipt is not None and not isinstance(receipt, str | Path):
            raise InputError(f"receipt is {receipt!r}, it is the path of a file, or None to write none.")
        self.path = None if receipt is None else Path(receipt)
        self.on_leak = on_leak
        self.receipt: Receipt | None = None  # of the last check
        self.watch: Watch | None = None

    def _check(
        self,
        model: Any,
        batch: Mapping[str, Any],
        *,
        boundaries: Any = None,
        loss: Any = None,
        num_items_in_batch: int | None = None,
        accumulated: int = 1,
    ) -> Receipt:
        """Check ``model`` on ``batch`` and return the receipt, which is written too.

        ``batch``: what goes into ``model(**batch)``; what a collator adds beside it is left out. ``boundaries``: a
        ``Boundaries`` or the lengths of all documents, row after row; by default the batch's own. ``loss``: of this
        batch in your loop, a number or ``loss(model, batch)``; by default the model's. ``num_items_in_batch``: trained
        tokens of the whole step; ``accumulated``: of how many batches it consists.
        Raises LeakFound where something is found, unless on_leak is "warn"; InputError where nothing can be checked.
        """
        receipt = examine(
            model, batch, boundaries=boundaries, loss=loss, items=num_items_in_batch, accumulated=accumulated
        )
        return self.settled(receipt)

    check = OnBoth(_check)

    def settled(self, receipt: Receipt, taken: int = 0, news: bool = True) -> Receipt:
        """Write a receipt and say what it says: LeakFound or a warning where there are findings that are ``news``."""
        self.receipt = receipt
        if self.path is not None and is_first():
            try:
                receipt.write(self.path)
            except InputError as problem:
                self.cannot(problem)
        if not receipt.ok and news:
            error = receipt.problem(taken)
            if self.on_leak == RAISE:
                raise error
            warnings.warn(str(error), stacklevel=3)
        return receipt

    def cannot(self, problem: InputError) -> None:
        """Say what could not be done: raised, or warned of."""
        if self.on_leak == RAISE:
            raise problem
        warnings.warn(str(problem), stacklevel=3)

    # ---------------------------------------------------------------------------------------------- in a trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Wait at the model for its first training batch."""
        if self.watch is not None:
            self.watch.end()
        self.receipt = self.watch = None
        try:
            self.watch = Watch(args, model)
            self.watch.begin(self.first_batch)
        except InputError as problem:
            self.cannot(problem)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All batches of a step went through and nothing has moved yet: how is their loss divided?"""
        self.weigh(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The same for trainers that do not say when a step is to be taken."""
        self.weigh(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say where no batch could be checked, and leave nothing behind."""
        watch, self.watch = self.watch, None
        if watch is None:
            return
        watch.end()
        if not watch.decided:
            seen = f"{watch.seen} batches, none of which held two documents" if watch.seen else "no batch"
            self.cannot(
                InputError(
                    f"LeakCheck saw {seen} of this training run, so nothing was checked; pack documents into rows, or "
                    "leave the check out."
                )
            )

    def on_predict(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Predictions of several rows that were laid end to end are nobody's."""
        problem = merged_rows(eval_dataloader, args.eval_batch_size)
        if problem is not None:
            self.cannot(problem)

    def first_batch(self, outcome: Receipt | InputError) -> None:
        """What was found at the first batch, in every process."""
        if isinstance(outcome, InputError):
            self.cannot(outcome)
            return
        try:
            self.settled(outcome)
        except InputError:
            if self.watch is not None:
                self.watch.end()
            raise

    def weigh(self, taken: int) -> None:
        """Add to the receipt how the loss of a step divides, once that can be told."""
        weighed = self.watch.step_is_whole() if self.watch is not None else None
        if weighed is None or self.receipt is None:
            return
        found = (weighed.finding,) if weighed.finding else ()
        notes = (weighed.note,) if weighed.note else ()
        receipt = replace(
            self.receipt,
            findings=self.receipt.findings + found,
            notes=self.receipt.notes + notes,
            loss=weighed.record,
        )
        self.settled(receipt, taken, news=bool(found))
