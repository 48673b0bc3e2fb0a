"""On how many threads a command computes: on one where a model's matrices are small, else on all that torch takes.

A rule of sizes, measured once and written down, no measurement of the moment: another number of threads adds up in
another order, and a run that goes on must find the number it had. What a person has set in the environment stands, and
so does what a Python program has set: only commands come here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Up to this width the kernels of a layer are too short to be shared out: 40 steps of a model 64 wide, beside other
# programs, took 12 CPU seconds on one thread and 63 on two, which waited for each other at every kernel.
NARROW = 128
WIDTHS = ("hidden_size", "n_embd", "d_model")  # the width of a model in configs of transformers
BY_PEOPLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

chosen = False  # whether this process computes on one thread because of this file


def is_narrow(settings: Mapping[str, Any]) -> bool:
    """Whether a model's config says that it is at most ``NARROW`` wide, in each of its parts; False where it is silent.

    >>> is_narrow({"hidden_size": 64}), is_narrow({"n_embd": 768}), is_narrow({})
    (True, False, False)
    """
    parts = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]  # text beside images
    widths = [part[name] for part in parts for name in WIDTHS if isinstance(part.get(name), int)]
    return bool(widths) and max(widths) <= NARROW


def suit(settings: Mapping[str, Any] | None, folder: str | None) -> None:
    """One thread for a narrow model: one made from ``settings``, or one that lies in ``folder`` if that is here."""
    if folder is not None:
        try:
            settings = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # of the hub, a GGUF file, damaged: who opens it says so
            settings = None
    if isinstance(settings, Mapping) and is_narrow(settings):
        use_one_thread()


def use_one_thread() -> None:
    """Compute on one thread from here on, unless the environment says how many. Imports torch."""
    global chosen
    if not any(os.environ.get(name) for name in BY_PEOPLE):
        import torch

        torch.set_num_threads(1)
        chosen = True
