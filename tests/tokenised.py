"""Tokenised documents and a tiny model that reads them, for tests in other people's trainers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from varlen_lab.attention.huggingface import register
from varlen_lab.models.building import tiny


def tokenised(lengths: Sequence[int]) -> Dataset:
    """Documents of these lengths, ids below 90, the same each time."""
    rng = np.random.default_rng(0)
    return Dataset.from_dict({"input_ids": [rng.integers(3, 90, length).tolist() for length in lengths]})


def tiny_reader(longest: int) -> Any:
    """A tiny Llama for rows of up to ``longest`` tokens, the same each time; our attention is registered."""
    register()
    torch.manual_seed(0)
    return tiny("llama", vocab_size=96, max_position_embeddings=longest)
