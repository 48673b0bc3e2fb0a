"""An adapter becomes a part of the weights it was trained beside: added in fp32, rounded once, every layer proven.

One layer at a time is fp32, gets its matrices, is asked on fixed inputs for what layer and adapter gave side by side,
and is rounded to the dtype that was asked for. Logits could not prove that: bf16 rounds every step between two layers,
which moves them further than a small adapter does. Weights are written where they lie, so that no second copy of the
model is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import dtype_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 4  # inputs that a layer is asked with
# Adding n products in another order moves the sum as a random walk of n steps of half an fp32 ulp does; no walk comes
# this many times further.
WALKS = 16


def merged(both: Any, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model inside peft's wrapper ``both`` with the adapter added to its weights, in place.

    ``dtype``: of all its weights; None keeps what each has. InputError when a layer gives something else than before,
    or when its weights are too large for ``dtype``.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in both.named_modules():
        if isinstance(layer, BaseTunerLayer):
            merge_layer(name, layer, dtype)
    model = both.unload()
    for name, parameter in model.named_parameters():
        parameter.data = rounded(parameter.data, dtype or parameter.dtype, name)
    return model


def merge_layer(name: str, layer: Any, dtype: torch.dtype | None) -> None:
    """Add the matrices of one layer to its weights: the sum is taken in fp32, checked, and rounded to ``dtype``."""
    base = layer.get_base_layer()
    weights = {key: parameter.data for key, parameter in base.named_parameters(recurse=False)}
    base.float()
    inputs = inputs_for(base)
    if inputs is None:  # experts, convolutions: of another's adapter, ours adapts linear layers alone
        layer.merge()
    else:
        with torch.no_grad():
            before = layer(inputs)
            if not before.isfinite().all():
                raise InputError(f"{name} has weights that are no numbers, nothing was written; take a whole model.")
            layer.merge()
            gap = float((layer(inputs) - before).abs().max())
        limit = WALKS * (inputs.shape[-1] ** 0.5) * torch.finfo(torch.float32).eps / 2 * float(before.abs().max())
        if not gap <= limit:
            raise InputError(
                f"{name} with its adapter merged differs by {gap:.1e} from the two side by side, rounding allows "
                f"{limit:.1e}; nothing was written, this is a bug of ours: please report it."
            )
    for key, parameter in base.named_parameters(recurse=False):
        before = weights[key]
        new = rounded(parameter.data, dtype or before.dtype, f"{name}.{key}")
        # into the old memory where it fits: a file mapped there would stay beside a new one until all are merged
        parameter.data = before.copy_(new) if new.dtype == before.dtype else new


def inputs_for(base: torch.nn.Module) -> torch.Tensor | None:
    """Fixed fp32 inputs (ROWS, features) of a linear layer; None for another kind."""
    if isinstance(base, torch.nn.Linear):
        features = base.in_features
    elif type(base).__name__ == "Conv1D":  # GPT-2's: its weight lies the other way round
        features = base.weight.shape[0]  # type: ignore[assignment,union-attr,index]
    else:
        return None
    return torch.randn(ROWS, features, generator=torch.Generator().manual_seed(0))


def rounded(weight: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A tensor of floating-point numbers in ``dtype``; InputError where that has no room for one of them."""
    if weight.dtype == dtype or not weight.is_floating_point():
        return weight
    new = weight.to(dtype)
    if new.isinf().any() and not weight.isinf().any():
        word = dtype_name(dtype)
        raise InputError(
            f"{name} has a weight of {float(weight.abs().max()):.3g}, {word} ends at {torch.finfo(dtype).max:.3g}; "
            "choose --dtype bf16 or fp32."
        )
    return new
