"""A GGUF file as a Hugging Face folder in the cache: transformers' loader reads it once, then it opens in a moment.

transformers dequantises a file each time it is opened, three times in part for a model and its tokenizer, and what it
gives cannot be saved as it is. The folder is an ordinary one: weights in float32 (in half precision where the file has
nothing finer), config, generation config, tokenizer with its chat template. Its name holds the SHA-256 of the file.

What the loader would leave out or make up is refused: a weight that the file lacks would be random, and one that the
model has no place for (Llama 3.1's stretched frequencies) would be dropped without a word.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError, first_line
from varlen_lab.files.kept import folder_as_written, list_digests
from varlen_lab.files.reading import refuse_pipe
from varlen_lab.files.strict import strict_json
from varlen_lab.files.writing import DAY, cache_dir, folder_written_whole, remove, remove_unfinished
from varlen_lab.machine.console import track

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

FOLDER_FORMAT = 3  # another number when the same file becomes another folder
# of a file's tokenizer.ggml.NAME_token_id -> of a tokenizer; transformers 5.17 takes the begin mark for the end
SPECIAL_TOKENS = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token"}
OLD_KINDS = ("llama", "gpt2", "t5")  # of tokenizers that transformers reads where it has a converter a family


def folder_of(file: Path) -> Path:
    """The folder of a GGUF file in the cache, made now if it is not there; InputError where it cannot be opened."""
    try:
        refuse_pipe(file, "name the file of the model")
        facts = file.stat()
        digest = digest_of_file(str(file.resolve()), facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}; check the path.") from None
    except OSError as problem:
        raise InputError(f"{file} cannot be read ({problem.strerror}); check its permissions.") from None
    name = f"gguf-{digest[:20]}"
    folder = cache_dir() / f"{name}-{FOLDER_FORMAT}-{importlib.metadata.version('transformers')}"
    if folder_as_written(folder):
        return folder
    reader = opened(file)
    dtype = stored_dtype(reader)
    size = sum(int(one.n_elements) for one in reader.tensors) * dtype.itemsize
    note = f"{file.name} is unpacked once, {size / 2**20:,.0f} MB in {folder}; from then on it opens in a moment"
    warnings.warn(note, stacklevel=2)
    try:
        remove_unfinished(cache_dir(), "gguf-*", older_than=DAY)
        with folder_written_whole(folder) as draft:
            write_folder(file, reader, dtype, draft)
            list_digests(draft)
    except OSError as problem:
        raise InputError(
            f"{file} could not be unpacked into {folder} ({first_line(problem)}); make room, or set VARLEN_LAB_CACHE "
            "to another folder."
        ) from None
    for old in cache_dir().glob(f"{name}-*"):  # of another version of transformers
        if old != folder:
            remove(old)
    return folder


@cache
def digest_of_file(path: str, size: int, changed: int) -> str:
    """The SHA-256 of a file in hex digits; size and time of its last change are asked for so that it is read once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(file: Path) -> GGUFReader:
    """The file with its tensors mapped into memory; InputError for one that is damaged, cut short, or not known."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(
            f"{file.name} is a GGUF file, and the package gguf that reads it is not installed; pip install gguf."
        ) from None
    try:
        reader = GGUFReader(file)
        reader.fields["general.architecture"].contents()
    except Exception as problem:  # bytes where numbers should be: it fails wherever it happens to be
        said = f"{type(problem).__name__}: {first_line(problem)}"
        if "GGMLQuantizationType" in said:
            raise InputError(
                f"{file} is quantised in a way that the package gguf does not know ({said}); take another file of "
                "this model, or a newer gguf."
            ) from None
        raise InputError(
            f"{file} is no whole GGUF file ({said}); it is damaged or cut short, fetch it again."
        ) from None
    return reader


def stored_dtype(reader: GGUFReader) -> torch.dtype:
    """The finest dtype that loses nothing of the file: float32 for blocks of few bits, they have a scale each."""
    kinds = {one.tensor_type.name for one in reader.tensors}
    if not kinds <= {"F32", "F16", "BF16"}:
        return torch.float32
    # norms are F32 beside half precision: the matrices say what the model was saved in
    return torch.bfloat16 if "BF16" in kinds else torch.float16 if "F16" in kinds else torch.float32


def write_folder(file: Path, reader: GGUFReader, dtype: torch.dtype, folder: Path) -> None:
    """Model and tokenizer of a GGUF file into an empty folder; OSError for a full disk, else InputError."""
    from safetensors import SafetensorError

    model = model_of(file, reader, dtype)
    tokenizer = tokenizer_of(file, reader)
    rows, tokens = model.get_input_embeddings().num_embeddings, count_of_tokens(reader)
    if tokens > rows:
        raise InputError(
            f"the tokenizer in {file} writes {tokens:,} tokens and its model knows {rows:,}; they do not belong "
            "together, take another file."
        )
    try:
        # saving may import DeepSpeed, which writes to stdout what it thinks of the machine
        with redirect_stdout(io.StringIO()):
            model.save_pretrained(folder, max_shard_size="1000GB")
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
                drop_made_up_tokens(folder / "tokenizer.json", tokens)
    except SafetensorError as problem:
        raise OSError(first_line(problem)) from None


def model_of(file: Path, reader: GGUFReader, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a GGUF file, every weight from the file and every value of the file in it; else InputError."""
    import transformers

    # newer ones may keep weights in their blocks, which cannot train
    packed = getattr(transformers, "GgufConfig", None)
    more = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    try:
        with bars_on_terminals_only():
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                gguf_file=file.name,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                trust_remote_code=False,
                **more,
            )
    except Exception as problem:  # an unknown architecture, a missing key, a block format without a reader, ...
        architecture = reader.fields["general.architecture"].contents()
        raise InputError(
            f"{file} cannot be opened as a causal language model (architecture {architecture!r}; "
            f"{type(problem).__name__}: {first_line(problem)}); take the model's own folder, or another file of it."
        ) from None
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"{file} lacks {len(missing)} of the model's weights ({missing[0]}, ...); it is one part of several, or "
            "damaged, take a whole file."
        )
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    held = sum(int(one.n_elements) for one in reader.tensors if not (tied and one.name == "output.weight"))
    taken = sum(weight.numel() for weight in model.parameters())
    if held != taken:
        raise InputError(
            f"{file} holds {held:,} values and transformers takes {taken:,} of them into a "
            f"{type(model).__name__}{known_reason(reader)}; the model would be another, take its own folder."
        )
    model.hf_quantizer = None  # nothing is quantised any more, and what is may not be saved
    for left in ("quantization_config", "_model_name_or_path"):  # the second is the title of the file, no path
        vars(model.config).pop(left, None)
    return model


def known_reason(reader: GGUFReader) -> str:
    """What is known to be left out of such a file, in words; nothing where that is not known."""
    names = [one.name for one in reader.tensors]
    return ", without rope_freqs, its stretched rotary frequencies" if "rope_freqs.weight" in names else ""


def tokenizer_of(file: Path, reader: GGUFReader) -> Any:
    """The tokenizer in a GGUF file, None when it brings none; InputError for one that cannot be opened."""
    if not count_of_tokens(reader):
        return None
    from transformers import AutoTokenizer
    from transformers.integrations import ggml

    try:
        kind = reader.fields["tokenizer.ggml.model"].contents()
        if hasattr(ggml, "GGUF_TO_FAST_CONVERTERS") and kind not in OLD_KINDS:
            raise ValueError(f"it is of the kind {kind!r}")
        tokenizer = AutoTokenizer.from_pretrained(
            str(file.parent), gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
        for field, name in SPECIAL_TOKENS.items():
            stated = reader.fields.get(f"tokenizer.ggml.{field}_token_id")
            if stated is not None and 0 <= int(stated.contents()) < len(tokenizer):
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(stated.contents())))
        return tokenizer
    except Exception as problem:  # as many kinds as there are kinds of tokenizers
        raise InputError(
            f"the tokenizer in {file} cannot be opened ({type(problem).__name__}: {first_line(problem)}); take the "
            "model's own folder, or another file of it."
        ) from None


def count_of_tokens(reader: GGUFReader) -> int:
    """How many tokens a GGUF file lists, 0 where it brings no tokenizer."""
    listed = reader.fields.get("tokenizer.ggml.tokens")
    return len(listed.data) if listed else 0


def drop_made_up_tokens(path: Path, tokens: int) -> None:
    """Take out of a tokenizer.json what transformers adds behind the file's own tokens: the model has no row for it.

    Its class for byte-level BPE brings an ``<|endoftext|>``, also where the vocabulary has none.
    """
    facts = json.loads(path.read_text(encoding="utf-8"))
    own = [one for one in facts["added_tokens"] if one["id"] < tokens]
    if own != facts["added_tokens"]:
        path.write_text(strict_json(facts | {"added_tokens": own}, ensure_ascii=False), encoding="utf-8", newline="\n")


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Inside, the bar of dequantised tensors is ours, drawn on a terminal and nowhere else: theirs has no setting."""
    from transformers import modeling_gguf_pytorch_utils as loader

    bar = getattr(loader, "tqdm", None)
    if bar is None:
        yield
        return
    loader.tqdm = lambda tensors, **words: track(tensors, "unpacking", len(tensors))
    try:
        yield
    finally:
        loader.tqdm = bar
