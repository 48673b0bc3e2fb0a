"""The leak check of one batch, and its receipt: every planted fault is named, a clean batch is ok."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import packed_row

from varlen_lab import LeakCheck
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS, Fault
from varlen_lab.models.building import tiny

WARN = LeakCheck(receipt=None, on_leak="warn")


def checked(model: Any, batch: dict[str, Any], **options: Any) -> Any:
    """The receipt, whatever it says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WARN.check(model, batch, **options)


IN_A_BATCH = {name: fault for name, fault in FAULTS.items() if "trainer" not in fault.plant}


@pytest.mark.parametrize("fault", IN_A_BATCH.values(), ids=IN_A_BATCH)
def test_a_planted_fault_is_named(fault: Fault) -> None:
    model, batch = specimen(fault)
    receipt = checked(model, plant(fault, model, batch), boundaries=LENGTHS)
    assert not receipt.ok and {one.name for one in receipt.findings} <= set(fault.expected), str(receipt)
    assert any(fault.fix in one.fix and fault.where in one.where for one in receipt.findings), str(receipt)


def test_a_clean_batch_is_ok_and_the_receipt_says_what_ran(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "receipt.json"
    receipt = LeakCheck(path).check(tiny("llama"), packed_row([5, 1, 17, 9]))
    assert receipt.ok and receipt["ok"] and receipt.bitwise and receipt.kernel == "varlen/sdpa"
    written = json.loads(path.read_text())
    assert written == receipt.to_dict() and written["seams"]["cu_seqlens"] == [0, 5, 6, 23, 32]
    assert written["loss"]["divided_by"] == pytest.approx(28, rel=1e-5)
    assert {"python", "torch", "transformers", "varlen_lab"} <= written["versions"].keys()
    assert set(written["digests"]) == {"input_ids", "labels", "seams", "logits"}


def test_a_leak_is_raised_and_carries_the_receipt() -> None:
    batch = packed_row([5, 1, 17, 9]) | {"attention_mask": torch.ones(1, 32)}
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    with pytest.raises(LeakFound) as caught:
        LeakCheck(None).check(model, batch)
    assert caught.value.exit_code == 1 and caught.value.receipt.findings[0].name == "attention_mask"


def test_an_unknown_value_of_on_leak_names_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean 'raise'"):
        LeakCheck(on_leak="raises")
