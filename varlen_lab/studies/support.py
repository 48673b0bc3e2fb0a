"""The support table of XTuner's page, measured instead of promised: every variant of the eleven families, audited now.

A variant is ✅ when packing changes nothing: no leak at all, and logits within 5e-6 of every document alone in fp32.
A family is ✅ when all its variants are. What is measured is a tiny random stand-in of the real architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from varlen_lab.attention.choosing import AttentionShape, first_able
from varlen_lab.leaks.checking import audit
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.registry import FAMILIES
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = [7, 1, 40, 23, 3, 31]  # one-token documents, and some longer than the stand-ins' windows
LIMIT = 5e-6  # of the logits, fp32


@dataclass(frozen=True)
class Support:
    """One variant, measured.

    ``logits``, ``loss``, ``gradients``: the largest differences of the packed row to each document alone.
    ``leak``: the largest gradient across a seam, 0 where there is none.
    """

    family: str
    variant: str
    native_class: str
    backend: str
    logits: float
    loss: float
    gradients: float
    leak: float
    findings: tuple[str, ...]
    model_type: str = ""  # of the native class

    @property
    def ok(self) -> bool:
        """Whether packing changes nothing for this variant."""
        return not self.findings and self.leak == 0 and self.logits <= LIMIT


def measure(family: str, variant: str) -> Support:
    """Audit the stand-in of one variant on a packed row, in train mode with the batch of VarlenCollator.

    Both are names of ``models.families()`` and ``models.variants(family)``; InputError where there is none such.
    """
    model = tiny(family, variant).train()
    ids = list(range(5, 5 + sum(LENGTHS)))
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": LENGTHS}])
    report = audit(model, batch)
    return Support(
        family=family,
        variant=variant,
        native_class=type(model).__name__,
        backend=first_able(AttentionShape.of(model).job(model.device.type, model.dtype)),
        logits=report.parity.logits,
        loss=report.parity.loss,
        gradients=report.parity.gradients,
        leak=float(abs(report.leaks).max()),
        findings=tuple(map(str, report.findings)),
        model_type=model.config.model_type,
    )


def measure_all(only: list[str] | None = None) -> Iterator[Support]:
    """Every variant of every family (or of ``only``), in the order of the page."""
    for family in only or families():
        for variant in variants(family):
            yield measure(family, variant)


class FamilySupport(NamedTuple):
    """One row of the page's table: its mark and ours, how many variants were measured, the worst of them."""

    family: str  # as the page writes it
    page: str
    measured: str
    variants: int
    logits: float  # largest difference
    leak: float  # largest gradient across a seam


def by_family(rows: Iterable[Support]) -> list[FamilySupport]:
    """The measured variants as the page's table has them, a row a family."""
    found: dict[str, list[Support]] = {}
    for row in rows:
        found.setdefault(row.family, []).append(row)
    return [
        FamilySupport(
            FAMILIES[name].title,
            mark(FAMILIES[name].on_page),
            mark(all(row.ok for row in mine)),
            len(mine),
            max(row.logits for row in mine),
            max(row.leak for row in mine),
        )
        for name, mine in found.items()
    ]


def mark(yes: bool) -> str:
    """✅ or ❌, as XTuner's page marks it."""
    return "✅" if yes else "❌"
