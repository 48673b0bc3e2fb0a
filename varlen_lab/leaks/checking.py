"""Does packing change what a model computes? ``audit`` measures it on the model and the batch as the user has them.

    report = audit(model, batch)          # batch: what goes into model(**batch)
    print(report)                         # leak matrix, parity, findings with their fixes
    assert report.ok

``preflight``  known traps, found by looking at model and batch, before anything runs
``apart``      who hears whom: for all pairs at once, and only where someone does document by document
``measure``    the leak matrix and the parity with every document run alone
``explain``    which rule an attention that is not right does follow
``report``     what was found, in words and numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch

from varlen_lab.attention.guard import lifted
from varlen_lab.attention.recurrent import class_name
from varlen_lab.errors import InputError, of_kind
from varlen_lab.leaks.apart import who_hears_whom
from varlen_lab.leaks.causes import Explanation, calls_in_half, explain
from varlen_lab.leaks.layers import LeakingLayer, layers_of_untold, leaking_layers
from varlen_lab.leaks.measure import Parity, unmeasured
from varlen_lab.leaks.mistakes import IGNORES_SEAMS
from varlen_lab.leaks.origins import COUNTS, RUN_ON, origins
from varlen_lab.leaks.positions import harmless_positions
from varlen_lab.leaks.precision import MOVED, Certified, certified, gone_in_float64, in_precision, is_rounding
from varlen_lab.leaks.report import AuditReport, Finding, grouped, hearing
from varlen_lab.leaks.running import (
    CannotRun,
    attention_name,
    logits_of,
    noise_off,
    run_alone,
)
from varlen_lab.leaks.traps import documents_of, preflight, wrong_labels
from varlen_lab.models.isolation import in_words, isolated_layers
from varlen_lab.packing.boundaries import Boundaries

REFUSED = "refused"  # of a model that takes documents alone only
UNEXPLAINED = "unexplained"
RECURRENT, OWN_ATTENTION = OF_LAYERS = "recurrent layer", "attention of its own"
ISOLATE = "isolate(model) runs it document by document"
# what is said of a difference that neither a gradient nor an attention call accounts for: it may be rounding
NOT_OF_ATTENTION = {UNEXPLAINED, RUN_ON, COUNTS}


def audit(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> AuditReport:
    """Audit any causal language model of transformers on a packed batch.

    ``batch``: the keyword arguments of ``model(**batch)``, with ``input_ids`` (rows, T). ``boundaries``: a
    ``Boundaries`` or list of lengths of all documents, row after row; by default the batch's ``cu_seq_lens_q``, or,
    where it has none or ``position_ids`` restart elsewhere, where these are 0 (the report says so). Labels are held
    against the loss masks of the batch (``completion_mask`` and the like). The model is measured in the mode it is in,
    with every dropout and noise probability at 0, and left as it was found: mode, gradients, attention, random state.
    Raises InputError when the documents cannot be told or do not cover the batch.
    """
    of_kind("model", model, torch.nn.Module, "a model of torch", "load_model opens one")
    of_kind("batch", batch, Mapping, "a dict of what the model is given", "VarlenCollator makes one of packed rows")
    batch = {name: value for name, value in batch.items() if value is not None}
    documents, notes = documents_of(batch, boundaries)
    findings = wrong_labels(batch, documents)
    leaks, future = torch.full((len(documents), len(documents)), torch.nan, dtype=torch.float64), torch.nan
    notes += [words] if (words := isolated_in_words(model)) else []
    agreement, prefix = unmeasured(), 0
    with torch.enable_grad(), noise_off(model) as switched_off, lifted():  # whoever calls it under no_grad
        if switched_off:
            notes.append(f"set to 0 for the measurement: {', '.join(switched_off)}")
        try:
            leaks, future, prefix = who_hears_whom(model, batch, documents)
            measured = certified(model, batch, documents)
        except CannotRun as problem:
            findings.append(refusal(model, batch, documents, problem))
            with suppress(CannotRun, RuntimeError):  # it may refuse because of what its layers do
                findings += layer_findings(layers_of_untold(model, batch, documents), findings)
        else:
            agreement = measured.parity
            notes += agreement.notes()
            notes += [note] if (note := measured.note()) else []
            if agreement.has_nan:
                findings.append(nan_finding(agreement))
            elif bool((leaks != 0).any()) or not measured.agrees or measured.in_half:
                found, more, agreement = what_is_wrong(model, batch, documents, leaks, measured, prefix)
                findings += found
                notes += more
            elif future > 0:
                notes.append(
                    "outputs depend on later tokens of their own document: this model is not causal, alone neither"
                )
    return AuditReport(
        leaks=leaks.numpy(),
        future=future,
        parity=agreement,
        findings=tuple(findings),
        notes=tuple(notes),
        lengths=tuple(documents.lengths.tolist()),
        attention=attention_name(model),
        mode="train" if model.training else "eval",
    )


def refusal(model: Any, batch: Mapping[str, Any], documents: Boundaries, problem: CannotRun) -> Finding:
    """The finding for a model that runs documents alone and refuses them packed; InputError when it runs neither."""
    start, end = max(documents.spans, key=lambda span: span[1] - span[0])
    with torch.no_grad():
        run_alone(model, batch["input_ids"].reshape(-1)[start:end])
        fix = "train this model unpacked, or mend what the message says"
        if "use_cache" not in batch:
            with suppress(CannotRun, InputError):  # with its graph, which may be what is refused
                logits_of(model, {**batch, "use_cache": False})
                fix = "pass use_cache=False"
    what = str(problem)
    if not isinstance(problem.problem, InputError):
        what = f"{type(problem.problem).__name__}: {what}"
    elif "; " in what:  # our sentences end in the next step
        what, _, fix = what.rstrip(".").rpartition("; ")
    return Finding(REFUSED, problem.model, f"documents alone run, the packed batch does not: {what}", fix)


def what_is_wrong(
    model: Any, batch: Mapping[str, Any], documents: Boundaries, leaks: torch.Tensor, measured: Certified, prefix: int
) -> tuple[list[Finding], list[str], Parity]:
    """What ``causes`` says in the precision that certifies, with more notes, and the parity to report.

    Where no gradient crosses a seam rounding may do as much as a fault: for the last bit of a score a mixture sends a
    token to another expert. A kernel for half precision is not the one of the copy: it is asked call by call.
    """
    agreement, leaking = measured.parity, bool(leaks.any())
    half = calls_in_half(model, batch, documents) if measured.in_half else Explanation()
    if leaking or (not is_rounding(agreement) and measured.can_tell):
        with in_precision(model, torch.float32) if measured.half else nullcontext():
            found, notes = causes(model, batch, documents, leaks, agreement, prefix)
            if not leaking and found and {each.kind for each in found} <= NOT_OF_ATTENTION:
                if half.findings:
                    return half.findings, notes, agreement
                if note := harmless_positions(model, batch, documents, agreement):
                    return [], [*notes, note], agreement
                # of calls that nobody looked into, a kernel of float32 could be wrong that float64 does not use
                may_round = not notes or agreement.within(MOVED)
                if may_round and (closer := gone_in_float64(agreement, model, batch, documents)):
                    note = f"in float32 logits differ by {agreement.logits:.1e}, which is rounding: measured in float64"
                    return [], [*notes, note], closer
        # the copy does not show why: in half precision the model has another kernel
        if measured.half and leaking and {each.kind for each in found} <= {UNEXPLAINED}:
            found, notes = causes(model, batch, documents, leaks, agreement, prefix)
        return found, notes, agreement
    return half.findings, not_examined(half.unexamined), agreement


def causes(
    model: Any, batch: Mapping[str, Any], documents: Boundaries, leaks: torch.Tensor, agreement: Parity, prefix: int
) -> tuple[list[Finding], list[str]]:
    """The findings that account for what was measured, and in words what was not examined.

    What the attention does and the trap that made it do so, layers that leak by themselves, positions.
    """
    leaking = int((leaks != 0).any(1).sum())
    size = hearing(leaking, len(leaks)) if leaking else f"max |Δ logits| {agreement.logits:.1e}"
    calls, layers, unexamined = Explanation(), list[LeakingLayer](), list[str]()
    try:
        calls = explain(model, batch, documents)
        layers = leaking_layers(model, batch, documents, prefix) if leaking else []
    except (CannotRun, RuntimeError) as problem:  # a model may run and not bear to be looked into
        unexamined.append(f"layers (looking into them the model raised {type(problem).__name__}: {problem})")
    unexamined += calls.unexamined
    attends = any(layer.attends for layer in layers)
    found: list[Finding] = []
    if calls.findings or attends or unexamined or not (calls.right or layers):
        traps = preflight(model, batch, boundaries=documents)
        found += [Finding(s.kind, s.where, s.what, s.fix, size) for s in traps]
    # a trap explains why the seams were ignored; any other mistake of the attention stands for itself
    found += [each for each in calls.findings if not found or each.kind != IGNORES_SEAMS]
    found += layer_findings(layers, found)
    if not found:
        found = origins(model, batch, documents)
        if leaking or not found:  # what counts along the row does not carry anything across a seam
            found.append(unexplained(calls, unexamined, leaking, size))
    return found, not_examined(unexamined)


def not_examined(what: Sequence[str]) -> list[str]:
    """A note of what was not looked into, if anything."""
    return [f"not examined: {', '.join(what)}"] if what else []


def isolated_in_words(model: Any) -> str:
    """Such as ``isolated: 3 of 6 layers (Lfm2ShortConv run document by document)``; empty where none is."""
    names = dict.fromkeys(class_name(model.get_submodule(path)) for path in isolated_layers(model))
    return f"{in_words(model)} ({', '.join(names)} run document by document)" if names else ""


def layer_findings(layers: Sequence[LeakingLayer], known: Sequence[Finding]) -> list[Finding]:
    """A finding for each class of layers that leak outside of any attention call."""
    found = []
    for attends, name in dict.fromkeys((layer.attends, type(layer.module).__name__) for layer in layers):
        mine = [layer for layer in layers if type(layer.module).__name__ == name and layer.attends is attends]
        where = grouped(name, [layer.path for layer in mine])
        strength = f"largest gradient across a seam {max(layer.strength for layer in mine):.1e}"
        if not attends:
            what = "carries a state or a convolution from one document into the next"
            fix = f"{ISOLATE}, or train this model unpacked, or with a kernel that resets the state at seams (seq_idx)"
            found.append(Finding(RECURRENT, where, what, fix, strength))
        elif not known:  # such attention is told about documents by what transformers makes of the batch
            what = "it is not dispatched by transformers, cu_seq_lens never reaches it, and it crosses the seams"
            found.append(Finding(OWN_ATTENTION, where, what, f"{ISOLATE}, or train this model unpacked", strength))
    return found


def unexplained(calls: Explanation, unexamined: Sequence[str], leaking: int, size: str) -> Finding:
    """What is known where nothing accounts for what was measured."""
    known = [f"every one of {calls.right} attention calls was right"] if calls.right and not calls.unexamined else []
    if leaking:
        what = "outputs depend on another document"
        fix = "look in the model's own code between its layers for what mixes the tokens of a row"
        known += [] if unexamined else ["every layer that was measured keeps documents apart"]
    else:
        what = "documents are not computed as they are alone, and no gradient crosses a seam"
        fix = (
            "look for what depends on the row without a gradient (positions, routing to experts, n-grams of ids); run "
            "the model in float64 to tell it from rounding"
        )
    what += f" although {' and '.join(known)}" if known else ""
    return Finding(UNEXPLAINED, "the model", what, fix, size)


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
