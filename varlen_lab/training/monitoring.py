"""What a run shows while it goes on, and what it hears: a bar, the signal to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from varlen_lab.machine import signals
from varlen_lab.machine.console import USUAL_WIDTH, width

LEAST_BAR = 6  # columns from which one sees how far it is; hours take two of them


class FittingBar(tqdm):  # type: ignore[type-arg]
    """A bar as wide as the console: of the facts behind it, parted by ", ", the last are left out, none is cut."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of; tqdm asks for it whenever it draws one."""
        facts = super().format_dict
        columns = (width(self.fp) or USUAL_WIDTH) - 1  # some terminals begin a new line after the last column
        rest = f"{facts['prefix']} {facts['total']}/{facts['total']}  ETA 00:00, "
        parts = (facts["postfix"] or "").split(", ")
        while parts and len(rest) + LEAST_BAR + len(", ".join(parts)) > columns:
            parts.pop()
        return {**facts, "ncols": columns, "postfix": ", ".join(parts)}


def progress_bar(title: str, total: int, done: int, show: bool) -> tqdm:  # type: ignore[type-arg]
    """A bar on stderr with the count and the time to go; quiet in a pipe, and where it was not asked for."""
    return FittingBar(
        desc=title,
        total=total,
        initial=done,
        disable=None if show else True,  # None: only a terminal gets it
        bar_format="{desc} {n_fmt}/{total_fmt} {bar} ETA {remaining}{postfix}",
    )


@contextmanager
def beside_bars() -> Iterator[None]:
    """Inside, words can be written to stdout or stderr: a bar that is being drawn makes room for them."""
    with tqdm.external_write_mode():
        yield


class Asked(threading.Event):
    """Whether a run was asked to end after the step that it takes; ``by`` which signal."""

    by = "SIGTERM"  # what a batch system sends, and what another process of the run has heard

    def is_set(self) -> bool:
        """Asked once a step: what a library swallowed of Ctrl-C is raised here."""
        signals.raise_heard()
        return super().is_set()


@contextmanager
def stop_on_sigterm() -> Iterator[Asked]:
    """An event that SIGTERM sets: Slurm sends it before it takes a machine away, and a step is then finished first.

    So do the other signals that ask to end, but for Ctrl-C.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # a notebook's thread cannot take signals
        yield asked
        return
    signals.raise_heard()  # before the first step

    def ask(number: int, frame: FrameType | None) -> None:
        asked.by = signal.Signals(number).name
        asked.set()

    before = {number: signal.signal(number, ask) for number in signals.asking()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
