"""Dialogues in, documents out: the text side of the library.

    dataset = load_documents("builtin:docstrings", builtin_tokenizer())   # columns input_ids, labels

``sources`` finds the records, ``records`` makes dialogues of them, ``templates`` writes a dialogue as text
and says which pieces are trained on, ``encode`` makes tokens and labels. ``corpus`` and ``tokenizer`` are
built in.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from varlen_lab.documents.sources import read_dialogues
from varlen_lab.documents.templates import OF_TOKENIZER, TEMPLATES
from varlen_lab.documents.tokenizer import builtin_tokenizer
from varlen_lab.documents.tokens import encode, prompt_ids

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_documents", "builtin_tokenizer", "read_dialogues", "encode", "prompt_ids", "TEMPLATES"]


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

    Records left out under ``skip_bad`` are counted in a warning that names the first.
    """
    dialogues, skipped = read_dialogues(data_path, system=system, map_fn=map_fn, skip_bad=skip_bad, progress=progress)
    if skipped:
        which = "record" if len(skipped) == 1 else "records"
        read = f"{len(dialogues):,} dialogues were read"
        warnings.warn(f"{len(skipped):,} {which} skipped, the first: {skipped[0]}; {read}", stacklevel=2)
    return encode(dialogues, tokenizer, prompt_template=prompt_template, progress=progress)
