"""Known mistakes of an attention: whose tokens it keeps apart, and who may see whom inside.

A rule says what an attention should do, as the mask of a document alone shows it. A mistake is the seams and the rule
that a wrong call may have kept instead, with the finding it would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from varlen_lab.attention.masks import DeferredMask
from varlen_lab.attention.reference import Options, visible
from varlen_lab.attention.rules import Rule
from varlen_lab.leaks.report import Finding
from varlen_lab.packing.boundaries import Boundaries

IGNORES_SEAMS = "attention ignores the seams"
FIX = (
    "pass the seams: cu_seq_lens_q (VarlenCollator makes it) to an attention that reads it, such as "
    "attn_implementation='varlen'"
)
MANY = 8  # documents that a finding names


class Mistake(NamedTuple):
    """What a wrong attention may have computed: documents it keeps apart, its rule, and what that is called."""

    finding: Finding
    seams: Boundaries
    rule: Rule
    chunk_of_row: bool = False  # chunks are counted from the start of the row


def seen_under(rule: Rule, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Who sees whom: bool (Q, K) from the positions of queries (Q,) and keys (K,)."""
    seen = visible(query[:, None] - key[None, :], Options(1.0, rule.causal, rule.window))
    return seen if rule.chunk is None else seen & (query[:, None] // rule.chunk == key[None, :] // rule.chunk)


def rules_of(module: Any, options: dict[str, Any], mask: Any, size: int) -> list[Rule]:
    """Rules that agree with the ``mask`` of a document of ``size`` tokens; none where it follows a rule of its own.

    Several agree where the document is shorter than a window or a chunk. ``options``: the call's keyword arguments.
    """
    mask = mask.open(mask.rule.causal) if isinstance(mask, DeferredMask) else mask
    config = getattr(module, "config", None)
    seen, causal = None, getattr(module, "is_causal", True) and options.get("is_causal") is not False
    if isinstance(mask, torch.Tensor) and mask.ndim == 4:
        seen = mask[0, 0, -size:, -size:]
        if seen.dtype != torch.bool:  # what is added to scores: 0, or a number so low that no weight is left
            seen = seen > seen.min() / 2 if seen.min() < -1000 else torch.ones_like(seen, dtype=torch.bool)
        causal = size > 1 and not bool(seen.triu(1).any())
    named = {
        options.get("sliding_window"),
        getattr(module, "sliding_window", None),
        getattr(config, "sliding_window", None),
        int(seen[-1].sum()) if seen is not None and causal and not bool(seen[-1].all()) else None,
    }
    windows = sorted(each for each in named if isinstance(each, int) and each > 0)
    chunk = getattr(config, "attention_chunk_size", None)
    rules = [Rule(causal, window) for window in (*windows, None)]
    rules += [Rule(causal, None, chunk)] if isinstance(chunk, int) else []
    if seen is None:
        return rules
    position = torch.arange(size, device=seen.device)
    return [rule for rule in rules if torch.equal(seen_under(rule, position, position), seen)]


def mistakes(
    where: str, rules: Sequence[Rule], documents: Boundaries, length: int, wrong: Sequence[int]
) -> Iterator[Mistake]:
    """Known mistakes, the likely ones first. ``wrong``: documents whose output is not right, of rows of ``length``."""
    device = documents.cu_seqlens.device
    rows = Boundaries.from_lengths([length] * (documents.total // length), device)
    what = "every token sees its whole row, seams or not"
    whole = Finding(IGNORES_SEAMS, where, what, FIX)
    for rule in rules:
        yield Mistake(whole, rows, rule)
        if rule.window is not None:
            yield from of_window(where, rule, rule.window, documents)
        if rule.chunk is not None:
            what = f"chunks of {rule.chunk} tokens are counted from the start of the row and not of each document"
            fix = "train this model unpacked, or on rows of at most one chunk"
            yield Mistake(Finding("chunk", where, what, fix), documents, rule, chunk_of_row=True)
            yield Mistake(whole, rows, rule._replace(chunk=None))
            what = f"tokens see beyond their chunk of {rule.chunk} tokens"
            yield Mistake(Finding("chunk", where, what, fix), documents, rule._replace(chunk=None))
        if rule.causal:
            what = "tokens see the future of their own document"
            fix = "causal=True, or window_size=(-1, 0) for torch's varlen_attn"
            yield Mistake(Finding("bidirectional", where, what, fix), documents, rule._replace(causal=False))
        else:
            what = "tokens do not see the later tokens of their document, which they see alone"
            finding = Finding("causal", where, what, "pass is_causal=False on to the kernel")
            yield Mistake(finding, documents, rule._replace(causal=True))
        yield merged(where, rule, documents, length, wrong)
        yield Mistake(whole, rows, Rule(rule.causal))
        yield Mistake(whole, rows, Rule(False))


def of_window(where: str, rule: Rule, window: int, documents: Boundaries) -> Iterator[Mistake]:
    """One too wide, one too narrow, none."""
    meaning = f"sliding_window={window} means a token and the {window - 1} before it"
    fix = f"pass window_size=({window - 1}, 0) to a flash-attn kernel; attend(window={window}) does"
    for other, word in ((window + 1, "one too wide"), (window - 1, "one too narrow"), (None, "not applied")):
        if other != 0:
            finding = Finding("window", where, f"the window is {word}: {meaning}", fix)
            yield Mistake(finding, documents, rule._replace(window=other))


def merged(where: str, rule: Rule, documents: Boundaries, length: int, wrong: Sequence[int]) -> Mistake:
    """The seams in front of the wrong documents are missing."""
    lengths: list[int] = []
    for number, (start, end) in enumerate(documents.spans):
        if number in wrong and start % length:
            lengths[-1] += end - start
        else:
            lengths.append(end - start)
    named = ", ".join(f"{number} (from token {documents.spans[number][0]})" for number in wrong[:MANY])
    what = (
        f"document {named} is merged with the one before it"
        if len(wrong) == 1
        else f"documents {named}{', …' * (len(wrong) > MANY)} are merged with the ones before them"
    )
    fix = "cu_seqlens lacks this seam; build it with Boundaries.from_lengths(lengths)"
    finding = Finding("merged documents", where, what, fix)
    return Mistake(finding, Boundaries.from_lengths(lengths, documents.cu_seqlens.device), rule)
