"""Every planted fault of the registry: the audit names it, and is silent where nothing is planted."""

from __future__ import annotations

import re
from typing import Any

import pytest

from varlen_lab.leaks.before import check_before_training
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS, Fault


def negated(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The fault of this test: no token of the row is that of the document."""
    return {name: batch[name] for name in batch if name != "position_ids"}


DUMMY = Fault(
    name="dummy",
    about="the batch has no positions",
    source="nobody/nothing#1",
    plant=f"{__name__}:negated",
    expected=("position_ids not restarted",),
    fix="start again at 0",
    attention="sdpa",
)


AUDITED = [fault for fault in FAULTS.values() if fault.found_by == "audit"]


def check(fault: Fault) -> None:
    """Planted, the audit names it with its fix."""
    model, batch = specimen(fault)
    report = audit(model, plant(fault, model, batch), boundaries=LENGTHS)
    assert not report.ok
    assert {finding.kind for finding in report.findings} <= set(fault.expected), str(report)
    assert any(fault.fix in finding.fix and fault.where in finding.where for finding in report.findings), str(report)


@pytest.mark.parametrize("fault", AUDITED, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_with_its_fix(fault: Fault) -> None:
    check(fault)


# one fault of each specimen: several are planted in the same
DISTINCT = {(fault.model, fault.attention, str(fault.config)): fault for fault in FAULTS.values()}


@pytest.mark.parametrize("fault", DISTINCT.values(), ids=lambda fault: fault.name)
def test_where_nothing_is_planted_nothing_is_found(fault: Fault) -> None:
    model, batch = specimen(fault)
    for measured in (audit, check_before_training):
        report = measured(model, batch, boundaries=LENGTHS)
        assert report.ok, str(report)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_record_says_where_it_was_met(fault: Fault) -> None:
    assert fault.about and fault.expected and fault.fix and FAULTS[fault.name] is fault
    assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", fault.source), fault.source


def test_a_new_record_is_all_that_a_new_fault_needs() -> None:
    check(DUMMY)
