"""What a cache keeps is as it was written or made again, and a note says so: never a flipped bit in a row."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datasets import Dataset

from varlen_lab.config.schema import Config
from varlen_lab.files import checksums, kept
from varlen_lab.files.kept import as_written, end_with_digest, folder_as_written, list_digests
from varlen_lab.files.writing import cached_text
from varlen_lab.packing.rows import open_rows
from varlen_lab.packing.strategies import pack_dataset
from varlen_lab.training.data import load_tokenizer, open_documents, tokenised_documents

PAGE = 4096


def damages(whole: bytes, number: int = 40, seed: int = 0) -> Iterator[bytes]:
    """A file with one bit turned over, evenly and at random; with a page of zeros; cut."""
    draw = random.Random(seed)
    places = [at * (len(whole) - 1) // (number // 2 - 1) for at in range(number // 2)]
    for at in [*places, *(draw.randrange(len(whole)) for _ in places)]:
        yield whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
    for at in range(0, len(whole), max(PAGE, len(whole) // 10)):
        zeroed = whole[:at] + bytes(len(whole[at : at + PAGE])) + whole[at + PAGE :]
        if zeroed != whole:
            yield zeroed
    for length in (0, 1, len(whole) // 2, len(whole) - min(53, len(whole)), len(whole) - 1):
        yield whole[:length]


def noticed(path: Path, opened: Callable[[], object], seed: int = 0) -> int:
    """Damages of a file, each of which a process that opens it first must refuse with a note; how many."""
    whole = path.read_bytes()
    count = 0
    for damaged in damages(whole, seed=seed):
        path.write_bytes(damaged)
        checksums.VERIFIED.clear()  # a process of its own
        with pytest.warns(UserWarning, match=f"{path.name} is damaged.* made again"):
            assert opened() is None
        count += 1
    path.write_bytes(whole)
    assert opened() is not None
    return count


@pytest.fixture
def documents() -> Dataset:
    draw = random.Random(1)
    rows = [[draw.randrange(900) for _ in range(draw.randrange(3, 60))] for _ in range(300)]
    return Dataset.from_dict({"input_ids": rows})


def test_every_bit_of_packed_rows_counts(documents: Dataset, tmp_path: Path) -> None:
    pack_dataset(documents, 128, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    assert noticed(file, lambda: open_rows([file])) >= 50


def test_every_bit_of_documents_counts(small: Config, fresh_cache: Path) -> None:
    """Header, notes, offsets, tokens, digest: the notes are said again, and say how much was skipped."""
    tokenised_documents(small, load_tokenizer(small))
    (file,) = fresh_cache.glob("documents-*.arrow")
    assert noticed(file, lambda: open_documents(file)) >= 50


def test_damaged_rows_are_written_again(documents: Dataset, tmp_path: Path) -> None:
    expected = pack_dataset(documents, 128, cache_dir=tmp_path).to_list()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(next(damages(whole)))
    with pytest.warns(UserWarning, match="made again"):
        assert pack_dataset(documents, 128, cache_dir=tmp_path).to_list() == expected
    assert file.read_bytes() == whole


def test_a_damaged_text_is_made_again_and_a_note_says_so(fresh_cache: Path) -> None:
    cached_text("a.txt", lambda: "the text " * 1000)
    path = fresh_cache / "a.txt"
    whole = path.read_bytes()
    for damaged in damages(whole):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            assert cached_text("a.txt", lambda: "the text " * 1000) == "the text " * 1000
        assert path.read_bytes() == whole


def test_a_folder_is_as_written_only_with_all_its_files(tmp_path: Path) -> None:
    assert not folder_as_written(tmp_path / "nothing")
    (tmp_path / "inner").mkdir()
    weights, config = tmp_path / "inner" / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(random.Random(0).randbytes(9000))
    config.write_bytes(b'{"hidden_size": 16}')
    list_digests(tmp_path)
    assert folder_as_written(tmp_path)
    for path in (weights, config, tmp_path / kept.DIGESTS):
        whole = path.read_bytes()
        for damaged in damages(whole, number=8):
            path.write_bytes(damaged)
            checksums.VERIFIED.clear()
            with pytest.warns(UserWarning, match="damaged"):
                assert not folder_as_written(tmp_path)
        path.unlink()
        with pytest.warns(UserWarning, match="damaged"):
            assert not folder_as_written(tmp_path)
        path.write_bytes(whole)
        assert folder_as_written(tmp_path)


def test_a_file_is_read_through_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"rows")
    end_with_digest(path)
    looked = []
    real = kept.seal_holds
    monkeypatch.setattr(kept, "seal_holds", lambda one: looked.append(one) or real(one))
    assert as_written(path) and as_written(path) and len(looked) == 1
    path.write_bytes(path.read_bytes() + b"x")  # another file now
    with pytest.warns(UserWarning):
        assert not as_written(path)
    assert len(looked) == 2


def test_a_file_that_is_not_there_needs_no_note(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not as_written(tmp_path / "rows") and not as_written(tmp_path / "rows" / "below")
