"""Which rows make one optimizer step, and which process takes which of them."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.config.schema import Config

if TYPE_CHECKING:
    from datasets import Dataset

Step = list[list[int]]  # the batches of one optimizer step, each a list of row numbers


def plan_steps(rows: int, config: Config, processes: int = 1) -> list[Step]:
    """Row numbers of every optimizer step of a run: shuffled anew each epoch, none left out, none repeated.

    A step holds ``batch_size * accumulative_counts * processes`` rows, as in XTuner; the last of an epoch takes what
    remains. ``max_steps`` stops early, or repeats the data if it must. ``share`` gives each process its part.
    """
    steps: list[Step] = []
    epoch = 0
    while len(steps) < config.max_steps if config.max_steps else epoch < config.max_epochs:
        order = np.random.default_rng([config.seed, epoch]).permutation(rows).tolist()  # alike, whatever came before
        batches = [order[i : i + config.batch_size] for i in range(0, rows, config.batch_size)]
        each = config.accumulative_counts * processes
        steps += [batches[i : i + each] for i in range(0, len(batches), each)]
        epoch += 1
    return steps[: config.max_steps]


def share(steps: list[Step], costs: np.ndarray, processes: int, process: int, batch_size: int) -> list[Step]:
    """The part of one process in every step: as many batches as the others have, and about as much attention.

    ``costs`` is the sum of squared document lengths of each row. Rows go, the most expensive first, to the process
    that has least so far. Processes meet after every batch, so one that runs short gets an empty batch.
    """
    if processes == 1:
        return steps
    mine = []
    for step in steps:
        rows = sorted((row for batch in step for row in batch), key=lambda row: (-costs[row], row))
        each = -(-len(step) // processes)  # batches
        loads: list[tuple[float, int]] = [(0.0, rank) for rank in range(processes)]  # a heap from the start
        parts: list[list[int]] = [[] for _ in range(processes)]
        for row in rows:
            load, rank = heappop(loads)
            parts[rank].append(row)
            if len(parts[rank]) < each * batch_size:  # a full process is not offered again
                heappush(loads, (load + float(costs[row]), rank))
        part = parts[process]
        mine.append([part[i * batch_size : (i + 1) * batch_size] for i in range(each)])
    return mine


def row_costs(rows: Dataset) -> np.ndarray:
    """Sum of squared document lengths of every row: what its varlen attention costs."""
    lengths = rows.with_format("arrow")[:]["seq_lengths"].combine_chunks()
    squared = lengths.flatten().to_numpy().astype(np.float64) ** 2
    offsets = lengths.offsets.to_numpy()
    return np.add.reduceat(squared, offsets[:-1] - offsets[0])
