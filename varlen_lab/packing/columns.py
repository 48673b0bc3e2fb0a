"""What the columns of tokenised documents say beside ``input_ids`` and ``labels``: honoured, refused, or named.

    assistant_masks, completion_mask, loss_mask   1 or 0 for each token: where any of them is 0, the label is -100
                                                  (train on them all the same, as TRL's ``completion_only_loss=False``
                                                  does: ``remove_columns`` of the mask first)
    attention_mask                                1 on every token; 0 is padding, which nobody should pack
    seq_lengths, cu_seqlens, segment_ids, ...     the rows are packed already, and would become one document each
    any other                                     a packed row holds many documents: it is left behind, and said so

Columns are those of a dataset, or the fields of one document of a stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS, SEAM_COLUMNS

PADDING = "attention_mask"
READ = ("input_ids", "labels", PADDING, *LOSS_MASKS)  # each as long as input_ids


def read_columns(names: Collection[str], warn: bool = True) -> list[str]:
    """Those of ``names`` that are read beside ``input_ids`` and ``labels``; a warning names those left behind.

    Raises InputError for rows that are packed already.
    """
    for name in ("seq_lengths", *SEAM_COLUMNS):
        if name in names:
            raise InputError(
                f"the documents have {name}, so they are packed rows already, and each would become one document; give "
                "them to a collator as they are, or pack the documents they were made of."
            )
    left = [name for name in names if name not in READ]
    if left and warn:
        warnings.warn(
            f"packed rows hold the tokens of many documents: {', '.join(left)} of the documents "
            f"{'is' if len(left) == 1 else 'are'} left behind.",
            stacklevel=3,
        )
    return [name for name in READ[2:] if name in names]


def fold_in(name: str, values: np.ndarray, labels: np.ndarray) -> None:
    """Write what the column ``name`` says of some tokens into their ``labels``: -100 where a loss mask is 0.

    Both of shape (tokens,). Raises InputError for padding, and for numbers that are neither 0 nor 1.
    """
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise InputError(f"{name} holds {values[wrong][0]}, it says 1 or 0 of each token; tokenise again.")
    if name != PADDING:
        labels[values == 0] = IGNORE
    elif not values.all():
        raise InputError(
            f"{name} is 0 on padding, and padding would be packed as text; tokenise without padding (padding=False)."
        )


def flat_numbers(document: int, name: str, values: Any, kinds: str) -> np.ndarray:
    """A field of one document as an array of shape (tokens,), which may be the field itself.

    ``kinds``: numpy's letters for the numbers it may hold ("iu" whole ones, "b" truth, "f" decimals). Raises
    InputError for anything else, and for whole numbers that do not fit into int32, as rows hold them.
    """
    try:
        found = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        found = np.asarray(None)
    if found.ndim == 1 and not found.size:
        return found.astype(np.int32)  # whoever asked says how many there should be
    if found.ndim != 1 or found.dtype.kind not in kinds:
        what = f"of {found.dtype}" if found.ndim == 1 else "not flat" if np.ndim(found) else f"{values!r:.40}"
        raise InputError(
            f"document {document} has {name} that are {what}, it needs a flat list of numbers, one for each token; "
            "tokenise it again."
        )
    if found.dtype.kind in "iu" and found.dtype != np.int32 and not fits_int32(found):
        raise InputError(
            f"document {document} has {name} up to {max(abs(int(found.max())), abs(int(found.min())))}, a token is at "
            f"most {np.iinfo(np.int32).max}; tokenise it again."
        )
    return found


def fits_int32(values: np.ndarray) -> bool:
    """Whether whole numbers, at least one, are the same as int32."""
    return bool((values.astype(np.int32) == values).all())


def wrong_length(document: int, name: str, found: int, tokens: int) -> InputError:
    """The error for a document with another number of ``name`` than of tokens."""
    return InputError(
        f"document {document} has {tokens} input_ids and {found} {name}, they must be equally long; tokenise it again."
    )
