"""The attention kernel of a run: named by the config, kept from a checkpoint, or chosen once for all steps.

The first process chooses for all of them: on a GPU by timing the kernels that can do it on the seams of the first
batch. The receipt goes into history and checkpoint, and a run that goes on keeps the kernel it had: another one sums in
another order, and gives other last bits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.attention.choosing import Layout, why_not
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


def settle_kernel(
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
    layout, device, automatic = attention_layout(model), accelerator.device.type, config.attn_backend == "auto"
    if automatic and kept is None:
        choice = None
        if accelerator.is_main_process:
            lengths = [length for row in steps[0][0] for length in rows[row]["seq_lengths"]]
            seams = Boundaries.from_lengths(lengths, device)
            dtype = TORCH_DTYPES[resolve_dtype(config)]
            choice = choose_kernel(layout, seams, device, dtype, deterministic=config.deterministic)
        choice = told_to_all(choice, accelerator)
    else:
        reason = "the one of the checkpoint" if automatic else "named by attn_backend"
        choice = Choice(kept if automatic and kept else config.attn_backend, reason, versions=versions())
        check(choice, config, layout, device)
    model.set_attn_implementation(hf_name_of(choice.backend))
    if automatic and accelerator.is_main_process:
        from tqdm import tqdm

        # tqdm's own print keeps a progress bar that is being drawn on a line of its own
        where = f"{device}, {resolve_dtype(config)}"
        tqdm.write(f"varlen_lab: attention backend {choice.backend} ({where}), {choice.sentence()}", file=sys.stderr)
    return choice


def check(choice: Choice, config: Config, layout: Layout, device: str) -> None:
    """InputError when a backend that nobody chose for this machine cannot do what the run asks."""
    job = layout.job(device, TORCH_DTYPES[resolve_dtype(config)], deterministic=config.deterministic)
    if (why := why_not(BACKENDS[choice.backend], job)) is None:
        return
    if config.attn_backend == "auto":
        raise InputError(
            f"the checkpoint was trained with attention backend {choice.backend!r}, which {why}; go on with another by "
            "naming it, such as attn_backend = 'sdpa': the losses then differ by rounding."
        )
    raise InputError(
        f"attention backend {choice.backend!r}, named by attn_backend, {why}; set attn_backend = 'auto', or name one "
        "that varlen-lab check-env lists for this machine."
    )


def told_to_all(choice: Choice | None, accelerator: Accelerator) -> Choice:
    """The first process's choice, in every process."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        told = [choice]
        broadcast_object_list(told)
        choice = told[0]
    assert choice is not None
    return choice


def kernel_of(checkpoint: Path | None) -> str | None:
    """The backend a checkpoint was trained with; None without one, and for one of a mode without our attention."""
    if checkpoint is None:
        return None
    backend = read_checkpoint(checkpoint).get("meta", {}).get("backend")
    return backend if backend in BACKENDS else None


def attention_layout(model: PreTrainedModel) -> Layout:
    """Heads, widths, cap, slopes and window of a model's attention; of layers that differ, the widest head.

    A width is what the layers have, where they say it: many configs leave it out, and some layers are wider than it.
    """
    config = model.config.get_text_config()
    modules = list(model.modules())
    heads = getattr(config, "num_attention_heads", None) or 1
    usual = getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads * 64) // heads
    widths = [one for module in modules if (one := plain_int(module, "qk_head_dim") or plain_int(module, "head_dim"))]
    head_dim = max(widths, default=usual)
    values = [one for module in modules if (one := plain_int(module, "v_head_dim"))]
    return Layout(
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        head_dim,
        max(values, default=head_dim),
        getattr(config, "attn_logit_softcapping", None),
        any(hasattr(module, "alibi_slopes") for module in modules),
        getattr(config, "sliding_window", None) or None,
    )


def plain_int(module: Any, name: str) -> int | None:
    """A width that a layer carries as an attribute; None where it has none, or something else of that name."""
    value = vars(module).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
