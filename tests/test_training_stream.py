"""A stream of rows is the plan of its strategy, goes on to the bit where it stopped, and holds few documents."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from varlen_lab.config.schema import Config
from varlen_lab.documents import streaming
from varlen_lab.documents.positions import Given, Named
from varlen_lab.documents.sources import Position
from varlen_lab.errors import InputError
from varlen_lab.packing.readers import PackedStream
from varlen_lab.training import stream as stream_module
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.data import load_rows, load_tokenizer, pad_id
from varlen_lab.training.history import History
from varlen_lab.training.step import batched, collator
from varlen_lab.training.stream import RowStream
from varlen_lab.training.stream_steps import Dealing, Reader, as_it_is, batches_of
from varlen_lab.training.trainer import train


@pytest.fixture
def config(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Few records are read at once, few documents wait: 40 of them are a long stream. An epoch has three steps."""
    monkeypatch.setattr(streaming, "RECORDS_AT_ONCE", 3)
    monkeypatch.setattr(stream_module, "PackedStream", partial(PackedStream, lookahead=4))
    return small.with_mode("varlen").replace(
        pack_strategy="sequential", max_steps=7, save_steps=1, save_total_limit=-1, accumulative_counts=8
    )


def records_of(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.data_path).read_text(encoding="utf-8").splitlines()]


def epoch_of(rows: RowStream) -> list[dict[str, np.ndarray]]:
    found = []
    while (row := rows.read()) is not None:
        found.append(row)
    return found


def same_rows(one: Any, two: Any) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(first[name], second[name])
        for first, second in zip(one, two)
        for name in ("input_ids", "labels", "seq_lengths")
    )


def weights(config: Config, step: int = 7) -> dict[str, torch.Tensor]:
    return read_checkpoint(Path(config.work_dir or "") / f"iter_{step}.pth")["model"]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def crash_at(step: int) -> Callable[[dict[str, Any]], None]:
    def on_step(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return on_step


def crash_and_resume(config: Config, step: int, folder: Path, **given: Any) -> tuple[Config, History]:
    """A run that is killed in its step ``step`` + 1 and goes on from the checkpoint of ``step``."""
    broken = config.replace(work_dir=str(folder))
    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=False, on_step=crash_at(step + 1), **{name: make() for name, make in given.items()})
    return broken, train(broken, progress=False, resume=True, **{name: make() for name, make in given.items()})


@pytest.mark.parametrize("overlong", ["truncate", "split", "drop"])
def test_the_rows_are_those_of_the_plan_over_all_documents(small: Config, overlong: str) -> None:
    config = small.with_mode("varlen").replace(pack_strategy="sequential", max_length=64, overlong=overlong)
    tokenizer = load_tokenizer(config)
    rows = RowStream(config, tokenizer)
    first = epoch_of(rows)
    assert same_rows(first, load_rows(config, tokenizer)[0])
    for row in first:
        rows.count(row)
    rows.end_epoch()
    assert same_rows(first, epoch_of(rows))  # each epoch reads again


def test_its_batches_are_those_of_the_rows_in_memory_in_that_order(small: Config) -> None:
    config = small.with_mode("varlen").replace(pack_strategy="sequential", batch_size=2, accumulative_counts=3)
    tokenizer = load_tokenizer(config)
    rows, _ = load_rows(config, tokenizer)
    whole = batches_of(len(rows), 2)
    plan = 2 * [whole[i : i + 3] for i in range(0, len(whole), 3)]
    collate = collator("varlen", pad_id(tokenizer))
    streamed = Dealing(config, collate, 1, 0).steps(RowStream(config, tokenizer), len(plan))
    for expected, found in zip(batched(rows, plan, collate), streamed, strict=True):
        for one, two in zip(expected, found, strict=True):
            assert torch.equal(one.labels, two.labels) and one[2] == two[2] and one[4] == two[4]
            for name, value in one.inputs.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(two.inputs[name])), name


def test_a_run_that_is_killed_anywhere_goes_on_to_the_bit(config: Config, tmp_path: Path) -> None:
    """In the middle of the first epoch and of the second, at its end, with a row begun and documents waiting."""
    undisturbed = train(config, progress=False)
    states = [read_checkpoint(Path(config.work_dir or "") / f"iter_{step}.pth")["stream"] for step in range(1, 7)]
    assert {state["epoch"] for state in states} == {0, 1}
    assert any(state["packer"]["row"] for state in states) and any(state["queue"] == [] for state in states)
    for step in (1, 2, 3, 5):
        broken, resumed = crash_and_resume(config, step, tmp_path / str(step))
        assert resumed.losses == undisturbed.losses, step
        assert equal(weights(config), weights(broken)), step


def test_a_position_that_is_forgotten_would_be_seen(config: Config, tmp_path: Path) -> None:
    """The planted fault: a resumed run that begins to read at the beginning."""
    config = config.replace(max_steps=3)
    undisturbed = train(config, progress=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RowStream, "load_state_dict", lambda self, state: None)
        _, resumed = crash_and_resume(config, 1, tmp_path / "broken")
    assert resumed.losses[:1] == undisturbed.losses[:1] and resumed.losses != undisturbed.losses


def test_resuming_reads_no_record_before_the_position(config: Config) -> None:
    tokenizer = load_tokenizer(config)
    rows, state = RowStream(config, tokenizer), {}
    for _ in range(6):
        rows.read()
        state = rows.state_dict()
    assert state["source"]["start"]["offset"] > 1000
    places = list[str]()
    with pytest.MonkeyPatch.context() as patched:
        read_some = streaming.read_some
        patched.setattr(streaming, "read_some", lambda chunk, **how: places.extend(chunk) or read_some(chunk, **how))
        resumed = RowStream(config, tokenizer)
        resumed.load_state_dict(state)
        rest = epoch_of(resumed)
    assert places[0][0].endswith(f":{state['source']['start']['record'] + 1}")
    assert same_rows(rest, epoch_of(rows))


def parquet(config: Config, folder: Path) -> Config:
    path = folder / "data.parquet"
    Dataset.from_list(records_of(config)).to_parquet(str(path), batch_size=7)  # six row groups
    return config.replace(data_path=str(path))


def packed_jsonl(config: Config, folder: Path) -> Config:
    path = folder / "data.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"\xef\xbb\xbf" + Path(config.data_path).read_bytes())
    return config.replace(data_path=str(path))


def saved(config: Config, folder: Path) -> Config:
    Dataset.from_list(records_of(config)).save_to_disk(str(folder / "saved"))
    return config.replace(data_path=str(folder / "saved"))


def json_array(config: Config, folder: Path) -> Config:
    path = folder / "data.json"
    path.write_text(json.dumps(records_of(config)), encoding="utf-8")
    return config.replace(data_path=str(path))


def two_files(config: Config, folder: Path) -> Config:
    lines = Path(config.data_path).read_text(encoding="utf-8").splitlines(keepends=True)
    parts = [folder / "a.jsonl", folder / "b.jsonl"]
    for path, part in zip(parts, (lines[:17], lines[17:])):
        path.write_text("".join(part), encoding="utf-8")
    return config.replace(data_path=[str(path) for path in parts])


@pytest.mark.parametrize("written", [parquet, packed_jsonl, saved, json_array, two_files])
def test_other_formats_give_the_same_rows_and_go_on_at_them(
    config: Config, tmp_path: Path, written: Callable[[Config, Path], Config]
) -> None:
    tokenizer, other = load_tokenizer(config), written(config, tmp_path)
    expected, rows = epoch_of(RowStream(config, tokenizer)), RowStream(other, tokenizer)
    found = [rows.read() for _ in range(12)]
    resumed = RowStream(other, tokenizer)
    resumed.load_state_dict(rows.state_dict())
    assert same_rows([*found, *epoch_of(resumed)], expected)


def test_a_dataset_that_is_handed_over_is_trained_on(config: Config, tmp_path: Path) -> None:
    """An IterableDataset goes on by its own state, another iterable is read up to there; to the bit."""
    records = records_of(config)

    def shards(numbers: list[int]) -> Iterator[dict[str, Any]]:
        for number in numbers:
            yield from records[number * 10 : number * 10 + 10]

    config = config.replace(max_steps=5)
    of_file = train(config, progress=False)
    for name, step, make in (
        ("list", 4, lambda: records),
        ("generator", 2, lambda: IterableDataset.from_generator(shards, gen_kwargs={"numbers": [0, 1, 2, 3]})),
        ("arrow", 2, lambda: Dataset.from_list(records).to_iterable_dataset(num_shards=3)),
    ):
        broken, resumed = crash_and_resume(config, step, tmp_path / name, dataset=make)
        assert resumed.losses == of_file.losses and equal(weights(config, 5), weights(broken, 5)), name


def test_a_shuffled_stream_goes_on_to_the_bit(config: Config) -> None:
    """Its own state forgets what lay in its buffer, so it is read up to there."""

    def make() -> IterableDataset:
        return Dataset.from_list(records_of(config)).to_iterable_dataset().shuffle(seed=1, buffer_size=10)

    tokenizer = load_tokenizer(config)
    rows = RowStream(config, tokenizer, make())
    for _ in range(12):
        rows.read()
    resumed = RowStream(config, tokenizer, make())
    resumed.load_state_dict(rows.state_dict())
    assert same_rows(epoch_of(resumed), epoch_of(rows))


def test_a_dataset_may_hold_tokens(config: Config) -> None:
    tokenizer = load_tokenizer(config)
    tokenised = [
        {"input_ids": ids.tolist(), "labels": labels.tolist()}
        for ids, labels in ((one["input_ids"], one["labels"]) for one in RowStream(config, tokenizer).documents)
    ]
    assert same_rows(epoch_of(RowStream(config, tokenizer, tokenised)), epoch_of(RowStream(config, tokenizer)))


def test_a_shuffled_stream_is_the_same_in_a_worker(config: Config) -> None:
    """``datasets`` draws otherwise in a worker, and the rows before the first step were read outside of it."""
    tokenizer = load_tokenizer(config)
    collate = collator("varlen", pad_id(tokenizer))
    dealing = Dealing(config.replace(accumulative_counts=1, max_length=64), collate, 1, 0)
    dataset = Dataset.from_list(records_of(config)).to_iterable_dataset().shuffle(seed=1, buffer_size=10)
    rows = RowStream(dealing.config, tokenizer, dataset)
    reader = Reader(rows, rows.state_dict(), dealing, 10)
    beside = [batches for batches, _ in torch.utils.data.DataLoader(reader, None, num_workers=1, collate_fn=as_it_is)]
    for (one,), (two,) in zip(dealing.steps(rows, 10), beside, strict=True):
        assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])


def test_a_dataset_keeps_no_format(config: Config) -> None:
    tokenizer, dataset = load_tokenizer(config), Dataset.from_list(records_of(config)).with_format("numpy")
    assert same_rows(epoch_of(RowStream(config, tokenizer, dataset)), epoch_of(RowStream(config, tokenizer)))


def test_workers_read_the_same_and_know_where_they_stand(config: Config, tmp_path: Path) -> None:
    config = config.replace(max_steps=5)
    alone = train(config, progress=False)
    beside = config.replace(dataloader_num_workers=2)
    broken, resumed = crash_and_resume(beside, 3, tmp_path / "beside")
    assert resumed.losses == alone.losses and equal(weights(config, 5), weights(broken, 5))
    bad = Path(config.data_path).read_text(encoding="utf-8") + "{}\n"
    (tmp_path / "bad.jsonl").write_text(bad, encoding="utf-8")
    with pytest.raises(InputError, match=r"^\S+bad.jsonl:41: "):
        train(beside.replace(data_path=str(tmp_path / "bad.jsonl"), work_dir=str(tmp_path / "x")), progress=False)


def test_every_process_takes_its_part_of_the_same_steps(config: Config) -> None:
    tokenizer = load_tokenizer(config)
    collate = collator("varlen", pad_id(tokenizer))
    parts = [
        list(Dealing(config.replace(accumulative_counts=2), collate, 2, rank).steps(RowStream(config, tokenizer), 6))
        for rank in (0, 1)
    ]
    whole = list(Dealing(config.replace(accumulative_counts=4), collate, 1, 0).steps(RowStream(config, tokenizer), 6))
    for step, *shared in zip(whole, *parts, strict=True):
        mine, other = ([batch.inputs["input_ids"] for batch in part] for part in shared)
        assert len(mine) == len(other)
        rows = {tuple(ids.flatten().tolist()) for ids in [*mine, *other] if ids.any()}
        assert rows == {tuple(batch.inputs["input_ids"].flatten().tolist()) for batch in step}


def test_few_documents_are_held_however_many_there_are(config: Config, tmp_path: Path) -> None:
    tokenizer, most = load_tokenizer(config), []
    text = Path(config.data_path).read_text(encoding="utf-8")
    for times in (1, 10):
        (tmp_path / "long.jsonl").write_text(text * times, encoding="utf-8")
        rows, held = RowStream(config.replace(data_path=str(tmp_path / "long.jsonl")), tokenizer), [0]
        while rows.read() is not None:
            held.append(len(rows.packed.pieces))
        most.append(max(held))
    assert most[1] <= 4 + 128 and most[1] <= most[0] + 4


def test_steps_of_all_epochs_are_counted_once(small: Config, tmp_path: Path) -> None:
    config = small.with_mode("varlen").replace(
        pack_strategy="sequential", max_steps=None, max_epochs=2, accumulative_counts=8
    )
    rows = len(load_rows(config, load_tokenizer(config))[0])
    told = []
    assert len(train(config, progress=False, on_start=told.append).losses) == 2 * -(-rows // 8)
    assert told[0].lines()[0].startswith("rows come in the order of the data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RowStream, "rows_of_an_epoch", lambda self: pytest.fail("counted again"))
        train(config.replace(work_dir=str(tmp_path / "again")), progress=False)


def test_a_file_that_changes_is_told(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(Path(config.data_path).read_bytes())
    config = config.replace(data_path=str(path))
    before, time = path.read_bytes(), path.stat().st_mtime_ns

    def grow(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            path.write_bytes(before * 2)

    with pytest.raises(InputError, match=r"was changed while a run was reading it: it had [\d,]+ bytes, now"):
        train(config, progress=False, on_step=grow)  # at the end of the epoch at the latest
    with pytest.raises(InputError, match="was changed"):
        train(config, progress=False, resume=Path(config.work_dir or "") / "iter_3.pth")
    path.write_bytes(before)
    with pytest.raises(InputError, match=r"its time is another; if it is a copy.* touch -d @"):
        train(config, progress=False, resume=Path(config.work_dir or "") / "iter_3.pth")
    path.write_bytes(before.replace(b"steps of 11", b"steps of 12"))
    os.utime(path, ns=(time, time))
    with pytest.raises(InputError, match="other data"):
        train(config, progress=False, resume=Path(config.work_dir or "") / "iter_3.pth")
    path.write_bytes(before)
    os.utime(path, ns=(time, time))
    assert len(train(config, progress=False, resume=Path(config.work_dir or "") / "iter_3.pth").losses) == 7


def test_a_stream_that_ends_is_told_and_what_it_gave_is_saved(config: Config, tmp_path: Path) -> None:
    config = config.replace(save_steps=100)
    steps = len(train(config.replace(max_steps=None, max_epochs=1), progress=False).losses)
    ended = config.replace(work_dir=str(tmp_path / "ended"))
    with pytest.raises(InputError, match=rf"gave {steps} steps and nothing more .* max_steps = {steps}"):
        train(ended, dataset=iter(records_of(config)), progress=False)
    assert (tmp_path / "ended" / f"iter_{steps}.pth").exists()
    assert len(train(ended.replace(max_steps=steps), dataset=iter(records_of(config)), progress=False).losses) == steps


@pytest.mark.parametrize(
    ("changes", "dataset", "sentence"),
    [
        ({}, [], "the dataset holds no document"),
        ({}, {"train": []}, "the dataset has splits train; hand one of them over"),
        ({}, 3, "the dataset is a int and gives no records"),
        ({}, "train.jsonl", "dataset is the name 'train.jsonl' and takes records; set data_path"),
        ({}, ["train.jsonl"], "the dataset, record 1: it is str, not an object"),
        ({}, map(int, ["no number"]), "the dataset breaks off .ValueError: "),
        (
            {},
            split_dataset_by_node(Dataset.from_list([{"a": 1}] * 2).to_iterable_dataset(), 0, 2),
            "hand over the whole",
        ),
        ({"overlong": "drop", "max_length": 8}, None, "every document has over 8 tokens"),
        (
            {"max_length": 2, "max_steps": None, "max_epochs": 1, "accumulative_counts": 64},
            None,
            "no token of .* is trained on",
        ),
        ({}, [{"messages": []}], "the dataset, record 1: "),
        ({"max_steps": None}, iter([]), "set max_steps"),
        ({"pack_strategy": "best_fit"}, [], "set pack_strategy = 'sequential'"),
        ({"pack_to_max_length": False, "use_varlen_attn": False}, [], "needs all of it at once"),
        ({"balance": "window"}, None, "balance = 'window' sorts rows"),
        ({"evaluation_share": 0.1, "evaluation_freq": 1}, None, "set evaluation_share = 0.0"),
        ({"overlong": "error", "max_length": 8}, None, "raise max_length"),
        ({"max_length": 2}, None, "no token of .* is trained on"),
    ],
)
def test_what_cannot_be_streamed_is_a_sentence(
    config: Config, changes: dict[str, Any], dataset: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        train(config.replace(**changes), dataset=dataset, progress=False)


def test_bad_records_are_named_or_skipped_and_counted(config: Config, tmp_path: Path) -> None:
    lines = Path(config.data_path).read_text(encoding="utf-8").splitlines()
    lines.insert(20, "{no json")
    (tmp_path / "bad.jsonl").write_text("\n".join(lines), encoding="utf-8")
    bad = config.replace(data_path=str(tmp_path / "bad.jsonl"), max_steps=3, work_dir=str(tmp_path / "bad"))
    with pytest.raises(InputError, match=r"bad.jsonl:21: the line is not JSON"):
        train(bad, progress=False)
    history = train(bad.replace(skip_bad=True), progress=False)
    assert history.losses == train(config.replace(max_steps=3), progress=False).losses
    assert "1 record skipped, the first: " in history.meta["data_report"]


def test_an_iterator_is_not_read_twice_and_a_file_not_before_its_position(config: Config) -> None:
    given, at = Given(iter(range(5))), Position()
    assert [record for _, record in given.records(at)] == [0, 1, 2, 3, 4] and at.record == 5
    assert list(given.records(Position())) == []
    with pytest.raises(InputError, match="cannot be read again"):
        list(given.records(Position(record=3)))
    at = Position()
    records, places = Named(config.data_path).records(at), []
    for _ in range(3):
        next(records)
    places = [place for place, _ in Named(config.data_path).records(at)]
    assert places[0].endswith(":4") and places[-1].endswith(":40") and at.record == 40


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_without_a_trained_token_that_fills_its_last_step_is_refused(
    config: Config, tmp_path: Path, workers: int
) -> None:
    """Rows that are an exact multiple of a step's, and every label masked."""
    from datasets import Dataset

    rows = [{"input_ids": list(range(3, 132)), "labels": [-100] * 128 + [131]}] * 16  # it lies behind max_length
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "tokens"))
    masked = config.replace(
        data_path=str(tmp_path / "tokens"), max_steps=None, max_epochs=1, save_steps=9, dataloader_num_workers=workers
    )
    with pytest.raises(InputError, match=r"no token of .* is trained on, every label within max_length"):
        train(masked, progress=False)
    assert not list(Path(config.work_dir or "").glob("*.pth"))
