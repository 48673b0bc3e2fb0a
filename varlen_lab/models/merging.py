"""An adapter becomes a part of the weights it was trained beside: added in fp32, rounded once, every layer proven.

One layer at a time is fp32, gets its matrices, is asked on fixed inputs for what layer and adapter gave side by side,
and is rounded to the dtype that was asked for. Logits could not prove that: bf16 rounds every step between two layers,
which moves them further than a small adapter does. Weights are written where they lie, so that no second copy of the
model is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError, first_line
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
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

    if not isinstance(both.base_model, BaseTuner):  # soft prompts
        kind = type(both.active_peft_config).__name__.removesuffix("Config")
        raise InputError(f"the adapter is a {kind}, which has nothing to add to weights; use it beside the model.")
    untie(both)
    for name, layer in both.named_modules():
        if isinstance(layer, BaseTunerLayer):
            merge_layer(name, layer, dtype)
    model: Any = both.unload()
    if weight_of(model.get_input_embeddings()) is not weight_of(model.get_output_embeddings()):
        model.config.tie_word_embeddings = model.config.get_text_config(decoder=True).tie_word_embeddings = False
        model.all_tied_weights_keys = {}  # else only one of the two is saved
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
        add(name, layer)
    else:
        with torch.no_grad():
            before = layer(inputs)
            if not before.isfinite().all():
                raise InputError(f"{name} has weights that are no numbers, nothing was written; take a whole model.")
            add(name, layer)
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


def add(name: str, layer: Any) -> None:
    """peft's ``merge`` of one layer; InputError for what cannot be added, as a bias to a layer that has none."""
    try:
        layer.merge()
    except (RuntimeError, ValueError, NotImplementedError) as problem:
        raise InputError(
            f"peft cannot add the adapter to {name} ({first_line(problem)}); use it beside the model."
        ) from None


def untie(both: Any) -> None:
    """Give the output layer a weight of its own where it shares that of the embedding and an adapter lies on either."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model: Any = both.get_base_model()
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    adapted = [isinstance(end, BaseTunerLayer) for end in ends]
    first, last = (end.get_base_layer() if its else end for end, its in zip(ends, adapted))
    if any(adapted) and weight_of(first) is weight_of(last):
        last.weight = torch.nn.Parameter(last.weight.detach().clone(), requires_grad=False)


def weight_of(layer: Any) -> Any:
    """The weight of a layer; None of one that there is not."""
    return getattr(layer, "weight", None)


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
