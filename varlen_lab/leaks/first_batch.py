"""The whole check of one batch, as a receipt: isolation to the bit, gradients, parity, labels, the loss.

``check_before_training`` asks a few documents, ``bits`` the whole batch; where both find nothing, nothing crosses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from varlen_lab.attention.guard import lifted
from varlen_lab.errors import InputError, first_line
from varlen_lab.leaks.batches import Documents, Taken, documents_in, taken_apart
from varlen_lab.leaks.before import as_found, check_before_training
from varlen_lab.leaks.bits import Bits, bits_kept
from varlen_lab.leaks.checking import audit, nan_finding
from varlen_lab.leaks.isolating import row_of_copy, tiny_copy
from varlen_lab.leaks.precision import PARITY
from varlen_lab.leaks.prompts import masked_out, prompts_trained
from varlen_lab.leaks.receipt import Receipt, command_now, digest_of, seams_in_words, versions_now
from varlen_lab.leaks.report import AuditReport, Finding, known
from varlen_lab.leaks.running import (
    CannotRun,
    as_if_alone,
    attention_name,
    host_of,
    noise_off,
    run_alone,
)
from varlen_lab.leaks.traps import trained_first_labels
from varlen_lab.leaks.watching import Watched, bare, watched_run
from varlen_lab.leaks.weighing import Weighed, losses_of, weighed_by_number
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.packing.boundaries import Boundaries

FULL = "the whole batch was not run twice, for the memory of the device was full: a few documents were checked"
TOLD_TWICE = ("border label", "keywords dropped", "prompts trained")  # by an audit, and of the whole batch
ALONE = 3  # documents of padded rows that are run alone


def examine(
    model: Any,
    batch: Mapping[str, Any],
    *,
    boundaries: Any = None,
    loss: Any = None,
    items: int | None = None,
    accumulated: int = 1,
    exact: bool = False,
    more: tuple[Finding, ...] = (),
) -> Receipt:
    """Check ``model`` on ``batch``; InputError, in a sentence, where that cannot be done.

    ``batch``, ``boundaries``: as for ``audit``; what a collator adds beside the model's arguments is left out.
    ``exact``: the batch is what a trainer hands over, all of it. ``loss``: of the batch, a number or
    ``loss(model, batch)``; by default what the model returns, where the batch has labels. ``items`` and
    ``accumulated``: as for ``weighed_by_number``. ``more``: findings of the data. The model and the random states are
    left as they were found.
    """
    start = time.perf_counter()
    try:
        while isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            model = model.module
        if not isinstance(model, torch.nn.Module):
            raise InputError(f"the model is a {type(model).__name__}, LeakCheck takes a torch module; pass that one.")
        receipt = examined(model, batch, boundaries, loss, items, accumulated, exact, more)
    except InputError:
        raise
    except Exception as problem:  # the code of a model is anybody's
        problem = problem.problem if isinstance(problem, CannotRun) else problem
        if isinstance(problem, InputError):
            raise problem from None
        raise InputError(
            f"{type(host_of(model)).__name__} cannot be checked on this batch ({type(problem).__name__}: "
            f"{first_line(problem)}); try varlen_lab.audit on a short row, or leave LeakCheck out."
        ) from problem
    return replace(receipt, seconds=time.perf_counter() - start)


def examined(
    model: Any,
    batch: Mapping[str, Any],
    boundaries: Any,
    loss: Any,
    items: int | None,
    accumulated: int,
    exact: bool,
    more: tuple[Finding, ...],
) -> Receipt:
    """``examine``, with errors of any kind."""
    taken = taken_apart(model, batch, exact=exact)
    documents = documents_in(model, taken.inputs, boundaries)
    findings, notes = list(more), list(documents.notes)
    if left := [name for name in taken.beside if name not in ("num_items_in_batch",)]:
        notes.append(f"left out of the call, for the model has no such argument: {', '.join(left)}")
    report: AuditReport | None = None
    watched: Watched | None = None
    bitwise: bool | None = None
    weighed = Weighed(None, None, {})
    with as_found(model), lifted():
        model.train()
        if shared_out(model):
            report = tiny_report(model)
            notes.append("its weights are shared out over processes: a tiny copy of its class was checked")
        else:
            with noise_off(model):
                try:
                    watched = watched_run(model, taken.inputs)
                    bits = whole_batch(model, taken, documents, watched)
                except CannotRun as problem:  # the audit says in words what the model refuses
                    full = isinstance(problem.problem, torch.OutOfMemoryError)
                    bits = Bits(None, None, FULL if full else None)
                findings += [watched.dropped] if watched is not None and watched.dropped is not None else []
                bitwise = bits.kept
                findings += [bits.finding] if bits.finding else []
                notes += [bits.note] if bits.note else []
                if watched is not None:
                    weighed = loss_weighed(model, batch, taken, watched, loss, items, accumulated, exact)
            if watched is None and any(parameter.is_cuda for parameter in model.parameters()):
                torch.cuda.empty_cache()
            with bare(model, watched.autocast if watched else None):
                report, said = reported(model, taken, documents, watched, bitwise)
            notes += said
    findings, notes = gathered(findings, notes, report, taken, documents.boundaries)
    findings += [weighed.finding] if weighed.finding else []
    notes += [weighed.note] if weighed.note else []
    return as_receipt(model, taken, documents, findings, notes, report, watched, bitwise, weighed)


def whole_batch(model: Any, taken: Taken, documents: Documents, watched: Watched) -> Bits:
    """What the bits of the whole batch say; nothing where logits are NaN or there is but one document."""
    if len(documents.real) == 1:
        return Bits(None, None, "the batch holds one document: nothing can leak into it")
    if bool(watched.logits.isnan().any()):
        return Bits(None)
    dtype = seen_in(model, watched)
    return bits_kept(model, taken.inputs, documents.boundaries, watched.logits, dtype, documents.padding)


def reported(
    model: Any, taken: Taken, documents: Documents, watched: Watched | None, bitwise: bool | None
) -> tuple[AuditReport | None, list[str]]:
    """What a few documents say of gradients and parity; and, where only the whole batch leaks, what all of it says."""
    inputs, boundaries = taken.inputs, documents.boundaries
    if not documents.packed:
        return None, rows_alone(model, inputs, documents, watched)
    report = check_before_training(model, inputs, boundaries=boundaries)
    if report.ok and bitwise is False and len(boundaries) <= 32:
        report = audit(model, inputs, boundaries=boundaries)
    return report, []


def rows_alone(model: Any, inputs: Mapping[str, Any], documents: Documents, watched: Watched | None) -> list[str]:
    """A note of how far padded rows are from their documents alone: what stands in front moves positions."""
    mask = inputs.get("attention_mask")
    if watched is None or not isinstance(mask, torch.Tensor) or mask.ndim != 2 or not bool(mask[:, 0].all()):
        return []
    width, worst = inputs["input_ids"].shape[1], 0.0
    with noise_off(model), torch.no_grad(), as_if_alone(model):
        for row, length in list(enumerate(documents.lengths))[:ALONE]:
            alone = run_alone(model, inputs["input_ids"][row, :length])
            there = watched.logits[row * width : row * width + length]
            worst = max(worst, float((alone - there).abs().max()))
    return [f"padded rows against documents alone: logits differ by up to {worst:.1e}"]


def gathered(
    findings: list[Finding], notes: list[str], report: AuditReport | None, taken: Taken, documents: Boundaries
) -> tuple[list[Finding], list[str]]:
    """All findings, each kind once, the words of the audit before those of the bits, labels last; and all notes."""
    labels = taken.inputs.get("labels")
    audited = list(report.findings) if report is not None else []
    if report is not None and report.parity.has_nan and not audited:
        audited = [nan_finding(report.parity)]
    # the audit names the cause of what the bits show
    found = audited + [one for one in findings if one.kind != "leak" or not any(is_of_the_model(x) for x in audited)]
    if isinstance(labels, torch.Tensor) and labels.shape == taken.inputs["input_ids"].shape:
        found += list(trained_first_labels(taken.inputs, documents))
        out, names = masked_out(taken.beside, labels.shape)
        wrong = prompts_trained(labels, out, names) if out is not None else None
        found += [wrong] if wrong is not None else []
    else:
        notes.append("labels do not reach the model: borders and prompts were not checked")
    notes += report.notes if report is not None else ()
    last = {one.kind: one for one in found if one.kind == "border label"}  # of the whole batch, not of a few documents
    once = {one.kind if one.kind in TOLD_TWICE else one: last.get(one.kind, one) for one in reversed(found)}
    return list(dict.fromkeys(reversed(once.values()))), list(dict.fromkeys(notes))


def is_of_the_model(finding: Finding) -> bool:
    """Whether a finding says why documents hear each other."""
    return finding.kind not in ("border label", "prompts trained")


def loss_weighed(
    model: Any,
    batch: Mapping[str, Any],
    taken: Taken,
    watched: Watched,
    loss: Any,
    items: int | None,
    accumulated: int,
    exact: bool,
) -> Weighed:
    """How the loss of a batch divides; in a trainer nothing is asked here, its gradients say it."""
    labels = taken.inputs.get("labels")
    if exact or not isinstance(labels, torch.Tensor) or labels.shape != taken.inputs["input_ids"].shape:
        return Weighed(None, None, {})
    items = taken.items if items is None else items
    if callable(loss):
        loss = loss(model, dict(batch))
    elif loss is None:
        with torch.no_grad():
            given = {"num_items_in_batch": items} if items else {}
            out = model(**taken.inputs, **given)
        loss = out.get("loss") if isinstance(out, Mapping) else getattr(out, "loss", None)
        if isinstance(out, Mapping) and out.get("aux_loss") is not None:
            return Weighed(None, "the loss was not checked: an auxiliary loss is added to it", {})
    if loss is None:
        return Weighed(None, "the loss was not checked: the model returns none", {})
    total, trained = losses_of(watched.logits, labels)
    if not trained:
        return Weighed(None, "no token of the batch is trained", {})
    return weighed_by_number(float(loss), total, trained, labels.numel(), items=items, accumulated=accumulated)


def seen_in(model: Any, watched: Watched) -> torch.dtype:
    """The coarsest precision that a model computes in."""
    kinds = {watched.logits.dtype, watched.autocast or watched.logits.dtype, *(x.dtype for x in model.parameters())}
    return max((kind for kind in kinds if kind in PARITY), key=lambda kind: PARITY[kind], default=torch.float32)


def shared_out(model: Any) -> bool:
    """Whether processes hold parts of the weights each, so that one of them cannot run the model by itself."""
    kinds = {type(parameter).__name__ for parameter in model.parameters()}
    return "DTensor" in kinds or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def tiny_report(model: Any) -> AuditReport:
    """The report of a tiny copy of a model's class: what layers do is the same, the weights are not."""
    copy = tiny_copy(model, attention_name(model))
    return check_before_training(copy, row_of_copy(copy))


def as_receipt(
    model: Any,
    taken: Taken,
    documents: Documents,
    findings: list[Finding],
    notes: list[str],
    report: AuditReport | None,
    watched: Watched | None,
    bitwise: bool | None,
    weighed: Weighed,
) -> Receipt:
    """The receipt of what was found."""
    inputs, boundaries = taken.inputs, documents.boundaries
    ids, parity = inputs["input_ids"], report.parity if report is not None else None
    digested = {"input_ids": ids, "labels": inputs.get("labels"), "seams": boundaries.cu_seqlens}
    digested |= {"logits": watched.logits} if watched is not None else {}
    dtype = seen_in(model, watched) if watched is not None else next(model.parameters()).dtype
    return Receipt(
        findings=tuple(findings),
        notes=tuple(notes),
        kernel=watched.kernel if watched is not None else f"{attention_name(model)}, which did not run this batch",
        model=type(host_of(model)).__name__,
        documents=len(documents.real),
        tokens=sum(documents.real),
        bitwise=bitwise,
        parity={}
        if parity is None
        else {name: known(getattr(parity, name)) for name in ("logits", "loss", "gradients", "logit_scale")},
        loss=weighed.record,
        seams=seams_in_words(boundaries.cu_seqlens),
        digests={name: digest_of(one) for name, one in digested.items() if isinstance(one, torch.Tensor)},
        isolated=tuple(isolated_layers(model)),
        device=str(ids.device),
        dtype=dtype_name(dtype),
        versions=versions_now(),
        command=command_now(),
    )
