"""Rows from a stream: ``pack_strategy = 'sequential'`` trains on data of any size, in its order, as it is read.

    records  --a few at once: template, tokenise-->  documents  --next-fit with a look-ahead-->  rows  -->  steps

Nothing is kept of what was trained on, and nothing is counted before the first step where ``max_steps`` says how many
there are. The rows are those of ``pack_lengths(..., "sequential")`` over all documents. Each epoch reads the data
again, and its last step takes what remains, as in ``plan``. A checkpoint holds where the stream stands: the position
of its next record, and the documents that wait for a row.

Before the first step some rows are read ahead (``ahead``): what a run looks at before it starts (limits, kernel, leak
check, outlook) looks at these. They wait in a queue and are trained on first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from varlen_lab.config.schema import Config
from varlen_lab.documents.positions import Given
from varlen_lab.documents.streaming import DocumentStream, NoDocument
from varlen_lab.errors import InputError, plural
from varlen_lab.packing.readers import PackedStream
from varlen_lab.packing.registry import IGNORE
from varlen_lab.packing.rows import COLUMNS, schema
from varlen_lab.training.data import document_settings

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AHEAD = 32  # read before the first step, or those of a step, if it has fewer
TOKENS_AHEAD = 1 << 18  # in them, about
Row = dict[str, Any]  # input_ids, labels and seq_lengths, int32


class StreamEnded(InputError):
    """The data cannot be read again, and there are steps left."""


class RowStream:
    """The rows of a config without end, epoch after epoch; ``dataset``: read instead of its ``data_path``.

    InputError for settings that need all rows at once, and while it is read for whatever is wrong with the data.
    """

    def __init__(self, config: Config, tokenizer: Any, dataset: Iterable[Any] | None = None) -> None:
        if config.balance == "window":
            raise InputError(
                "balance = 'window' sorts rows by their cost, and pack_strategy = 'sequential' gives them in the order "
                "of the data; set balance = 'step', or pack_strategy = 'best_fit'."
            )
        if config.evaluation_share:
            raise InputError(
                f"evaluation_share = {config.evaluation_share} draws documents from all of the data, and pack_strategy "
                "= 'sequential' reads it piece by piece; set evaluation_share = 0.0, or pack_strategy = 'best_fit'."
            )
        self.config = config
        self.given = (config, tokenizer, dataset)
        self.can_be_read_again = not isinstance(dataset, Iterator)
        data = config.data_path if dataset is None else Given(dataset)
        self.documents = DocumentStream(data, tokenizer, **document_settings(config), skip_bad=config.skip_bad)
        self.packed = PackedStream(self.documents, config.max_length, config.overlong)  # type: ignore[arg-type]
        self.queue = deque[Row]()
        self.reading: Iterator[Row] | None = None
        self.read_whole = False  # all of the data was read ahead
        self.epoch = self.steps_given = 0
        self.counts = Counter[str]()  # rows, documents, tokens, trained: of this epoch, as they were given

    def ahead(self, step_rows: int) -> Dataset:
        """The rows that come first, as a dataset in memory; ``step_rows``: how many a step has."""
        tokens = sum(len(row["input_ids"]) for row in self.queue)
        while len(self.queue) < min(ROWS_AHEAD, step_rows) and tokens < TOKENS_AHEAD:
            if (row := self.read()) is None:
                self.read_whole = True
                break
            self.queue.append(row)
            tokens += len(row["input_ids"])
        if self.read_whole and not any((row["labels"] != IGNORE).any() for row in self.queue):
            raise self.untrained(len(self.queue))
        return as_dataset(self.queue)

    def read(self) -> Row | None:
        """The next row of this epoch from the data; None at its end."""
        if self.reading is None:
            self.reading = iter(self.packed)
        try:
            return next(self.reading, None)
        except NoDocument as problem:
            if self.epoch:
                raise StreamEnded(
                    f"the data gave {plural(self.steps_given, 'step')} and nothing more when it was read again; set "
                    f"max_steps = {self.steps_given}, or hand over a dataset that can be read more than once."
                ) from problem
            raise

    def steps(self, step_rows: int) -> Iterator[list[Row]]:
        """The rows of every step: ``step_rows``, in the last step of an epoch what remains of it."""
        while True:
            rows = list[Row]()
            while len(rows) < step_rows and (row := self.queue.popleft() if self.queue else self.read()):
                rows.append(row)
                self.count(row)
            ends = len(rows) < step_rows
            if ends and not self.counts["trained"]:
                raise self.untrained(self.counts["rows"])
            if rows:
                self.steps_given += 1
                yield rows
            if ends:
                self.end_epoch()

    def count(self, row: Row) -> None:
        """Add up what was given."""
        trained = int((row["labels"] != IGNORE).sum())
        self.counts.update(rows=1, documents=len(row["seq_lengths"]), tokens=len(row["labels"]), trained=trained)

    def end_epoch(self) -> None:
        """Begin the next epoch."""
        self.reading = None
        self.epoch += 1
        self.counts.clear()

    def untrained(self, rows: int) -> InputError:
        """The error for an epoch of so many rows in which nothing is trained on."""
        if not rows:
            return InputError(
                f"every document has over {self.config.max_length:,} tokens, overlong='drop' leaves nothing; raise "
                "max_length."
            )
        return InputError(
            f"no token of {self.documents.sources[0].name} is trained on, every label within max_length = "
            f"{self.config.max_length} is masked; raise max_length, or check that the data has assistant answers."
        )

    def rows_of_an_epoch(self) -> int:
        """How many rows one pass gives: all of the data is read for it, with nothing kept."""
        return sum(1 for _ in self.packed)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, behind the rows of the step it gave last: plain values and tensors."""
        pieces = self.packed.pieces
        return {
            **self.packed.position(),
            "numbers": list(pieces),
            "tokens": end_to_end([piece[0] for piece in pieces.values()]),
            "labels": end_to_end([piece[1] for piece in pieces.values()]),
            "lengths": [len(piece[0]) for piece in pieces.values()],
            "queue": [{name: torch.from_numpy(np.array(row[name])) for name in COLUMNS} for row in self.queue],
            "epoch": self.epoch,
            "steps": self.steps_given,
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; InputError when the data is not what it was."""
        parts = [np.split(state[name].numpy(), np.cumsum(state["lengths"])[:-1]) for name in ("tokens", "labels")]
        pieces = dict(zip(map(str, state["numbers"]), zip(*parts)))
        self.packed.load_state_dict({**state, "pieces": pieces})
        self.documents.load_state_dict(state["source"])
        self.queue = deque({name: row[name].numpy() for name in COLUMNS} for row in state["queue"])
        self.reading = None
        self.epoch, self.steps_given, self.counts = state["epoch"], state["steps"], Counter(state["counts"])


def end_to_end(arrays: list[np.ndarray]) -> torch.Tensor:
    """The numbers of some arrays, int32."""
    return torch.from_numpy(np.concatenate([np.array([], np.int32), *arrays]))


def as_dataset(rows: Iterable[Row]) -> Dataset:
    """Rows as a packed dataset in memory."""
    import pyarrow as pa
    from datasets import Dataset

    listed = list(rows)
    columns = {
        name: pa.array([np.asarray(row[name], np.int32) for row in listed], schema().field(name).type)
        for name in COLUMNS
    }
    return Dataset(pa.table(columns)).with_format("numpy")
