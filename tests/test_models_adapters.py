"""LoRA and QLoRA: little is trained, little is saved, and the merged folder is the trained model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hybrids import hybrid
from transformers import AutoModelForCausalLM

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load_text, render
from varlen_lab.errors import InputError
from varlen_lab.models import building
from varlen_lab.models.adapters import bytes_held, four_bit_settings, frozen_in_words, weight_count
from varlen_lab.models.building import build_model, frozen_dtype, tiny
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.models.loading import load_model
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert, merge
from varlen_lab.training.outlook import Outlook, Work, memory_needed
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


def test_an_adapter_goes_on_beside_the_weights_it_began_with_only(lora: Config, tmp_path: Path) -> None:
    """Other weights under the same name fit in every shape: the loss would jump and nothing would say why."""
    first = train(lora.replace(max_steps=2), progress=False)
    begun = lora.replace(max_steps=2)
    assert len(str(read_checkpoint(first.checkpoint or "")["meta"]["base"])) == 32
    train(begun, progress=False, resume=True)
    tiny("internlm", seed=4).save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"beside other weights than those of .*base.*put the model back"):
        train(begun, progress=False, resume=True)


def test_a_checkpoint_from_before_fingerprints_is_not_compared(lora: Config) -> None:
    config = lora.replace(max_steps=2)
    path = Path(train(config, progress=False).checkpoint or "")
    old = torch.load(path, weights_only=True)
    del old["meta"]["base"], old["format"]
    save_checkpoint(path, old)
    assert len(train(config, progress=False, resume=True).records) == 2


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


def test_experts_in_one_tensor_take_no_dropout(lora: Config) -> None:
    config = lora.replace(pretrained_model_name_or_path=None, model_config=hybrid("qwen3_next"), lora_dropout=0.1)
    with pytest.raises(InputError, match=r"peft does not adapt Qwen3NextForCausalLM .*; set lora_dropout = 0"):
        build_model(config)
    assert isolated_layers(build_model(config.replace(lora_dropout=0.0)))


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


# ------------------------------------------------------------------------------------------- what is frozen, in what


def saved_in(lora: Config, dtype: torch.dtype, tmp_path: Path) -> Config:
    """The config in bf16, over a checkpoint of this dtype."""
    folder = tmp_path / str(dtype)
    tiny("internlm", seed=3).to(dtype).save_pretrained(folder)
    return lora.replace(pretrained_model_name_or_path=str(folder), dtype="bf16", work_dir=f"{folder}_run")


def dtypes(model: torch.nn.Module, trained: bool) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.requires_grad == trained}


@pytest.mark.parametrize(
    "saved, change, frozen, adapter",
    [
        (torch.bfloat16, {}, torch.bfloat16, torch.float32),
        (torch.float32, {}, torch.float32, torch.float32),
        (torch.float16, {}, torch.bfloat16, torch.float32),
        (torch.bfloat16, {"master_weights": False}, torch.bfloat16, torch.bfloat16),
        (torch.float32, {"master_weights": False}, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, {"dtype": "fp32"}, torch.float32, torch.float32),
    ],
)
def test_frozen_weights_are_kept_as_they_were_saved(
    lora: Config, tmp_path: Path, saved: torch.dtype, change: dict, frozen: torch.dtype, adapter: torch.dtype
) -> None:
    config = saved_in(lora, saved, tmp_path).replace(**change)
    model = build_model(config)
    assert dtypes(model, trained=False) == {frozen} and dtypes(model, trained=True) == {adapter}
    frequencies = [value for name, value in model.named_buffers() if name.endswith("inv_freq")]
    exact = dict(tiny("internlm").named_buffers())["model.rotary_emb.inv_freq"]
    assert len(frequencies) > 0 and all(torch.equal(one, exact) for one in frequencies)
    history = train(config.replace(evaluation_inputs=["Hello"], evaluation_freq=3), progress=False)
    words = [str(dtype).removeprefix("torch.") for dtype in (adapter, frozen)]
    assert history.meta["weights"] == f"{words[0]}, frozen {words[1]}"
    assert {value.dtype for value in read_checkpoint(history.checkpoint or "")["model"].values()} == {adapter}
    done = convert(config, history.checkpoint or "", tmp_path / "adapter")
    assert done.max_logit_difference == 0
    base = config.pretrained_model_name_or_path or ""
    assert merge(base, tmp_path / "adapter", tmp_path / "merged", dtype="fp32").dtype == "float32"


def test_a_run_computes_in_its_own_precision(lora: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of four bits too. Between layers fp16 would overflow: there what is frozen is fp32."""
    pytest.importorskip("bitsandbytes")
    wanted = {"bf16": ("auto", torch.bfloat16), "fp16": (torch.float32, torch.float32), "fp32": (torch.float32,) * 2}
    for word, pair in wanted.items():
        monkeypatch.setattr(building, "resolve_dtype", lambda config, word=word: word)
        assert (frozen_dtype(lora), four_bit_settings("cuda", word).bnb_4bit_compute_dtype) == pair


def test_frozen_in_bf16_is_the_same_training_up_to_rounding(lora: Config, tmp_path: Path) -> None:
    """The same weights, once as they were saved and once as fp32 copies of them."""
    half = saved_in(lora, torch.bfloat16, tmp_path)
    load_model(half.pretrained_model_name_or_path or "", "plain").save_pretrained(tmp_path / "whole")
    whole = half.replace(pretrained_model_name_or_path=str(tmp_path / "whole"), work_dir=str(tmp_path / "whole_run"))
    told: list[Outlook] = []
    losses = [train(config, progress=False, on_start=told.append).losses for config in (half, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3) and losses[0] != losses[1]
    one, two = told
    assert one.parameters == two.parameters and one.memory <= two.memory - 2 * (one.parameters - one.trainable)


def test_weights_of_four_bits_are_counted_and_their_bytes_too(lora: Config, tmp_path: Path) -> None:
    """By hand: two weights a byte, a byte for 64 weights, 4 for 256 of those bytes, tables of 16 and 256 numbers."""
    pytest.importorskip("bitsandbytes")
    config = saved_in(lora, torch.bfloat16, tmp_path).replace(method="qlora")
    packed, plain = build_model(config), build_model(config.replace(method="lora"))
    assert dtypes(packed, trained=False) == {torch.uint8, torch.bfloat16} and "4 bits" in frozen_in_words(packed)
    assert sum(map(weight_count, packed.parameters())) == sum(map(weight_count, plain.parameters()))
    assert Work.of(packed).per_token == Work.of(plain).per_token
    name = "model.layers.0.mlp.gate_proj.base_layer.weight"
    (weight,) = (p for key, p in packed.named_parameters() if key.endswith(name))
    assert weight_count(weight) == 64 * 176
    assert bytes_held(weight) == 64 * 176 // 2 + 176 + 4 + 4 * 16 + 4 * 256 + 4
    assert memory_needed(config, packed, 100) < memory_needed(config, plain, 100)


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
