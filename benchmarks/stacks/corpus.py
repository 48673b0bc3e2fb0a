"""The same short documents for every stack, a tiny Llama on disk, and where a document lies in a row.

Every stack tokenises in its own way. So each document begins with a token that stands nowhere else, and the seams of a
row are read off its ids: not off what the stack says of them, which is what is tested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from varlen_lab.errors import InputError

MARK = "<|system|>"  # one token of the built-in tokenizer, which no stack splits
TEXTS = (
    "The capital of France is Paris, and the Seine runs through the middle of it.",
    "Put an egg into boiling water for seven minutes; then cool it under the tap.",
    "Water freezes at zero degrees Celsius.",
    "A list in Python is written in square brackets; append adds an element at its end.",
    "There was a fox who lived at the edge of a wood, not far from a farm with many hens.",
    "Yes.",
)
LENGTH = 320  # tokens of a row: room for all of them


def prepare(folder: Path) -> None:
    """Write a model with its tokenizer and the documents, in the shapes that stacks read, into ``folder``."""
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.models.building import tiny
    from varlen_lab.models.miniature import scale_weights

    model = tiny("llama")
    scale_weights(model)  # random weights attend to everything alike, and a seam would hardly matter
    model.save_pretrained(folder / "model")
    builtin_tokenizer().save_pretrained(folder / "model")
    write_lines(folder / "text.jsonl", [{"text": MARK + text} for text in TEXTS])
    asked = [(MARK + text.split()[0], text) for text in TEXTS]
    write_lines(
        folder / "asked.jsonl", [{"instruction": question, "input": "", "output": text} for question, text in asked]
    )
    write_lines(folder / "query.jsonl", [{"query": question, "response": text} for question, text in asked])
    info = {
        "asked": {"file_name": "asked.jsonl"},
        "text": {"file_name": "text.jsonl", "columns": {"prompt": "text"}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def write_lines(path: Path, records: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def lengths_in(row: Sequence[int], mark: int, first: int | None = None, pad: int | None = None) -> list[int]:
    """Tokens of every document of a row, by its marks; a ``first`` token (bos) belongs to the document behind it.

    Padding at the end belongs to none, so the lengths may cover less than the row. What a template writes before the
    first mark belongs to its document. InputError for a row without a mark.
    """
    starts = [at - 1 if at and row[at - 1] == first else at for at, token in enumerate(row) if token == mark]
    if not starts:
        raise InputError(f"no token of the row is {mark}, which begins every document; the stack changed the texts.")
    end = len(row)
    while pad is not None and row[end - 1] == pad:
        end -= 1
    return [after - start for start, after in zip([0, *starts[1:]], [*starts[1:], end], strict=True)]
