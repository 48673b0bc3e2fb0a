"""DeepSpeed's ZeRO under the same loop: stage 1 shares out optimizer states, 2 gradients too, 3 the weights as well.

A checkpoint is a folder: ``run.pth`` (what every checkpoint of ours says about its run) beside DeepSpeed's own shards,
one per process. ``consolidate`` puts the shards together again, without DeepSpeed's engine and without a GPU.
"""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, nearest
from varlen_lab.files.writing import folder_written_whole
from varlen_lab.training.checkpoint import RUN_FILE, read_checkpoint, save_checkpoint
from varlen_lab.training.engines import Engine, make_optimizer, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

TAG = "zero"  # the folder of the shards inside a checkpoint
OFFLOAD = {"device": "cpu", "pin_memory": True}
ZERO_SETTINGS: dict[str, dict[str, Any]] = {  # XTuner's names
    "deepspeed_zero1": {"stage": 1},
    "deepspeed_zero2": {"stage": 2},
    "deepspeed_zero2_offload": {"stage": 2, "offload_optimizer": OFFLOAD},
    "deepspeed_zero3": {"stage": 3},
    "deepspeed_zero3_offload": {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
}
DECIDED_BY_CONFIG = {  # keys a JSON file may hold that the config decides here
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
}


def zero_settings(word: str) -> dict[str, Any]:
    """DeepSpeed settings by XTuner's name or from a JSON file; InputError when it is neither."""
    if word in ZERO_SETTINGS:
        return {"zero_optimization": dict(ZERO_SETTINGS[word])}
    path = Path(word)
    if not path.is_file():
        raise InputError(
            f"--deepspeed got {word!r}, it takes a JSON file or one of {', '.join(ZERO_SETTINGS)}"
            f"{nearest(word, ZERO_SETTINGS)}."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"--deepspeed {word} is not a JSON file ({problem}); correct it.") from None
    if not isinstance(found, dict) or not isinstance(found.get("zero_optimization"), dict):
        raise InputError(f"--deepspeed {word} has no zero_optimization; write {{'zero_optimization': {{'stage': 2}}}}.")
    if found["zero_optimization"].get("stage") not in (1, 2, 3):
        raise InputError(
            f"--deepspeed {word} has stage = {found['zero_optimization'].get('stage')!r} in zero_optimization; write "
            "1, 2 or 3, or drop --deepspeed."
        )
    set_there = {name for name in DECIDED_BY_CONFIG & found.keys() if found[name] != "auto"}
    if set_there:
        raise InputError(
            f"--deepspeed {word} sets {', '.join(sorted(set_there))}, which the config decides "
            "(batch_size, accumulative_counts, max_norm, optim_type, lr); remove it there."
        )
    return {name: value for name, value in found.items() if name not in DECIDED_BY_CONFIG}


class ZeroEngine(Engine):
    """DeepSpeed's engine behind ours."""

    kind = "zero"

    def __init__(
        self, model: torch.nn.Module, config: Config, steps: int, accelerator: Accelerator, settings: dict[str, Any]
    ) -> None:
        self.settings = settings
        super().__init__(model, config, steps, accelerator)

    def prepare(self, model: torch.nn.Module, config: Config, steps: int) -> None:
        """Set up DeepSpeed around a torch optimizer; its schedule stays ours."""
        deepspeed = import_deepspeed(self.accelerator.device.type)
        precision = self.precision
        settings = {
            **self.settings,
            # DeepSpeed insists on a size of batches; what a batch and a step are, the loop knows
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the loop says which batch is the last of a step
            "gradient_clipping": config.max_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        if precision in ("bf16", "fp16"):
            settings[precision] = {"enabled": True, **self.settings.get(precision, {})}
        self.optimizer = make_optimizer(model, config, fused=self.accelerator.device.type == "cuda")
        self.scheduler = make_schedule(self.optimizer, config, steps)
        with deepspeed_silenced():
            self.model, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=settings, dist_init_required=False
            )

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Stage 1 exchanges gradients with the ``last`` batch of a step, stages 2 and 3 with every one."""
        self.model.set_gradient_accumulation_boundary(last)  # type: ignore[operator]
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one batch."""
        # times processes: DeepSpeed averages; scale_wrt_gas=False: the loop has divided by the whole step already
        self.model.backward(loss * self.accelerator.num_processes, scale_wrt_gas=False)  # type: ignore[operator]

    def update(self, loss: torch.Tensor) -> tuple[float, float, bool]:
        """Clip and step; DeepSpeed itself leaves out a step whose gradient is not finite."""
        self.model.step()  # type: ignore[operator]
        self.scheduler.step()
        norm = self.model.get_global_grad_norm()  # type: ignore[operator]
        taken = bool(self.model.was_step_applied())  # type: ignore[operator]
        return float(loss), float(norm if norm is not None else "nan"), taken

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Every process writes its shards; the folder takes its name when the last one is done."""
        from accelerate.utils import broadcast_object_list

        first = self.accelerator.is_main_process
        with folder_written_whole(path) if first else nullcontext() as draft:
            draft = broadcast_object_list([str(draft)])[0]  # its name, which the first process has chosen
            with deepspeed_silenced():
                self.model.save_checkpoint(  # type: ignore[operator]
                    draft, tag=TAG, exclude_frozen_parameters=has_frozen(self.unwrapped_model)
                )
            self.accelerator.wait_for_everyone()
            if first:
                state = {"scheduler": self.scheduler.state_dict(), "engine": self.kind}
                save_checkpoint(
                    Path(draft, RUN_FILE), {**contents, **state, "processes": self.accelerator.num_processes}
                )
        self.accelerator.wait_for_everyone()

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Put back what ``save`` wrote; with the same number of processes."""
        if state.get("engine") != "zero":
            raise InputError(f"{path} was not written under DeepSpeed, which cannot go on from it; drop --deepspeed.")
        with deepspeed_silenced():
            found, _ = self.model.load_checkpoint(str(path), tag=TAG)  # type: ignore[operator]
        if found is None:
            raise InputError(f"{path} has no DeepSpeed shards in {TAG}/; the folder is not whole.")
        self.scheduler.load_state_dict(state["scheduler"])


def consolidate(folder: Path, adapter: bool = False) -> dict[str, torch.Tensor]:
    """The whole fp32 weights of a checkpoint folder, whatever the stage and the number of processes.

    ``adapter``: of a LoRA run, whose frozen weights were not saved.
    """
    processes = read_checkpoint(folder)["processes"]
    shards = sorted((folder / TAG).glob("*optim_states.pt"))
    if len(shards) != processes:
        raise InputError(
            f"{folder} has {len(shards)} of {processes} optimizer shards in {TAG}/, the weights cannot be put "
            "together; copy the missing files, or take an older checkpoint."
        )
    import_deepspeed("cpu")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        with deepspeed_silenced():
            return get_fp32_state_dict_from_zero_checkpoint(
                str(folder), TAG, exclude_frozen_parameters=adapter, lazy_mode=False
            )
    except Exception as problem:  # a shard cut short fails in many ways
        raise InputError(f"the shards in {folder / TAG} cannot be put together ({problem}); one is damaged.") from None


def import_deepspeed(device: str) -> Any:
    """DeepSpeed, told which device it is on; InputError with the remedy when it is missing."""
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    for module in ("deepspeed", "torch.distributed"):  # it calls names that torch is about to rename
        warnings.filterwarnings("ignore", module=module)
    try:
        with deepspeed_silenced():
            import deepspeed
            from deepspeed.ops import __compatible_ops__
    except ImportError as problem:
        raise InputError(f"DeepSpeed is not usable here ({problem}); pip install deepspeed, or use --fsdp.") from None
    if device == "cpu":  # else it compiles a shared-memory op, and a build that is cut off blocks every later run
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def has_frozen(model: torch.nn.Module) -> bool:
    """Whether a part of the weights is not trained, as under LoRA."""
    return any(not p.requires_grad for p in model.parameters())


@contextmanager
def deepspeed_silenced() -> Iterator[None]:
    """DeepSpeed prints on import, at start and at every save; its errors are exceptions and still come through."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
