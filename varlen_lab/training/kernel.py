"""The attention kernel of a run: named by the config, kept from a checkpoint, or chosen once for all steps.

The first process chooses for all of them: on a GPU by timing the kernels that can do it on the seams of the first
batch. The receipt goes into history and checkpoint, and a run that goes on keeps the kernel it had: another one sums in
another order, and gives other last bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from varlen_lab.attention.choosing import AttentionShape, Job, dtype_name, why_not
from varlen_lab.attention.dispatch import say_backend
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.timing import Choice, choose_kernel, versions
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import TORCH_DTYPES, resolve_dtype
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.plan import Step

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel


def decide_kernel(
    config: Config,
    model: PreTrainedModel,
    rows: Dataset,
    steps: list[Step],
    accelerator: Accelerator,
    kept: str | None = None,
) -> Choice | None:
    """Decide which backend the run uses and make its model use it; None in the modes without our attention.

    ``kept``: the backend of the checkpoint the run goes on from. InputError when a backend that is named or kept cannot
    do it here.
    """
    if config.mode != "varlen":
        return None
    shape, device, dtype = AttentionShape.of(model), accelerator.device.type, TORCH_DTYPES[resolve_dtype(config)]
    automatic = config.attn_backend == "auto"
    named = kept if automatic else config.attn_backend
    if named is None:
        choice = None
        if accelerator.is_main_process:
            lengths = [length for row in steps[0][0] for length in rows[row]["seq_lengths"]]
            choice = choose_kernel(shape, Boundaries.from_lengths(lengths, device), device, dtype)
        choice = broadcast_choice(choice, accelerator)
    else:
        refuse_if_unable(named, shape.job(device, dtype), kept=automatic)
        reason = "the one of the checkpoint" if automatic else "named by attn_backend"
        choice = Choice(named, reason, versions=versions())
    model.set_attn_implementation(hf_name_of(choice.backend))
    if automatic and accelerator.is_main_process:
        say_backend(choice.backend, device, dtype_name(dtype), choice.sentence())
    return choice


def refuse_if_unable(name: str, job: Job, *, kept: bool) -> None:
    """InputError when a backend that nobody chose for this machine cannot do what the run asks."""
    if (why := why_not(BACKENDS[name], job)) is None:
        return
    if kept:
        raise InputError(
            f"the checkpoint was trained with attention backend {name!r}, which {why}; go on with another by naming "
            "it, such as attn_backend = 'sdpa': the losses then differ by rounding."
        )
    raise InputError(
        f"attention backend {name!r}, named by attn_backend, {why}; set attn_backend = 'auto', or name one that "
        "varlen-lab check-env lists for this machine."
    )


def broadcast_choice(choice: Choice | None, accelerator: Accelerator) -> Choice:
    """The first process's choice, in every process."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        told = [choice]
        broadcast_object_list(told)
        choice = told[0]
    assert choice is not None
    return choice


def backend_of_checkpoint(path: Path | None) -> str | None:
    """The backend a checkpoint was trained with; None without one, and for one of a mode without our attention."""
    if path is None:
        return None
    backend = read_checkpoint(path).get("meta", {}).get("backend")
    return backend if backend in BACKENDS else None
