"""Lists of document lengths, seeded, on which packers differ: like real ones, and like nothing a packer hopes for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Distribution(NamedTuple):
    """``draw(rng, documents)`` gives lengths of at most ``max_length`` tokens."""

    max_length: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    like_sft: bool = False


def lognormal(mean: float, spread: float, longest: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Lengths with this mean (before they are clipped), lognormal with ``spread`` as sigma."""
    mu = np.log(mean) - spread**2 / 2
    return lambda rng, n: np.clip(rng.lognormal(mu, spread, n), 1, longest).astype(np.int64)


def between(low: float, high: float, row: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Uniform from ``low`` to ``high`` of a row."""
    return lambda rng, n: rng.integers(int(low * row), int(high * row) + 1, n)


def bimodal(rng: np.random.Generator, n: int) -> np.ndarray:
    """Four short chats to one long paper."""
    return np.where(rng.random(n) < 0.8, lognormal(600, 0.8, 32768)(rng, n), lognormal(9500, 0.5, 32768)(rng, n))


DISTRIBUTIONS = {
    "alpaca-like": Distribution(2048, lognormal(132, 0.7, 2048), like_sft=True),
    "oasst-like": Distribution(4096, lognormal(600, 0.9, 4096), like_sft=True),
    "bimodal long": Distribution(32768, bimodal, like_sft=True),
    "all 1": Distribution(2048, lambda rng, n: np.ones(n, dtype=np.int64)),
    "all just over half": Distribution(2048, lambda rng, n: np.full(n, 1025)),
    "all a whole row": Distribution(2048, lambda rng, n: np.full(n, 2048)),
    "0.30 to 0.37 row": Distribution(2048, between(0.30, 0.37, 2048)),
    "0.2 to 0.3 row": Distribution(2048, between(0.2, 0.3, 2048)),
}


def draw(name: str, documents: int, seed: int = 0) -> np.ndarray:
    """The lengths of a distribution, int64, the same for the same seed."""
    return DISTRIBUTIONS[name].draw(np.random.default_rng(seed), documents)
