"""What a run shows while it goes on, and what it hears: a bar, the signal to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(title: str, total: int, done: int, show: bool) -> tqdm:
    """A bar on stderr that fits 80 columns; quiet in a pipe, and where it was not asked for."""
    from tqdm.auto import tqdm

    return tqdm(
        desc=title,
        total=total,
        initial=done,
        disable=None if show else True,  # None: only a terminal gets it
        dynamic_ncols=True,
        bar_format="{desc} {n_fmt}/{total_fmt} {bar} {remaining}{postfix}",
    )


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: Slurm sends it before it takes a machine away, and a step is then finished first."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # a notebook's thread cannot take signals
        yield asked
        return
    # Windows sends no SIGTERM; it has Ctrl-Break, which would end Python at once
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, frame: asked.set()) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
