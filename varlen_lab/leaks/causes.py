"""Which attention calls are wrong, in which layers, and which rule do they follow instead?

The oracle is the model itself: every document is run alone with eager attention, which shows how each layer means to
attend (its mask, sinks, softcap, whatever keywords it has). Every call of the packed batch is then computed again, one
document at a time, from the queries, keys and values it had. What is not right is compared with known mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from varlen_lab.leaks.measure import flat, random_weights
from varlen_lab.leaks.mistakes import IGNORES_SEAMS, Mistake, mistakes, rules_of, seen_under
from varlen_lab.leaks.precision import CALL, Certified, is_rounding
from varlen_lab.leaks.report import Finding, grouped
from varlen_lab.leaks.running import (
    EAGER,
    HALF,
    NATIVE,
    CannotRun,
    as_if_alone,
    attention_name,
    inputs_of,
    run,
    run_alone,
)
from varlen_lab.leaks.seen import AttentionCall, observe_attention
from varlen_lab.packing.boundaries import Boundaries

LONGEST = 4096  # tokens of a document: eager attention makes a matrix of its length squared
PASSED_ON = {"position_ids", "cache_position"}  # keywords that span the row and do not say who may see whom
CHANGE_SCORES = ("s_aux", "sinks", "softcap")  # keywords that may be forgotten without a trace
UNKNOWN_RULE = "wrong attention"  # no known mistake fits
LOST = "cu_seq_lens_q goes into the model and does not reach this attention: the class drops it on the way"
DROPPED = (
    "train this class unpacked, or with attn_implementation='sdpa', position_ids that restart and use_cache=False, and "
    "audit that"
)


@dataclass
class Explanation:
    """What the attention calls of a packed batch did."""

    findings: list[Finding] = field(default_factory=list)
    right: int = 0  # calls that were computed again and are what they should be
    unexamined: list[str] = field(default_factory=list)  # the others, each with the reason


class CallAlone(NamedTuple):
    """How one attention call treats one document alone, without the tensors it had there."""

    module: Any
    mask: Any
    options: dict[str, Any]
    again: Callable[..., torch.Tensor]


@dataclass
class Examination:
    """A call of the packed batch, and the same call of every document alone."""

    call: AttentionCall
    alone: list[CallAlone]
    documents: Boundaries
    length: int  # tokens in a row

    def agrees(self, number: int, **changes: Any) -> bool:
        """Whether the output for one document is what it is alone; ``changes``: with other keyword arguments."""
        document = slice(*self.documents.spans[number])
        return self.computes(number, document, self.alone[number].mask, **changes)

    def follows(self, number: int, mistake: Mistake) -> bool:
        """Whether the output for one document is what it would be with other seams and another rule."""
        seams, rule = mistake.seams, mistake.rule
        start, end = self.documents.spans[number]
        first, last = next(span for span in seams.spans if span[0] <= start < span[1])
        last = end if rule.causal else last  # queries are the last of their keys, as functions of a distance expect
        if (end - start) * (last - first) > LONGEST**2:
            return False
        position = torch.arange(first, last, device=self.call.query.device)
        position -= first // self.length * self.length if mistake.chunk_of_row else first
        mask: torch.Tensor = seen_under(rule, position[start - first : end - first], position)[None, None]
        given = self.alone[number].mask
        if given is None or (isinstance(given, torch.Tensor) and given.is_floating_point()):
            floor = torch.finfo(self.call.query.dtype).min  # eager attention adds its mask
            mask = torch.zeros(mask.shape, dtype=self.call.query.dtype, device=mask.device).masked_fill(~mask, floor)
        return self.computes(number, slice(first, last), mask)

    def computes(self, number: int, keys: slice, mask: Any, **changes: Any) -> bool:
        """Whether the output for one document is what it is made of these keys under this mask, up to rounding."""
        queries = slice(*self.documents.spans[number])
        row, call = queries.start // self.length, self.call

        def part(x: torch.Tensor, of: slice) -> torch.Tensor:  # (B, H, T, D) -> (1, H, tokens, D)
            return x[row : row + 1, :, of.start - row * self.length : of.stop - row * self.length]

        given = part(call.query, queries), part(call.key, keys), part(call.value, keys)
        got = flat(call.out)[queries].reshape(queries.stop - queries.start, -1)
        limit = CALL.get(call.out.dtype, CALL[torch.float32])
        for expected in made_again(self.alone[number].again, given, mask, call.out.dtype, changes):
            difference = (got - expected.reshape(got.shape)).abs().max()
            if bool(difference <= limit * max(1e-6, float(expected.abs().max()))):
                return True
        return False

    def crosses(self) -> bool:
        """Whether outputs have a gradient at keys or values of another document, however small."""
        call, odd = self.call, self.documents.document_ids().view(-1, self.length) % 2 == 1
        with torch.enable_grad():
            given = [x.detach().requires_grad_() for x in (call.key, call.value)]
            out = call.again(call.query.detach(), *given, call.mask)
            if not out.requires_grad:
                return False
            weighted = out * random_weights(out)
            for mine in (odd, ~odd):  # any two neighbours are one of each
                felt = torch.autograd.grad(weighted[mine].sum(), given, retain_graph=True, allow_unused=True)
                if any(bool(x.transpose(1, 2)[~mine].any()) for x in felt if x is not None):
                    return True
        return False


def made_again(
    again: Callable[..., torch.Tensor],
    given: tuple[torch.Tensor, ...],
    mask: Any,
    dtype: torch.dtype,
    changes: dict[str, Any],
) -> Iterator[torch.Tensor]:
    """What a call makes of other queries, keys and values; one that gives half precision, in float32 as well.

    Most kernels for half precision sum scores up in float32, and eager attention rounds them: where scores are large
    the two are far apart, and a right kernel is near to one of them. An autocast rounds queries on their way in.
    """
    yield again(*given, mask, **changes)
    if dtype in HALF:
        with suppress(RuntimeError), torch.autocast(given[0].device.type, enabled=False):
            yield again(*(x.to(dtype).float() for x in given), mask, **changes)


def explain(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> Explanation:
    """Every attention call of ``model(**batch)`` examined, each as it comes. Call it under ``noise_off``."""
    explanation = Explanation()
    each_alone = calls_alone(model, flat(batch["input_ids"]), documents)
    paths = {module: path for path, module in model.named_modules()}
    told = "cu_seq_lens_q" in batch and attention_name(model) not in NATIVE
    found: list[tuple[str, Finding]] = []
    unexamined: list[tuple[str, str, str]] = []
    calls = 0

    def examine(call: AttentionCall) -> None:
        nonlocal calls
        path, name, number, calls = paths.get(call.module, ""), type(call.module).__name__, calls, calls + 1
        alone = [each[number] for each in each_alone if number < len(each) and each[number].module is call.module]
        reason = why_not(call, alone, documents, batch)
        if reason is not None:
            unexamined.append((path, name, reason))
            return
        fault = fault_of(Examination(call, alone, documents, batch["input_ids"].shape[1]))
        if fault is None:
            explanation.right += 1
        elif fault.kind == IGNORES_SEAMS and told and "cu_seq_lens_q" not in call.options:
            found.append((path, Finding("keywords dropped", name, LOST, DROPPED)))
        else:
            found.append((path, fault))

    with torch.no_grad(), torch.compiler.set_stance("force_eager"), observe_attention(model, examine):
        run(model, inputs_of(batch))
    for fault in dict.fromkeys(fault for _, fault in found):  # one finding for all layers with the same fault
        where = grouped(fault.where, [path for path, other in found if other == fault])
        explanation.findings.append(Finding(fault.kind, where, fault.what, fault.fix))
    for name, reason in dict.fromkeys((name, reason) for _, name, reason in unexamined):
        where = grouped(name, [path for path, *other in unexamined if other == [name, reason]])
        explanation.unexamined.append(f"{where} ({reason})")
    return explanation


def calls_in_half(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> Explanation:
    """Attention calls in the half precision a model has: what can be told of it beside the leak matrix."""
    try:
        return explain(model, batch, documents)
    except (CannotRun, RuntimeError) as problem:
        return Explanation(unexamined=[f"attention in half precision ({type(problem).__name__}: {problem})"])


def keeps_apart(model: Any, batch: Mapping[str, Any], documents: Boundaries, measured: Certified) -> bool:
    """Whether neither a parity nor, of half precision, which parity does not certify, any attention call is wrong."""
    if not is_rounding(measured.parity) and measured.can_tell:
        return False
    return not measured.in_half or not calls_in_half(model, batch, documents).findings


def calls_alone(model: Any, ids: torch.Tensor, documents: Boundaries) -> list[list[CallAlone]]:
    """The attention calls of every document alone, in the order of the calls; none where documents are too long."""
    if documents.max_seqlen > LONGEST:
        return []
    found: list[list[CallAlone]] = []

    def keep(call: AttentionCall) -> None:
        found[-1].append(CallAlone(call.module, call.mask, call.options, call.again))

    with as_if_alone(model, EAGER), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for start, end in documents.spans:
            found.append([])
            with observe_attention(model, keep):
                run_alone(model, ids[start:end])
    return found


def why_not(call: AttentionCall, alone: list[CallAlone], documents: Boundaries, batch: Mapping[str, Any]) -> str | None:
    """Why a call cannot be computed again document by document; None where it can."""
    length = batch["input_ids"].shape[1]
    if documents.max_seqlen > LONGEST:
        return f"a document is longer than {LONGEST:,} tokens"
    if not call.query.shape[2] == call.key.shape[2] == length:
        return f"{call.query.shape[2]} queries over {call.key.shape[2]} keys in a row of {length} tokens"
    if len(alone) != len(documents):
        return "documents alone make other calls"
    own = [
        name
        for name, value in call.options.items()
        if name not in PASSED_ON and name not in batch and isinstance(value, torch.Tensor) and length in value.shape
    ]
    return f"keyword {', '.join(own)} is not understood" if own else None


def fault_of(examination: Examination) -> Finding | None:
    """What is wrong with a call, named by the class of its module; None where it is right."""
    documents, alone, where = examination.documents, examination.alone, type(examination.call.module).__name__
    wrong = [number for number in range(len(documents)) if not examination.agrees(number)]
    if not wrong and examination.crosses():
        what = "its output is right up to rounding, and has a gradient at keys or values of another document"
        return Finding(UNKNOWN_RULE, where, what, "look for what is added to it behind the softmax")
    if not wrong:
        return None
    longest = alone[int(documents.lengths.argmax())]
    rules = rules_of(longest.module, longest.options, longest.mask, documents.max_seqlen)
    numbers = wrong + [number for number in range(len(documents)) if number not in wrong]
    for mistake in mistakes(where, rules, documents, examination.length, wrong):
        if all(examination.follows(number, mistake) for number in numbers):
            return mistake.finding
    for name in CHANGE_SCORES:
        if longest.options.get(name) is not None:
            with without(longest.options, name) as changes:
                if all(examination.agrees(number, **changes) for number in numbers):
                    what = f"it computes as if it had not been given {name}"
                    fix = f"use an attention that knows {name}, or train this model unpacked"
                    return Finding("keyword ignored", where, what, fix)
    if not rules and examination.call.query.dtype in HALF:  # rounding alone makes it choose other keys
        return None
    if not rules:
        what = (
            "its mask is no window and no chunk (it may choose keys by their scores), and comes out otherwise in a row"
        )
        return Finding(UNKNOWN_RULE, where, what, "train this model unpacked")
    what = "its output fits no known rule: not the right one, and none of the common mistakes"
    return Finding(UNKNOWN_RULE, where, what, "compare it with varlen_lab.attention.attend(backend='reference')")


@contextmanager
def without(options: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Keyword arguments with which a call computes as if ``name`` had not been passed, while it lasts.

    A sink of -inf weighs nothing. It is set in place: eager attention may take it from its module and not from here.
    """
    value = options[name]
    if not isinstance(value, torch.Tensor):
        yield {name: None}
        return
    kept = value.detach().clone()
    try:
        value.data.fill_(float("-inf"))
        yield {}
    finally:
        value.data.copy_(kept)
