"""A config for a model of one's own has six lines; the settings that nobody wrote refuse none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.models.building import from_scratch, tiny

SIX_LINES = """\
pretrained_model_name_or_path = {model!r}
data_path = {data!r}
prompt_template = 'qwen_chat'
max_length = 128
use_varlen_attn = True
max_steps = 2
"""


TWO_LAYERS = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 2048}
TWO_LAYERS |= {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def six_lines(tmp_path: Path, dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of such a file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    tiny("llama").save_pretrained("model")
    Path("mine.py").write_text(SIX_LINES.format(model=str(tmp_path / "model"), data=str(dialogues)))
    return "mine.py"


def test_six_lines_are_enough(six_lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-custom-dataset", six_lines]) == 0
    assert main(["pack-report", six_lines]) == 0
    assert main(["train", six_lines, "--quiet"]) == 0
    assert Path("work_dirs/mine/iter_2.pth").is_file()
    printed = capsys.readouterr()
    assert "40 good records, 0 bad" in printed.out and "evaluation_freq" not in printed.err


def test_a_mistake_in_them_is_named_at_its_own_line(six_lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(six_lines).read_text()
    for added, said in (
        ("pack_to_max_length = False", "mine.py:5: use_varlen_attn = True needs"),
        ("model_config = {'model_type': 'llama'}", "mine.py:1: exactly one of"),
        ("lora_r = 8", "mine.py:7: lora_r = 8 has no effect"),
        ("evaluation_freq = 0\nevaluation_share = 0.1", "mine.py:8: evaluation_share = 0.1 holds documents out"),
    ):
        Path(six_lines).write_text(f"{text}{added}\n")
        assert main(["train", six_lines, "--quiet"]) == 2
        assert said in capsys.readouterr().err
    Path(six_lines).write_text(f"{text}evaluation_freq = 7\n")  # it waits for something to ask
    assert main(["check-custom-dataset", six_lines]) == 0
    assert main(["train", six_lines, "--quiet", "--cfg-options", "evaluation_freq=7"]) == 2
    assert "evaluation_freq = 7 has no effect" in capsys.readouterr().err


def test_a_model_where_a_config_is_wanted_is_told_how_it_becomes_one(
    six_lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["train", "model"], "copy-cfg --model model DIR"),
        (["copy-cfg", "model", "."], "say --model model"),
        (["copy-cfg", "some.gguf", "."], "say --model some.gguf"),
        (["copy-cfg", "--model", "model", "tiny_llama_full_docstrings_e1"], "leave one of the two out"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert not Path("tiny_llama_full_docstrings_e1").exists()


def test_a_row_that_a_model_cannot_take_is_no_audit(six_lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    from_scratch(TWO_LAYERS | {"n_positions": 16}, "varlen", seed=0).save_pretrained("model")
    assert main(["audit", six_lines]) == 2
    assert "the model has a table of 16 positions" in capsys.readouterr().err


def test_what_libraries_warn_of_is_not_printed_and_errors_are() -> None:
    """DeepSpeed sets level and handler of its logger when something imports it; bitsandbytes has one for each file."""
    program = """
import logging, sys
from varlen_lab.cli import main
sys.argv = ["varlen-lab", "list-cfg", "-p", "smollm2"]
assert main() == 0
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
for name in ("DeepSpeed", "bitsandbytes.backends.cpu.ops"):
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.warning("a warning")
    logger.error("an error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "a warning" not in done.stdout and done.stdout.count("an error") == 2


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "gpt2", "lacking"])
def test_only_our_own_words_reach_a_person(six_lines: str, model: str) -> None:
    """With an adapter and recomputing, of which transformers, peft and bitsandbytes have most to say."""
    if model == "gpt2":
        from_scratch(TWO_LAYERS, "varlen", seed=0).save_pretrained("model")
    if model == "lacking":
        state = tiny("llama").state_dict()
        del state["lm_head.weight"]
        tiny("llama").save_pretrained("model", state_dict=state)
    options = ["method=lora", "lora_r=4", "gradient_checkpointing=True", "max_steps=1"]
    words = ["train", six_lines, "--cfg-options", *options]
    done = subprocess.run([sys.executable, "-m", "varlen_lab", *words], capture_output=True, text=True, check=False)
    code, begins = (2, ("error: ",)) if model == "lacking" else (0, ("varlen_lab:", "note:"))
    assert done.returncode == code, done.stderr
    assert all(line.startswith(begins) for line in done.stderr.splitlines()), done.stderr
