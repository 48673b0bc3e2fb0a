"""DDP: all weights in every process, and what it is told so that it does no more than average gradients.

gradients   views of the buckets in which they travel: no second copy of all of them
buffers     each process has its own; position tables grow with the rows a process has seen, and weights do not
unused      a weight that no batch uses is looked for in each step, if there is one: DDP would wait for its gradient
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from accelerate import Accelerator


def replicated(accelerator: Accelerator, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """The model on its device, in DDP where there are several processes, and Accelerate's view of the optimizer."""
    from accelerate import DistributedDataParallelKwargs

    several = accelerator.num_processes > 1
    accelerator.ddp_handler = DistributedDataParallelKwargs(
        gradient_as_bucket_view=True, find_unused_parameters=several and leaves_weights_unused(accelerator, model)
    )
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if isinstance(wrapped, DistributedDataParallel):
        # not by a keyword: torch has renamed it, and buffers should be alike at the start
        wrapped.broadcast_buffers = False
    return wrapped, optimizer


def leaves_weights_unused(accelerator: Accelerator, model: torch.nn.Module) -> bool:
    """Whether a weight that is trained gets no gradient from two tokens, as the head of another task would not."""
    model.to(accelerator.device)
    ids = torch.zeros((1, 2), dtype=torch.long, device=accelerator.device)
    with accelerator.autocast():
        logits = model(input_ids=ids, use_cache=False).logits
    logits.float().sum().backward()
    unused = any(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad()
    return unused
