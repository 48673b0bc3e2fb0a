"""``varlen-lab masks CONFIG --row N`` draws the row the config really trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.cli.masks import row_of
from varlen_lab.config.schema import Config
from varlen_lab.training.data import load_rows, load_tokenizer


def test_a_row_of_a_config_is_the_row_that_is_trained_on(config_file: str, small: Config, tmp_path: Path) -> None:
    rows, _ = load_rows(small.with_mode("varlen"), load_tokenizer(small))
    number = max(range(len(rows)), key=lambda row: len(rows[row]["seq_lengths"]))
    lengths, names = row_of(config_file, number)
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
