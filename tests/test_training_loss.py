"""The blockwise loss is F.cross_entropy, in value and gradient, whatever the blocks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from varlen_lab.training import loss as cross_entropy
from varlen_lab.training.loss import summed_loss


def plain(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return losses.sum() if weights is None else losses @ weights[:, 1:].flatten().to(losses.dtype)


def case(
    batch: int, tokens: int, classes: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, tokens, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, tokens), generator=generator)
    labels[:, ::3] = -100
    return logits.to(dtype).requires_grad_(), labels


def test_by_hand() -> None:
    """Two tokens, classes a and b: the first position gives b three times the odds of a, and b follows."""
    logits = torch.tensor([[[0.0, math.log(3)], [5.0, 5.0]]], requires_grad=True)
    loss = summed_loss(logits, torch.tensor([[0, 1]]))
    assert float(loss) == pytest.approx(-math.log(3 / 4))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.25, -0.25], [0.0, 0.0]]]))


@pytest.mark.parametrize("block", [1, 40, 10**6])
@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 2, 1), (3, 17, 11), (1, 50, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_plain_loss(block: int, shape: tuple, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", {"cpu": block})
    logits, labels = case(*shape)
    weights = torch.rand(labels.shape, dtype=torch.float64) if weighted else None
    twin = logits.detach().clone().requires_grad_()
    mine, theirs = summed_loss(logits, labels, weights) * 0.7, plain(twin, labels, weights) * 0.7
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)
    mine.backward()
    theirs.backward()
    torch.testing.assert_close(logits.grad, twin.grad, rtol=1e-7, atol=1e-7)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits, labels = case(2, 200, 50, torch.bfloat16)
    wide = logits.detach().float().requires_grad_()
    mine, theirs = summed_loss(logits, labels), plain(wide, labels)
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    mine.backward()
    theirs.backward()
    assert logits.grad is not None and wide.grad is not None
    torch.testing.assert_close(logits.grad, wide.grad.bfloat16(), rtol=1e-2, atol=1e-6)


def test_what_is_not_trained_spoils_nothing() -> None:
    """A NaN where no label is changes neither the loss nor another token's gradient; where one is, it is seen."""
    logits, labels = case(1, 9, 5)
    clean = summed_loss(logits, labels)
    poisoned = logits.detach().clone()
    poisoned[:, 2] = float("nan")  # predicts token 3, whose label is -100
    poisoned.requires_grad_()
    loss = summed_loss(poisoned, labels)
    assert float(loss) == float(clean)
    loss.backward()
    assert poisoned.grad is not None and not poisoned.grad.isnan().any()
    poisoned = logits.detach().clone()
    poisoned[:, 3] = float("nan")
    assert summed_loss(poisoned, labels).isnan()


def test_nothing_to_train_on_is_zero() -> None:
    logits, _ = case(1, 4, 5)
    loss = summed_loss(logits, torch.full((1, 4), -100))
    loss.backward()
    assert float(loss) == 0 and logits.grad is not None and not logits.grad.any()
