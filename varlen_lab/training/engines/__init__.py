"""A model ready to take steps: device and precision of a run, and the three ways its weights lie over processes.

    Engine          all weights in every process; several processes average gradients (DDP, through Accelerate)
    ShardedEngine   every process keeps a slice of each layer and fetches the rest when it is needed (FSDP2)
    ZeroEngine      DeepSpeed's ZeRO

Around forward and backward of each batch the loop holds ``accumulating``, it calls ``update`` once a step, and it does
not know which engine it has. The first two go on from each other's ``iter_N.pth``, in as many processes as wrote it;
what was trained on eight GPUs is converted on one.
"""

from __future__ import annotations

import math
import platform
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.timing import Choice
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.machine import ranks
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.machine.launch import join_processes, waiting_group
from varlen_lab.models.adapters import frozen_in_words
from varlen_lab.models.building import resolve_device, resolve_dtype, weight_dtype
from varlen_lab.training.checkpoint import save_checkpoint
from varlen_lab.training.engines.replicated import replicated
from varlen_lab.training.engines.shards import SHARDS, whole_state
from varlen_lab.training.fitting import check_optimizer, check_schedule, check_weights
from varlen_lab.training.optimizer import make_optimizer, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def make_accelerator(config: Config) -> Accelerator:
    """Device, precision and processes of the run. InputError when it asks for a GPU that is not there."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = resolve_device(config)
    AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train on the CPU, then on the GPU
    met = [] if torch.distributed.is_initialized() else join_processes(card_of_this_process(device))
    # bf16 is the engine's: it needs no loss scale
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="fp16" if resolve_dtype(config) == "fp16" else "no")
    met.clear()  # from here on they are connected
    if accelerator.num_processes > 1:
        accelerator.waiting_group = waiting_group()  # type: ignore[attr-defined]
    return accelerator


def card_of_this_process(device: str) -> str | None:
    """What names the GPU that Accelerate will take for this process; None where it takes none."""
    if device != "cuda":
        return None
    card = ranks.number("LOCAL_RANK", 0) % torch.cuda.device_count()
    return str(torch.cuda.get_device_properties(card).uuid)


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process says so; they must stop after the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


def describe(
    config: Config, model: PreTrainedModel, accelerator: Accelerator, choice: Choice | None = None
) -> dict[str, Any]:
    """What the numbers of a run were measured on; ``choice``: the receipt of its kernel, where it is one of ours."""
    import transformers

    gpu = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    return {
        "config": config.name,
        "mode": config.mode,
        "backend": choice.backend if choice else f"transformers {model.config._attn_implementation}",
        "device": f"{accelerator.device.type} ({gpu})",
        "dtype": resolve_dtype(config),
        "weights": dtype_name(weight_dtype(config)) + frozen_in_words(model),
        "seed": config.seed,
        "method": config.method,
        "loss_weighting": config.loss_weighting,
        "deterministic": config.deterministic,
        "processes": accelerator.num_processes,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    } | ({"kernel_choice": asdict(choice)} if choice else {})


def engine_name(deepspeed: str | None, fsdp: bool) -> str:
    """``ddp``, ``fsdp``, ``zero1``, ``zero2`` or ``zero3``: what a run gets; InputError as ``zero_settings``."""
    if deepspeed:
        from varlen_lab.training.engines.stages import zero_settings

        return f"zero{zero_settings(deepspeed)['zero_optimization']['stage']}"
    return "fsdp" if fsdp else "ddp"


def make_engine(
    model: torch.nn.Module,
    config: Config,
    steps: int,
    accelerator: Accelerator,
    *,
    deepspeed: str | None = None,
    fsdp: bool = False,
) -> Engine:
    """The engine that was asked for. InputError when it needs processes that are not there."""
    if deepspeed and fsdp:
        raise InputError("--deepspeed and --fsdp were both given, they are two ways to do the same; choose one.")
    if not deepspeed and not fsdp:
        return Engine(model, config, steps, accelerator)
    if not torch.distributed.is_initialized():
        word = f"--deepspeed {deepspeed}" if deepspeed else "--fsdp"
        raise InputError(
            f"{word} shares a model out over processes and this is only one; start it with NPROC_PER_NODE=2, torchrun "
            "or --launcher slurm, or drop the flag."
        )
    if deepspeed and not config.master_weights:
        raise InputError("master_weights = False was set, DeepSpeed keeps fp32 weights of its own; remove one of them.")
    if config.method == "qlora":
        raise InputError("method = 'qlora' keeps weights in four bits, which are not shared out; drop the flag.")
    if deepspeed:
        from varlen_lab.training.engines.stages import zero_settings
        from varlen_lab.training.engines.zero import ZeroEngine

        return ZeroEngine(model, config, steps, accelerator, zero_settings(deepspeed))
    from varlen_lab.training.engines.sharded import ShardedEngine

    return ShardedEngine(model, config, steps, accelerator)


class Engine:
    """Model, optimizer and schedule in one process, or in several that hold all weights each."""

    kind = "ddp"

    def __init__(self, model: torch.nn.Module, config: Config, steps: int, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.precision = resolve_dtype(config)
        self.max_norm = config.max_norm
        has_dropout = config.method != "full" and config.lora_dropout > 0
        self.seed = config.seed if has_dropout else None  # of the random numbers of a step
        self.unwrapped_model = model  # as it was built: what is saved, and what answers questions
        self.prepare(model, config, steps)

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Set ``model``, ``optimizer`` and ``scheduler``."""
        autocast_forward(model, self.precision, self.accelerator.device.type)
        optimizer = make_optimizer(model, config)
        self.scheduler = make_schedule(optimizer, config, steps)
        self.model, self.optimizer = replicated(self.accelerator, model, optimizer)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around forward *and* backward of a batch: gradients are exchanged with the ``last`` of a step only.

        DDP decides in its forward pass whether the backward pass will exchange.
        """
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one batch, inside ``accumulating``."""
        # gradients are averaged over processes; the loss is divided by a count over all of them already
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def update(self, loss: torch.Tensor) -> tuple[float, float, bool]:
        """Clip and take the step, without effect where loss or gradient is not finite: (loss, norm, taken).

        Both numbers come from the device in one go, and the optimizer is queued before the loop reads its counts.
        """
        # one copy for both numbers: every copy makes the CPU wait
        loss_value, norm = torch.stack([loss.float(), self.clip().float()]).tolist()
        taken = math.isfinite(loss_value) and math.isfinite(norm)
        if taken:
            self.optimizer.step()
        elif self.accelerator.scaler is not None:
            # not step(): it asks for the gradient alone, which may be finite where the loss is not
            self.accelerator.scaler.update()
        self.advance_schedule()
        self.optimizer.zero_grad()
        return loss_value, norm, taken

    def advance_schedule(self) -> None:
        """On to the next learning rate, also after a step that was left out."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of")  # torch takes a first step left out for a mistake
            self.scheduler.step()

    def lowers_scale(self) -> bool:
        """Whether a gradient that is not finite lowers fp16's loss scale, and this is not as low as can be yet."""
        return self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() > 1

    def clip(self) -> torch.Tensor:
        """The norm of the whole gradient, which is clipped to ``max_norm`` if that is not 0."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return self.accelerator.clip_grad_norm_(trainable, self.max_norm or math.inf)

    def state(self) -> dict[str, Any]:
        """Weights that are trained, optimizer and schedule; whole in the first process, called in all."""
        return {
            "model": trained_only(self.unwrapped_model, self.unwrapped_model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            **({"scaler": self.accelerator.scaler.state_dict()} if self.accelerator.scaler is not None else {}),
        }

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Write a checkpoint; called in all processes, written by the first."""
        state = self.state()
        if self.accelerator.is_main_process:
            save_checkpoint(path, {**contents, **state, "engine": self.kind})
        self.accelerator.wait_for_everyone()

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Put weights, optimizer and schedule back; InputError where they do not fit."""
        if state.get("engine") == "zero":
            stage = state.get("zero_stage", "N of the same stage")
            raise InputError(
                f"{path} was written under DeepSpeed and goes on only there; add --deepspeed deepspeed_zero{stage}."
            )
        if SHARDS in state:  # written by processes that are gone, in a format no optimizer here knows
            state = whole_state(path, state)
        own = trained_only(self.unwrapped_model, self.unwrapped_model.state_dict())
        check_weights(path, state["model"], own)
        check_optimizer(path, state["optimizer"], self.optimizer)
        check_schedule(path, state["scheduler"], self.scheduler)
        self.load(state)
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None and "scaler" in state:  # earlier versions did not keep it
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def load(self, state: dict[str, Any]) -> None:
        """Weights and optimizer from a whole state."""
        load_trained_weights(self.unwrapped_model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def autocast_forward(model: torch.nn.Module, precision: str, device: str) -> None:
    """Let fp32 weights be multiplied in bf16. (fp16 needs a loss scale, which Accelerate brings with its own.)

    Accelerate does the same and then casts the logits to fp32, the largest tensor of a step.
    """
    if computes_in_bf16(model, precision):
        model.forward = torch.autocast(device, torch.bfloat16)(model.forward)  # type: ignore[method-assign]


def computes_in_bf16(model: torch.nn.Module, precision: str) -> bool:
    """Whether a run computes in bf16 with weights that are kept in fp32."""
    return precision == "bf16" and any(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


def trained_only(model: torch.nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """All weights, or, when a part is frozen as under LoRA, those that are trained."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    if not frozen:
        return state
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: value for name, value in state.items() if name in trained}


def load_trained_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights: all of them, or under LoRA all that are trained. RuntimeError when they do not fit."""
    expected = trained_only(model, model.state_dict()).keys()
    if weights.keys() != expected:
        raise RuntimeError(f"{len(expected ^ weights.keys())} weights are missing or too many")
    # not strict: the names were compared above, and frozen weights are not among them
    model.load_state_dict(weights, strict=False)
