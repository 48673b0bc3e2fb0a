"""Numbers that go wrong: what is not finite is never saved, and fp16's search for a loss scale is no divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model
from varlen_lab.training import optimizer
from varlen_lab.training import step as loop
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.engines import Engine, make_accelerator
from varlen_lab.training.finite import first_nonfinite
from varlen_lab.training.history import History
from varlen_lab.training.step import MOST_SKIPPED, Batch, collator, optimize
from varlen_lab.training.trainer import train


def with_lr_of(monkeypatch: pytest.MonkeyPatch, step: int, factor: float) -> None:
    monkeypatch.setattr(optimizer, "lr_factor", lambda done, *_: factor if done == step - 1 else 1.0)


# ------------------------------------------------------------------------------------------------- saving


def test_weights_that_are_no_numbers_are_not_saved(
    config_file: str, small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", config_file, "--quiet", "--cfg-options", "lr=1e300"]) == 2
    told = capsys.readouterr()
    said = told.err.splitlines()[-1]
    assert "saved" not in told.out
    assert "model.embed_tokens.weight is not finite after step 3" in said and "no earlier one was written" in said
    folder = Path(small.work_dir or "")
    assert not list(folder.glob("iter_*")) and len(History.read(folder / "history.jsonl").records) == 3


def test_a_good_checkpoint_makes_no_room_for_a_bad_one(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lr_of(monkeypatch, 4, 1e300)
    config = small.replace(max_steps=6, save_steps=1, save_total_limit=2)
    folder = Path(small.work_dir or "")
    with pytest.raises(InputError, match=r"not finite after step 4, .* \(the last good one is .*iter_3.pth\)"):
        train(config, progress=False)
    assert sorted(path.name for path in folder.glob("iter_*")) == ["iter_2.pth", "iter_3.pth"]
    assert all(value.isfinite().all() for value in read_checkpoint(folder / "iter_3.pth")["model"].values())


def test_every_tensor_that_is_kept_is_looked_at(small: Config) -> None:
    engine = Engine(build_model(small), small, 3, make_accelerator(small))
    next(optimize(engine, [a_batch()]))
    assert first_nonfinite(engine) is None
    for name, p in engine.unwrapped_model.named_parameters():
        for what, tensor in {
            name: p.data,
            **{f"{k} of {name}": v for k, v in engine.optimizer.state[p].items()},
        }.items():
            last = tensor.view(-1)[-1].clone()
            tensor.view(-1)[-1] = -math.inf
            assert first_nonfinite(engine) == what
            tensor.view(-1)[-1] = last
    assert first_nonfinite(engine) is None


# ------------------------------------------------------------------------------------------------- divergence


def a_batch() -> list[Batch]:
    ids = torch.randint(5, 2000, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    return [Batch.of([{"input_ids": ids, "labels": [-100, *ids[1:]], "seq_lengths": [40]}], collator("varlen", 0))]


def planted(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], Any]) -> None:
    """``change`` does something to the loss of every batch."""
    real = loop.token_loss_sum

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        value = real(model, batch)
        changed = change(value)
        return changed if isinstance(changed, torch.Tensor) else value

    monkeypatch.setattr(loop, "token_loss_sum", loss)


def bad_gradient(value: torch.Tensor) -> None:
    value.register_hook(lambda gradient: gradient * math.nan)


def test_a_lost_run_says_whether_loss_or_gradient(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        planted(patch, lambda value: value * math.nan)
        with pytest.raises(InputError, match="the loss is nan at step 5, the 5th step in a row"):
            train(small.replace(max_steps=9), progress=False)
    planted(monkeypatch, bad_gradient)
    with pytest.raises(InputError, match="the gradient's norm is nan at step 5, the 5th step in a row"):
        train(small.replace(max_steps=9), progress=False)


def scaled(config: Config, scale: float = 2.0**16) -> Engine:
    """An engine as fp16 has it on a GPU, with weights in fp32: Accelerate makes no loss scale on a CPU."""
    accelerator = make_accelerator(config)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    engine = Engine(build_model(config), config, 99, accelerator)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"  # so that it divides by the scale
    return engine


def test_a_scale_is_looked_for_as_long_as_it_takes(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scaled(small)
    with monkeypatch.context() as patch:
        planted(patch, bad_gradient)
        records = [next(optimize(engine, [a_batch()])) for _ in range(2 * MOST_SKIPPED)]
        assert all(record["skipped"] for record in records)
        assert engine.accelerator.scaler.get_scale() == 2.0 ** (16 - 2 * MOST_SKIPPED)
        with pytest.raises(
            InputError, match=f"gradient's norm is nan at step {5 + MOST_SKIPPED}"
        ):  # 2**6 is halved to 1
            list(optimize(engine, [a_batch()] * 99))
    assert "skipped" not in next(optimize(engine, [a_batch()]))
    planted(monkeypatch, lambda value: value * math.nan)  # a loss is not scaled: this is the run, whatever the scale
    with pytest.raises(InputError, match=f"the loss is nan at step {MOST_SKIPPED}"):
        list(optimize(scaled(small), [a_batch()] * 99))


def test_a_scale_does_not_take_a_step_whose_loss_is_infinite(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scaled(small)
    before = {name: p.clone() for name, p in engine.model.named_parameters()}
    with monkeypatch.context() as patch:
        planted(patch, lambda value: value + math.inf)
        assert next(optimize(engine, [a_batch()]))["skipped"]
    assert all(torch.equal(p, before[name]) for name, p in engine.model.named_parameters())
    assert "skipped" not in next(optimize(engine, [a_batch()]))


@pytest.mark.parametrize("forgets", [False, True], ids=["kept", "of an earlier version"])
def test_a_scale_goes_on_from_a_checkpoint(small: Config, tmp_path: Path, forgets: bool) -> None:
    engine, path = scaled(small), tmp_path / "iter_5.pth"
    list(optimize(engine, [a_batch()] * 5))  # grown once, and two steps on the way to the next time
    engine.save(path, {})
    state, again = read_checkpoint(path), scaled(small)
    if forgets:
        state.pop("scaler")
    again.restore(path, state)
    after = again.accelerator.scaler.state_dict()
    assert after == (scaled(small) if forgets else engine).accelerator.scaler.state_dict()
    if not forgets:
        assert after["scale"] == 2.0**17 and after["_growth_tracker"] == 2
    plain = Engine(build_model(small), small, 99, make_accelerator(small))
    plain.restore(path, state)  # a run without a scale does not ask for it
