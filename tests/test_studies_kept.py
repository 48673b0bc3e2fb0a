"""The kept census, read back: its counts are those of its page, and what is no census is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from expect import refused

from varlen_lab.studies import KeptCensus, by_family, measure, read_census, verdict_words, verdicts_of
from varlen_lab.viz import draw_verdicts

FILE = Path(__file__).resolve().parent.parent / "docs" / "census.json"
CENSUS = read_census(FILE)
STYLES = ("cache", "positions", "ours")


def test_the_counts_are_those_of_the_page() -> None:
    page = FILE.with_name("census.md").read_text(encoding="utf-8")
    for style, words in CENSUS.totals().items():
        assert f"| {style} | {' | '.join(map(str, words.values()))} |" in page
        assert sum(words.values()) == len(CENSUS.classes)
    assert CENSUS.count("ours") == CENSUS.totals()["ours"]["exact"] + CENSUS.totals()["ours"]["exact *"]
    assert CENSUS.built == len(CENSUS.classes) - CENSUS.count("ours", "not built")
    assert str(len(CENSUS.classes)) in repr(CENSUS) and str(CENSUS.built) in repr(CENSUS)


def test_a_class_has_one_place_in_every_panel() -> None:
    panels = CENSUS.panels()
    assert {len(words) for words in panels.values()} == {len(CENSUS.classes)}
    cache, positions, ours = panels.values()
    triples = sorted(zip(cache, positions, ours, strict=True))
    word = {"exact": "exact *"}
    assert triples == sorted(
        tuple(word[one["verdict"]] if one.get("isolated") else one["verdict"] for one in map(each.get, STYLES))
        for each in CENSUS.classes.values()
    )
    assert str(CENSUS.count("cache", "leaks")) in CENSUS.message
    assert f"{CENSUS.count('cache')} exact" in draw_verdicts(panels).alt_text


def test_causes_have_a_meaning_and_are_counted_once_a_class() -> None:
    causes = CENSUS.causes("positions")
    assert all(cause.meaning for cause in causes)
    assert [one.classes for one in causes] == sorted((one.classes for one in causes), reverse=True)
    assert max(one.classes for one in causes) <= CENSUS.count("positions", "leaks")
    assert "bloom" in CENSUS.words("ours", "refused") and all(CENSUS.words("ours", "refused").values())


def test_the_classes_of_the_page_are_looked_up() -> None:
    found = CENSUS.of(["llama", "varlen_baichuan", "mamba", "llama"])
    assert list(found) == ["llama", "mamba"]
    assert found["llama"] == {"cache": "leaks", "positions": "exact", "ours": "exact"}
    assert found["mamba"]["ours"] == "exact *"


def test_a_class_that_is_measured_again_is_compared() -> None:
    live = [verdicts_of("llama", ["ours"])]
    assert verdict_words(live) == {"llama": {"ours": "exact"}}
    assert CENSUS.changes(live) == []
    other = json.loads(json.dumps(CENSUS.kept))
    other["classes"]["llama"]["ours"]["verdict"] = "leaks"
    assert len(KeptCensus(other).changes(live)) == 2


CRAFTED = [
    '{"classes": [], "versions": {}}',
    '{"classes": {}, "versions": []}',
    '{"classes": {"llama": {"ours": {"verdict": "exact"}}}, "versions": {"torch": "2", "transformers": "5"}}',
    FILE.read_text(encoding="utf-8").replace('"leaks"', '"no such"', 1),
    FILE.read_text(encoding="utf-8").replace('"cause":', '"why":', 1),
    "[" * 100_000,
]


@pytest.mark.parametrize("text", [None, "[]", "{}", "{", '{"classes": {}}', *CRAFTED])
def test_what_is_no_census_is_refused_in_words(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "census.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with refused("census.*--write"):
        read_census(path)


def test_a_family_has_the_marks_of_the_page_and_ours() -> None:
    (row,) = by_family([measure("gemma", "gemma2-9b")])
    assert (row.family, row.page, row.measured, row.variants, row.leak) == ("gemma", "❌", "✅", 1, 0)
