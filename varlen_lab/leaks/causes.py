"""Which rule does an attention follow that is not right? Its calls are captured and compared with known mistakes.

The first call of every window size is computed again by the readable reference: as it should be, without seams, with a
window one wider or narrower, looking ahead, with one document merged into the next. What fits names the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from varlen_lab.attention.reference import attend_reference
from varlen_lab.leaks.report import Finding
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
    scale: float
    window: int | None
    softcap: float | None
    slopes: torch.Tensor | None


@contextmanager
def capture() -> Iterator[list[Call]]:
    """Keep the first attention call of each layer type and window that transformers dispatches meanwhile."""
    from transformers import AttentionInterface

    calls: list[Call] = []
    seen: set[tuple[str, int | None]] = set()
    real = AttentionInterface.get_interface

    def spying(self: Any, name: str, default: Any) -> Any:
        function = real(self, name, default)

        def call(
            module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
        ) -> Any:
            result = function(module, query, key, value, *rest, **options)
            window = options.get("sliding_window", getattr(module, "sliding_window", None))
            kind = (type(module).__name__, window)
            if kind not in seen and query.shape[2] == key.shape[2]:
                seen.add(kind)
                q, k, v = (x.detach().transpose(1, 2).flatten(0, 1) for x in (query, key, value))
                calls.append(
                    Call(
                        layer=f"{kind[0]} of layer {getattr(module, 'layer_idx', '?')}",
                        q=q,
                        k=k,
                        v=v,
                        out=result[0].detach().flatten(0, 1).view(len(q), q.shape[1], -1),
                        rows=len(query),
                        scale=options.get("scaling") or q.shape[-1] ** -0.5,
                        window=window,
                        softcap=options.get("softcap"),
                        slopes=getattr(module, "alibi_slopes", None),
                    )
                )
            return result

        return call

    AttentionInterface.get_interface = spying  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = real  # type: ignore[method-assign]


def explain(calls: list[Call], documents: Boundaries) -> list[Finding]:
    """A finding for every captured call that is not what it should be."""
    findings = []
    for call in calls:
        if documents.max_seqlen > LONGEST or len(call.q) != documents.total:
            continue
        for fault, matches in candidates(call, documents):
            if matches:
                if fault is not None:
                    findings.append(fault)
                break
        else:
            what = "its output fits no known rule: not the right one, and none of the common mistakes"
            fix = "compare it with varlen_lab.attention.attend(backend='reference')"
            findings.append(Finding("wrong attention", call.layer, what, fix))
    return findings


def candidates(call: Call, documents: Boundaries) -> Iterator[tuple[Finding | None, bool]]:
    """(fault, does it fit): the right rule first, then the known mistakes, cheapest first."""
    row = len(call.q) // call.rows
    whole_rows = Boundaries.from_lengths([row] * call.rows, call.q.device)
    yield None, fits(call, documents, call.window)
    if row <= LONGEST:
        what, fix = (
            "every token sees its whole row, seams or not",
            "pass the seams; see the other findings, or VarlenCollator",
        )
        yield Finding(IGNORES_SEAMS, call.layer, what, fix), fits(call, whole_rows, call.window)
    if call.window is not None:
        for window, word in (
            (call.window + 1, "one too wide"),
            (call.window - 1, "one too narrow"),
            (None, "not applied"),
        ):
            if window is None or window >= 1:
                what = (
                    f"the window is {word}: sliding_window={call.window} means a token and the "
                    f"{call.window - 1} before it"
                )
                fix = (
                    f"pass window_size=({call.window - 1}, 0) to a flash-attn kernel; attend(window={call.window}) does"
                )
                yield Finding("window", call.layer, what, fix), fits(call, documents, window)
    what, fix = (
        "tokens see the future of their own document",
        "causal=True, or window_size=(-1, 0) for torch's varlen_attn",
    )
    yield Finding("bidirectional", call.layer, what, fix), fits(call, documents, call.window, causal=False)
    for number in range(1, len(documents.spans)):
        merged = [end - start for start, end in documents.spans]
        merged[number - 1 : number + 1] = [merged[number - 1] + merged[number]]
        what = f"document {number} (from token {documents.spans[number][0]}) is merged with the one before it"
        fix = "cu_seqlens lacks this seam; build it with Boundaries.from_lengths(lengths)"
        yield (
            Finding("merged documents", call.layer, what, fix),
            fits(call, Boundaries.from_lengths(merged, call.q.device), call.window),
        )


def fits(call: Call, documents: Boundaries, window: int | None, causal: bool = True) -> bool:
    """Whether the captured output is what the reference computes under this rule, up to rounding."""
    q, k, v = (x.double() for x in (call.q, call.k, call.v))
    expected = attend_reference(
        q,
        k,
        v,
        documents,
        causal=causal,
        scale=call.scale,
        window=window,
        softcap=call.softcap,
        alibi_slopes=call.slopes,
    )
    limit = {torch.float64: 1e-9, torch.float32: 1e-4}.get(call.out.dtype, 3e-2)
    return bool((call.out.double() - expected).abs().max() <= limit * max(1e-6, float(expected.abs().max())))
