"""Each record of the registry in each of our models, in batches of any shape, and for a while only."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from turns import by_turns

from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError
from varlen_lab.leaks import FAULTS, applies, audit, plant, planted, specimen
from varlen_lab.leaks.planting import LENGTHS
from varlen_lab.leaks.registry import Fault
from varlen_lab.leaks.rows import random_row
from varlen_lab.leaks.running import attention_name
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.miniature import miniature, scale_weights

AUDITED = {name: fault for name, fault in FAULTS.items() if fault.found_by == "audit"}
PAIRS = [(family, variant, name) for family in families() for variant in variants(family) for name in AUDITED]
FAST = random.Random(7).sample(PAIRS, 24)


def model_of(family: str, variant: str) -> Any:
    """A tiny variant in which every layer weighs: a freshly built one hardly attends."""
    model = tiny(family, variant)
    scale_weights(model)
    return model


def named(fault: Fault, model: Any, batch: dict[str, Any], lengths: list[int] | None) -> None:
    """Planted, the audit names the fault and nothing else; afterwards it finds nothing."""
    with planted(fault, model, batch) as wrong:
        report = audit(model, wrong, boundaries=lengths)
    assert report.findings and {one.kind for one in report.findings} <= set(fault.expected), str(report)
    assert audit(model, batch, boundaries=lengths).ok


def check(family: str, variant: str, name: str) -> None:
    fault, model = AUDITED[name], model_of(family, variant)
    batch = random_row(model, LENGTHS)
    if (reason := applies(fault, model, batch)) is None:
        named(fault, model, batch, LENGTHS)
        return
    with pytest.raises(InputError, match=r"cannot be planted in .*; choose a fault"):
        plant(fault, model, batch)
    assert reason and not reason.endswith(".")


@pytest.mark.parametrize(("family", "variant", "name"), FAST)
def test_a_fault_is_named_in_any_variant(family: str, variant: str, name: str) -> None:
    check(family, variant, name)


@pytest.mark.parametrize(
    ("family", "variant"), by_turns(((one, of) for one in families() for of in variants(one)), always=0)
)
def test_every_fault_is_named_in_every_variant(family: str, variant: str) -> None:
    for name in AUDITED:
        check(family, variant, name)


@pytest.mark.parametrize("name", AUDITED)
def test_no_record_is_for_its_own_specimen_only(name: str) -> None:
    """And each can be planted in its specimen."""
    assert applies(AUDITED[name], *specimen(AUDITED[name])) is None


# rows that somebody else packed: several, one-token documents first and last, two documents only, rows of one document
SHAPES = [
    ([12, 3, 9], 1),
    ([1, 1, 20, 2], 1),
    ([19, 1], 1),
    ([12, 4, 8, 16, 8], 2),
    ([24, 5, 3, 16, 24], 3),
]


def batch_of(model: Any, lengths: list[int], rows: int) -> dict[str, Any]:
    batch = random_row(model, lengths)
    alike = ("input_ids", "labels", "position_ids")
    return {name: value.view(rows, -1) if name in alike else value for name, value in batch.items()}


EVERYWHERE = [(name, lengths, rows) for lengths, rows in SHAPES for name in AUDITED]


@pytest.mark.parametrize(("name", "lengths", "rows"), random.Random(11).sample(EVERYWHERE, 30))
def test_a_fault_is_named_in_rows_of_any_shape(name: str, lengths: list[int], rows: int) -> None:
    check_rows(name, lengths, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", AUDITED)
def test_a_fault_is_named_in_rows_of_every_shape(name: str) -> None:
    for lengths, rows in SHAPES:
        check_rows(name, lengths, rows)


def check_rows(name: str, lengths: list[int], rows: int) -> None:
    fault = AUDITED[name]
    model = miniature(fault.model, "varlen", **fault.config)
    batch = batch_of(model, lengths, rows)
    if applies(fault, model, batch) is None:
        named(fault, model, batch, lengths)


@pytest.mark.parametrize(
    "name", ["seams lost in the mask", "padding counts", "seams a token late", "learned positions run on"]
)
def test_seams_are_not_believed_against_positions(name: str) -> None:
    """The batch tells of documents twice: where the seams are wrong, positions that restart show it."""
    model, batch = specimen(FAULTS[name])
    report = audit(model, plant(FAULTS[name], model, batch))
    assert {one.kind for one in report.findings} <= set(FAULTS[name].expected) and not report.ok
    told = [note for note in report.notes if "position_ids of 5" in note]
    assert len(told) == (name != "learned positions run on")


@pytest.mark.parametrize("name", AUDITED)
def test_planted_for_a_while_leaves_the_model_as_it_was(name: str) -> None:
    fault = AUDITED[name]
    model, batch = specimen(fault)
    before = state_of(model)
    given = dict(batch)
    with pytest.raises(ZeroDivisionError), planted(fault, model, batch):
        raise ZeroDivisionError
    assert state_of(model) == before and batch.keys() == given.keys()
    assert all(batch[key] is given[key] for key in given)
    assert set(model.state_dict()) == set(before["weights"])


def state_of(model: Any) -> dict[str, Any]:
    """Everything of a model that a fault may touch."""
    return {
        "attention": attention_name(model),
        "config": model.config.to_dict(),
        "modules": [path for path, _ in model.named_modules()],
        "hooks": [len(one._forward_pre_hooks) + len(one._forward_hooks) for one in model.modules()],
        "attributes": [sorted(vars(one)) for one in model.modules()],
        "weights": list(model.state_dict()),
    }


@pytest.mark.parametrize("name", ["short convolution", "recurrence", "norm of the row"])
def test_what_is_put_into_a_layer_is_no_part_of_a_checkpoint(name: str) -> None:
    model, batch = specimen(FAULTS[name])
    before = list(model.state_dict())
    plant(FAULTS[name], model, batch)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("kind", ["opt", "gpt2", "mpt", "falcon", "lfm2", "olmo2", "gpt_neox", "mixtral", "biogpt"])
def test_a_state_is_planted_in_layers_of_any_make(kind: str) -> None:
    """Whatever the feed-forward part is called, and where it has no module of its own."""
    model = miniature(kind, "eager")
    ids = torch.arange(10, 34)[None]
    fault = FAULTS["state leak"]
    before = model(input_ids=ids, use_cache=False).logits
    plant(fault, model, {})
    assert not torch.allclose(model(input_ids=ids, use_cache=False).logits, before)
    assert any("planted" in path for path, _ in model.named_modules())


def test_a_model_of_one_layer_takes_every_fault() -> None:
    register()
    for name, fault in AUDITED.items():
        if fault.model == "llama":
            model = miniature("llama", "varlen", **{**fault.config, "num_hidden_layers": 1})
            batch = random_row(model, LENGTHS)
            with planted(fault, model, batch) as wrong:
                report = audit(model, wrong, boundaries=LENGTHS)
            assert {one.kind for one in report.findings} <= set(fault.expected) and not report.ok, (name, str(report))


def test_what_cannot_be_planted_is_refused_in_a_sentence() -> None:
    model = tiny("llama")
    batch = random_row(model, [9])
    with pytest.raises(InputError, match="no row of the batch holds two documents"):
        plant(FAULTS["all-ones mask"], model, batch)
    with pytest.raises(InputError, match="no layer of it has a sliding window"):
        plant(FAULTS["window one too wide"], model, {})
    with pytest.raises(InputError, match="no document of the batch is longer than 8 tokens"):
        plant(FAULTS["window missing"], tiny("mistral", "mistral-7b-v0.1"), random_row(model, [8, 4]))
    with pytest.raises(InputError, match="fault of a training loop"):
        plant(FAULTS["mean of means"], model, random_row(model, [5, 4]))
    with pytest.raises(InputError, match="no input_ids"):
        plant(FAULTS["border label"], model, {"labels": torch.ones(1, 4)})


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("cache on", "default use_cache"),
        ("running positions", "positions not restarted"),
        ("cu_seq_lens under sdpa", "seams ignored"),
        ("label at a border", "border label"),
        ("bidirectional kernel", "bidirectional"),
        ("state leak", "recurrence"),
        ("kwargs dropped", "keywords dropped"),
    ],
)
def test_a_fault_is_found_under_the_name_that_people_have_for_it(alias: str, name: str) -> None:
    assert FAULTS[alias] is FAULTS[name] and alias not in set(FAULTS)


def test_names_are_unique_and_a_wrong_one_is_answered_with_a_near_one() -> None:
    names = [*FAULTS, *(alias for fault in FAULTS.values() for alias in fault.aliases)]
    assert len(names) == len(set(names))
    with pytest.raises(KeyError, match="did you mean 'border label'"):
        FAULTS["border lable"]
