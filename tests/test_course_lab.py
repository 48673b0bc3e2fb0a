"""The break-it lab: every switch shows what it should, is named by the audit, and is recorded as it is measured."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expect import fresh_python, refused
from nbformat.v4 import new_code_cell, new_notebook, new_output

from varlen_lab.course import Broken, break_it
from varlen_lab.course.lab import LAB_TYPE
from varlen_lab.course.lab.measuring import alone, levels, measure, specimen
from varlen_lab.course.lab.page import SCRIPT, STYLE, fragment, lab_data, read_asked
from varlen_lab.course.lab.record import PLACE, USUAL, as_json, differences, recorded
from varlen_lab.course.lab.switches import RECORDS, SWITCHES, find_switch
from varlen_lab.course.lab.texts import LETTERS, told
from varlen_lab.language import phrase, speaking
from varlen_lab.language.saying import catalogue
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.packing.registry import IGNORE

ROOT = Path(__file__).resolve().parent.parent
each_switch = pytest.mark.parametrize("name", SWITCHES)
LABELS = {"border label", "prompts trained"}  # of which the mask is right
IN_THE_BATCH = {name for name in SWITCHES if FAULTS[name].site == "batches"}


@pytest.fixture(scope="module")
def runs() -> dict[str, Broken]:
    """Every switch, run now."""
    return {name: break_it(name) for name in SWITCHES}


# ---------------------------------------------------------------------------------------------------- what is shown


def test_there_are_twelve_and_each_is_of_the_registry_with_a_public_source() -> None:
    assert len(SWITCHES) == len(RECORDS) == 12 and set(SWITCHES) <= set(FAULTS)
    for switch in SWITCHES.values():
        owner, _, number = switch.source.partition("#")
        assert owner.count("/") == 1 and number.isdigit()
        assert switch.url == f"https://github.com/{owner}/issues/{number}"
        assert switch.fault.found_by == "audit"


@each_switch
def test_a_switch_changes_the_picture_or_the_strip_and_the_batch_where_it_is_planted_there(
    runs: dict[str, Broken], name: str
) -> None:
    broken = runs[name]
    assert ("picture" in broken.changed) is (name not in LABELS)
    assert ("strip" in broken.changed) is (name in LABELS)
    assert ("batch" in broken.changed) is (name in IN_THE_BATCH)
    assert ("loss" in broken.changed) is (name != "merged documents")  # one token trains nothing


@each_switch
def test_the_audit_names_it_and_nothing_else(runs: dict[str, Broken], name: str) -> None:
    (found,) = runs[name].findings
    assert found["kind"] in FAULTS[name].expected


@each_switch
def test_no_two_switches_look_the_same(runs: dict[str, Broken], name: str) -> None:
    def seen(one: Broken) -> Any:
        return [[[mark != "0" for mark in row] for row in one.run["heard"]], one.run["trained"], one.run["batch"]]

    assert [other for other, one in runs.items() if seen(one) == seen(runs[name])] == [name]


@pytest.mark.parametrize("attention", ["any", "varlen", "sdpa", "eager"])
def test_the_right_run_costs_what_documents_cost_alone_and_has_no_finding(attention: str) -> None:
    name = next(name for name in SWITCHES if FAULTS[name].attention == attention)
    right, _ = measure(SWITCHES[name])
    truth, truths = alone()
    assert right.findings == () and abs(right.loss - truth) <= 1e-5
    assert all(a is b is None or abs(a - b) <= 1e-5 for a, b in zip(right.losses, truths, strict=True))  # type: ignore[operator]
    reach = np.subtract.outer(np.arange(26), np.arange(26))
    owner = np.repeat(np.arange(4), USUAL)
    assert np.array_equal(right.heard > 0, (reach >= 0) & (reach <= 10) & np.equal.outer(owner, owner))


def test_the_truth_is_the_loss_of_documents_run_by_hand() -> None:
    model, batch = specimen("sdpa", USUAL)
    losses, weights, start = [], [], 0
    for length in USUAL:
        part = slice(start, start + length)
        ids, labels = batch["input_ids"][:, part], batch["labels"][:, part]
        trained = int((labels[:, 1:] != IGNORE).sum())
        if trained:
            with torch.no_grad():
                losses.append(model(input_ids=ids, labels=labels, use_cache=False).loss.item() * trained)
            weights.append(trained)
        start += length
    assert abs(sum(losses) / sum(weights) - alone()[0]) <= 1e-5


def test_strengths_are_few_and_none_is_exactly_none() -> None:
    found = levels(np.array([[1.0, 0.0, 0.0], [1e-12, 1.0, 0.0], [0.2, 0.4, 1.0]]))
    assert found.tolist() == [[3, 0, 0], [1, 3, 0], [2, 3, 3]]


def test_other_rows_are_measured_too_and_what_is_no_row_is_refused() -> None:
    assert break_it("bidirectional", lengths=[4, 6], seed=3).changed == ["picture", "loss"]
    long = str(break_it("border label", lengths=[20, 20]))
    assert max(map(len, long.splitlines())) <= 80
    for lengths in ([5], [], [2, 2], [0, 5], [40, 13], "ab", None, [3, float("nan")], "5173", [3.7, 4.2], ["5", "3"]):
        with refused(r"leave it out for \(5, 1, 7, 13\)"):
            break_it("border label", lengths=lengths)  # type: ignore[arg-type]


def test_a_row_without_a_long_document_is_refused_where_the_window_is_to_be_seen() -> None:
    for switch in (None, "window one too wide"):
        with refused("only in a document of more than 6 tokens"):
            break_it(switch, lengths=[4, 6])


def test_a_seed_is_a_whole_number_and_any_other_is_refused_by_its_name() -> None:
    assert (
        break_it("border label", lengths=[3, 4], seed=np.int64(3)).loss
        == break_it("border label", lengths=[3, 4], seed=3).loss
    )
    for seed in (-1, 1.5, "a", None, True, 2**64):
        with refused("^seed is .* leave it out for 0"):
            break_it("border label", seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["no_grad", "inference_mode", "float64"])
def test_what_a_notebook_has_set_in_torch_changes_no_run(setting: str) -> None:
    run = recorded()["switches"]["merged documents"]
    if setting != "float64":
        with getattr(torch, setting)():
            assert differences(run, break_it("merged documents").run) == []
        return
    torch.set_default_dtype(torch.float64)
    try:
        assert differences(run, break_it("merged documents").run) == []
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------------------------------------------- naming it


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_right_name_and_a_wrong_one_get_their_sentence(runs: dict[str, Broken], language: str) -> None:
    with speaking(language):
        for name, broken in runs.items():
            words = SWITCHES[name].words()
            for word in (name, name.upper(), words["label"], *FAULTS[name].aliases):
                verdict = broken.name(word)
                assert verdict.right and all(words[each] in verdict.words for each in ("label", "deed", "fix"))
            for other in SWITCHES.values():
                if other.name != name:
                    verdict = broken.name(other.name)
                    assert not verdict.right and words["sign"] in verdict.words
                    assert other.words()["label"] in verdict.words and other.words()["sign"] in verdict.words
                    assert words["label"] not in verdict.words.replace(words["sign"], "")


def test_a_label_of_either_language_is_known_whichever_is_spoken() -> None:
    for spoken, other in (("en", "zh"), ("zh", "en")):
        with speaking(other):
            labels = [each.words()["label"] for each in RECORDS]
        with speaking(spoken):
            assert [find_switch(label).name for label in labels] == list(SWITCHES)


def test_a_name_that_there_is_not_is_refused_with_what_was_meant() -> None:
    with refused("did you mean 'merged documents'"):
        break_it("merged document")
    with refused("switch 'x' is unknown"):
        break_it("seams ignored").name("x")
    assert find_switch("cache on").name == "default use_cache" and find_switch(" Border  label ").name == "border label"


def test_every_text_has_its_chinese_and_all_differ() -> None:
    texts = [text for each in RECORDS for text in (each.label, each.deed, each.sign, each.fix)]
    assert set(texts) <= set(catalogue("zh")) and len(set(texts)) == len(texts)
    with speaking("zh"):
        assert all(phrase(text) != text for text in texts)
        signs = [phrase(each.sign) for each in RECORDS]
    assert not any(sign[-1] in "。." for sign in [*signs, *(each.sign for each in RECORDS)])  # a sentence goes on


# ---------------------------------------------------------------------------------------------------- the record


@each_switch
def test_the_record_is_what_a_run_shows(runs: dict[str, Broken], name: str) -> None:
    assert differences(recorded()["switches"][name], runs[name].run) == [], "python docs/record_lab.py"


def test_the_record_is_small_and_of_the_twelve() -> None:
    record = recorded()
    assert PLACE.stat().st_size < 150_000 and list(record["switches"]) == list(SWITCHES)
    assert differences(record["right"], as_json(*measure(None))) == []
    assert abs(record["truth"] - alone()[0]) <= 1e-4 and tuple(record["lengths"]) == USUAL


@pytest.mark.parametrize("part", ["heard", "faint", "trained", "batch", "loss", "losses", "findings"])
def test_a_record_that_lags_is_caught(part: str) -> None:
    run = recorded()["switches"]["seams a token late"]
    other = deepcopy(run)
    if part == "heard":
        other["heard"] = recorded()["switches"]["bidirectional"]["heard"]
    elif part == "faint":  # one cell of 676, and no more than there or not
        other["heard"][7] = other["heard"][7][:6] + "1" + other["heard"][7][7:]
    elif part == "trained":
        other["trained"] = other["trained"][::-1]
    elif part == "batch":
        other["batch"][0][2] = None
    elif part == "loss":
        other["loss"] += 1e-3
    elif part == "losses":
        other["losses"][1] = 0.0
    else:
        other["findings"] = []
    assert differences(run, run) == []
    found = {"faint": "heard", "losses": "loss"}.get(part, part)
    assert differences(run, other) == differences(other, run) == [found]


# ---------------------------------------------------------------------------------------------------- in words


@each_switch
def test_a_run_says_to_ears_what_it_shows_to_eyes(name: str) -> None:
    record = recorded()
    run = record["switches"][name]
    words = told(run, record)["picture"]
    assert ("Document 2 hears document 1." in words) is (run["heard"][5][0] != "0")
    assert ("In the strip" in words) is (name in LABELS)
    with speaking("zh"):
        assert ("文档 2 听到了文档 1。" in told(run, record)["picture"]) is (run["heard"][5][0] != "0")


@each_switch
def test_a_script_reads_it_in_a_terminal(runs: dict[str, Broken], name: str) -> None:
    said = str(runs[name])
    assert max(map(len, said.splitlines())) <= 80 and f"audit: {runs[name].findings[0]['kind']}" in said
    assert said.splitlines()[1] == "a " + "#" + "." * 25 + "   " + said.splitlines()[1][-26:]
    assert list(runs[name]._repr_mimebundle_()) == ["text/html", "text/plain"] and "<pre" in runs[name].in_html()
    assert "<p>The loss is" in runs[name].in_html() and "<p>audit: " in runs[name].in_html()


def test_the_head_of_the_second_picture_stands_above_it_in_chinese_too(runs: dict[str, Broken]) -> None:
    with speaking("zh"):
        head, below, *_ = str(runs["bidirectional"]).splitlines()
    before = head.partition("现在这样")[0]
    assert len(before) + 4 == below.index("#xxxx") == 31  # four signs as wide as eight letters


def test_a_script_without_a_name_gets_the_list() -> None:
    code = "from varlen_lab.course import break_it; import sys; print(break_it()); print('torch' in sys.modules)"
    said = fresh_python(code)
    assert all(name in said and each.source in said for name, each in SWITCHES.items())
    assert said.endswith("False") and max(map(len, said.splitlines())) <= 80


# ---------------------------------------------------------------------------------------------------- page and widget


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_fragment_holds_everything_in_its_language(language: str) -> None:
    html = fragment(language)
    with speaking(language):
        labels = [each.words()["label"] for each in RECORDS]
    assert all(label in html for label in labels) and all(each.url in html for each in RECORDS)
    assert html.count("<script") == 1 and len(html) < 200_000
    listed = html.partition("<noscript>")[2]
    assert listed.count("</b>：") == 12 * (language == "zh") and listed.count("</b>: ") == 12 * (language == "en")
    held = json.loads(html.partition('json">')[2].partition("</script>")[0])
    assert [each["label"] for each in held["switches"]] == labels and held["on"] is None
    assert all(each["mistaken"].count("{sign}") == 1 for each in held["switches"])
    assert {len(each["run"]["heard"]) for each in held["switches"]} == {26} and len(held["letters"]) == len(LETTERS)


def test_the_script_asks_for_nothing_and_ends_nowhere() -> None:
    assert not any(
        each in SCRIPT for each in ("</script", "<!--", "export ", "innerHTML", "eval(", "fetch(", "import(")
    )
    assert "</style" not in STYLE and "url(" not in STYLE and "@import" not in STYLE


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], "zh", {}, {"language": "xx"}, {"language": ["en"]}, {"language": "en", "switch": "<script>"}),
        *({"language": "en", "switch": {}}, {"switch": "border label"}),
    ],
)
def test_what_a_notebook_brings_is_checked(data: Any) -> None:
    with refused(r"break_it\(\) makes one"):
        read_asked(data)


def test_a_page_shows_the_lab_in_its_place_and_nothing_that_a_notebook_brought() -> None:
    from varlen_lab.course.pages.cleaning import Page
    from varlen_lab.course.pages.outputs import output_html

    def shown(data: Any) -> str:
        output = new_output("display_data", {LAB_TYPE: data, "text/plain": "plain"})
        return output_html(output, None, Page(ROOT))

    good = {"language": "zh", "switch": "border label", "words": {"lab": "<script>alert(1)</script>"}}
    assert shown(good) == fragment("zh", switch="border label") and "alert" not in shown(good)
    assert shown({"language": "zh", "switch": "?"}) == '<pre class="text">plain</pre>'


def test_a_lesson_with_the_lab_has_its_script_and_its_style() -> None:
    from varlen_lab.course.outcomes import Outcome
    from varlen_lab.course.pages.lesson import notebook_page

    cells = [new_code_cell("break_it()", outputs=[new_output("display_data", {LAB_TYPE: {"language": "en"}})])]
    html = notebook_page(new_notebook(cells=cells), Outcome("12_seven_traps", "Seven"), ROOT / "notebooks")
    assert html.count(SCRIPT) == 1 and html.count(STYLE) == 1 and "cache left on" in html


def test_one_mistake_is_shown_in_a_notebook_as_in_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.course.lab import broken
    from varlen_lab.course.lab.widget import Lab

    made = []
    monkeypatch.setattr(broken, "widget", lambda *given: made.append(Lab(*given)) or made[-1])
    for lengths, kept in ((USUAL, True), ((4, 6), False)):
        data, _ = break_it("not causal", lengths=lengths)._repr_mimebundle_()
        assert (LAB_TYPE in data) is kept and "audit: bidirectional" in data["text/plain"]
        assert [each["name"] for each in made[-1].data["switches"]] == ["bidirectional"] == [made[-1].data["on"]]
    assert isinstance(break_it(), Lab) and len(made[-1].data["switches"]) == 12


def test_the_widget_runs_what_is_asked_and_keeps_its_language() -> None:
    from varlen_lab.course.lab.widget import Lab

    with speaking("zh"):
        lab = Lab(recorded())
    lab.asked = "merged documents"
    assert lab.live["switch"] == "merged documents"
    assert differences(lab.live["run"], recorded()["switches"]["merged documents"]) == []
    assert "文档 2 听到了文档 1。" in lab.live["run"]["told"]["picture"]
    lab.asked = "no switch"
    assert lab.live["switch"] == "merged documents"
    data, _ = lab._repr_mimebundle_()
    assert data[LAB_TYPE] == {"language": "zh", "switch": None} and "merged documents" in data["text/plain"]
    assert lab.data == json.loads(json.dumps(lab.data)) and lab_data()["language"] == "en"
