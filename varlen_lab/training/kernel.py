"""The attention kernel of a run: named by the config, kept from a checkpoint, or chosen once for all steps.

The first process chooses for all of them: on a GPU by timing the kernels that can do it on the seams of the first
batch. The receipt goes into history and checkpoint, and a run that goes on keeps the kernel it had: another one sums in
another order, and gives other last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from varlen_lab.attention.choosing import AttentionShape, Job, why_not
from varlen_lab.attention.dispatch import say_backend
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.timing import Choice, choose_kernel, versions
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.models.building import TORCH_DTYPES, resolve_attention, resolve_dtype
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.lazily import Step

KEPT = "kept: "
PARTS = {"reason": str, "milliseconds": dict, "measured_on": str, "ineligible": dict, "versions": dict}  # of a receipt

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel


def decide_kernel(
    config: Config,
    model: PreTrainedModel,
    rows: Dataset,
    steps: Sequence[Step],
    accelerator: Accelerator,
    kept: Choice | None = None,
) -> Choice | None:
    """Decide which backend the run uses and make its model use it; None in the modes without our attention.

    ``kept``: the receipt of the run that this one goes on from, or is compared with. InputError when a backend that is
    named or kept cannot do it here.
    """
    if config.mode != "varlen":
        return None
    shape, device, dtype = AttentionShape.of(model), accelerator.device.type, TORCH_DTYPES[resolve_dtype(config)]
    automatic = config.attn_backend == "auto"
    if not automatic:
        choice = Choice(config.attn_backend, "named by attn_backend", versions=versions())
    elif kept is not None:
        choice = replace(kept, reason=KEPT + kept.reason.removeprefix(KEPT))
    else:
        choice = choose_in_first_process(shape, rows, steps[0][0], accelerator, dtype)
    if not automatic or kept is not None:
        refuse_if_unable(choice.backend, shape.job(device, dtype), kept=automatic)
    model.set_attn_implementation(resolve_attention(hf_name_of(choice.backend), model.config))
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


def choose_in_first_process(
    shape: AttentionShape, rows: Dataset, batch: list[int], accelerator: Accelerator, dtype: torch.dtype
) -> Choice:
    """The choice for the seams of a batch of ``rows``: the first process makes it, all get it."""
    told: list[Choice | None] = [None]
    if accelerator.is_main_process:
        lengths = [length for row in batch for length in rows[row]["seq_lengths"]]
        device = accelerator.device.type
        told = [choose_kernel(shape, Boundaries.from_lengths(lengths, device), device, dtype)]
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(told)
    assert told[0] is not None
    return told[0]


def receipt_to_keep(config: Config, path: Path | None) -> Choice | None:
    """The receipt in the checkpoint a run goes on from, if the run is to keep its kernel; None where it need not.

    A checkpoint from before there were receipts names its backend only. InputError for a backend nobody knows.
    """
    if path is None or config.mode != "varlen" or config.attn_backend != "auto":
        return None
    meta = read_checkpoint(path).get("meta")
    if not isinstance(meta, dict) or meta.get("mode") != "varlen":
        return None
    backend, known = str(meta.get("backend")), meta.get("kernel_choice")
    if backend not in BACKENDS:
        raise InputError(
            f"{path} was trained with attention backend {backend!r}, which this version does not have; go on with "
            "another by naming it, such as attn_backend = 'sdpa': the losses then differ by rounding."
        )
    parts = {
        part: known[part]
        for part, kind in PARTS.items()
        if isinstance(known, dict) and isinstance(known.get(part), kind)
    }
    return Choice(backend, parts.pop("reason", "no receipt"), **parts)
