"""Layers that run document by document, on a CUDA device: ``pytest -m gpu``. Elsewhere they skip and say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from packed import packed_row

from varlen_lab.machine.gpu import gpu_facts, why_unusable
from varlen_lab.models.isolation import isolate_layers, isolated_layers, known_layers
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

WHY = why_unusable(gpu_facts())
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(WHY is not None, reason=str(WHY))]

LENGTHS = [5, 1, 70, 1, 33, 8]
# heads of 64 channels, which every kernel takes
KINDS: dict[str, dict[str, Any]] = {
    "lfm2": {"hidden_size": 256},
    "mamba2": {},
    "qwen3_next": {"head_dim": 64},
    "nemotron_h": {"head_dim": 64},
    "jamba": {"hidden_size": 256},
    "recurrent_gemma": {"hidden_size": 256, "head_dim": 64},
}
DENSE = ["lfm2", "mamba2", "recurrent_gemma"]  # experts get other numbers of tokens, which a kernel may round otherwise


@pytest.fixture(autouse=True)
def whole_fp32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """cuDNN's convolutions round fp32 to 10 bits by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield


def isolated(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    model = miniature(kind, **KINDS[kind]).to("cuda", dtype)
    return isolate_layers(model, known_layers(model))


def packed(lengths: list[int] = LENGTHS, **changes: Any) -> dict[str, Any]:
    batch = packed_row(lengths, [10 + number * 37 % 90 for number in range(sum(lengths))], **changes)
    return {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in batch.items()} | {"use_cache": False}


def measured(model: Any, batches: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Logits of all batches end to end, and the gradients of the sum of their weighted logits."""
    logits = torch.cat([model(**batch).logits[0] for batch in batches])
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((logits * weights).sum(), trained, allow_unused=True)
    return [logits.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_row_is_its_documents_alone(kind: str, training: bool) -> None:
    model, batch = isolated(kind).train(training), packed(labels=None)
    assert isolated_layers(model)
    spans = Boundaries.from_lengths(LENGTHS).spans
    alone = [{"input_ids": batch["input_ids"][:, start:end], "use_cache": False} for start, end in spans]
    mine, its = measured(model, [batch]), measured(model, alone)
    largest = max(float(gradient.abs().max()) for gradient in its[1:])
    assert float((mine[0] - its[0]).abs().max() / its[0].abs().max()) <= 1e-5
    assert max(float((a - b).abs().max()) for a, b in zip(mine[1:], its[1:], strict=True)) <= 1e-5 * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", DENSE)
def test_not_a_bit_of_other_documents_changes(kind: str, dtype: torch.dtype) -> None:
    model, batch = isolated(kind, dtype).eval(), packed(labels=None)
    other = batch | {"input_ids": batch["input_ids"].clone()}
    start, end = Boundaries.from_lengths(LENGTHS).spans[2]
    other["input_ids"][:, start:end] += 3
    with torch.no_grad():
        before, after = model(**batch).logits[0], model(**other).logits[0]
    assert torch.equal(before[:start], after[:start]) and torch.equal(before[end:], after[end:])
    assert not torch.equal(before[start:end], after[start:end])


@pytest.mark.parametrize("kind", ["lfm2", "mamba2"])
def test_in_bf16_a_row_is_its_documents_alone_up_to_rounding(kind: str) -> None:
    model, batch = isolated(kind, torch.bfloat16).eval(), packed(labels=None)
    with torch.no_grad():
        row = model(**batch).logits[0].float()
        for start, end in Boundaries.from_lengths(LENGTHS).spans:
            alone = model(input_ids=batch["input_ids"][:, start:end], use_cache=False).logits[0].float()
            assert float((row[start:end] - alone).abs().max()) <= 5e-2 * float(row.abs().max())


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_computed_again_in_another_thread_have_the_seams_of_their_call(reentrant: bool) -> None:
    """On CUDA the backward pass has a thread of its own."""
    plain, model = isolated("lfm2").train(), isolated("lfm2").train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for one in (plain, model):
        losses = [one(**packed(lengths)).loss for lengths in (LENGTHS, [40, 3, 20])]
        for loss in losses:
            loss.backward()
    for mine, its in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, its.grad, rtol=0, atol=1e-5 * float(its.grad.abs().max()))
