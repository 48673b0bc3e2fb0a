"""Which layers carry information across seams? Every module is measured by its own input gradient, not by its name.

In one forward pass every module with a row as input and a row as output is given its input under a name of its own in
the graph. Where the outputs of every other document have a gradient at the inputs of the documents between them, the
module leaks: exact zeros need no tolerance. Attention that transformers dispatches is cut out of the graph; it is for
``causes`` to explain. What leaks innermost is cut out too and its containers are measured once more: a block that
leaks by itself as well is named in place of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import GradientEdge, get_gradient_edge

from varlen_lab.leaks.measure import random_weights
from varlen_lab.leaks.running import cache_off, inputs_of, run, weights_frozen
from varlen_lab.leaks.seen import observe_attention
from varlen_lab.models.isolation import inside
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import SEAM_KEYWORDS


@dataclass(frozen=True)
class LeakingLayer:
    """A module whose output in one document depends on its own input in another one."""

    path: str  # as in model.named_modules()
    module: torch.nn.Module
    strength: float  # the largest gradient across a seam
    attends: bool  # it computes softmax over tokens itself: attention that nobody dispatches


@dataclass
class Passage:
    """One call of a module: where its rows come in and go out in the graph."""

    inputs: list[GradientEdge] = field(default_factory=list)
    outputs: list[tuple[GradientEdge, torch.Size, torch.dtype]] = field(default_factory=list)


def leaking_layers(model: Any, batch: Mapping[str, Any], documents: Boundaries, prefix: int = 0) -> list[LeakingLayer]:
    """The innermost modules that carry information from one document into another, in the order of the model.

    ``batch``: as for ``audit``. The model is run as it stands, dropout included: call it under ``noise_off``. Modules
    of torch's own (a convolution, a shift by padding) stand for the module of the model's code that holds them.
    ``prefix``: tokens that the model itself puts before every row.
    """
    modules = dict(model.named_modules())
    found: dict[str, LeakingLayer] = {}
    watched = set(modules)
    while watched:
        leaking = one_pass(model, batch, documents, watched, set(found), prefix)
        innermost = {path for path in leaking if not any(inside(other, path) for other in leaking)}
        for path in {owner(path, modules, leaking) for path in innermost}:
            strength, attends = leaking[path]
            found[path] = LeakingLayer(path, modules[path], strength, attends)
        watched = {path for path in modules if any(inside(new, path) for new in innermost)} - set(found)
    outermost = [path for path in found if not any(inside(path, other) for other in found)]
    return [found[path] for path in modules if path in outermost]


def layers_of_untold(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> list[LeakingLayer]:
    """``leaking_layers`` of a model that refuses to be told the seams: it is run without them.

    What attention does then is no matter, for it is cut out.
    """
    untold = {name: value for name, value in batch.items() if name not in SEAM_KEYWORDS}
    return leaking_layers(model, untold | cache_off(model), documents)


def owner(path: str, modules: Mapping[str, torch.nn.Module], leaking: Mapping[str, Any]) -> str:
    """The nearest module at or above ``path`` that is not torch's own, if it was found leaking too."""
    above = path
    while type(modules[above]).__module__.startswith("torch.") and above:
        above = above.rpartition(".")[0]
    return above if above in leaking else path


def one_pass(
    model: Any, batch: Mapping[str, Any], documents: Boundaries, watched: set[str], cut: set[str], prefix: int
) -> dict[str, tuple[float, bool]]:
    """(strength, attends) of every watched module that leaks, with the outputs of ``cut`` taken out of the graph."""
    rows, width = len(batch["input_ids"]), batch["input_ids"].shape[1] + prefix
    passages: dict[str, list[Passage]] = {}

    def is_row(x: Any) -> bool:  # (rows, T, ...), or (rows * T, ...) as experts get it
        return (
            isinstance(x, torch.Tensor)
            and x.is_floating_point()
            and (x.shape[:2] == (rows, width) if x.ndim > 2 else x.ndim == 2 and len(x) == rows * width)
        )

    with ExitStack() as stack:
        stack.enter_context(plain_graph(model))
        stack.enter_context(observe_attention(model, lambda call: call.out.detach()))
        for path, module in model.named_modules():
            if path in watched or path in cut:
                follow(stack, module, passages.setdefault(path, []), is_row, path in cut)
        run(model, inputs_of(batch))
    odd = documents.document_ids().view(rows, -1) % 2 == 1
    leaking = {}
    for path, calls in passages.items():
        strengths = [across(call, odd, width) for call in calls if path in watched and call.inputs and call.outputs]
        if any(strengths):
            leaking[path] = max(strengths), any(attends(call, width) for call in calls)
    return leaking


def follow(stack: ExitStack, module: torch.nn.Module, calls: list[Passage], is_row: Any, cut: bool) -> None:
    """Note where rows enter and leave a module; with ``cut`` they leave it without their graph."""
    open_calls: list[Passage] = []  # more than one where a module calls itself

    def enter(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = Passage()
        open_calls.append(call)

        def renamed(x: Any) -> Any:
            if not is_row(x):
                return x
            if not x.requires_grad:
                x = x.detach().requires_grad_().clone()  # a clone: a leaf may not be changed in place
            x = x.view_as(x)
            call.inputs.append(get_gradient_edge(x))
            return x

        return tuple(map(renamed, args)), {name: renamed(value) for name, value in options.items()}

    def leave(_: Any, args: Any, output: Any) -> Any:
        call = open_calls.pop()
        calls.append(call)
        several = isinstance(output, tuple | list)
        for x in output if several else output.values() if isinstance(output, Mapping) else (output,):
            if is_row(x) and x.requires_grad:
                call.outputs.append((get_gradient_edge(x), x.shape, x.dtype))
        if not cut:
            return None
        if several:
            return type(output)(x.detach() if is_row(x) else x for x in output)
        return output.detach() if is_row(output) else None

    # the first hook before and the last after: what other hooks of the module do is part of it
    before = module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
    stack.callback(before.remove)
    stack.callback(module.register_forward_hook(leave).remove)


@contextmanager
def plain_graph(model: Any) -> Iterator[None]:
    """A graph of activations alone while it lasts: no weights in it, nothing computed again, nothing compiled."""
    again = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    try:
        for module in again:
            module.gradient_checkpointing = False
        with weights_frozen(model), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module in again:
            module.gradient_checkpointing = True


def across(call: Passage, odd: torch.Tensor, width: int) -> float:
    """The largest gradient of a call from the outputs of odd documents to the inputs of even ones, or back.

    ``odd``: bool (rows, T); rows in the model are ``width`` long, the batch's tokens their last.

    Any two neighbours are one of each, so that two backward passes see every seam from both sides.
    """
    strongest = 0.0
    for mine in (odd, ~odd):
        edges, weights = [], []
        for edge, shape, dtype in call.outputs:
            weight = random_weights(torch.empty(shape, dtype=dtype, device=odd.device))
            by_token = weight.view(len(odd), width, -1)
            by_token *= F.pad(mine, (width - odd.shape[1], 0))[..., None]
            edges.append(edge)
            weights.append(weight)
        gradients = torch.autograd.grad(edges, call.inputs, weights, retain_graph=True, allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                by_token = gradient.reshape(len(odd), width, -1)[:, -odd.shape[1] :]
                strongest = max(strongest, float(by_token[~mine].abs().max()))
    return strongest


def attends(call: Passage, length: int) -> bool:
    """Whether a softmax over at least a row of tokens lies between inputs and outputs of a call."""
    ends = {edge.node for edge in call.inputs}
    waiting, seen = [edge.node for edge, *_ in call.outputs], set(ends)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        name = node.name()
        if "ScaledDotProduct" in name:
            return True
        weights = getattr(node, "_saved_result", None) if "Softmax" in name else None
        if weights is not None and min(weights.shape[-2:]) >= length:
            return True
        waiting += [following for following, _ in node.next_functions if following is not None]
    return False
