"""Waiting at a model for the first batch that a trainer trains it on, and for the gradients of its first step.

A pre-hook sees the batch as it comes to the model, before anything is computed; a hook behind it sees the logits, whose
gradients say what each token weighs in the loss. Of several processes the first one looks, and all hear what it found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from varlen_lab.attention.calls import CALL
from varlen_lab.attention.guard import named
from varlen_lab.errors import InputError, first_line
from varlen_lab.leaks.batches import documents_in, taken_apart
from varlen_lab.leaks.data_behind import Behind, rows_behind
from varlen_lab.leaks.first_batch import examine
from varlen_lab.leaks.receipt import Receipt
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.traps import documents_of
from varlen_lab.leaks.weighing import (
    Weighed,
    Weights,
    means,
    read_log_probs,
    read_loss,
    read_weights,
    weighed_by_gradient,
)
from varlen_lab.packing.boundaries import Boundaries

SEARCHED = 50  # forward passes of training that are waited through for one with a seam
STEPS = 8  # optimizer steps that are watched for batches of unlike counts
OWN_LOOP = "call LeakCheck.check(model, batch) in the loop instead"

Outcome = Receipt | InputError


class Watch:
    """One run of a trainer that is waited for. ``args`` and ``model``: as a trainer hands them to a callback."""

    def __init__(self, args: Any, model: Any) -> None:
        if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
            kind = "nothing" if model is None else f"a {type(model).__name__}"
            raise InputError(
                f"the trainer hands LeakCheck {kind} for a model, it can hook a torch module only; {OWN_LOOP}."
            )
        self.model = model
        self.trainer = calling_trainer()
        self.accumulated = int(getattr(args, "gradient_accumulation_steps", 1) or 1)
        self.compiled = bool(getattr(args, "torch_compile", False)) or model._compiled_call_impl is not None
        self.seen = self.since = self.steps = 0  # forward passes, those of this step, optimizer steps
        self.busy = self.decided = self.items_given = False
        self.parts: list[dict[int, Weights]] = []
        self.handles: list[Any] = []

    def begin(self, outcome: Callable[[Outcome], None]) -> None:
        """Hook the model; ``outcome`` is called once, with a receipt or what keeps from one. InputError: no hooks."""

        def before(model: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            # the copies of DataParallel have the hooks of their model, and threads of their own
            if (
                self.busy
                or self.decided
                or model is not self.model
                or not model.training
                or not torch.is_grad_enabled()
            ):
                return
            if calling_trainer() is not self.trainer:  # its run broke off, this is another one
                self.end()
                return
            self.seen += 1
            try:
                found = in_first_process(lambda: self.looked_at(named(model, inputs, options)))
            except BaseException:  # a Ctrl-C
                self.end()
                raise
            if found is not None:
                self.decided = True
                if self.compiled or isinstance(found, InputError):
                    self.end()
                outcome(found)

        try:
            self.handles.append(self.model.register_forward_pre_hook(before, with_kwargs=True))
            if self.compiled:  # a hook would be compiled with the model
                torch.compiler.set_stance("force_eager")
            else:
                self.handles.append(self.model.register_forward_hook(self.after, with_kwargs=True))
        except Exception as problem:
            self.end()
            raise InputError(
                f"{type(self.model).__name__} takes no forward hooks ({type(problem).__name__}: {first_line(problem)})"
                f"; {OWN_LOOP}."
            ) from None

    def looked_at(self, given: Mapping[str, Any]) -> Outcome | None:
        """A receipt of a batch, or what keeps from one; None where the next batch is to be waited for."""
        running = CALL.set(None)  # what is run here is not the call that is running
        self.busy = True
        try:
            more = wrapped(self.trainer)
            inputs = taken_apart(self.model, given, exact=True).inputs
            data = getattr(self.trainer, "train_dataset", None)
            behind = rows_behind(data, inputs)
            try:
                documents = documents_in(self.model, inputs, documents_by_data(behind, inputs))
            except InputError as problem:
                if not more:
                    raise
                return replace(Receipt.of_nothing(self.model, str(problem)), findings=more)
            if len(documents.real) == 1 and self.seen < SEARCHED:
                return None
            masks = behind.masks if behind is not None else {}
            truth = documents.boundaries if documents.packed else None
            return examine(self.model, {**masks, **given}, boundaries=truth, exact=True, more=more)
        except InputError as problem:
            return problem
        finally:
            self.busy = False
            CALL.reset(running)

    def after(self, model: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
        """The model has computed: gradients of what it gives will say how the loss divides."""
        if self.busy or not self.decided or not model.training or not torch.is_grad_enabled():
            return
        if calling_trainer() is not self.trainer:
            self.end()
            return
        given = named(model, inputs, options)
        self.since += 1
        self.items_given |= given.get("num_items_in_batch") is not None
        readings: dict[int, Weights] = {}  # by how sure they are; only what the trainer uses has a gradient
        self.parts.append(readings)
        for order, (found, read) in enumerate(graded(model, given, output)):
            found.register_hook(partial(keep, readings, order, read))

    def step_is_whole(self) -> Weighed | None:
        """How the loss of the batches since the last step divides; None where the next one may tell more.

        To be called by all processes, once or twice a step: the second time there is nothing new.
        """
        if self.decided and self.compiled and not self.steps:
            self.steps = 1
            return Weighed(None, "the loss was not checked: the model is compiled", {})
        if not self.decided or not self.handles or not self.since:
            return None
        self.since = 0
        parts = [readings[min(readings)] for readings in self.parts if readings]
        self.parts, self.steps = [], self.steps + 1
        told = gathered_from_all(parts)
        if not any(told):
            self.end()
            return Weighed(
                None, "the loss was not checked: neither logits nor log_probs of the model have a gradient", {}
            )
        weighed = weighed_by_gradient(
            [part for one in told for part in one], accumulated=self.accumulated, processes=len(told)
        )
        if weighed is None and self.divides_each():
            weighed = Weighed(means([part.trained for one in told for part in one], self.accumulated), None, {})
        if weighed is None and self.steps >= STEPS:
            note = f"the batches of {STEPS} steps train equally many tokens: one division is as good as another"
            weighed = Weighed(None, note, {})
        if weighed is not None:
            self.end()
        return weighed

    def divides_each(self) -> bool:
        """Whether HF Trainer divides a model's own means by the batches of a step: counts that are alike hide it."""
        asks = getattr(self.trainer, "model_accepts_loss_kwargs", True)
        own = getattr(self.trainer, "compute_loss_func", None) is not None
        return self.accumulated > 1 and not self.items_given and not asks and not own

    def end(self) -> None:
        """Take the hooks away."""
        if self.compiled and self.handles:
            torch.compiler.set_stance("default")
        for handle in self.handles:
            handle.remove()
        self.handles = []


def documents_by_data(behind: Behind | None, inputs: Mapping[str, Any]) -> Boundaries | None:
    """The documents of a batch by the rows that it was made of, where its own seams do not say the same or more."""
    if behind is None or behind.documents == len(inputs["input_ids"]):
        return None
    by_data = Boundaries.from_lengths(behind.lengths, inputs["input_ids"].device)
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.shape == inputs["input_ids"].shape:
        starts = by_data.cu_seqlens[:-1].long()
        if int((mask.reshape(-1)[starts] != 0).sum()) <= len(mask):
            return None  # what else is there is padding: a document a row
    if behind.told:
        return by_data
    try:
        own = documents_of(inputs, None)[0]
    except InputError:
        return by_data
    return None if set(by_data.cu_seqlens.tolist()) <= set(own.cu_seqlens.tolist()) else by_data


def wrapped(trainer: Any) -> tuple[Finding, ...]:
    """The finding for TRL's packing strategy that cuts rows out of documents laid end to end, and keeps no seam."""
    args = getattr(trainer, "args", None)
    if not getattr(args, "packing", False) or getattr(args, "packing_strategy", "") != "wrapped":
        return ()
    what = "packing_strategy='wrapped' lays documents end to end and cuts rows out of them, without seams"
    fix = "SFTConfig(packing_strategy='bfd'), the default, which keeps documents apart"
    return (Finding("wrapped packing", "SFTConfig", what, fix),)


def keep(
    readings: dict[int, Weights], order: int, read: Callable[[torch.Tensor], Weights], gradient: torch.Tensor
) -> None:
    """Read a gradient, unless a surer one was; the gradient stays what it is."""
    if not any(known < order for known in readings):
        readings[order] = read(gradient)


def graded(
    model: Any, given: Mapping[str, Any], output: Any
) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], Weights]]]:
    """What of a model's output a loss is made of, and what its gradient says of weights, the surest first."""

    def part(name: str, dimensions: int) -> torch.Tensor | None:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        graph = isinstance(found, torch.Tensor) and found.requires_grad and found.ndim == dimensions
        return found if graph else None

    logits, loss, labels = part("logits", 3), part("loss", 0), given.get("labels")
    exact = logits is not None and logits.dtype in (torch.float32, torch.float64)
    if logits is not None and exact:
        yield logits, partial(read_weights, logits=logits.detach())
    # in half precision gradients of logits are rounded; and where accelerate turns what comes out of an autocast into
    # float32, the logits that come out are not those that the loss was made of
    if logits is not None and loss is not None and labels is not None and part("aux_loss", 0) is None:
        yield loss, partial(read_loss, loss=loss.detach(), logits=logits.detach(), labels=labels)
    if logits is not None and not exact:
        yield logits, partial(read_weights, logits=logits.detach())
    if (log_probs := part("log_probs", 2)) is not None:
        yield log_probs, partial(read_log_probs, log_probs=log_probs.detach())


def calling_trainer() -> Any:
    """The trainer that is calling: it hands its callbacks a model and a loader, not itself and its data. Or None."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if hasattr(caller, "callback_handler") and hasattr(caller, "train_dataset"):
            return caller
        frame = frame.f_back
    return None


def several() -> bool:
    """Whether other processes train with this one."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return known and torch.distributed.get_world_size() > 1


def is_first() -> bool:
    """Whether this process is the first, or the only one."""
    return not several() or torch.distributed.get_rank() == 0


def in_first_process(look: Callable[[], Any]) -> Any:
    """What ``look()`` gives in the first of several processes, in all of them."""
    if not several():
        return look()
    told = [look() if is_first() else None]
    torch.distributed.broadcast_object_list(told)
    return told[0]


def gathered_from_all(parts: list[Weights]) -> list[list[Weights]]:
    """The parts of every process."""
    if not several():
        return [parts]
    told: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, parts)
    return told
