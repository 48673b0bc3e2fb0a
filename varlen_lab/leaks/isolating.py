"""Layers that carry something across seams are run document by document: found by measuring, and measured again.

    model = isolate(model)               # in place; what is exact already comes back unchanged
    model = isolate(model, batch)        # measured on these documents

``layers`` says which module leaks, whatever its name, ``models.isolation`` runs it on one document at a time. Then all
is measured once more, as before a training run: what is not exact afterwards is left as it was, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from varlen_lab.attention.guard import COLLATOR, lifted
from varlen_lab.attention.huggingface import AUTO
from varlen_lab.attention.recurrent import class_name
from varlen_lab.errors import InputError, of_kind
from varlen_lab.leaks.before import as_found, checked_clean, few_documents, leak_found, with_words
from varlen_lab.leaks.checking import OF_LAYERS, audit
from varlen_lab.leaks.layers import LeakingLayer, layers_of_untold, leaking_layers
from varlen_lab.leaks.report import AuditReport
from varlen_lab.leaks.running import CannotRun, cache_off, host_of, inputs_of, noise_off, random_row
from varlen_lab.leaks.traps import documents_of
from varlen_lab.models.isolation import isolate_layers, isolated_layers, release
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

LENGTHS = [5, 1, 17, 9]  # tokens of the documents where no batch is given: one has no neighbour's token to lean on
COPY = [12, 3, 9]  # tokens of the documents on which a tiny copy is checked
MOST = 2048, 16  # tokens and documents of a batch that is measured as a whole


def isolate(model: Any, batch: Mapping[str, Any] | None = None, *, boundaries: Any = None) -> Any:
    """The same model, with every layer that leaks run document by document: packed documents are as if alone.

    ``batch``, ``boundaries``: as for ``audit``, by default a row of a few random documents. A layer is run so whenever
    the model is given ``cu_seq_lens_q``, and as ever without. Mode, gradients and random state stay as they are, and a
    model without such layers comes back unchanged. LeakFound, with the audit's words and the model as it was, where
    this does not make it exact; InputError where it cannot be measured.
    """
    of_kind("model", model, torch.nn.Module, "a model of torch", "load_model opens one")
    host = host_of(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"{type(host).__name__} has no weights yet (device meta), so nothing can be measured; isolate it when they "
            "are loaded."
        )
    given, documents = chosen_documents(host, batch, boundaries)
    report = checked_isolated(model, given, documents)
    if not report.ok:
        raise not_exact(model, report, given)
    return model


def chosen_documents(host: Any, batch: Mapping[str, Any] | None, boundaries: Any) -> tuple[dict[str, Any], Boundaries]:
    """What is measured: a batch, or a few documents of a large one; without a seam in it a row of random documents."""
    if batch is not None:
        # without labels: those at a border are a matter of the batch
        given = inputs_of({name: value for name, value in batch.items() if value is not None})
        documents, _ = documents_of(given, boundaries)
        if documents.total > MOST[0] or len(documents) > MOST[1]:
            given, documents = few_documents(given, documents)
        if len(documents) > len(given["input_ids"]):
            return given, documents
    given = inputs_of(random_row(host, LENGTHS)) | cache_off(host)
    device = host.get_input_embeddings().weight.device
    given = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in given.items()}
    return given, Boundaries.from_lengths(LENGTHS, device)


def check_and_isolate(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> AuditReport:
    """``check_before_training`` of a model whose leaking layers are isolated, where that makes it exact.

    Otherwise the model is left as it was, and the report is of that.
    """
    return checked_isolated(model, *few_documents(batch, boundaries))


def checked_isolated(model: Any, batch: dict[str, Any], documents: Boundaries) -> AuditReport:
    """The same, on all documents of the batch."""
    before = isolated_layers(model)
    isolate_layers(model, before)  # a wrapper may be new, which calls them past the model inside it
    exact = False
    try:
        report = checked_clean(model, batch, documents)
        while report is None and (paths := paths_that_leak(model, batch, documents)):
            isolate_layers(model, paths)
            report = checked_clean(model, batch, documents)
        exact = report is not None
    finally:
        if not exact and isolated_layers(model) != before:
            isolate_layers(release(model), before)
    return report or with_words(model, batch, documents)


def audit_isolated(model: Any, batch: Mapping[str, Any], *, isolate: bool = True) -> AuditReport:
    """``audit``; with ``isolate`` of a model whose leaking layers are isolated, where that makes it exact."""
    report = audit(model, batch)
    if not isolate or not any(finding.kind in OF_LAYERS for finding in report.findings):
        return report
    found = checked_isolated(model, *chosen_documents(host_of(model), batch, None))
    return audit(model, batch) if found.ok else report


def paths_that_leak(model: Any, batch: dict[str, Any], documents: Boundaries) -> list[str]:
    """Paths of the layers to isolate next: those that leak in ``train()`` and are not isolated yet."""
    known = isolated_layers(model)
    return [layer.path for layer in measured_layers(model, batch, documents) if layer.path not in known]


def measured_layers(model: Any, batch: dict[str, Any], documents: Boundaries) -> list[LeakingLayer]:
    """The layers that leak in ``train()``; none where the model does not bear to be looked into."""
    if "cu_seq_lens_q" not in batch:  # nothing would tell an isolated layer where documents begin
        return []
    with as_found(model), lifted(), noise_off(model):
        model.train()
        for measure in (leaking_layers, layers_of_untold):  # some classes refuse to be told the seams
            try:
                return measure(model, batch, documents)
            except (CannotRun, RuntimeError):
                continue
    return []


def not_exact(model: Any, report: AuditReport, batch: Mapping[str, Any]) -> InputError:
    """The error for a model that isolation does not make exact on a batch."""
    name, finding = type(host_of(model)).__name__, report.findings[0]
    if report.parity.has_nan:
        return InputError(f"{name} cannot be measured: {finding.what}; {finding.fix}.")
    if "cu_seq_lens_q" not in batch and (layers := [one for one in report.findings if one.kind in OF_LAYERS]):
        return InputError(
            f"{layers[0].where} of {name} leaks, and runs document by document only where a batch brings "
            f"cu_seq_lens_q, which this one does not; {COLLATOR}."
        )
    return leak_found(model, report, then="and running layers document by document does not make it exact")


def tiny_copy(model: Any, attention: str = AUTO, **changes: Any) -> Any:
    """A tiny copy of a model's class, isolated where the model is; ``attention`` and ``changes``: of ``miniature``."""
    copy = miniature(host_of(model).config, attention, **changes)
    return isolate_layers(copy, of_same_classes(copy, model))


def row_of_copy(copy: Any) -> dict[str, Any]:
    """The batch on which a tiny copy is checked: one row, the cache off, as trainers run a model."""
    return random_row(copy, COPY) | cache_off(copy)


def of_same_classes(model: Any, other: Any) -> list[str]:
    """Paths of the modules in ``model`` whose class is that of one that is isolated in ``other``."""
    names = {class_name(other.get_submodule(path)) for path in isolated_layers(other)}
    return [path for path, module in model.named_modules() if class_name(module) in names]
