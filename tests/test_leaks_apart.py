"""Leaks by groups of documents are those of every document by itself, and a large model's parity is a small one's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import packed_row
from planted import plant_in_layer

from varlen_lab.leaks import head, measure, sampling
from varlen_lab.leaks.apart import ThinTransposes, groups, who_hears_whom
from varlen_lab.leaks.measure import future_gradient, leak_matrix, parity
from varlen_lab.leaks.running import inputs_of, logits_of, noise_off, run, weights_frozen
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

LENGTHS = [3, 1, 4, 1, 5, 2, 1, 6, 2]


def row_by_row(model: Any, batch: dict[str, Any], documents: Boundaries) -> tuple[torch.Tensor, float]:
    with weights_frozen(model):
        logits, embedded = logits_of(model, batch)
    return leak_matrix(logits, embedded, documents), future_gradient(logits, embedded, documents)


def plant(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What ``change`` makes of the first layer's attention, (1, T, C), is what comes out of it."""
    attention = model.model.layers[0].self_attn
    attention.register_forward_hook(lambda module, given, out: (change(out[0]), *out[1:]))


def carried(source: int, target: int, by: float = 1e-3) -> Callable[[torch.Tensor], torch.Tensor]:
    """One channel of one token goes to one token elsewhere in the row."""

    def change(x: torch.Tensor) -> torch.Tensor:
        moved = torch.zeros_like(x)
        moved[:, target, 0] = by * x[:, source, 1]
        return x + moved

    return change


def is_the_same(model: Any, lengths: list[int]) -> torch.Tensor:
    """The leak matrix of ``who_hears_whom``, held against that of every document by itself."""
    batch, documents = packed_row(lengths), Boundaries.from_lengths(lengths)
    with noise_off(model):
        found, (leaks, future) = who_hears_whom(model, batch, documents), row_by_row(model, batch, documents)
    assert torch.equal(found.leaks, leaks) and found.future == future
    return found.leaks


def test_every_ordered_pair_is_told_apart_by_some_group() -> None:
    for number in range(1, 70):
        found = [set(group) for group in groups(number)]
        assert len(found) <= 2 * math.ceil(math.log2(number))
        for i in range(number):
            assert all(any(i in group and j not in group for group in found) for j in range(number) if j != i)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 9])
def test_what_one_document_hears_is_found_wherever_it_is(number: int) -> None:
    lengths = LENGTHS[:number]
    assert not is_the_same(tiny("llama"), lengths).any()
    starts = Boundaries.from_lengths(lengths).cu_seqlens.tolist()
    pairs = [(i, j) for i in range(number) for j in range(number) if i != j]
    for i, j in pairs[:: max(1, len(pairs) // 6)]:  # backwards in the row and forwards
        model = tiny("llama")
        plant(model, carried(starts[j], starts[i]))
        assert is_the_same(model, lengths).nonzero().tolist() == [[i, j]]


@pytest.mark.parametrize(
    "lengths", [[4, 4], [1, 1, 1], [1, 7, 2, 1, 3]], ids=["two", "documents of a token", "of several lengths"]
)
@pytest.mark.parametrize("fault", ["seam", "leak"])
def test_faults_of_attention_are_measured_as_they_were(fault: str, lengths: list[int]) -> None:
    model = tiny("llama")
    plant_in_layer(model, 1, fault)
    assert is_the_same(model, lengths).any()


def test_tokens_that_a_linear_layer_mixes_are_found() -> None:
    model, mix = tiny("llama"), torch.nn.Linear(8, 8)
    with torch.no_grad():
        mix.weight.copy_(torch.eye(8))
        mix.weight[5, 2] = 1e-6  # tokens of the second document, and of the first
    plant(model, lambda x: mix(x.transpose(1, 2)).transpose(1, 2))
    assert is_the_same(model, [4, 4]).nonzero().tolist() == [[1, 0]]


def test_what_is_multiplied_by_zero_is_no_leak() -> None:
    model, mix = tiny("llama"), torch.nn.Linear(8, 8, bias=False)
    torch.nn.init.zeros_(mix.weight)
    plant(model, lambda x: x + mix(x.transpose(1, 2)).transpose(1, 2))
    assert not is_the_same(model, [4, 4]).any()  # the way is there, so every document was asked


def test_a_difference_of_two_layers_does_not_cancel_out() -> None:
    model, one, other = tiny("llama"), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def change(x: torch.Tensor) -> torch.Tensor:
        heard = x.roll(1, 1)[..., :1].expand(-1, -1, 64)
        return x + 1e-3 * (one(heard) - other(heard))[..., : x.shape[-1]]

    plant(model, change)
    assert is_the_same(model, [4, 4]).any()


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_done_to_some_logits_behind_the_head_is_found(inplace: bool) -> None:
    model = tiny("llama")

    def change(module: Any, given: Any, output: Any) -> Any:
        logits = output.logits if inplace else output.logits.clone()
        logits[:, 4:, 100:200] += 1e-3 * logits[:, :-4, 100:200].clone()  # of the sums of a narrow head there are 16
        output.logits = logits
        return output

    model.register_forward_hook(change)
    assert is_the_same(model, [4, 4]).nonzero().tolist() == [[1, 0]]


def test_later_tokens_of_a_document_are_found() -> None:
    model = tiny("llama")
    plant(model, carried(7, 4))
    batch, documents = packed_row([4, 4]), Boundaries.from_lengths([4, 4])
    found = who_hears_whom(model, batch, documents)
    assert not found.leaks.any() and found.future == row_by_row(model, batch, documents)[1] > 0


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral", "gpt2"])
def test_another_way_back_changes_nothing_forth(kind: str) -> None:
    model, batch = miniature(kind), packed_row([5, 1, 4])
    with weights_frozen(model):
        plain = logits_of(model, batch)[0]
        with ThinTransposes():
            assert torch.equal(logits_of(model, batch)[0], plain)
    assert not is_the_same(model.eval(), [5, 1, 4]).any()


@pytest.fixture
def counted_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is measured as a large one is: logits in parts, gradients in columns."""
    monkeypatch.setattr(measure, "LARGE", 0)
    monkeypatch.setattr(sampling, "LARGE", 0)
    monkeypatch.setattr(sampling, "SMALL", 0)
    monkeypatch.setattr(head, "AT_ONCE", 2000)  # a few tokens at once


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "mixtral"])  # gemma2: a cap behind its head
@pytest.mark.parametrize("fault", [None, "scale", "seam"])
def test_the_parity_of_a_large_model_is_that_of_a_small_one(
    kind: str, fault: str | None, request: pytest.FixtureRequest
) -> None:
    model = miniature(kind)
    if fault:
        plant_in_layer(model, 0, fault)
    batch, documents = packed_row([9, 1, 14, 5]), Boundaries.from_lengths([9, 1, 14, 5])
    whole = parity(model, batch, documents)
    request.getfixturevalue("counted_large")
    few = parity(model, batch, documents)
    assert whole.sampled == 0 < few.sampled and all(parameter.requires_grad for parameter in model.parameters())
    close = pytest.approx(whole.logits, rel=1e-3, abs=1e-5)
    assert few.logits == close and few.loss == pytest.approx(whole.loss, rel=1e-3, abs=1e-5)
    assert few.logit_scale == pytest.approx(whole.logit_scale, rel=1e-5)
    assert few.gradients <= whole.gradients * 1.001 + 1e-6
    assert few.within(1e-5) == whole.within(1e-5) == (fault is None)
    if fault:
        assert few.gradients > whole.gradients / 100  # columns show it too


def test_nan_in_logits_is_no_difference_of_zero() -> None:
    model = tiny("llama").eval()
    with torch.no_grad():
        model.lm_head.weight[7] = math.nan
    found = parity(model, packed_row([4, 4]), Boundaries.from_lengths([4, 4]))
    assert found.has_nan and math.isnan(found.logits)


class Transposed(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


@pytest.mark.usefixtures("counted_large")
def test_a_layer_that_multiplies_otherwise_is_compared_whole() -> None:
    model = miniature("llama")
    attention = model.model.layers[0].self_attn
    weight = attention.q_proj.weight
    attention.q_proj = Transposed(*reversed(weight.shape), bias=False)
    attention.q_proj.weight = weight
    with sampling.sampled_gradients(model) as (asked, _):
        gradients = torch.autograd.grad(
            run(model, inputs_of(packed_row([9, 5]))).square().sum(), asked, allow_unused=True
        )
    assert any(one is weight for one in asked) and all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.usefixtures("counted_large")
def test_columns_of_gradients_are_those_of_the_whole(kind: str) -> None:
    model, batch = miniature(kind), packed_row([9, 1, 14])
    weights = dict(model.named_parameters())
    whole = torch.autograd.grad(run(model, inputs_of(batch)).square().sum(), list(weights.values()))
    with sampling.sampled_gradients(model) as (asked, sampled):
        found = torch.autograd.grad(run(model, inputs_of(batch)).square().sum(), asked)
    assert sampled > 0 and all(weight.requires_grad for weight in weights.values())
    for gradient in found:  # every one is a gradient, or columns of one
        near = [
            one
            for one in whole
            if len(one) == len(gradient)
            and all(
                torch.isclose(one.reshape(len(one), -1), column[:, None], rtol=1e-3, atol=1e-4).all(0).any()
                for column in gradient.reshape(len(gradient), -1).T
            )
        ]
        assert near
