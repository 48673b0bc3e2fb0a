"""What ``LeakCheck`` must not accuse, and what it must not leave behind where a run breaks off."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import packed_row
from test_leaks_callback import FLATTENED, documents, found_in, hf, model, sft
from transformers import DataCollatorWithFlattening

from varlen_lab import LeakCheck
from varlen_lab.errors import InputError
from varlen_lab.leaks import waiting
from varlen_lab.leaks.batches import padding_by_mask
from varlen_lab.models.building import tiny

LEAST = torch.finfo(torch.float32).min


def blocks(rows: list[list[int]], width: int = 16) -> dict[str, Any]:
    """A batch as LLaMA-Factory's neat_packing passes it: a mask of blocks, and padding that is forbidden every key."""
    shape = (len(rows), width)
    ids = torch.randint(5, 90, shape, generator=torch.Generator().manual_seed(0))
    positions, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    mask = torch.full((len(rows), 1, width, width), LEAST)
    for row, lengths in enumerate(rows):
        at = 0
        for length in lengths:
            end = at + length
            positions[row, at:end] = torch.arange(length)
            labels[row, at + 1 : end] = ids[row, at + 1 : end]
            mask[row, 0, at:end, at:end] = torch.full((length, length), LEAST).triu(1)
            at = end
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "position_ids": positions}


def checked(batch: dict[str, Any], attention: str) -> Any:
    net = tiny("llama")
    net.set_attn_implementation(attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LeakCheck(None, on_leak="warn").check(net, batch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [[[5, 1, 7], [9]], [[5, 10]], [[5, 11]], [[1, 1, 1]]], ids=str)
def test_padding_that_is_forbidden_every_key_is_no_document(rows: list[list[int]], attention: str) -> None:
    receipt = checked(blocks(rows), attention)
    assert receipt.ok and not receipt.findings, str(receipt)
    assert receipt.documents == sum(map(len, rows)) and receipt.tokens == sum(map(sum, rows))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_blocks_that_leaks_is_named_beside_padding(attention: str) -> None:
    batch = blocks([[5, 1, 7], [9]])
    batch["attention_mask"][0, 0, 6:13, 5] = 0  # the third document sees the second
    receipt = checked(batch, attention)
    assert not receipt.ok and receipt.bitwise is False, str(receipt)


def test_padding_is_what_ends_a_row_and_is_not_trained() -> None:
    batch = blocks([[5, 1, 7], [9]])
    padding = padding_by_mask(batch)
    assert padding is not None and padding.sum(1).tolist() == [3, 7]
    batch["labels"][0, -2] = 7
    batch["attention_mask"][1, 0, 4] = LEAST  # in the middle of a document: a mistake
    padding = padding_by_mask(batch)
    assert padding is not None and padding.sum(1).tolist() == [1, 7]
    allowed = batch["attention_mask"] == 0
    assert torch.equal(padding, padding_by_mask(batch | {"attention_mask": allowed}))  # type: ignore[arg-type]
    assert torch.equal(padding, padding_by_mask(batch | {"attention_mask": allowed.long()}))  # type: ignore[arg-type]
    assert padding_by_mask(packed_row([5, 1, 17, 9])) is None


def run(trainer: Any) -> Any:
    check = LeakCheck(None)
    trainer.add_callback(check)
    trainer.train()
    return check.receipt


def flattened(folder: Path, **options: Any) -> Any:
    return hf(folder, documents(), DataCollatorWithFlattening(), model("sdpa"), **(FLATTENED | options))


def test_noise_on_embeddings_is_no_leak(tmp_path: Path) -> None:
    receipt = run(flattened(tmp_path, neftune_noise_alpha=5))
    assert receipt.ok and receipt.bitwise, str(receipt)


def test_smoothed_labels_are_no_wrong_division(tmp_path: Path) -> None:
    """A tenth of smoothing takes a tenth of the weights, as if the tokens of documents of ten were all counted."""
    rows = documents().map(lambda row: {"input_ids": row["input_ids"][:10], "labels": row["labels"][:10]})
    trainer = hf(tmp_path, rows, DataCollatorWithFlattening(), model("sdpa"), **FLATTENED, label_smoothing_factor=0.1)
    receipt = run(trainer)
    assert receipt.ok and any("near to a cross-entropy" in note for note in receipt.notes), str(receipt)


def test_padded_rows_of_trl_are_documents_and_padding_is_none(tmp_path: Path) -> None:
    trainer = sft(tmp_path)
    receipt = run(trainer)
    assert receipt.ok and receipt.documents == trainer.args.per_device_train_batch_size, str(receipt)


def first_tokens(features: list[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.tensor([one["input_ids"][:32] for one in features])
    return {"input_ids": ids, "labels": ids}


def test_rows_that_trl_wraps_are_named_where_the_batch_tells_nothing(tmp_path: Path) -> None:
    trainer = sft(tmp_path, packing=True, packing_strategy="wrapped", max_length=64)
    trainer.data_collator = first_tokens
    receipt = found_in(trainer)
    assert [one.name for one in receipt.findings] == ["wrapped packing"] and not receipt.checked


class BreaksOff:
    """A collator that raises at its third batch."""

    left = 2

    def __call__(self, features: list[Any]) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return DataCollatorWithFlattening()(features)


@pytest.mark.parametrize("batches", [0, 1])
def test_a_run_that_breaks_off_does_not_check_the_loop_after_it(tmp_path: Path, batches: int) -> None:
    trainer = flattened(tmp_path, gradient_accumulation_steps=4, max_steps=1)
    trainer.data_collator = BreaksOff()
    trainer.data_collator.left = batches
    trainer.add_callback(LeakCheck(None))
    with pytest.raises(RuntimeError, match="no more"):
        trainer.train()
    leaky = packed_row([5, 1, 17, 9]) | {"attention_mask": torch.ones(1, 32)}
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"):
        leaky.pop(name, None)
    trainer.model.train()
    trainer.model(**leaky)
    assert not trainer.model._forward_pre_hooks and not trainer.model._forward_hooks


def test_an_interrupted_check_leaves_no_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "examine", interrupted)
    trainer = flattened(tmp_path)
    trainer.add_callback(LeakCheck(None))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.model._forward_pre_hooks and not trainer.model._forward_hooks


@pytest.mark.parametrize("batch", [None, [1, 2], "ids"])
def test_what_is_no_batch_is_a_sentence(batch: Any) -> None:
    with pytest.raises(InputError, match=r"LeakCheck takes what goes into model"):
        LeakCheck(None).check(tiny("llama"), batch)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"on_leak": None}, "on_leak 'None' is unknown"), ({"receipt": "a\0b"}, "must be the path of a file")],
)
def test_settings_of_the_wrong_kind_are_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LeakCheck(**options)
