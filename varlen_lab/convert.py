"""Step 6: a checkpoint becomes a Hugging Face folder, and the folder has to prove that it is the same model.

The folder is written beside its destination, opened again with ``AutoModelForCausalLM.from_pretrained`` as a user
would, and its logits are compared with the checkpoint's. Only then does it take its name. Weights keep the dtype
they were trained in.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from varlen_lab import checkpoint
from varlen_lab.batches import load_tokenizer
from varlen_lab.config import Config, load_text
from varlen_lab.errors import InputError
from varlen_lab.models import PLAIN, native_config, resolved

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MANIFEST = "varlen_lab.json"  # marks a folder as a conversion of ours, which may be written anew


@dataclass(frozen=True)
class Conversion:
    """What was written and how far its logits are from the checkpoint's (0 for an exact copy)."""

    folder: Path
    step: int
    dtype: str
    parameters: int
    max_logit_difference: float
    notes: tuple[str, ...] = ()


def pth_to_hf(
    config: Config,
    pth: str | Path,
    save_dir: str | Path,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
) -> Conversion:
    """Convert a checkpoint of ``varlen-lab train`` into a folder with safetensors, config and tokenizer.

    What the model is stands in the checkpoint; ``config`` is compared with it, and differences are noted.
    ``fp32`` casts the weights, otherwise the trained dtype stays. Raises InputError when the checkpoint is not
    ours, when ``save_dir`` holds something else, or when the logits do not come back.
    """
    save_dir = Path(save_dir)
    state = checkpoint.load(pth)
    trained = load_text(state["config"], f"the config inside {pth}").replace(name=state["config_name"])
    if save_dir.exists() and not save_dir.is_dir():
        raise InputError(f"{save_dir} is a file, the model needs a folder; choose another SAVE_DIR.")
    if save_dir.exists() and any(save_dir.iterdir()) and not (save_dir / MANIFEST).exists():
        raise InputError(f"{save_dir} is not empty and not a conversion of ours; choose another SAVE_DIR.")
    model = rebuild(state, fp32=fp32)
    tokenizer = load_tokenizer(trained)
    dtype = str(model.dtype).removeprefix("torch.")
    draft = save_dir.with_name(save_dir.name + ".unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        model.save_pretrained(draft, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(draft)
        gap = logit_difference(model, draft)
        if not gap <= 1e-5:
            raise InputError(
                f"the logits of the converted model differ by {gap:.1e}; nothing was written, this is a bug."
            )
        manifest = {"config": state["config_name"], "step": state["step"], "dtype": dtype, "logits": gap}
        (draft / "xtuner_config.py").write_text(state["config"], encoding="utf-8")
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if save_dir.exists():
            shutil.rmtree(save_dir)
        draft.rename(save_dir)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    parameters = sum(p.numel() for p in model.parameters())
    return Conversion(save_dir, state["step"], dtype, parameters, gap, differences(config, trained))


def rebuild(state: dict, *, fp32: bool) -> PreTrainedModel:
    """The trained model, from nothing but its checkpoint."""
    from transformers import AutoModelForCausalLM

    options = json.loads(state["model_config"])
    dtype = torch.float32 if fp32 else next(iter(state["model"].values())).dtype
    config = native_config(options)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=resolved(PLAIN, config))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as problem:
        raise InputError(f"the checkpoint's weights do not fit its own config ({problem}); it is damaged.") from None
    return model.eval()


def logit_difference(model: PreTrainedModel, folder: Path) -> float:
    """Largest difference of logits between a model and the same model opened from a folder, on fixed tokens."""
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=resolved(PLAIN, model.config)).eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((model(ids).logits - again(ids).logits).abs().max())


def differences(given: Config, trained: Config) -> tuple[str, ...]:
    """Where the config on the command line is not the one that was trained."""
    from varlen_lab.config import setting_names

    return tuple(
        f"{name} is {getattr(given, name)!r} in the config given, "
        f"the checkpoint was trained with {getattr(trained, name)!r}"
        for name in setting_names()
        if getattr(given, name) != getattr(trained, name)
    )
