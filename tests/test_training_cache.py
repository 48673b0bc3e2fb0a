"""The same data is tokenised once: a second run, a resume, compare and log-dataset open what the first one kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.documents import tokens
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.registry import TEMPLATES, Template
from varlen_lab.errors import InputError
from varlen_lab.studies.comparison import compare
from varlen_lab.training import data
from varlen_lab.training.checkpoint import data_fingerprint
from varlen_lab.training.data import data_digest, load_rows, load_rows_and_held_out, load_tokenizer, tokenised_documents
from varlen_lab.training.trainer import train


@pytest.fixture
def config(small: Config, dialogues: Path, tmp_path: Path) -> Config:
    """The small config in varlen mode, on its own copy of the data."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(dialogues.read_bytes())
    return small.with_mode("varlen").replace(data_path=str(path))


@pytest.fixture
def no_tokenising(monkeypatch: pytest.MonkeyPatch):
    """Call it, and from then on tokenising fails."""

    def refuse(*_) -> list:
        raise AssertionError("tokenised again")

    return lambda: monkeypatch.setattr(tokens, "documents_of", refuse)


def test_a_second_run_and_a_resume_tokenise_nothing(
    config: Config, tmp_path: Path, fresh_cache: Path, no_tokenising
) -> None:
    first = train(config.replace(save_steps=2), progress=False)
    no_tokenising()
    again = train(config.replace(work_dir=str(tmp_path / "again")), progress=False)
    assert again.losses == first.losses
    resumed = train(config, progress=False, resume=Path(config.work_dir or "") / "iter_2.pth")
    assert resumed.losses == first.losses and resumed.taken == 1


def test_other_verbs_tokenise_nothing(
    config: Config, tmp_path: Path, fresh_cache: Path, no_tokenising, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config.replace(evaluation_share=0.2, evaluation_freq=9), progress=False)
    no_tokenising()
    assert compare(config).losses
    file = tmp_path / "c.py"
    file.write_text(render(config))
    assert main(["log-dataset", str(file), "--show", "input_ids"]) == 0
    assert main(["masks", str(file), "-o", str(tmp_path / "m.svg")]) == 0
    assert main(["pack-report", str(file)]) == 0
    assert "40 documents" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["unpacked", "packed", "varlen"])
def test_what_is_kept_is_what_was_made(
    config: Config, mode: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, no_tokenising
) -> None:
    config = config.with_mode(mode).replace(evaluation_share=0.2, evaluation_freq=9)
    tokenizer = load_tokenizer(config)
    made = load_rows_and_held_out(config, tokenizer)
    no_tokenising()
    kept = load_rows_and_held_out(config, tokenizer)
    assert str(made[1]) == str(kept[1])
    for one, two in ((made[0], kept[0]), (made[2], kept[2])):
        assert one.to_list() == two.to_list() and data_fingerprint(one) == data_fingerprint(two)
        mapped = [file["filename"] for file in two.cache_files]  # not read into memory
        assert mapped and all(str(fresh_cache) in name for name in mapped)


def test_every_thing_that_changes_a_document_misses_the_cache(
    config: Config, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(config)
    calls: list[int] = []
    real = tokens.documents_of
    monkeypatch.setattr(tokens, "documents_of", lambda *given: calls.append(1) or real(*given))
    monkeypatch.setitem(TEMPLATES, "ours", Template(about="", system="{system}", instruction="<{input}>"))
    config = config.replace(prompt_template="ours")

    def tokenised(config: Config, tokenizer=tokenizer) -> bool:
        calls.clear()
        tokenised_documents(config, tokenizer)
        return bool(calls)

    assert tokenised(config) and not tokenised(config)
    assert not tokenised(config.replace(max_length=64, lr=1.0, seed=7))  # what comes after documents
    assert tokenised(config.replace(SYSTEM="Be brief."))
    assert tokenised(config.replace(skip_bad=True))
    assert tokenised(config.replace(special_tokens_in_text="escape"))
    with pytest.raises(InputError):  # reads other shapes of records, so it reads these anew
        tokenised(config.replace(dataset_map_fn="msagent_react"))
    monkeypatch.setitem(TEMPLATES, "ours", Template(about="", system="{system}", instruction="[{input}]"))
    assert tokenised(config) and not tokenised(config)
    path = Path(str(config.data_path))
    path.write_text(path.read_text().replace("steps of 7.", "steps of 8.", 1))  # one byte
    assert tokenised(config) and not tokenised(config)
    copy = path.rename(tmp_path / "elsewhere.jsonl")
    assert not tokenised(config.replace(data_path=str(copy)))  # the bytes count, not the name
    assert tokenised(config.replace(data_path=[str(copy), str(copy)]))
    other = builtin_tokenizer(progress=False)
    other.add_tokens(["Count"])
    assert tokenised(config.replace(data_path=str(copy)), other)


def test_a_saved_dataset_and_the_built_in_corpus_are_kept_too(
    config: Config, tmp_path: Path, fresh_cache: Path, no_tokenising
) -> None:
    records = [json.loads(line) for line in Path(str(config.data_path)).read_text().splitlines()]
    Dataset.from_list(records).save_to_disk(str(tmp_path / "folder"))
    tokenizer = load_tokenizer(config)
    configs = [config.replace(data_path=str(tmp_path / "folder")), config.replace(data_path="builtin:docstrings")]
    made = [tokenised_documents(one, tokenizer) for one in configs]
    no_tokenising()
    for one, before in zip(configs, made, strict=True):
        assert tokenised_documents(one, tokenizer).data.table.equals(before.data.table)


def test_what_was_skipped_is_said_again(config: Config, fresh_cache: Path, no_tokenising) -> None:
    path = Path(str(config.data_path))
    path.write_text(path.read_text() + '{"messages": 7}\n' + '{"messages": []}\n')
    config = config.replace(skip_bad=True)
    said = []
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            documents = tokenised_documents(config, load_tokenizer(config))
        said.append(([str(one.message) for one in caught], documents.info.description))
        no_tokenising()
    assert said[0] == said[1] == said[2]
    assert said[0][0][0].startswith(f"2 records skipped, the first: {path}:41") and len(said[0][0]) == 1


def damage_cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def damage_end(whole: bytes) -> bytes:
    return whole[:-8]


def damage_byte(whole: bytes) -> bytes:
    at = len(whole) * 2 // 3
    return whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]


@pytest.mark.parametrize("damage", [damage_cut, damage_byte, lambda whole: b"", lambda whole: b"x" * 500])
def test_damaged_documents_are_made_again(config: Config, fresh_cache: Path, damage) -> None:
    tokenizer = load_tokenizer(config)
    before = tokenised_documents(config, tokenizer).to_list()  # not a map of the file that is cut now
    (file,) = fresh_cache.glob("documents-*.arrow")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert tokenised_documents(config, tokenizer).to_list() == before
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [damage_cut, damage_end, lambda whole: b""])
def test_rows_that_were_cut_are_made_again(config: Config, fresh_cache: Path, damage) -> None:
    rows, _ = load_rows(config, load_tokenizer(config))
    before = rows.to_list()
    (file,) = fresh_cache.glob("packed-*.arrow")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert load_rows(config, load_tokenizer(config))[0].to_list() == before
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_and_is_named_once(
    config: Config, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tokenizer = config.replace(evaluation_share=0.2, evaluation_freq=9), load_tokenizer(config)
    expected = load_rows_and_held_out(config, tokenizer)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows, report, held_out = load_rows_and_held_out(config, tokenizer)
    assert len(caught) == 1 and "not writable" in str(caught[0].message)
    assert rows.to_list() == expected[0].to_list() and str(report) == str(expected[1])
    assert held_out is not None and held_out.to_list() == expected[2].to_list()


def test_a_tokenizer_nobody_can_read_is_used_and_not_kept(config: Config, fresh_cache: Path) -> None:
    class InPython:
        """As a tokenizer without a Rust core: it can be called, and that is all."""

        bos_token_id = None

        def __init__(self) -> None:
            self.inner = builtin_tokenizer(progress=False)

        def __getattr__(self, name: str):
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self.inner, name)

        def __call__(self, *given, **more):
            return self.inner(*given, **more)

    documents = tokenised_documents(config, InPython())  # type: ignore[arg-type]
    assert len(documents) == 40 and not list(fresh_cache.glob("documents-*"))


def test_data_that_is_not_there_is_named(config: Config, fresh_cache: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file nowhere\.jsonl"):
        tokenised_documents(config.replace(data_path="nowhere.jsonl"), load_tokenizer(config))


def make_rows(config: Config, answer) -> None:
    rows, report = load_rows(config, load_tokenizer(config))
    answer.put((data_fingerprint(rows), str(report)))


def test_two_processes_at_once_get_the_same_rows(config: Config, fresh_cache: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    both = [spawn.Process(target=make_rows, args=(config, answers)) for _ in range(2)]
    for process in both:
        process.start()
    found = [answers.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    assert found[0] == found[1]
    assert not list(fresh_cache.glob(".*.partial"))


def test_data_replaced_while_it_is_read_is_not_kept(
    config: Config, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(str(config.data_path))
    whole, tokenizer = path.read_bytes(), load_tokenizer(config)
    expected = tokenised_documents(config.replace(data_path=[str(path)], skip_bad=True), tokenizer).to_list()
    read = data.load_documents

    def replaced(*arguments, **more):
        path.write_bytes(b"\n".join(whole.splitlines()[:3]))
        return read(*arguments, **more)

    monkeypatch.setattr(data, "load_documents", replaced)
    assert len(tokenised_documents(config, tokenizer)) == 3
    monkeypatch.undo()
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(fresh_cache))
    path.write_bytes(whole)
    assert tokenised_documents(config, tokenizer).to_list() == expected


def test_a_dataset_behind_a_link_is_known_by_what_it_holds(config: Config, fresh_cache: Path, tmp_path: Path) -> None:
    tokenizer, lengths = load_tokenizer(config), []
    for number in (3, 5):
        turns = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "yes"}] for i in range(number)]
        DatasetDict({"train": Dataset.from_dict({"messages": turns})}).save_to_disk(str(tmp_path / f"saved{number}"))
        linked = tmp_path / "linked"
        linked.mkdir(exist_ok=True)
        (linked / "dataset_dict.json").write_bytes((tmp_path / f"saved{number}" / "dataset_dict.json").read_bytes())
        (linked / "train").unlink(missing_ok=True)
        (linked / "train").symlink_to(tmp_path / f"saved{number}" / "train")
        lengths.append(len(tokenised_documents(config.replace(data_path=str(linked)), tokenizer)))
    assert lengths == [3, 5]


def test_other_code_makes_other_documents(config: Config, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(config)
    before = data.documents_key(config, tokenizer)
    assert data.documents_key(config, tokenizer) == before
    monkeypatch.setattr(data, "code_digest", lambda: "edited")
    assert data.documents_key(config, tokenizer) != before


def test_links_in_a_folder_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("one")
    for name in ("loop", "again"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    (tmp_path / "a" / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert list(data.files_below(tmp_path / "a", set())) == [tmp_path / "a" / "file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows names files in text")
def test_a_file_of_a_folder_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\x80.jsonl")).write_text("{}")
    first = data_digest(str(tmp_path))
    (tmp_path / os.fsdecode(b"a\x80.jsonl")).rename(tmp_path / os.fsdecode(b"a\x81.jsonl"))
    assert data_digest(str(tmp_path)) != first
