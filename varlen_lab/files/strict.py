"""JSON that every program reads: NaN and Infinity, which are no words of it, become ``null``."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(value: Any, **layout: Any) -> str:
    """``value`` as JSON; ``layout``: what ``json.dumps`` takes (indent, ensure_ascii, ...)."""
    return json.dumps(finite(value), allow_nan=False, **layout)


def finite(value: Any) -> Any:
    """``value`` with None for every number in it that JSON cannot write."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
