"""A run is checked before its first step: a leak ends it, and without one nothing of it changes."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrids import SIZES, hybrid
from several import in_processes
from turns import by_turns

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.planting import plant
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.training import leak_check, trainer
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_steps=2)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model that is built has a convolution of width 3 in its second layer."""
    plant_in(monkeypatch, "short convolution")


def plant_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = trainer.build_model

    def build(*given: Any, **more: Any) -> Any:
        model = real(*given, **more)
        plant(FAULTS[name], model, {})
        return model

    monkeypatch.setattr(trainer, "build_model", build)


def command(config: Config, folder: Path, verb: str = "train", *words: str) -> int:
    (folder / "c.py").write_text(render(config), encoding="utf-8")
    return main([verb, str(folder / "c.py"), "--quiet", *words])


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.anywhere])
def test_a_planted_fault_ends_a_run_before_its_first_step(
    name: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_in(monkeypatch, name)
    config = config.replace(isolate=False)
    with pytest.raises(LeakFound, match="so no step was taken"):
        train(config, progress=False, on_start=lambda outlook: pytest.fail("the run began"))
    assert not Path(config.work_dir or "").exists()


@pytest.mark.parametrize("mode", ["unpacked", "packed"])
def test_modes_without_our_attention_are_not_checked(
    mode: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They promise nothing of the kind."""
    plant_in(monkeypatch, "short convolution")
    assert "leak_check" not in train(config.with_mode(mode), progress=False).meta


def test_a_seam_that_the_collator_loses_is_found(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = leak_check.collator

    def loses_one(mode: str, pad: int) -> Any:
        def collate(rows: list[Any]) -> dict[str, Any]:
            batch = real(mode, pad)(rows)
            seams = torch.cat([batch["cu_seq_lens_q"][:1], batch["cu_seq_lens_q"][2:]])
            return batch | {"cu_seq_lens_q": seams, "cu_seq_lens_k": seams, "max_length_q": 128, "max_length_k": 128}

        return collate

    monkeypatch.setattr(leak_check, "collator", loses_one)
    with pytest.raises(LeakFound):
        train(config, progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "lora"},
        {"gradient_checkpointing": True, "recompute": "cheap"},
        {"dtype": "bf16", "gradient_checkpointing": True, "method": "lora"},
    ],
    ids=str,
)
def test_not_a_bit_of_a_run_changes(
    settings: dict[str, Any], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(**settings)
    checked = train(config, progress=False)
    monkeypatch.setattr(trainer, "check_in_first_process", lambda *given, **more: {})
    plain = train(config.replace(work_dir=str(tmp_path / "plain")), progress=False)
    assert checked.losses == plain.losses
    one, two = (read_checkpoint(Path(history.checkpoint or ""))["model"] for history in (checked, plain))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_verdict_is_in_the_history(config: Config) -> None:
    train(config, progress=False)
    folder = Path(config.work_dir or "")
    verdict = History.read(folder / "history.jsonl").meta["leak_check"]
    assert verdict["ok"] is True and verdict["documents"] > 1 and verdict["findings"] == []
    assert verdict["tokens"] <= 128 and 0 < verdict["seconds"] < 5 and verdict["logits"] < 1e-5
    assert read_checkpoint(folder / "iter_2.pth")["meta"]["leak_check"] == json.loads(json.dumps(verdict))


def test_a_run_that_goes_on_is_checked_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config.replace(save_steps=1), progress=False)
    plant_in(monkeypatch, "recurrence")
    with pytest.raises(LeakFound):
        again = config.replace(save_steps=1, isolate=False)
        train(again, progress=False, resume=Path(config.work_dir or "") / "iter_1.pth")
    assert (Path(config.work_dir or "") / "iter_2.pth").exists()


@pytest.mark.parametrize("fault", [ValueError("position 3\nis odd"), RuntimeError("no kernel"), KeyError("router")])
def test_a_model_that_cannot_be_run_says_so(
    fault: Exception, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from transformers import LlamaForCausalLM

    def broken(*given: Any, **more: Any) -> Any:
        raise fault

    monkeypatch.setattr(LlamaForCausalLM, "forward", broken)
    assert command(config, tmp_path) == 2
    said = capsys.readouterr().err
    assert "LlamaForCausalLM cannot be run" in said and type(fault).__name__ in said and "Traceback" not in said
    assert command(config, tmp_path, "compare") == 2


def test_a_model_that_cannot_be_built_says_so(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = config.replace(model_config={"model_type": "llama", **SIZES, "pad_token_id": 5000})
    for verb in ("train", "compare"):
        assert command(odd, tmp_path, verb) == 2
        assert "model_config describes a llama that cannot be built" in capsys.readouterr().err


def test_a_tiny_copy_is_checked_where_the_memory_does_not_hold_the_model(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak_check, "fits", lambda model, device: False)
    verdict = train(config, progress=False).meta["leak_check"]
    assert verdict["ok"] is True and "does not hold" in verdict["tiny_copy"] and verdict["tokens"] == 24
    with pytest.raises(LeakFound, match="Lfm2ShortConv"):
        train(config.replace(model_config=hybrid("lfm2"), isolate=False), progress=False)


def test_a_run_that_shares_its_weights_out_makes_no_gradients_of_them(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process has no room: it measures at the embeddings, and the run trains as it would."""
    plain = train(config, progress=False)
    asked: list[bool] = []
    check, measure = trainer.check_in_first_process, leak_check.check_and_isolate

    def noted(model: Any, *given: Any, **more: Any) -> Any:
        asked.append(any(parameter.requires_grad for parameter in model.parameters()))
        return measure(model, *given, **more)

    monkeypatch.setattr(leak_check, "check_and_isolate", noted)
    monkeypatch.setattr(trainer, "check_in_first_process", lambda *given, **_: check(*given, shared_out=True))
    shared = train(config.replace(work_dir=str(tmp_path / "shared")), progress=False)
    assert asked == [False] and shared.losses == plain.losses
    assert shared.meta["leak_check"]["gradients"] is None and plain.meta["leak_check"]["gradients"] < 1e-5
    plant_in(monkeypatch, "short convolution")
    with pytest.raises(LeakFound):
        train(config.replace(isolate=False), progress=False)


def in_several(text: str, leaky: bool, fsdp: bool) -> Any:
    """What a process of several got: its verdict, or its error."""
    from varlen_lab.config.text import load_text

    with pytest.MonkeyPatch.context() as patch:
        if leaky:
            plant_in(patch, "short convolution")
        patch.setattr(leak_check, "checked", counted := Counted(leak_check.checked))
        try:
            history = train(load_text(text, "c.py"), progress=False, fsdp=fsdp)
            return counted.calls, history.meta["leak_check"]["ok"], history.losses
        except InputError as problem:
            return counted.calls, type(problem).__name__, str(problem)


class Counted:
    def __init__(self, function: Any) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *given: Any, **more: Any) -> Any:
        self.calls += 1
        return self.function(*given, **more)


@pytest.mark.parametrize(("leaky", "fsdp"), by_turns(product([True, False], repeat=2), always=0))
def test_the_first_process_checks_and_all_are_told(fsdp: bool, leaky: bool, config: Config, tmp_path: Path) -> None:
    text = render(config.replace(isolate=False))
    first, second = in_processes(2, tmp_path / "several", in_several, text, leaky, fsdp)
    assert (first[0], second[0]) == (1, 0)
    assert first[1:] == second[1:] and first[1] == ("LeakFound" if leaky else True)


def test_a_model_that_refuses_packed_documents_is_no_leak(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import LlamaForCausalLM

    real = LlamaForCausalLM.forward

    def refuses(self: Any, *given: Any, **more: Any) -> Any:
        if "cu_seq_lens_q" in more:
            raise ValueError("cu_seq_lens_q is not known here")
        return real(self, *given, **more)

    monkeypatch.setattr(LlamaForCausalLM, "forward", refuses)
    for verb in ("train", "compare"):
        assert command(config, tmp_path, verb) == 2
        said = capsys.readouterr().err
        assert "LlamaForCausalLM cannot be trained on packed documents" in said and "is not known here" in said
