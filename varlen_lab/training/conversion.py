"""Step 6: a checkpoint becomes a Hugging Face folder, and the folder has to prove that it is the same model.

``pth_to_hf``  an ``iter_N.pth`` (a file, or a folder of shards) becomes a model folder; of a LoRA run, an adapter
               folder
``merge``      a model and an adapter folder become one model folder

Weights keep the dtype they were trained in, a merged model that of its base. The folder answers as its publisher says
(``generation_config``), and stops at the end mark of the template it was trained with. ``folder`` writes and proves it,
``destination`` keeps what people have there. What is read is whole, bit by bit, or refused by name: a checkpoint has
its own digest, a folder of ours the digest of each file, an adapter that of the weights it was trained beside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.huggingface import register
from varlen_lab.config.schema import Config, setting_names
from varlen_lab.config.text import load_text
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.errors import InputError, first_line, of_kind, shortened, unknown_choice
from varlen_lab.files.manifests import MANIFEST, check_whole
from varlen_lab.files.reading import field, parse_json, read_text
from varlen_lab.models.adapters import add_adapter, base_model_name, open_adapter
from varlen_lab.models.building import (
    PLAIN,
    TORCH_DTYPES,
    empty_model,
    from_scratch,
    native_config,
    resolve_attention,
)
from varlen_lab.models.fingerprints import base_fingerprint, differ, weights_fingerprint
from varlen_lab.models.loading import load_model, with_generation_config
from varlen_lab.models.merging import merged, rounded
from varlen_lab.models.sources import locate_model
from varlen_lab.training.checkpoint import MAY_CHANGE, needed, read_checkpoint
from varlen_lab.training.data import load_tokenizer
from varlen_lab.training.destination import Destination, destination
from varlen_lab.training.engines import load_trained_weights
from varlen_lab.training.engines.shards import SHARDS, whole_weights
from varlen_lab.training.engines.zero import consolidate
from varlen_lab.training.folder import Made, in_a_sentence, logits_of, open_plain, write_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE_MERGED = 2e-4  # of logits whose adapter was added to the weights: fp32 sums in another order
CONFIG_FILE = "xtuner_config.py"  # in a folder of ours: the config it was trained with


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
    dtype: str = "auto",
    max_shard_size: str = "2GB",
) -> Conversion:
    """Convert a checkpoint of ``varlen-lab train`` into a folder with safetensors, config and tokenizer.

    What the model is stands in the checkpoint; ``config`` is compared with it, and differences are noted. Of a LoRA
    run the folder holds the adapter alone. ``dtype`` (auto, fp32, bf16, fp16; ``fp32`` says "fp32") casts the weights
    of a model, otherwise the trained dtype stays. Raises InputError when the checkpoint is not ours or not whole, when
    ``save_dir`` is no place for it, or when the logits do not come back.
    """
    of_kind("config", config, Config, "a Config", "load_config makes one of a file or a name")
    for what, path in (("pth", pth), ("save_dir", save_dir)):
        of_kind(what, path, (str, os.PathLike), "a path", "give it as a text")
    pth, save_dir = Path(pth), Path(save_dir)
    if fp32 and dtype not in ("auto", "fp32"):
        raise InputError(f"--fp32 and --dtype {dtype} contradict each other; give one of them.")
    wanted = dtype_named("fp32" if fp32 else dtype)
    with in_a_sentence(save_dir), destination(save_dir, pth) as place:
        return converted(config, pth, place, wanted, max_shard_size)


def converted(
    config: Config, pth: Path, place: Destination, wanted: torch.dtype | None, max_shard_size: str
) -> Conversion:
    """``convert`` into a folder that is kept for it."""
    state = read_checkpoint(pth, "config", "config_name", "step", "model_config")
    text = state["config"]
    trained = load_text(text, f"the config inside {pth}").replace(name=state["config_name"])
    facts = {"config": state["config_name"], "step": state["step"]}
    noted = state.get("meta", {}).get("base")
    place.check_room(sum(weight.nbytes for weight in state.get("model", {}).values()))
    del state  # it holds all weights; who makes the model reads them again, and lets go of them
    notes = changed_settings(config, trained)
    if trained.method == "full":
        make: Callable[[], Made] = lambda: Made(full_model(pth, trained, wanted))  # noqa: E731
        reopen: Callable[[Path], Any] = open_plain
    else:
        name = trained.pretrained_model_name_or_path or "the model_config"
        facts["base"] = base_fingerprint(trained)
        check_base(f"the adapter in {pth}", noted, name, facts["base"], "put back the model that it was trained on")
        make = lambda: Made(adapted_model(pth, trained))  # noqa: E731
        reopen = lambda folder: open_adapter(base_model(trained), folder).eval()  # noqa: E731
        if wanted is not None:
            notes += ("--fp32 or --dtype changes nothing, an adapter is kept in fp32; merge has --dtype",)
    tokenizer, template = load_tokenizer(trained), trained.prompt_template
    done = write_folder(place, make, reopen, tokenizer, template, facts, {CONFIG_FILE: text}, max_shard_size)
    kind = "model" if trained.method == "full" else "adapter"
    return Conversion(place.given, facts["step"], done.dtype, done.parameters, done.gap, notes + done.notes, kind)


def merge(
    llm: str | Path, adapter: str | Path, save_dir: str | Path, *, dtype: str = "auto", max_shard_size: str = "2GB"
) -> Conversion:
    """Add an adapter folder's matrices to the weights of the model it was trained on.

    ``dtype``: auto, which is that of the model, fp32, bf16 or fp16; sums are taken in fp32 and rounded once. The
    logits of the merged folder are compared with those of model and adapter side by side: in fp32 they must come back,
    in less the difference is what rounding makes of them, and every layer must come back before it is rounded. Raises
    InputError when they do not, when the two do not belong together, and when a folder of ours is not whole.
    """
    adapter, save_dir = Path(adapter), Path(save_dir)
    wanted = dtype_named(dtype)
    read = [adapter, *(path for path in [Path(llm)] if path.exists())]
    with in_a_sentence(save_dir), destination(save_dir, *read) as place:
        return merged_folder(str(llm), adapter, place, wanted, max_shard_size)


def merged_folder(
    llm: str, adapter: Path, place: Destination, wanted: torch.dtype | None, max_shard_size: str
) -> Conversion:
    """``merge`` into a folder that is kept for it."""
    if not adapter.is_dir():
        raise InputError(f"there is no adapter folder {adapter}; make one with convert pth_to_hf.")
    again = "make it again with convert pth_to_hf"
    manifest, template = check_whole(adapter, again), template_of(adapter)
    step = field(manifest, "step", int, str(adapter / MANIFEST), again) if manifest else 0
    folder = Path(locate_model(llm).folder)
    check_whole(folder, "convert it again, or copy it again from where it is whole")
    named = base_model_name(adapter)
    if "base" in manifest:
        now = weights_fingerprint(llm)
        before = field(manifest, "base", (str, NoneType), str(adapter / MANIFEST), again)
        check_base(f"the adapter {adapter}", before, llm, now, f"name the model it was trained on ({named})")
    place.check_room(sum(file.stat().st_size for file in folder.glob("*.safetensors")))

    def make() -> Made:
        both = open_adapter(load_model(llm, PLAIN, "auto"), adapter).eval()
        if getattr(both.config, "quantization_config", None) is not None:
            raise InputError(
                f"the weights of {llm} are quantised and nothing can be added to them; name the model it was made of."
            )
        exact = {weight.dtype for weight in both.parameters()} | {wanted or torch.float32} == {torch.float32}
        before = logits_of(both)
        return Made(merged(both, wanted), before, TOLERANCE_MERGED if exact else torch.inf)

    tokenizer = load_tokenizer(Config(pretrained_model_name_or_path=llm))
    facts = {"model": llm, "adapter": str(adapter), "step": step}
    notes: tuple[str, ...] = (
        (f"the adapter was trained on {named!r} and is merged into {llm!r}",)
        if named and Path(named).name != Path(llm).name
        else ()
    )
    done = write_folder(place, make, open_plain, tokenizer, template, facts, {}, max_shard_size)
    if done.dtype != "float32":
        notes += (
            f"every layer was checked in float32 and then rounded to {done.dtype}, which moves logits by max |Δ| below",
        )
    return Conversion(place.given, step, done.dtype, done.parameters, done.gap, notes + done.notes)


def check_base(what: str, before: Any, name: str, now: str | None, instead: str) -> None:
    """InputError when an adapter was trained beside other weights than the model ``name`` has now."""
    if differ(before, now):
        raise InputError(
            f"{what} does not fit {name}: it was trained beside weights of the fingerprint {before}, these have {now}; "
            f"{instead}."
        )


def template_of(adapter: Path) -> str:
    """The prompt_template an adapter of ours was trained with; of anybody else's, the tokenizer's own."""
    path = adapter / CONFIG_FILE
    if not path.is_file():
        return OF_TOKENIZER
    return load_text(read_text(path, "make the adapter again with convert pth_to_hf"), str(path)).prompt_template


def dtype_named(word: str) -> torch.dtype | None:
    """The dtype of ``--dtype``; None for auto. InputError for another word."""
    if word not in ("auto", *TORCH_DTYPES):
        raise unknown_choice("--dtype", word, ["auto", *TORCH_DTYPES])
    return TORCH_DTYPES.get(word)


def weights_in(pth: Path, state: dict[str, Any], *, adapter: bool) -> dict[str, torch.Tensor]:
    """The whole weights of a checkpoint (of an adapter, its own), whichever engine wrote it, in however many pieces."""
    if SHARDS in state:
        return whole_weights(pth, state)
    return consolidate(pth, adapter) if pth.is_dir() else needed(pth, state, "model")["model"]


def full_model(pth: Path, trained: Config, dtype: torch.dtype | None) -> PreTrainedModel:
    """The trained model, from its checkpoint; its weights are the checkpoint's own memory unless ``dtype`` casts them.

    How it answers is what the folder of its base says, if there is a base.
    """
    state = read_checkpoint(pth)
    weights = weights_in(pth, state, adapter=False)
    config = native_config(parse_json(state["model_config"], f"model_config of {pth}", "take another checkpoint"))
    if dtype is not None:
        weights = {name: rounded(value, dtype, name) for name, value in weights.items()}
    register()
    model = empty_model(config, resolve_attention(PLAIN, config))
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as problem:
        raise InputError(
            f"the weights of {pth} do not fit the config beside them ({shortened(first_line(problem))}); it is "
            "damaged, take another."
        ) from None
    # assign put two tensors where a tied output layer and the embedding are one
    model.tie_weights()
    model.config.dtype = next(iter(weights.values())).dtype
    base = trained.pretrained_model_name_or_path
    return (model if base is None else with_generation_config(model, locate_model(base).folder)).eval()


def base_model(config: Config) -> PreTrainedModel:
    """The model an adapter was trained on, as it was before."""
    if config.pretrained_model_name_or_path is None:
        return from_scratch(config.model_config or {}, PLAIN, seed=config.seed)
    return load_model(config.pretrained_model_name_or_path, PLAIN, "auto")


def adapted_model(pth: Path, config: Config) -> Any:
    """The base model with the trained adapter on it; a quantised base is opened unquantised."""
    weights = weights_in(pth, read_checkpoint(pth), adapter=True)
    model = add_adapter(base_model(config), config)
    try:
        load_trained_weights(model, weights)
    except RuntimeError as problem:
        raise InputError(
            f"the adapter does not fit {config.pretrained_model_name_or_path!r} ({shortened(first_line(problem))}); it "
            "was trained on another model of this name."
        ) from None
    return model.eval()


def changed_settings(given: Config, trained: Config) -> tuple[str, ...]:
    """Where the config on the command line is not the one that was trained."""
    return tuple(
        f"{name} is {getattr(given, name)!r} in the config given, "
        f"the checkpoint was trained with {getattr(trained, name)!r}"
        for name in setting_names()
        if name not in MAY_CHANGE and getattr(given, name) != getattr(trained, name)
    )
