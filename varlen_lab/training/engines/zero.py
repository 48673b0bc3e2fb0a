"""DeepSpeed's ZeRO under the same loop: stage 1 shares out optimizer states, 2 gradients too, 3 the weights as well.

A checkpoint is a folder: ``run.pth`` (what every checkpoint of ours says about its run) beside DeepSpeed's own shards,
one per process. ``consolidate`` puts the shards together again, without DeepSpeed's engine and without a GPU.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, first_line
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.damage import FILES, RUN_FILE
from varlen_lab.training.engines import Engine
from varlen_lab.training.engines.folders import check_folder, digests_of_all, folder_of_all, in_first_process
from varlen_lab.training.engines.shards import silenced
from varlen_lab.training.engines.stages import with_precision
from varlen_lab.training.engines.zero_files import ShardFiles, check_contents, weights_only
from varlen_lab.training.optimizer import make_optimizer, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

TAG = "zero"  # the folder of the shards inside a checkpoint
OLDEST = (0, 19, 3)  # earlier versions of DeepSpeed take a step whose gradient is NaN
INSTALL = f"pip install 'deepspeed>={'.'.join(map(str, OLDEST))}', or train with --fsdp"


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
        settings = {
            **with_precision(self.settings, self.precision),
            # DeepSpeed insists on a size of batches; what a batch and a step are, the loop knows
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the loop says which batch is the last of a step
            "gradient_clipping": config.max_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        self.optimizer = make_optimizer(model, config, fused=self.accelerator.device.type == "cuda")
        self.scheduler = make_schedule(self.optimizer, config, steps)
        with deepspeed_silenced():
            try:
                deepspeed.DeepSpeedConfig(settings)
            except Exception as problem:  # it has no one kind of error for settings it does not take
                raise InputError(
                    f"DeepSpeed does not take the settings of --deepspeed ({first_line(problem)}); correct them."
                ) from None
            self.model, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=settings, dist_init_required=False
            )
        self.files = ShardFiles()
        self.files.take_over(self.model)
        # at its lowest scale DeepSpeed would raise an error of its own; whether a run is lost, the loop decides
        self.model.optimizer.loss_scaler.raise_error_at_min_scale = False  # type: ignore[union-attr]

    @property
    def stage(self) -> int:
        """1, 2 or 3."""
        return self.settings["zero_optimization"]["stage"]

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Stage 1 exchanges gradients with the ``last`` batch of a step, stages 2 and 3 with every one."""
        self.model.set_gradient_accumulation_boundary(last)  # type: ignore[operator]
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one batch."""
        # DeepSpeed leaves a step out for its gradient alone, so a loss that is not finite must have none that is
        loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        # times processes: DeepSpeed averages; scale_wrt_gas=False: the loop has divided by the whole step already
        self.model.backward(loss * self.accelerator.num_processes, scale_wrt_gas=False)  # type: ignore[operator]

    def update(self, loss: torch.Tensor) -> tuple[float, float, bool]:
        """Clip and step; DeepSpeed itself leaves out a step whose gradient is not finite."""
        self.model.step()  # type: ignore[operator]
        self.advance_schedule()
        taken = bool(self.model.was_step_applied())  # type: ignore[operator]
        # of a step that was left out, stage 3 still gives the norm of the step before
        norm = self.model.get_global_grad_norm() if taken else None  # type: ignore[operator]
        return float(loss), math.nan if norm is None else float(norm), taken

    def lowers_scale(self) -> bool:
        """As ``Engine.lowers_scale``, of the scale that DeepSpeed keeps."""
        scaler = self.model.optimizer.loss_scaler  # type: ignore[union-attr]
        return scaler.dynamic and scaler.loss_scale > 1

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Every process writes its shards; the folder takes its name when the last one is done."""
        with folder_of_all(path, self.accelerator) as draft:
            with deepspeed_silenced():
                self.model.save_checkpoint(  # type: ignore[operator]
                    str(draft), tag=TAG, exclude_frozen_parameters=has_frozen(self.unwrapped_model)
                )
            self.files.check()
            digests = digests_of_all(draft, self.accelerator)
            state = {"scheduler": self.scheduler.state_dict(), "engine": self.kind, "zero_stage": self.stage}
            state |= {"processes": self.accelerator.num_processes, FILES: digests}
            in_first_process(self.accelerator, lambda: save_checkpoint(draft / RUN_FILE, {**contents, **state}))

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Put back what ``save`` wrote; with the same number of processes and the same stage."""
        if state.get("engine") != "zero":
            raise InputError(f"{path} was not written under DeepSpeed, which cannot go on from it; drop --deepspeed.")
        stage = state.get("zero_stage", self.stage)  # earlier versions did not keep it
        if stage != self.stage:
            raise InputError(
                f"{path} was written under ZeRO stage {stage} and the run has stage {self.stage}, whose shards are "
                f"others; use deepspeed_zero{stage}."
            )
        check_shards(path, state, self.accelerator)
        try:
            with deepspeed_silenced(), weights_only():
                self.model.load_checkpoint(  # type: ignore[operator]
                    str(path), tag=TAG, load_module_strict=not has_frozen(self.unwrapped_model)
                )
        except Exception as problem:  # a shard of another stage, or of another model, fails in many ways
            if isinstance(problem, InputError):
                raise
            raise InputError(
                f"the shards in {path / TAG} cannot be read ({first_line(problem)}); copy them again, or take an older "
                "checkpoint."
            ) from None
        self.scheduler.load_state_dict(state["scheduler"])


def check_shards(folder: Path, state: dict[str, Any], accelerator: Accelerator | None = None) -> None:
    """InputError that names what a checkpoint folder lacks, what is damaged in it, and what would have to be run.

    ``state``: its run.pth. With ``accelerator`` all processes call this, and each looks at its share.
    """
    # weights are in one file where every process holds them all
    expected = {"optimizer": state["processes"], "model": state["processes"] if state.get("zero_stage") == 3 else 1}
    for what, count in expected.items():
        found = len(list((folder / TAG).glob(f"*{what[:5]}*_states.pt")))
        if found < count:
            raise InputError(
                f"{folder} has {found} of {count} {what} shards in {TAG}/, the weights cannot be put together; copy "
                "the missing files, or take an older checkpoint."
            )
    check_folder(folder, state, TAG, accelerator)
    check_contents(folder / TAG, accelerator)


def consolidate(folder: Path, adapter: bool = False) -> dict[str, torch.Tensor]:
    """The whole fp32 weights of a checkpoint folder, whatever the stage and the number of processes.

    ``adapter``: of a LoRA run, whose frozen weights were not saved.
    """
    import_deepspeed("cpu")
    check_shards(folder, read_checkpoint(folder))
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        with deepspeed_silenced(), weights_only():
            return get_fp32_state_dict_from_zero_checkpoint(
                str(folder), TAG, exclude_frozen_parameters=adapter, lazy_mode=False
            )
    except Exception as problem:  # a shard cut short fails in many ways
        raise InputError(
            f"the shards in {folder / TAG} cannot be put together ({first_line(problem)}), one is damaged; copy it "
            "again, or take an older checkpoint."
        ) from None


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
    except Exception as problem:  # built for another torch or CUDA, it fails in many ways
        raise InputError(f"DeepSpeed is not usable here ({first_line(problem)}); {INSTALL}.") from None
    if (deepspeed.__version_major__, deepspeed.__version_minor__, deepspeed.__version_patch__) < OLDEST:
        raise InputError(f"DeepSpeed {deepspeed.__version__} takes steps whose gradient is NaN; {INSTALL}.")
    if device == "cpu":  # else it compiles a shared-memory op, and a build that is cut off blocks every later run
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def has_frozen(model: torch.nn.Module) -> bool:
    """Whether a part of the weights is not trained, as under LoRA."""
    return any(not p.requires_grad for p in model.parameters())


@contextmanager
def deepspeed_silenced() -> Iterator[None]:
    """DeepSpeed prints on import, at start and at every save; its errors are exceptions and still come through."""
    with redirect_stdout(io.StringIO()), silenced():
        yield
