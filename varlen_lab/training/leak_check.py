"""The leak check of a run, before its first step: the first process makes it on the whole model, all are told.

Layers that leak are run document by document from then on, in all processes alike, unless ``isolate = False``.
A run that goes on from a checkpoint is checked again: its kernel, or transformers, may be another one since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, first_line
from varlen_lab.leaks.before import check_before_training, leak_found
from varlen_lab.leaks.checking import isolated_in_words
from varlen_lab.leaks.isolating import check_and_isolate, of_same_classes, row_of_copy, tiny_copy
from varlen_lab.leaks.report import AuditReport, known
from varlen_lab.leaks.running import CannotRun, weights_frozen
from varlen_lab.machine.console import tell
from varlen_lab.models.adapters import bytes_held
from varlen_lab.models.building import resolve_dtype
from varlen_lab.models.isolation import isolate_layers, isolated_layers
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.training.determinism import what_cannot
from varlen_lab.training.engines import computes_in_bf16
from varlen_lab.training.lazily import Step
from varlen_lab.training.step import collator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

SEARCHED = 1000  # batches that are looked through for one with a seam
RUN_ALONE = "set isolate = True, which runs these layers document by document"
COPIES = 3  # of what is trained, that the check needs beside the model: gradients packed, alone, of one document


def check_in_first_process(
    config: Config,
    model: Any,
    rows: Dataset,
    plan: Sequence[Step],
    accelerator: Accelerator,
    *,
    shared_out: bool = False,
) -> dict[str, Any]:
    """What the check found, as ``{"leak_check": ...}`` for a history; {} in the modes without our attention.

    With ``isolated``, in words, where layers are run document by document.
    ``shared_out``: an engine will take the weights from the CPU, where they are. LeakFound, in all processes, where
    packing changes what the model computes; InputError where the model cannot be run or differentiated.
    """
    if config.mode != "varlen":
        return {}
    told: list[dict[str, Any] | InputError] = [{}]
    if accelerator.is_main_process:
        try:
            told = [checked(config, model, rows, plan, accelerator, shared_out)]
        except InputError as problem:
            told = [problem]
    if accelerator.num_processes > 1:
        # in the group without a time-out: a large model takes a while to move
        torch.distributed.broadcast_object_list(told, group=accelerator.waiting_group)  # type: ignore[attr-defined]
    if isinstance(told[0], InputError):
        raise told[0]
    isolate_layers(model, told[0]["isolated"])
    said = isolated_in_words(model)
    if said:
        tell(said)
    return {"leak_check": told[0]} | ({"isolated": said} if said else {})


def checked(
    config: Config, model: Any, rows: Dataset, plan: Sequence[Step], accelerator: Accelerator, shared_out: bool
) -> dict[str, Any]:
    """The check in this process; errors as above."""
    start = time.perf_counter()
    several = (batch for step in plan for batch in step if sum(len(rows[row]["seq_lengths"]) for row in batch) > 1)
    chosen = [rows[row] for row in next(islice(several, SEARCHED), plan[0][0])]
    inputs = collator("varlen", 0)(chosen) | {"use_cache": False}  # as the step passes it
    # from the rows, not from the batch: a collator may lose a seam
    seams = Boundaries.from_lengths([length for row in chosen for length in row["seq_lengths"]])
    device, report, why = accelerator.device, None, "one GPU does not hold the model"
    # a process that gives slices of the weights away has no room for their gradients: logits are compared all the same
    with weights_frozen(model) if shared_out else nullcontext():
        if fits(model, device):
            try:
                with as_trained(config, model, accelerator, back=shared_out):
                    inputs = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
                    check = check_and_isolate if config.isolate else check_before_training
                    report = check(model, inputs, boundaries=seams.to(device))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                why = "the memory of the GPU was full"
    record: dict[str, Any] = {"tiny_copy": why} if report is None else {"gradients": None} if shared_out else {}
    report = report or tiny_report(model, config.isolate)
    # NaN is not a leak: the loop counts steps that are not finite
    if not report.ok and not report.parity.has_nan:
        raise leak_found(model, report, instead="" if config.isolate else RUN_ALONE)
    return as_record(report, time.perf_counter() - start) | {"isolated": isolated_layers(model)} | record


def tiny_report(model: Any, isolates: bool) -> AuditReport:
    """The report of a tiny copy of a model's class, on the CPU: what layers do is the same, the weights are not.

    What is isolated in the copy is isolated in the model, and the other way round: layers of the same classes.
    """
    copy = tiny_copy(model)
    check = check_and_isolate if isolates else check_before_training
    report = check(copy, row_of_copy(copy))
    if isolates:
        isolate_layers(model, of_same_classes(model, copy))
    return report


@contextmanager
def in_a_sentence(model: Any, device: torch.device) -> Iterator[None]:
    """InputError for what the code of a model raises, which is anybody's; a full GPU is another matter."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as problem:
        problem = problem.problem if isinstance(problem, CannotRun) else problem
        raise InputError(
            (isinstance(problem, RuntimeError) and what_cannot(problem, device.type))
            or f"{type(model).__name__} cannot be trained as it is ({type(problem).__name__}: {first_line(problem)}); "
            "see varlen-lab audit, or use another model."
        ) from None


def as_record(report: AuditReport, seconds: float) -> dict[str, Any]:
    """What a history keeps of the report; None for what was not measured or is not finite."""
    return {
        "ok": report.ok,
        "documents": len(report.lengths),
        "tokens": sum(report.lengths),
        "seconds": seconds,
        "logits": known(report.parity.logits),
        "gradients": known(report.parity.gradients),
        "findings": [str(finding) for finding in report.findings],
    }


def fits(model: Any, device: torch.device) -> bool:
    """Whether a device holds the model and the gradients of the check."""
    if device.type != "cuda":
        return True
    parameters = list(model.parameters())
    here = sum(bytes_held(p) for p in parameters if p.device.type == "cuda")
    all_of_them = sum(bytes_held(p) for p in parameters)
    trained = sum(bytes_held(p) for p in parameters if p.requires_grad)
    return all_of_them - here + COPIES * trained < 0.9 * torch.cuda.mem_get_info(device)[0]


@contextmanager
def on_device(model: Any, device: torch.device, *, back: bool) -> Iterator[None]:
    """The model on the device of the run; afterwards ``back`` where it was. One in four bits is there already."""
    before = next(model.parameters()).device
    moves = before != device and not getattr(model, "is_loaded_in_4bit", False)
    try:
        if moves:
            model.to(device)
        yield
    finally:
        if moves and back:
            model.to(before)


@contextmanager
def as_trained(config: Config, model: Any, accelerator: Accelerator, *, back: bool) -> Iterator[None]:
    """The model where and in the precision in which the engine will compute; what it raises becomes a sentence.

    ``back``: as for ``on_device``.
    """
    precision: AbstractContextManager[Any] = nullcontext()
    if computes_in_bf16(model, resolve_dtype(config)):
        precision = torch.autocast(accelerator.device.type, torch.bfloat16)
    elif resolve_dtype(config) == "fp16":
        precision = accelerator.autocast()
    device = accelerator.device
    with in_a_sentence(model, device), on_device(model, device, back=back), precision:
        yield
