"""log-dataset shows the seams; check-custom-dataset names what is wrong with a file."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.errors import plural

GOOD = json.dumps({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]})


def test_a_row_is_shown_with_its_seams(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-dataset", config_file]) == 0
    said = capsys.readouterr().out
    first = said[said.index("row 0 of") :]
    edges = json.loads(first[first.index("[") : first.index("]") + 1])
    assert edges[0] == 0 and edges == sorted(edges) and said.count("── document") == len(edges) - 1
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        assert f"document {number}: tokens {start} to {end - 1}, positions 0 to {end - start - 1}" in said
    assert "Count in steps of" in said


def test_masks_stand_in_place(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-dataset", config_file, "--show", "all", "--row", "-1"]) == 0
    said = capsys.readouterr().out
    ids = [json.loads(line.removeprefix("input_ids ")) for line in said.splitlines() if line.startswith("input_ids")]
    labels = [json.loads(line.removeprefix("labels ")) for line in said.splitlines() if line.startswith("labels")]
    masked = [line for line in said.splitlines() if line.startswith("[-100]")]
    assert [line.count("[-100]") for line in masked] == [one.count(-100) for one in labels]
    assert all(one[0] == -100 and len(one) == len(two) for one, two in zip(labels, ids))
    assert "Count in steps" not in masked[0]


def test_a_row_that_is_not_there(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-dataset", config_file, "--row", "999"]) == 2
    assert "--row is 999, the data packs into rows 0 to " in capsys.readouterr().err


FAULTS = {
    "a broken line": ('{"messages": [', "not JSON"),
    "no known field": ('{"texts": "x"}', "texts"),
    "an empty conversation": ('{"messages": []}', "no assistant turn"),
    "roles out of order": (
        '{"messages": [{"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}]}',
        "assistant",
    ),
    "a silent answer": (
        '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": ""}]}',
        "empty",
    ),
    "a number for a text": (
        '{"messages": [{"role": "user", "content": 4}, {"role": "assistant", "content": "4"}]}',
        "4",
    ),
    "an unknown role": ('{"messages": [{"role": "robot", "content": "4"}]}', "robot"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, word = FAULTS[fault]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([GOOD] * 6 + [line] + [GOOD] * 5) + "\n")
    assert main(["check-custom-dataset", str(path)]) == 1
    said = capsys.readouterr().out
    assert "11 good records, 1 bad" in said and "mine.jsonl:7" in said and word in said and "--skip-bad" in said
    assert main(["check-custom-dataset", str(path), "--skip-bad"]) == 0
    assert "row of 2,048" in capsys.readouterr().out


def test_the_rest_of_a_long_file_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join([GOOD] * 5000 + ["{", "[]"] + [GOOD] * 5000) + "\n")
    assert main(["check-custom-dataset", str(path), "--skip-bad", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["good"] == 10_000 and facts["bad"] == 2 and "long.jsonl:5001" in facts["first_bad"][0]


def test_a_good_file_is_good_and_its_configs_settings_are_used(
    config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-custom-dataset", config_file, "--cfg-options", "max_length=64"]) == 0
    said = capsys.readouterr().out
    assert "40 good records, 0 bad" in said and "rows of 64" in said


def test_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("{\n")
    assert main(["check-custom-dataset", str(tmp_path / "none.jsonl")]) == 2
    assert main(["check-custom-dataset", str(tmp_path / "away.jsonl")]) == 2
    assert capsys.readouterr().err.count("error:") == 2


def test_a_run_says_what_it_left_out_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([GOOD] * 6 + ["{"] + [GOOD] * 6) + "\n")
    words = ["log-dataset", "tiny_gemma_full_docstrings_e1", "--cfg-options", f"data_path={path}", "skip_bad=True"]
    done = subprocess.run([sys.executable, "-m", "varlen_lab", *words], capture_output=True, text=True, check=True)
    said = " ".join(done.stderr.split())  # lines are folded, where depends on the folder's name
    assert f"note: 1 record skipped, the first: {path}:7: the line is not JSON" in said
    assert "12 dialogues were read" in done.stderr and "UserWarning" not in done.stderr


def test_a_run_says_which_fields_and_documents_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    untrained = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5", "train": False}]
    records = [{**json.loads(GOOD), "rejected_response": "5"}, {"messages": untrained}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning) as caught:
            assert main(["log-dataset", str(path), "--show", "masked_text"]) == 0
        notes = [str(one.message) for one in caught]
        assert "seen and left out: 1 rejected_response" in notes
        assert "1 document has no token to train on, left out" in notes
    assert capsys.readouterr().out.count("1 document, 10 of 10") == 2


def test_bad_records_and_those_a_template_refuses_are_listed_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its line; what was read and left out of good records is counted beside them."""
    from transformers import PreTrainedTokenizerFast

    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.models.building import tiny

    cases = Path(__file__).parent / "cases"
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=builtin_tokenizer().backend_tokenizer, eos_token="</s>")
    tokenizer.chat_template = (cases / "template_refuses.jinja").read_text()
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "mine.jsonl"
    path.write_text((cases / "template_refuses.jsonl").read_text() + "{\n")
    words = ["check-custom-dataset", str(path), "--cfg-options", f"pretrained_model_name_or_path={tmp_path / 'model'}"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "1 good record, 2 bad" in printed.out and "mine.jsonl:2" in printed.out and "mine.jsonl:3" in printed.out
    assert "model_config" not in printed.err, "of a template that nobody named"
    assert main([*words, "skip_bad=True"]) == 0


def test_data_under_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ending in capitals, a folder of ``datasets``, the built-in corpus: data, not configs."""
    from datasets import Dataset

    (tmp_path / "LOUD.JSONL").write_text(GOOD + "\n")
    Dataset.from_list([json.loads(GOOD)] * 2).save_to_disk(tmp_path / "saved")
    for name, count in (("LOUD.JSONL", 1), ("saved", 2)):
        assert main(["check-custom-dataset", str(tmp_path / name)]) == 0
        assert f"{plural(count, 'good record')}, 0 bad" in capsys.readouterr().out
