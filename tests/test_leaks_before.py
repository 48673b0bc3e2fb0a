"""The check before the first step finds every planted fault, leaves no trace, and costs less than two steps."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from packed import packed_row

from varlen_lab.config.schema import Config
from varlen_lab.errors import LeakFound
from varlen_lab.leaks.before import check_before_training, few_documents, leak_found
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS, Fault
from varlen_lab.leaks.report import hearing
from varlen_lab.models.building import build_model, tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.models.recomputing import recompute
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.training.data import load_rows, load_tokenizer
from varlen_lab.training.plan import plan_steps
from varlen_lab.training.step import collator
from varlen_lab.training.trainer import train


def packed(*lengths: int) -> dict[str, Any]:
    """A VarlenCollator batch of one row with documents of these lengths."""
    ids = [10 + number % 500 for number in range(sum(lengths))]
    return packed_row(lengths, ids)


AUDITED = [fault for fault in FAULTS.values() if fault.found_by == "audit"]


@pytest.mark.parametrize("fault", AUDITED, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found_in_the_audits_words(fault: Fault) -> None:
    model, batch = specimen(fault)
    report = check_before_training(model, plant(fault, model, batch), boundaries=LENGTHS)
    assert {finding.kind for finding in report.findings} <= set(fault.expected) and not report.ok, str(report)
    said = str(leak_found(model, report))
    assert said.startswith(type(model).__name__)
    assert ("logits differ" in said) == (not report.leaking and report.parity.logits > 1e-4)
    assert all(f"✗ {finding}" in said.splitlines()[1:] for finding in report.findings)
    assert leak_found(model, report).exit_code == LeakFound.exit_code == 1


@pytest.mark.parametrize("family", ["gemma", "mistral", "deepseek", "baichuan", "starcoder"])
def test_clean_models_pass(family: str) -> None:
    report = check_before_training(tiny(family), packed(40, 3, 1, 90, 12, 30, 300))
    assert report.ok and not report.leaks.any() and report.parity.logits < 1e-5


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((5, 1, 17, 9, 12), [5, 1, 17]),  # the most tokens that fit
        ((500, 3, 1, 90, 12, 30, 300), [90, 12, 30]),
        ((600, 500), [204, 51]),  # cut, into unequal parts
        ((700, 800, 900, 1000), [128, 32, 96]),
        ((8,), [8]),
        ((100,), [25]),
    ],
)
def test_the_documents_are_neighbours_and_few(lengths: tuple[int, ...], expected: list[int]) -> None:
    batch = packed(*lengths)
    few, documents = few_documents(batch)
    assert documents.lengths.tolist() == expected
    at = batch["cu_seq_lens_q"].tolist()
    places = [i for i in range(len(lengths)) if batch["input_ids"][0, at[i]] == few["input_ids"][0, 0]]
    assert places
    for (start, end), place in zip(documents.spans, range(places[0], len(lengths)), strict=False):
        assert few["input_ids"][0, start:end].equal(batch["input_ids"][0, at[place] : at[place] + end - start])
        assert few["position_ids"][0, start:end].tolist() == list(range(end - start))
        assert few["labels"][0, start] == -100
    assert few["cu_seq_lens_q"].equal(documents.cu_seqlens) and few["max_length_k"] == documents.max_seqlen


def test_rows_of_other_collators_are_cut_too() -> None:
    ids = torch.arange(48).view(2, 24) + 10
    positions = torch.tensor([[*range(10), *range(14)], [*range(12), *range(12)]])
    few, documents = few_documents({"input_ids": ids, "position_ids": positions, "use_cache": False})
    assert documents.lengths.tolist() == [10, 14] and few["input_ids"].equal(ids[:1]) and few["use_cache"] is False


@pytest.mark.parametrize("blocks", [True, False])
def test_a_mask_of_every_query_and_key_is_cut_along_both(blocks: bool) -> None:
    """As LLaMA-Factory's neat_packing passes it; and one that is only causal, which leaks."""
    batch = packed(9, 1, 30, 12, 300)
    numbers = torch.repeat_interleave(torch.arange(5), torch.tensor([9, 1, 30, 12, 300]))
    seen = torch.ones(352, 352, dtype=torch.bool).tril()
    if blocks:
        seen &= numbers[:, None] == numbers
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    plain = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
    report = check_before_training(model, {**plain, "attention_mask": mask, "use_cache": False})
    assert report.ok == blocks and (report.leaking > 0) == (not blocks)


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, whatever is in it."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def traces(model: torch.nn.Module) -> list[Any]:
    """All that a check could leave behind."""
    hooks = [[len(module._forward_hooks), len(module._forward_pre_hooks)] for module in model.modules()]
    settings = [
        {name: value for name, value in vars(module).items() if isinstance(value, (int, float, str, torch.Tensor))}
        for module in model.modules()
    ]
    tensors = [one.clone() for one in [*model.parameters(), *model.buffers()]]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [hooks, settings, tensors, gradients, torch.get_rng_state(), model.config._attn_implementation]


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("what", [None, "cheap", "all"])
def test_the_model_is_left_as_it_was(leaky: bool, what: str | None) -> None:
    fault = FAULTS["short convolution"]
    model, batch = specimen(fault)
    if leaky:
        batch = plant(fault, model, batch)
    if what is not None:
        recompute(model, what)
    model.eval()
    model.model.layers[0].train()  # modes may be mixed
    model(**batch).logits.sum().backward()
    found = traces(model)
    assert check_before_training(model, batch).ok != leaky
    assert same(traces(model), found)


def test_frequencies_that_a_long_document_moved_come_back() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny("llama", max_position_embeddings=16, rope_parameters=scaling)
    model(input_ids=packed(100)["input_ids"])
    found = traces(model)
    check_before_training(model, packed(5, 10, 6))
    assert same(traces(model), found)


def test_a_compiled_model_is_not_compiled_for_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    model._compiled_call_impl = lambda *given, **more: pytest.fail("the compiled model was called")
    call = model._compiled_call_impl
    assert check_before_training(model, packed(5, 10, 6)).ok
    assert model._compiled_call_impl is call


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("leaky", [False, True])
def test_half_precision_is_told_from_a_leak(dtype: torch.dtype, leaky: bool) -> None:
    fault = FAULTS["short convolution"]
    model, batch = specimen(fault)
    if leaky:
        batch = plant(fault, model, batch)
    with torch.autocast("cpu", dtype):
        assert check_before_training(model, batch).ok != leaky
    assert check_before_training(model.to(dtype), batch).ok != leaky


@pytest.mark.parametrize(
    ("name", "seed", "cast"),
    [("glm4_moe", 1, False), ("exaone_moe", 0, True), ("mllama", 0, False)],
    ids=["other experts", "other experts, cast", "logits in float32"],
)
def test_rounding_of_half_precision_is_no_fault(name: str, seed: int, cast: bool) -> None:
    model = miniature(name, "varlen_sdpa", seed)
    model = model.bfloat16() if cast else model
    ids = [1 + 7 * number % 60 for number in range(400)]
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": [40, 7, 1, 60, 23, 130, 5, 70, 64]}])
    before = traces(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=not cast):
        report = check_before_training(model, batch)
    assert report.ok, str(report)
    assert report.parity.dtype is torch.float32 and any("copy in float32" in note for note in report.notes)
    assert same(traces(model), before)


def test_a_fault_without_gradient_is_told_in_float32_too() -> None:
    fault = FAULTS["longrope in a mixed row"]
    model, batch = specimen(fault)
    batch = plant(fault, model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        report = check_before_training(model, batch, boundaries=LENGTHS)
    assert {finding.kind for finding in report.findings} == set(fault.expected)


def test_it_costs_less_than_two_steps(small: Config) -> None:
    """Two percent of a run of 100 steps, in CPU seconds of one thread."""
    config = small.replace(max_length=1024, max_steps=6).with_mode("varlen")
    history = train(config, progress=False)
    step = sorted(record["cpu_seconds"] for record in history.records)[1]
    rows, model = load_rows(config, load_tokenizer(config))[0], build_model(config)
    batch = collator("varlen", 0)([rows[row] for row in plan_steps(len(rows), config)[0][0]])
    taken = []
    for _ in range(3):
        start = time.process_time()
        assert check_before_training(model, batch).ok
        taken.append(time.process_time() - start)
    assert min(taken) < 2 * step


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1,), "1 document hears another one"),
        ((2,), "2 documents hear another one"),
        ((1, 5), "1 of 5 documents hears another one"),
        ((3, 5), "3 of 5 documents hear another one"),
    ],
)
def test_who_hears_whom_is_said_in_one_and_in_many(counts: tuple[int, ...], words: str) -> None:
    assert hearing(*counts) == words
