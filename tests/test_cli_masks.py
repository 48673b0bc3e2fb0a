"""``varlen-lab masks CONFIG --row N`` draws the row the config really trains on."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from varlen_lab.cli import main
from varlen_lab.cli.masks import row_of, texts_of
from varlen_lab.config.schema import Config
from varlen_lab.language import speaking, spoken
from varlen_lab.training.data import load_rows, load_tokenizer


def test_a_row_of_a_config_is_the_row_that_is_trained_on(config_file: str, small: Config, tmp_path: Path) -> None:
    rows, _ = load_rows(small.with_mode("varlen"), load_tokenizer(small))
    number = max(range(len(rows)), key=lambda row: len(rows[row]["seq_lengths"]))
    lengths, names, _ = row_of(config_file, number)
    assert lengths == rows[number]["seq_lengths"].tolist() and len(names) == len(lengths)
    assert all("Count in steps of" in name and "<" not in name for name in names)
    picture = tmp_path / "row.svg"
    assert main(["masks", config_file, "--row", str(number), "--window", "9", "-o", str(picture)]) == 0
    assert len(lengths) > 1 and f"packs {len(lengths)} documents" in picture.read_text()
    assert "with a window of 9 tokens" in picture.read_text()


def test_dark_is_another_picture_of_the_same_thing(tmp_path: Path) -> None:
    light, dark = tmp_path / "light.svg", tmp_path / "dark.svg"
    assert main(["masks", "--lengths", "7", "3", "-o", str(light)]) == 0
    assert main(["masks", "--lengths", "7", "3", "--dark", "-o", str(dark)]) == 0
    assert "#0d1117" in dark.read_text() and "#0d1117" not in light.read_text()
    words = [path.read_text().split("<desc>")[1].split("</desc>")[0] for path in (light, dark)]
    assert words[0] == words[1]


def data_of(path: Path) -> dict[str, Any]:
    """What a page of the explorer holds."""
    return json.loads(
        path.read_text(encoding="utf-8").split('<script type="application/json">')[1].split("</script>")[0]
    )


def test_a_page_holds_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["masks", "--lengths", "7", "3", "--names", "</script>", "b", "--window", "4", "--bidirectional"]
    assert main([*words, "--html", "m.html"]) == 0
    assert capsys.readouterr().out == "wrote m.html\n" and [path.name for path in tmp_path.iterdir()] == ["m.html"]
    data = data_of(Path("m.html"))
    assert data | {"lengths": [7, 3], "names": ["</script>", "b"], "window": 4, "causal": False, "dark": None} == data
    assert main([*words, "--dark", "--html", "pages/m.htm", "-o", "m.svg"]) == 0
    assert Path("m.svg").exists() and data_of(Path("pages/m.htm"))["dark"] is True


def test_a_page_of_a_config_holds_the_text_of_its_tokens(config_file: str, small: Config, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(small)
    rows, _ = load_rows(small.with_mode("varlen"), tokenizer)
    assert main(["masks", config_file, "--html", str(tmp_path / "row.html")]) == 0
    data = data_of(tmp_path / "row.html")
    assert data["lengths"] == rows[0]["seq_lengths"].tolist() and len(data["names"]) == len(data["lengths"])
    assert "".join(data["tokens"]) == tokenizer.decode(rows[0]["input_ids"])
    assert main(["masks", config_file, "--row", "1", "--html", str(tmp_path / "row.html")]) == 0
    assert "".join(data_of(tmp_path / "row.html")["tokens"]) == tokenizer.decode(rows[1]["input_ids"])


def test_the_text_of_a_token_keeps_its_blank_and_names_its_bytes() -> None:
    """A tokenizer as SentencePiece's: decoding one token drops the blank before a word, and bytes are no text."""
    pieces = ["\u2581Hello", "world", "<0xE4>", "\u2581", "<s>"]
    decoded = {0: "Hello", 1: "world", 2: "\ufffd", 3: " ", 4: "<s>"}
    tokenizer = SimpleNamespace(convert_ids_to_tokens=pieces.__getitem__, decode=lambda ids: decoded[ids[0]])
    assert list(texts_of([4, 0, 1, 2, 3, 0], tokenizer)) == ["<s>", " Hello", "world", "<0xE4>", " ", " Hello"]


def test_a_name_that_no_file_can_hold_is_written_out(tmp_path: Path) -> None:
    """As a terminal passes a byte that is no UTF-8, and an escape that no XML may have."""
    words = ["masks", "--lengths", "7", "3", "--names", "\udcff", "a\x1b[31mb"]
    assert main([*words, "-o", str(tmp_path / "m.svg"), "--html", str(tmp_path / "m.html")]) == 0
    ElementTree.parse(tmp_path / "m.svg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a page is read with the browser's fonts
        assert main(["masks", "--lengths", "7", "--names", "\u6863\u6848", "--html", str(tmp_path / "zh.html")]) == 0
    assert data_of(tmp_path / "m.html")["names"] == ["\\udcff", "a\\x1b[31mb"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--html", "m.png"], "--html m.png ends in '.png', a page ends in .html"),
        (["--html", "m"], "ends in 'nothing', a page ends in .html"),
        (["-o", "m.html"], "a figure can be png, svg, pdf; for example -o masks.png; for a page use --html"),
        (["--html", "m.html", "-o", "m.gif"], "m.gif ends in '.gif'"),
        (["--html", "m.html", "--window", "-2"], "window is -2"),
        (["--html", "m.html", "--names", "a", "b"], "2 names for 1 document;"),
        (["--htlm", "m.html"], "did you mean '--html'?"),
        (["--html", "folder.html"], "folder.html cannot be written"),
    ],
)
def test_a_page_that_cannot_be_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    assert main(["masks", "--lengths", "3", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_a_row_of_too_many_documents_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", "--lengths", *["1"] * 10_001, "--html", str(tmp_path / "m.html")]) == 2
    assert "the explorer shows at most 10,000" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_narrow_console_folds_what_is_said(
    columns: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = tmp_path / ("a long name " * 8 + ".html")
    assert main(["masks", "--lengths", "3", "--html", str(file)]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= int(columns) and file.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["masks"], "either a CONFIG or --lengths"),
        (["masks", "tiny_llama_full_docstrings_e1", "--lengths", "3"], "either a CONFIG or --lengths"),
        (["masks", "--lengths", "3", "--row", "0"], "--row 0 is a row of a CONFIG"),
        (["masks", "tiny_llama_full_docstring_e1"], "did you mean 'tiny_llama_full_docstrings_e1'"),
    ],
)
def test_what_to_draw_is_said_once(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-1", "999"])
def test_a_row_that_is_not_there(config_file: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", config_file, f"--row={number}"]) == 2
    told = capsys.readouterr().err
    assert f"--row is {number}" in told and "packs into rows 0 to" in told


def test_a_verb_speaks_english_whatever_the_notebook_speaks_that_calls_it(tmp_path: Path) -> None:
    with speaking("zh"):
        assert main(["masks", "--lengths", "7", "3", "-o", str(tmp_path / "a.svg")]) == 0
        assert spoken() == "zh"
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "document 1" in drawn and not re.search("[\u4e00-\u9fff]", drawn)
