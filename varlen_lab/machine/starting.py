"""How the command starts: fewer rounds of the garbage collector, and threads that wait without a core.

Both are for a process that is ours alone; whoever imports the library keeps what they have set.
"""

from __future__ import annotations

import gc
import os

# Objects that live before Python looks for garbage: what is imported is none, and with Python's own number (700) every
# sixth second of a start goes into looking through it.
OBJECTS = 50_000
# how threads of OpenMP wait, as a person may have said already: for any of them, GNU's and Intel's
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def begin() -> None:
    """To be called before torch is loaded, which reads the environment once; what this process starts inherits it.

    A thread that has done its part of a kernel sleeps until the others have. By itself it would turn in a circle for
    milliseconds, on a core that the others or another program need: then small kernels take ten times as long.
    """
    _, young, old = gc.get_threshold()
    gc.set_threshold(OBJECTS, young, old)
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
