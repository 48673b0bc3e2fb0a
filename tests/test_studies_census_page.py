"""docs/census.md is what docs/census.json gives, and the table fits a terminal."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.machine.folding import Cell
from varlen_lab.machine.tables import print_table
from varlen_lab.studies.census import as_json, written
from varlen_lab.studies.census_page import CAUSES, must_be_writable, page, write_both
from varlen_lab.studies.census_table import head, rows, totals
from varlen_lab.studies.one_class import EXACT, LEAKS, NOT_BUILT, RAISES, REFUSED, SILENT, Outcome
from varlen_lab.studies.registry import OURS, STYLES

DOCS = Path(__file__).parents[1] / "docs"
LONG = "gemma4_unified_assistant"  # no class has a longer name
ALL = (EXACT, REFUSED, LEAKS, RAISES, NOT_BUILT, SILENT)


def outcome(verdict: str, style: str = OURS, name: str = LONG) -> Outcome:
    kinds, layers = (("recurrent layer",), ("SomeMambaMixer of layers 0, 1",)) if verdict == LEAKS else ((), ())
    words = "" if verdict in (EXACT, SILENT) else f"why it is {verdict}, " * 8
    return Outcome(name, style, verdict, 2.5 if verdict in (LEAKS, SILENT) else None, words, kinds, layers, "varlen")


def test_the_page_is_what_the_kept_census_gives() -> None:
    text = (DOCS / "census.json").read_text(encoding="utf-8")
    kept = json.loads(text)
    assert written(kept) == text
    assert page(kept) == (DOCS / "census.md").read_text(encoding="utf-8")


def test_both_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = as_json([[outcome(EXACT, style) for style in STYLES]])
    write_both(kept, tmp_path / "new")
    monkeypatch.setattr(sys, "argv", ["census_page", str(tmp_path / "new" / "census.json")])
    monkeypatch.delitem(sys.modules, "varlen_lab.studies.census_page")
    runpy.run_module("varlen_lab.studies.census_page", run_name="__main__")
    assert capsys.readouterr().out == (tmp_path / "new" / "census.md").read_text(encoding="utf-8") == page(kept)


def test_the_page_says_every_verdict_and_why() -> None:
    found = [[outcome(verdict, name=verdict.replace(" ", "_"))] for verdict in ALL]
    found.append([Outcome("hybrid", OURS, EXACT, 1e-7, isolated=("layers.0",))])
    text = page(as_json(found))
    assert "| hybrid | exact \\* |" in text and "| leaks | leaks 2 |" in text
    assert "* recurrent layer: leaks (SomeMambaMixer of layers 0, 1)" in text
    assert "* not_built: why it is not built" in text
    assert "| ours | 1 | 1 | 1 | 1 | 1 | 1 | 1 |" in text


def test_every_cause_on_the_page_is_explained_and_a_place_that_is_one_for_all_is_not_repeated() -> None:
    kept = json.loads((DOCS / "census.json").read_text(encoding="utf-8"))
    found = {
        each["cause"]
        for styles in kept["classes"].values()
        for one in styles.values()
        for each in one.get("causes", ())
    }
    text = page(kept)
    assert found <= CAUSES.keys() and all(f"* *{cause}*: {CAUSES[cause]}" in text for cause in found)
    assert "batch['use_cache']" not in text and ".: " not in text
    two = [Outcome(name, OURS, LEAKS, 1.0, "", ("window", "window"), ("A of layer 0", "B of layer 1")) for name in "ab"]
    assert "* window: a, b\n" in page(as_json([[each] for each in two]))
    alone = page(as_json([[two[0]]]))
    assert "* window: a (A of layer 0, B of layer 1)\n" in alone and "Causes of leaks" not in alone


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    must_be_writable(tmp_path / "new" / "docs")
    assert list((tmp_path / "new" / "docs").iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "docs", Path("/proc")):
        with pytest.raises(InputError, match=r"cannot be written .*choose another --write"):
            must_be_writable(folder)


def printed(capsys: pytest.CaptureFixture[str], head: Sequence[str], cells: Iterable[Sequence[Cell]]) -> list[str]:
    """The lines of a table as ``varlen-lab census`` prints it."""
    print_table(head, cells)
    return capsys.readouterr().out.splitlines()


def test_the_table_fits_80_columns_whatever_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    long = [Outcome(LONG, style, EXACT, 1e-7, isolated=("layers.0.mixer",) * 30) for style in STYLES]
    every = [*([outcome(verdict, style) for style in STYLES] for verdict in ALL), long]
    tables = [(head(list(STYLES)), rows(each, True)) for each in every]
    tables += [([], rows(each[:1], True)) for each in every]
    tables += [(found[0], found[1:]) for found in [totals([each]) for each in every] + [totals(every)]]
    for table in tables:
        shown = printed(capsys, *table)
        assert max(map(len, shown)) <= 80, shown


def test_a_word_a_style_and_the_reasons_below_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    each = [outcome(verdict, style) for verdict, style in zip((EXACT, RAISES, REFUSED, LEAKS), STYLES, strict=True)]
    (line,) = printed(capsys, [], rows(each, False))
    assert line.split() == [LONG, "exact", "raises", "refused", "leaks"]
    below = " ".join(part.strip() for part in printed(capsys, [], rows(each, True))[1:])
    assert below.startswith("flash: why it is raises") and "cache: recurrent layer (SomeMambaMixer" in below
    assert "positions" not in below
    assert printed(capsys, [], rows(each[:1], True)) == [f"{LONG}  exact"]
