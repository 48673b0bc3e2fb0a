"""What is computed again changes no number, and what is expensive is not computed again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from varlen_lab.config.schema import Config
from varlen_lab.models.building import tiny
from varlen_lab.models.recomputing import is_expensive, recompute
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.training.trainer import train

LENGTHS = [5, 1, 17, 9]


class Counting(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.expensive = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name] += 1
        self.expensive += is_expensive(func) and "backward" not in func._schema.name
        return func(*args, **(kwargs or {}))


def gradients(family: str, what: str | None) -> tuple[list[torch.Tensor], Counting]:
    model = tiny(family).train()
    if what:
        recompute(model, what)
    ids = torch.arange(sum(LENGTHS)).numpy()
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": LENGTHS}])
    with Counting() as counted:
        model(**batch, use_cache=False).loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None], counted


@pytest.mark.parametrize("family", ["llama", "gemma", "deepseek", "baichuan"])
def test_gradients_are_the_same_to_the_bit(family: str) -> None:
    kept, plain = gradients(family, None)
    for what in ("all", "cheap"):
        again, counted = gradients(family, what)
        assert len(again) == len(kept) and all(map(torch.equal, again, kept))
        assert sum(counted.calls.values()) > sum(plain.calls.values())  # something was done twice
        assert (counted.expensive == plain.expensive) == (what == "cheap")


def test_expensive_are_products_and_attention() -> None:
    import torch.nn.attention.varlen

    expensive = [
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.torch_attn._varlen_attn.default,
    ]
    cheap = [torch.ops.aten.mul.Tensor, torch.ops.aten.silu.default, torch.ops.aten.embedding.default]
    assert all(map(is_expensive, expensive)) and not any(map(is_expensive, cheap))


@pytest.mark.parametrize("what", ["all", "cheap"])
def test_training_says_the_same(small: Config, what: str) -> None:
    plain = train(small, progress=False)
    config = small.replace(gradient_checkpointing=True, recompute=what, work_dir=f"{small.work_dir}_{what}")
    assert train(config, progress=False).losses == plain.losses
