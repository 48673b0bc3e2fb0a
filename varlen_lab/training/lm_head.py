"""The loss of a batch from the hidden states that go into the model's head, where its logits would not fit.

``large`` says when: logits and their gradient would take more than ``LOGITS_BUDGET``. Then the head of the model is
replaced for one forward pass: it adds up the losses of the batch chunk by chunk (``training/chunks.py``), inside the
forward pass of whatever wraps the model, and gives a few zeros back in the place of T x V logits.

Before a model's first such batch both ways are computed on a few of its tokens. A model where they do not agree keeps
its logits, and one warning says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from varlen_lab.packing.registry import IGNORE
from varlen_lab.training.chunks import Head, summed_loss_of
from varlen_lab.training.loss import BlockwiseLoss, shifted
from varlen_lab.training.tail import Tail, Watch

LOGITS_BUDGET = 256 * 2**20  # bytes of logits and their gradient: below it they are built
FEW = 8  # tokens on which both ways must agree
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DROPOUT = "its head drops values at random, and by chunks other ones than at once"

found: WeakKeyDictionary[torch.nn.Module, dict[tuple[Any, ...], Tail | str]] = WeakKeyDictionary()


class Unsuited(Exception):
    """Why a model keeps its logits, as the end of a sentence."""


def large(model: torch.nn.Module, tokens: int) -> bool:
    """Whether the logits of ``tokens`` and their gradient are over the budget."""
    head = head_of(unwrapped(model))
    if head is None:
        return False
    weight = next((p for p in head.parameters() if p.is_floating_point()), None)
    size = 4 if weight is None else weight.element_size()
    copies = 2 if torch.is_grad_enabled() else 1
    return tokens * classes_of(model, head) * size * copies > LOGITS_BUDGET


def loss_from_hidden(
    model: torch.nn.Module, inputs: dict[str, Any], labels: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor | None:
    """What ``summed_loss`` is of the model's logits, without them; None where the model must keep them."""
    plain = unwrapped(model)
    tail = proven(model, plain, inputs)
    if tail is None:
        return None
    head = head_of(plain)
    assert head is not None
    target, scale = shifted(labels, IGNORE).flatten(), torch.ones((), device=labels.device)
    scale = scale.expand(target.shape) if weights is None else shifted(weights, 0).flatten().float()
    # before the forward pass is queued: on a GPU the CPU waits for the count
    rows = ((target != IGNORE) & (scale != 0)).nonzero()[:, 0]
    target, scale, losses = target[rows], scale[rows], []

    def summing(hidden: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if hidden.shape[:-1] != labels.shape:
            raise RuntimeError(
                f"hidden states {tuple(hidden.shape)} went into the head for labels {tuple(labels.shape)}"
            )
        one = Head(head, forward, tail if tail.last else None, classes_of(model, head))
        losses.append(summed_loss_of(one, hidden.flatten(0, 1)[rows], target, scale))
        return Placeholder.apply(losses[0], one.classes)  # type: ignore[no-any-return]

    with head_replaced(head, summing):
        model(**inputs, use_cache=False)
    (loss,) = losses
    return loss


class Placeholder(torch.autograd.Function):
    """A loss in, (1, 1, V) zeros out: DDP looks from a model's outputs for the weights that were used."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, classes: int) -> torch.Tensor:
        return loss.new_zeros((1, 1, classes))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient.new_zeros(()), None


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DDP or DeepSpeed."""
    wrapped = getattr(model, "module", None)
    return model if not isinstance(wrapped, torch.nn.Module) or hasattr(model, "config") else unwrapped(wrapped)


def head_of(model: torch.nn.Module) -> torch.nn.Module | None:
    """The module that makes logits, where the model says which."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, torch.nn.Module) else None


def classes_of(model: torch.nn.Module, head: torch.nn.Module) -> int:
    """V."""
    known = getattr(head, "out_features", None)
    return int(known or unwrapped(model).config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]


@contextmanager
def head_replaced(
    head: torch.nn.Module, instead: Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]
) -> Iterator[None]:
    """While it lasts, the head computes ``instead(hidden states, its own forward)``; hooks on it run as always."""
    own = vars(head).get("forward")  # others may have replaced it before
    forward = head.forward
    head.forward = lambda hidden: instead(hidden, forward)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own  # type: ignore[method-assign]


def proven(model: torch.nn.Module, plain: torch.nn.Module, inputs: dict[str, Any]) -> Tail | None:
    """The tail of a model for which both ways agree, found once; None, and once a warning, for any other."""
    known = found.setdefault(plain, {})
    key = (plain.training, torch.is_autocast_enabled(next(plain.parameters()).device.type))
    if key not in known:
        said = {one for one in known.values() if isinstance(one, str)}
        try:
            known[key] = prove(model, plain, inputs["input_ids"][:1, :FEW])
        except Unsuited as reason:
            known[key] = str(reason)
            if str(reason) not in said:
                warnings.warn(
                    f"the logits of {type(plain).__name__} are built whole, over {LOGITS_BUDGET >> 20} MB of them: "
                    f"{reason}.",
                    stacklevel=4,
                )
    answer = known[key]
    return None if isinstance(answer, str) else answer


def prove(model: torch.nn.Module, plain: torch.nn.Module, ids: torch.Tensor) -> Tail:
    """Compute both ways on a few tokens; Unsuited where they do not agree, or where that cannot be tried."""
    head = suited_head(model, plain)
    taken: list[tuple[torch.Tensor, Any, Watch]] = []
    with ExitStack() as until_after, rng_kept(ids.device), torch.enable_grad():

        def watching(hidden: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            leaf = hidden.detach().requires_grad_()
            logits = forward(leaf)
            taken.append((leaf, (forward, autocast_of(ids.device.type)), Watch(logits)))
            if len(taken) == 1:
                until_after.enter_context(taken[0][2])
            return logits

        try:
            with head_replaced(head, watching):
                logits = plain(input_ids=ids, use_cache=False).logits
        except Exception as error:  # whatever a model does not like about it
            raise Unsuited(f"a forward pass of {ids.shape[1]} tokens fails ({error})") from error
    if len(taken) != 1:
        raise Unsuited(f"its head is called {len(taken)} times in a forward pass")
    ((leaf, (forward, autocast), watch),) = taken
    if leaf.shape[:-1] != ids.shape:
        raise Unsuited(f"{tuple(leaf.shape)} hidden states go into its head for {ids.shape[1]} tokens")
    tail = watch.tail(logits)
    if tail is None:
        raise Unsuited("more goes into its logits than the output of its head")
    with torch.no_grad():
        if not torch.equal(tail(watch.made[0].detach().clone()), logits):
            raise Unsuited("what it does with the output of its head cannot be repeated")
    one = Head(head, forward, tail if tail.last else None, classes_of(model, head), tokens=FEW // 3)
    with autocast:
        compare(one, leaf, logits)
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
        raise Unsuited(DROPOUT)
    return head


def compare(head: Head, hidden: torch.Tensor, logits: torch.Tensor) -> None:
    """Unsuited where chunks do not give the loss and the gradients of these ``logits`` (1, N, V)."""
    sources = [hidden, *head.trained]
    if not leaves(logits) <= {id(one) for one in sources}:
        raise Unsuited("its logits depend on weights outside of its head")
    rows = logits.flatten(0, 1)
    target = torch.arange(len(rows), device=rows.device) % rows.shape[1]
    scale = torch.linspace(0.5, 1.5, len(rows), device=rows.device)
    with torch.enable_grad():
        both = [
            BlockwiseLoss.apply(rows, target, scale),
            summed_loss_of(head, hidden.flatten(0, 1), target, scale),
        ]
        gradients = [torch.autograd.grad(loss, sources, allow_unused=True) for loss in both]
    # as much as a logit is rounded, so much its exponential is: the larger the logits, the more
    allowed = ROUNDING.get(logits.dtype, 1e-6) * max(1.0, float(rows.detach().abs().max()))
    for what, one, other in zip(["the loss", *["gradients"] * len(sources)], *map(flat, both, gradients), strict=True):
        if (one is None) != (other is None):
            raise Unsuited(f"by chunks {what} would be another")
        if one is None or other is None:
            continue
        size, apart = float(one.abs().max()), float((one - other).abs().max())
        if not apart <= allowed * max(size, 1e-30):  # NaN is no agreement
            raise Unsuited(f"by chunks {what} would differ by {apart / max(size, 1e-30):.0e}")


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
def rng_kept(device: torch.device) -> Iterator[None]:
    """What was drawn in here is as if it had not been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
