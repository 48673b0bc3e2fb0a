"""A number in the README comes from a command in the README: docs/comparison.json is what that command wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.gpu.readme import block, newest_folder
from varlen_lab.cli.registry import VERBS
from varlen_lab.config.names import config_names
from varlen_lab.config.text import load_config
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.models.building import families, tiny

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README_zh.md").read_text(encoding="utf-8")
RESULT = json.loads((ROOT / "docs" / "comparison.json").read_text())


def rows() -> list[str]:
    """The table of the README, as the recorded comparison says it."""
    base = RESULT["table"][0]
    return [
        f"| {row['mode']} | {row['last loss']:.4f} | {row['max |Δ| to unpacked']:.1e} | {row['padding']:.0%} | "
        f"{base['CPU seconds'] / row['CPU seconds']:.1f}× | {row['backend']} |"
        for row in RESULT["table"]
    ]


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README_zh.md"])
def test_the_table_is_the_recorded_run(text: str) -> None:
    block = text[text.index("<!-- comparison -->") : text.index("<!-- /comparison -->")]
    assert all(row in block for row in rows()), "\n".join(rows())
    meta = RESULT["runs"]["varlen"]["meta"]
    assert all(str(meta[name]) in block for name in ("torch", "transformers", "seed", "dtype"))


def test_the_recorded_run_keeps_the_promise() -> None:
    distance = {row["mode"]: row["max |Δ| to unpacked"] for row in RESULT["table"]}
    assert distance["varlen"] <= 1e-5 and distance["packed"] > 1e-3


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_gpu_figures_are_those_of_the_newest_results(name: str) -> None:
    wanted = block(name, newest_folder())
    assert wanted in (ROOT / name).read_text(encoding="utf-8"), "python -m benchmarks.gpu.readme writes it"


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README_zh.md"])
def test_commands_files_and_names_exist(text: str) -> None:
    verbs = set(re.findall(r"varlen-lab ([a-z-]+)", text))
    assert verbs and verbs <= set(VERBS)
    linked = re.findall(r"\]\(((?!http)[^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(linked) > 10
    assert [path for path in linked if not (ROOT / path).exists()] == []
    for name in re.findall(r"\b\w+_full_\w+_e\d\b", text):
        if not re.match(r"tiny_(FAMILY|系列)_", name):  # stands for eleven names
            assert name.removesuffix("_copy") in config_names()
    assert all(f"tiny_{family}_full_docstrings_e1" in config_names() for family in families())


@pytest.mark.parametrize(
    ("text", "folder"), [(README, "notebooks"), (CHINESE, "notebooks/zh")], ids=["README.md", "README_zh.md"]
)
def test_the_table_of_steps_has_every_lesson_in_order(text: str, folder: str) -> None:
    linked = re.findall(r"\| \[(\d\d) [^\]]+\]\((notebooks/\S+\.ipynb)\) \|$", text, flags=re.MULTILINE)
    names = [path.stem for path in sorted((ROOT / folder).glob("[0-9][0-9]_*.ipynb"))]
    assert len(names) == 18 and linked == [(name[:2], f"{folder}/{name}.ipynb") for name in names]


def test_the_chinese_readme_leads_to_the_words_it_uses_and_to_the_english_lessons() -> None:
    assert {"README.md", "notebooks", "notebooks/zh", "notebooks/zh/glossary.md"} <= set(
        re.findall(r"\]\(([^)#]+)\)", CHINESE)
    )


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README_zh.md"])
def test_counts_of_the_census_and_of_faults_are_those_of_their_records(text: str) -> None:
    classes = json.loads((ROOT / "docs" / "census.json").read_text(encoding="utf-8"))["classes"].values()

    def count(style: str, verdict: str) -> int:
        return sum(each[style]["verdict"] == verdict for each in classes)

    exact, refused = count("ours", "exact"), count("ours", "refused")
    isolated = sum("isolated" in each["ours"] for each in classes if each["ours"]["verdict"] == "exact")
    leaking = [count("positions", "leaks"), count("flash", "leaks"), count("flash", "raises"), count("cache", "leaks")]
    numbers = [len(classes), exact, isolated, refused, *leaking, len(FAULTS)]
    assert re.search(r"\b.*?\b".join(map(str, numbers)), text, flags=re.DOTALL | re.ASCII), numbers


def test_the_two_readmes_say_the_same() -> None:
    def code(text: str) -> list[list[str]]:
        blocks = re.findall(r"```(?:sh|python)\n(.*?)```", text, flags=re.DOTALL)
        return [[line.split("#")[0].rstrip() for line in block.splitlines()] for block in blocks]

    assert code(README) == code(CHINESE) and len(code(README)) == 7
    assert README.count("\n## ") == CHINESE.count("\n## ")


def test_the_code_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The English one: the Chinese one has the same code, see above."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    monkeypatch.chdir(tmp_path)
    args = TrainingArguments("out", max_steps=1, report_to=[], use_cpu=True, per_device_train_batch_size=1)
    tiny("llama").save_pretrained(tmp_path)
    documents = [[token % 2000 for token in range(length)] for length in (1500, 1400, 1300, 1)]
    given = {
        "tokenised": Dataset.from_dict({"input_ids": documents}),
        "name": tmp_path,
        "AutoModelForCausalLM": AutoModelForCausalLM,
        "Trainer": Trainer,
        "args": args,
    }
    config, block = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(config, encoding="utf-8")
    assert load_config(tmp_path / "mine.py").mode == "varlen"
    exec(block, given)
    assert float(given["loss"].detach()) > 0
    assert given["receipt"].ok and (tmp_path / "receipt.json").is_file()


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README_zh.md"])
def test_what_comes_before_more_is_two_screens(text: str) -> None:
    """A screen of GitHub shows about 45 lines of text; the picture takes as much room as a dozen."""
    before = text[: text.index("\n## More" if "\n## More" in text else "\n## 更多")]
    lines = re.sub(r"<picture>.*?</picture>", "\n" * 12, before, flags=re.DOTALL).splitlines()
    assert len(lines) <= 90 and before.count("```sh") == 1 and "make walkthrough" in before and "make test" in before
    assert ".venv/bin/varlen-lab" in before  # how it is called after make


@pytest.mark.parametrize("text", [README, CHINESE], ids=["README.md", "README_zh.md"])
def test_links_within_the_page_have_a_heading(text: str) -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", text)
    }
    within = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(within) >= 9 and [link for link in within if link not in headings] == []
