"""FSDP2 under the same loop: each layer is whole for as long as it computes, and a slice in every process otherwise.

A checkpoint is gathered into whole tensors, under the names and numbers a single process would write: it goes on or is
converted on any number of GPUs.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.engines import Engine, make_optimizer, make_schedule, trained_only


class ShardedEngine(Engine):
    """FSDP2: parameters, gradients and optimizer states are cut along their first dimension over all processes."""

    kind = "fsdp"

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Shard every layer by itself, then what is left, so that one layer at a time is whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if self.precision == "fp16":
            raise InputError("dtype = 'fp16' needs a loss scale that FSDP2 does not bring; use bf16, or DeepSpeed.")
        model.to(self.accelerator.device)
        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        halved = self.precision == "bf16"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if halved else MixedPrecisionPolicy()
        layers = set(getattr(model, "_no_split_modules", None) or ())
        for module in list(model.modules()):
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh, mp_policy=policy)
        self.model = fully_shard(model, mesh=mesh, mp_policy=policy)
        # after sharding: the optimizer must hold the slices, not the whole parameters they replaced
        self.optimizer = make_optimizer(self.model, config, fused=False)
        self.scheduler = make_schedule(self.optimizer, config, steps)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """The gradient stays whole in this process until the ``last`` batch of a step."""
        self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one batch."""
        # FSDP2 averages over processes; the loss is divided by a count over all of them already
        (loss * self.accelerator.num_processes).backward()

    def clip(self) -> torch.Tensor:
        """As ``Engine.clip``, over the slices of all processes."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trainable, self.max_norm or math.inf, foreach=False)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def state(self) -> dict[str, Any]:
        """Slices gathered into whole tensors, on the CPU of the first process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, optimizer = get_state_dict(self.model, self.optimizer, options=options)
        if self.accelerator.is_main_process:  # the others get nothing to put under numbers
            optimizer = optimizer_state_by_index(optimizer, self.unwrapped_model)
        return {
            "model": trained_only(self.unwrapped_model, model),
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Cut whole tensors into slices again."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        options = StateDictOptions(full_state_dict=True, strict=False)
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=optimizer_state_by_name(state["optimizer"], self.unwrapped_model),
            options=options,
        )


def optimizer_state_by_index(optimizer: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """An optimizer state under parameter names as torch's own optimizers write it, under numbers."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    group = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    state = {number: optimizer["state"][name] for number, name in enumerate(names) if name in optimizer["state"]}
    return {"state": state, "param_groups": [{**group, "params": list(range(len(names)))}]}


def optimizer_state_by_name(optimizer: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """The inverse of ``optimizer_state_by_index``."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    group = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    state = {names[number]: value for number, value in optimizer["state"].items()}
    return {"state": state, "param_groups": [{**group, "params": names}]}
