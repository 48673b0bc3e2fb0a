"""Step 6: the folder that comes out is the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.loading import load_model
from varlen_lab.training import conversion
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert
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
    real = conversion.logit_difference

    def damaged(model, folder: Path, *more) -> float:
        with torch.no_grad():
            next(model.parameters())[0] += 1
        return real(model, folder, *more)

    monkeypatch.setattr(conversion, "logit_difference", damaged)
    with pytest.raises(InputError, match="logits of the converted model differ"):
        convert(*trained, tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


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


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant"), [(f, v) for f in families() for v in variants(f)])
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
