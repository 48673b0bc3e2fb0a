"""Rounding is told from a fault: another kernel, half precision, float64, positions that run on."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from packed import packed_row
from planted import plant_in_layer, plant_in_precision, rough

from varlen_lab.leaks import running
from varlen_lab.leaks.before import check_before_training
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.measure import parity
from varlen_lab.leaks.precision import PARITY, certified, in_precision, is_rounding
from varlen_lab.leaks.report import AuditReport
from varlen_lab.leaks.rows import audit_model
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

LENGTHS = [70, 1, 33, 17]
IDS = [(7 * number) % 60 + 3 for number in range(sum(LENGTHS))]
DOCUMENTS = Boundaries.from_lengths(LENGTHS)
SEAMS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
HALF = (torch.bfloat16, torch.float16)


def named(report: AuditReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in report.findings]


# -------------------------------------------------------------------------------------------- nothing is found


def test_documents_alone_are_run_with_the_kernel_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against eager attention the same model is beyond the limit, as SmolLM2 was."""
    model, batch = rough(), packed_row(LENGTHS, IDS)
    found = parity(model, batch, DOCUMENTS)
    assert found.alone == "sdpa" and is_rounding(found)
    report = audit(model, batch)
    assert report.ok and report.parity.dtype is torch.float32, str(report)
    monkeypatch.setattr(running, "trusted_attention", lambda model: "eager")
    found = parity(model, batch, DOCUMENTS)
    assert found.alone == "eager" and not found.within(10 * PARITY[torch.float32])


@pytest.mark.parametrize("attention", ["varlen", "varlen_reference", "sdpa", "eager"])
def test_any_right_kernel_is_ok(attention: str) -> None:
    """The formula written out rounds as eager does: in float64 it is seen that it only rounds.

    sdpa with a mask is another kernel than without one: on the few documents of the check it needs float64 as well.
    Whether eager attention needs it there is the processor's: one multiplies matrices of other shapes in another order.
    """
    model = rough()
    model.set_attn_implementation(attention)
    native = dict.fromkeys(SEAMS) | {"use_cache": False} if attention in running.NATIVE else {}
    batch = packed_row(LENGTHS, IDS, **native)
    for measured in (audit, check_before_training):
        report = measured(model, batch, boundaries=LENGTHS)
        assert report.ok, str(report)
        far = attention == "varlen_reference" or (attention, measured) == ("sdpa", check_before_training)
        depends = (attention, measured) == ("eager", check_before_training)
        assert (report.parity.dtype is torch.float64) == far or depends
        assert is_rounding(report.parity)
        assert report.parity.alone == ("eager" if attention == "eager" else "sdpa")


@pytest.mark.parametrize(("kind", "config"), [("gemma2", {"attn_logit_softcapping": 5.0}), ("gpt_oss", {})])
def test_what_sdpa_cannot_do_is_run_with_eager(kind: str, config: dict) -> None:
    report = audit(rough(kind, num_hidden_layers=2, **config), packed_row(LENGTHS, IDS))
    assert report.ok and report.parity.alone == "eager", str(report)


@pytest.mark.parametrize("trainer", ["accelerate", "ours"])
def test_an_autocast_around_a_forward_does_not_hide_the_copy_in_float32(trainer: str) -> None:
    """What crosses a seam outside of attention is below rounding in bf16: the copy must be one."""
    accelerate, engines = pytest.importorskip("accelerate"), pytest.importorskip("varlen_lab.training.engines")
    model, batch = rough(), packed_row(LENGTHS, IDS)
    if trainer == "accelerate":
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # another test may have made one
        model = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    else:
        engines.autocast_forward(model, "bf16", "cpu")
    before = vars(model)["forward"]
    with torch.autocast("cpu", torch.bfloat16):
        found = certified(model, batch, DOCUMENTS)
        assert found.half is not None and found.parity.dtype is torch.float32 and is_rounding(found.parity)
    assert vars(model)["forward"] == before and model(**batch).logits.dtype is not torch.float64
    if trainer == "accelerate":
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
def test_any_precision_is_ok_and_half_is_certified_by_a_copy(dtype: torch.dtype) -> None:
    model, batch = rough().to(dtype), packed_row(LENGTHS, IDS)
    for measured in (audit, check_before_training):
        report = measured(model, batch)
        assert report.ok and not report.leaks.any(), str(report)
        assert report.parity.dtype is torch.float64 or (dtype in HALF and report.parity.dtype is torch.float32)
        assert report.parity.within(1e-5 if dtype in HALF else 1e-12)
        assert any(f"float32, for {str(dtype)[6:]} cannot certify" in note for note in report.notes) == (dtype in HALF)
    assert {x.dtype for x in model.parameters()} == {dtype}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
def test_an_autocast_is_ok_with_any_right_kernel(kind: str, attention: str) -> None:
    """It rounds queries on their way into a kernel; the experts of a mixture have no float64 by themselves."""
    model = rough(kind)
    model.set_attn_implementation(attention)
    batch = packed_row(LENGTHS, IDS, **({} if attention == "varlen" else dict.fromkeys(SEAMS) | {"use_cache": False}))
    with torch.autocast("cpu", torch.bfloat16):
        for measured in (audit, check_before_training):
            assert (report := measured(model, batch, boundaries=LENGTHS)).ok, str(report)


@pytest.mark.parametrize("dtype", HALF)
def test_a_mixture_is_ok_although_its_grouped_product_has_no_float64(dtype: torch.dtype) -> None:
    model = rough("mixtral").to(dtype)
    report = audit(model, packed_row(LENGTHS, IDS))
    assert report.ok and any("measured in float64" in note for note in report.notes), str(report)
    assert model.config._experts_implementation == "grouped_mm"


def test_half_precision_without_a_copy_certifies_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.leaks.precision.parity_in", lambda *given: None)
    model = rough().bfloat16()
    report = audit(model, packed_row(LENGTHS, IDS))
    assert report.ok and any("bfloat16 cannot certify parity" in note for note in report.notes), str(report)
    plant_in_layer(model, 4, "seam")
    assert not audit(model, packed_row(LENGTHS, IDS)).ok


def test_a_norm_of_float32_that_rounds_to_the_other_side_is_no_fault_in_float64() -> None:
    """SmolLM2 makes 9e-8 of the largest logit of it; the smallest fault planted there is 5e-5."""
    found = parity(rough().double(), packed_row(LENGTHS, IDS), DOCUMENTS, gradients=False)
    moved, faulty = (found.__class__(**vars(found) | {"logits": by * found.logit_scale}) for by in (2e-7, 5e-5))
    assert is_rounding(moved) and not is_rounding(faulty)


def test_a_finer_copy_leaves_the_bits_as_they_were() -> None:
    model = rough()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with in_precision(model, torch.float64):
        assert {x.dtype for x in model.parameters()} == {torch.float64}
    assert all(torch.equal(x, before[name]) and x.dtype is before[name].dtype for name, x in model.state_dict().items())


# --------------------------------------------------------------------------------------- what is wrong is found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("number", [0, 3, 5])
@pytest.mark.parametrize(
    ("fault", "kind"), [("seam", "merged documents"), ("scale", "wrong attention"), ("leak", "wrong attention")]
)
def test_a_fault_of_one_layer_is_named_with_its_layer(fault: str, kind: str, number: int, dtype: torch.dtype) -> None:
    model = rough().to(dtype)
    plant_in_layer(model, number, fault)
    report = audit(model, packed_row(LENGTHS, IDS))
    assert named(report) == [(kind, f"LlamaAttention of layer {number}")], str(report)
    assert report.leaks.any() == (fault != "scale")


@pytest.mark.parametrize("fault", ["even", "heads", "seam"])
@pytest.mark.parametrize("dtype", [*HALF, "autocast"], ids=str)
def test_a_kernel_that_is_wrong_in_half_precision_alone_is_named(dtype: Any, fault: str) -> None:
    """The copy in float32 does not have it, and what half precision rounds is no excuse."""
    for model in (rough(), miniature("llama")):
        plant_in_precision(model, torch.bfloat16 if dtype == "autocast" else dtype, fault)
        with torch.autocast("cpu", torch.bfloat16) if dtype == "autocast" else nullcontext():
            for measured in (audit, check_before_training):
                report = measured(model if dtype == "autocast" else model.to(dtype), packed_row(LENGTHS, IDS))
                assert {kind for kind, _ in named(report)} == {
                    "merged documents" if fault == "seam" else "wrong attention"
                }, str(report)


def test_what_was_not_examined_in_half_precision_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.leaks.causes.LONGEST", 50)
    report = audit(rough().bfloat16(), packed_row(LENGTHS, IDS))
    assert report.ok and any("not examined" in note for note in report.notes), str(report)


@pytest.mark.parametrize("fault", ["even", "heads"])
def test_a_kernel_of_float32_that_nobody_looked_into_is_not_excused_by_float64(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rough()
    plant_in_precision(model, torch.float32, fault)
    for measured in (audit, check_before_training):
        assert named(measured(model, packed_row(LENGTHS, IDS))) == [("wrong attention", "LlamaAttention of layers 0-5")]
    monkeypatch.setattr("varlen_lab.leaks.causes.LONGEST", 50)
    report = audit(model, packed_row(LENGTHS, IDS))
    assert named(report) == [("depends on the row", "LlamaAttention of layer 0")], str(report)
    model.set_attn_implementation("varlen_reference")  # right, and rounds otherwise than sdpa
    report = audit(model, packed_row(LENGTHS, IDS))
    assert report.ok and report.parity.dtype is torch.float64, str(report)


@pytest.mark.parametrize("number", [0, 2])
def test_a_window_one_too_wide_is_named_in_whichever_layer(number: int) -> None:
    model = miniature("mistral", sliding_window=24, num_hidden_layers=3)
    assert audit_model(model).ok
    plant_in_layer(model, number, "window")
    report = audit_model(model)
    assert named(report) == [("window", f"MistralAttention of layer {number}")] and "one too wide" in str(report)


# ------------------------------------------------------------------------------------ positions that run on


def running_on() -> dict:
    return packed_row(LENGTHS, IDS, position_ids=torch.arange(len(IDS))[None])


def test_positions_that_run_on_are_harmless_under_rope_and_named() -> None:
    report = audit(rough(), running_on())
    assert report.ok and not is_rounding(report.parity), str(report)
    assert any("harmless with LlamaRotaryEmbedding" in note for note in report.notes)
    assert check_before_training(rough(), running_on()).ok


def test_positions_that_run_on_excuse_nothing_else() -> None:
    model = rough()
    plant_in_layer(model, 3, "scale")
    assert named(audit(model, running_on())) == [("wrong attention", "LlamaAttention of layer 3")]
    model = miniature("gpt2")
    assert [kind for kind, _ in named(audit(model, running_on()))] == ["position_ids not restarted"]
