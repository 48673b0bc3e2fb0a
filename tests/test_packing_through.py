"""Rows on the way through other people's trainers: seams that stay with them, or a sentence."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from several import in_processes
from tokenised import tiny_reader, tokenised

from varlen_lab.errors import InputError
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator, lengths_of
from varlen_lab.packing.packed import PackedRows
from varlen_lab.packing.readers import PackedStream, RowReader
from varlen_lab.packing.strategies import pack_dataset

LENGTHS = [3, 9, 4, 4, 7, 1, 1, 8, 2, 5, 12, 6, 12]
COLLATORS = (VarlenCollator(), PackedCollator(), PaddedCollator())
QUIET: dict[str, Any] = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}


def documents() -> Dataset:
    return tokenised(LENGTHS)


def model() -> Any:
    return tiny_reader(64)


def without_seams(row: Any) -> dict[str, Any]:
    """What HF Trainer leaves of a row whose dataset is none of ``datasets``."""
    return {name: value for name, value in row.items() if name in ("input_ids", "labels")}


def documents_in(stream: Any, num_workers: int) -> list[list[int]]:
    """The documents of all batches of a loader, in the order in which they come."""
    loader: Any = torch.utils.data.DataLoader(stream, num_workers=num_workers, collate_fn=VarlenCollator())
    found = []
    for batch in loader:
        ends = batch["cu_seq_lens_q"].tolist()
        found += [batch["input_ids"][0, begin:end].tolist() for begin, end in itertools.pairwise(ends)]
    return found


@pytest.mark.parametrize("collate", COLLATORS)
def test_no_rows_are_one_sentence(collate: Any) -> None:
    with pytest.raises(InputError, match="the batch has no rows, a collator needs at least one"):
        collate([])


def test_a_row_without_tokens_is_one_sentence() -> None:
    with pytest.raises(InputError, match="has seq_lengths but no input_ids"):
        VarlenCollator()([{"seq_lengths": [2]}])


@pytest.mark.parametrize("collate", COLLATORS)
@pytest.mark.parametrize("kind", ["reader", "stream", "iterable"])
def test_the_tokens_of_a_row_know_its_documents(collate: Any, kind: str) -> None:
    packed = pack_dataset(documents(), 12)
    stream = PackedStream(list(documents()), 12)
    rows = list({"reader": RowReader(packed), "stream": stream, "iterable": packed.to_iterable_dataset()}[kind])
    stripped, whole = collate([*map(without_seams, rows)]), collate(rows)
    assert all(torch.equal(torch.as_tensor(stripped[name]), torch.as_tensor(whole[name])) for name in whole)


def test_what_is_made_of_tokens_knows_nothing() -> None:
    row = RowReader(pack_dataset(documents(), 12))[0]
    tokens = row["input_ids"]
    assert lengths_of(without_seams(row)).tolist() == row["seq_lengths"].tolist()
    for made in (tokens[:5], tokens.copy(), tokens + 1, pickle.loads(pickle.dumps(tokens)), np.asarray(tokens)):
        with pytest.raises(InputError, match="no seq_lengths"):
            VarlenCollator()([{"input_ids": made, "labels": np.asarray(made)}])


def test_the_seams_of_a_packed_dataset_go_where_its_tokens_go() -> None:
    rows = pack_dataset(documents(), 12)
    split = rows.train_test_split(0.3, seed=0)
    made = [rows, rows.select([2, 0]), rows.shuffle(seed=1), rows.shard(2, 0), rows.take(2), split["train"]]
    for some in [*made, split["test"], rows.add_column("number", list(range(len(rows)))).sort("number")]:
        left = some.remove_columns([name for name in some.column_names if name not in ("input_ids", "labels")])
        assert left.column_names == ["input_ids", "labels", "seq_lengths"]
        assert left.to_list() == [{name: row[name] for name in left.column_names} for row in some]
    assert rows.select_columns(["labels", "input_ids"]).column_names == ["labels", "input_ids", "seq_lengths"]
    assert rows.select_columns("labels").column_names == ["labels"]  # labels alone are nobody's row
    assert rows.remove_columns(["input_ids", "seq_lengths"]).column_names == ["labels"]
    assert Dataset(rows.data).remove_columns("seq_lengths").column_names == ["input_ids", "labels"]  # on purpose
    assert isinstance(pickle.loads(pickle.dumps(rows)), PackedRows)


def test_what_changes_packed_rows_gives_packed_rows() -> None:
    """A trainer then keeps their seams with nothing set; formats stay too."""
    rows = pack_dataset(documents(), 12)
    for some in (
        rows.map(lambda row: {"longest": max(row["seq_lengths"])}),
        rows.map(lambda row: row, batched=True),
        rows.filter(lambda row: len(row["input_ids"]) > 3),
        rows.shuffle(seed=1).flatten_indices(),
        rows.repeat(2),
        rows.cast(rows.features),
        PackedRows.of(Dataset.from_list(rows.to_list())),
    ):
        assert isinstance(some, PackedRows)
        left = some.remove_columns([name for name in some.column_names if name not in ("input_ids", "labels")])
        assert left["seq_lengths"][:] == some["seq_lengths"][:]
    assert rows.with_format("torch").select([1]).format["type"] == "torch"


def streams_of_two() -> dict[str, PackedStream]:
    """Streams whose second worker, or first, has no document to read."""
    data = Dataset.from_dict({"input_ids": [[1, 2], [3, 4]]}).to_iterable_dataset(num_shards=2)
    return {
        "one shard": pack_dataset(documents().to_iterable_dataset(), 20),
        "one document": PackedStream([{"input_ids": [1, 2]}], 20),
        "an empty shard": pack_dataset(data.filter(lambda row: row["input_ids"][0] == 3), 20),
    }


@pytest.mark.parametrize("kind", ["one shard", "one document", "an empty shard"])
def test_a_worker_without_documents_is_no_error(kind: str) -> None:
    stream = streams_of_two()[kind]
    found = [documents_in(stream, num_workers=workers) for workers in (0, 2)]
    assert sorted(found[0]) == sorted(found[1])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_for_trl_loses_nothing_to_workers(workers: int) -> None:
    """``datasets`` lets one of them read a generator: it must not take a share of the documents."""
    expected = sorted(documents()["input_ids"][:])
    assert sorted(documents_in(PackedStream(list(documents()), 20).to_iterable_dataset(), workers)) == expected
    shards = pack_dataset(documents().to_iterable_dataset(num_shards=2), 20)
    if workers < 2:
        assert sorted(documents_in(shards.to_iterable_dataset(), workers)) == expected
    else:
        with pytest.raises(InputError, match="set dataloader_num_workers=1, or hand the PackedStream itself over"):
            documents_in(shards.to_iterable_dataset(), workers)
        assert sorted(documents_in(shards, workers)) == expected


def test_an_empty_stream_is_said_by_workers_too() -> None:
    with pytest.raises(InputError, match="the stream has no documents"):
        documents_in(PackedStream([], 20), 2)


def test_the_seams_come_first_and_are_the_longest_of_a_batch() -> None:
    """accelerate cuts all tensors of a dispatched batch to the length of the first."""
    from accelerate.utils.operations import find_batch_size, slice_tensors

    for rows in ([{"input_ids": [5], "labels": [5], "seq_lengths": [1]}], list(pack_dataset(documents(), 12))):
        batch = VarlenCollator()(rows)
        cut = slice_tensors(batch, slice(0, find_batch_size(batch)))
        assert all(torch.equal(torch.as_tensor(cut[name]), torch.as_tensor(batch[name])) for name in batch)


def test_a_batch_dealt_out_to_several_processes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    row = {"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [2]}
    dealer = object.__new__(accelerate.data_loader.DataLoaderDispatcher)
    for processes, loader, refused in ((2, dealer, True), (1, dealer, False), (2, None, False)):
        state = type("State", (), {"_shared_state": {1: 1}, "num_processes": processes})
        monkeypatch.setattr(accelerate.state, "PartialState", state)
        gradient_state = type("State", (), {"active_dataloader": loader})
        monkeypatch.setattr(accelerate.state, "GradientState", gradient_state)
        if refused:
            with pytest.raises(InputError, match=r"set accelerator_config=\{'dispatch_batches': False\}"):
                VarlenCollator()([row])
        else:
            VarlenCollator()([row])


@pytest.mark.parametrize("way", [{"per_device_eval_batch_size": 1}, {}])
def test_predict_gives_a_row_an_example(way: dict[str, Any], tmp_path: Path) -> None:
    """Batches of one row, or of eight, the default, with rows kept."""
    from transformers import Trainer, TrainingArguments

    rows, net = pack_dataset(documents(), 20), model().eval()
    trainer = Trainer(
        net,
        TrainingArguments(output_dir=str(tmp_path), **way, **QUIET),
        data_collator=VarlenCollator(keep_rows=not way),
    )
    found = trainer.predict(rows)
    assert len(found.predictions) == len(found.label_ids) == len(rows) > 2
    for row, logits, labels in zip(rows, found.predictions, found.label_ids, strict=True):
        length = len(row["input_ids"])
        assert labels[:length].tolist() == row["labels"] and (labels[length:] == -100).all()
        with torch.no_grad():
            alone = net(**{name: value for name, value in VarlenCollator()([row]).items() if name != "labels"})
        assert np.abs(logits[:length] - alone.logits[0].numpy()).max() < 1e-5
    merged = Trainer(net, trainer.args, data_collator=VarlenCollator())
    assert trainer.evaluate(rows.select([0]))["eval_loss"] == merged.evaluate(rows.select([0]))["eval_loss"]
    stream = trainer.predict(pack_dataset(documents().to_iterable_dataset(), 20))  # dispatched, and kept too
    assert len(stream.predictions) == len(list(pack_dataset(documents().to_iterable_dataset(), 20)))
    assert sum((labels != -100).sum() for labels in stream.label_ids) == sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("reader", [False, True])
def test_a_leak_check_refuses_predictions_of_merged_rows(reader: bool, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from varlen_lab.leaks.callback import LeakCheck

    rows = pack_dataset(documents(), 20)
    data = RowReader(rows) if reader else rows
    for size, keep_rows, refused in ((8, False, True), (1, False, False), (8, True, False)):
        arguments = TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=size, **QUIET)
        collate = VarlenCollator(keep_rows=keep_rows)
        trainer = Trainer(model(), arguments, data_collator=collate, callbacks=[LeakCheck(receipt=None)])
        assert np.isfinite(trainer.evaluate(data)["eval_loss"])  # a mean is right, merged or not
        if refused:
            with pytest.raises(InputError, match=r"take VarlenCollator\(keep_rows=True\), or set per_device_eval"):
                trainer.predict(data)
        else:
            assert len(trainer.predict(data).predictions) == len(rows)


@pytest.mark.parametrize("multiple", [None, 8])
def test_rows_that_are_kept_are_the_rows_end_to_end(multiple: int | None) -> None:
    """Losses and gradients, rows of several lengths, a row of one token among them."""
    rows = [*pack_dataset(documents(), 12), {"input_ids": [7], "labels": [-100], "seq_lengths": [1]}]
    found = []
    for collate in (VarlenCollator(), VarlenCollator(multiple, keep_rows=True)):
        net, batch = model(), collate(rows)
        loss = net(**batch, use_cache=False).loss
        loss.backward()
        found.append([loss, *(weight.grad for weight in net.parameters())])
    assert batch["input_ids"].shape == batch["labels"].shape == (len(rows), 16 if multiple else 12)
    assert batch["cu_seq_lens_q"][-1] == batch["input_ids"].numel()
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance", "random"])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_way_to_draw_rows_keeps_them(strategy: str, streamed: bool, tmp_path: Path) -> None:
    """An epoch, two workers, batches of two, evaluated on the way: every token arrives once."""
    from transformers import Trainer, TrainingArguments

    seen = list[int]()

    class Watching(VarlenCollator):
        def __call__(self, features: Any) -> dict[str, Any]:
            batch = super().__call__(features)
            seen.append(int((batch["labels"] != -100).sum()))
            return batch

    rows = pack_dataset(documents(), 20)
    data = pack_dataset(documents().to_iterable_dataset(), 20) if streamed else rows
    options: dict[str, Any] = {"max_steps": 2} if streamed else {"num_train_epochs": 1}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        train_sampling_strategy=strategy,
        eval_strategy="epoch",
        gradient_accumulation_steps=2,
        **options,
        **QUIET,
    )
    trainer = Trainer(model(), arguments, train_dataset=data, eval_dataset=rows, data_collator=Watching())
    trainer.train()
    assert sum(seen) >= sum(LENGTHS) - len(LENGTHS)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_trl_does_not_pack_packed_rows_again(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    from varlen_lab.documents.builtin import builtin_tokenizer

    arguments = trl.SFTConfig(output_dir=str(tmp_path), packing=True, max_length=64, bf16=False, **QUIET)
    rows = pack_dataset(documents(), 20)
    with pytest.raises(ValueError, match="same length"):
        trl.SFTTrainer(model(), arguments, train_dataset=rows, processing_class=builtin_tokenizer())


def losses_of_a_stream(folder: str, batch: int, settings: dict[str, Any]) -> list[float]:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=3,
        per_device_train_batch_size=batch,
        logging_steps=1,
        **QUIET,
        **settings,
    )
    stream = pack_dataset(documents().to_iterable_dataset(), 12)
    trainer = Trainer(model(), arguments, train_dataset=stream, data_collator=VarlenCollator())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_two_processes_share_a_stream_or_say_what_to_set(tmp_path: Path) -> None:
    setting = {"accelerator_config": {"dispatch_batches": False}}
    two = in_processes(2, tmp_path / "two", losses_of_a_stream, str(tmp_path / "a"), 1, setting)
    one = losses_of_a_stream(str(tmp_path / "b"), 2, {})
    assert two[0] == pytest.approx(one, abs=1e-5)
    with pytest.raises(Exception, match=r"set accelerator_config=\{'dispatch_batches': False\}"):
        in_processes(2, tmp_path / "dealt", losses_of_a_stream, str(tmp_path / "c"), 1, {})
