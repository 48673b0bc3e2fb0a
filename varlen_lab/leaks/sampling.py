"""Gradients of a large model's weights, of which two copies do not fit: some columns of every large matrix.

Packed and alone are compared in every output of a layer, for some of its inputs. A backward pass that goes wrong in
attention is wrong in whole rows of a matrix, so any column shows it; small weights (norms, biases, sinks) are compared
whole. Columns cost next to nothing: neither all inputs of a layer are kept for them, nor is a gradient of 0.5 GB made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

LARGE = 2**24  # trained weights in all; of fewer all are compared
SMALL = 2**16  # weights of one parameter that is compared whole
COLUMNS = 16  # of each larger matrix


@contextmanager
def sampled_gradients(model: Any) -> Iterator[tuple[list[torch.Tensor], int]]:
    """What to ask for gradients while it lasts, and how many matrices only ``COLUMNS`` of are among it.

    All trained parameters of a small model. Of a larger one the weights of linear layers and embeddings give place to
    their columns, which ``F.linear`` and ``F.embedding`` bring gradients of; the outputs do not change.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if sum(parameter.numel() for parameter in trained) <= LARGE:
        yield trained, 0
        return
    matrices = {
        id(module.weight): module.weight
        for module in model.modules()
        if type(module).forward
        in (torch.nn.Linear.forward, torch.nn.Embedding.forward)  # others may multiply otherwise
        and type(module.weight) is torch.nn.Parameter
        and module.weight.requires_grad
        and module.weight.numel() > SMALL
        and module.weight.ndim == 2
    }
    generator = torch.Generator().manual_seed(0)
    picked = {}
    for key, weight in matrices.items():
        columns = torch.randperm(weight.shape[1], generator=generator)[:COLUMNS].to(weight.device)
        picked[key] = weight.detach()[:, columns].requires_grad_(), columns
    try:
        for weight in matrices.values():
            weight.requires_grad_(False)
        with ThroughColumns(picked):
            whole = [parameter for parameter in trained if id(parameter) not in matrices]
            yield [*whole, *(leaf for leaf, _ in picked.values())], len(picked)
    finally:
        for weight in matrices.values():
            weight.requires_grad_()


class ThroughColumns(TorchFunctionMode):
    """While it lasts linear layers and embeddings bring gradients of columns: id of a weight -> (columns, numbers)."""

    def __init__(self, picked: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.picked = picked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        further = {F.linear: "bias", F.embedding: "padding_idx"}.get(func)
        if further is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "weight", further), args, strict=False)) | (kwargs or {})
        chosen = self.picked.get(id(given["weight"]))
        # an embedding may be changed as it is read, or weigh gradients by how often an id comes
        if chosen is None or given.get("max_norm") is not None or given.get("scale_grad_by_freq"):
            return func(*args, **(kwargs or {}))
        written: Any = SampledLinear if func is F.linear else SampledEmbedding
        return written.apply(given["input"], given["weight"], given.get(further), *chosen)


class SampledLinear(torch.autograd.Function):
    """``F.linear`` with the gradients of its input and bias, and of some columns in place of its weight."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, _: Any, columns: Any) -> torch.Tensor:
        ctx.save_for_backward(x[..., columns], weight)
        ctx.dtype = x.dtype  # an autocast makes another one of it
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_token = gradient.flatten(0, -2)
        back = (gradient @ weight.to(gradient)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        bias = by_token.sum(0).to(weight) if ctx.needs_input_grad[2] else None
        return back, None, bias, (by_token.T @ x.flatten(0, -2).to(gradient)).to(weight), None


class SampledEmbedding(torch.autograd.Function):
    """``F.embedding`` with the gradient of some columns in place of its weight."""

    @staticmethod
    def forward(ctx: Any, ids: Any, weight: Any, padding: Any, _: Any, columns: Any) -> torch.Tensor:
        ctx.save_for_backward(ids, columns)
        ctx.rows, ctx.padding = len(weight), padding
        return F.embedding(ids, weight, padding)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, columns = ctx.saved_tensors
        found = gradient.new_zeros(ctx.rows, len(columns))
        found.index_add_(0, ids.flatten(), gradient[..., columns].flatten(0, -2))
        if ctx.padding is not None:
            found[ctx.padding] = 0
        return None, None, None, found, None
