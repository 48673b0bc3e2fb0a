"""A model ready to take steps, and the three ways its weights lie over processes.

    Engine          all weights in every process; several processes average gradients (DDP, through Accelerate)
    ShardedEngine   every process keeps a slice of each layer and fetches the rest when it is needed (FSDP2)
    ZeroEngine      DeepSpeed's ZeRO, in ``zero``

The loop calls ``backward`` for each batch and ``update`` once a step and does not know which it has. The first two
write the same ``iter_N.pth``: what was trained on eight GPUs goes on or is converted on one.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator


class Engine:
    """Model, optimizer and schedule in one process, or in several that hold all weights each."""

    kind = "ddp"

    def __init__(
        self, model: torch.nn.Module, config: Config, steps: int, accelerator: Accelerator, precision: str = "fp32"
    ) -> None:
        self.accelerator = accelerator
        self.precision = precision
        self.max_norm = config.max_norm
        dice = config.method != "full" and config.lora_dropout > 0
        self.seed = config.seed if dice else None  # of the dice of a step
        self.bare = model  # as it was built: what is saved, and what answers questions
        self.prepare(model, config, steps)

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Set ``model``, ``optimizer`` and ``scheduler``."""
        in_precision(model, self.precision, self.accelerator.device.type)
        optimizer = make_optimizer(model, config)
        self.scheduler = make_schedule(optimizer, config, steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of one batch. Processes exchange theirs with the ``last`` batch of a step."""
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            # gradients are averaged over processes; the loss is divided by a count over all of them already
            self.accelerator.backward(loss * self.accelerator.num_processes)

    def update(self, loss: torch.Tensor) -> tuple[float, float, bool]:
        """Clip and take the step, without effect where loss or gradient is not finite: (loss, norm, taken).

        Both numbers come from the device in one go, and the optimizer is queued before the loop reads its counts.
        """
        loss_value, norm = torch.stack([loss.float(), self.clip().float()]).tolist()
        taken = math.isfinite(loss_value) and math.isfinite(norm)
        if taken or self.accelerator.scaler is not None:  # fp16: skips by itself, and lowers its loss scale
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss_value, norm, taken

    def clip(self) -> torch.Tensor:
        """The norm of the whole gradient, which is clipped to ``max_norm`` if that is not 0."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return self.accelerator.clip_grad_norm_(trainable, self.max_norm or math.inf)

    def state(self) -> dict[str, Any]:
        """Weights that are trained, optimizer and schedule; whole in the first process, called in all."""
        return {
            "model": trained_only(self.bare, self.bare.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Write a checkpoint; called in all processes, written by the first."""
        state = self.state()
        if self.accelerator.is_main_process:
            save_checkpoint(path, {**contents, **state, "engine": self.kind})
        self.accelerator.wait_for_everyone()

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Put weights, optimizer and schedule back."""
        if state.get("engine") == "zero":
            raise InputError(
                f"{path} was written under DeepSpeed and goes on only there; add --deepspeed with the same stage."
            )
        self.load(state)
        self.scheduler.load_state_dict(state["scheduler"])

    def load(self, state: dict[str, Any]) -> None:
        """Weights and optimizer from a whole state."""
        put_in(self.bare, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class ShardedEngine(Engine):
    """FSDP2: parameters, gradients and optimizer states are cut along their first dimension over all processes."""

    kind = "fsdp"

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Shard every layer by itself, then what is left, so that one layer at a time is whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        precision = self.precision
        if precision == "fp16":
            raise InputError("dtype = 'fp16' needs a loss scale that FSDP2 does not bring; use bf16, or DeepSpeed.")
        model.to(self.accelerator.device)
        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
        layers = set(getattr(model, "_no_split_modules", None) or ())
        for module in list(model.modules()):
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh, mp_policy=policy)
        self.model = fully_shard(model, mesh=mesh, mp_policy=policy)
        self.optimizer = make_optimizer(self.model, config, fused=False)
        self.scheduler = make_schedule(self.optimizer, config, steps)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of one batch; it stays whole in this process until the ``last`` one."""
        self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
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
        return {
            "model": trained_only(self.bare, model),
            "optimizer": by_number(optimizer, self.bare) if self.accelerator.is_main_process else {},
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
            optim_state_dict=by_name(state["optimizer"], self.bare),
            options=options,
        )


def in_precision(model: torch.nn.Module, precision: str, device: str) -> None:
    """Let fp32 weights be multiplied in bf16. (fp16 needs a loss scale, which Accelerate brings with its own.)

    Accelerate does the same and then casts the logits to fp32, the largest tensor of a step.
    """
    if precision == "bf16" and any(p.dtype == torch.float32 and p.requires_grad for p in model.parameters()):
        model.forward = torch.autocast(device, torch.bfloat16)(model.forward)  # type: ignore[method-assign]


def make_optimizer(model: torch.nn.Module, config: Config, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW or SGD over the weights that are trained."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if config.optim_type == "AdamW":
        return torch.optim.AdamW(
            trainable, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(trainable, lr=config.lr, momentum=config.betas[0], weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A line up, then half a cosine down."""
    warmup = math.ceil(config.warmup_ratio * steps)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, warmup, config.start_factor)
    )


def lr_factor(step: int, steps: int, warmup: int, start: float) -> float:
    """Share of the peak lr at a step: a line from ``start`` up to 1, then half a cosine down to 0."""
    if step < warmup:
        return start + (1 - start) * step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def trained_only(model: torch.nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """All weights, or, when a part is frozen as under LoRA, those that are trained."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    if not frozen:
        return state
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: value for name, value in state.items() if name in trained}


def put_in(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights: all of them, or under LoRA all that are trained. RuntimeError when they do not fit."""
    expected = trained_only(model, model.state_dict()).keys()
    if weights.keys() != expected:
        raise RuntimeError(f"{len(expected ^ weights.keys())} weights are missing or too many")
    model.load_state_dict(weights, strict=False)


def by_number(optimizer: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """An optimizer state under parameter names as torch's own optimizers write it, under numbers."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    group = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    state = {number: optimizer["state"][name] for number, name in enumerate(names) if name in optimizer["state"]}
    return {"state": state, "param_groups": [{**group, "params": list(range(len(names)))}]}


def by_name(optimizer: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """The inverse of ``by_number``."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    group = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    state = {names[number]: value for number, value in optimizer["state"].items()}
    return {"state": state, "param_groups": [{**group, "params": names}]}
