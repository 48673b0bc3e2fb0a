"""What weights, gradients and logits are kept in, and that the numbers stay the same training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model
from varlen_lab.studies.comparison import compare
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.trainer import train

WAYS = {"bf16, fp32 weights": {"dtype": "bf16"}, "bf16 throughout": {"dtype": "bf16", "master_weights": False}}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_kept_as_the_config_says(small: Config, way: str) -> None:
    config = small.replace(**WAYS[way])
    wanted = torch.float32 if config.master_weights else torch.bfloat16
    engine = make_engine(build_model(config), config, 3, make_accelerator(config))
    assert {p.dtype for p in engine.model.parameters()} == {wanted}
    ids = torch.arange(8)[None]
    logits = engine.model(input_ids=ids, use_cache=False).logits
    assert logits.dtype == torch.bfloat16  # the largest tensor of a step is not cast
    engine.backward(logits.float().sum())
    assert {p.grad.dtype for p in engine.model.parameters() if p.grad is not None} == {wanted}


@pytest.mark.parametrize("way", WAYS)
def test_positions_stay_exact(small: Config, way: str) -> None:
    """Rotary frequencies with 8 bits would place token 4,000 some tokens off."""
    frequencies = [
        dict(build_model(config).named_buffers())["model.rotary_emb.inv_freq"]
        for config in (small.replace(**WAYS[way]), small)
    ]
    assert frequencies[0].dtype == torch.float32 and torch.equal(*frequencies)


@pytest.mark.parametrize("way", WAYS)
def test_bf16_is_the_same_training_up_to_rounding(small: Config, way: str) -> None:
    exact = train(small, progress=False)
    config = small.replace(**WAYS[way], work_dir=f"{small.work_dir}_bf16")
    rough = train(config, progress=False)
    assert rough.losses == pytest.approx(exact.losses, rel=1e-2) and rough.losses != exact.losses
    assert rough.meta["weights"] == ("float32" if config.master_weights else "bfloat16")
    saved = read_checkpoint(rough.checkpoint)["model"]  # type: ignore[arg-type]
    assert {str(value.dtype) for value in saved.values()} == {f"torch.{rough.meta['weights']}"}


def test_half_the_memory_is_said_before_a_run(small: Config, tmp_path: Path) -> None:
    told: list = []
    for way in WAYS.values():
        train(small.replace(**way, max_steps=1, work_dir=str(tmp_path)), progress=False, on_start=told.append)
    assert told[1].memory < told[0].memory


def test_rounding_of_bf16_is_no_leak(small: Config) -> None:
    """In bf16 the modes differ by more than fp32's 1e-5 and by less than a thousandth or two of the loss."""
    comparison = compare(small.replace(dtype="bf16"), modes=("unpacked", "varlen"))
    assert max(map(abs, comparison.difference("varlen"))) > 1e-5
    assert comparison.rounding_from() is None and "equals unpacked in all 3" in comparison.verdict()
    assert comparison.tolerance() == [2e-3 * loss for loss in comparison.losses["unpacked"]]


def pretend_several(work):  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        return work()


def test_settings_that_cannot_be_together(small: Config) -> None:
    config = small.replace(dtype="bf16", master_weights=False)
    with pytest.raises(InputError, match="DeepSpeed keeps fp32 weights"):
        pretend_several(
            lambda: make_engine(build_model(config), config, 1, make_accelerator(config), deepspeed="deepspeed_zero1")
        )
