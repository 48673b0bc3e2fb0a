"""The row of an audit has documents on both sides of every length a config names, or says which it has not."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from varlen_lab.errors import InputError
from varlen_lab.leaks.planting import plant
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.leaks.rows import (
    BUDGET,
    MOST_DOCUMENTS,
    MOST_POSITIONS,
    NAMES,
    audit_model,
    exercising_lengths,
    leaves,
    position_limit,
    position_table,
    shrunk_thresholds,
    thresholds,
)
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature, miniature_config

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
ORIGINAL = "original_max_position_embeddings"
PLAIN = {"rope_type": "default", "rope_theta": 1e4}

NAMED: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("llama", {}, {}),
    ("mistral", {"sliding_window": 400}, {"sliding_window": 400}),
    ("qwen2", {"sliding_window": 400, "use_sliding_window": False}, {}),
    ("gemma3_text", {"sliding_window": 512}, {"sliding_window": 512}),
    ("gemma3", {"text_config": {"sliding_window": 512}}, {"sliding_window": 512}),
    (
        "gemma3_text",
        {"sliding_window": 64, "rope_parameters": {"sliding_attention": PLAIN, "full_attention": YARN}},
        {"sliding_window": 64, "rope_parameters.full_attention.original_max_position_embeddings": 512},
    ),
    (
        "llama4_text",
        {"attention_chunk_size": 400, "floor_scale": 800},
        {"attention_chunk_size": 400, "floor_scale": 800},
    ),
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 400}, {ORIGINAL: 400}),
    ("llama", {"rope_parameters": {**PLAIN, "rope_type": "dynamic", "factor": 2.0}}, {"max_position_embeddings": 2048}),
    ("glm_moe_dsa", {"index_topk": 64}, {"index_topk": 64}),
    ("minimax_m3_vl_text", {}, {"index_block_size": 128, "index_topk_blocks": 16 * 128}),
    ("mistral", {"sliding_window": 400, "max_position_embeddings": 300}, {}),  # no document gets there
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "expected"), NAMED, ids=[f"{kind} {n}" for n, (kind, *_) in enumerate(NAMED)]
)
def test_the_lengths_that_a_config_names(kind: str, fields: dict[str, Any], expected: dict[str, int]) -> None:
    if kind == "phi3":
        fields = fields | {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 4096}
    assert thresholds(AutoConfig.for_model(kind, **fields)) == expected


NO_LENGTHS = {  # fields whose names have such words and that count layers, experts, bytes or seconds
    "max_window_layers",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "max_inference_chunksize",
    "moe_topk",
    "moe_top_k",
    "topk_group",
    "top_k",
    "centroid_intermediate_top_k",
}


@pytest.mark.slow
def test_no_class_names_a_length_that_is_not_known() -> None:
    """Over every causal language model of the installed transformers: a new name for a window is seen here first."""
    unknown, copies = {}, 0
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        try:
            config = kind()
            text = config.get_text_config(decoder=True)
        except Exception:  # there are types without a valid default
            continue
        for path, value in leaves(text.to_dict()):
            name = path.split(".")[-1]
            number = isinstance(value, int) and value > 1 and not re.match("audio|vision|image", path)
            if number and re.search("window|chunk|floor|top_?k", name) and not NAMES.search(path):
                unknown[name] = kind.model_type
        found = thresholds(config)
        with suppress(InputError):  # a class may have no tiny model
            small = miniature_config(config, **shrunk_thresholds(config, found))
            row = exercising_lengths(thresholds(small), limit=position_limit(small))
            assert not row.left and set(found) <= set(row.exercised), kind.model_type
            copies += bool(found)
    assert copies > 40 and {name: where for name, where in unknown.items() if name not in NO_LENGTHS} == {}


def test_a_table_of_positions_is_a_length_and_a_bound_of_rotary_ones_is_none() -> None:
    assert position_table(miniature("gpt2", n_positions=96)) == {"max_position_embeddings": 96}
    assert position_table(miniature("opt", max_position_embeddings=96)) == {"max_position_embeddings": 96}
    assert position_table(miniature("llama", max_position_embeddings=96)) == {}
    # positions begin behind the row of the padding, so that a document has two tokens less
    assert position_table(miniature("roberta", max_position_embeddings=96, pad_token_id=1)) == {
        "max_position_embeddings": 94
    }


FOUND = st.dictionaries(
    st.sampled_from(["sliding_window", "attention_chunk_size", "floor_scale", "index_topk", "a.b", "c"]),
    st.integers(2, 3000),
)


@given(FOUND, st.none() | st.integers(300, 4000))
def test_a_row_holds_what_it_says(found: dict[str, int], limit: int | None) -> None:
    found = {name: tokens for name, tokens in found.items() if limit is None or tokens < limit}
    row = exercising_lengths(found, limit=limit)
    assert row.exercised | row.left == found and not set(row.exercised) & set(row.left)
    assert sum(row.lengths) <= BUDGET and len(row.lengths) <= MOST_DOCUMENTS
    for name, tokens in row.exercised.items():
        assert {tokens, min(tokens + 1 + (name == "sliding_window"), limit or BUDGET)} <= set(row.lengths)
    assert max(row.lengths) <= (limit or BUDGET)
    assert max(row.lengths[:2] + row.lengths[-2:]) <= 70 and 1 in row.lengths
    everything = exercising_lengths(found, None, limit)
    assert not everything.left
    if found and max(found.values()) < BUDGET / 2 - 100:  # the smallest always fits
        assert row.exercised


def test_what_repeats_gets_a_document_of_three_parts() -> None:
    assert 801 in exercising_lengths({"attention_chunk_size": 400}).lengths
    assert 801 not in exercising_lengths({"sliding_window": 400}).lengths


def test_few_positions_make_short_documents() -> None:
    assert exercising_lengths({}, limit=20).lengths == [20, 1, 20, 20, 2, 20, 20, 18]
    assert exercising_lengths({"max_position_embeddings": 20}, limit=20).lengths.count(20) > 5


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama4_text", {}),
        ("gpt_oss", {}),
        ("cwm", {}),
        ("minimax_m3_vl_text", {}),
        ("gemma3", {"text_config": {"sliding_window": 2048}}),
        ("llama", {"rope_parameters": {**PLAIN, "rope_type": "dynamic", "factor": 2.0}}),
    ],
)
def test_a_tiny_copy_has_the_same_thresholds_each_another_few_tokens(kind: str, fields: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, **fields)
    found = thresholds(config)
    small = thresholds(miniature(config, "eager", **shrunk_thresholds(config, found)).config)
    assert set(small) == set(found)
    assert len(set(small.values())) == len(small) and max(small.values()) < 128
    assert not exercising_lengths(small).left


# ---------------------------------------------------------------------------------- what an audit of a model says


def test_a_window_in_reach_is_exercised_in_the_model_itself() -> None:
    report = audit_model(tiny("mistral", sliding_window=40))
    assert report.ok, str(report)
    assert {39, 40, 42} <= set(report.lengths)
    assert "exercised: sliding_window (40)" in report.notes


def test_a_window_out_of_reach_is_exercised_in_a_tiny_copy() -> None:
    report = audit_model(tiny("mistral", sliding_window=3000))
    assert report.ok and max(report.lengths) == 300
    assert any("tiny copy" in note and "sliding_window (16)" in note for note in report.notes)


@pytest.mark.parametrize(
    ("window", "where"), [(40, "MistralAttention"), (3000, "in a tiny copy with sliding_window (16)")]
)
def test_a_fault_that_begins_at_the_window_is_found(window: int, where: str) -> None:
    model = tiny("mistral", sliding_window=window)
    plant(FAULTS["window missing"], model, {})
    report = audit_model(model)
    assert {finding.kind for finding in report.findings} == {"window"}, str(report)
    assert "not applied" in report.findings[0].what  # and not "one too wide"
    assert where in report.findings[0].where


@pytest.mark.parametrize(
    ("kind", "table"), [("roberta", MOST_POSITIONS), ("opt", MOST_POSITIONS), ("gptj", "n_positions"), ("moshi", "")]
)
def test_a_row_is_one_that_the_model_can_take(kind: str, table: str) -> None:
    """Documents as long as its table of positions, ids that it can predict."""
    report = audit_model(miniature(kind, "eager", **({table: 80} if table else {})))
    assert report.parity.logit_scale > 0 and max(report.lengths) > 70


def test_what_no_copy_can_show_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("transformers builds no tiny mistral.")

    monkeypatch.setattr("varlen_lab.leaks.rows.tiny_copy", refuse)
    report = audit_model(tiny("mistral", sliding_window=3000))
    assert report.ok
    assert any("not exercised: sliding_window (3,000)" in note and "no tiny mistral" in note for note in report.notes)


@pytest.mark.slow
def test_long_takes_the_model_itself() -> None:
    report = audit_model(tiny("mistral", sliding_window=2100), long=True)
    assert report.ok and {2100, 2102} <= set(report.lengths)
