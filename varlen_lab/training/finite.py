"""A checkpoint of numbers only: what is not finite any more is refused before it is written, in all processes alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from varlen_lab.errors import InputError
from varlen_lab.training.engines import Engine


def refuse_nonfinite(engine: Engine, step: int, last: Path | None) -> None:
    """InputError when weights or optimizer hold NaN or infinity; called in all processes after ``step``.

    ``last``: the newest checkpoint that was written, which stays.
    """
    from accelerate.utils import gather_object

    # one list for all processes: who finds nothing must not write while another stops
    found = [name for name in gather_object([first_nonfinite(engine)]) if name]
    if found:
        kept = f"the last good one is {last}" if last else "no earlier one was written"
        raise InputError(
            f"{found[0]} is not finite after step {step}, so no checkpoint of it is written ({kept}); lower lr, or "
            "look at the data, and train again."
        )


def first_nonfinite(engine: Engine) -> str | None:
    """The name of the first tensor in this process that holds NaN or infinity; None where all are finite."""
    tensors = {name: tensor for name, tensor in kept_tensors(engine) if tensor.is_floating_point()}
    verdicts = [tensor.isfinite().all() for tensor in tensors.values()]
    # queued for all before the first is read: the CPU waits once
    return next((name for name, finite in zip(tensors, verdicts) if not finite), None)


def kept_tensors(engine: Engine) -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint keeps of trained weights and of the optimizer, as far as it lies in this process, with names.

    Of a weight that is cut up over processes this is the process's own piece.
    """
    names = {p: name for name, p in engine.unwrapped_model.named_parameters() if p.requires_grad}
    for p, name in names.items():
        yield name, local(getattr(p, "ds_tensor", p))  # so ZeRO-3 calls a piece
    for number, (p, state) in enumerate(engine.optimizer.state.items()):
        # DeepSpeed's optimizer holds long tensors into which the weights were laid
        of = names.get(p, f"shard {number} of the weights")
        yield from ((f"{key} of {of}", local(value)) for key, value in state.items() if isinstance(value, torch.Tensor))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's piece of a tensor, which under FSDP2 says where the others are."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
