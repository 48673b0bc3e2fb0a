"""Zephyr: Mistral 7B v0.1, fine-tuned; its window of 4,096 tokens came along."""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "zephyr-7b-beta": {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
}
TEMPLATE = "zephyr"
