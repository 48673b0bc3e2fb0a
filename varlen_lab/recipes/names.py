"""The recipes by name, each written as its difference from the schema's defaults.

Names follow XTuner's scheme ``model_size_method_dataset_epochs``. A recipe is data: nothing is read from disk, so
there is no shipped copy of a config file that could drift from the schema.
"""

from __future__ import annotations

import re
from typing import Any

from varlen_lab.config import Config
from varlen_lab.errors import InputError, nearest

SHANGHAI = ["请给我介绍五个上海的景点", "Please tell me five scenic spots in Shanghai"]

# One hidden layer more or less changes nothing in a lesson; this is small enough for 5 steps a second on a laptop.
TINY_LLAMA = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}

RECIPES: dict[str, dict[str, Any]] = {
    "internlm_7b_full_oasst1_e3": {
        "pretrained_model_name_or_path": "internlm/internlm-7b",
        "data_path": "timdettmers/openassistant-guanaco",
        "prompt_template": "internlm_chat",
        "evaluation_inputs": SHANGHAI,
    },
    "tiny_llama_full_docstrings_e1": {
        "model_config": TINY_LLAMA,
        "data_path": "builtin:docstrings",
        "max_length": 1024,
        "accumulative_counts": 2,
        "max_epochs": 1,
        "lr": 2e-3,
        "evaluation_freq": 200,
        "evaluation_inputs": ["What does `json.dumps` do?"],
    },
}


def names() -> list[str]:
    """Every config name, sorted."""
    return sorted(RECIPES)


def get(name: str) -> Config:
    """The Config of that name, or an InputError that suggests the near one."""
    if name not in RECIPES:
        raise InputError(f"there is no config named {name!r}{nearest(name, RECIPES)}; varlen-lab list-cfg shows all.")
    return Config(**RECIPES[name], name=name)


def search(pattern: str) -> list[str]:
    """Names that contain every word of the pattern, case and separators aside: ``internlm7 oasst`` finds
    ``internlm_7b_full_oasst1_e3``."""
    words = [plain(word) for word in pattern.split()]
    return [name for name in names() if all(word in plain(name) for word in words)]


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
