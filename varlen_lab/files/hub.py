"""One question to the hub before anything is asked of it in earnest.

A silent hub costs: transformers asks six times for each file and waits in between, a minute in all, before it says
so. After one refusal only what was downloaded before can help, and that is found without asking.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def only_local(name: str) -> bool:
    """Whether ``from_pretrained(name)`` should look at this machine alone: a folder, or a hub that gives nothing."""
    if Path(name).is_dir():
        return True
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=10)
    except Exception:  # not there, gated, not a name at all, no network: as many kinds as there are layers
        return True
    return False
