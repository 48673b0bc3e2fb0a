"""The same bits twice on a CPU: what a process computes first, and on how many threads it adds up.

The first call of MKL's vector library sets the library up. When that call is a large ``cos()`` on several threads, such
as a rotary table, some CPUs give other last bits in some processes (3 or 4 of 40): a run cannot be repeated, and one
that was killed and resumed is not the undisturbed one. A small call before anything else cures it. So this module is
imported by the one on which all that computes here rests, ``packing/boundaries.py``.
"""

from __future__ import annotations

import warnings

import torch

from varlen_lab.machine import threads

# those that torch gives to MKL on a CPU, each with too little for a second thread
for _function in (torch.cos, torch.sin, torch.exp, torch.log, torch.tanh):
    for _dtype in (torch.float32, torch.float64):
        _function(torch.ones(8, dtype=_dtype, device="cpu"))


def note_threads(before: int | None) -> None:
    """Go on with the ``before`` threads a run had (None: unknown) where a command chose ours; else warn of another."""
    if before is not None and threads.chosen:
        torch.set_num_threads(before)
    now = torch.get_num_threads()
    if before is not None and before != now:
        warnings.warn(
            f"the run had {before} threads and goes on with {now}, sums are taken in another order and the last bits "
            f"may differ; OMP_NUM_THREADS={before} gives the same",
            stacklevel=1,
        )
