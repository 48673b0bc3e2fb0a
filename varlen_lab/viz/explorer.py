"""What moves in a notebook: the mask figure with sliders, and a loss curve that grows while a training runs.

    explore_masks()                                    # example rows of 64 to 131,072 tokens
    explore_masks([70, 300, 180], names=["note", "essay", "letter"])
    train(config, on_step=LiveLosses())

The explorer zooms, and says a sentence for every cell under the pointer. In JupyterLab, VS Code or Colab it is a
widget; where widgets cannot run, it is the figure of ``draw_masks``. Without a kernel it is ``explorer_page``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from varlen_lab.errors import InputError, first_line
from varlen_lab.viz.explorer_page import checked
from varlen_lab.viz.losses import draw_losses
from varlen_lab.viz.masks import PackedRow

DOCUMENTS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1000]
TOTALS = [2**power for power in range(6, 18)]  # 64 to 131,072 tokens
START = (6, 2048)  # documents and tokens of the first picture


def explore_masks(
    boundaries: Any = None,
    *,
    window: int | None = None,
    names: Sequence[str] | None = None,
    causal: bool = True,
    tokens: Sequence[str] | None = None,
    dark: bool | None = None,
) -> Any:
    """A widget to walk through the mask of a packed row; a Figure where widgets cannot run.

    ``boundaries``: lengths, ``Boundaries`` or a batch; None: example rows, chosen by sliders. ``names``: one each.
    ``causal=False``: tokens see what follows them too. ``tokens``: the text of each token, shown under the pointer.
    ``dark``: None follows the page.
    Raises InputError for what cannot be drawn.
    """
    given = None if boundaries is None else PackedRow(boundaries, window, names, causal)
    if given is None and (names is not None or tokens is not None):
        raise InputError("there are names or tokens but no lengths they belong to; pass the lengths first.")
    if given and tokens is not None and len(tokens) != given.total:
        raise InputError(f"there are {len(tokens):,} tokens for a row of {given.total:,}; give the text of each one.")
    row = checked(given or PackedRow(example_lengths(*START), window, None, causal))
    try:
        from varlen_lab.viz.widget import Explorer
    except Exception as problem:  # a half-installed anywidget fails in as many ways as it has imports
        from varlen_lab.viz.figures import draw_masks

        if not isinstance(problem, ModuleNotFoundError):  # what is not installed at all is nothing to mend
            warnings.warn(
                f"widgets do not run here ({first_line(problem)}), this is the figure without sliders; "
                "pip install --force-reinstall anywidget ipywidgets mends them.",
                stacklevel=2,
            )
        return draw_masks(row.lengths, window=window, names=names, causal=causal, dark=bool(dark))
    if given is None:
        return Explorer(example_lengths, DOCUMENTS, TOTALS, (*START, row.window), None, None, dark, row.causal)
    lengths = given.lengths.tolist()
    count = len(lengths)
    counts = sorted({*range(1, min(count, 64) + 1), *DOCUMENTS, count})
    counts = [each for each in counts if each <= count]
    start = (count, given.total, given.window)
    return Explorer(
        lambda first, _: lengths[:first], counts, [given.total], start, given.names, tokens, dark, given.causal
    )


def example_lengths(documents: int, total: int) -> list[int]:
    """Lengths of ``documents`` documents that fill ``total`` tokens, a few long and many short, always the same.

    A row has room for one document per token: more are left out.
    """
    documents = min(documents, total)
    weights = np.random.default_rng(documents).lognormal(0.0, 0.9, documents)
    edges = np.round(np.cumsum(weights) / weights.sum() * (total - documents)).astype(np.int64)
    return (np.diff(edges, prepend=0) + 1).tolist()


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
        known = any(map(math.isfinite, self.losses))  # a step may have no token to train on, and then no loss
        if known and len(self.losses) >= 2 and (late or len(self.losses) == self.total):
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
        # IPython is installed, but this is no notebook
        if get_ipython() is None:
            return
        self.drawn = time.monotonic()
        if self.handle is None:
            self.handle = display(self.figure(), display_id=True)
        else:
            self.handle.update(self.figure())
