"""The leak check of one batch, and its receipt: every planted fault is named, a clean batch is ok."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from packed import packed_row

from varlen_lab import LeakCheck
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.data_behind import rows_behind
from varlen_lab.leaks.first_batch import tiny_report
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.receipt import seams_in_words
from varlen_lab.leaks.registry import FAULTS, Fault
from varlen_lab.leaks.weighing import read_weights, weighed_by_gradient, weighed_by_number
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature

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


# ------------------------------------------------------------------------------------------------------------ the loss


def test_the_weights_of_two_batches_by_hand() -> None:
    """Of 3 and 1 trained tokens: one count gives every token 1/4, the mean of means 1/6, 1/6, 1/6 and 1/2."""
    logits = [torch.randn(1, 4, 7, requires_grad=True), torch.randn(1, 4, 7, requires_grad=True)]
    labels = [torch.tensor([[-100, 1, 2, 3]]), torch.tensor([[-100, -100, -100, 5]])]
    for divisors, name in (((4, 4), None), ((6, 2), "mean of means"), ((8, 8), "loss normalisation")):
        parts = []
        for made, wanted, divisor in zip(logits, labels, divisors, strict=True):
            total = F.cross_entropy(made[0, :-1], wanted[0, 1:], ignore_index=-100, reduction="sum")
            (slope,) = torch.autograd.grad(total / divisor, made)
            parts.append(read_weights(slope, made))
            assert parts[-1].weight == pytest.approx(1 / divisor, rel=1e-4)
        weighed = weighed_by_gradient(parts, accumulated=2)
        assert weighed is not None and [part.trained for part in parts] == [3, 1]
        assert (weighed.finding and weighed.finding.name) == name


@pytest.mark.parametrize(
    ("loss", "options", "name"),
    [
        (12 / 4, {}, None),
        (12 / 10, {"items": 10}, None),
        (12 / 4, {"items": 10, "accumulated": 2}, "mean of means"),
        (12 / 8, {"items": 10, "accumulated": 2}, "mean of means"),
        (12 / 4, {"accumulated": 2}, "mean of means"),
        (12 / 32, {}, "loss normalisation"),  # all tokens
        (12 / 20, {"items": 10, "accumulated": 2}, "loss normalisation"),  # divided twice
    ],
)
def test_a_loss_by_its_number(loss: float, options: dict[str, int], name: str | None) -> None:
    weighed = weighed_by_number(loss, 12.0, 4, 32, **options)
    assert (weighed.finding and weighed.finding.name) == name and weighed.note is None


def test_a_loss_of_ones_own_is_noted_and_not_accused() -> None:
    weighed = weighed_by_number(12 / 5, 12.0, 4, 32)
    assert weighed.finding is None and weighed.note is not None and "no known mistake" in weighed.note


def test_the_loss_of_a_loop_is_checked() -> None:
    model, batch = tiny("llama"), packed_row([5, 1, 17, 9])
    loss = float(model(**batch).loss)
    for given in (loss, lambda model, batch: model(**batch).loss, None):
        assert checked(model, batch, loss=given).ok
        names = [one.name for one in checked(model, batch, loss=given, accumulated=4).findings]
        assert names == ["mean of means"]
    assert checked(model, batch, loss=loss * 28 / 90, num_items_in_batch=90, accumulated=3).ok


def test_prompts_of_a_batch() -> None:
    batch = packed_row([5, 1, 17, 9])
    mask = torch.ones_like(batch["input_ids"])
    mask[:, 8:12] = 0
    receipt = checked(tiny("llama"), batch | {"completion_mask": mask, "seq_lengths": [[5, 1, 17, 9]]})
    assert [one.name for one in receipt.findings] == ["prompts trained"]
    assert any("left out of the call" in note and "seq_lengths" in note for note in receipt.notes)
    assert checked(tiny("llama"), batch | {"labels": batch["labels"] * mask - 100 * (1 - mask), "loss_mask": mask}).ok


# ----------------------------------------------------------------------------------------------- what goes wrong


def test_bad_input_is_a_sentence() -> None:
    model, batch = tiny("llama"), packed_row([5, 1, 17, 9])
    for given, said in (
        ({}, "is empty"),
        (batch | {"input_ids": batch["input_ids"][:, :0]}, "is empty"),
        ({"inputs_embeds": torch.zeros(1, 4, 8)}, "inputs_embeds in place of input_ids"),
        ({"input_ids": batch["input_ids"]}, "nothing that tells its documents"),
    ):
        with pytest.raises(InputError, match=said):
            LeakCheck(None).check(model, given)
    with pytest.raises(InputError, match="takes a torch module"):
        LeakCheck(None).check(lambda **batch: None, batch)


def test_a_model_of_another_task_is_a_sentence() -> None:
    from transformers import LlamaForSequenceClassification

    host = LlamaForSequenceClassification(tiny("llama").config)
    with pytest.raises(InputError, match="no causal language model"):
        LeakCheck(None).check(host, packed_row([5, 1, 17, 9]))


def test_a_model_that_raises_is_a_sentence() -> None:
    model = tiny("llama")
    model.lm_head.register_forward_pre_hook(lambda *given: 1 / 0)
    with pytest.raises(InputError, match="division by zero"):
        LeakCheck(None).check(model, packed_row([5, 1, 17, 9]))


def test_without_labels_it_is_said_and_nothing_is_accused() -> None:
    receipt = checked(tiny("llama"), packed_row([5, 1, 17, 9], labels=None))
    assert receipt.ok and any("labels do not reach the model" in note for note in receipt.notes)


def test_padded_rows_are_documents() -> None:
    ids = torch.arange(10, 34).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    receipt = checked(model, {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    assert receipt.ok and receipt.bitwise and receipt.documents == 2 and receipt.tokens == 19


def test_one_document_has_nothing_to_leak() -> None:
    receipt = checked(tiny("llama"), packed_row([17]))
    assert receipt.ok and any("one document" in note for note in receipt.notes)


def test_a_seam_lost_far_behind_is_seen_by_the_bits() -> None:
    """The few documents whose gradients are measured lie elsewhere."""
    model, batch = tiny("llama"), packed_row([40, 30, 20, 7, 5, 3, 2, 2])
    seams = batch["cu_seq_lens_q"]
    late = torch.cat([seams[:-2], seams[-1:]])
    told = batch | {"cu_seq_lens_q": late, "cu_seq_lens_k": late}
    receipt = checked(model, told, boundaries=[40, 30, 20, 7, 5, 3, 2, 2])
    assert receipt.bitwise is False and [one.name for one in receipt.findings] == ["merged documents"]


def test_a_mixture_of_experts_is_clean() -> None:
    receipt = checked(miniature("mixtral"), packed_row([5, 1, 17, 9]))
    assert receipt.ok and receipt.bitwise is not False


def test_weights_gradients_and_random_states_stay_what_they_are() -> None:
    model, batch = tiny("llama"), packed_row([5, 1, 17, 9])
    model(**batch).loss.backward()
    before = [torch.cat([one.flatten(), one.grad.flatten()]) for one in model.parameters()]
    state, training = torch.get_rng_state(), model.training
    checked(model, batch)
    assert all(
        torch.equal(old, torch.cat([x.flatten(), x.grad.flatten()])) for old, x in zip(before, model.parameters())
    )
    assert torch.equal(state, torch.get_rng_state()) and model.training is training


def test_long_seams_are_cut_with_their_count() -> None:
    found = seams_in_words(torch.arange(1001, dtype=torch.int32))
    assert len(found["cu_seqlens"]) == 257 and found["documents"] == 1000 and "of 1001" in found["cut"]


def test_rows_of_the_data_behind_a_batch() -> None:
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6]}, {"input_ids": [9]}]
    for data in (rows, Dataset.from_list(rows), Dataset.from_list(rows).shuffle(seed=0)):
        found = rows_behind(data, {"input_ids": torch.tensor([[5, 6, 9, 5, 6, 7]])})
        assert found is not None and found.lengths == [2, 1, 3] and not found.told
        assert rows_behind(data, {"input_ids": torch.tensor([[5, 6, 8]])}) is None
    tail = {"input_ids": torch.tensor([[9, 5, 6, 0, 0]]), "labels": torch.tensor([[9, 5, 6, -100, -100]])}
    found = rows_behind(rows, tail)
    assert found is not None and found.lengths == [1, 2, 2] and found.documents == 2


def test_it_costs_less_than_five_steps() -> None:
    """One percent of a run of 500 steps, in CPU seconds of one thread."""
    model, batch = tiny("llama"), packed_row([150, 60, 1, 200, 101], [10 + n % 90 for n in range(512)])
    taken: dict[str, list[float]] = {"step": [], "check": []}
    for _ in range(4):
        for name, work in (("step", lambda: model(**batch).loss.backward()), ("check", lambda: checked(model, batch))):
            start = time.process_time()
            work()
            taken[name].append(time.process_time() - start)
    assert min(taken["check"]) < 5 * min(taken["step"])


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_a_tiny_copy_of_a_right_model_is_right(attention: str) -> None:
    assert tiny_report(miniature("llama", attention)).ok
