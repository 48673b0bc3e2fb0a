"""The steps of a run whose rows are a stream: how many there are, what the first rows say of it, their batches.

Every process reads all of the stream and takes its part of each step, so the order is one for all and a checkpoint
holds one position. With ``dataloader_num_workers`` one process beside the training reads, tokenises and collates ahead,
and sends with each step where the stream stood behind it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, plural
from varlen_lab.files.writing import cached_text, fingerprint
from varlen_lab.leaks.rows import MOST_POSITIONS, position_table
from varlen_lab.training.data import documents_key
from varlen_lab.training.lazily import Step
from varlen_lab.training.limits import WRONG_TOKENIZER
from varlen_lab.training.outlook import Outlook
from varlen_lab.training.plan import share
from varlen_lab.training.step import Batch
from varlen_lab.training.stream import Row, RowStream

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def rows_of_step(config: Config, processes: int) -> int:
    """How many rows a whole step has."""
    return config.batch_size * config.accumulative_counts * processes


def batches_of(rows: int, size: int) -> Step:
    """So many rows as batches of ``size``, in their order."""
    return [list(range(rows))[i : i + size] for i in range(0, rows, size)]


def ahead(stream: RowStream, processes: int) -> tuple[Dataset, list[Step]]:
    """The rows that a stream reads before the first step, and the one step that is planned of them."""
    rows = stream.ahead(rows_of_step(stream.config, processes))
    return rows, [batches_of(len(rows), stream.config.batch_size)]


def count_steps(
    config: Config, tokenizer: PreTrainedTokenizerBase, dataset: Iterable[Any] | None, accelerator: Accelerator
) -> int:
    """The steps of a run: ``max_steps``, else those of ``max_epochs`` passes, for which the rows of one are counted.

    All of the data is read and tokenised for that; the number is kept in the cache folder.
    """
    if config.max_steps is not None:
        return config.max_steps
    if dataset is not None and not hasattr(dataset, "__len__"):
        raise InputError("the dataset does not say how many documents it gives, and the schedule must; set max_steps.")

    def count() -> str:
        return str(RowStream(config, tokenizer, dataset).rows_of_an_epoch())

    key = documents_key(config, tokenizer) if dataset is None else None
    if key is None:
        rows = count()
    else:
        from varlen_lab.machine.launch import first_process_first

        name = f"rows-{fingerprint(key, config.max_length, config.overlong)}"
        rows = first_process_first(accelerator, lambda: cached_text(name, count))
    return -(-int(rows) // rows_of_step(config, accelerator.num_processes)) * config.max_epochs


@dataclasses.dataclass(frozen=True)
class StreamOutlook(Outlook):
    """The outlook of a run of which the first rows are known; its ``documents`` and ``rows`` are theirs."""

    def lines(self) -> list[str]:
        """The sentences that ``train`` prints before the first step."""
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        known = "the row that was" if self.rows == 1 else f"the {self.rows} rows that were"
        _, about, *others = super().lines()
        return [
            "rows come in the order of the data and are read as they are trained on: "
            f"{plural(self.steps, 'step')}{processes}",
            f"{about} (as in {known} read before the first step)",
            *others,
        ]


def streamed_outlook(outlook: Outlook, stream: RowStream, steps: int) -> StreamOutlook:
    """The outlook of ``steps`` steps, from that of the one step of the rows that were read ahead."""
    step_rows = rows_of_step(stream.config, outlook.processes)
    each = 1.0 if stream.read_whole else step_rows / outlook.rows  # how much more a whole step holds
    fields = {field.name: getattr(outlook, field.name) for field in dataclasses.fields(Outlook)}
    return StreamOutlook(
        **fields
        | {
            "steps": steps,
            "documents_per_step": outlook.documents_per_step * each,
            "tokens_per_step": outlook.tokens_per_step * each,
            "seconds": outlook.seconds * each * steps,
            "unpacked_steps": max(1, round(outlook.documents * each * steps / step_rows)),
            "untrained_rows": 0,  # which of the others are, nobody knows
            "untrained_steps": 0,
            "balance": [],
        }
    )


class Dealing(NamedTuple):
    """How the rows of a step become the batches of one process."""

    config: Config
    collate: Callable[[list[Any]], dict[str, Any]]
    processes: int
    process: int

    def batches(self, rows: list[Row]) -> list[Batch]:
        """This process's part of a step, dealt out as ``plan.share`` does."""
        size = self.config.batch_size
        costs = np.array([(np.asarray(row["seq_lengths"], np.float64) ** 2).sum() for row in rows])
        (mine,) = share([batches_of(len(rows), size)], costs, self.processes, self.process, size)
        return [Batch.of([rows[row] for row in batch], self.collate, self.config.loss_weighting) for batch in mine]

    def steps(self, stream: RowStream, count: int) -> Iterator[list[Batch]]:
        """The next ``count`` steps of a stream."""
        return map(self.batches, islice(stream.steps(rows_of_step(self.config, self.processes)), count))


class StreamedSteps:
    """The batches of one process, step after step; ``state_dict`` says where the stream stands behind the last one."""

    def __init__(
        self,
        stream: RowStream,
        model: Any,
        collate: Callable[[list[Any]], dict[str, Any]],
        processes: int,
        process: int,
        steps: int,
    ) -> None:
        self.stream, self.steps = stream, steps
        self.dealing = Dealing(stream.config, collate, processes, process)
        self.known = model.get_input_embeddings().num_embeddings
        self.positions = position_table(model).get(MOST_POSITIONS)
        self.sent: dict[str, Any] | None = None  # the state, where another process reads

    def __iter__(self) -> Iterator[list[Batch]]:
        beside = self.stream.config.dataloader_num_workers and self.steps and self.stream.can_be_read_again
        steps = self.from_worker() if beside else self.dealing.steps(self.stream, self.steps)
        for number, batches in enumerate(steps, start=1):
            self.refuse_unknown(batches)
            if number == self.steps:
                self.refuse_untrained()
            yield batches

    def from_worker(self) -> Iterator[list[Batch]]:
        """The batches of every step, made by another process."""
        from torch.utils.data import DataLoader

        reader = Reader(self.stream, self.stream.state_dict(), self.dealing, self.steps)
        for found, state in DataLoader(reader, batch_size=None, num_workers=1, collate_fn=as_it_is):
            if isinstance(found, InputError):
                raise found
            self.sent = state
            yield found

    def refuse_untrained(self) -> None:
        """InputError before the last step of a run over all of the data, where its last epoch trains on nothing.

        An epoch whose rows fill its last step is not seen to end, for nothing behind it is read.
        """
        given = self.state_dict()["counts"]
        if not self.stream.config.max_steps and not given.get("trained"):
            raise self.stream.untrained(given.get("rows", 0))

    def refuse_unknown(self, batches: list[Batch]) -> None:
        """InputError for tokens and positions that the model has no row for: no one has seen these rows before."""
        for batch in batches:
            most = int(batch.inputs["input_ids"].max())
            if most >= self.known:
                raise InputError(
                    f"the data has the token {most} and the model knows 0 to {self.known - 1}: {WRONG_TOKENIZER}."
                )
            last = int(batch.inputs["position_ids"].max()) if "position_ids" in batch.inputs else 0
            if self.positions is not None and last >= self.positions:
                raise InputError(
                    f"the data has a document with a position {last:,}, and the model has a table of "
                    f"{self.positions:,}; set max_length = {self.positions}."
                )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands behind the step that was given last."""
        return self.stream.state_dict() if self.sent is None else self.sent

    def report(self) -> str:
        """What became of the records of the epoch that the run stands in."""
        state = self.state_dict()
        rows, of_records = state["counts"], state["source"]["counts"]
        said = [
            f"epoch {state['epoch'] + 1}, in the order of the data: {plural(rows.get('documents', 0), 'document')} in "
            f"{plural(rows.get('rows', 0), 'row')}, {rows.get('tokens', 0):,} tokens"
        ]
        if state["dropped_tokens"]:
            of_read = f" of the {plural(state['documents'], 'document')} that were read"
            said.append(f"{state['dropped_tokens']:,} tokens behind max_length left out{of_read}")
        if of_records.get("without"):
            said.append(f"{plural(of_records['without'], 'document')} without a token to train on left out")
        if of_records.get("skipped"):
            first = state["source"]["first_skipped"]
            said.append(f"{plural(of_records['skipped'], 'record')} skipped, the first: {first}")
        return "; ".join(said)


class Reader(torch.utils.data.IterableDataset):
    """What a worker process reads: (batches of a step, state behind it), or (the error, None)."""

    def __init__(self, stream: RowStream, state: dict[str, Any], dealing: Dealing, steps: int) -> None:
        self.given = stream.given
        self.state, self.dealing, self.steps = state, dealing, steps

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        from torch.utils.data._utils import worker

        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not come along, and it would say so
        # one worker reads all; told that it is one, ``datasets`` would shuffle otherwise than before the first step
        worker._worker_info = None
        try:
            stream = RowStream(*self.given)
            stream.load_state_dict(self.state)
            for batches in self.dealing.steps(stream, self.steps):
                yield batches, stream.state_dict()
        except InputError as problem:
            yield problem, None


def as_it_is(item: Any) -> Any:
    """The same: a step is no sample that a loader would have to convert."""
    return item
