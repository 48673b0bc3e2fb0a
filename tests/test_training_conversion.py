"""Step 6: the folder that comes out is the model that was trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from turns import by_turns

from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.models.adapters import add_adapter
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.loading import load_model
from varlen_lab.training import conversion
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert
from varlen_lab.training.engines import trained_only
from varlen_lab.training.trainer import train


@pytest.fixture
def trained(small: Config) -> tuple[Config, Path]:
    history = train(small.with_mode("varlen"), progress=False)
    assert history.checkpoint is not None
    return small.with_mode("varlen"), history.checkpoint


def test_the_folder_opens_with_the_trained_weights_and_tokenizer(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    done = convert(config, pth, tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    weights = read_checkpoint(pth)["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert done.max_logit_difference == 0 and done.dtype == "float32" and done.step == 3 and done.notes == ()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.decode(tokenizer.encode("def f(x): ü")).endswith("def f(x): ü")
    assert tokenizer.chat_template
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "xtuner_config.py", "varlen_lab.json"} <= names
    settings = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [2] and not settings["_from_model_config"]


def test_a_tied_tensor_is_counted_once(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    done = convert(config, pth, tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.config.tie_word_embeddings
    written = load_file(tmp_path / "hf" / "model.safetensors")
    assert done.parameters == model.num_parameters() == sum(tensor.numel() for tensor in written.values())
    twice = sum(tensor.numel() for tensor in read_checkpoint(pth)["model"].values())
    assert done.parameters == twice - model.get_input_embeddings().weight.numel()


def test_the_attention_of_training_does_not_stick_to_the_folder(trained: tuple[Config, Path], tmp_path: Path) -> None:
    convert(*trained, tmp_path / "hf")
    assert "varlen" not in (tmp_path / "hf" / "config.json").read_text()


def test_the_trained_dtype_is_kept_and_fp32_casts(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    state = read_checkpoint(pth)
    state["model"] = {name: value.to(torch.bfloat16) for name, value in state["model"].items()}
    half = tmp_path / "half.pth"
    save_checkpoint(half, {key: value for key, value in state.items() if key != "format"})
    assert convert(config, half, tmp_path / "bf16").dtype == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "bf16").dtype == torch.bfloat16
    assert convert(config, half, tmp_path / "fp32", fp32=True).dtype == "float32"


@pytest.mark.parametrize("word, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_dtype_that_is_named_is_the_folders(
    trained: tuple[Config, Path], tmp_path: Path, word: str, dtype: torch.dtype
) -> None:
    done = convert(*trained, tmp_path / "hf", dtype=word)
    written = load_file(tmp_path / "hf" / "model.safetensors")
    assert done.max_logit_difference == 0 and {tensor.dtype for tensor in written.values()} == {dtype}
    weights = read_checkpoint(trained[1])["model"]
    assert all(torch.equal(tensor, weights[name].to(dtype)) for name, tensor in written.items())


def test_a_dtype_that_cannot_be_is_refused(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    with pytest.raises(InputError, match="bf15"):
        convert(config, pth, tmp_path / "hf", dtype="bf15")
    with pytest.raises(InputError, match="contradict"):
        convert(config, pth, tmp_path / "hf", fp32=True, dtype="bf16")
    state = {key: value for key, value in read_checkpoint(pth).items() if key != "format"}
    state["model"] = {name: value * 1e7 for name, value in state["model"].items()}
    save_checkpoint(tmp_path / "large.pth", state)
    with pytest.raises(InputError, match=r"weight of .*, float16 ends at 6.55e\+04; choose --dtype bf16"):
        convert(config, tmp_path / "large.pth", tmp_path / "hf", dtype="fp16")
    assert not (tmp_path / "hf").exists()


def test_shards(trained: tuple[Config, Path], tmp_path: Path) -> None:
    convert(*trained, tmp_path / "hf", max_shard_size="500KB")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


def test_a_difference_between_the_configs_is_noted(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    notes = convert(config.replace(lr=0.5), pth, tmp_path / "hf").notes
    assert len(notes) == 1 and "lr is 0.5" in notes[0]


def test_a_conversion_may_be_repeated_but_nothing_else_is_overwritten(
    trained: tuple[Config, Path], tmp_path: Path
) -> None:
    convert(*trained, tmp_path / "hf")
    convert(*trained, tmp_path / "hf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a conversion of ours"):
        convert(*trained, tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        convert(*trained, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_logits_that_do_not_come_back_stop_the_conversion(
    trained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: one weight changes between the checkpoint and the folder."""
    real = conversion.open_plain

    def damaged(path: Path) -> Any:
        model = real(path)
        with torch.no_grad():
            next(model.parameters())[0] += 1
        return model

    monkeypatch.setattr(conversion, "open_plain", damaged)
    with pytest.raises(InputError, match="logits of the converted model differ"):
        convert(*trained, tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("fault", ["a file on the way", "a read-only folder", "a disk that takes nothing"])
def test_a_place_that_cannot_be_written_is_a_sentence(
    fault: str, trained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = trained
    place = tmp_path / "place"
    place.mkdir()
    if fault == "a file on the way":
        place.rmdir()
        place.write_bytes(b"")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    def denied(self: Path, *given: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    if fault == "a disk that takes nothing":
        monkeypatch.setattr(os, "fsync", full)
    if fault == "a read-only folder":
        monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(
        InputError, match=r"hf could not be written \((Not a dir|Permission|No space).*another SAVE_DIR"
    ):
        convert(config, checkpoint, place / "hf")
    monkeypatch.undo()
    assert place.is_file() or not list(place.iterdir())


def test_weights_that_do_not_fit_are_refused(trained: tuple[Config, Path], tmp_path: Path) -> None:
    config, pth = trained
    state = {key: value for key, value in read_checkpoint(pth).items() if key != "format"}
    state["model"] = dict(list(state["model"].items())[:-2])
    save_checkpoint(tmp_path / "less.pth", state)
    with pytest.raises(InputError, match="do not fit"):
        convert(config, tmp_path / "less.pth", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_pages_own_model_trains_and_converts(small: Config, tmp_path: Path) -> None:
    """InternLM of its real architecture, which XTuner's own releases cannot train with varlen attention."""
    tiny("internlm").save_pretrained(tmp_path / "internlm")
    config = small.replace(pretrained_model_name_or_path=str(tmp_path / "internlm"), model_config=None)
    config = config.with_mode("varlen").replace(prompt_template="internlm_chat")
    history = train(config, progress=False)
    done = convert(config, history.checkpoint or "", tmp_path / "hf")
    assert done.max_logit_difference == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf").config.attention_bias


@pytest.mark.parametrize(("family", "variant"), by_turns(((f, v) for f in families() for v in variants(f)), always=0))
def test_every_stand_in_trains_and_comes_back(family: str, variant: str, small: Config, tmp_path: Path) -> None:
    """Three steps in varlen mode, conversion, and the folder gives the trained model's logits."""
    tiny(family, variant).save_pretrained(tmp_path / "base")
    config = small.replace(pretrained_model_name_or_path=str(tmp_path / "base"), model_config=None).with_mode("varlen")
    history = train(config, progress=False)
    assert all(loss > 0 for loss in history.losses)
    done = convert(config, history.checkpoint or "", tmp_path / "hf")
    assert done.max_logit_difference == 0
    trained = tiny(family, variant, seed=1).eval()
    trained.load_state_dict(read_checkpoint(history.checkpoint or "")["model"])
    opened = load_model(str(tmp_path / "hf"), "varlen").eval()
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        assert torch.equal(opened(ids).logits, trained(ids).logits)


PEAK = """
import resource, sys
from pathlib import Path
from varlen_lab.config.text import load_config
from varlen_lab.training.conversion import convert, merge

for folder in map(Path, sys.argv[1:]):
    for kind in ("full", "lora"):
        convert(load_config(folder / f"{kind}.py"), folder / f"{kind}.pth", folder / kind)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    merge(folder / "base", folder / "lora", folder / "merged")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units elsewhere")
def test_a_machine_that_holds_a_model_converts_and_merges_it(small: Config, tmp_path: Path) -> None:
    """Peak memory of the process, what a tiny model takes subtracted, is at most 1.3 times weights and adapter."""
    pytest.importorskip("peft")
    wide = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 7}
    size = 0
    for name, sizes in (("tiny", {}), ("large", wide)):
        folder = tmp_path / name
        model: Any = tiny("llama", **sizes)
        model.save_pretrained(folder / "base")
        full = small.replace(pretrained_model_name_or_path=str(folder / "base"), model_config=None)
        for config in (full, full.replace(method="lora")):
            if config.method == "lora":
                model = add_adapter(model, config)
            state = {"config": render(config), "config_name": "c", "step": 1}
            state["model_config"] = model.config.to_json_string(use_diff=False)
            state["model"] = trained_only(model, model.state_dict())
            save_checkpoint(folder / f"{config.method}.pth", state)
            (folder / f"{config.method}.py").write_text(state["config"])
        size = sum(weight.nbytes for weight in model.parameters()) // 1024
    assert size > 200_000
    folders = [str(tmp_path / "tiny"), str(tmp_path / "large")]
    done = subprocess.run([sys.executable, "-c", PEAK, *folders], capture_output=True, text=True, check=True)
    # other libraries print there as well
    *_, base, convert_full, convert_lora, merge = [int(line) for line in done.stdout.split("\n") if line.isdigit()]
    peaks = {
        name: (peak - base) / size for name, peak in zip(("full", "lora", "merge"), (convert_full, convert_lora, merge))
    }
    assert all(peak < 1.3 for peak in peaks.values()), peaks
