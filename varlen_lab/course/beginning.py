"""How a lesson's kernel works: on one thread, which sleeps while it waits, and without bars of half a second.

On two threads, beside another program that keeps one core busy, a lesson of small models took ten times as long, and
one of SmolLM2 164 s instead of 79: threads that share a core wait for each other at every kernel (``machine.threads``).
What a person has set in the environment stands.
"""

from __future__ import annotations

import logging
import os
import sys

from varlen_lab.machine.starting import begin
from varlen_lab.machine.threads import BY_PEOPLE

QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")  # of half a second, a widget each


def begin_lesson() -> None:
    """To be called before torch is loaded: it, and what this kernel starts, computes on one thread."""
    begin()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # that it has no fast kernel here, in a pink box
    for name in QUIET:
        os.environ.setdefault(name, "1")
    if "torch" not in sys.modules and not any(os.environ.get(name) for name in BY_PEOPLE):
        os.environ["OMP_NUM_THREADS"] = "1"
