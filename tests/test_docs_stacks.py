"""docs/stacks.md: its tables are made of docs/stacks.json, which says how each thing is known."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.stacks import page
from benchmarks.stacks.__main__ import main, number_of
from benchmarks.stacks.corpus import TEXTS, lengths_in, prepare
from benchmarks.stacks.seen import SAME, FirstCall, apart, documents_of
from varlen_lab.errors import InputError

RECORD = json.loads(page.RECORD.read_text(encoding="utf-8"))
PAGE = page.PAGE.read_text(encoding="utf-8")
STACKS = {stack["name"]: stack for stack in RECORD["stacks"]}
NAMES = [
    "HF Trainer",
    "TRL",
    "axolotl",
    "LLaMA-Factory",
    "ms-swift",
    "unsloth",
    "XTuner",
    "torchtune",
    "Megatron-Bridge",
]


def test_the_tables_of_the_page_are_made_of_the_record() -> None:
    assert page.paste(PAGE, RECORD) == PAGE


def test_a_changed_record_changes_the_page() -> None:
    changed = json.loads(json.dumps(RECORD).replace('"verdict": "isolates"', '"verdict": "leaks"'))
    assert page.paste(PAGE, changed) != PAGE


def test_every_stack_has_its_row_its_section_and_the_threads_people_met() -> None:
    assert list(STACKS) == NAMES
    for name, stack in STACKS.items():
        assert f"\n## {name}\n" in PAGE and stack["threads"], name
        assert any(thread["url"] in PAGE for thread in stack["threads"]), name


def test_every_verdict_is_measured_or_says_where_it_was_read() -> None:
    for stack in STACKS.values():
        assert stack["verdict"] in page.SIGNS and stack["sources"]
        for source in stack["sources"]:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["repository"]) and source["file"] and source["at"]
        for one in stack.get("settings", ()):
            assert one["verdict"] in ("isolates", "leaks", "refuses", "one document a row"), one
            if one["verdict"] in ("isolates", "leaks"):
                assert (one["logits"] > SAME) == (one["verdict"] == "leaks")
        if stack.get("settings"):
            assert {"torch", "transformers"} <= stack["with"].keys()


def test_a_leak_that_the_batch_tells_of_is_named_by_the_check_and_nothing_else_is() -> None:
    for stack in STACKS.values():
        for one in stack.get("settings", ()):
            # LeakCheck does not look into torchtune's own models
            if one["verdict"] == "isolates" and stack["name"] != "torchtune":
                assert one["leak_check"] in ("ok", "border label"), (stack["name"], one)
            if one["verdict"] == "leaks":
                assert one["leak_check"] != "ok", (stack["name"], one)


def test_a_row_measured_only_with_something_taken_off_says_so() -> None:
    for stack in STACKS.values():
        shown = [one for one in stack.get("settings", ()) if one["verdict"] in page.SIGNS]
        if shown and all("taken off" in one["what"] for one in shown):
            (row,) = [line for line in page.table(RECORD).splitlines() if f"**{stack['name']}**" in line]
            assert "measured with its guard taken off" in row


GIVEN = {"Trainer", "SFTTrainer", "model", "batch", "arguments", "collator", "rows", "config", "dataset"}  # a reader's


def test_the_lines_to_paste_have_every_name_they_use() -> None:
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        nodes = list(ast.walk(ast.parse(code)))
        names = {node.id: isinstance(node.ctx, ast.Store) for node in nodes if isinstance(node, ast.Name)}
        brought = {
            (each.asname or each.name).split(".")[0] for node in nodes if hasattr(node, "names") for each in node.names
        }
        brought |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        assert {name for name, stored in names.items() if not stored} <= brought | GIVEN, code


def test_the_table_fits_a_page() -> None:
    assert max(map(len, page.table(RECORD).splitlines())) <= 320


@pytest.mark.parametrize(
    "row, expected",
    [
        ([3, 7, 8, 3, 3, 9], [3, 1, 2]),
        ([1, 3, 7, 1, 3, 9, 2, 0, 0], [3, 4]),  # <s> belongs to the document behind it, padding to none
        ([9, 3, 7, 3], [3, 1]),  # what a template writes first
        ([3], [1]),
    ],
)
def test_documents_are_found_by_their_marks(row: list[int], expected: list[int]) -> None:
    assert lengths_in(row, mark=3, first=1, pad=0) == expected


def test_a_row_without_marks_is_refused() -> None:
    with pytest.raises(InputError, match="no token of the row is 3"):
        lengths_in([5, 6], mark=3)


def test_a_planted_leak_is_measured() -> None:
    ids = torch.tensor([[3, 7, 8, 3, 9]])
    documents = documents_of(ids)
    assert documents == [(0, 0, 3), (0, 3, 5)]

    def run(one: torch.Tensor) -> torch.Tensor:  # every token hears those before it
        return one.cumsum(1)[..., None].float()

    clean = torch.cat([run(ids[:, :3]), run(ids[:, 3:])], dim=1)
    assert apart(clean, run, ids, documents) == 0
    assert apart(run(ids), run, ids, documents) > SAME


@pytest.mark.slow
def test_trainers_are_measured_with_the_check_in_them(tmp_path: Path) -> None:
    from benchmarks.stacks.settings import SETTINGS
    from varlen_lab import LeakCheck

    prepare(tmp_path)
    for setting, verdict in zip(SETTINGS[:2], ("isolates", "leaks"), strict=True):
        first, check = FirstCall(), LeakCheck(receipt=None, on_leak="warn")
        if verdict == "leaks":
            with pytest.warns(UserWarning, match="use_cache"):
                setting.start(tmp_path, [first, check])
        else:
            setting.start(tmp_path, [first, check])
        assert first.seen is not None and check.receipt is not None
        assert first.seen.verdict == verdict and first.seen.documents == len(TEXTS)
        assert check.receipt.ok == (verdict == "isolates")


def test_an_unknown_stack_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "trll"]) == 2
    assert "there is no stack 'trll'; take one of HF Trainer, TRL" in capsys.readouterr().err


def test_what_is_not_installed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if number_of("torchtune") is not None or number_of("axolotl") is not None:
        pytest.skip("axolotl is installed here")
    assert main(["--only", "axolotl"]) == 0
    out = capsys.readouterr().out
    assert "axolotl: not installed (pip install axolotl)" in out and page.table(RECORD) in out
