"""A packed row as training gives it to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from varlen_lab.packing.collators import VarlenCollator


def packed_row(lengths: Sequence[int], ids: Sequence[int] | None = None, **changes: Any) -> dict[str, Any]:
    """VarlenCollator's batch of one row: documents of these lengths, ids 10, 11, ... or those given, labels the same.

    ``changes``: other values; None leaves a key out.
    """
    ids = list(range(10, 10 + sum(lengths))) if ids is None else list(ids)
    made = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": list(lengths)}]) | changes
    return {name: value for name, value in made.items() if value is not None}
