"""How many optimizer steps a run takes once its rows hold several documents, and how to have them back.

    count_steps(documents=1000, documents_per_row=5.4, batch_size=8, epochs=3, learning_rate=2e-5)

1,000 documents are 1,000 rows unpacked and 186 packed; in steps of 8 rows 125 and 24 an epoch. The run sees the same
tokens in a fifth of the steps, each on five times as many documents. Whether that hurts depends on the data and on
the learning rate; two rules of thumb say how far to raise it, and two settings give the steps back. Unlike ``Cost``,
which counts for a plan of real lengths, this needs no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, say
from varlen_lab.packing.checks import checked_count

SAME = 1.5  # a step on fewer than this many times the documents is as good as before


@dataclass(frozen=True)
class StepCount:
    """A run before packing and after it, with the same rows in a step."""

    documents: int
    documents_per_row: float
    batch_size: int
    accumulative_counts: int
    epochs: int
    learning_rate: float

    @property
    def rows(self) -> int:
        """Packed rows of an epoch."""
        return math.ceil(round(self.documents / self.documents_per_row, 6))

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all batches that it accumulates."""
        return self.batch_size * self.accumulative_counts

    @property
    def steps_before(self) -> int:
        """Steps of the whole run with a document a row."""
        return self.epochs * math.ceil(self.documents / self.rows_per_step)

    @property
    def steps_after(self) -> int:
        """Steps of the whole run with packed rows."""
        return self.epochs * math.ceil(self.rows / self.rows_per_step)

    @property
    def times(self) -> float:
        """Documents of a packed step over those of a step before: how much the batch has grown."""
        return self.steps_before / self.steps_after

    @property
    def learning_rates(self) -> tuple[float, float]:
        """What the square root of the growth and the growth itself make of the learning rate."""
        return self.learning_rate * self.times**0.5, self.learning_rate * self.times

    @property
    def advice(self) -> list[str]:
        """What to do about it, a sentence each."""
        if self.times < SAME:
            return [say("A step sees about as many documents as before: keep everything.")]
        root, linear = self.learning_rates
        found = [
            say(
                "Same learning rate, {fewer:.0%} fewer steps: often a higher loss. "
                "Try {root:.1e} (square root, the usual rule for Adam) to {linear:.1e} "
                "(linear, from SGD: the upper end).",
                fewer=1 - 1 / self.times,
                root=root,
                linear=linear,
            )
        ]
        fewer = max(1, round(self.accumulative_counts / self.times))
        if fewer < self.accumulative_counts:
            found.append(
                say(
                    "Or keep the batch: accumulative_counts = {fewer} instead of {now} makes {steps}.",
                    fewer=fewer,
                    now=self.accumulative_counts,
                    steps=counted(self.steps_with(self.batch_size * fewer), "step"),
                )
            )
        smaller = max(1, round(self.batch_size / self.times))
        if fewer == self.accumulative_counts and smaller < self.batch_size:
            found.append(
                say(
                    "Or keep the batch: batch_size = {smaller} instead of {now} makes {steps}.",
                    smaller=smaller,
                    now=self.batch_size,
                    steps=counted(self.steps_with(smaller * self.accumulative_counts), "step"),
                )
            )
        left = self.times * min(fewer / self.accumulative_counts, smaller / self.batch_size)
        if left >= SAME:
            found.append(say("Or divide max_length by {by:.1f}: rows of fewer documents make more steps.", by=left))
        more = "Or train {times:.1f} times as many epochs: as many steps, for {times:.1f} times the work."
        found.append(say(more, times=self.times))
        return found

    def steps_with(self, rows_per_step: int) -> int:
        """Steps of the packed run with so many rows in one."""
        return self.epochs * math.ceil(self.rows / rows_per_step)

    def table(self) -> list[tuple[str, str, str]]:
        """What changes: its name, before and after."""
        seen = self.epochs * self.documents
        return [
            (say("rows of an epoch"), f"{self.documents:,}", f"{self.rows:,}"),
            (say("documents in a step"), f"{seen / self.steps_before:.1f}", f"{seen / self.steps_after:.1f}"),
            (say("optimizer steps"), f"{self.steps_before:,}", f"{self.steps_after:,}"),
        ]

    def __str__(self) -> str:
        lines = []
        for name, before, after in self.table():
            space = " " * (20 - len(name) - sum(sign >= "\u2e80" for sign in name))  # a Chinese sign takes two columns
            lines.append(f"{name}{space}{before:>10}{after:>10}")
        return "\n".join([f"{'':20}{'unpacked':>10}{'packed':>10}", *lines, *self.advice])

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:right">{}</td>'
        body = "".join(
            f'<tr><th style="text-align:left">{name}</th>{cell.format(before)}{cell.format(after)}</tr>'
            for name, before, after in self.table()
        )
        advice = "".join(f"<li>{escape(words)}</li>" for words in self.advice)
        return f"<table><tr><th></th><th>unpacked</th><th>packed</th></tr>{body}</table><ul>{advice}</ul>"


def count_steps(
    documents: int,
    documents_per_row: float,
    batch_size: int = 1,
    accumulative_counts: int = 1,
    epochs: int = 1,
    learning_rate: float = 2e-5,
) -> StepCount:
    """Count the steps of a run with packed rows, and say how to have those back that packing takes.

    ``documents_per_row``: as ``Packs.report()`` says it. ``learning_rate``: the one that suits the unpacked run.
    Raises InputError for counts below 1, fewer than one document a row, and a learning rate that is not above 0.
    """
    counts = {
        "documents": documents,
        "batch_size": batch_size,
        "accumulative_counts": accumulative_counts,
        "epochs": epochs,
    }
    whole: dict[str, Any] = {name: checked_count(name, value, "try 1") for name, value in counts.items()}
    for name, value, least in (("documents_per_row", documents_per_row, 1), ("learning_rate", learning_rate, 0)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < least or (not least and not value):
            raise InputError(f"{name} is {value!r}, it must be a number {'from 1 on' if least else 'above 0'}.")
    return StepCount(**whole, documents_per_row=documents_per_row, learning_rate=learning_rate)
