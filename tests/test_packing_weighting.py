"""What a token counts: each choice against its definition, by hand, over rows, accumulation and collators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.models.building import build_model, tiny
from varlen_lab.packing.collators import token_weights
from varlen_lab.packing.registry import WEIGHTINGS
from varlen_lab.studies.comparison import compare
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.step import Batch, collator, optimize

# Two rows. Trained tokens (the first of a document never is, and -100 never is): 3 + 1, and 2.
ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [5, 6, 7, 8, -100, 10], "seq_lengths": [4, 2]},
    {"input_ids": [11, 12, 13, 14], "labels": [-100, 12, 13, -100], "seq_lengths": [4]},
]
BY_HAND = {
    "token": [[0, 1, 1, 1, 0, 1], [0, 1, 1, 0]],
    "sample": [[0, 1 / 3, 1 / 3, 1 / 3, 0, 1], [0, 1 / 2, 1 / 2, 0]],
    "pack": [[0, 1 / 4, 1 / 4, 1 / 4, 0, 1 / 4], [0, 1 / 2, 1 / 2, 0]],
}
BY_HAND["longalign"] = BY_HAND["sample"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_the_ones_written_down(weighting: str) -> None:
    for row, expected in zip(ROWS, BY_HAND[weighting], strict=True):
        assert token_weights(row, weighting) == pytest.approx(expected)


def test_a_document_that_trains_on_nothing_weighs_nothing() -> None:
    row = {"input_ids": [5, 6, 7], "labels": [-100] * 3, "seq_lengths": [1, 2]}
    for weighting in WEIGHTINGS:
        assert not token_weights(row, weighting).any()


@pytest.mark.parametrize("mode", ["unpacked", "packed", "varlen"])
@pytest.mark.parametrize("weighting", ["sample", "pack"])
def test_weights_land_where_the_labels_do(mode: str, weighting: str) -> None:
    batch = Batch.of(ROWS, collator(mode, 0), weighting)
    assert batch.weights is not None and batch.weights.shape == batch.labels.shape
    assert torch.equal(batch.weights > 0, batch.labels != -100)
    found = {int(label): float(w) for label, w in zip(batch.labels.flatten(), batch.weights.flatten()) if w}
    expected = {row["input_ids"][i]: w for row, ws in zip(ROWS, BY_HAND[weighting]) for i, w in enumerate(ws) if w}
    assert found == pytest.approx(expected)


def nll() -> dict[int, float]:
    """The loss of each trained token, every document alone, by its token id."""
    model, found = tiny("llama", seed=0), {}
    for row in ROWS:
        start = 0
        for length in row["seq_lengths"]:
            ids = row["input_ids"][start : start + length]
            logits = model(torch.tensor([ids])).logits.detach().log_softmax(-1)[0]
            for place in range(1, length):
                if row["labels"][start + place] != -100:
                    found[ids[place]] = -float(logits[place - 1, ids[place]])
            start += length
    return found


def definition(weighting: str) -> float:
    """Each written out on its own terms, not through weights."""
    loss = nll()
    documents = [[6, 7, 8], [10], [12, 13]]
    rows = [[6, 7, 8, 10], [12, 13]]
    if weighting == "token":
        return float(np.mean(list(loss.values())))
    groups = rows if weighting == "pack" else documents
    if weighting == "longalign":  # mean over packs of the sum over a pack of K / (M * N_i) * loss_i
        k, m = len(rows), len(documents)
        packs = [documents[:2], documents[2:]]
        return sum(sum(k / (m * len(d)) * sum(loss[t] for t in d) for d in pack) for pack in packs) / k
    return float(np.mean([np.mean([loss[token] for token in group]) for group in groups]))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("together", [True, False])
def test_the_loss_of_a_step_is_the_definition(weighting: str, together: bool, small: Config) -> None:
    """Whether the two rows are one batch or are accumulated."""
    config = small.with_mode("varlen").replace(optim_type="SGD", lr=0.1, warmup_ratio=0.0)
    engine = make_engine(tiny("llama", seed=0), config, 2, make_accelerator(config))
    groups = [ROWS] if together else [[row] for row in ROWS]
    batches = [Batch.of(group, collator("varlen", 0), weighting) for group in groups]
    record = next(iter(optimize(engine, [batches])))
    assert record["loss"] == pytest.approx(definition(weighting), rel=1e-5)
    assert record["trained_tokens"] == 6 and record["sum_squared_lengths"] == 16 + 4 + 16


def test_the_choices_differ() -> None:
    values = {weighting: definition(weighting) for weighting in WEIGHTINGS}
    assert values["longalign"] == pytest.approx(values["sample"])
    assert abs(values["token"] - values["sample"]) > 1e-4 and abs(values["pack"] - values["sample"]) > 1e-4


@pytest.mark.parametrize("weighting", ["sample", "pack"])
def test_packed_equals_unpacked_whatever_a_token_counts(weighting: str, small: Config) -> None:
    comparison = compare(small.replace(loss_weighting=weighting, max_steps=5), ("unpacked", "varlen"))
    assert max(map(abs, comparison.difference("varlen"))) <= 1e-5
    plain = compare(small.replace(max_steps=1), ("varlen",))
    assert abs(plain.losses["varlen"][0] - comparison.losses["varlen"][0]) > 1e-5


def test_the_model_of_a_config_is_built_the_same_twice(small: Config) -> None:
    one, two = (build_model(small).state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
