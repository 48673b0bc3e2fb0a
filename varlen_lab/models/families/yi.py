"""Yi: a Llama with grouped-query attention; 1.5 keeps the architecture and moves the base of its positions."""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "yi-6b": {
        "model_type": "llama",
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
    },
}
TEMPLATE = "yi"
