"""``LeakCheck`` in the trainers people use: a clean run is ok and the same to the bit, a fault stops before a step."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from several import in_processes
from transformers import DataCollatorWithFlattening, PrinterCallback, Trainer, TrainingArguments

from varlen_lab import LeakCheck
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.receipt import Receipt
from varlen_lab.models.building import tiny
from varlen_lab.packing.collators import PackedCollator, VarlenCollator
from varlen_lab.packing.strategies import pack_dataset

LENGTHS = [(37 * k) % 60 + (1 if k % 9 == 0 else 5) for k in range(40)]
SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}
PACKED: dict[str, Any] = {"per_device_train_batch_size": 1, "remove_unused_columns": False}


def documents() -> Dataset:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 90, length).tolist() for length in LENGTHS]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def model(attention: str = "varlen") -> Any:
    torch.manual_seed(0)
    net = tiny("llama", vocab_size=96, max_position_embeddings=512)
    net.set_attn_implementation(attention)
    return net


def hf(
    folder: Path, rows: Any = None, collate: Any = None, net: Any = None, kind: Any = Trainer, **options: Any
) -> Any:
    """HF Trainer on packed rows, or on the rows and with the collator given."""
    rows = pack_dataset(documents(), 128) if rows is None else rows
    settings = TrainingArguments(str(folder), **(PACKED | SETTINGS | options))
    return silent(kind(net or model(), settings, train_dataset=rows, data_collator=collate or VarlenCollator()))


def sft(folder: Path, rows: Any = None, **options: Any) -> Any:
    """TRL's SFTTrainer with what it does by default, on documents."""
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    from varlen_lab.documents.builtin import builtin_tokenizer

    rows = documents().remove_columns("labels") if rows is None else rows
    settings = trl.SFTConfig(str(folder), **(SETTINGS | options))
    return silent(
        trl.SFTTrainer(model("sdpa"), settings, train_dataset=rows, processing_class=builtin_tokenizer(progress=False))
    )


def silent(trainer: Any) -> Any:
    trainer.remove_callback(PrinterCallback)
    return trainer


def outcome(trainer: Any) -> tuple[list[float], list[torch.Tensor], Any]:
    """Losses, weights and the random state after training."""
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, [one.detach().clone() for one in trainer.model.parameters()], torch.get_rng_state()


def found_in(trainer: Any) -> Receipt:
    """The receipt of a run whose check stops it; no weight has moved then."""
    before = [one.detach().clone() for one in trainer.model.parameters()]
    trainer.add_callback(LeakCheck(None))
    with pytest.raises(LeakFound) as caught:
        trainer.train()
    assert all(map(torch.equal, before, trainer.model.parameters())) and trainer.state.global_step == 0
    assert not trainer.callback_handler.callbacks[-1].watch.handles
    receipt: Receipt = caught.value.receipt
    return receipt


FLATTENED = {"per_device_train_batch_size": 8, "remove_unused_columns": True}
MAKERS: dict[str, Callable[[Path], Any]] = {
    "VarlenCollator": hf,
    "accumulated, recomputed": lambda folder: hf(folder, gradient_accumulation_steps=2, gradient_checkpointing=True),
    "bf16": lambda folder: hf(folder, bf16=True),
    "evaluation before": lambda folder: hf(folder, eval_on_start=True),
    "flattening": lambda folder: hf(folder, documents(), DataCollatorWithFlattening(), model("sdpa"), **FLATTENED),
    "SFTTrainer": sft,
    "SFTTrainer packing": lambda folder: sft(folder, packing=True, max_length=96),
    "SFTTrainer padding-free": lambda folder: sft(folder, padding_free=True, max_length=None),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_clean_run_is_ok_and_the_same_to_the_bit(make: Callable[[Path], Any], tmp_path: Path) -> None:
    def trainer(folder: str) -> Any:
        made = make(tmp_path / folder)
        made.eval_dataset = made.train_dataset if made.args.eval_on_start else None
        return made

    plain, path = outcome(trainer("plain")), tmp_path / "receipt.json"
    checked = trainer("checked")
    check = LeakCheck(path)
    checked.add_callback(check)
    losses, weights, state = outcome(checked)
    assert losses == plain[0] and all(map(torch.equal, weights, plain[1])) and torch.equal(state, plain[2])
    receipt = json.loads(path.read_text())
    assert receipt["ok"] and receipt["checked"] and receipt["bitwise"] and receipt["documents"] > 1, receipt
    assert receipt["loss"]["divided_by"] == pytest.approx(receipt["loss"]["trained_in_all"], rel=1e-3), receipt
    assert receipt["kernel"].startswith(("varlen/sdpa", "sdpa/flash")), receipt
    assert check.receipt is not None and check.receipt.to_dict() == receipt


# ---------------------------------------------------------------------------------------------------- planted faults


class OwnLoss(Trainer):
    """A trainer whose loss is the mean of each batch, as many write it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.model_accepts_loss_kwargs = False


def mean_of_a_batch(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_mean_of_means_is_named(tmp_path: Path, precision: dict[str, Any]) -> None:
    receipt = found_in(hf(tmp_path, kind=OwnLoss, gradient_accumulation_steps=3, **precision))
    assert [one.name for one in receipt.findings] == ["mean of means"]
    assert "one token count" in receipt.findings[0].fix and len(receipt.loss["trained"]) == 3


def test_mean_of_means_outside_of_the_model_is_named(tmp_path: Path) -> None:
    trainer = hf(tmp_path, gradient_accumulation_steps=3)
    trainer.compute_loss_func = mean_of_a_batch
    receipt = found_in(trainer)
    assert [one.name for one in receipt.findings] == ["mean of means"]
    assert any("labels do not reach the model" in note for note in receipt.notes)


def test_one_batch_a_step_has_no_mean_of_means(tmp_path: Path) -> None:
    trainer = hf(tmp_path, kind=OwnLoss)
    trainer.add_callback(check := LeakCheck(None))
    trainer.train()
    assert check.receipt is not None and check.receipt.ok


def test_seams_that_the_collator_loses_are_known_from_the_rows(tmp_path: Path) -> None:
    receipt = found_in(hf(tmp_path, collate=PackedCollator(), net=model("sdpa")))
    assert [one.name for one in receipt.findings] == ["position_ids not restarted"] and receipt.bitwise is False


def ids_alone(features: list[dict[str, Any]]) -> dict[str, Any]:
    """A collator that knows of no documents."""
    return {name: torch.tensor([one[name] for one in features]) for name in ("input_ids", "labels")}


def test_columns_that_are_dropped_are_known_from_the_rows(tmp_path: Path) -> None:
    receipt = found_in(hf(tmp_path, collate=ids_alone, net=model("sdpa"), remove_unused_columns=True))
    assert [one.name for one in receipt.findings] == ["position_ids not restarted"]


def test_prompts_that_a_column_marks_are_named(tmp_path: Path) -> None:
    rows = documents()
    rows = rows.add_column("completion_mask", [[0] * (n // 2) + [1] * (n - n // 2) for n in LENGTHS])
    receipt = found_in(hf(tmp_path, rows, DataCollatorWithFlattening(), model("sdpa"), **FLATTENED))
    assert [one.name for one in receipt.findings] == ["prompts trained"]


def test_rows_that_trl_wraps_are_named(tmp_path: Path) -> None:
    receipt = found_in(sft(tmp_path, packing=True, packing_strategy="wrapped", max_length=64))
    assert [one.name for one in receipt.findings] == ["wrapped packing"]


def test_warned_once_training_goes_on(tmp_path: Path) -> None:
    trainer = hf(tmp_path, collate=PackedCollator(), net=model("sdpa"))
    trainer.add_callback(LeakCheck(tmp_path / "receipt.json", on_leak="warn"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert len([one for one in caught if "position_ids not restarted" in str(one.message)]) == 1
    assert trainer.state.global_step == 2 and not json.loads((tmp_path / "receipt.json").read_text())["ok"]


# ---------------------------------------------------------------------------------------------------------- bad input


def test_a_batch_without_documents_is_a_sentence(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"input_ids": [list(range(3, 35))] * 4, "labels": [list(range(3, 35))] * 4})
    trainer = hf(tmp_path, rows, ids_alone, model("sdpa"), per_device_train_batch_size=2)
    trainer.add_callback(LeakCheck(tmp_path / "receipt.json"))
    with pytest.raises(InputError, match="nothing that tells its documents"):
        trainer.train()
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert not receipt["ok"] and not receipt["checked"]
    trainer = hf(tmp_path, rows, ids_alone, model("sdpa"), per_device_train_batch_size=2)
    trainer.add_callback(LeakCheck(None, on_leak="warn"))
    with pytest.warns(UserWarning, match="nothing that tells its documents"):
        trainer.train()
    assert trainer.state.global_step == 2


def test_where_no_batch_holds_two_documents_it_is_said(tmp_path: Path) -> None:
    options = FLATTENED | {"per_device_train_batch_size": 1}
    trainer = hf(tmp_path, documents(), DataCollatorWithFlattening(), model("sdpa"), **options)
    trainer.add_callback(check := LeakCheck(None))
    with pytest.warns(UserWarning, match="2 batches, none of which held two documents"):
        trainer.train()
    assert check.receipt is not None and not check.receipt.checked


def test_a_model_that_takes_no_hooks_is_a_sentence() -> None:
    class Closed(torch.nn.Linear):
        def register_forward_pre_hook(self, *given: Any, **options: Any) -> Any:
            raise RuntimeError("closed")

    for given, said in ((None, "hands LeakCheck nothing"), (Closed(2, 2), "takes no forward hooks"), (3, "a int")):
        with pytest.raises(InputError, match=said):
            LeakCheck(None).on_train_begin(None, None, None, model=given)
        with pytest.warns(UserWarning, match=said):
            LeakCheck(None, on_leak="warn").on_train_begin(None, None, None, model=given)


def test_a_receipt_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = hf(tmp_path / "run")
    trainer.add_callback(LeakCheck(tmp_path / "file" / "receipt.json"))
    with pytest.raises(InputError, match="the receipt cannot be written"):
        trainer.train()


def test_a_second_training_is_checked_again(tmp_path: Path) -> None:
    trainer = hf(tmp_path)
    trainer.add_callback(check := LeakCheck(None))
    trainer.train()
    first = check.receipt
    trainer.train()
    assert check.receipt is not first and check.receipt is not None and check.receipt.ok
    assert not trainer.model._forward_pre_hooks and not trainer.model._forward_hooks


# --------------------------------------------------------------------------------------------------- several processes


def run_of(folder: Path, check: bool, net: Any, collate: Any) -> Any:
    """Losses and weights of this process, or what is said."""
    trainer = hf(folder, collate=collate, net=net, gradient_accumulation_steps=2)
    if check:
        trainer.add_callback(LeakCheck(folder / "receipt.json"))
    try:
        return outcome(trainer)[:2]
    except InputError as problem:
        return str(problem)


def of_two(folder: str) -> list[Any]:
    """Runs of one of two processes: with a check and without, in two precisions, and with a leak."""
    home, seams = Path(folder), VarlenCollator()
    runs = [
        run_of(home / f"{check} {half}", check, model().bfloat16() if half else model(), seams)
        for half in (False, True)
        for check in (False, True)
    ]
    return [*runs, run_of(home / "leak", True, model("sdpa"), PackedCollator())]


@pytest.mark.slow
def test_two_processes_train_as_without_the_check_and_stop_together(tmp_path: Path) -> None:
    for plain, checked, half, half_checked, leak in (both := in_processes(2, tmp_path, of_two, str(tmp_path))):
        for (losses, weights), (others, moved) in ((plain, checked), (half, half_checked)):
            assert losses == others and all(map(torch.equal, weights, moved))
        assert "position_ids not restarted" in leak
    assert both[0][-1] == both[1][-1]
    for half in (False, True):
        receipt = json.loads((tmp_path / f"True {half}" / "receipt.json").read_text())
        assert receipt["ok"] and len(receipt["loss"]["trained"]) == 4
