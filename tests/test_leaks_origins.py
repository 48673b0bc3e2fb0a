"""Where no gradient crosses a seam and attention is right, the module in which the difference begins is named."""

from __future__ import annotations

import pytest
import torch
from test_leaks_causes import LONG, native, packed

from varlen_lab.leaks import registry
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.origins import origins
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import noise_off
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

LONGROPE = registry.LONGROPE | {"original_max_position_embeddings": 32}
MIXED = {
    "dynamic": ("llama", {"rope_parameters": registry.DYNAMIC, "max_position_embeddings": 32}),
    "longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32, "max_position_embeddings": 256},
    ),
}


def only(model, batch, lengths=LONG) -> Finding:
    report = audit(model, batch, boundaries=lengths)
    (finding,) = report.findings
    return finding


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("kind", MIXED)
def test_rope_that_is_chosen_by_the_longest_document_is_named(kind: str, attention: str) -> None:
    name, config = MIXED[kind]
    model = miniature(name, attention, **config)
    batch = packed if attention == "varlen" else native
    finding = only(model, batch(LONG))
    assert finding.kind == "rope scaling" and f"rope_type '{kind}'" in finding.where
    assert "RotaryEmbedding" in finding.where and "longer than 32 tokens" in finding.fix
    # as the fix says: short documents in a row of theirs, a long one in a row of its own
    assert audit(model, batch([5, 30, 1, 20])).ok and audit(model, batch([60])).ok


def test_documents_alone_do_not_depend_on_what_ran_before() -> None:
    """Dynamic rope keeps the frequencies of the longest row so far: each run is measured as the first."""
    name, config = MIXED["dynamic"]
    model = miniature(name, "varlen", **config)
    first = audit(model, packed(LONG))
    assert first.parity == audit(model, packed(LONG)).parity
    assert model.model.rotary_emb.max_seq_len_cached == 32


def test_positions_that_run_on_in_a_model_with_a_table_of_positions() -> None:
    model = miniature("gpt2", "varlen")
    assert audit(model, packed(LONG)).ok
    finding = only(model, packed(LONG) | {"position_ids": torch.arange(sum(LONG))[None]})
    assert finding.kind == "position_ids not restarted" and "start again at 0" in finding.fix


def test_positions_that_do_not_start_where_the_class_starts() -> None:
    finding = only(miniature("roberta", "varlen"), packed(LONG))
    assert finding.kind == "position_ids offset" and "pad_token_id + 1" in finding.fix


def test_what_counts_along_the_row_is_named_with_its_layer() -> None:
    """Llama 4 scales the queries of layers without rope by their place in the row."""
    finding = only(miniature("llama4_text", "eager", attention_chunk_size=256), native(LONG))
    assert finding.kind == "depends on the row" and finding.where == "Llama4TextAttention of layer 1"
    finding = only(miniature("bart", "varlen"), packed(LONG))
    assert finding.kind == "depends on the row" and finding.where == "BartLearnedPositionalEmbedding"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma3_text", "phi3"])
def test_a_model_that_is_right_has_no_origin(kind: str) -> None:
    model, batch = miniature(kind, "varlen"), packed(LONG)
    with noise_off(model):
        assert origins(model, batch, Boundaries.from_lengths(LONG)) == []


def test_half_precision_is_not_taken_for_an_origin() -> None:
    name, config = MIXED["longrope"]
    model = miniature(name, "varlen", **config).bfloat16()
    assert audit(model, packed([5, 30, 1, 20])).ok
    assert only(model, packed(LONG)).kind == "rope scaling"


def test_two_rows() -> None:
    name, config = MIXED["dynamic"]
    batch = native(LONG)
    batch = {k: v.view(2, -1) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    lengths = [5, 40, 3, 14, 1, 33]
    batch["position_ids"] = Boundaries.from_lengths(lengths).position_ids().view(2, -1)
    assert only(miniature(name, "sdpa", **config), batch, lengths).kind == "rope scaling"
