"""How a lesson's kernel works: threads that sleep while they wait, one for a small model, all cores for a real one.

Most lessons run models of 64 numbers a token, whose kernels are too short to be shared out: on two threads, beside
another program, such a lesson took ten times as long (``machine.threads``). What a person has set stands.
"""

from __future__ import annotations

import os
import sys

from varlen_lab.machine.environment import cores
from varlen_lab.machine.starting import begin
from varlen_lab.machine.threads import BY_PEOPLE

QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")  # of half a second, a widget each
OURS = "VARLEN_LAB_LESSON"  # says that the number of threads is ours to change


def begin_lesson() -> None:
    """To be called before torch is loaded: it, and what this kernel starts, computes on one thread."""
    begin()
    for name in QUIET:
        os.environ.setdefault(name, "1")
    if "torch" not in sys.modules and not any(os.environ.get(name) for name in BY_PEOPLE):
        os.environ |= {"OMP_NUM_THREADS": "1", OURS: "1"}


def use_all_cores() -> None:
    """For a model whose kernels are long: as many threads as this process has cores, if a lesson had taken one."""
    if os.environ.get(OURS):
        import torch

        torch.set_num_threads(cores())
