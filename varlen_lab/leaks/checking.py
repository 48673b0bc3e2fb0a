"""Does packing change what a model computes? ``audit`` measures it on the model and the batch as the user has them.

    report = audit(model, batch)          # batch: what goes into model(**batch)
    print(report)                         # leak matrix, parity, findings with their fixes
    assert report.ok

``preflight``  known traps, found by looking at model and batch, before anything runs
``measure``    the leak matrix and the parity with every document run alone
``explain``    which rule an attention that is not right does follow
``report``     what was found, in words and numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from varlen_lab.leaks.causes import IGNORES_SEAMS, capture, explain
from varlen_lab.leaks.measure import Parity, future_gradient, leak_matrix, logits_of, noise_off, parity
from varlen_lab.leaks.report import AuditReport, Finding
from varlen_lab.leaks.traps import documents_of, preflight, trained_first_labels

# Largest difference that is still rounding, as a share of the largest value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def audit(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> AuditReport:
    """Audit any causal language model of transformers on a packed batch.

    ``batch``: the keyword arguments of ``model(**batch)``, with ``input_ids`` (rows, T). ``boundaries``: a
    ``Boundaries`` or list of lengths of all documents, row after row; by default the batch's ``cu_seq_lens_q``, or, if
    it has none, where ``position_ids`` are 0 (the report says so). The model is measured in the mode it is in, with
    every dropout and noise probability at 0, and left as it was found: mode, gradients, attention, random state.
    Raises InputError when the documents cannot be told or do not cover the batch.
    """
    batch = {name: value for name, value in batch.items() if value is not None}
    documents, notes = documents_of(batch, boundaries)
    traps = preflight(model, batch, boundaries=documents)
    findings = list(trained_first_labels(batch, documents))
    with noise_off(model) as switched_off:
        if switched_off:
            notes.append(f"set to 0 for the measurement: {', '.join(switched_off)}")
        # one forward pass serves the matrix and the search for causes
        with capture() as calls:
            logits, embedded = logits_of(model, batch)
        leaks = leak_matrix(logits, embedded, documents)
        future = future_gradient(logits, embedded, documents)
        del logits, embedded  # and their graph: parity needs the memory
        agreement, alone = parity(model, batch, documents)
        notes.append(f"documents alone were run with {alone} attention")
    limit = TOLERANCE[agreement.dtype]
    broken = bool((leaks != 0).any()) or future > 0 or not agreement.within(limit)
    if agreement.has_nan:
        findings.append(nan_finding(agreement))
    elif broken:
        findings += causes(traps, explain(calls, documents), leaks, future, agreement)
    return AuditReport(
        leaks=leaks.numpy(),
        future=future,
        parity=agreement,
        findings=tuple(findings),
        notes=tuple(notes),
        lengths=tuple(documents.lengths.tolist()),
        attention=str(getattr(model.config, "_attn_implementation", "unknown")),
        mode="train" if model.training else "eval",
    )


def causes(
    traps: Sequence[Finding], explained: Sequence[Finding], leaks: torch.Tensor, future: float, agreement: Parity
) -> list[Finding]:
    """The findings that account for what was measured: what the attention does, and the trap that made it do so."""
    leaking = int((leaks != 0).any(1).sum())
    size = (
        f"{leaking} of {len(leaks)} documents hear another one" if leaking else f"max |Δ logits| {agreement.logits:.1e}"
    )
    found = [Finding(s.kind, s.where, s.what, s.fix, size) for s in traps]
    # a trap explains why the seams were ignored; any other mistake of the attention stands for itself
    found += [each for each in explained if not found or each.kind != IGNORES_SEAMS]
    if not found:
        what = "another document" if leaking else "the future" if future else "what it should not"
        found.append(
            Finding(
                "unexplained",
                "the model",
                f"outputs depend on {what} although every attention call was right",
                "look for a layer that mixes tokens outside attention (a convolution, a recurrence, a normalisation)",
                size,
            )
        )
    return found


def nan_finding(agreement: Parity) -> Finding:
    """NaN is not a leak: nothing can be said about seams until it is gone."""
    where = "alone" if agreement.nan_alone else "packed"
    return Finding(
        "NaN",
        "logits",
        f"the model gives NaN when documents are run {where}",
        "look for it in the weights and inputs first; a leak cannot be told from it",
        "",
    )
