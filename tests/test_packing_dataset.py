"""Packed rows on disk: the same rows whatever wrote them, opened the second time, whole or not there at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from varlen_lab.errors import InputError
from varlen_lab.packing import rows as row_files
from varlen_lab.packing import whole
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.readers import RowReader
from varlen_lab.packing.strategies import pack_dataset

LENGTHS = [3, 9, 4, 4, 7, 1, 1, 8, 2, 5, 10, 12, 6] * 20


@pytest.fixture
def on_disk(tmp_path: Path) -> Dataset:
    ids = np.split(np.arange(sum(LENGTHS), dtype=np.int32), np.cumsum(LENGTHS)[:-1])
    Dataset.from_dict({"input_ids": ids}).save_to_disk(str(tmp_path / "documents"))
    return load_from_disk(str(tmp_path / "documents"))


def test_the_number_of_chunks_and_processes_changes_no_row(on_disk: Dataset, tmp_path: Path) -> None:
    expected = pack_dataset(on_disk.with_format(None), 12, cache_dir=tmp_path / "a").to_list()
    tiny = pack_dataset(on_disk, 12, cache_dir=tmp_path / "b", chunk_tokens=1).to_list()
    two = pack_dataset(on_disk, 12, cache_dir=tmp_path / "c", num_proc=2).to_list()
    memory = pack_dataset(Dataset.from_list(on_disk.to_list()), 12).to_list()
    assert expected == tiny == two == memory
    assert sorted(token for row in expected for token in row["input_ids"]) == list(range(sum(LENGTHS)))


def test_the_second_time_it_is_only_opened(on_disk: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack_dataset(on_disk, 12)
    files = sorted((tmp_path / "documents").glob("packed-*"))
    assert len(files) == 1  # beside the dataset's own files
    monkeypatch.setattr(row_files, "write_share", None)  # writing again would fail
    again = pack_dataset(load_from_disk(str(tmp_path / "documents")), 12)
    assert again.to_list() == first.to_list()


def test_every_choice_has_its_own_file(on_disk: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    for choice in ({}, {"strategy": "concat"}, {"overlong": "drop"}, {"seed": 1}, {"strategy": "sequential"}):
        pack_dataset(on_disk, 10, cache_dir=folder, **choice)
    pack_dataset(on_disk, 11, cache_dir=folder)
    pack_dataset(on_disk.select(range(5)), 10, cache_dir=folder)
    assert len(list(folder.iterdir())) == 7


def test_a_file_cut_short_is_written_again(on_disk: Dataset, tmp_path: Path) -> None:
    rows = pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed").to_list()
    (file,) = (tmp_path / "packed").iterdir()
    whole = file.read_bytes()
    for cut in (100, len(whole) - 8, len(whole) // 2):  # the second is cut where a batch ends
        file.write_bytes(whole[:cut])
        assert pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed").to_list() == rows
        assert file.read_bytes() == whole


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1])
def test_killed_while_writing_and_run_again(on_disk: Dataset, tmp_path: Path, seconds: float) -> None:
    script = textwrap.dedent(
        f"""
        import time
        from datasets import load_from_disk
        from varlen_lab.packing import rows as packing, pack_dataset
        steady = packing.row_batches
        def slow(*arguments):
            for batch in steady(*arguments):
                time.sleep(0.002)
                yield batch
        packing.row_batches = slow
        print("ready", flush=True)
        pack_dataset(load_from_disk({str(tmp_path / "documents")!r}), 12, cache_dir={str(tmp_path / "packed")!r},
                     chunk_tokens=1)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rows = pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed")
    assert sorted(token for row in rows for token in row["input_ids"]) == list(range(sum(LENGTHS)))


def test_a_failure_leaves_no_file(on_disk: Dataset, tmp_path: Path) -> None:
    short = on_disk.map(lambda row: {"labels": row["input_ids"][1:]})
    with pytest.raises(InputError, match="they must be equally long"):
        pack_dataset(short, 12, cache_dir=tmp_path / "packed")
    assert not list((tmp_path / "packed").iterdir())


def test_a_folder_that_cannot_be_is_one_sentence(on_disk: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another cache_dir"):
        pack_dataset(on_disk, 12, cache_dir=tmp_path / "file" / "packed")
    with pytest.raises(InputError, match="num_proc is 0"):
        pack_dataset(on_disk, 12, num_proc=0)
    with pytest.raises(InputError, match=r"chunk_tokens is 1\.5"):
        pack_dataset(on_disk, 12, chunk_tokens=1.5)  # type: ignore[arg-type]


def test_a_dataset_in_a_folder_that_cannot_be_written_is_packed_in_memory_with_one_warning(
    on_disk: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    expected = pack_dataset(on_disk, 12, cache_dir=tmp_path / "elsewhere").to_list()
    monkeypatch.setattr(row_files, "write_share", refuse)
    with pytest.warns(UserWarning, match=r"cannot be written \(Permission denied\).*pass a cache_dir") as warned:
        assert pack_dataset(on_disk, 12).to_list() == expected
    assert len(warned) == 1
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\); choose another cache_dir"):
        pack_dataset(on_disk, 12, cache_dir=tmp_path / "chosen")


def test_a_file_of_a_cache_is_packed_beside_it_and_known_by_its_fingerprint(on_disk: Dataset, tmp_path: Path) -> None:
    (source,) = (tmp_path / "documents").glob("*.arrow")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "tokens.arrow").write_bytes(source.read_bytes())

    def opened(fingerprint: str) -> Dataset:
        documents = Dataset.from_file(str(folder / "tokens.arrow"))
        documents._fingerprint = fingerprint  # its content's, as the reader of the cache knows it
        return documents

    first = pack_dataset(opened("a"), 12)
    assert Path(first.cache_files[0]["filename"]).parent == folder  # memory-mapped from there
    os.utime(folder / "tokens.arrow", (0, 0))
    assert pack_dataset(opened("a"), 12).cache_files == first.cache_files
    assert pack_dataset(opened("b"), 12).cache_files != first.cache_files
    assert first.to_list() == pack_dataset(on_disk, 12, cache_dir=tmp_path / "elsewhere").to_list()


def test_a_column_of_another_kind_is_one_sentence() -> None:
    for column in ([["a"]], [[0.5]], [3], [None, [1]], [[1, None]]):
        with pytest.raises(InputError, match=r"it must hold lists of token numbers|missing values"):
            pack_dataset(Dataset.from_dict({"input_ids": column}), 10)


def test_rows_read_from_memory_are_the_rows(on_disk: Dataset, tmp_path: Path) -> None:
    packed = pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed")
    reader = RowReader(packed)
    assert [{name: list(values) for name, values in row.items()} for row in reader] == packed.to_list()
    collate = VarlenCollator()
    for ours, theirs in zip(collate([reader[0], reader[-1]]).items(), collate([packed[0], packed[-1]]).items()):
        assert ours[0] == theirs[0] and (
            ours[1] == theirs[1] if isinstance(ours[1], int) else (ours[1] == theirs[1]).all()
        )
    with pytest.raises(IndexError):
        reader[len(reader)]


@pytest.mark.parametrize("column", ["input_ids", "labels", "seq_lengths"])
def test_one_flipped_bit_is_noticed(on_disk: Dataset, tmp_path: Path, column: str) -> None:
    """A wrong token has a whole file around it: only a digest of the rows tells."""
    rows = pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed").to_list()
    (file,) = (tmp_path / "packed").iterdir()
    damaged = bytearray(file.read_bytes())
    values = Dataset.from_file(str(file)).data.column(column).chunk(0).flatten().to_numpy().tobytes()
    damaged[damaged.index(values)] ^= 1
    file.write_bytes(damaged)
    assert pack_dataset(on_disk, 12, cache_dir=tmp_path / "packed").to_list() == rows


def test_a_strategy_that_was_edited_gets_rows_of_its_own(
    on_disk: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pack_dataset(on_disk, 12, cache_dir=tmp_path)
    monkeypatch.setattr("varlen_lab.packing.whole.best_fit", whole.unpacked)
    assert len(pack_dataset(on_disk, 12, cache_dir=tmp_path)) == len(LENGTHS) > len(before)


def test_a_damaged_head_is_noticed(on_disk: Dataset, tmp_path: Path) -> None:
    """The types of the columns stand there: int32 read as uint32 would train on what is masked."""
    rows = pack_dataset(on_disk.select(range(9)), 12, cache_dir=tmp_path / "packed").to_list()
    (file,) = (tmp_path / "packed").iterdir()
    whole_file = file.read_bytes()
    for place in range(0, 700, 7):
        for bit in (0, 2, 7):
            damaged = bytearray(whole_file)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            opened = row_files.open_rows([file])
            assert opened is None or opened.to_list() == rows, (place, bit)
