"""Whole tensors of the first process become slices in all of them, and slices a file of whole tensors: one at a time.

``take_tensors``, then FSDP2 divides weights that lie nowhere, then ``hand_out``. So a device never holds a whole model,
and of all processes on a machine one has it in memory, for a while. ``write_gathered`` needs memory for a tensor.
"""

from __future__ import annotations

import ctypes
import sys
from typing import IO, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from varlen_lab.errors import InputError

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
MAPPED_BYTES = 2**18  # a piece of memory of this size and more is the system's again when it is freed


def take_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Leave ``model`` without memory for its weights; returns them, tied ones once, and its buffers, by name.

    Called in all processes; only those of the first one come with values. Dtypes too are the first one's: it alone has
    read the checkpoint. InputError when it built another model than this process.
    """
    from accelerate.utils import broadcast_object_list

    tensors = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    mine = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    told: dict[str, Any] = broadcast_object_list([mine])[0]
    names = mine.keys() | told.keys()
    if different := [n for n in names if n not in mine or n not in told or mine[n][0] != told[n][0]]:
        raise InputError(
            f"{min(different)} is not the same weight in all processes, they have built different models; give every "
            "machine the same config and the same files of the model."
        )
    empty = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in told.items()}
    parameters = {id(p): torch.nn.Parameter(empty[name], p.requires_grad) for name, p in model.named_parameters()}
    replace_tensors(model, parameters)
    return tensors if torch.distributed.get_rank() == 0 else empty


def units(model: Any) -> list[torch.nn.Module]:
    """What is whole at one time: a layer, and the embedding and the head unless they are one and the same matrix."""
    layers = set(getattr(model, "_no_split_modules", None) or ())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    ends = [] if head is None or head.weight is embedding.weight else [embedding, head]
    return [module for module in model.modules() if type(module).__name__ in layers] + ends


def hand_out(model: torch.nn.Module, tensors: dict[str, torch.Tensor], device: torch.device) -> None:
    """Give every process its slices of the first one's weights, and the first one's buffers whole.

    ``model``: after ``fully_shard``. One tensor at a time is whole on the device; each is taken out of ``tensors``, so
    that the first process frees what it has given.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    given: dict[int, torch.Tensor] = {}
    for name, old in (*model.named_parameters(), *model.named_buffers()):
        one = tensors.pop(name)
        whole = torch.empty_like(one, device=device) if one.is_meta else one.to(device)
        if isinstance(old, DTensor):
            slices = distribute_tensor(whole, old.device_mesh, old.placements)
            given[id(old)] = torch.nn.Parameter(slices, old.requires_grad)
        else:
            torch.distributed.broadcast(whole, 0)
            given[id(old)] = whole
    replace_tensors(model, given)


def cut(whole: Any, like: torch.Tensor | None) -> Any:
    """This process' slices of a tensor that all have, where ``like``, of the same shape, is shared out; else itself."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not isinstance(whole, torch.Tensor) or whole.shape != like.shape:
        return whole
    slices = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return slices.clone()  # or all of the tensor would stay behind its slices


def gathered(value: Any) -> Any:
    """A tensor that is shared out, whole, on the CPU; anything else as it is. Called in all processes."""
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def write_gathered(contents: dict[str, Any], file: IO[bytes]) -> None:
    """As ``torch.save``, for values that are shared out: called in the first process while all others gather them too.

    First a file with gaps in place of the numbers, then each tensor is gathered and written into its own.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    empty: dict[int, torch.Tensor] = {}  # tied weights stay one
    gap = lambda one: empty.setdefault(id(one), torch.empty(one.shape, dtype=one.dtype))  # noqa: E731
    with torch.serialization.skip_data():
        torch.save(tree_map_only(torch.Tensor, gap, contents), file)  # not by its name: a full disk is noted here
    file.flush()
    with FakeTensorMode():  # tells where in the file a tensor lies
        places = torch.load(file.name, weights_only=True)
    for place, value in zip(tree_leaves(places), tree_leaves(contents), strict=True):
        value = gathered(value)
        if isinstance(value, torch.Tensor) and value.numel():
            file.seek(place.untyped_storage()._checkpoint_offset)
            file.write(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def keep_no_gaps() -> None:
    """Have this process give memory back to the system once it is free, where the C library can be told to (glibc).

    By itself it keeps anything below 32 MiB for later, in pieces that later tensors do not fit into: with layers that
    come and go a process would need twice as much as it holds.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, MAPPED_BYTES)


def replace_tensors(model: torch.nn.Module, new: dict[int, Any]) -> None:
    """Put ``new[id(tensor)]`` in the place of each parameter and buffer it has: what was tied stays tied."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: new[id(value)] for name, value in held.items() if id(value) in new})
