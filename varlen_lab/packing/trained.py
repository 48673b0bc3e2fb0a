"""How many tokens are trained on once a plan has cut what is too long.

A question of 70 tokens before an answer of 5, in rows of 64: the answer is cut away, and what is left trains nothing.
Its tokens still fill a row and take their time, so such documents and rows are counted and named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.packing.registry import IGNORE
from varlen_lab.packing.rows import ListColumn

if TYPE_CHECKING:
    from datasets import Dataset

    from varlen_lab.packing.strategies import Packs


def trained_in_plan(documents: Dataset, packs: Packs) -> np.ndarray:
    """Trained tokens of every segment of a plan, int64, in the order of the plan; ``documents`` have ``labels``.

    The first token of a segment is none of them: nothing stands before it that could predict it.
    """
    labels = ListColumn(documents, "labels")
    return trained_between(labels, packs.order, packs.starts + 1, packs.starts + packs.lengths)


def trained_in_rows(rows: Dataset) -> np.ndarray:
    """Trained tokens of every packed row, int64; the first label of each of its documents is masked already."""
    labels = ListColumn(rows, "labels")
    return trained_between(labels, np.arange(len(labels)), np.zeros_like(labels.lengths), labels.lengths)


def trained_between(labels: ListColumn, documents: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How many labels of each of ``documents`` are trained on, from its token ``first`` up to ``end``, int64."""
    counts = np.zeros(len(documents), np.int64)
    chunks, begins = labels.chunk[documents], labels.begins[documents]
    for number, tokens in enumerate(labels.tokens):
        before = np.concatenate([[0], np.cumsum(tokens != IGNORE)])  # trained labels before each, and of all
        mine = np.flatnonzero(chunks == number)
        counts[mine] = before[begins[mine] + end[mine]] - before[begins[mine] + first[mine]]
    return counts
