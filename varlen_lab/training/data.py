"""From a config to rows: tokenizer, documents, rows, each made once and kept.

    records  --read, template, tokenise-->  documents  --pack-->  rows

Tokenised documents are an Arrow file in the cache folder, ``documents-KEY.arrow``. The key is made of what goes in (the
bytes of the data files, the tokenizer's own text, the template, the settings that change a document), so a second run,
a resume, ``compare`` or ``log-dataset`` of the same data tokenises nothing, and a byte more or less makes another file.
Packed rows lie beside it. Both are mapped into memory, never read into lists. A file that is cut or damaged is made
again, and a note says so; where nothing can be kept, a warning says so and the run takes its time.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from varlen_lab.config.schema import Config
from varlen_lab.documents import tokens
from varlen_lab.documents.builtin import CORPUS_VERSION, builtin_tokenizer
from varlen_lab.documents.days import day_written
from varlen_lab.documents.loading import load_documents
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES
from varlen_lab.documents.sources import ending_of, locate
from varlen_lab.errors import InputError
from varlen_lab.files.kept import as_written, end_with_digest
from varlen_lab.files.writing import cache_dir, content_digest, fingerprint, keep_in_cache
from varlen_lab.models.sources import locate_model
from varlen_lab.packing.rows import document_lengths
from varlen_lab.packing.strategies import PackReport, pack_lengths, packed_rows
from varlen_lab.packing.trained import trained_in_plan

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DOCUMENTS_FORMAT = 3  # another number when the same record comes out as other tokens, or the file is laid out anew


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the model; a model from scratch takes the built-in one.

    A tiny stand-in saved by ``varlen_lab.models`` has no tokenizer file but the built-in one's vocabulary size, and is
    given it; any other folder without a tokenizer, or with one that does not open, is an InputError.
    """
    name = config.pretrained_model_name_or_path
    if name is None:
        builtin = builtin_tokenizer()
        size = (config.model_config or {}).get("vocab_size", len(builtin))
        if isinstance(size, int) and size < len(builtin):
            raise InputError(
                f"model_config has vocab_size {size}, the built-in tokenizer of a model from scratch writes "
                f"{len(builtin):,} tokens; make it at least that."
            )
        return builtin
    from varlen_lab.models.stated import stated_config
    from varlen_lab.models.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(name)
    if tokenizer is not None:
        return tokenizer
    builtin = builtin_tokenizer()
    if stated_config(Path(locate_model(name).folder)).get("vocab_size") == len(builtin):
        return builtin
    raise InputError(
        f"{name!r} has no tokenizer (there are no tokenizer files); save one beside the model with "
        "tokenizer.save_pretrained."
    )


def is_streamed(config: Config) -> bool:
    """Whether a run of this config reads its rows as it goes."""
    return config.pack_strategy == "sequential" and config.mode != "unpacked"


def load_rows(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, progress: bool = False
) -> tuple[Dataset, PackReport]:
    """The rows of a run: packed, or one document a row when unpacked; and what became of the documents.

    Columns ``input_ids``, ``labels`` and ``seq_lengths``. InputError for data that cannot be read or trains nothing.
    """
    return load_rows_and_held_out(config, tokenizer, progress=progress)[:2]


def load_rows_and_held_out(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, progress: bool = False
) -> tuple[Dataset, PackReport, Dataset | None]:
    """As ``load_rows``, with the rows of the documents that ``evaluation_share`` holds out, or None."""
    documents = tokenised_documents(config, tokenizer, progress=progress)
    held_out = None
    if config.evaluation_share:
        # whole documents, before they are packed: a row holds several. Sorted, so that what is left keeps its order.
        order = np.random.default_rng(config.seed).permutation(len(documents))
        cut = int(np.ceil(len(documents) * config.evaluation_share))
        if cut == len(documents):
            raise InputError(
                f"evaluation_share = {config.evaluation_share} holds out all {cut} documents of {config.data_path!r}; "
                "lower it, or set it to 0.0."
            )
        held_out, _ = pack_rows(documents.select(np.sort(order[:cut])), config)
        documents = documents.select(np.sort(order[cut:]))
    rows, report = pack_rows(documents, config)
    return rows, report, held_out


def load_in_all_processes(
    config: Config, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator, *, progress: bool = False
) -> tuple[Dataset, PackReport, Dataset | None]:
    """``load_rows_and_held_out`` in several processes: the first of a machine makes the files, the others open them."""
    if accelerator.num_processes == 1:
        return load_rows_and_held_out(config, tokenizer, progress=progress)
    from varlen_lab.machine.launch import first_process_first

    with warnings.catch_warnings():
        if not accelerator.is_main_process:  # the first one says what there is to say
            warnings.simplefilter("ignore", UserWarning)
        return first_process_first(accelerator, lambda: load_rows_and_held_out(config, tokenizer, progress=progress))


def pack_rows(documents: Dataset, config: Config) -> tuple[Dataset, PackReport]:
    """Documents as rows, in the way of the config. InputError when none of their tokens is trained on."""
    strategy = "unpacked" if config.mode == "unpacked" else config.pack_strategy
    packs = pack_lengths(document_lengths(documents), config.max_length, strategy, config.overlong)
    trained = trained_in_plan(documents, packs)
    if not trained.any():
        raise InputError(
            f"no token of {config.data_path!r} is trained on, every label within max_length = {config.max_length} is "
            "masked; raise max_length, or check that the data has assistant answers."
        )
    return packed_rows(documents, packs).with_format("numpy"), packs.report(trained)


def document_settings(config: Config) -> dict[str, str]:
    """What of a config says how a record becomes a document: arguments of ``load_documents`` and ``documents_at``."""
    return {
        "prompt_template": config.prompt_template,
        "special_tokens_in_text": config.special_tokens_in_text,
        "system": config.SYSTEM,
        "map_fn": config.dataset_map_fn,
    }


def tokenised_documents(config: Config, tokenizer: PreTrainedTokenizerBase, *, progress: bool = False) -> Dataset:
    """The documents of a config (``input_ids``, ``labels``), from the cache if it has them; notes are repeated."""
    key = documents_key(config, tokenizer)
    path = cache_dir() / f"documents-{key}.arrow" if key else None
    documents = open_documents(path) if path else None
    if documents is not None:
        for note in documents.info.description.split("\n")[1:]:
            warnings.warn(note, stacklevel=2)
        return documents
    documents = load_documents(
        config.data_path, tokenizer, **document_settings(config), skip_bad=config.skip_bad, progress=progress
    )
    if path is None or documents_key(config, tokenizer) != key:  # the data changed while it was read
        return documents
    keep_in_cache(path, lambda file: write_documents(documents, file), finish=end_with_digest)
    return open_documents(path) or documents  # from the file: packed rows are kept beside it


def documents_key(config: Config, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Hex digits of all that a config's tokens depend on, None if unknowable; InputError for data that is not there."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python: no text says all that it does
        return None
    paths = config.data_path if isinstance(config.data_path, list) else [config.data_path]
    try:
        data = [data_digest(str(path)) for path in paths]
    except OSError:  # reading says in a better sentence what is wrong with the file
        return None
    facts = (
        DOCUMENTS_FORMAT,
        code_digest(),
        data,
        paths if config.skip_bad else None,  # a skipped record is named with its file
        backend.to_str(),
        tokenizer.chat_template,
        day_written(tokenizer) if config.prompt_template == OF_TOKENIZER else None,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        document_settings(config),
        # the record itself: when its strings change, so do the tokens
        TEMPLATES.get(config.prompt_template),
        config.skip_bad,
    )
    return hashlib.sha256("\n".join(map(repr, facts)).encode("utf-8", "backslashreplace")).hexdigest()[:20]


@cache
def code_digest() -> str:
    """Hex digits of the code that makes documents of records: who edits a template or a shape gets other tokens."""
    files = sorted(Path(tokens.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def data_digest(name: str) -> str:
    """Hex digits of what ``data_path`` names: the bytes of a file or folder, or what ``datasets`` says of the hub's."""
    kind, path = locate(name)
    if kind == "builtin":
        return fingerprint("corpus", CORPUS_VERSION)
    if kind == "hub":
        from varlen_lab.documents.tables import hub_dataset

        return hub_dataset(name)._fingerprint
    digest = hashlib.sha256(ending_of(path).encode())  # the same bytes are read as .json or as .csv
    for file in [path] if kind == "file" else files_below(path, set()):
        with file.open("rb") as opened:
            inside = os.fsencode(f"{file.relative_to(path)}\n")  # which may be no text
            digest.update(inside + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The files of a folder and of those that links in it lead to, each folder once; OSError for one not readable."""
    if (real := folder.resolve()) not in seen:
        seen.add(real)
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from files_below(path, seen)
            elif path.is_file():  # no socket, no pipe: reading one would wait for ever
                yield path


def write_documents(documents: Dataset, file: IO[bytes]) -> None:
    """Documents as an Arrow stream whose schema holds what was said of them and a digest of their tokens."""
    import pyarrow as pa

    table = documents.data.table
    facts = {"digest": content_digest(table), "description": documents.info.description}
    with pa.ipc.new_stream(file, table.schema.with_metadata(facts)) as stream:
        stream.write_table(table)


def open_documents(path: Path) -> Dataset | None:
    """The documents in a file of ``write_documents``, memory-mapped; None when it is missing, cut or damaged."""
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo
    from datasets.table import MemoryMappedTable

    if not as_written(path):
        return None
    try:
        table = MemoryMappedTable.from_file(str(path))
        if table.schema.types != [pa.list_(pa.int32())] * 2 or table.column_names != ["input_ids", "labels"]:
            return None
        table.validate(full=True)  # or offsets that point nowhere would be followed
        facts = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        digest, said = facts["digest"], facts["description"]
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException):  # a damaged head fails in many ways
        return None
    return Dataset(table, DatasetInfo(description=said), fingerprint=digest)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id padding is written with; it is masked everywhere, so any id serves when there is none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
