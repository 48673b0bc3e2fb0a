"""Whatever leaks inside a model is found by measuring and runs document by document: packing is exact, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from varlen_lab import isolate
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.planted_batches import without
from varlen_lab.leaks.planted_layers import NormOfTheRow, RunningMean, ShortConvolution
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.leaks.rows import audit_model
from varlen_lab.leaks.running import random_row
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

KINDS = ["lfm2", "mamba", "jamba", "qwen3_next", "recurrent_gemma", "rwkv", "granitemoehybrid"]
MORE = [
    "mamba2",
    "xlstm",
    "zaya",
    "minimax",
    "kimi_linear",
    "falcon_h1",
    "bamba",
    "nemotron_h",
    "olmo_hybrid",
    "zamba2",
]
OTHER = [3, 1, 1, 20, 8]  # tokens of documents that nothing was measured on
IN_LAYERS = [name for name, fault in FAULTS.items() if fault.anywhere]


def exact(model: Any, lengths: list[int] = OTHER) -> bool:
    """Whether a packed row is as its documents alone, called as anybody calls it: logits, in ``eval()``."""
    batch = without(random_row(model, lengths), "labels")
    packed = model.eval()(**batch, use_cache=False).logits[0]
    ids = batch["input_ids"]
    alone = [model(input_ids=ids[:, a:b], use_cache=False).logits[0] for a, b in Boundaries.from_lengths(lengths).spans]
    return float((packed - torch.cat(alone)).abs().max()) <= 1e-5 * float(packed.abs().max())


def state_of(model: Any) -> Any:
    """All that isolating must leave as it was."""
    return (
        [(name, one.training, len(one._forward_hooks), "forward" in vars(one)) for name, one in model.named_modules()],
        [(name, one.requires_grad, one.grad) for name, one in model.named_parameters()],
        torch.get_rng_state().tolist(),
    )


# ------------------------------------------------------------------------------------------------------ it is exact


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_a_hybrid_becomes_exact(kind: str) -> None:
    model = miniature(kind)
    assert isolate(model) is model and isolated_layers(model)
    assert exact(model) and exact(model, [7]) and exact(model, [1, 1, 1])
    assert audit(model.train(), random_row(model, OTHER) | {"use_cache": False}).ok


@pytest.mark.parametrize("name", IN_LAYERS)
def test_a_layer_that_nobody_knows_is_found(name: str) -> None:
    model, batch = specimen(FAULTS[name])
    batch = plant(FAULTS[name], model, batch)
    assert not audit(model, batch).ok
    for given in (None, batch, batch):  # once more is once
        isolate(model, given)
        assert isolated_layers(model) == ["model.layers.1.mlp.planted"]
    report = audit(model, batch)
    assert report.ok and exact(model)
    assert any(note.startswith("isolated: 1 of 2 layers (") for note in report.notes)


def test_several_layers_of_several_kinds() -> None:
    model, _ = specimen(FAULTS["recurrence"])
    for layer, mixers in zip(model.model.layers, ([ShortConvolution(), RunningMean()], [NormOfTheRow()]), strict=True):
        layer.mlp = torch.nn.Sequential(*mixers, layer.mlp)
    isolate(model)
    assert isolated_layers(model) == [f"model.layers.{place}" for place in ("0.mlp.0", "0.mlp.1", "1.mlp.0")]
    assert exact(model)


def test_a_container_that_leaks_by_itself_is_isolated_as_a_whole() -> None:
    model, _ = specimen(FAULTS["recurrence"])
    layer = model.model.layers[0]
    plain = layer.mlp.forward
    layer.mlp.forward = lambda hidden: plain(hidden) + hidden.cumsum(1)
    isolate(model)
    assert isolated_layers(model) == ["model.layers.0.mlp"] and exact(model)


# ------------------------------------------------------------------------------------------- and nothing else changes


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "qwen3_moe"])
def test_a_model_without_such_layers_is_unchanged(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.leaks import isolating

    monkeypatch.setattr(isolating, "measured_layers", lambda *given: pytest.fail("it was clean"))
    model = miniature(kind).train()
    before = state_of(model)
    assert isolate(model) is model and state_of(model) == before and isolated_layers(model) == []


@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_and_random_state_stay(training: bool) -> None:
    model = miniature("lfm2").train(training)
    model.model.embed_tokens.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    weights = {name: one.clone() for name, one in model.state_dict().items()}
    _, gradients, random = state_of(model)
    isolate(model)
    modules, after, now = state_of(model)
    assert now == random and {mode for _, mode, *_ in modules} == {training}
    assert [one[:2] for one in after] == [one[:2] for one in gradients]
    assert all(one is two or one.equal(two) for (*_, one), (*_, two) in zip(after, gradients) if one is not None)
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())


# --------------------------------------------------------------------------------------------------- around the model


def test_inside_peft() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(miniature("lfm2"), peft.LoraConfig(r=2, target_modules=["in_proj", "q_proj"]))
    isolate(model)
    assert len(isolated_layers(model)) == 1 and exact(model)


def test_a_wrapper_that_came_later_is_told_when_it_is_isolated_again() -> None:
    peft = pytest.importorskip("peft")
    model = isolate(miniature("lfm2"))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert exact(isolate(wrapped))


def test_inside_ddp_and_a_module_of_ones_own(tmp_path: Any) -> None:
    class Around(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.module = model

        def forward(self, **batch: Any) -> Any:
            return self.module(**batch)

    inner = miniature("lfm2")
    isolate(Around(inner))
    assert exact(inner)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(miniature("mamba"))
        isolate(model)
        assert exact(model.module)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_compiled() -> None:
    model = torch.compile(miniature("lfm2"), backend="eager")
    isolate(model)
    assert isolated_layers(model) and exact(model)


# ----------------------------------------------------------------------------------------------------- of what batch


def test_several_rows() -> None:
    """Seams run through all rows: the last document of a row ends with it."""
    model, lengths = miniature("lfm2"), [5, 1, 10, 16]
    batch = {
        k: x.view(2, 16) if x.shape == (1, 32) else x
        for k, x in without(random_row(model, lengths), "max_length_q", "max_length_k").items()
    }
    isolate(model, batch)
    assert isolated_layers(model) and exact(model)


def test_a_batch_without_a_seam_says_nothing_so_that_a_row_is_made() -> None:
    model = miniature("lfm2")
    isolate(model, random_row(model, [30]))
    assert isolated_layers(model) and exact(model)


def test_of_a_large_batch_a_few_documents_are_measured() -> None:
    model = miniature("lfm2")
    isolate(model, random_row(model, [40, 3] * 60))
    assert isolated_layers(model) and exact(model)


def test_labels_at_a_border_are_a_matter_of_the_batch() -> None:
    model = miniature("lfm2")
    batch = random_row(model, LENGTHS)
    isolate(model, batch | {"labels": batch["input_ids"].clone()})
    assert isolated_layers(model)


def test_without_seams_in_the_batch_a_sentence_says_so() -> None:
    model = miniature("lfm2", "sdpa")
    batch = {"input_ids": torch.arange(10, 40)[None], "use_cache": False}
    batch["position_ids"] = Boundaries.from_lengths([12, 18]).position_ids()[None]
    with pytest.raises(InputError, match="Lfm2ShortConv of layer 1 of Lfm2ForCausalLM leaks, and runs"):
        isolate(model, batch)
    assert isolated_layers(model) == []
    assert isolate(miniature("llama", "sdpa"), batch)  # exact as it is


# ------------------------------------------------------------------------------------------------- what stays refused


@pytest.mark.parametrize("other", ["bidirectional", "merged documents", "scale dropped", "keywords dropped"])
def test_what_is_not_made_exact_is_left_as_it_was_and_said(other: str) -> None:
    fault = FAULTS[other]
    model, batch = specimen(fault)
    batch = plant(fault, model, batch)
    plant(FAULTS["short convolution"], model, batch)
    before = state_of(model)
    with pytest.raises(LeakFound, match="running layers document by document does not make it exact") as found:
        isolate(model, batch)
    assert set(fault.expected) & {line.removeprefix("✗ ").split(",")[0] for line in str(found.value).splitlines()}
    assert state_of(model) == before and isolated_layers(model) == []


def test_what_was_isolated_before_stays_so_when_the_rest_fails() -> None:
    model, batch = specimen(FAULTS["bidirectional"])
    plant(FAULTS["recurrence"], model, batch)
    isolate(model, batch)
    model.model.layers[0].mlp = torch.nn.Sequential(ShortConvolution(), model.model.layers[0].mlp)
    batch = plant(FAULTS["bidirectional"], model, batch)
    with pytest.raises(LeakFound):
        isolate(model, batch)
    assert isolated_layers(model) == ["model.layers.1.mlp.planted"]


def test_an_interrupt_undoes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.leaks import isolating

    model, real = miniature("lfm2"), isolating.checked_clean

    def interrupted(model: Any, *given: Any) -> Any:
        if isolated_layers(model):
            raise KeyboardInterrupt
        return real(model, *given)

    monkeypatch.setattr(isolating, "checked_clean", interrupted)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        isolate(model)
    assert state_of(model) == before and isolated_layers(model) == []


def test_weights_that_are_not_there_or_no_numbers() -> None:
    model = miniature("lfm2")
    with pytest.raises(InputError, match="no weights yet"):
        isolate(model.to("meta"))
    model = miniature("lfm2")
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="NaN") as found:
        isolate(model)
    assert not isinstance(found.value, LeakFound) and isolated_layers(model) == []


# ------------------------------------------------------------------------------------------------------- in an audit


def test_an_audit_of_a_model_says_what_is_isolated_or_how_to() -> None:
    report = audit_model(miniature("lfm2").train())
    assert report.ok and any("Lfm2ShortConv run document by document" in note for note in report.notes)
    report = audit_model(miniature("lfm2").train(), isolate=False)
    assert [finding.kind for finding in report.findings] == ["recurrent layer"]
    assert "isolate(model) runs it document by document" in report.findings[0].fix
