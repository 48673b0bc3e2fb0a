"""A model becomes a Hugging Face folder, and the folder has to prove that it is the same model.

It is written beside its destination, opened again as a user would, and asked for the logits the model gave. Only then
does it take its name. The model lives in here alone and is gone before its folder is opened: two copies of the weights
are never held, so a machine that holds the model can convert it.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from varlen_lab.documents.jinja import chat_template
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.errors import InputError, first_line
from varlen_lab.files.manifests import write_manifest
from varlen_lab.files.writing import folder_written_whole, written_whole
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.models.building import PLAIN, resolve_attention
from varlen_lab.training.destination import INSTEAD, Destination
from varlen_lab.training.stopping import notes_on_stopping, stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 1e-5  # of logits that were copied


@dataclass(frozen=True)
class Made:
    """A model that is to become a folder; ``expected``: logits it must give but for ``tolerance``, if not its own."""

    model: Any
    expected: torch.Tensor | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Written:
    """What a folder holds, and how far its logits are from those expected."""

    parameters: int
    dtype: str
    notes: tuple[str, ...]
    gap: float


def write_folder(
    place: Destination,
    make: Callable[[], Made],
    reopen: Callable[[Path], Any],
    tokenizer: PreTrainedTokenizerBase,
    prompt_template: str,
    facts: dict[str, Any],
    texts: dict[str, str],
    max_shard_size: str,
) -> Written:
    """Write what ``make`` gives into a folder, open it again, compare logits, then give it its place.

    ``facts`` are kept in its manifest, ``texts`` (file name to text) beside it. InputError when the logits differ by
    more than rounding, and when there is no room.
    """
    with folder_written_whole(place.path, place.seen or ()) as draft:
        made = make()
        try:
            parameters, dtype, notes = save(made.model, draft, tokenizer, prompt_template, max_shard_size)
        except Exception as problem:  # safetensors and tokenizers have a class of their own for a full disk
            if not isinstance(problem, OSError | SafetensorError) and "os error" not in str(problem):
                raise
            raise InputError(
                f"{place.given} could not be written ({first_line(problem)}); make room, or choose another {INSTEAD}."
            ) from None
        own = logits_of(made.model)
        expected, tolerance = own if made.expected is None else made.expected, made.tolerance
        del made
        gc.collect()  # peft's wrapper and its model name each other
        found = logits_of(reopen(draft))
        gc.collect()  # its weights are mapped, and Windows moves no folder with a file that is
        copied, gap = (float((logits - found).abs().max()) for logits in (own, expected))
        if not (copied <= TOLERANCE and gap <= tolerance):
            raise InputError(
                f"the logits of the converted model differ by {max(copied, gap):.1e}; nothing was written, this is "
                "a bug of ours: please report it."
            )
        for name, text in texts.items():
            with written_whole(draft / name, "w") as file:
                file.write(text)
        write_manifest(draft, {**facts, "dtype": dtype, "logits": gap})
        place.check_unchanged()
    return Written(parameters, dtype, notes, gap)


@contextmanager
def in_a_sentence(save_dir: Path) -> Iterator[None]:
    """Inside, what the system says of a folder that is written is an InputError, as of a read-only disk."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None:  # transformers' own, of a model that is not there
            raise
        where = f": {problem.filename}" if problem.filename else ""
        raise InputError(
            f"{save_dir} could not be written ({problem.strerror}{where}); make room, or choose another {INSTEAD}."
        ) from None


def save(
    model: Any, folder: Path, tokenizer: PreTrainedTokenizerBase, prompt_template: str, max_shard_size: str
) -> tuple[int, str, tuple[str, ...]]:
    """Weights, config, settings of answering, and the tokenizer, which carries a named template from now on.

    Gives the number of parameters (tied ones once), their dtype, and notes.
    """
    from transformers import GenerationConfig, PreTrainedModel

    settings = model.generation_config
    whole = isinstance(model, PreTrainedModel)  # else peft's wrapper, which saves its adapter
    if whole:
        model.generation_config = GenerationConfig()  # transformers saves no settings that it would warn about
    with warnings.catch_warnings():  # peft asks the hub whether the base's vocabulary was changed; here none is
        warnings.filterwarnings("ignore", "Could not find a config file")
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    if prompt_template != OF_TOKENIZER:
        tokenizer.chat_template = chat_template(prompt_template, tokenizer)
    tokenizer.save_pretrained(folder)
    notes = notes_on_stopping(settings, tokenizer, prompt_template, whole=whole)
    if whole:
        # published settings may be ones that transformers warns about, and are kept all the same
        settings.eos_token_id = stop_ids(settings, tokenizer, prompt_template)
        settings._from_model_config = False  # else it could be made anew of the model's config, which has no such mark
        settings.to_json_file(folder / "generation_config.json")
    written = [parameter for parameter in model.parameters() if whole or parameter.requires_grad]
    return sum(one.numel() for one in written), dtype_name(written[0].dtype), notes


def open_plain(folder: Path) -> PreTrainedModel:
    """A model folder as a user opens it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    attention = resolve_attention(PLAIN, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, trust_remote_code=False)
    return model.eval()


def logits_of(model: Any) -> torch.Tensor:
    """On fixed tokens."""
    # of the weight, for an adapter's wrapper around it does not say how many words it has
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids).logits.float()
