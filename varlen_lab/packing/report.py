"""What packing does to a dataset, in numbers a person can act on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from varlen_lab.packing.segments import lower_bound


@dataclass(frozen=True)
class PackReport:
    """Counts of one packing plan. ``tokens`` is what went in, ``packed_tokens`` what is trained on."""

    strategy: str
    max_length: int
    documents: int
    tokens: int
    packs: int
    packed_tokens: int
    fill: float  # packed tokens / (packs * max_length)
    lower_bound: int  # no plan that keeps these segments whole needs fewer packs
    documents_per_pack: float
    truncated_documents: int
    truncated_tokens: int
    split_documents: int
    dropped_documents: int
    dropped_tokens: int
    attention_share: float  # sum of len^2 over sum of T^2: the attention work that varlen still does

    @classmethod
    def of(
        cls,
        document_lengths: np.ndarray,
        order: np.ndarray,
        lengths: np.ndarray,
        offsets: np.ndarray,
        max_length: int,
        strategy: str,
    ) -> PackReport:
        """Count from a plan in CSR form (see ``planner``)."""
        packed = np.bincount(order, weights=lengths, minlength=len(document_lengths)).astype(np.int64)
        segments = np.bincount(order, minlength=len(document_lengths))
        missing = document_lengths - packed
        row_tokens = np.add.reduceat(lengths, offsets[:-1])
        total = int(packed.sum())
        return cls(
            strategy=strategy,
            max_length=max_length,
            documents=len(document_lengths),
            tokens=int(document_lengths.sum()),
            packs=len(offsets) - 1,
            packed_tokens=total,
            fill=total / ((len(offsets) - 1) * max_length),
            lower_bound=lower_bound(lengths, max_length),
            documents_per_pack=len(order) / (len(offsets) - 1),
            truncated_documents=int(((segments > 0) & (missing > 0)).sum()),
            truncated_tokens=int(missing[segments > 0].sum()),
            split_documents=int((segments > 1).sum()),
            dropped_documents=int((segments == 0).sum()),
            dropped_tokens=int(missing[segments == 0].sum()),
            attention_share=float((lengths.astype(float) ** 2).sum() / (row_tokens.astype(float) ** 2).sum()),
        )

    def to_dict(self) -> dict[str, object]:
        """The fields as a plain dict, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lost = [
            f"{self.truncated_tokens:,} tokens truncated from {self.truncated_documents:,} documents"
            if self.truncated_documents
            else "",
            f"{self.split_documents:,} documents cut across rows" if self.split_documents else "",
            f"{self.dropped_documents:,} documents dropped ({self.dropped_tokens:,} tokens)"
            if self.dropped_documents
            else "",
        ]
        return (
            f"{self.documents:,} documents, {self.packed_tokens:,} of {self.tokens:,} tokens in {self.packs:,} rows "
            f"of {self.max_length:,} ({self.strategy}): fill {self.fill:.1%}, {self.documents_per_pack:.1f} documents "
            f"a row, at least {self.lower_bound:,} rows needed, varlen attention does {self.attention_share:.1%} of "
            f"the full work; " + ("; ".join(filter(None, lost)) or "nothing cut, nothing lost")
        )
