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
from functools import update_wrapper
from pathlib import Path
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from transformers import TrainerCallback

from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.leaks.first_batch import examine
from varlen_lab.leaks.receipt import Receipt
from varlen_lab.leaks.waiting import Watch, in_first_process
from varlen_lab.packing.through import merged_rows

RAISE, WARN = "raise", "warn"
Given = ParamSpec("Given")
Result = TypeVar("Result")


class OnBoth(Generic[Given, Result]):
    """A method that works on the class too, there with the defaults."""

    def __init__(self, function: Callable[Concatenate[Any, Given], Result]) -> None:
        self.function = function
        update_wrapper(cast(Any, self), function)  # help() and pages of documentation show its words

    def __get__(self, instance: Any, owner: Any) -> Callable[Given, Result]:
        return MethodType(self.function, owner() if instance is None else instance)


class LeakCheck(TrainerCallback):  # type: ignore[misc]
    """A leak check on the first training batch of a trainer, with a receipt.

    ``receipt``: the JSON file to write, or None for none. ``on_leak``: "raise" stops before a step is taken (LeakFound,
    whose ``receipt`` says all), "warn" says it once and training goes on; so it is with what cannot be checked, which
    is an InputError. InputError for another value.
    """

    def __init__(self, receipt: str | Path | None = "receipt.json", on_leak: str = RAISE) -> None:
        if on_leak not in (RAISE, WARN):
            raise unknown_choice("on_leak", str(on_leak), (RAISE, WARN))
        named = isinstance(receipt, str | Path) and Path(receipt).name and "\0" not in str(receipt)
        if receipt is not None and not named:
            raise InputError(f"receipt is {receipt!r}, it must be the path of a file, or None for none; name one.")
        self.path = None if receipt is None else Path(receipt).expanduser()
        self.on_leak = on_leak
        self.receipt: Receipt | None = None  # of the last check
        self.watch: Watch | None = None

    @OnBoth
    def check(
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
        self.receipt = receipt
        self.say(receipt, self.written(receipt))
        return receipt

    def written(self, receipt: Receipt) -> InputError | None:
        """Write a receipt; what keeps from it."""
        try:
            if self.path is not None:
                receipt.write(self.path)
        except InputError as problem:
            return problem
        return None

    def say(self, receipt: Receipt, unwritten: InputError | None, when: str = "") -> None:
        """Say what a receipt says, a leak before anything else: raised, or warned of."""
        if not receipt.ok:
            self.give(receipt.problem(when))
        if unwritten is not None:
            self.give(unwritten)

    def give(self, problem: InputError) -> None:
        """Raise a problem, or warn of it."""
        if self.on_leak == RAISE:
            raise problem
        warnings.warn(str(problem), stacklevel=2)

    # ------------------------------------------------------------------------------------------------ in a trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Wait at the model for its first training batch."""
        if self.watch is not None:  # of a run that was broken off
            self.watch.end()
        self.receipt = self.watch = None
        try:
            self.watch = Watch(args, model)
            self.watch.begin(self.first_batch)
        except InputError as problem:
            self.give(problem)

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
            seen = f"{watch.seen} batches, none of which held two documents," if watch.seen else "no training batch"
            said = (
                f"LeakCheck saw {seen} at the model of this run, so nothing was checked; pack documents into rows, or "
                "leave the check out."
            )
            self.settle(Receipt.of_nothing(watch.model, said), news=False)
            warnings.warn(said, stacklevel=2)  # what was trained is trained, and to be saved

    def on_predict(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Predictions of several rows that were laid end to end are nobody's."""
        problem = merged_rows(eval_dataloader, args.eval_batch_size)
        if problem is not None:
            self.give(problem)

    def first_batch(self, outcome: Receipt | InputError) -> None:
        """What was found at the first batch, in every process."""
        if isinstance(outcome, InputError):
            nothing = Receipt.of_nothing(self.watch.model if self.watch is not None else None, str(outcome))
            self.settle(nothing, news=False)
            self.give(outcome)
        else:
            self.settle(outcome, ", so no step was taken")

    def weigh(self, taken: int) -> None:
        """Add to the receipt how the loss of a step divides, once that can be told; ``taken``: steps before it."""
        weighed = self.watch.step_is_whole() if self.watch is not None else None
        if weighed is None or self.receipt is None:
            return
        before = self.receipt
        notes = (weighed.note,) if weighed.note else ()
        receipt = replace(before, notes=before.notes + notes, loss=weighed.record)
        if weighed.finding is None:
            self.settle(receipt, news=False)
            return
        when = f", after {taken} step{'s' * (taken > 1)}" if taken else ", so no step was taken"
        self.settle(replace(receipt, findings=(*before.findings, weighed.finding)), when)

    def settle(self, receipt: Receipt, when: str = "", *, news: bool = True) -> None:
        """Keep a receipt, write it in the first process, and let all of them hear what it says, if that is ``news``."""
        self.receipt = receipt
        unwritten = in_first_process(lambda: self.written(receipt))
        try:
            if news:
                self.say(receipt, unwritten, when)
        except InputError:
            if self.watch is not None:
                self.watch.end()
            raise
