"""From the name of data to documents: read, then tokenise, and say what was left out on the way."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.tokens import encode

if TYPE_CHECKING:
    from datasets import Dataset


def load_documents(
    data_path: str | os.PathLike[str] | list[str],
    tokenizer: Any,
    *,
    prompt_template: str = OF_TOKENIZER,
    system: str = "",
    map_fn: str = "auto",
    skip_bad: bool = False,
    progress: bool = True,
) -> Dataset:
    """Read the dialogues at ``data_path`` (see ``read_dialogues``) and tokenise them (see ``encode``).

    Records left out under ``skip_bad`` are counted in a warning that names the first; the second line of
    ``dataset.info.description`` keeps it.
    """
    dialogues, skipped, _ = read_dialogues(
        data_path, system=system, map_fn=map_fn, skip_bad=skip_bad, progress=progress
    )
    read = len(dialogues) + len(skipped)
    # what the template refuses is left out as the records are that cannot be read
    documents = encode(
        dialogues,
        tokenizer,
        prompt_template=prompt_template,
        skipped=skipped if skip_bad else None,
        progress=progress,
    )
    if skipped:
        which = "record" if len(skipped) == 1 else "records"
        note = f"{len(skipped):,} {which} skipped, the first: {skipped[0]}; {read - len(skipped):,} dialogues were read"
        warnings.warn(note, stacklevel=2)
        documents.info.description += f"\n{note}"
    return documents
