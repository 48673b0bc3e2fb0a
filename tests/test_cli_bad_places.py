"""Places that cannot be written: each verb says so in a sentence before it works, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from varlen_lab.cli import check_outputs, main
from varlen_lab.files.writing import cached_text

WORDS = {  # a verb -> its words, {} is the place; what a file there must end in
    "pack-report": (["pack-report", "data.jsonl", "-o", "{}"], ""),
    "masks": (["masks", "--lengths", "3", "4", "-o", "{}"], ".png"),
    "masks --html": (["masks", "--lengths", "3", "4", "--html", "{}"], ".html"),
    "compare": (["compare", "tiny_llama_full_docstrings_e1", "-o", "{}"], ""),
    "census": (["census", "--write", "{}"], ""),
    "copy-cfg": (["copy-cfg", "tiny_llama_full_docstrings_e1", "{}"], ""),
    "run": (["run", str(Path(__file__).parents[1] / "notebooks" / "01_install.ipynb"), "-o", "{}"], ".ipynb"),
    "walkthrough": (["walkthrough", "--only", "01", "-o", "{}"], ""),
}
PLACES = {
    "below a file": "data.jsonl/x",
    "a loop of links": "loop/x",
    "a link to nowhere": "nowhere/x",
    "a name too long": "new/" + "x" * 300,
    "a zero byte": "a\0b",
    "half a character": "a\ud800b",
    "a system folder": "/proc/x",
    "blank": " ",
}


def planted(folder: Path) -> None:
    """A file, a loop of links and a link to nowhere in ``folder``."""
    (folder / "data.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "gone" / "for good")


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="links and /proc are Linux's")
@pytest.mark.parametrize("verb", WORDS)
def test_a_place_that_cannot_be_written_is_a_sentence_before_any_work(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    words, ending = WORDS[verb]
    before = sorted(tmp_path.iterdir())
    for how, place in PLACES.items():
        there = place + ending if place.strip() else place
        assert main([word.replace("{}", there) for word in words]) == 2, how
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 700, how
        assert sorted(tmp_path.iterdir()) == before, how


CHOSEN = [  # words of a verb, and a file that it writes under a name which nobody chose
    *((WORDS["pack-report"][0], f"out/{name}") for name in ("pack_report.json", "lengths.png", "rows.png")),
    *((WORDS["compare"][0], f"out/{name}") for name in ("comparison.json", "losses.png")),
    ([*WORDS["compare"][0], "--seeds", "2"], "out/comparison_1.json"),
    *((WORDS["census"][0], f"out/{name}") for name in ("census.json", "census.md")),
    (["masks", "--lengths", "3", "4"], "masks.png"),
    (["run", "mine.ipynb", "-o", "out/theirs.ipynb"], "out/theirs.ipynb"),
]


@pytest.mark.parametrize(("words", "name"), CHOSEN, ids=lambda one: one if isinstance(one, str) else one[0])
def test_a_persons_file_under_a_name_that_we_choose_stays(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure or a table of theirs was written over without a word."""
    planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    notebook = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    Path("mine.ipynb").write_text(notebook, encoding="utf-8")
    Path("out").mkdir()
    mine = b"\x89PNG\r\n\x1a\n....IHDR....tEXtSoftware\0Matplotlib" if name.endswith("png") else b'{"accuracy": 0.9}\n'
    Path(name).write_bytes(mine)
    assert main([word.replace("{}", "out") for word in words]) == 2
    said = capsys.readouterr().err
    assert name in said and "would be lost; move it away, or choose another" in said
    assert Path(name).read_bytes() == mine and len(list(Path().rglob("*"))) == 6


def test_files_of_ours_are_written_anew(
    config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--quiet", "--cfg-options", "max_steps=1"]
    for words in (["masks", "--lengths", "3"], ["pack-report", config_file, "-o", "out"]):
        assert [main(words), main(words)] == [0, 0]
    assert main(["compare", config_file, "-o", "out", *few]) == 0
    check_outputs(Path("out"), sorted(path.name for path in Path("out").iterdir()))
    check_outputs(Path(__file__).parents[1] / "docs", ["comparison.json", "losses.png", "census.json", "census.md"])


@pytest.mark.parametrize("number", ["1" * 5000, str(10**30), str(2**63), "-" + "9" * 30, "nan", "1e3", ""])
@pytest.mark.parametrize(
    "words",
    [["masks", "--lengths"], ["masks", "--lengths", "3", "--window"], ["pack-report", "x.jsonl", "--max-length"]],
)
def test_numbers_without_end_are_a_short_sentence(
    words: list[str], number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, number]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 400


@pytest.mark.parametrize(
    "words", [["audit", "--model", ""], ["audit", "--model", "m", "--attn", " "], ["compare", ""], ["train", ""]]
)
def test_a_blank_word_is_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "is blank" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no folder that a process stands in")
def test_a_current_folder_that_is_gone_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["list-cfg"]) == 2
    assert capsys.readouterr().err.startswith("error: the current folder is gone")


@pytest.mark.skipif(os.name == "nt", reason="Windows knows a home without the variable")
@pytest.mark.parametrize(
    "words", [["run", "01"], ["walkthrough", "--only", "01"], ["log-dataset", "builtin:docstrings"]]
)
def test_no_home_and_no_entry_in_passwd_is_a_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pwd

    def none(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", none)
    for name in ("HOME", "VARLEN_LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "home folder" in said


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="not writable") as notes:
        assert [cached_text(name, lambda: "text") for name in "abc"] == ["text"] * 3
    assert len(notes) == 1
