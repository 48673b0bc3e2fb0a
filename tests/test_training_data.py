"""Which rows make a step: every row once an epoch, and the same documents in all modes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.studies.comparison import unpacked_batches
from varlen_lab.training.data import load_rows, load_tokenizer
from varlen_lab.training.plan import plan_steps
from varlen_lab.training.step import batched, collator

TEMPLATE = named_config("tiny_llama_full_docstrings_e1")


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 5),
    each=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_epoch_sees_every_row_once(rows: int, batch: int, each: int, epochs: int, seed: int) -> None:
    steps = plan_steps(
        rows, TEMPLATE.replace(batch_size=batch, accumulative_counts=each, max_epochs=epochs, seed=seed, max_steps=None)
    )
    counts = Counter(row for step in steps for one in step for row in one)
    assert counts == dict.fromkeys(range(rows), epochs)
    assert all(1 <= len(step) <= each and all(1 <= len(one) <= batch for one in step) for step in steps)


@given(rows=st.integers(1, 20), steps=st.integers(1, 50))
def test_max_steps_is_exact_and_repeats_the_data_if_it_must(rows: int, steps: int) -> None:
    plan = plan_steps(rows, TEMPLATE.replace(accumulative_counts=3, max_steps=steps))
    assert len(plan) == steps
    counts = Counter(row for step in plan for one in step for row in one)
    assert max(counts.values()) - min(counts.get(row, 0) for row in range(rows)) <= 1


def test_the_plan_is_fixed_by_the_seed() -> None:
    config = TEMPLATE.replace(seed=3)
    assert plan_steps(50, config) == plan_steps(50, config)
    assert plan_steps(50, config) != plan_steps(50, config.replace(seed=4))


def documents_of(batches: list) -> Counter:
    """The trained tokens of a step as a multiset of (token) ids, whatever the layout."""
    return Counter(int(label) for batch in batches for label in batch.labels.flatten() if label != -100)


def test_a_step_trains_on_the_same_tokens_in_all_modes(small: Config) -> None:
    config = small.with_mode("varlen")
    rows, report = load_rows(config, load_tokenizer(config))
    steps = plan_steps(len(rows), config)
    varlen = list(batched(rows, steps, collator("varlen", 0)))
    packed = list(batched(rows, steps, collator("packed", 0)))
    unpacked = list(unpacked_batches(rows, steps, 0, seed=0))
    assert report.documents == 40 and len(varlen) == 3
    for one, two, three in zip(varlen, packed, unpacked):
        assert documents_of(one) == documents_of(two) == documents_of(three)
        assert sum(b.tokens for b in one) == sum(b.tokens for b in two) == sum(b.tokens for b in three)
    assert any(batch.labels.numel() > batch.tokens for batch in unpacked[0])


def test_workers_give_the_same_batches(small: Config) -> None:
    config = small.with_mode("varlen")
    rows, _ = load_rows(config, load_tokenizer(config))
    steps = plan_steps(len(rows), config)
    alone, helped = (list(batched(rows, steps, collator("varlen", 0), workers)) for workers in (0, 1))
    for one, two in zip(alone, helped, strict=True):
        assert all((a.labels == b.labels).all() for a, b in zip(one, two, strict=True))


def test_all_labels_masked_is_refused(small: Config) -> None:
    config = small.replace(max_length=2)
    with pytest.raises(InputError, match="every label"):
        load_rows(config, load_tokenizer(config))


def test_a_stand_in_gets_the_builtin_tokenizer_and_another_vocabulary_does_not(tmp_path, small: Config) -> None:
    tiny("qwen").save_pretrained(tmp_path / "fits")  # a type transformers makes an empty tokenizer for
    tiny("llama", vocab_size=100).save_pretrained(tmp_path / "other")
    assert (
        len(load_tokenizer(small.replace(pretrained_model_name_or_path=str(tmp_path / "fits"), model_config=None)))
        == 2048
    )
    with pytest.raises(InputError, match=r"tokenizer\.save_pretrained"):
        load_tokenizer(small.replace(pretrained_model_name_or_path=str(tmp_path / "other"), model_config=None))


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(small: Config) -> None:
    config = small.replace(model_config=small.model_config | {"vocab_size": 2047})
    with pytest.raises(InputError, match=r"vocab_size 2047, .* writes 2,048 tokens"):
        load_tokenizer(config)
    assert len(load_tokenizer(small)) == 2048
