"""Mistral: native. The first release slides a window over the past; later ones see all of it.

In a packed row the window must count within a document. XTuner's kernel applied it to the length of the whole pack.
"""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "mistral-7b-v0.1": {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
    "mistral-7b-v0.3": {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16, "sliding_window": None},
    "mistral-nemo-12b": {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 32, "sliding_window": None},
}
TEMPLATE = "mistral"
