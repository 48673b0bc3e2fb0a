"""What several test files start from: a few dialogues as a file, and a config that trains on them in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from varlen_lab.config.recipes.names import named_config
from varlen_lab.config.schema import Config

# On a shared machine two threads wait for each other at every small kernel: ten times slower, and timings mean nothing.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short dialogues of very different lengths, in the ``messages`` shape."""
    path = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            answer = " ".join(str(number * step) for step in range(1, 2 + number * number % 37))
            turns = [
                {"role": "user", "content": f"Count in steps of {number}."},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


@pytest.fixture
def small(dialogues: Path, tmp_path: Path) -> Config:
    """The CPU template on those dialogues: rows of 128, three steps, everything under ``tmp_path``."""
    config = named_config("tiny_llama_full_docstrings_e1")
    return config.replace(
        data_path=str(dialogues),
        max_length=128,
        max_steps=3,
        evaluation_freq=0,
        device="cpu",
        work_dir=str(tmp_path / "w"),
    )
