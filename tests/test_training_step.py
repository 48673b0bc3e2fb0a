"""One rule of accounting: a step's loss is the sum over its trained tokens, divided by their count."""

from __future__ import annotations

import math

import pytest
import torch
from expect import refused

from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.models.building import tiny
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.optimizer import lr_factor
from varlen_lab.training.step import Batch, optimize, token_loss_sum

LENGTHS = [3, 1, 7, 2]


def rows(*groups: list[int]) -> list[dict[str, list[int]]]:
    """Packed rows with these document lengths; the same documents whatever the grouping."""
    made, first = [], 5
    for group in groups:
        ids = list(range(first, first + sum(group)))
        first += sum(group)
        labels = list(ids)
        for start, _ in Boundaries.from_lengths(group).spans:
            labels[start] = -100
        made.append({"input_ids": ids, "labels": labels, "seq_lengths": group})
    return made


def batch(features: list[dict[str, list[int]]]) -> Batch:
    inputs = VarlenCollator()(features)
    return Batch(inputs, inputs.pop("labels"), sum(len(row["input_ids"]) for row in features))


def one_step(batches: list[Batch], config: Config) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The record of one optimizer step and the weights after it."""
    model = tiny("llama", seed=0)
    engine = make_engine(model, config, 2, make_accelerator(config))
    record = next(iter(optimize(engine, [batches])))
    return record, model.state_dict()


@pytest.fixture
def config() -> Config:
    return named_config("tiny_llama_full_docstrings_e1").replace(
        device="cpu", warmup_ratio=0.0, optim_type="SGD", lr=0.1
    )


def test_the_loss_is_the_definition(config: Config) -> None:
    model = tiny("llama", seed=0)
    row = rows(LENGTHS)[0]
    total, count = 0.0, 0
    for start, end in Boundaries.from_lengths(LENGTHS).spans:
        ids = torch.tensor([row["input_ids"][start:end]])
        logits = model(ids).logits.detach().log_softmax(-1)
        for token in range(1, end - start):
            total -= float(logits[0, token - 1, ids[0, token]])
            count += 1
    assert count == sum(LENGTHS) - len(LENGTHS)
    assert float(token_loss_sum(model, batch([row])).detach()) == pytest.approx(total, rel=1e-6)
    record, _ = one_step([batch([row])], config)
    assert record["loss"] == pytest.approx(total / count, rel=1e-6)
    assert record["trained_tokens"] == count and record["tokens"] == record["padded_tokens"] == sum(LENGTHS)


def test_how_documents_are_grouped_does_not_matter(config: Config) -> None:
    """One row, two rows in a batch, two batches accumulated: the same loss, gradient and weights."""
    ways = [
        [batch(rows(LENGTHS))],
        [batch(rows([3, 1], [7, 2]))],
        [batch([row]) for row in rows([3, 1], [7, 2])],
        [batch([row]) for row in rows([3], [1], [7], [2])],
    ]
    results = [one_step(way, config) for way in ways]
    for record, weights in results[1:]:
        assert record["loss"] == pytest.approx(results[0][0]["loss"], rel=1e-6)
        assert record["grad_norm"] == pytest.approx(results[0][0]["grad_norm"], rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, results[0][1][name], rtol=0, atol=1e-6)


def test_a_mean_of_means_would_not_do(config: Config) -> None:
    """The planted fault: averaging the batches' own means weighs a token by its neighbours."""
    model = tiny("llama", seed=0)
    parts = [batch([row]) for row in rows([3, 1], [7, 2])]
    sums = [float(token_loss_sum(model, part).detach()) for part in parts]
    counts = [int((part.labels != -100).sum()) for part in parts]
    means = sum(total / count for total, count in zip(sums, counts)) / 2
    record, _ = one_step(parts, config)
    assert record["loss"] == pytest.approx(sum(sums) / sum(counts), rel=1e-6)
    assert abs(record["loss"] - means) > 1e-4


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_step_without_a_trained_token_moves_no_weight(config: Config, optimizer: str) -> None:
    """Behind a step with a gradient, whose momentum would go on, and under a decay that would pull."""
    config = config.replace(optim_type=optimizer, weight_decay=0.5)
    model = tiny("llama", seed=0)
    engine = make_engine(model, config, 8, make_accelerator(config))
    learns, nothing = [batch(rows(LENGTHS))], [batch(rows([1], [1]))]
    taken = optimize(engine, [learns, nothing, nothing, learns])
    next(taken)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = [x.clone() for state in engine.optimizer.state.values() for x in state.values()]
    for step in (2, 3):
        record = next(taken)
        assert math.isnan(record["loss"]) and record["untrained"] and record["step"] == step
        assert record["trained_tokens"] == record["tokens"] == record["padded_tokens"] == record["grad_norm"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    now = [x for state in engine.optimizer.state.values() for x in state.values()]
    assert kept and all(map(torch.equal, now, kept))
    assert record["lr"] < config.lr, "the schedule goes on"
    assert next(taken)["loss"] > 0
    # the planted fault: the same step taken with a gradient of 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.optimizer.step()
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_are_clipped(config: Config) -> None:
    _, free = one_step([batch(rows(LENGTHS))], config.replace(max_norm=0.0))
    record, clipped = one_step([batch(rows(LENGTHS))], config.replace(max_norm=0.01))
    before = tiny("llama", seed=0).state_dict()
    moved = [math.sqrt(sum(float((w[n] - before[n]).square().sum()) for n in before)) for w in (free, clipped)]
    assert moved[0] == pytest.approx(0.1 * record["grad_norm"], rel=1e-3)
    assert moved[1] == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_schedule_rises_in_a_line_and_falls_in_a_cosine() -> None:
    factors = [lr_factor(step, 100, 10, 0.1) for step in range(101)]
    assert factors[0] == 0.1 and factors[5] == pytest.approx(0.55) and factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0.0)
    assert lr_factor(0, 1, 0, 0.1) == 1.0


def test_a_batch_vouches_for_the_seams_it_takes_to_a_device() -> None:
    """From the meta device nothing can be read, as in training nothing is from a GPU: it would be waited for."""
    there = batch(rows([3, 1], [7, 2])).to(torch.device("meta"))
    seams = there.inputs["cu_seq_lens_q"]
    assert seams.device.type == "meta" and Boundaries(seams).spans == [(0, 3), (3, 4), (4, 11), (11, 13)]
    wrong = batch(rows([3, 1]))
    wrong.inputs["cu_seq_lens_q"][1] = 5
    with refused("cu_seqlens goes from 5 to 4, it must strictly increase"):
        wrong.to(torch.device("meta"))
