"""Layers that carry a state along the row run document by document in ``train`` and ``compare``: exact, or refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrids import HYBRIDS, LAYERS, hybrid
from several import in_processes
from turns import by_turns

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import LeakFound
from varlen_lab.leaks.planting import plant
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.studies import comparison
from varlen_lab.studies.comparison import compare
from varlen_lab.training import leak_check, trainer
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train

LEAKING_FAULTS = [name for name, fault in FAULTS.items() if fault.anywhere]


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_steps=2)


def command(config: Config, folder: Path, verb: str, *words: str) -> int:
    (folder / "c.py").write_text(render(config), encoding="utf-8")
    return main([verb, str(folder / "c.py"), "--quiet", *words])


def plant_everywhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every model that is built has the fault."""
    for module in (trainer, comparison):
        real = module.build_model

        def build(*given: Any, real: Any = real, **more: Any) -> Any:
            model = real(*given, **more)
            plant(FAULTS[name], model, {})
            return model

        monkeypatch.setattr(module, "build_model", build)


def exact(found: comparison.Comparison) -> bool:
    return max(map(abs, found.difference("varlen"))) <= 1e-5 and found.keeps_apart


# -------------------------------------------------------------------------------------------------- exact, or refused


@pytest.mark.parametrize("kind", HYBRIDS)
def test_compare_is_exact_and_says_what_is_isolated(
    kind: str,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config.replace(model_config=hybrid(kind))
    out = tmp_path / "out"
    caplog.set_level("INFO", "varlen_lab")
    assert command(config, tmp_path, "compare", "--modes", "unpacked", "varlen", "-o", str(out)) == 0
    said, (name, layers) = capsys.readouterr(), LAYERS[kind]
    assert caplog.text.count(f"isolated: {layers} layers ({name} run document by document)") == 1
    assert "varlen equals unpacked in all 2 steps" in said.out
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    varlen = found["runs"]["varlen"]["meta"]
    assert (
        name in varlen["isolated"]
        and varlen["leak_check"]["ok"]
        and "isolated" not in found["runs"]["unpacked"]["meta"]
    )
    assert max(found["first_step"]["logits"], found["first_step"]["gradients"]) <= 1e-5


@pytest.mark.parametrize("kind", HYBRIDS)
def test_train_says_it_once_and_keeps_it(
    kind: str,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On the way as a record of the log, which a terminal shows, and below the result, for a pipe."""
    caplog.set_level("INFO", "varlen_lab")
    assert command(config.replace(model_config=hybrid(kind)), tmp_path, "train") == 0
    name, layers = LAYERS[kind]
    words = f"isolated: {layers} layers ({name} run document by document)"
    said = capsys.readouterr()
    assert caplog.text.count(words) == 1 == said.out.count(words) and words not in said.err
    meta = History.read(tmp_path / "w" / "history.jsonl").meta
    assert meta["isolated"] == words and meta["leak_check"]["logits"] < 1e-5 and meta["leak_check"]["gradients"] < 1e-5
    assert len(meta["leak_check"]["isolated"]) == int(layers[0])
    assert read_checkpoint(tmp_path / "w" / "iter_2.pth")["meta"]["isolated"] == words


@pytest.mark.parametrize("kind", HYBRIDS)
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_without_isolation_it_is_refused(
    kind: str, verb: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(config.replace(model_config=hybrid(kind)), tmp_path, verb, "--no-isolate") == 1
    said = capsys.readouterr().err
    assert "does not keep packed documents apart" in said and "set isolate = True" in said
    assert f"\n✗ recurrent layer, {LAYERS[kind][0]} of layer" in said and "isolate(model)" in said
    assert not (tmp_path / "w").exists()


def test_a_setting_says_the_same_as_the_flag(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = config.replace(model_config=hybrid("lfm2"))
    with pytest.raises(LeakFound, match="set isolate = True"):
        train(config.replace(isolate=False), progress=False)
    assert command(config, tmp_path, "train", "--no-isolate", "--cfg-options", "isolate=True") == 2
    assert "isolate twice" in capsys.readouterr().err
    assert command(config.with_mode("packed"), tmp_path, "train", "--no-isolate") == 2
    assert "no effect with use_varlen_attn = False" in capsys.readouterr().err


@pytest.mark.parametrize("name", LEAKING_FAULTS)
def test_a_planted_layer_is_found_by_measuring_and_isolated(
    name: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has written down its name."""
    plant_everywhere(monkeypatch, name)
    found = compare(config, ("unpacked", "varlen"))
    meta = found.histories["varlen"].meta
    assert exact(found) and meta["leak_check"]["isolated"] == ["model.layers.1.mlp.planted"]
    assert meta["isolated"].startswith("isolated: 1 of 2 layers (")
    history = train(config, progress=False)
    assert history.losses == found.losses["varlen"] and history.meta["isolated"] == meta["isolated"]


@pytest.mark.parametrize("name", LEAKING_FAULTS)
def test_a_planted_layer_is_refused_where_isolation_is(
    name: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_everywhere(monkeypatch, name)
    for verb in ("train", "compare"):
        assert command(config, tmp_path, verb, "--no-isolate") == 1
    assert not (tmp_path / "w").exists()


def test_nothing_of_a_model_without_such_layers_changes(config: Config, tmp_path: Path) -> None:
    """Bit for bit, and nothing is said of it."""
    with_it = train(config, progress=False)
    without = train(config.replace(isolate=False, work_dir=str(tmp_path / "without")), progress=False)
    assert with_it.losses == without.losses
    one, two = (read_checkpoint(Path(history.checkpoint or ""))["model"] for history in (with_it, without))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert "isolated" not in with_it.meta and with_it.meta["leak_check"]["isolated"] == []


# ------------------------------------------------------------------------------------------------ beside other settings

SETTINGS: list[dict[str, Any]] = [
    {"method": "lora", "lora_r": 4},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "recompute": "cheap"},
    {"method": "lora", "lora_r": 4, "gradient_checkpointing": True},
]


@pytest.mark.parametrize("kind", ["lfm2", "mamba2", "qwen3_next"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_exact_beside_other_settings(kind: str, settings: dict[str, Any], config: Config) -> None:
    found = compare(config.replace(model_config=hybrid(kind), **settings), ("unpacked", "varlen"))
    assert exact(found) and found.histories["varlen"].meta["isolated"]


def test_trying_a_row_in_one_call_leaves_a_checkpoint_around_it_alone(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cheap`` keeps results in the order in which they come: those of the trial are none of them."""
    monkeypatch.setattr("varlen_lab.models.isolation.may_take_seams", lambda *given: True)
    settings = {"model_config": hybrid("lfm2"), "gradient_checkpointing": True, "recompute": "cheap"}
    assert exact(compare(config.replace(**settings), ("unpacked", "varlen")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lfm2", "mamba2"])
def test_it_is_exact_when_compiled(kind: str, config: Config, tmp_path: Path) -> None:
    config = config.replace(model_config=hybrid(kind))
    plain = train(config, progress=False)
    compiled = train(config.replace(torch_compile=True, work_dir=str(tmp_path / "c")), progress=False)
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5) and compiled.meta["isolated"]


def test_a_run_that_goes_on_is_checked_and_isolated_again(config: Config, tmp_path: Path) -> None:
    config = config.replace(model_config=hybrid("lfm2"), save_steps=1, max_steps=2)
    whole = train(config, progress=False)
    first = Path(config.work_dir or "") / "iter_1.pth"
    other = config.replace(work_dir=str(tmp_path / "other"))
    again = train(other, progress=False, resume=first)
    assert again.losses[-1:] == whole.losses[-1:] and again.meta["isolated"] == whole.meta["isolated"]
    with pytest.raises(LeakFound):
        train(other.replace(isolate=False), progress=False, resume=first)


def test_the_classes_that_a_tiny_copy_names_are_isolated(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory does not hold the model: all layers of the class, known by name or not."""
    from varlen_lab.models import isolation

    monkeypatch.setattr(leak_check, "fits", lambda model, device: False)
    config = config.replace(model_config=hybrid("recurrent_gemma"))
    meta = train(config, progress=False).meta
    assert meta["leak_check"]["tiny_copy"] and meta["isolated"].startswith("isolated: 2 of 3 layers (RecurrentGemma")
    monkeypatch.setattr(isolation, "known_layers", lambda model: [])
    assert train(config, progress=False).meta["leak_check"]["isolated"] == meta["leak_check"]["isolated"]
    with pytest.raises(LeakFound, match="RecurrentGemmaRecurrentBlock"):
        train(config.replace(isolate=False), progress=False)


def in_several(text: str, planted: bool, fsdp: bool) -> Any:
    """What a process of several got: losses, what is isolated by the record, and in its own model."""
    from varlen_lab.config.text import load_text

    with pytest.MonkeyPatch.context() as patch:
        if planted:
            plant_everywhere(patch, "short convolution")
        kept: list[Any] = []
        real = trainer.make_engine
        patch.setattr(
            trainer, "make_engine", lambda model, *given, **more: real(kept.append(model) or model, *given, **more)
        )
        history = train(load_text(text, "c.py"), progress=False, fsdp=fsdp)
        return (
            history.losses,
            history.meta["leak_check"]["isolated"],
            isolated_layers(kept[0]),
            history.meta["isolated"],
        )


@pytest.mark.parametrize(("planted", "fsdp"), by_turns(product([True, False], repeat=2), always=0))
def test_several_processes_isolate_the_same_layers(planted: bool, fsdp: bool, config: Config, tmp_path: Path) -> None:
    config = config if planted else config.replace(model_config=hybrid("lfm2"))
    with pytest.MonkeyPatch.context() as patch:
        if planted:
            plant_everywhere(patch, "short convolution")
        alone = train(config.replace(accumulative_counts=4), progress=False)
    text = render(config.replace(accumulative_counts=2, work_dir=str(tmp_path / "s")))
    first, second = in_processes(2, tmp_path / "several", in_several, text, planted, fsdp)
    assert first == second and first[1] == first[2] == alone.meta["leak_check"]["isolated"]
    assert first[0] == pytest.approx(alone.losses, abs=1e-5)
