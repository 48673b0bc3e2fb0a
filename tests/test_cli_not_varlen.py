"""``train`` after step 3 without step 4: it says that the run is not varlen, once, and which line changes that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.training.trainer import train


def notes(words: list[str], recwarn: pytest.WarningsRecorder) -> list[str]:
    """What a run notes of its mode."""
    recwarn.clear()
    assert main(["train", *words]) == 0
    return [str(one.message) for one in recwarn if "NOT varlen" in str(one.message)]


@pytest.fixture
def copied(small: Config, tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(render(small.with_mode("packed")), encoding="utf-8")
    return path


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_a_packed_run_says_so_once_and_names_the_line(
    flags: list[str], copied: Path, recwarn: pytest.WarningsRecorder
) -> None:
    said = notes([str(copied), *flags], recwarn)
    assert len(said) == 1
    line = said[0].rpartition(f"{copied}: ")[2]
    text = copied.read_text(encoding="utf-8").replace("use_varlen_attn = False", line)
    copied.write_text(text, encoding="utf-8")
    assert notes([str(copied), *flags], recwarn) == []  # the line that it names is what step 4 asks for


def test_it_comes_before_the_first_step(copied: Path, recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    """Of a run that is ended in its first step it was said all the same."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("varlen_lab.training.trainer.optimize", lambda *a, **k: 1 / 0)
        main(["train", str(copied)])
    assert any("NOT varlen" in str(one.message) for one in recwarn)


def test_a_template_by_name_gets_the_flag(small: Config, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    options = ["--cfg-options", "max_steps=1", f"data_path={small.data_path}", "--work-dir", str(tmp_path / "x")]
    said = notes(["tiny_llama_full_docstrings_e1", *options], recwarn)
    assert said[0].endswith("--cfg-options use_varlen_attn=True")
    options.insert(1, "use_varlen_attn=True")
    assert notes(["tiny_llama_full_docstrings_e1", *options], recwarn) == []


@pytest.mark.parametrize("mode", ["unpacked", "varlen"])
def test_the_other_modes_have_nothing_to_say(
    mode: str, small: Config, copied: Path, recwarn: pytest.WarningsRecorder
) -> None:
    copied.write_text(render(small.with_mode(mode)), encoding="utf-8")
    assert notes([str(copied)], recwarn) == []


def test_rows_of_one_document_have_no_seam_to_cross(
    small: Config, copied: Path, recwarn: pytest.WarningsRecorder, tmp_path: Path
) -> None:
    line = Path(str(small.data_path)).read_text(encoding="utf-8").splitlines()[-1]
    (tmp_path / "one.jsonl").write_text(line + "\n", encoding="utf-8")
    copied.write_text(render(small.replace(data_path=str(tmp_path / "one.jsonl"))), encoding="utf-8")
    assert notes([str(copied)], recwarn) == []


def test_who_calls_train_or_compare_asked_for_the_mode(small: Config, recwarn: pytest.WarningsRecorder) -> None:
    train(small.with_mode("packed"), progress=False)
    assert main(["compare", "tiny_llama_full_docstrings_e1", "--cfg-options", f"data_path={small.data_path}",
                 "max_steps=1", "max_length=128"]) in (0, 1)  # fmt: skip
    assert not [one for one in recwarn if "NOT varlen" in str(one.message)]


@pytest.mark.slow
def test_in_a_pipe_it_is_one_line_on_stderr(copied: Path) -> None:
    words = [sys.executable, "-m", "varlen_lab", "train", str(copied)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and "NOT varlen" not in done.stdout
    said = [line for line in done.stderr.splitlines() if "NOT varlen" in line]
    assert len(said) == 1 and said[0].startswith("note: this run is NOT varlen") and said[0].endswith("= True")
