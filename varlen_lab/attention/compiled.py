"""Attention inside a graph of torch.compile, whoever compiles: one node of it, whatever the kernel and the seams.

The compiler knows shapes and no values, and seams are values: looked into, a kernel that goes from document to document
would break the graph in every layer, or be compiled anew for every batch. So it is called as a whole, by an operation
that reads the seams only when the graph runs. A kernel that takes them as they are (``traced`` in its record) stands in
the graph itself; only the check of the seams is such an operation.

The whole operation has the kernel's numbers and, for a price, its gradients: what a kernel keeps for its backward pass
cannot leave the operation, so the backward pass computes the output once more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pkgutil import resolve_name
from typing import Any

import torch

from varlen_lab.attention.calls import seams_taken
from varlen_lab.attention.choosing import Job, first_able, why_not
from varlen_lab.attention.dispatch import attend, check_seams
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.machine.gpu import capability_of, dtype_name
from varlen_lab.packing.boundaries import Boundaries

# what the operation takes, in torch's own words for types
TAKES = (
    "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, SymInt? longest, str backend, "
    "float scale, bool causal, SymInt? window, float? softcap, Tensor? alibi_slopes, Tensor? sinks"
)
# mode="reduce-overhead" records what a GPU does and repeats it without Python: the seams of one batch for all others
READS_SEAMS = (torch.Tag.cudagraph_unsafe,)
TRACED: dict[str, Callable[..., torch.Tensor]] = {}  # backend -> its function, found before the compiler looks


def attend_in_graph(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, backend: str, options: Options
) -> torch.Tensor:
    """``attend``, traced: q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V). Errors come when the graph runs."""
    width = len(range(max(q.shape[-1], v.shape[-1])))  # to the compiler a number may be a symbol, a range has a length
    kinds = (x is not None for x in (options.softcap, options.alibi_slopes, options.sinks))
    name = traced_backend(backend, q.device.type, dtype_name(q.dtype), width, *kinds)
    if name is None or boundaries.longest is None:
        return whole(q, k, v, boundaries.cu_seqlens, boundaries.longest, backend, *options)
    cu_seqlens = checked(boundaries.cu_seqlens, q, boundaries.longest)
    out: torch.Tensor = TRACED[name](q, k, v, cu_seqlens, boundaries.longest, options)
    return out


def traced_backend(
    backend: str, device: str, dtype: str, head_dim: int, softcap: bool, alibi: bool, sinks: bool
) -> str | None:
    """The backend whose kernel is to stand in the graph, now in ``TRACED``; None where one is called as a whole.

    Asked while a graph is made: torch takes the answer for a constant.
    """
    exactly = torch.are_deterministic_algorithms_enabled()
    job = Job(device, dtype, head_dim, softcap, alibi, sinks, exactly, capability_of(device))
    name = first_able(job) if backend == "auto" else backend
    function = BACKENDS[name].traced if name in BACKENDS else None
    if function is None or why_not(BACKENDS[name], job) is not None:
        return None
    TRACED[name] = resolve_name(function)
    return name


traced_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@torch.library.custom_op("varlen_lab::checked_seams", mutates_args=(), tags=READS_SEAMS)
def checked(cu_seqlens: torch.Tensor, q: torch.Tensor, longest: int) -> torch.Tensor:
    """``cu_seqlens``, which ends with q's last token and holds no document above ``longest``, or an InputError."""
    seams_taken()
    check_seams(Boundaries(cu_seqlens, longest), q)
    return cu_seqlens.clone()  # an operation returns nothing of what it was given


@checked.register_fake
def _(cu_seqlens: torch.Tensor, q: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.empty_like(cu_seqlens)


@torch.library.custom_op("varlen_lab::attention", mutates_args=(), schema=f"({TAKES}) -> Tensor", tags=READS_SEAMS)
def whole(*given: Any) -> torch.Tensor:
    """``attend`` as one operation, its options one by one."""
    return attended(*given)


@whole.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: Any) -> torch.Tensor:
    return v.new_empty(*q.shape[:-1], v.shape[-1])


@torch.library.custom_op(
    "varlen_lab::attention_backward",
    mutates_args=(),
    schema=f"(Tensor upstream, {TAKES}) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=READS_SEAMS,
)
def whole_backward(upstream: torch.Tensor, *given: Any) -> Any:
    """The gradients of q, k, v and the sinks for that of the output; without sinks an empty one."""
    q, k, v, *options, sinks = given
    inputs = [x.detach().requires_grad_() for x in (q, k, v, sinks) if x is not None]
    with torch.enable_grad(), ExitStack() as autograd:
        for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
            # torch keeps autograd out of operations; its own checkpoints let it in again by the same word
            autograd.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        out = attended(*inputs[:3], *options, None if sinks is None else inputs[3])
        gradients = torch.autograd.grad(out, inputs, upstream)
    return tuple(x.contiguous() for x in (*gradients, *[q.new_empty(0)] * (4 - len(gradients))))


@whole_backward.register_fake
def _(upstream: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: Any) -> Any:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, q.new_empty(0) if others[-1] is None else others[-1]))


def attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    longest: int | None,
    backend: str,
    *options: Any,
) -> torch.Tensor:
    """What ``attend`` gives for these, in the dtype and the layout that the compiler was promised."""
    seams_taken()
    with torch.autocast(q.device.type, enabled=False):
        more = Options(*options)._asdict()
        return attend(q, k, v, Boundaries(cu_seqlens, longest), backend=backend, **more).contiguous()


def keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """What the backward pass needs: all that the forward pass was given. ``ctx``: torch passes it by this name."""
    ctx.others = inputs[4:-2]
    ctx.save_for_backward(*inputs[:4], *inputs[-2:])


def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
    """torch's signature: a gradient, or None, for each argument of ``whole``."""
    *tensors, slopes, sinks = ctx.saved_tensors
    *found, for_sinks = whole_backward(upstream, *tensors, *ctx.others, slopes, sinks)
    return (*found, *[None] * (2 + len(ctx.others)), None if sinks is None else for_sinks)


whole.register_autograd(backward, setup_context=keep)
