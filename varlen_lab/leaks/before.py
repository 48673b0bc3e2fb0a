"""A leak check before the first step of a training run, on its own model and a few documents of its own batch.

It costs about as much as two steps: three documents that lie side by side, at most a quarter of the batch. One backward
pass each asks whether they hear one another, and each is run alone. Only where something is wrong the whole audit is
made, for its words. The check knows no trainer: it takes what goes into ``model(**batch)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from varlen_lab.attention.guard import lifted
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.apart import who_hears_whom
from varlen_lab.leaks.batches import padding_by_mask
from varlen_lab.leaks.causes import keeps_apart
from varlen_lab.leaks.checking import OF_LAYERS, REFUSED, audit
from varlen_lab.leaks.precision import certified, is_rounding
from varlen_lab.leaks.report import AuditReport, hearing
from varlen_lab.leaks.running import CannotRun, attention_name, host_of, noise_off
from varlen_lab.leaks.traps import documents_of, wrong_labels
from varlen_lab.packing.boundaries import Boundaries

DOCUMENTS = 3
SHARE, MOST, LEAST = 4, 256, 24  # tokens of the check: a batch's divided by SHARE, within these bounds
LONG = 3  # a document of a third of these tokens is long enough to be taken whole
PARTS = (4, 1, 3)  # of the tokens, for each document of those that have to be cut


def check_before_training(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> AuditReport:
    """Whether ``model`` computes a few neighbouring documents of ``batch`` as if each were alone.

    ``batch`` and ``boundaries``: as for ``audit``. To be called as the model is called in training, so inside of an
    autocast where there is one; the model is put into ``train()`` and left as it was found. Neither torch.compile nor
    recomputed activations take part. ``future`` of a clean report is NaN: it is not measured. Raises what the model
    raises, InputError where documents cannot be told.
    """
    few, documents = few_documents(batch, boundaries)
    return checked_clean(model, few, documents) or with_words(model, few, documents)


def checked_clean(model: Any, few: dict[str, Any], documents: Boundaries) -> AuditReport | None:
    """The report of a model that computes these documents in training as if each were alone; None of any other."""
    with as_found(model), lifted(), suppress(CannotRun):  # the audit says in words what the model refuses
        model.train()
        return clean_report(model, few, documents)
    return None


def with_words(model: Any, few: dict[str, Any], documents: Boundaries) -> AuditReport:
    """The whole audit of these documents in training."""
    with as_found(model), lifted():
        model.train()
        return audit(model, few, boundaries=documents)


def leak_found(model: Any, report: AuditReport, taken: int = 0, *, then: str = "", instead: str = "") -> InputError:
    """The error for a run whose check found something: LeakFound, a sentence and then what the audit says.

    ``taken``: the steps before the check, where an earlier one found nothing. ``then``: what came of it, if not that no
    step was taken. ``instead``: what else can be done about layers that leak. A plain InputError for a model that
    refuses packed documents and has no such layer: it does not compute them wrongly.
    """
    name = type(host_of(model)).__name__
    refused = next((finding for finding in report.findings if finding.kind == REFUSED), None)
    layers = [finding for finding in report.findings if finding.kind in OF_LAYERS]
    if refused and not layers:
        return InputError(f"{name} cannot be trained on packed documents: {refused.what}; {refused.fix}.")
    what = report.findings[0].kind
    if refused:
        what = "told where they begin it refuses them, and otherwise its layers carry something across"
    elif report.leaking:
        what = hearing(report.leaking, len(report.lengths))
    elif not is_rounding(report.parity):
        what = f"packed logits differ from those of documents alone by up to {report.parity.logits:.1e}"
    then = then or (f"after {taken} steps, though it did before them" if taken else "so no step was taken")
    ways = [instead] if instead and layers else []
    ways = [*ways, "mend what stands below", "or train unpacked"]
    return LeakFound(
        f"{name} does not keep packed documents apart ({what}), {then}; {', '.join(ways)}.\n"
        + "\n".join(f"✗ {finding}" for finding in report.findings)
    )


def few_documents(batch: Mapping[str, Any], boundaries: Any = None) -> tuple[dict[str, Any], Boundaries]:
    """A batch of a few neighbours of the first row, and their seams; those that are too long lose their ends.

    The longest document that there may be, for a window may begin to matter there, with as many tokens as there may be.
    """
    batch = {name: value for name, value in batch.items() if value is not None}
    seams, _ = documents_of(batch, boundaries)
    width = batch["input_ids"].shape[1]
    padding = padding_by_mask(batch)
    spans = [one for one in seams.spans if one[1] <= width and not (padding is not None and padding[0, one[0]])]
    budget = min(MOST, max(LEAST, seams.total // SHARE))
    groups = [spans[first : first + DOCUMENTS] for first in range(max(1, len(spans) - DOCUMENTS + 1))]
    # where the batch does not tell of a seam, the documents on both sides of it
    if (lost := not_told(spans, batch.get("cu_seq_lens_q"))) is not None:
        groups = [groups[min(lost - 1, len(groups) - 1)]]
    chosen = best_of(groups, budget)
    tokens = torch.cat([torch.arange(*span) for span in chosen]).to(batch["input_ids"].device)
    documents = Boundaries.from_lengths([end - start for start, end in chosen], tokens.device)
    few = {name: cut(value, tokens, len(batch["input_ids"]), width) for name, value in batch.items()}
    positions = few.get("position_ids")
    if positions is not None and positions.ndim > 1 and positions.shape[-1] == len(tokens):
        few["position_ids"] = running_on(batch["position_ids"].narrow(-2, 0, 1), positions, tokens)
    for side in "qk":
        if f"cu_seq_lens_{side}" in batch:
            few[f"cu_seq_lens_{side}"] = left = seams_left(batch[f"cu_seq_lens_{side}"], tokens)
            few[f"max_length_{side}"] = int(left.diff().max())
    return few, documents


def best_of(groups: list[list[tuple[int, int]]], budget: int) -> list[tuple[int, int]]:
    """The spans of one of these groups of documents, ``budget`` tokens at most: whole ones unless all are short.

    Those that are cut are made of unequal lengths: where all are alike, a seam in a wrong place may still be one.
    """
    most = [max(1, budget * part // sum(PARTS[: len(groups[0])])) for part in PARTS]
    whole = [group for group in groups if size_of(group)[1] <= budget]
    if whole and size_of(best := max(whole, key=size_of))[0] * LONG >= budget:
        return best
    cut_off = [[(start, min(end, start + longest)) for (start, end), longest in zip(one, most)] for one in groups]
    return max([*whole, *cut_off], key=size_of)


def size_of(group: list[tuple[int, int]]) -> tuple[int, int]:
    """Tokens of the longest document of a group, and of all."""
    lengths = [end - start for start, end in group]
    return max(lengths), sum(lengths)


def not_told(spans: list[tuple[int, int]], cu_seqlens: torch.Tensor | None) -> int | None:
    """The number of the first document whose start is not among the seams of its batch."""
    told = [] if cu_seqlens is None else cu_seqlens.tolist()
    return next((number for number, (start, _) in enumerate(spans) if told and start not in told), None)


def running_on(positions: torch.Tensor, some: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Positions ``some`` of ``tokens`` of a row: where they ran on through a seam they still do, whatever was cut off.

    A gap in them would tell transformers' own attention of a document that the batch does not tell it of.
    """
    some = some.clone()
    for at in ((tokens.diff() != 1).nonzero().flatten() + 1).tolist():
        start = int(tokens[at])
        if bool((positions[..., start] - positions[..., start - 1] == 1).all()):
            some[..., at:] -= some[..., at : at + 1] - some[..., at - 1 : at] - 1
    return some


def seams_left(cu_seqlens: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The seams of a batch among some of its tokens, int32: those it says, which may not be those it should."""
    starts = torch.isin(tokens, cu_seqlens[:-1])
    starts[0] = True
    end = starts.new_ones(1)
    return torch.cat([starts, end]).nonzero().flatten().to(torch.int32)


def cut(value: Any, tokens: torch.Tensor, rows: int, width: int) -> Any:
    """What a batch says of ``tokens`` of its first row; what has no place for each token stays as it is."""
    if not isinstance(value, torch.Tensor) or value.ndim < 2 or value.shape[-1] != width:
        return value
    # (rows, T), or (3, rows, T) as positions of images and text come
    tokens = tokens.to(value.device)
    value = value.index_select(-1, tokens)
    if value.ndim == 4 and value.shape[-2] == width:  # a mask of every query and key, (rows, heads, T, T)
        return value[:1].index_select(-2, tokens)
    return value.narrow(-2, 0, 1) if value.shape[-2] == rows else value


def clean_report(model: Any, batch: dict[str, Any], documents: Boundaries) -> AuditReport | None:
    """The report of a model and batch without fault; None where there is one, or may be."""
    with noise_off(model):
        leaks = who_hears_whom(model, batch, documents, future=False).leaks
        if bool((leaks != 0).any()) or wrong_labels(batch, documents):
            return None
        measured = certified(model, batch, documents)
        agreement = measured.parity
        if agreement.has_nan or not keeps_apart(model, batch, documents, measured):
            return None
    lengths = tuple(documents.lengths.tolist())
    notes = (*agreement.notes(), *filter(None, [measured.note()]))
    return AuditReport(leaks.numpy(), torch.nan, agreement, (), notes, lengths, attention_name(model), "train")


@contextmanager
def as_found(model: torch.nn.Module) -> Iterator[None]:
    """Nothing is compiled or recomputed while it lasts; afterwards modes, buffers and settings of layers are as before.

    A rotary embedding, for example, may keep other frequencies after a longer document.
    """
    layers = list(model.modules())
    settings = [dict(vars(layer)) for layer in layers]
    buffers = [(layer, name, one, one.clone()) for layer in layers for name, one in named_buffers(layer)]
    try:
        for layer in layers:
            if layer._compiled_call_impl is not None:
                layer._compiled_call_impl = None
            # some ways to recompute allow one backward pass only, and none changes a number
            if vars(layer).get("gradient_checkpointing"):
                vars(layer)["gradient_checkpointing"] = False
        yield
    finally:
        for layer, values in zip(layers, settings, strict=True):
            vars(layer).clear()
            vars(layer).update(values)
        for layer, name, buffer, copy in buffers:
            with torch.no_grad():
                buffer.copy_(copy)
            layer._buffers[name] = buffer


def named_buffers(layer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The buffers of a layer itself, those that are there."""
    return ((name, one) for name, one in layer._buffers.items() if one is not None)
