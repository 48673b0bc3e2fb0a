"""``varlen-lab census``: a table for people, JSON for programs, an exit code for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.cli import main
from varlen_lab.studies import one_class
from varlen_lab.studies.one_class import RAISES, SILENT, Outcome


def test_a_line_a_class_a_word_a_style_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", "llama", "mamba2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:3]] == [
        ["class", "positions", "flash", "ours", "cache"],
        ["llama", "exact", "exact", "exact", "leaks"],
        ["mamba2", "leaks", "leaks", "exact", "*", "leaks"],
    ]
    assert next(line for line in lines if line.startswith("ours ")).split() == ["ours", "1", "1", "-"]


def test_one_style_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", "mamba2", "--batch", "positions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["mamba2", "leaks"] and "recurrent layer (Mamba2Mixer" in lines[1]


def test_several_styles_say_why_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", "llama", "--batch", "ours", "--batch", "cache", "--causes"]) == 0
    out = capsys.readouterr().out
    assert "cache: use_cache" in out and "flash" not in out


def test_json_is_one_document_with_versions_and_nothing_else_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", "gpt2", "--batch", "ours", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["classes"]["gpt2"]["ours"]["verdict"] == "exact" and kept["versions"]["transformers"]


def test_attention_and_isolation_are_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", "llama", "--batch", "positions", "--attn", "varlen"]) == 0
    assert "refused" in capsys.readouterr().out  # no seams came
    assert main(["census", "lfm2", "--batch", "ours", "--no-isolate"]) == 0
    out = capsys.readouterr().out
    assert out.split()[:2] == ["lfm2", "refused"] and "carries a state" in out


@pytest.mark.parametrize("verdict", [SILENT, RAISES])
@pytest.mark.parametrize(("style", "code"), [("ours", 1), ("flash", 0)])
def test_ours_silently_wrong_or_raising_is_exit_code_1(
    verdict: str, style: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def planted(name: str, alone: Any, how: Any, *others: Any) -> Outcome:
        return Outcome(name, how.name, verdict, words="KeyError: seams")

    monkeypatch.setattr(one_class, "in_style", planted)
    assert main(["census", "llama", "--batch", style]) == code
    assert verdict in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lama"], "did you mean 'llama'"),
        (["LlamaForCausalLM"], "llama."),
        (["Qwen3_5MoeForCausalLM"], "say qwen3_5_moe or qwen3_5_moe_text."),
        (["llama", "--batch", "flsh"], "did you mean 'flash'"),
        (["llama", "--attn", "varlenn"], "did you mean 'varlen'"),
        (["llama", "--write", "there"], "with CLASS it is another one"),
        (["--write", "there", "--attn", "eager"], "leave --attn out"),
        (["--write", "there", "--no-isolate"], "leave --no-isolate out"),
        (["--jsn"], "did you mean '--json'"),
    ],
)
def test_bad_input_is_a_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["census", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == "" and shown.err.count("\n") == 1


def test_the_whole_census_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from varlen_lab.studies import census

    monkeypatch.setattr(census, "causal_lm_types", lambda: ["gpt2", "llama"])
    assert main(["census", "--write", str(tmp_path / "docs")]) == 0
    kept = json.loads((tmp_path / "docs" / "census.json").read_text(encoding="utf-8"))
    assert list(kept["classes"]) == ["gpt2", "llama"]
    assert "| gpt2 | exact | exact | exact | leaks" in (tmp_path / "docs" / "census.md").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(census, "census", None)  # nothing is measured for a folder that cannot be written
    assert main(["census", "--write", str(tmp_path / "file")]) == 2
    assert "choose another --write" in capsys.readouterr().err
