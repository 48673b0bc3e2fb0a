"""A seed alone decides a model's weights: not the global random state, which is left alone, and no other thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.models.adapters import add_adapter
from varlen_lab.models.building import empty_model, native_config, tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.models.seeding import seeded


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    """All weights behind one another."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("build", [lambda seed: tiny("llama", seed=seed), lambda seed: miniature("gpt2", "sdpa", seed)])
def test_threads_that_build_at_once_build_what_each_builds_alone(build: object) -> None:
    """Others draw from the global state meanwhile, and one of them builds models without memory."""
    assert callable(build)
    alone = [weights_of(build(seed)) for seed in range(4)]
    stop = threading.Event()

    def disturb() -> None:
        config = native_config({"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 99})
        while not stop.is_set():
            torch.manual_seed(5)
            torch.rand(9)
            empty_model(config, "eager")

    with ThreadPoolExecutor(5) as pool:
        disturbing = pool.submit(disturb)
        together = list(pool.map(lambda seed: weights_of(build(seed % 4)), range(12)))
        stop.set()
        disturbing.result()
    assert all(torch.equal(found, alone[number % 4]) for number, found in enumerate(together))


def test_a_generator_draws_what_the_global_state_draws_after_the_same_seed() -> None:
    """Weights of earlier versions come back."""

    def draws() -> list[torch.Tensor]:
        linear = torch.nn.Linear(5, 7)
        odd = torch.nn.init.trunc_normal_(torch.empty(9))
        return [linear.weight, odd, torch.randn(3), torch.rand(4), torch.randint(9, (5,)), torch.randperm(6)]

    torch.manual_seed(3)
    expected = draws()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with seeded(3):
        found = draws()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_an_adapter_is_drawn_from_the_seed_of_its_run() -> None:
    pytest.importorskip("peft")
    config = Config(model_config={"model_type": "llama"}, method="lora", lora_r=4, seed=3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = weights_of(add_adapter(tiny("llama"), config))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(one, weights_of(add_adapter(tiny("llama"), config)))
