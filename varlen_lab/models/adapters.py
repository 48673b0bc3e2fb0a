"""LoRA and QLoRA: the model is frozen, and every linear layer but the head gets two thin matrices to train.

``method = "lora"`` keeps the frozen weights as they are, in a bf16 run in the dtype of their checkpoint, ``"qlora"`` in
four bits (nf4, double quantisation, through bitsandbytes). A checkpoint then holds the thin matrices only; the frozen
weights stay where they came from, until ``merging`` adds the matrices to them. Counting weights and bytes is here too,
for only here four bits look like bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, first_line, plural, quoted
from varlen_lab.files.reading import read_json
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.models.seeding import BUILDING, seeded
from varlen_lab.models.stated import foreign
from varlen_lab.models.weights import ANEW, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FUSED = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")  # model types


def add_adapter(model: PreTrainedModel, config: Config, dtype: torch.dtype = torch.float32) -> Any:
    """The model inside peft's wrapper, frozen but for its adapter of ``dtype``; the same seed draws the same adapter.

    Raises InputError when peft is missing, refuses the model, or finds no linear layer in it to adapt.
    """
    from accelerate import init_empty_weights

    peft = import_peft()
    quantised = getattr(model, "is_loaded_in_4bit", False)
    for parameter in model.parameters():
        parameter.requires_grad = False
    lora = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=linear_layers(model),
        task_type="CAUSAL_LM",
        # GPT-2 keeps its matrices the other way round
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    # without weights the adapter has none either
    empty = any(parameter.is_meta for parameter in model.parameters())
    # the run's own random numbers must not depend on how many an adapter draws
    with seeded(config.seed), init_empty_weights(include_buffers=False) if empty else nullcontext():
        try:
            with no_future_of_peft():
                wrapped = peft.get_peft_model(model, lora)
        except ValueError as problem:  # weights of experts in one tensor take no dropout
            raise InputError(
                f"peft does not adapt {type(model).__name__} ({first_line(problem)}); set lora_dropout = 0, or "
                "method = 'full'."
            ) from None
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if config.gradient_checkpointing or quantised:
        model.enable_input_require_grads()  # else nothing in front of the first adapter would need a gradient
    return wrapped


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Last names of the linear layers, the head left out: what XTuner's ``find_all_linear_names`` gives.

    peft's own ``target_modules="all-linear"`` is another choice: in some mixtures of experts it adapts the router too.
    """
    head = model.get_output_embeddings()
    # kernels of these take the weights of one layer past its adapter, so that peft refuses it
    past = {"out_proj"} if getattr(model.config, "model_type", None) in FUSED else set()
    names = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ in ("Linear4bit", "Conv1D"))
        and module is not head
    } - past
    if not names:
        raise InputError("the model has no linear layer that LoRA could adapt; use method = 'full'.")
    return sorted(names)


def weight_count(parameter: torch.Tensor) -> int:
    """Weights that a parameter holds: of a four-bit layer they lie two in a byte, and ``numel`` counts bytes."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()


def bytes_held(parameter: torch.Tensor) -> int:
    """Bytes of a parameter, and of the constants with which a four-bit layer becomes numbers again."""
    tensors, packed = [parameter], getattr(parameter, "quant_state", None)
    while packed is not None:  # double quantisation: the constants have constants
        tensors += [value for value in vars(packed).values() if isinstance(value, torch.Tensor)]
        packed = packed.state2
    return sum(one.numel() * one.element_size() for one in tensors)


def frozen_in_words(model: torch.nn.Module) -> str:
    """What frozen weights are kept in, such as ``, frozen bfloat16``; nothing where all are trained."""
    kinds = {
        "4 bits" if getattr(p, "quant_state", None) is not None else dtype_name(p.dtype)
        for p in model.parameters()
        if not p.requires_grad
    }
    return f", frozen {' and '.join(sorted(kinds))}" if kinds else ""


def four_bit_settings(device: str, dtype: str = "fp32") -> Any:
    """transformers' settings for a model frozen in four bits, in a run of ``dtype`` (fp32, bf16, fp16).

    InputError with the reason where that cannot run.
    """
    from transformers import BitsAndBytesConfig

    if device == "mps":
        raise InputError(
            "method = 'qlora' keeps weights in four bits, which bitsandbytes has no kernels for on device 'mps'; use "
            "method = 'lora', or device = 'cpu'."
        )
    try:
        import bitsandbytes  # noqa: F401
    except Exception as problem:  # its native library fails in many ways
        raise InputError(
            f"method = 'qlora' needs bitsandbytes, which does not import here ({problem}); "
            "pip install bitsandbytes, or use method = 'lora'."
        ) from None
    # on a CPU without bf16 units computing in bf16 is four times slower than in fp32
    compute = torch.bfloat16 if device == "cuda" and dtype == "bf16" else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def import_peft() -> Any:
    """The package peft; InputError with the command that installs it where it is missing."""
    try:
        import peft
    except ImportError:
        raise InputError("LoRA needs peft, which is not installed; pip install 'varlen_lab[peft]'.") from None
    return peft


def base_model_name(folder: Path) -> str | None:
    """The model an adapter folder belongs to, or None when the folder holds no adapter, or does not say."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    settings: dict[str, Any] = read_json(path, "make the adapter again with convert pth_to_hf")
    name = settings.get("base_model_name_or_path")
    return name if isinstance(name, str) else None


@contextmanager
def no_future_of_peft() -> Iterator[None]:
    """Leave out what transformers will rename in a year and peft still calls by its old name: theirs to settle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
        yield


def open_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """A model with a saved adapter on it; InputError when they do not belong together, or the folder is damaged.

    Nothing that its settings name is imported, and all matrices that they speak of must be there: peft leaves those
    that are missing as they were drawn, and drops what it has no place for.
    """
    peft = import_peft()
    path, again = folder / "adapter_config.json", "make the adapter again with convert pth_to_hf"
    if not path.is_file():
        raise InputError(f"{folder} has no adapter_config.json; make an adapter folder with convert pth_to_hf.")
    settings: dict[str, Any] = read_json(path, again)
    if settings.get("megatron_config"):
        raise InputError(f"{path} asks for a package of its choice, and nothing that a folder names is run; {again}.")
    shapes = shapes_in(folder, settings)

    def refused(problem: BaseException) -> InputError:
        if isinstance(problem, UserWarning):
            count = plural(str(problem).count("'") // 2, "weight")
            return InputError(f"{folder} lacks {count} that its adapter_config.json speaks of; {again}.")
        # settings and weights that are none fail wherever peft happens to need them
        return InputError(
            f"the adapter in {folder} does not fit the model ({type(problem).__name__}: {first_line(problem)}); name "
            f"the model it was trained on, or {again}."
        )

    with foreign(refused), BUILDING, no_future_of_peft():
        warnings.filterwarnings("error", ".*Found missing adapter keys")
        both = peft.PeftModel.from_pretrained(model, str(folder))
        taken = peft.get_peft_model_state_dict(both, save_embedding_layers=False)
    if more := sorted(set(shapes) - set(taken) - set(both.state_dict())):  # embeddings may have been saved with it
        raise InputError(f"{folder} has {plural(len(more), 'weight')} without a place ({more[0]}); {again}.")
    if bad := [name for name, weight in taken.items() if not weight.isfinite().all()]:
        raise InputError(f"{folder} has weights that are no numbers ({bad[0]}); {again}.")
    return both


def shapes_in(folder: Path, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's weights in safetensors by name; InputError for a damaged file or a made-up rank."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():  # whoever reads a .bin reads it weights-only
        return {}
    shapes = {name: one.shape for name, one in stored_tensors(path).items()}
    rank, most = settings.get("r"), max((max(shape) for shape in shapes.values() if shape), default=0)
    if isinstance(rank, int) and rank > max(most, 1):  # memory for it would be asked for
        raise InputError(f"{folder} has r = {quoted(rank)} in its settings and matrices of {most} at most; {ANEW}.")
    return shapes
