"""LoRA and QLoRA: little is trained, little is saved, and the merged folder is the trained model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load_text, render
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.models.loading import load_model
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.conversion import convert, merge
from varlen_lab.training.trainer import train

peft = pytest.importorskip("peft")


@pytest.fixture
def lora(small: Config, tmp_path: Path) -> Config:
    tiny("internlm", seed=3).save_pretrained(tmp_path / "base")
    return small.with_mode("varlen").replace(
        pretrained_model_name_or_path=str(tmp_path / "base"),
        model_config=None,
        method="lora",
        lora_r=4,
        lora_dropout=0.0,
        lr=1e-2,
        max_steps=6,
        save_steps=2,
    )


def test_train_convert_merge_gives_the_trained_logits(lora: Config, tmp_path: Path) -> None:
    history = train(lora, progress=False)
    assert history.losses[-1] < history.losses[0]
    weights = read_checkpoint(history.checkpoint or "")["model"]
    assert weights and all("lora_" in name for name in weights)
    done = convert(lora, history.checkpoint or "", tmp_path / "adapter")
    assert done.kind == "adapter" and done.max_logit_difference == 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert merged.max_logit_difference < 2e-5
    ids = torch.arange(5, 60)[None]
    base = load_model(str(tmp_path / "base"), "plain")
    with torch.no_grad():
        untrained = base(ids).logits
        trained = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))(ids).logits
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert float((trained - opened).abs().max()) < 2e-5 < float((trained - untrained).abs().max())


def test_the_frozen_weights_are_frozen(lora: Config, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in tiny("internlm", seed=3).state_dict().items()}
    train(lora, progress=False)
    after = load_model(str(tmp_path / "base"), "plain").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_adapter_is_the_undisturbed_one(lora: Config, tmp_path: Path, dropout: float) -> None:
    """With dropout too: the dice of a step depend on its number, not on what was thrown before."""
    lora = lora.replace(lora_dropout=dropout)
    whole, broken = (lora.replace(work_dir=str(tmp_path / name)) for name in ("whole", "broken"))
    train(whole, progress=False)

    def crash(record: dict) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=False, on_step=crash)
    train(broken, progress=False, resume=True)
    one, two = (read_checkpoint(tmp_path / name / "iter_6.pth")["model"] for name in ("whole", "broken"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_adapter_of_another_model_is_refused(lora: Config, tmp_path: Path) -> None:
    history = train(lora.replace(max_steps=1), progress=False)
    convert(lora, history.checkpoint or "", tmp_path / "adapter")
    tiny("internlm", hidden_size=32).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="does not fit"):
        merge(tmp_path / "other", tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(InputError, match="no adapter"):
        merge(tmp_path / "base", tmp_path / "nowhere", tmp_path / "merged")
    with pytest.raises(InputError, match="adapter_config"):
        merge(tmp_path / "base", tmp_path / "base", tmp_path / "merged")


def test_the_commands_say_what_to_do_next(lora: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.py").write_text(render(lora.replace(max_steps=1)))
    assert main(["train", str(tmp_path / "c.py"), "--quiet"]) == 0
    adapter, merged = str(tmp_path / "adapter"), str(tmp_path / "merged")
    assert main(["convert", "pth_to_hf", str(tmp_path / "c.py"), str(tmp_path / "w" / "iter_1.pth"), adapter]) == 0
    assert "convert merge LLM" in capsys.readouterr().out
    assert main(["convert", "merge", str(tmp_path / "base"), adapter, merged]) == 0
    assert "max |Δ|" in capsys.readouterr().out


def test_settings_without_effect_are_refused_and_not_shown(small: Config) -> None:
    assert "lora_r" not in render(small) and "lora_r" in render(small.replace(method="lora"))
    with pytest.raises(InputError, match=r"lora_r = 8 has no effect with method = 'full'"):
        small.replace(lora_r=8)
    with pytest.raises(InputError, match="random weights"):
        small.replace(method="qlora")
    text = render(small.replace(method="lora", lora_r=8))
    assert load_text(text, "c.py") == small.replace(method="lora", lora_r=8)


def test_checkpointing_changes_memory_and_not_the_loss(small: Config, lora: Config, tmp_path: Path) -> None:
    for config in (small.with_mode("varlen"), lora):
        plain = train(config.replace(max_steps=2), progress=False)
        kept = config.replace(max_steps=2, gradient_checkpointing=True, work_dir=str(tmp_path / "kept"))
        assert train(kept, progress=False).losses == pytest.approx(plain.losses, abs=1e-6)


@pytest.mark.slow
def test_compiling_changes_no_loss_and_is_done_once(small: Config, tmp_path: Path) -> None:
    """Rows have other seams and lengths in every step; a compiled model must not be compiled for each."""
    shutil.which("g++") or pytest.skip("torch.compile needs a C++ compiler on a CPU")
    config = small.with_mode("varlen").replace(max_steps=8)
    plain = train(config, progress=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def look(record: dict) -> None:
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    compiled = config.replace(torch_compile=True, work_dir=str(tmp_path / "fast"))
    fast = train(compiled, progress=False, on_step=look)
    assert fast.losses == pytest.approx(plain.losses, abs=1e-5)
    assert graphs[0] > 0 and graphs[-1] == graphs[2], graphs
    names = [read_checkpoint(run.checkpoint or "")["model"].keys() for run in (plain, fast)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_four_bits(lora: Config, tmp_path: Path) -> None:
    """QLoRA where bitsandbytes runs: it trains, and the adapter goes onto the unquantised model."""
    pytest.importorskip("bitsandbytes")
    history = train(lora.replace(method="qlora", lora_dropout=0.0), progress=False)
    assert history.losses[-1] < history.losses[0]
    done = convert(lora.replace(method="qlora"), history.checkpoint or "", tmp_path / "adapter")
    assert done.max_logit_difference == 0
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged").max_logit_difference < 2e-5
