"""FlexAttention with a document mask: the one CUDA kernel for scores that are capped or biased.

``mask_mod`` says who sees whom, ``score_mod`` what happens to a score; torch.compile makes a kernel of both. Without a
GPU it only runs forward, uncompiled and without saving any work, which is enough to test the two functions.

The kernel skips blocks of 128 x 128 cells nobody sees and masks only those that are seen in part. Which are which
follows from the seams; ``create_block_mask`` would look at all T x T cells, a gigabyte at 32k tokens. The blocks are
worked out once for a batch, not once for each layer.

For rows below 128 tokens torch would take a kernel made for a few queries that go on from a cache. It has no tiles for
several heads of queries to one of keys and ends in the compiler's traceback, so the one for whole rows is asked for.

One thing the other kernels do and this does not: it multiplies whole blocks, so where a document holds a NaN or an
infinity, 0 times it spoils the neighbours in its block. Finite numbers never cross.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.flash import same_head_dim
from varlen_lab.attention.reference import Options
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.packing.boundaries import Boundaries, OncePerTensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK_SIZE = 128  # tokens: the kernel's own default, and what its tiles are tuned for
MULTIPLE = 16  # what a head dim is widened to on a GPU: a product of tiles takes nothing narrower
WHOLE_ROWS: Any = {"BACKEND": "TRITON"}  # not the kernel for a few queries
# Every layout of heads, kind of mask and of score is a kernel of its own. Past dynamo's usual 8 it would go on without
# one, and make all T x T scores: here a named backend runs or says why not.
COMPILE_LIMITS: dict[str, Any] = {"recompile_limit": 64, "fail_on_recompile_limit_hit": True}
# cu_seqlens -> {(causal, window): BlockMask}: masks go with their batch, and two batches with equal seams are rare.
MASKS = OncePerTensor(lambda cu_seqlens: {})


def attend_flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V); see ``attend`` for the options."""
    from torch._dynamo import config as dynamo  # takes a second to import
    from torch.nn.attention.flex_attention import AuxRequest

    # Without a compiler flex_attention computes no gradient, and says so only deep inside of the backward pass.
    learned = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, options.sinks))
    if q.device.type != "cuda" and learned:
        raise InputError(
            f"backend 'flex' has no backward on {q.device.type}; use backend='sdpa', or 'reference' for a softcap."
        )
    q_, k_, v_ = same_head_dim(q, k, v, MULTIPLE if q.device.type == "cuda" else 1)
    # A compiled score may capture tensors, not Python numbers. The tensor is filled on the device, because a copy would
    # make the CPU wait for it.
    cap = None if options.softcap is None else torch.full((), options.softcap, device=q.device)
    with dynamo.patch(COMPILE_LIMITS), compiled_or_said(q_, k_):
        found = kernel(q.device.type)(
            *(x.transpose(0, 1)[None] for x in (q_, k_, v_)),
            score_mod=score_mod(cap, options.alibi_slopes),
            block_mask=shared_mask(boundaries, options.causal, options.window),
            scale=options.scale,
            enable_gqa=q.shape[1] != k.shape[1],
            kernel_options=WHOLE_ROWS,
            return_aux=None if options.sinks is None else AuxRequest(lse=True),
        )
    out: torch.Tensor = found if options.sinks is None else with_sinks(found[0], found[1].lse, options.sinks)
    return out[0].transpose(0, 1)[..., : v.shape[-1]]


@contextmanager
def compiled_or_said(q: torch.Tensor, k: torch.Tensor) -> Iterator[None]:
    """InputError for what the compiler cannot make a kernel of: its traceback names nothing that a user can change."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as problem:
        raise InputError(
            f"backend 'flex' cannot be compiled here for {q.shape[1]}/{k.shape[1]} heads of {q.shape[-1]} in "
            f"{dtype_name(q.dtype)} ({first_line(problem)}); use another backend, such as 'sdpa', or 'reference' for a "
            "softcap."
        ) from problem


def with_sinks(out: torch.Tensor, log_sum: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """The output (1, H, T, V) with sinks (H,) in the softmax, from that without: a sink takes a share of the weights.

    ``log_sum`` (1, H, T): the logarithm of the sum of exponentials of a query's scores.
    """
    share = torch.sigmoid(log_sum - sinks.to(log_sum.dtype)[:, None])
    return out * share[..., None].to(out.dtype)


def shared_mask(boundaries: Boundaries, causal: bool, window: int | None) -> BlockMask:
    """The block mask of a batch; all its layers pass the same ``cu_seqlens``, and it lives as long as that."""
    known = MASKS(boundaries.cu_seqlens)
    if (causal, window) not in known:
        known[causal, window] = block_mask(boundaries, causal, window)
    return known[causal, window]


def block_mask(boundaries: Boundaries, causal: bool, window: int | None, block: int = BLOCK_SIZE) -> BlockMask:
    """Which blocks of queries see which blocks of keys: in whole, in part, or not at all.

    Documents lie in order, so a block holds documents ``first`` to ``last``. Two blocks share one when these ranges
    overlap; they are in one document as a whole when all four ends are equal. The distance of a query and a key in
    blocks i and j lies between (i - j - 1) * block + 1 and (i - j + 1) * block - 1.
    """
    from torch.nn.attention.flex_attention import BlockMask

    # All of it is arithmetic on the device with sizes known on the CPU: nothing here waits for the GPU.
    document = boundaries.document_ids()
    total, device = boundaries.total, document.device
    starts = torch.arange(0, total, block, device=device)
    first, last = document[starts], document[(starts + block - 1).clamp(max=total - 1)]
    number = torch.arange(len(starts), device=device)
    back = (number[:, None] - number[None, :]) * block
    nearest, farthest = back - block + 1, back + block - 1
    some = (first[:, None] <= last[None, :]) & (first[None, :] <= last[:, None])
    whole = (first[:, None] == last[None, :]) & (first[None, :] == last[:, None]) & (starts + block <= total)
    whole = whole & (starts + block <= total)[:, None]  # a block that is cut off has cells outside of the row
    if causal:
        some, whole = some & (farthest >= 0), whole & (nearest >= 0)
    if window is not None:
        some = some & (nearest < window) & (farthest > -window)
        whole = whole & (farthest < window) & (nearest > -window)
    return BlockMask.from_kv_blocks(
        *listed(some & ~whole),
        *listed(whole),
        BLOCK_SIZE=block,
        mask_mod=mask_mod(document, causal, window),
        seq_lengths=(total, total),
    )


def listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bool (Q, K) -> how many key blocks a query block has, and which: int32 (1, 1, Q) and (1, 1, Q, K).

    A stable sort puts the wanted blocks first and in order; the kernel reads only as many as are counted.
    """
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]


def mask_mod(document: torch.Tensor, causal: bool, window: int | None) -> Callable[..., torch.Tensor]:
    """What FlexAttention asks for a pair of tokens in a block that is seen in part: does query i see key j?

    The same document, not later, not farther back than the window.
    """

    def visible(batch: Any, head: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        seen = document[i] == document[j]
        if causal:
            seen = seen & (i >= j)
        if window is not None:
            seen = seen & ((i - j).abs() < window)
        return seen

    return visible


def score_mod(softcap: torch.Tensor | None, alibi_slopes: torch.Tensor | None) -> Callable[..., torch.Tensor] | None:
    """Capped first, then biased, as the reference does; None where a score stays as it is."""
    if softcap is None and alibi_slopes is None:
        return None

    def changed(score: torch.Tensor, batch: Any, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if alibi_slopes is not None:
            score = score - alibi_slopes[head] * (i - j).abs()
        return score

    return changed


@cache
def kernel(device: str) -> Callable[..., Any]:
    """``flex_attention``, compiled where there is a compiler for it; rows of any length share one kernel."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
    return compiled
