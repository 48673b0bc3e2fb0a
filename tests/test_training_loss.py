"""The blockwise loss is F.cross_entropy, in value and gradient, whatever the blocks; so is the one without logits."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from varlen_lab.leaks.head import head_of
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.training import chunks, from_hidden, liger, lm_head
from varlen_lab.training import loss as cross_entropy
from varlen_lab.training.loss import summed_loss
from varlen_lab.training.step import Batch, token_loss_sum


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


def packed() -> Batch:
    """Four documents in a row, some of whose tokens are not trained."""
    lengths = [5, 9, 3, 13]
    ids = torch.randint(5, 90, (sum(lengths),), generator=torch.Generator().manual_seed(1)).tolist()
    labels = [-100 if n in (0, 5, 7, 14, 17) else token for n, token in enumerate(ids)]
    inputs = VarlenCollator()([{"input_ids": ids, "labels": labels, "seq_lengths": lengths}])
    return Batch(inputs, inputs.pop("labels"), len(ids))


def both_ways(
    model: torch.nn.Module, batch: Batch, patch: pytest.MonkeyPatch
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Loss and gradients of the logits, then those from hidden states, four tokens a chunk."""
    found = []
    for budget in (10**15, 0):
        patch.setattr(lm_head, "LOGITS_BUDGET", budget)
        patch.setattr(chunks, "LOGITS_IN_A_CHUNK", {"cpu": 4 * lm_head.classes_of(model, head_of(model))})
        model.zero_grad()
        loss = token_loss_sum(model, batch)
        (loss * 0.3).backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    return found


def built(model: torch.nn.Module) -> list[str]:
    """Why a model's logits are built, if they are: an empty list says that they are not."""
    answers = from_hidden.found[lm_head.unwrapped(model)].values()
    return [one for one in answers if isinstance(one, str)]


def assert_same(model: torch.nn.Module, patch: pytest.MonkeyPatch, batch: Batch | None = None, rtol: float = 1e-6):
    (plain, expected), (mine, gradients) = both_ways(model, batch or packed(), patch)
    assert built(model) == [] and "forward" not in vars(head_of(model))
    assert plain.dtype == mine.dtype and gradients.keys() == expected.keys()
    torch.testing.assert_close(mine, plain, rtol=min(rtol, 1e-5), atol=0)
    largest = max(float(one.abs().max()) for one in expected.values())
    for name, one in expected.items():
        torch.testing.assert_close(gradients[name], one, rtol=0, atol=rtol * max(largest, 1e-6), msg=name)


@pytest.mark.parametrize("family", families())
def test_every_family_from_hidden_states(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in variants(family):
        still = {"attention_dropout": 0.0} if family == "starcoder" else {}
        still = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0} if variant == "starcoder" else still
        assert_same(tiny(family, variant, **still).eval(), monkeypatch, rtol=2e-6)


@pytest.mark.parametrize("kind", ["cohere", "granite", "nanochat", "opt", "falcon_h1"])
def test_scaled_and_capped_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = miniature(kind, "sdpa")
    batch = packed()
    assert_same(model, monkeypatch, batch._replace(inputs={"input_ids": batch.inputs["input_ids"]}), rtol=2e-6)
    assert any(tail.calls for tail in from_hidden.found[model].values() if not isinstance(tail, str))


def with_bias(model: Any) -> Any:
    model.lm_head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=True)
    return model


def in_autocast(model: Any) -> Any:
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


def with_lora(model: Any, dropout: float = 0.0) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)  # peft draws the adapter from the global generator: another one each time
    how = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": False, "lora_dropout": dropout}
    return peft.get_peft_model(model, peft.LoraConfig(r=4, **how))


def frozen(model: Any) -> Any:
    model.lm_head.requires_grad_(False)
    return model


HEADS: dict[str, tuple[Any, float]] = {
    "tied": (lambda: tiny("llama", tie_word_embeddings=True), 2e-6),
    "bias": (lambda: with_bias(tiny("llama")), 2e-6),
    "frozen": (lambda: frozen(tiny("llama")), 2e-6),
    "lora": (lambda: with_lora(tiny("llama")), 2e-6),
    "dropped in eval mode": (lambda: with_lora(tiny("llama"), 0.5).eval(), 2e-6),
    "weight norm": (lambda: (m := tiny("llama"), torch.nn.utils.parametrizations.weight_norm(m.lm_head))[0], 2e-6),
    "fp64": (lambda: tiny("llama").double(), 1e-13),
    "bf16": (lambda: tiny("llama").bfloat16(), 2e-2),
    "autocast": (lambda: in_autocast(tiny("gemma", "gemma2-9b")), 2e-2),
    "autocast norm": (lambda: in_autocast(tiny("baichuan", "baichuan2-7b")), 2e-2),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weighted", [False, True])
def test_heads(head: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, rtol = HEADS[head]
    batch = packed()
    if weighted:
        weights = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(2))
        weights[:, 9] = 0
        batch = batch._replace(weights=weights)
    assert_same(make(), monkeypatch, batch, rtol)


def test_a_batch_without_a_label_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny("llama"), packed()
    (_, expected), (loss, gradients) = both_ways(
        model, batch._replace(labels=torch.full_like(batch.labels, -100)), monkeypatch
    )
    assert float(loss) == 0 and gradients.keys() == expected.keys() and not any(map(torch.any, gradients.values()))
    with torch.no_grad():
        for one in (model, tiny("llama").eval()):  # proven in training, and in an evaluation
            assert not token_loss_sum(one, batch).requires_grad
            assert built(one) == []


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof draws nothing, leaves no gradient, and a model that fails gets its head back."""
    model, batch = with_lora(tiny("llama")), packed()
    monkeypatch.setattr(lm_head, "LOGITS_BUDGET", 0)
    norm = torch.nn.BatchNorm1d(64)  # counts what it sees
    model.base_model.model.model.norm.register_module("counting", norm)
    model.base_model.model.model.norm.register_forward_hook(lambda _module, _args, out: norm(out[0])[None])
    head, state = head_of(model), torch.get_rng_state()
    head.forward = head.forward  # as Accelerate leaves it
    mine = vars(head)["forward"]
    from_hidden.proven(model, model, batch.inputs)
    assert vars(head)["forward"] is mine and torch.equal(torch.get_rng_state(), state)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert int(norm.num_batches_tracked) == 0 and not norm.running_mean.any()
    monkeypatch.setattr(from_hidden, "best_loss", lambda *_: lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_loss_sum(model, batch)
    assert vars(head)["forward"] is mine


def test_a_loss_goes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "LOGITS_BUDGET", 0)
    loss = token_loss_sum(tiny("llama"), packed())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="earlier backward pass"):
        loss.backward()


def after_the_head(change: Any) -> Any:
    """A model that does ``change`` to its logits."""

    def make() -> Any:
        model = tiny("llama")
        run = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = run(*args, **kwargs)
            out.logits = change(out.logits, model)
            return out

        model.forward = forward
        return model

    return make


class Backwards(torch.nn.Linear):
    """A head that mixes tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.1 * x.flip(1))


def other_head(kind: type) -> Any:
    def make() -> Any:
        model = tiny("llama")
        model.lm_head.__class__ = kind
        return model

    return make


class Pairs(torch.nn.Linear):
    """A head that mixes each second token into the one before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, whole = x.clone(), x.shape[1] // 2 * 2
        mixed[:, 0:whole:2] += 0.1 * x[:, 1:whole:2]
        return super().forward(mixed)


class Unseen(torch.nn.Linear):
    """A head that nobody calls."""


def later(logits: torch.Tensor, _: Any) -> torch.Tensor:
    """From the 11th token on three times as large: of a few tokens nothing is to be seen."""
    logits = logits.clone()
    logits[:, 10:] *= 3
    return logits


def by_argument(name: str, change: Any) -> Any:
    """A model that does ``change`` to its logits with an argument it gets in a real batch only."""

    def make() -> Any:
        model = tiny("llama")
        run = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = run(*args, **kwargs)
            if kwargs.get(name) is not None:
                out.logits = change(out.logits, kwargs[name])
            return out

        model.forward = forward
        return model

    return make


def uncalled() -> Any:
    model = tiny("llama")
    made = Unseen(4, 5)
    model.get_output_embeddings = lambda: made
    return model


UNSUITED: dict[str, tuple[Any, str]] = {
    "by numpy": (after_the_head(lambda logits, _: torch.from_numpy(logits.detach().numpy() / 2)), "more goes into"),
    "places": (after_the_head(lambda logits, _: logits * torch.arange(logits.shape[1])[:, None]), "more goes into"),
    "written over": (after_the_head(lambda x, _: (x.data.__setitem__((..., 0), 9.0), x)[1]), "cannot be repeated"),
    "over all tokens": (after_the_head(lambda logits, _: logits - logits.mean(1, keepdim=True)), "would differ"),
    "a weight of its own": (after_the_head(lambda x, m: x * m.model.norm.weight[0]), "more goes into"),
    "by their length": (after_the_head(lambda x, _: x / x.shape[1] ** 0.5), "cannot be repeated"),
    "by a value": (after_the_head(lambda x, _: x / x.mean().item()), "cannot be repeated"),
    "another shape": (after_the_head(lambda x, _: x.view(x.shape[1], -1)[None] / 2), "cannot be repeated"),
    "later tokens": (after_the_head(later), "cannot be repeated"),
    "by the longest": (by_argument("max_length_q", lambda x, longest: x / longest), "not the same in every batch"),
    "by position": (by_argument("position_ids", lambda x, at: x / (1 + at[..., None])), "not the same in every batch"),
    "NaN": (after_the_head(lambda x, _: x * float("nan")), "NaN"),
    "mixes pairs": (other_head(Pairs), "would differ"),
    "mixes tokens": (other_head(Backwards), "would differ"),
    "dropout": (lambda: with_lora(tiny("llama"), 0.5).train(), "at random"),
    "never called": (uncalled, "called 0 times"),
}


@pytest.mark.parametrize("fault", UNSUITED)
def test_what_cannot_be_proven_keeps_its_logits(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, reason = UNSUITED[fault]
    model, batch = make(), packed()
    monkeypatch.setattr(lm_head, "LOGITS_BUDGET", 0)
    with pytest.warns(UserWarning, match=reason):
        torch.manual_seed(0)
        kept = token_loss_sum(model, batch).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        torch.manual_seed(0)
        assert torch.allclose(token_loss_sum(model, batch).detach(), kept, rtol=0, atol=0, equal_nan=True)
        torch.manual_seed(0)
        whole = model(**batch.inputs, use_cache=False).logits
    assert torch.allclose(summed_loss(whole, batch.labels).detach(), kept, rtol=0, atol=0, equal_nan=True)


def test_no_logits_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the budget no tensor of T x V elements exists; a byte below it the plain loss is computed, bit for bit."""
    model, batch = tiny("llama"), packed()
    classes = lm_head.classes_of(model, model.lm_head)
    size = 2 * 4 * batch.labels.numel() * classes
    monkeypatch.setattr(chunks, "LOGITS_IN_A_CHUNK", {"cpu": 4 * classes})
    largest: list[torch.Size] = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (classes,) and func is not torch.ops.aten.t.default:
                largest.append(out.shape)
            return out

    for budget, whole in ((size, True), (size - 1, False)):
        monkeypatch.setattr(lm_head, "LOGITS_BUDGET", budget)
        largest.clear()
        with Largest():
            loss = token_loss_sum(model, batch)
        assert (max(shape[:-1].numel() for shape in largest) >= batch.labels.numel()) == whole
        if whole:
            plain = summed_loss(model(**batch.inputs, use_cache=False).logits, batch.labels)
            assert torch.equal(loss, plain)


def whole(head: chunks.Head, hidden: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Stands for a fused kernel where none runs: the sum by torch's own loss."""
    return F.cross_entropy(head.module(hidden), target, reduction="sum")


def without_launch(*_: Any) -> torch.Tensor:
    raise RuntimeError("no kernel image is available\nfor this device")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    {
        "right": (whole, None),
        "mean": (lambda head, hidden, target, scale: whole(head, hidden, target, scale) / len(target), "loss"),
        "gradient": (lambda head, hidden, target, scale: whole(head, hidden, target, scale)
                     + (hidden - hidden.detach()).sum(), "gradients"),
        "detached": (lambda head, hidden, target, scale: whole(head, hidden.detach(), target, scale), "another"),
        "fails": (without_launch, "RuntimeError: no kernel image is available"),
    }.values(),
)  # fmt: skip
def test_a_fused_kernel_is_proven_or_refused_by_name(kernel: Any, reason: str | None) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 50)
    head = chunks.Head(linear, linear.forward, None, 50, tokens=7)
    hidden, target = torch.randn(100, 16), torch.randint(50, (100,))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert liger.is_proven(head, hidden, target, kernel) is (reason is None)
    assert (
        [str(one.message) for one in said] == []
        if reason is None
        else "Liger's loss is not used" in str(said[0].message) and reason in str(said[0].message)
    )
    assert linear.weight.grad is None
    # on a CPU it is not asked for
    assert liger.best_loss(head, hidden, target, weighted=False) is chunks.summed_loss_of
