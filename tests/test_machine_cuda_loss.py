"""The loss from hidden states, Liger's kernel and the check's float64 on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from packed import packed_row
from planted import FAULTS, plant_in_layer, rough

from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.head import head_of
from varlen_lab.leaks.precision import is_rounding
from varlen_lab.machine.gpu import gpu_facts, why_unusable
from varlen_lab.models.building import from_scratch
from varlen_lab.training import chunks, from_hidden, liger, lm_head
from varlen_lab.training.chunks import Head
from varlen_lab.training.from_hidden import loss_from_hidden
from varlen_lab.training.loss import summed_loss

WHY = why_unusable(gpu_facts())
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(WHY is not None, reason=str(WHY))]

DEVICE = "cuda"
LENGTHS = [70, 1, 33, 17, 200]
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # gradients, as shares of the largest


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    from_hidden.found.clear()
    liger.found.clear()
    yield
    from_hidden.found.clear()
    liger.found.clear()


def model_of(dtype: torch.dtype, **config: Any) -> torch.nn.Module:
    shape = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096}
    shape |= {"model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 256, **config}
    return from_scratch(shape, "varlen", seed=0).to(DEVICE, dtype)


def row(vocabulary: int = 4000) -> dict[str, Any]:
    ids = [(37 * number) % vocabulary + 3 for number in range(sum(LENGTHS))]
    batch = packed_row(LENGTHS, ids)
    return {name: value.to(DEVICE) if hasattr(value, "to") else value for name, value in batch.items()}


def with_gradients(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), grads


@pytest.mark.parametrize("kernel", ["chunks", "liger"])
@pytest.mark.parametrize("dtype", list(CLOSE), ids=["fp32", "bf16"])
@pytest.mark.parametrize("tied", [False, True], ids=["own", "tied"])
def test_it_is_the_loss_of_the_logits(
    kernel: str, dtype: torch.dtype, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "liger" and importlib.util.find_spec("liger_kernel") is None:
        pytest.skip("liger_kernel is not installed here")
    took: list[bool] = []
    best = liger.best_loss

    def chosen(*call: Any) -> Any:
        way = chunks.summed_loss_of if kernel == "chunks" else best(*call)
        took.append(way is liger.liger_loss)
        return way

    monkeypatch.setattr(from_hidden, "best_loss", chosen)
    model, batch = model_of(dtype, tie_word_embeddings=tied), row()
    labels = batch.pop("labels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a refusal is one
        loss = loss_from_hidden(model, dict(batch), labels, None)
    assert loss is not None and took == [kernel == "liger"]
    mine, mine_grads = with_gradients(model, loss)
    full = summed_loss(model(**batch, use_cache=False).logits, labels)
    theirs, their_grads = with_gradients(model, full)
    assert mine == pytest.approx(theirs, rel=1e-5 if dtype is torch.float32 else 1e-3)
    assert mine_grads.keys() == their_grads.keys()
    for name, grad in their_grads.items():
        apart = float((mine_grads[name] - grad).abs().max() / grad.abs().max().clamp(min=1e-12))
        assert apart < CLOSE[dtype], (name, apart)


def test_a_wrong_kernel_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(torch.float32)
    linear = head_of(model)
    head = Head(linear, linear.forward, None, lm_head.classes_of(model, linear))
    hidden, target = torch.randn(64, 128, device=DEVICE), torch.randint(0, 4096, (64,), device=DEVICE)
    wrong = lambda head, hidden, target, scale: 1.001 * chunks.summed_loss_of(head, hidden, target, scale)  # noqa: E731
    with pytest.warns(UserWarning, match="Liger's loss is not used"):
        assert not liger.is_proven(head, hidden, target, wrong)


def test_logits_take_their_memory_no_more() -> None:
    """16,384 tokens of 32k classes: 2 GiB in bf16 with their gradient, and as much again in float32."""
    model = model_of(torch.bfloat16, vocab_size=32_768)
    ids = [(37 * number) % 32_000 + 3 for number in range(16_384)]
    batch = packed_row([1024] * 16, ids)
    batch = {name: value.to(DEVICE) if hasattr(value, "to") else value for name, value in batch.items()}
    labels = batch.pop("labels")
    assert lm_head.large(model, labels.numel())
    loss_from_hidden(model, dict(batch), labels, None)  # proven and warm
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = loss_from_hidden(model, dict(batch), labels, None)
    assert loss is not None
    loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 16_384 * 32_768 * 2 * 0.6


@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
def test_the_check_tells_rounding_from_a_fault(attention: str) -> None:
    model, batch = rough().to(DEVICE), packed_row(LENGTHS, [(7 * n) % 60 + 3 for n in range(sum(LENGTHS))])
    model.set_attn_implementation(attention)
    model.config.use_cache = False
    if attention in ("eager", "sdpa"):
        batch = {name: value for name, value in batch.items() if not name.startswith(("cu_seq", "max_length"))}
    batch = {name: value.to(DEVICE) if hasattr(value, "to") else value for name, value in batch.items()}
    report = audit(model, batch, boundaries=LENGTHS)
    assert report.ok and is_rounding(report.parity), str(report)
    if attention == "varlen":
        plant_in_layer(model, 1, sorted(FAULTS)[0])
        assert not audit(model, batch, boundaries=LENGTHS).ok
