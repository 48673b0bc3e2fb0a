"""FSDP2 under the same loop: each layer is whole for as long as it computes, and a slice in every process otherwise.

No process but the first ever has the model whole, and that one only in the memory of its machine: the others build it
without weights, and each gets its slices from the first, tensor by tensor.

A checkpoint is gathered into whole tensors, under the names and numbers a single process would write: DDP goes on from
it too, and one process converts it. Where it would not fit one machine it is a folder of ``shards``.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.checkpoint import save_checkpoint
from varlen_lab.training.damage import FILES, RUN_FILE
from varlen_lab.training.engines import Engine, trained_only
from varlen_lab.training.engines.folders import digests_of_all, folder_of_all, in_first_process
from varlen_lab.training.engines.scattering import (
    cut,
    gathered,
    hand_out,
    keep_no_gaps,
    take_tensors,
    units,
    write_gathered,
)
from varlen_lab.training.engines.shards import (
    FOLDER,
    MODEL,
    OPTIMIZER,
    SHARDS,
    check_shards,
    read_shards,
    split_optimizer,
    stored_tensors,
    with_tensors,
    write_shards,
    written_files,
)
from varlen_lab.training.optimizer import make_optimizer, make_schedule

MOST_OF_MEMORY = 0.5  # of what is free, that a whole checkpoint may take where ``checkpoint_format`` is "auto"


class ShardedEngine(Engine):
    """FSDP2: parameters, gradients and optimizer states are cut along their first dimension over all processes."""

    kind = "fsdp"

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Shard every layer by itself, then what is left, so that one layer at a time is whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if self.precision == "fp16":
            raise InputError("dtype = 'fp16' needs a loss scale that FSDP2 does not bring; use bf16, or DeepSpeed.")
        self.checkpoint_format = config.checkpoint_format
        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        halved = self.precision == "bf16"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if halved else MixedPrecisionPolicy()
        if self.accelerator.device.type == "cpu":
            keep_no_gaps()
        tensors = take_tensors(model)
        for module in units(model):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        # not peft's wrapper: to answer it calls the model inside, which fetches what is in no unit
        inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.model, self.sharded = model, fully_shard(inner, mesh=mesh, mp_policy=policy)
        hand_out(model, tensors, self.accelerator.device)
        # after sharding: the optimizer must hold the slices, not the whole parameters they replaced
        self.optimizer = make_optimizer(self.model, config, fused=False)
        self.scheduler = make_schedule(self.optimizer, config, steps)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """The gradient stays whole in this process until the ``last`` batch of a step."""
        self.sharded.set_requires_gradient_sync(last)  # type: ignore[operator]
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

    def load(self, state: dict[str, Any]) -> None:
        """Cut whole tensors into slices again."""
        shared = dict(self.unwrapped_model.named_parameters(remove_duplicate=False))
        trained = [p for p in self.unwrapped_model.parameters() if p.requires_grad]
        momenta = {
            number: {key: cut(value, trained[number]) for key, value in values.items()}
            for number, values in state["optimizer"]["state"].items()
        }
        weights = {name: cut(value, shared.get(name)) for name, value in state["model"].items()}
        super().load({"model": weights, "optimizer": {**state["optimizer"], "state": momenta}})

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """A file, or a folder of shards where ``checkpoint_format`` or the size of the model asks for one."""
        if not self.saves_shards():
            # kept: what is tied is then one object, under two names
            weights = trained_only(self.unwrapped_model, self.unwrapped_model.state_dict(keep_vars=True))
            self.save_whole(path, {**contents, **self.state(), "model": weights, "engine": self.kind})
            return
        plain, tensors = self.slices()
        with folder_of_all(path, self.accelerator) as draft:
            write_shards(draft / FOLDER, tensors)  # ends when all processes have written
            plain[FILES] = digests_of_all(draft, self.accelerator)
            plain[SHARDS]["files"] = written_files(draft / FOLDER)
            state = {**contents, **plain, "engine": self.kind}
            in_first_process(self.accelerator, lambda: save_checkpoint(draft / RUN_FILE, state))

    def save_whole(self, path: Path, contents: dict[str, Any]) -> None:
        """A file as one process would write it; slices are gathered one after the other."""
        if self.accelerator.is_main_process:
            save_checkpoint(path, contents, write_gathered)
        else:
            for value in tree_leaves(contents):
                gathered(value)
        self.accelerator.wait_for_everyone()

    def saves_shards(self) -> bool:
        """Whether checkpoints are folders of shards; decided by the first process, once, when memory is in use."""
        if self.checkpoint_format == "auto":
            import psutil
            from accelerate.utils import broadcast_object_list

            _, tensors = self.slices()
            needed = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
            too_large = needed > MOST_OF_MEMORY * psutil.virtual_memory().available
            self.checkpoint_format = broadcast_object_list(["sharded" if too_large else "whole"])[0]
        return self.checkpoint_format == "sharded"

    def slices(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a folder of shards holds: plain values for run.pth, and this process' slices by name."""
        model = self.unwrapped_model
        weights = trained_only(model, model.state_dict())
        first_name = {id(value): name for name, value in model.named_parameters()}
        every_name = {name: first_name[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
        tied = {name: same for name, same in every_name.items() if name != same and name in weights}
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        optimizer, momenta = split_optimizer(self.optimizer.state_dict(), trained)
        tensors = {MODEL + name: value for name, value in weights.items() if name not in tied}
        tensors |= {OPTIMIZER + name: value for name, value in momenta.items()}
        plain = {"optimizer": optimizer, "scheduler": self.scheduler.state_dict()}
        return {**plain, SHARDS: {"trained": trained, "tied": tied}}, tensors

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """From a folder of shards each process takes its slices; anything else as ``Engine.restore``."""
        if SHARDS not in state:
            super().restore(path, state)
            return
        check_shards(path, state, self.accelerator)
        plain, tensors = self.slices()
        trained, weights = plain[SHARDS]["trained"], dict(self.unwrapped_model.named_parameters())
        if state[SHARDS]["trained"] != trained:
            raise InputError(f"{path} holds another model than the config gives; put the old config back.")
        momenta = {
            name: torch.zeros_like(weights[name.removeprefix(OPTIMIZER).rpartition(".")[0]]).detach()
            for name in stored_tensors(path, state[SHARDS])
            if name.startswith(OPTIMIZER)
        }
        read_shards(path, state[SHARDS], tensors | momenta)
        self.optimizer.load_state_dict(with_tensors(state["optimizer"], trained, momenta))
        self.scheduler.load_state_dict(state["scheduler"])
