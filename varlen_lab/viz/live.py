"""A loss curve that grows while a training runs, in a notebook: hand it to ``train(..., on_step=LiveLosses())``."""

from __future__ import annotations

import time
from typing import Any

from varlen_lab.viz.losses import draw_losses


class LiveLosses:
    """Called with the record of every step; redraws in place, every ``seconds`` at most, and at ``total`` steps.

    Outside of a notebook it keeps the losses and draws nothing until ``figure()`` is asked for.
    """

    def __init__(
        self, name: str = "varlen", *, caption: str = "", total: int | None = None, seconds: float = 2
    ) -> None:
        self.name, self.caption, self.total, self.seconds = name, caption, total, seconds
        self.losses: list[float] = []
        self.drawn = 0.0
        self.handle: Any = None

    def __call__(self, record: dict[str, Any]) -> None:
        """Take a step in; a figure needs two."""
        self.losses.append(record["loss"])
        late = time.monotonic() - self.drawn >= self.seconds
        if len(self.losses) >= 2 and (late or len(self.losses) == self.total):
            self.draw()

    def figure(self) -> Any:
        """The curve so far."""
        return draw_losses({self.name: self.losses}, caption=self.caption)

    def draw(self) -> None:
        """Put the figure in the place of the one before."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        if get_ipython() is None:
            return
        self.drawn = time.monotonic()
        if self.handle is None:
            self.handle = display(self.figure(), display_id=True)
        else:
            self.handle.update(self.figure())
