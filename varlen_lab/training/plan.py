"""Which rows make one optimizer step, which process takes which of them, and what processes wait for each other.

Rows of one length still differ in attention, by the squares of their documents' lengths. ``balance = 'step'`` draws the
rows of a step at random and deals them out well, which takes several rows a process; ``'window'`` draws rows that cost
the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.lazily import LazySteps, Step, each

if TYPE_CHECKING:
    from datasets import Dataset

MOST_STEPS = 2**53  # that a schedule, which computes in float64, can tell apart
REPEATED_ROWS = 2_000_000  # of a plan, up to which its fingerprint is one of all steps
MEASURED_ROWS = 20_000  # of a plan, and at least a step: more would change the second digit no more
MEET_IN_EVERY_BATCH = ("fsdp", "zero2", "zero3")  # they gather weights, or hand gradients on, with every batch


class Plan(LazySteps):
    """All steps of a run; an epoch of them is made when its first one is asked for. See ``plan_steps``."""

    def __init__(self, rows: int, config: Config, processes: int, costs: np.ndarray | None) -> None:
        self.rows = rows
        self.per_epoch = math.ceil(math.ceil(rows / config.batch_size) / (config.accumulative_counts * processes))
        wanted, setting = config.max_steps, f"max_steps = {config.max_steps}"
        if wanted is None:
            wanted, setting = self.per_epoch * config.max_epochs, f"max_epochs = {config.max_epochs}"
        if wanted > MOST_STEPS:
            raise InputError(f"{setting} makes more than {MOST_STEPS:,} steps, no run ends there; lower it.")
        # two epochs: what reads ahead may be in the next one
        epoch = lru_cache(maxsize=2)(lambda number: planned(number, rows, config, processes, costs))
        super().__init__(lambda number: epoch(number // self.per_epoch)[number % self.per_epoch], range(wanted))

    @property
    def epochs(self) -> float:
        """How often each row is drawn, in the mean."""
        whole = len(self) // self.per_epoch
        rest = sum(len(batch) for step in self[whole * self.per_epoch :] for batch in step)
        return whole + rest / self.rows


def plan_steps(rows: int, config: Config, processes: int = 1, costs: np.ndarray | None = None) -> Plan:
    """Row numbers of every optimizer step of a run: shuffled anew each epoch, none left out, none repeated.

    A step holds ``batch_size * accumulative_counts * processes`` rows, as in XTuner; the last of an epoch takes what
    remains. ``max_steps`` stops early, or repeats the data if it must. ``share`` gives each process its part.
    ``costs`` of the rows are asked for by ``balance = 'window'``, InputError without; see ``like_together``.
    """
    if config.balance == "window" and costs is None:
        raise InputError("balance = 'window' sorts rows by what they cost; pass plan_steps their costs.")
    return Plan(rows, config, processes, costs)


def plan_fingerprint(steps: Sequence[Step]) -> str:
    """Twelve hex digits of which rows come when: a resumed run must plan what the killed one did.

    Of a plan that draws very many rows: ``first:``, and digits of its number of steps and the first epoch, which says
    what all others are.
    """
    if isinstance(steps, Plan) and steps.epochs * steps.rows > REPEATED_ROWS:
        first = hashlib.sha256(f"{len(steps)} steps".encode())
        for step in steps[: steps.per_epoch]:
            first.update(repr(step).encode())
        return f"first:{first.hexdigest()[:12]}"
    return hashlib.sha256(repr(list(steps)).encode()).hexdigest()[:12]


def same_plan(before: object, now: str) -> bool:
    """Whether two fingerprints may be of one plan: earlier versions had one way to make them, whatever its length."""
    return before == now or (isinstance(before, str) and len(before) != len(now))


def planned(epoch: int, rows: int, config: Config, processes: int, costs: np.ndarray | None) -> list[Step]:
    """The steps of one epoch."""
    size, batches_each = config.batch_size, config.accumulative_counts * processes
    random = np.random.default_rng([config.seed, epoch])  # alike, whatever came before
    order = random.permutation(rows)
    if config.balance == "window" and costs is not None:
        order = like_together(order, costs, size * batches_each, config.balance_window, random)
    numbers = order.tolist()
    batches = [numbers[i : i + size] for i in range(0, rows, size)]
    return [batches[i : i + batches_each] for i in range(0, len(batches), batches_each)]


def like_together(
    order: np.ndarray, costs: np.ndarray, size: int, window: int, random: np.random.Generator
) -> np.ndarray:
    """The rows of an epoch in another order, in which each ``size`` that make a step cost about the same.

    The steps are cut into windows of at most ``window``, about equally large. The rows of a window are sorted, the most
    expensive first, cut into steps anew, and these shuffled. It knows steps and no processes: one that accumulates
    eight batches and eight that take one see the same rows. The rows that fill no step stay the last as they were
    drawn: sorted with the others they would be the cheapest of all.
    """
    steps = len(order) // size
    full = order[: steps * size].reshape(steps, size)
    parts = []
    for part in np.array_split(full, max(1, -(-steps // window))):
        rows = part.ravel()
        # a stable sort: rows of one cost, such as whole rows of one document, stay as shuffled
        rows = rows[np.argsort(-costs[rows], kind="stable")]
        parts.append(random.permutation(rows.reshape(-1, size)).ravel())
    return np.concatenate([*parts, order[steps * size :]])


def share(steps: Sequence[Step], costs: np.ndarray, processes: int, process: int, batch_size: int) -> Sequence[Step]:
    """The part of one process in every step; ``costs`` is the sum of squared document lengths of each row."""
    if processes == 1:
        return steps
    return each(steps, lambda step: deal(step, costs, processes, batch_size)[process])


def deal(step: Step, costs: np.ndarray, processes: int, batch_size: int) -> list[Step]:
    """The parts of all processes in a step: as many batches as the others have, and about as much attention.

    Rows go, the most expensive first, to the process that has least so far: rows of like cost come to lie in batches
    that are computed at one time. Processes meet after every batch, so one that runs short gets an empty batch.
    """
    rows = sorted((row for batch in step for row in batch), key=lambda row: (-costs[row], row))
    size = -(-len(step) // processes) * batch_size  # rows of a full process
    loads: list[tuple[float, int]] = [(0.0, rank) for rank in range(processes)]  # a heap from the start
    parts: list[list[int]] = [[] for _ in range(processes)]
    for row in rows:
        load, rank = heappop(loads)
        parts[rank].append(row)
        if len(parts[rank]) < size:  # a full process is not offered again
            heappush(loads, (load + float(costs[row]), rank))
    return [[part[i : i + batch_size] for i in range(0, size, batch_size)] for part in parts]


def row_totals(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and sum of squared document lengths, of every row; float64, exact to 2**53.

    The second is what its varlen attention costs.
    """
    lengths = rows.with_format("arrow")[:]["seq_lengths"].combine_chunks()
    tokens = lengths.flatten().to_numpy().astype(np.float64)
    starts = lengths.offsets.to_numpy()[:-1] - lengths.offsets[0].as_py()
    return np.add.reduceat(tokens, starts), np.add.reduceat(tokens**2, starts)


def busiest(
    steps: Sequence[Step], squared: np.ndarray, costs: np.ndarray, processes: int, batch_size: int, every_batch: bool
) -> float:
    """Work of the busiest process over the mean of all: at 1.2 a run takes 1.2 times the time it could.

    ``squared`` is what ``share`` deals rows by, ``costs`` all that they cost. Processes wait for each other where they
    meet: after every step, or after ``every_batch``.
    """
    most = mean = 0.0
    for step in steps:
        parts = deal(step, squared, processes, batch_size)
        loads = np.array([[costs[batch].sum() for batch in part] for part in parts])
        if not every_batch:
            loads = loads.sum(1, keepdims=True)
        most += loads.max(0).sum()
        mean += loads.mean(0).sum()
    return float(most / mean)


def balance_lines(
    config: Config, steps: int, squared: np.ndarray, costs: np.ndarray, processes: int, engine: str
) -> list[str]:
    """What the outlook of a run of so many steps says: the busiest process under both settings of ``balance``.

    And a sentence where ``window`` cannot do what it is for: in one process, in an epoch shorter than a window.
    """
    lines, rows_of_step = [], config.batch_size * config.accumulative_counts * processes
    if processes > 1:
        every_batch = engine in MEET_IN_EVERY_BATCH
        measured = config.replace(max_steps=min(steps, -(-MEASURED_ROWS // rows_of_step)))
        found = []
        for name in ("step", "window"):
            plan = plan_steps(len(costs), measured.replace(balance=name), processes, costs)
            found.append(busiest(plan, squared, costs, processes, config.batch_size, every_batch))
        lines.append(
            f"in a {'batch' if every_batch else 'step'} the busiest process has {found[0]:.2f} times the mean work "
            f"with balance = 'step', {found[1]:.2f} with 'window'"
        )
    elif config.balance == "window":
        lines.append("balance = 'window' is for several processes and this run has one; 'step' draws rows at random")
    full = len(costs) // rows_of_step
    if config.balance == "window" and config.balance_window > full:
        lines.append(
            f"balance_window = {config.balance_window} is more than the {full} whole steps of an epoch, which are one "
            "window"
        )
    return lines


def trains(step: Step, trained: np.ndarray) -> bool:
    """Whether a step holds a trained token; ``trained``: the trained tokens of every row."""
    return any(trained[batch].any() for batch in step)
