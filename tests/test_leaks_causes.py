"""Every attention call is examined: what is wrong is named with its layers, what cannot be examined is said."""

from __future__ import annotations

import pytest
import torch
from expect import within
from packed import packed_row
from transformers import AttentionInterface, AttentionMaskInterface

from varlen_lab.attention.huggingface import attention_of, register
from varlen_lab.attention.masks import varlen_mask
from varlen_lab.leaks import causes
from varlen_lab.leaks.causes import explain
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.planted_attention import misled
from varlen_lab.leaks.planting import LENGTHS, plant, specimen
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.leaks.report import grouped
from varlen_lab.leaks.running import noise_off
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

DOCUMENTS = Boundaries.from_lengths(LENGTHS)
LONG = [5, 40, 17, 1, 33]  # beyond the windows and chunks of 16 tokens of a miniature


def packed(lengths: list[int]) -> dict:
    ids = torch.randint(10, 100, (sum(lengths),), generator=torch.Generator().manual_seed(0)).tolist()
    return packed_row(lengths, ids)


def native(lengths: list[int], **changes) -> dict:
    batch = packed(lengths)
    return {name: batch[name] for name in ("input_ids", "labels", "position_ids")} | {"use_cache": False} | changes


def explained(model, batch, lengths):
    with noise_off(model):
        return explain(model, batch, Boundaries.from_lengths(lengths))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("gemma2", {}),  # softcap and windows
        ("phimoe", {}),  # a window that lives in the mask alone
    ],
)
def test_what_stock_attention_does_rightly_is_called_right(kind: str, changes: dict) -> None:
    model = miniature(kind, "eager", **changes)
    found = explained(model, native(LONG), LONG)
    layers = model.config.num_hidden_layers
    assert found.findings == [] and found.unexamined == [] and found.right == layers, found


def test_chunks_are_known() -> None:
    """Some versions of transformers count the chunks of stock attention from the start of the row, others rightly."""
    found = explained(miniature("llama4_text", "eager"), native(LONG), LONG)
    assert found.unexamined == [] and found.right + len(found.findings) == 2
    assert all(one.kind == "chunk" and "start of the row" in one.what for one in found.findings)
    model = miniature("llama4_text", "varlen", floor_scale=8192)
    assert explained(model, packed(LONG), LONG).right == 2


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "phimoe", "llama4_text", "llama"])
def test_seams_that_are_ignored_are_told_apart_from_windows_and_chunks(kind: str) -> None:
    found = explained(miniature(kind, "eager"), native(LONG, position_ids=torch.arange(sum(LONG))[None]), LONG)
    assert {finding.kind for finding in found.findings} == {causes.IGNORES_SEAMS} and found.right == 0, found


def test_a_seam_missing_in_layer_10_alone_is_seen_and_named() -> None:
    model = miniature("llama", "varlen", num_hidden_layers=12)
    assert audit(model, packed(LENGTHS)).ok

    def forget(module, options):
        seams = options["cu_seq_lens_q"]
        return options | {"cu_seq_lens_q": seams[[0, -1]], "max_length_q": None} if module.layer_idx == 10 else options

    misled(model, "layer_10", forget)
    report = audit(model, packed(LENGTHS))
    (finding,) = report.findings
    assert finding.kind == causes.IGNORES_SEAMS and finding.where == "LlamaAttention of layer 10", str(report)


def test_several_seams_missing_are_all_named() -> None:
    model, batch = specimen(FAULTS["merged documents"])

    def merge(_, options):
        return options | {"cu_seq_lens_q": options["cu_seq_lens_q"][[0, 2, 3, 5]], "max_length_q": None}

    misled(model, "two_seams", merge)
    (finding,) = audit(model, batch).findings
    assert finding.kind == "merged documents" and "1 (from token 5), 4 (from token 32)" in finding.what


def test_a_leak_of_one_head_below_rounding_is_not_called_right() -> None:
    def planted(module, query, key, value, mask, **options):
        out, weights = attention_of("auto")(module, query, key, value, mask, **options)
        if options.get("cu_seq_lens_q") is not None and module.layer_idx == 1:
            before = torch.nn.functional.pad(value[:, 0], (0, 0, 1, 0))[:, :-1]  # the value of the token before
            out = torch.cat([out[:, :, :1], out[:, :, 1:2] + 1e-6 * before[:, :, None], out[:, :, 2:]], dim=2)
        return out, weights

    register()
    AttentionInterface.register("planted_small", planted)
    AttentionMaskInterface.register("planted_small", varlen_mask)
    report = audit(miniature("llama", "planted_small", num_hidden_layers=3), packed(LONG))
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("wrong attention", "LlamaAttention of layer 1")
    assert "has a gradient at keys or values of another document" in finding.what
    assert report.parity.logits < 1e-4


def test_calls_that_cannot_be_examined_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then no sentence says that every call was right."""
    model, batch = specimen(FAULTS["norm of the row"])
    batch = plant(FAULTS["norm of the row"], model, batch)
    report = audit(model, batch)
    assert not any("not examined" in note for note in report.notes)
    monkeypatch.setattr(causes, "LONGEST", 10)
    report = audit(model, batch)
    assert "not examined: LlamaAttention of layers 0, 1 (a document is longer than 10 tokens)" in report.notes
    assert "every one" not in str(report)


def test_a_keyword_that_spans_the_row_and_is_not_understood_is_said() -> None:
    model = miniature("llama", "eager")
    for layer in model.model.layers:
        attend = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, attend=attend, **more: attend(
            *args, **more, indices=torch.arange(more["position_ids"].shape[-1])
        )
    found = explained(model, native(LENGTHS), LENGTHS)
    assert found.right == 0
    assert found.unexamined == ["LlamaAttention of layers 0, 1 (keyword indices is not understood)"]


def test_layers_are_named_in_ranges() -> None:
    assert grouped("A", ["h.7.attn"]) == "A of layer 7"
    assert grouped("A", [f"h.{n}.attn" for n in (0, 1, 3)]) == "A of layers 0, 1, 3"
    assert grouped("A", [f"h.{n}.attn.2" for n in (5, 0, 1, 2)]) == "A of layers 0-2, 5"
    assert grouped("A", ["norm"]) == "A"


def test_many_layers_and_documents_are_explained_in_seconds() -> None:
    model = miniature("llama", "sdpa", num_hidden_layers=8, max_position_embeddings=1024)
    lengths = [50] * 20
    with within(20):
        found = explained(model, native(lengths, position_ids=torch.arange(1000)[None]), lengths)
    assert found.findings[0].where == "LlamaAttention of layers 0-7"


def test_causal_where_the_class_is_bidirectional_is_named() -> None:
    model = miniature("bert", "varlen", is_decoder=False)
    assert audit(model, packed(LENGTHS)).ok
    misled(model, "one_way", lambda _, options: options | {"is_causal": True})
    (finding,) = audit(model, packed(LENGTHS)).findings
    assert finding.kind == "causal" and finding.where == "BertSelfAttention of layers 0, 1"


def test_slopes_are_known_to_the_oracle() -> None:
    """ALiBi: eager attention would not see the slopes, so documents alone keep our attention, and its mask."""
    model, batch = tiny("baichuan", "baichuan-13b"), packed(LENGTHS)
    assert audit(model, batch).ok
    assert explained(model, batch, LENGTHS).right == model.config.num_hidden_layers

    def merge(_, options):
        return options | {"cu_seq_lens_q": options["cu_seq_lens_q"][[0, 2, 3, 4, 5]], "max_length_q": None}

    misled(model, "slopes", lambda module, options: merge(module, options) | {"cu_seq_lens_k": None})
    (finding,) = audit(model, batch).findings
    assert finding.kind == "merged documents" and "1 (from token 5)" in finding.what
