"""Which rule does an attention follow that is not right? Its calls are captured and compared with known mistakes.

The first call of every window size is computed again by the readable reference: as it should be, without seams, with a
window one wider or narrower, looking ahead, with one document merged into the next. What fits names the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from varlen_lab.attention.reference import Options, attend_reference
from varlen_lab.leaks.measure import flat, in_float64
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.seen import AttentionCall, observe_attention
from varlen_lab.packing.boundaries import Boundaries

IGNORES_SEAMS = "attention ignores the seams"
LONGEST = 4096  # tokens: the reference is written to be read, not for long rows


@dataclass
class Call:
    """One attention call: q (T, H, D), k (T, K, D), v (T, K, V), out (T, H, V), rows end to end, and its options."""

    layer: str
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    rows: int
    options: Options


@contextmanager
def capture() -> Iterator[list[Call]]:
    """The first attention call of each layer type and window that transformers dispatches meanwhile.

    One of each kind is enough: layers of one type and window run the same code, and a call of all would keep the
    queries, keys and values of the whole model.
    """
    calls: list[Call] = []
    kinds: set[tuple[str, int | None]] = set()

    def keep(call: AttentionCall) -> None:
        window = call.options.get("sliding_window", getattr(call.module, "sliding_window", None))
        kind = (type(call.module).__name__, window)
        if kind in kinds or call.query.shape[2] != call.key.shape[2]:  # a cache or cross attention has other keys
            return
        kinds.add(kind)
        q, k, v = (flat(x.detach().transpose(1, 2)) for x in (call.query, call.key, call.value))
        layer = f"{kind[0]} of layer {getattr(call.module, 'layer_idx', '?')}"
        options = Options(
            scale=call.options.get("scaling") or q.shape[-1] ** -0.5,
            window=window,
            softcap=call.options.get("softcap"),
            alibi_slopes=getattr(call.module, "alibi_slopes", None),
            sinks=None if call.options.get("s_aux") is None else call.options["s_aux"].detach(),
        )
        out = flat(call.out.detach()).view(len(q), q.shape[1], -1)
        calls.append(Call(layer, q, k, v, out, len(call.query), options))

    with observe_attention(keep):
        yield calls


def explain(calls: list[Call], documents: Boundaries) -> list[Finding]:
    """A finding for every captured call that is not what it should be."""
    findings = []
    for call in calls:
        if documents.max_seqlen > LONGEST or len(call.q) != documents.total:
            continue
        for fault, seams, options in rules(call, documents):
            if fits(call, seams, options):
                if fault is not None:
                    findings.append(fault)
                break
        else:
            what = "its output fits no known rule: not the right one, and none of the common mistakes"
            fix = "compare it with varlen_lab.attention.attend(backend='reference')"
            findings.append(Finding("wrong attention", call.layer, what, fix))
    return findings


def rules(call: Call, documents: Boundaries) -> Iterator[tuple[Finding | None, Boundaries, Options]]:
    """What the call may have computed: the right rule first (None), then known mistakes, cheapest first.

    A rule is the documents it keeps apart and its options; a mistake comes with the finding it would be.
    """
    where, options, window = call.layer, call.options, call.options.window
    yield None, documents, options
    row = len(call.q) // call.rows
    if row <= LONGEST:
        what = "every token sees its whole row, seams or not"
        fix = "pass the seams; see the other findings, or VarlenCollator"
        whole_rows = Boundaries.from_lengths([row] * call.rows, call.q.device)
        yield Finding(IGNORES_SEAMS, where, what, fix), whole_rows, options
    if window is not None:
        promise = f"sliding_window={window} means a token and the {window - 1} before it"
        fix = f"pass window_size=({window - 1}, 0) to a flash-attn kernel; attend(window={window}) does"
        for wrong, word in ((window + 1, "one too wide"), (window - 1, "one too narrow"), (None, "not applied")):
            if wrong != 0:
                finding = Finding("window", where, f"the window is {word}: {promise}", fix)
                yield finding, documents, options._replace(window=wrong)
    what = "tokens see the future of their own document"
    fix = "causal=True, or window_size=(-1, 0) for torch's varlen_attn"
    yield Finding("bidirectional", where, what, fix), documents, options._replace(causal=False)
    for number in range(1, len(documents.spans)):
        merged = documents.lengths.tolist()
        merged[number - 1 : number + 1] = [merged[number - 1] + merged[number]]
        what = f"document {number} (from token {documents.spans[number][0]}) is merged with the one before it"
        fix = "cu_seqlens lacks this seam; build it with Boundaries.from_lengths(lengths)"
        finding = Finding("merged documents", where, what, fix)
        yield finding, Boundaries.from_lengths(merged, call.q.device), options


def fits(call: Call, documents: Boundaries, options: Options) -> bool:
    """Whether the captured output is what the reference computes under this rule, up to rounding."""
    # float64, so that what differs is the kernel's rounding alone
    q, k, v, out = (in_float64(x) for x in (call.q, call.k, call.v, call.out))
    if options.alibi_slopes is not None:
        options = options._replace(alibi_slopes=in_float64(options.alibi_slopes))
    expected = attend_reference(q, k, v, documents, options)
    limit = {torch.float64: 1e-9, torch.float32: 1e-4}.get(call.out.dtype, 3e-2)
    return bool((out - expected).abs().max() <= limit * max(1e-6, float(expected.abs().max())))
