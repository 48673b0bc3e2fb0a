"""From the name of data to documents: read, then tokenise, and say what was left out on the way."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.reading import Reading, reading_of, records_at
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.skipped import Skipped
from varlen_lab.documents.tokenised import WITHOUT_LABELS, Tokenised, is_tokenised, read_tokenised
from varlen_lab.documents.tokens import encode
from varlen_lab.errors import LISTED, plural
from varlen_lab.files.writing import content_digest

if TYPE_CHECKING:
    from datasets import Dataset


class Loaded(NamedTuple):
    """The documents, and what became of the records on the way."""

    documents: Dataset
    read: int  # good records
    without_a_trained_token: int  # of their documents, left out for it
    skipped: Skipped  # records left out
    counted: dict[str, int]  # as in Reading
    notes: list[str]  # what else a person should know


def load_documents(
    data_path: str | os.PathLike[str] | list[str],
    tokenizer: Any,
    *,
    prompt_template: str = OF_TOKENIZER,
    special_tokens_in_text: str = "keep",
    system: str = "",
    map_fn: str = "auto",
    skip_bad: bool = False,
    progress: bool = True,
) -> Dataset:
    """Read the dialogues at ``data_path`` (see ``read_dialogues``) and tokenise them (see ``encode``).

    Data with ``input_ids`` is taken as it stands (see ``tokenised``).

    Fields that nothing reads and documents without a trained token are counted in notes; records left out under
    ``skip_bad`` in one that names the first. Each note, those of ``encode`` too, is a warning, and a line of
    ``dataset.info.description`` keeps it.
    """
    documents, read, without, skipped, counted, notes = documents_at(
        data_path,
        tokenizer,
        prompt_template=prompt_template,
        special_tokens_in_text=special_tokens_in_text,
        system=system,
        map_fn=map_fn,
        skip_bad=skip_bad,
        progress=progress,
    )
    if counted:
        notes.append(left_out(counted))
    if without:
        which = "1 document has" if without == 1 else f"{without:,} documents have"
        notes.append(f"{which} no token to train on, left out")
    if skipped:
        which = plural(skipped.total, "record")
        notes.append(f"{which} skipped, the first: {skipped[0]}; {read:,} dialogues were read")
    for note in notes:
        warnings.warn(note, stacklevel=2)
        documents.info.description += f"\n{note}"
    return documents


def left_out(counted: dict[str, int]) -> str:
    """What is said of what was seen and nothing reads.

    >>> left_out({"id": 1500, "source": 3})
    'seen and left out: 1,500 id, 3 source'
    """
    said = ", ".join(f"{count:,} {name}" for name, count in islice(counted.items(), LISTED))
    more = f" and {len(counted) - LISTED:,} other names" if len(counted) > LISTED else ""
    return f"seen and left out: {said}{more}"


def documents_at(
    data_path: str | os.PathLike[str] | list[str],
    tokenizer: Any,
    *,
    prompt_template: str,
    special_tokens_in_text: str,
    system: str,
    map_fn: str,
    skip_bad: bool,
    progress: bool,
) -> Loaded:
    """The documents at ``data_path``: dialogues, tokenised here, and then what was tokenised before."""
    import datasets
    import pyarrow as pa

    dialogues, tables = list[Dialogue](), list[pa.Table]()
    skipped, counted, notes = Skipped(), Counter[str](), list[str]()
    read = without = 0
    for path in data_path if isinstance(data_path, list) else [data_path]:
        name = os.fspath(path)
        tokenised, records = is_tokenised(records_at(name, progress))
        part: Tokenised | Reading = (
            read_tokenised(records, name, len(tokenizer), skip_bad)
            if tokenised
            else reading_of(records, name, system=system, map_fn=map_fn, skip_bad=skip_bad)
        )
        skipped += part.skipped
        counted.update(part.counted)
        if isinstance(part, Reading):
            dialogues += part.dialogues
        else:
            tables.append(part.table)
            read, without = read + part.read, without + part.without_a_trained_token
            notes += notes_of(name, part.counted, prompt_template=prompt_template, SYSTEM=system, dataset_map_fn=map_fn)
    counted.pop(WITHOUT_LABELS, None)  # nothing is left out, and a note says what it means
    if dialogues:
        refused = Skipped()  # what the template refuses is left out as the records are that cannot be read
        encoded = encode(
            dialogues,
            tokenizer,
            prompt_template=prompt_template,
            special_tokens_in_text=special_tokens_in_text,
            skipped=refused if skip_bad else None,
            progress=progress,
        )
        good = len(dialogues) - refused.total
        read, without = read + good, without + good - len(encoded)
        skipped += refused
        about, *said = encoded.info.description.split("\n")
        notes += said
        encoded.info.description = about
        if not tables:
            return Loaded(encoded, read, without, skipped, counted, notes)
        tables.insert(0, encoded.data.table)
    table = pa.concat_tables(tables)
    about = f"{len(table)} documents; {without} without a token to train on were dropped"
    documents = datasets.Dataset(table, info=datasets.DatasetInfo(description=about), fingerprint=content_digest(table))
    return Loaded(documents, read, without, skipped, counted, notes)


def notes_of(name: str, counted: dict[str, int], **settings: str) -> list[str]:
    """What is to be said of data that is tokenised already: which settings have no say, what is trained on whole."""
    notes = []
    idle = [f"{one} = {value!r}" for one, value in settings.items() if value not in ("", "auto", OF_TOKENIZER)]
    if idle:
        have = "has" if len(idle) == 1 else "have"
        notes.append(f"{name} is tokenised already, {' and '.join(idle)} {have} no say in it")
    if WITHOUT_LABELS in counted:
        notes.append(
            f"records of {name} without labels: {counted[WITHOUT_LABELS]:,}; every token of them is trained on"
        )
    return notes
