"""What packing changes about a training run: padding, attention, steps, and documents in a step.

The baseline is no straw man. Batches of documents in random order are mostly padding; batches of documents
grouped by length, as ``group_by_length`` of HF Trainer makes them, hardly pad at all, and then packing saves
steps rather than padding. Documents of 2, 4 and 6 tokens, two a batch, rows of 6:

    random order, say 2 6 | 4    16 tokens computed for 12     2 steps
    packed          2+4 | 6      12 tokens computed for 12     1 step of two rows
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from varlen_lab.errors import plural
from varlen_lab.packing.checks import checked_count
from varlen_lab.packing.strategies import Packs

MEGABATCH = 50  # batches: as far as HF Trainer's group_by_length looks for documents of one length


@dataclass(frozen=True)
class Cost:
    """One epoch before packing and after it, with the same rows per batch and batches per step."""

    batch_size: int
    accumulative_counts: int
    padding: float  # share of computed tokens that is padding: documents in random order, a row each
    grouped_padding: float  # the same with documents grouped by length
    packed_padding: float  # the same in packed rows brought to max_length
    padded_attention: float  # sum of len^2 in packed rows, over what the padded batches compute
    steps_before: int
    steps_after: int
    documents_per_step_before: float
    documents_per_step_after: float

    @classmethod
    def of(cls, packs: Packs, batch_size: int, accumulative_counts: int = 1, seed: int = 0) -> Cost:
        """Count for a plan. Documents are shuffled with ``seed`` for the padded batches.

        Raises InputError for a batch size or an accumulation below 1.
        """
        batch_size = checked_count("batch_size", batch_size, "try 1")
        accumulative_counts = checked_count("accumulative_counts", accumulative_counts, "try 1")
        lengths = np.minimum(packs.document_lengths, packs.max_length)
        # batches of the padded baseline are drawn at random: an order of the data's own could flatter it
        shuffled = np.random.default_rng(seed).permutation(lengths)
        widest = batch_maxima(shuffled, batch_size)
        grouped = batch_maxima(group_by_length(shuffled, batch_size), batch_size)
        rows = np.add.reduceat(packs.lengths, packs.offsets[:-1]).astype(float)
        varlen = float((packs.lengths.astype(float) ** 2).sum())
        rows_per_step = batch_size * accumulative_counts
        before, after = (-(-number // rows_per_step) for number in (len(lengths), len(packs)))
        documents = len(np.unique(packs.order))
        return cls(
            batch_size=batch_size,
            accumulative_counts=accumulative_counts,
            padding=float(1 - lengths.sum() / widest.sum()),
            grouped_padding=float(1 - lengths.sum() / grouped.sum()),
            packed_padding=float(1 - rows.sum() / (len(packs) * packs.max_length)),
            padded_attention=varlen / float((widest.astype(float) ** 2).sum()),
            steps_before=before,
            steps_after=after,
            documents_per_step_before=len(lengths) / before,
            documents_per_step_after=documents / after,
        )

    @property
    def note(self) -> str:
        """What the change of the effective batch means for the learning rate."""
        times = self.documents_per_step_after / self.documents_per_step_before
        if times < 1.5:
            return "A step sees about as many documents as before: keep the learning rate."
        fewer = max(1, round(self.accumulative_counts / times))
        keep = (
            f"accumulative_counts = {fewer} instead of {self.accumulative_counts} keeps the batch nearly as it was; or "
            if fewer < self.accumulative_counts
            else ""
        )
        there = f"{'is' if self.steps_after == 1 else 'are'} {plural(self.steps_after, 'step')}"
        return (
            f"A step sees {times:.1f} times as many documents as before, and there {there} "
            f"instead of {self.steps_before:,}: {keep}try a learning rate up to {times**0.5:.1f} times as high (the "
            "square root of the batch, a rule of thumb for Adam), and compare the losses."
        )

    def to_dict(self) -> dict[str, object]:
        """The fields and the note as a plain dict, for JSON."""
        return asdict(self) | {"learning_rate_note": self.note}


def batch_maxima(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """For each document, in order, the longest of its batch: what it is padded to."""
    firsts = np.arange(0, len(lengths), batch_size)
    longest = np.maximum.reduceat(lengths, firsts)
    return np.repeat(longest, np.diff(np.append(firsts, len(lengths))))


def group_by_length(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """Sorted within stretches of ``MEGABATCH`` batches, as HF Trainer's sampler does."""
    stretch = MEGABATCH * batch_size
    return np.concatenate([np.sort(lengths[at : at + stretch])[::-1] for at in range(0, len(lengths), stretch)])
