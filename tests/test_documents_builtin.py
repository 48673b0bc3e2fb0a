"""The built-in corpus: real text, the same every time, kept in a cache that cannot be half a file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from varlen_lab.documents import load_documents
from varlen_lab.documents.builtin import Entry, builtin_dialogues, builtin_tokenizer, dialogues_of, entries_of
from varlen_lab.files.writing import cache_dir, cached_text, fingerprint


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_thousands_of_documents_with_a_heavy_tail() -> None:
    documents = load_documents("builtin:docstrings", builtin_tokenizer(progress=False), progress=False)
    lengths = np.array([len(ids) for ids in documents.with_format("numpy")["input_ids"]])
    assert len(lengths) > 6000 and lengths.sum() > 400_000
    assert np.quantile(lengths, 0.99) > 8 * np.median(lengths)


def test_documents_are_unique_and_sorted_by_module() -> None:
    dialogues = builtin_dialogues(progress=False)
    answers = [dialogue[-1]["content"] for dialogue in dialogues]
    assert len(set(answers)) == len(answers)
    assert all([message["role"] for message in dialogue] == ["user", "assistant"] for dialogue in dialogues)


def test_a_hand_worked_source() -> None:
    source = b'''"""About the module, in a sentence long enough to keep."""
class A:
    """A class with a docstring long enough to be kept here."""
    def f(self, x, y=1):
        """Too short."""
if True:
    def g(a, *b):
        """A function inside an if, which is found as well as others."""
'''
    entries = list(entries_of(source, "m"))
    assert [(entry.name, entry.kind, entry.signature) for entry in entries] == [
        ("m", "module", ""),
        ("m.A", "class", ""),
        ("m.A.f", "function", "(x, y=1)"),
        ("m.g", "function", "(a, *b)"),
    ]
    assert len(list(dialogues_of(entries))) == 3
    assert list(entries_of(b"def broken(:", "m")) == []


def test_of_equal_docstrings_the_public_name_stays() -> None:
    doc = "The very same docstring, long enough to be kept, twice."
    entries = [Entry("m", "_hidden", "function", "()", doc), Entry("m", "shown", "function", "()", doc)]
    (dialogue,) = dialogues_of(entries)
    assert "shown" in dialogue[0]["content"]


# ----------------------------------------------------------------------------------------------------- cache


def test_what_is_cached_is_not_built_again(empty_cache: Path) -> None:
    built = []
    for _ in range(3):
        assert cached_text("a.txt", lambda: built.append(1) or "text\nänd\n") == "text\nänd\n"
    assert built == [1] and cache_dir() == empty_cache


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b[:70] + b"?" + b[71:]]
)
def test_a_damaged_file_is_built_again(empty_cache: Path, damage) -> None:
    cached_text("a.txt", lambda: "the text")
    path = empty_cache / "a.txt"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cached_text("a.txt", lambda: "the text") == "the text"
    assert path.read_bytes() == whole


def test_a_build_that_fails_leaves_nothing(empty_cache: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached_text("a.txt", lambda: str(1 / 0))
    assert not empty_cache.exists() or list(empty_cache.iterdir()) == []


def test_two_builders_at_once_leave_one_whole_file(empty_cache: Path) -> None:
    def slow() -> str:
        time.sleep(0.05)
        return "x" * 100_000

    threads = [threading.Thread(target=cached_text, args=("a.txt", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in empty_cache.iterdir()] == ["a.txt"]
    assert cached_text("a.txt", lambda: "another") == "x" * 100_000


def test_a_cache_that_cannot_be_written_costs_time_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="not writable"):
        assert cached_text("a.txt", lambda: "text") == "text"


def test_the_fingerprint_is_of_the_facts() -> None:
    assert fingerprint("a", 1) == fingerprint("a", 1) != fingerprint("a", 2)
    assert len(fingerprint()) == 12


@pytest.mark.slow
@pytest.mark.alone
def test_the_corpus_is_built_in_seconds_and_is_the_same_again(empty_cache: Path) -> None:
    start = time.process_time(), time.perf_counter()
    first = builtin_dialogues(progress=False)
    tokenizer = builtin_tokenizer(progress=False)
    assert time.process_time() - start[0] <= 15 and time.perf_counter() - start[1] <= 30  # busy machine or not
    files = {path.name: path.read_bytes() for path in empty_cache.iterdir()}
    for path in empty_cache.iterdir():
        path.unlink()
    assert builtin_dialogues(progress=False) == first
    assert builtin_tokenizer(progress=False).get_vocab() == tokenizer.get_vocab()
    assert {path.name: path.read_bytes() for path in empty_cache.iterdir()} == files
