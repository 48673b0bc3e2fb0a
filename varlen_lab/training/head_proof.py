"""Whether the loss by chunks is the loss of a model's logits: both are computed on a few tokens, with their gradients.

Nothing is assumed about a head or about what follows it. The model runs once; what it does with the head's output is
repeated and must give its logits bit for bit, and chunks of three tokens must give the loss and the gradients of the
hidden states and of the head's weights, up to the rounding of a logit. So a head that mixes tokens, or weights that
reach the logits from elsewhere, are found. Random numbers, buffers and gradients stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from varlen_lab.leaks.head import head_of
from varlen_lab.training.chunks import Head, summed_loss_of
from varlen_lab.training.lm_head import classes_of, head_replaced
from varlen_lab.training.loss import BlockwiseLoss
from varlen_lab.training.tail import Tail, Watch

# of the largest value, for each unit of the largest logit
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
TOKENS = 3  # in a chunk: the last chunk is shorter


class Unsuited(Exception):
    """Why a model keeps its logits, as the end of a sentence."""


def prove(model: torch.nn.Module, plain: torch.nn.Module, ids: torch.Tensor) -> Tail:
    """Compute both ways on a few tokens; Unsuited where they do not agree, or where that cannot be tried."""
    head = suited_head(model, plain)
    taken: list[Any] = []
    with ExitStack() as until_after, state_kept(plain, ids.device), torch.enable_grad():

        def watching(hidden: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            leaf = hidden.detach().requires_grad_()
            logits = forward(leaf)
            watch = Watch(logits)
            # a copy: what comes next may write over the logits
            taken.append((leaf, forward, autocast_of(ids.device.type), watch, logits.detach().clone()))
            if len(taken) == 1:
                until_after.enter_context(watch)
            return logits

        try:
            with head_replaced(head, watching):
                logits = plain(input_ids=ids, use_cache=False).logits
        except Exception as error:  # whatever a model does not like about it
            raise Unsuited(f"a forward pass of {ids.shape[1]} tokens fails ({error})") from error
    if len(taken) != 1:
        raise Unsuited(f"its head is called {len(taken)} times in a forward pass")
    leaf, forward, autocast, watch, before = taken[0]
    if leaf.shape[:-1] != ids.shape:
        raise Unsuited(f"{tuple(leaf.shape)} hidden states go into its head for {ids.shape[1]} tokens")
    tail = watch.tail(logits)
    if tail is None:
        raise Unsuited("more goes into its logits than the output of its head")
    if logits.isnan().any():
        raise Unsuited("they are NaN")
    with torch.no_grad():
        if watch.by_place or not torch.equal(tail(before), logits):
            raise Unsuited("what it does with the output of its head cannot be repeated")
    one = Head(head, forward, tail if tail.last else None, classes_of(model, head), tokens=TOKENS)
    try:
        with autocast, torch.enable_grad():  # in an evaluation too
            compare(one, leaf, logits)
    except RuntimeError as error:
        raise Unsuited(f"chunk by chunk it fails ({error})") from error
    return tail


def suited_head(model: torch.nn.Module, plain: torch.nn.Module) -> torch.nn.Module:
    """The head of a model whose forward pass may be changed; Unsuited for any other."""
    head = head_of(plain)
    if head is None:
        raise Unsuited("it does not say which module is its head")
    if any(hasattr(p, "ds_id") for p in plain.parameters()):
        raise Unsuited("DeepSpeed keeps its weights in slices")
    if any(hasattr(p, "device_mesh") for p in plain.parameters()):
        raise Unsuited("FSDP keeps its weights in slices")
    if hasattr(model, "_orig_mod") or getattr(plain, "_compiled_call_impl", None) is not None:
        raise Unsuited("torch.compile has the whole of it")
    dropped = (one for one in head.modules() if isinstance(one, torch.nn.modules.dropout._DropoutNd))
    if any(one.p > 0 and one.training for one in dropped):
        raise Unsuited("its head drops values at random, and chunks would drop others")
    return head


def compare(head: Head, hidden: torch.Tensor, logits: torch.Tensor) -> None:
    """Unsuited where these ``logits`` (1, N, V), their loss and its gradients do not come out of chunks, too.

    In two steps, for a matrix product of other sizes adds up in another order, on some processors four times as far
    off as the rounding that is allowed: all tokens as one chunk beside the model's own graph, then chunks beside the
    logits that autograd makes of the same chunks.
    """
    if not leaves(logits) <= {id(one) for one in (hidden, *head.trained)}:
        raise Unsuited("its logits depend on weights outside of its head")
    compare_losses(head._replace(tokens=hidden.shape[1]), hidden, logits, logits)
    tail = head.tail or (lambda each: each)
    made = torch.cat([tail(head.forward(hidden[:, part])) for part in head.chunks(hidden[0])], dim=1)
    if not same(logits.detach(), made.detach(), logits):
        raise Unsuited(f"by chunks its logits would differ by {float((made - logits).abs().max()):.0e}")
    compare_losses(head, hidden, made, logits)


def compare_losses(head: Head, hidden: torch.Tensor, truth: torch.Tensor, logits: torch.Tensor) -> None:
    """Unsuited where the loss in chunks of ``head`` is not that of the logits ``truth``, which have a graph."""
    rows = truth.flatten(0, 1)
    target = torch.arange(len(rows), device=rows.device) % rows.shape[1]
    scale = torch.linspace(0.5, 1.5, len(rows), device=rows.device)
    both = [
        BlockwiseLoss.apply(rows, target, scale),
        summed_loss_of(head, hidden.flatten(0, 1), target, scale),
    ]
    same_loss(both, [hidden, *head.trained], logits, "by chunks")


def same_loss(both: list[torch.Tensor], sources: list[torch.Tensor], logits: torch.Tensor, way: str) -> None:
    """Unsuited where the second of two losses of these ``logits``, or a gradient of ``sources``, is not the first's.

    ``way``: how the second was made, as a sentence goes on.
    """
    gradients = [torch.autograd.grad(loss, sources, allow_unused=True) for loss in both]
    for what, one, other in zip(["the loss", *["gradients"] * len(sources)], *map(flat, both, gradients), strict=True):
        if (one is None) != (other is None):
            raise Unsuited(f"{way} {what} would be another")
        if one is not None and other is not None and not same(one, other, logits):
            size, apart = float(one.abs().max()), float((one - other).abs().max())
            raise Unsuited(f"{way} {what} would differ by {apart / max(size, 1e-30):.0e}")


def same(one: torch.Tensor, other: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether two tensors differ by rounding; NaN is no agreement."""
    # as much as a logit is rounded, so much its exponential is: the larger the logits, the more
    allowed = ROUNDING.get(logits.dtype, 1e-6) * max(1.0, float(logits.detach().abs().max()))
    return float((one - other).abs().max()) <= allowed * max(float(one.abs().max()), 1e-30)


def flat(loss: torch.Tensor, gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
    return [loss.detach(), *gradients]


def leaves(tensor: torch.Tensor) -> set[int]:
    """The ids of the leaves that a tensor's gradient would reach."""
    seen, todo, ids = set(), [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            ids.add(id(node.variable))
        todo += [before for before, _ in node.next_functions]
    return ids


def autocast_of(kind: str) -> Any:
    """The autocast that is in force now, to be entered later."""
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))


@contextmanager
def state_kept(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """What was drawn in here is as if it had not been drawn, and buffers are as they were."""
    devices = [device] if device.type == "cuda" else []
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for buffer, before in kept:
                buffer.copy_(before)
