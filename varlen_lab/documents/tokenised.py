"""Data that is tokenised already: ``input_ids``, with ``labels`` where somebody made them, are documents as they stand.

A record is one document, or a packed row with the lengths of its documents in ``seq_lengths``. No template and no
system message is written into it. What is checked is what training would trip over: ids that the tokenizer does not
have, columns of different lengths, labels that are neither the token nor -100. Padding (``attention_mask`` 0) goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from varlen_lab.documents.dialogues import BadRecord, fit_to_print
from varlen_lab.documents.fields import OF_TRAINING, SAYS_TRAINED, is_nothing, refuse_by_name, snake
from varlen_lab.documents.reading import Records, bad_place
from varlen_lab.documents.skipped import Skipped
from varlen_lab.documents.tokens import table_of
from varlen_lab.errors import InputError
from varlen_lab.packing.registry import IGNORE, SEAM_COLUMNS
from varlen_lab.packing.registry import LOSS_MASKS as MASKS

if TYPE_CHECKING:
    import pyarrow as pa

IDS, LABELS, ATTENTION, LENGTHS, POSITIONS = "input_ids", "labels", "attention_mask", "seq_lengths", "position_ids"
OF_NO_WORD = ("special_tokens_mask", "mask_token_id")
READ = (IDS, LABELS, ATTENTION, LENGTHS, POSITIONS, *MASKS)
WITHOUT_LABELS = "input_ids without labels, trained on whole"
PADDED = "input_ids with padding, which is cut off"
DOCUMENTS_AT_ONCE = 1000  # put into a table together


class Tokenised(NamedTuple):
    """The documents of such data, the reasons of records left out, and what was counted on the way."""

    table: pa.Table  # input_ids and labels, lists of int32
    read: int  # good records
    without_a_trained_token: int  # documents left out for it
    skipped: Skipped
    counted: dict[str, int]


def is_tokenised(records: Records) -> tuple[bool, Records]:
    """Whether the first record that can be read holds ``input_ids``; and all the records again."""
    seen = []
    found = False
    for place, record in records:
        seen.append((place, record))
        if not isinstance(record, BadRecord):
            found = isinstance(record, dict) and record.get(IDS) is not None
            break
    return found, chain(seen, records)


def read_tokenised(records: Records, name: str, vocabulary: int, skip_bad: bool) -> Tokenised:
    """The documents in ``records``, whose ids lie below ``vocabulary``; InputError for a bad record, or for none good.

    A document's first label is masked, as everywhere here: nothing stands before it that could predict it.
    """
    tables, waiting = [], list[tuple[np.ndarray, np.ndarray]]()
    read, without, skipped, counted = 0, 0, Skipped(), Counter[str]()
    for documents in good_ones(records, vocabulary, skip_bad, skipped, counted):
        read += 1
        trainable = [one for one in documents if (one[1] != IGNORE).any()]
        without += len(documents) - len(trainable)
        waiting += trainable
        if len(waiting) >= DOCUMENTS_AT_ONCE:
            tables.append(end_to_end(waiting))
            waiting = []
    tables.append(end_to_end(waiting))
    if not any(map(len, tables)):
        why = f", the first: {skipped[0]}" if skipped else ""
        raise InputError(
            f"{name} holds no document with a token to train on ({read} records read, {skipped.total} skipped{why}); "
            "give it input_ids, and labels that are not all -100."
        )
    import pyarrow as pa

    return Tokenised(
        pa.concat_tables(tables), read, without, skipped, {fit_to_print(one): count for one, count in counted.items()}
    )


def good_ones(
    records: Iterable[tuple[str, Any]], vocabulary: int, skip_bad: bool, skipped: list[str], counted: Counter[str]
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """The documents of each good record; what was left out is added to ``skipped``, what was seen to ``counted``."""
    for place, record in records:
        try:
            documents, seen = documents_in(record, vocabulary)
        except BadRecord as reason:
            if not skip_bad:
                raise bad_place(place, reason) from None
            skipped.append(f"{place}: {reason}")
            continue
        counted.update(seen)
        yield documents


def end_to_end(documents: list[tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    """The table of these documents, perhaps of none."""
    offsets = np.cumsum([0, *(len(ids) for ids, _ in documents)])
    none = np.array([], np.int32)
    ids, labels = (np.concatenate([none, *(document[column] for document in documents)]) for column in (0, 1))
    return table_of(offsets, ids, labels)


def documents_in(record: Any, vocabulary: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """The documents of one record as (input_ids, labels), and names of what was seen on the way; or BadRecord."""
    if isinstance(record, BadRecord):
        raise record
    if not isinstance(record, dict) or record.get(IDS) is None:
        raise BadRecord(f"it has no {IDS}, and the records before it have: it is not tokenised as they are")
    columns = {field: whole_numbers(record[field], field) for field in READ if not is_nothing(record.get(field))}
    seen = [field for field, value in record.items() if field not in READ and not is_nothing(value)]
    for field in seen:
        refuse_by_name(field, "", tuple(one for one in READ if one not in columns))
        if field in SEAM_COLUMNS and LENGTHS not in columns:
            raise BadRecord(
                f"{field} may tell where documents begin, and is not read; write their lengths as {LENGTHS}"
            )
        if LABELS not in columns and isinstance(record[field], list) and says_trained(field):
            raise BadRecord(f"{field} {OF_TRAINING.format(LABELS)}")
    ids = columns.pop(IDS, np.array([], np.int64))
    if not len(ids):
        raise BadRecord(f"{IDS} is empty")
    outside = (ids < 0) | (ids >= vocabulary)
    if outside.any():
        at = int(outside.argmax())
        raise BadRecord(f"{IDS} holds {ids[at]} (token {at}), the tokenizer has {vocabulary:,} ids, from 0")
    for field, values in columns.items():
        if field != LENGTHS and len(values) != len(ids):
            raise BadRecord(f"{IDS} has {len(ids)} tokens and {field} {len(values)}; they stand side by side")
    labels = labels_of(ids, columns, seen)
    if ATTENTION in columns:
        kept = without_padding(columns[ATTENTION])
        if kept != slice(0, len(ids)):
            ids, labels = ids[kept], labels[kept]
            columns = {field: values if field == LENGTHS else values[kept] for field, values in columns.items()}
            seen.append(PADDED)
    return list(cut(ids, labels, columns)), seen


def says_trained(field: str) -> bool:
    """Whether the name of a column has a word of what is trained on."""
    return field not in OF_NO_WORD and bool(SAYS_TRAINED.search(snake(field)) or "weight" in field.lower())


def whole_numbers(value: Any, field: str) -> np.ndarray:
    """The numbers of a list; BadRecord for lists in it, fractions, text."""
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.array(None)
    if found.dtype.kind == "b" and field in (ATTENTION, *MASKS):
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise BadRecord(f"{field} is no list of whole numbers, one for each token of one document")
    return found.astype(np.int64)


def labels_of(ids: np.ndarray, columns: dict[str, np.ndarray], seen: list[str]) -> np.ndarray:
    """The labels, -100 or the token itself: given, or told by a mask, or every token; BadRecord for others."""
    told = np.ones(len(ids), bool)
    for field in MASKS:
        if field in columns:
            if not np.isin(columns[field], (0, 1)).all():
                raise BadRecord(f"{field} holds other numbers than 0 and 1")
            told &= columns[field] == 1
    if LABELS not in columns:
        if told.all():
            seen.append(WITHOUT_LABELS)
        return np.where(told, ids, IGNORE)
    labels = columns[LABELS]
    wrong = (labels != IGNORE) & (labels != ids)
    if wrong.any():
        at = int(wrong.argmax())
        moved = ((labels[:-1] == IGNORE) | (labels[:-1] == ids[1:])).all()
        hint = "; they are moved by one, which the model does itself: write each at its own token" if moved else ""
        raise BadRecord(f"label {at} is {labels[at]} and the token there {ids[at]}; labels are the token or -100{hint}")
    if not told.all() and ((labels != IGNORE) & ~told).any():
        raise BadRecord("labels train on tokens that a mask of the record leaves out; keep one of the two")
    return labels


def without_padding(mask: np.ndarray) -> slice:
    """The stretch of ones in an attention mask; BadRecord for anything but ones with padding around them."""
    ones = np.flatnonzero(mask)
    if not np.isin(mask, (0, 1)).all() or not len(ones) or not mask[ones[0] : ones[-1] + 1].all():
        raise BadRecord(f"{ATTENTION} is not 1 on the tokens and 0 on padding around them; tell documents by {LENGTHS}")
    return slice(int(ones[0]), int(ones[-1]) + 1)


def cut(ids: np.ndarray, labels: np.ndarray, columns: dict[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a row whose lengths are told; a row without them is one document."""
    lengths = columns.get(LENGTHS, np.array([len(ids)]))
    if (lengths < 1).any() or lengths.sum() != len(ids):
        raise BadRecord(f"{LENGTHS} adds up to {lengths.sum()}, there are {len(ids)} tokens")
    starts = np.cumsum(lengths) - lengths
    if POSITIONS in columns:
        places = np.arange(len(ids))
        restarting = places - np.repeat(starts, lengths)
        if not (np.array_equal(columns[POSITIONS], restarting) or np.array_equal(columns[POSITIONS], places)):
            raise BadRecord(f"{POSITIONS} begin anew where no document does; tell the documents by {LENGTHS}")
    for start, length in zip(starts.tolist(), lengths.tolist()):
        own = labels[start : start + length].astype(np.int32)
        own[0] = IGNORE
        yield ids[start : start + length], own
