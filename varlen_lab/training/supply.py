"""What a run trains on: rows and a plan that are known before it, or a stream of which the first rows are.

``dataset``, where a program hands one over, takes the place of ``data_path`` and is always a stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.data import is_streamed, load_in_all_processes
from varlen_lab.training.lazily import Step
from varlen_lab.training.outlook import Work
from varlen_lab.training.plan import plan_steps, row_totals
from varlen_lab.training.stream import RowStream
from varlen_lab.training.stream_steps import ahead, count_steps

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass
class Data:
    """What a run trains on: all rows and steps, or of a stream those that were read ahead."""

    rows: Dataset
    report: str
    held_out: Dataset | None
    plan: Sequence[Step]
    steps: int
    stream: RowStream | None = None


def planned_data(
    config: Config,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Any,
    dataset: Iterable[Any] | None,
    progress: bool,
) -> Data:
    """The rows and the plan of a run, in all processes alike."""
    if is_streamed(config):
        steps = count_steps(config, tokenizer, dataset, accelerator)
        stream = RowStream(config, tokenizer, dataset)
        rows, first = ahead(stream, accelerator.num_processes)
        return Data(rows, "rows in the order of the data, read as they are trained on", None, first, steps, stream)
    rows, packed, held_out = load_in_all_processes(config, tokenizer, accelerator, progress=progress)
    costs = Work.of(model).operations(*row_totals(rows))
    plan = plan_steps(len(rows), config, accelerator.num_processes, costs)
    return Data(rows, str(packed), held_out, plan, len(plan))


def refuse_dataset(config: Config, dataset: Any) -> None:
    """InputError for a dataset that was handed over and cannot be read as a stream of records."""
    if isinstance(dataset, (str, bytes, os.PathLike)):
        raise InputError(f"dataset is the name {str(dataset)!r} and takes records; set data_path to it.")
    if getattr(dataset, "_distributed", None) is not None:  # of ``datasets``
        raise InputError(
            "the dataset is one process's part of another (split_dataset_by_node), and here every process reads all "
            "rows and takes its own; hand over the whole one."
        )
    if dataset is not None and not is_streamed(config):
        raise InputError(
            f"a dataset that is handed over is read as a stream, and pack_strategy = {config.pack_strategy!r} in mode "
            f"{config.mode} needs all of it at once; set pack_strategy = 'sequential' and pack_to_max_length = True."
        )
