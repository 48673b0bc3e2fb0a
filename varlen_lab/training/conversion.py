"""Step 6: a checkpoint becomes a Hugging Face folder, and the folder has to prove that it is the same model.

``pth_to_hf``  an ``iter_N.pth`` (a file, or a folder of shards) becomes a model folder; of a LoRA run, an adapter
               folder
``merge``      a model and an adapter folder become one model folder

The folder is written beside its destination, opened again as a user would, and its logits are compared with the
checkpoint's. Only then does it take its name. Weights keep the dtype they were trained in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from varlen_lab.attention.huggingface import register
from varlen_lab.config.schema import Config, setting_names
from varlen_lab.config.text import load_text
from varlen_lab.errors import InputError, first_line
from varlen_lab.files.writing import folder_written_whole
from varlen_lab.models.adapters import add_adapter, base_model_name, open_adapter
from varlen_lab.models.building import PLAIN, empty_model, from_scratch, native_config, resolve_attention
from varlen_lab.models.loading import load_model
from varlen_lab.training.checkpoint import MAY_CHANGE, read_checkpoint
from varlen_lab.training.data import load_tokenizer
from varlen_lab.training.engines import load_trained_weights
from varlen_lab.training.engines.shards import SHARDS, whole_weights
from varlen_lab.training.engines.zero import consolidate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "varlen_lab.json"  # marks a folder as a conversion of ours, which may be written anew
TOLERANCE = 1e-5  # of logits that were copied
TOLERANCE_MERGED = 2e-4  # of logits whose adapter was added to the weights: fp32 sums in another order


@dataclass(frozen=True)
class Conversion:
    """What was written and how far its logits are from the checkpoint's (0 for an exact copy)."""

    folder: Path
    step: int
    dtype: str
    parameters: int
    max_logit_difference: float
    notes: tuple[str, ...] = ()
    kind: str = "model"  # or adapter


def convert(
    config: Config,
    pth: str | Path,
    save_dir: str | Path,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
) -> Conversion:
    """Convert a checkpoint of ``varlen-lab train`` into a folder with safetensors, config and tokenizer.

    What the model is stands in the checkpoint; ``config`` is compared with it, and differences are noted. Of a LoRA
    run the folder holds the adapter alone. ``fp32`` casts the weights, otherwise the trained dtype stays. Raises
    InputError when the checkpoint is not ours, when ``save_dir`` holds something else, or when the logits do not come
    back.
    """
    pth, save_dir = Path(pth), Path(save_dir)
    state = read_checkpoint(pth)
    trained = load_text(state["config"], f"the config inside {pth}").replace(name=state["config_name"])
    check_free(save_dir)
    weights = weights_in(pth, state, adapter=trained.method != "full")
    notes = changed_settings(config, trained)
    if trained.method == "full":
        model: Any = full_model(state["model_config"], weights, fp32=fp32)
        reopen: Callable[[Path], Any] = lambda folder: open_plain(folder, model)  # noqa: E731
    else:
        model = adapted_model(trained, weights)
        reopen = lambda folder: open_adapter(base_model(trained), folder).eval()  # noqa: E731
        if fp32:
            notes += ("--fp32 changes nothing, an adapter is trained and kept in fp32",)
    dtype = str(next(iter(weights.values())).dtype if not fp32 else torch.float32).removeprefix("torch.")
    facts = {"config": state["config_name"], "step": state["step"], "dtype": dtype}
    gap = write_folder(model, load_tokenizer(trained), save_dir, reopen, facts, max_shard_size, state["config"])
    # a tied output layer has two names in a checkpoint, and is one tensor of the model
    counted = model.parameters() if trained.method == "full" else weights.values()
    parameters = sum(value.numel() for value in counted)
    kind = "model" if trained.method == "full" else "adapter"
    return Conversion(save_dir, state["step"], dtype, parameters, gap, notes, kind)


def weights_in(pth: Path, state: dict[str, Any], *, adapter: bool) -> dict[str, torch.Tensor]:
    """The whole weights of a checkpoint (of an adapter, its own), whichever engine wrote it, in however many pieces."""
    if SHARDS in state:
        return whole_weights(pth, state)
    return consolidate(pth, adapter) if pth.is_dir() else state["model"]


def merge(llm: str | Path, adapter: str | Path, save_dir: str | Path, *, max_shard_size: str = "2GB") -> Conversion:
    """Add an adapter folder's matrices to the weights of the model it was trained on.

    The merged folder's logits are compared with those of model and adapter side by side. Raises InputError when the
    two do not belong together or the logits do not come back.
    """
    adapter, save_dir = Path(adapter), Path(save_dir)
    check_free(save_dir)
    if not adapter.is_dir():
        raise InputError(f"there is no adapter folder {adapter}; make one with convert pth_to_hf.")
    base = load_model(str(llm), PLAIN)
    both = open_adapter(base, adapter).eval()
    # now: merge_and_unload changes the model in place
    before = logits_of(both)
    model = both.merge_and_unload()
    tokenizer = load_tokenizer(Config(pretrained_model_name_or_path=str(llm), evaluation_freq=0))
    manifest = adapter / MANIFEST
    parameters = sum(p.numel() for p in model.parameters())
    step = json.loads(manifest.read_text(encoding="utf-8"))["step"] if manifest.is_file() else 0
    dtype = str(model.dtype).removeprefix("torch.")
    facts = {"model": str(llm), "adapter": str(adapter), "step": step, "dtype": dtype}
    named = base_model_name(adapter)
    notes = (
        (f"the adapter was trained on {named!r} and is merged into {str(llm)!r}",)
        if named and Path(named).name != Path(str(llm)).name
        else ()
    )
    reopen = lambda folder: open_plain(folder, model)  # noqa: E731
    gap = write_folder(model, tokenizer, save_dir, reopen, facts, max_shard_size, None, before)
    return Conversion(save_dir, step, dtype, parameters, gap, notes)


def check_free(save_dir: Path) -> None:
    """InputError when a folder holds something that is not ours to overwrite."""
    if save_dir.exists() and not save_dir.is_dir():
        raise InputError(f"{save_dir} is a file, the model needs a folder; choose another SAVE_DIR.")
    if save_dir.exists() and any(save_dir.iterdir()) and not (save_dir / MANIFEST).exists():
        raise InputError(f"{save_dir} is not empty and not a conversion of ours; choose another SAVE_DIR.")


def write_folder(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    save_dir: Path,
    reopen: Callable[[Path], Any],
    facts: dict[str, Any],
    max_shard_size: str,
    config_text: str | None,
    expected: torch.Tensor | None = None,
) -> float:
    """Write a folder, open it again, compare logits with ``expected`` (by default the model's own), then name it.

    Returns the largest difference; InputError when it is more than rounding.
    """
    with folder_written_whole(save_dir) as draft:
        try:
            model.save_pretrained(draft, max_shard_size=max_shard_size)
            tokenizer.save_pretrained(draft)
        except Exception as problem:  # safetensors and tokenizers have a class of their own for a full disk
            if not isinstance(problem, OSError | SafetensorError) and "os error" not in str(problem):
                raise
            raise InputError(
                f"{save_dir} could not be written ({first_line(problem)}); make room, or choose another SAVE_DIR."
            ) from None
        gap = logit_difference(model, draft, reopen, expected)
        if not gap <= (TOLERANCE if expected is None else TOLERANCE_MERGED):
            raise InputError(
                f"the logits of the converted model differ by {gap:.1e}; nothing was written, this is a bug."
            )
        if config_text is not None:
            (draft / "xtuner_config.py").write_text(config_text, encoding="utf-8")
        (draft / MANIFEST).write_text(json.dumps({**facts, "logits": gap}, indent=1), encoding="utf-8")
    return gap


def full_model(model_config: str, weights: dict[str, torch.Tensor], *, fp32: bool) -> PreTrainedModel:
    """The trained model, from nothing but its checkpoint; its weights are the checkpoint's own memory, not a copy."""
    config = native_config(json.loads(model_config))
    weights = {name: value.float() if fp32 and value.is_floating_point() else value for name, value in weights.items()}
    register()
    model = empty_model(config, resolve_attention(PLAIN, config))
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as problem:
        raise InputError(f"the checkpoint's weights do not fit its own config ({problem}); it is damaged.") from None
    # assign put two tensors where a tied output layer and the embedding are one
    model.tie_weights()
    model.config.dtype = next(iter(weights.values())).dtype
    return model.eval()


def base_model(config: Config) -> PreTrainedModel:
    """The model an adapter was trained on, as it was before."""
    if config.pretrained_model_name_or_path is None:
        return from_scratch(config.model_config or {}, PLAIN, seed=config.seed)
    return load_model(config.pretrained_model_name_or_path, PLAIN)


def adapted_model(config: Config, weights: dict[str, torch.Tensor]) -> Any:
    """The base model with the trained adapter on it; a quantised base is opened unquantised."""
    model = add_adapter(base_model(config), config)
    try:
        load_trained_weights(model, weights)
    except RuntimeError as problem:
        raise InputError(
            f"the adapter does not fit {config.pretrained_model_name_or_path!r} ({problem}); it was trained on "
            "another model of this name."
        ) from None
    return model.eval()


def open_plain(folder: Path, like: PreTrainedModel) -> PreTrainedModel:
    """A model folder as a user opens it."""
    from transformers import AutoModelForCausalLM

    attention = resolve_attention(PLAIN, like.config)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


def logits_of(model: Any) -> torch.Tensor:
    """On fixed tokens."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def logit_difference(
    model: Any, folder: Path, reopen: Callable[[Path], Any], expected: torch.Tensor | None = None
) -> float:
    """Largest difference of logits between a model (or what is ``expected``) and what a folder gives."""
    if expected is None:
        expected = logits_of(model)
    return float((expected - logits_of(reopen(folder))).abs().max())


def changed_settings(given: Config, trained: Config) -> tuple[str, ...]:
    """Where the config on the command line is not the one that was trained."""
    return tuple(
        f"{name} is {getattr(given, name)!r} in the config given, "
        f"the checkpoint was trained with {getattr(trained, name)!r}"
        for name in setting_names()
        if name not in MAY_CHANGE and getattr(given, name) != getattr(trained, name)
    )
