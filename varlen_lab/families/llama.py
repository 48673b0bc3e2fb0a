"""Llama 2: the plain case, native in transformers as published."""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "llama2-7b": {"model_type": "llama"},
    "llama2-70b": {"model_type": "llama", "num_key_value_heads": 2},
}
TEMPLATE = "llama2_chat"
