"""The moving parts of the mask explorer: a canvas in the browser and the sliders above it.

Imported only where widgets can run; ``explorer.explore_masks`` is the way in. The kernel sends one message per
change of a slider: the lengths of the row and what to call them. Drawing, zoom and hover are ``explorer.js``; what a
screen reader hears of the sliders is ``explorer_widget.js``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from varlen_lab.language.saying import phrase, say
from varlen_lab.viz.explorer_page import EXPORT, row_data, storable
from varlen_lab.viz.explorer_words import table
from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.policy import ROW_TYPE
from varlen_lab.viz.style import DARK, LIGHT

HERE = Path(__file__).parent
MODES = {"both": "both", "full causal": "full", "varlen": "varlen"}
SLIDER_LAYOUT = ipywidgets.Layout(width="24em")


def _module() -> str:
    """explorer.js and explorer_widget.js as one module."""
    drawing, speaking = ((HERE / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer_widget.js"))
    return drawing.removesuffix(EXPORT) + speaking


MODULE = _module()


class MaskCanvas(anywidget.AnyWidget):
    """One packed row on a canvas. ``row`` is everything the browser draws, ``mode`` is both, full or varlen.

    ``table``: the words of the language that was spoken when it was made.
    """

    _esm = MODULE
    _css = HERE / "explorer.css"
    row = traitlets.Dict().tag(sync=True)
    mode = traitlets.Enum(list(MODES.values()), "both").tag(sync=True)
    dark = traitlets.Bool(None, allow_none=True).tag(sync=True)  # None: as the page is
    colours = traitlets.Dict({"light": asdict(LIGHT), "dark": asdict(DARK)}).tag(sync=True)
    table = traitlets.Dict().tag(sync=True)


class Explorer(ipywidgets.VBox):
    """Sliders over a MaskCanvas. Where no widget is shown, it is the figure of the same row, with its alt text."""

    def __init__(
        self,
        lengths_for: Callable[[int, int], list[int]],
        documents: Sequence[int],
        totals: Sequence[int],
        start: tuple[int, int, int | None],
        names: Sequence[str] | None,
        tokens: Sequence[str] | None,
        dark: bool | None,
        causal: bool = True,
    ) -> None:
        """``lengths_for(documents, total)`` gives the row for two slider positions; ``totals`` may be one."""
        self.lengths_for, self.names, self.tokens = lengths_for, names, [storable(token) for token in tokens or []]
        count, total, window = start
        self.canvas = MaskCanvas(dark=dark, table=table())
        self.documents = slider(say("documents"), documents, count)
        self.total = slider(say("tokens"), totals, total)
        reaches = sorted({16, 64, 256, 1024, 4096, *([window] if window else [])})
        self.window = slider(say("window"), [0, *reaches], window or 0)
        self.mode = ipywidgets.ToggleButtons(options=[(phrase(name), name) for name in MODES], value="both")
        self.mode.style.button_width = "8em"
        self.summary = ipywidgets.HTML()
        self.causal = ipywidgets.Checkbox(
            value=causal, description=say("causal"), indent=False, layout={"width": "7em"}
        )
        for control in (self.documents, self.total, self.window, self.causal):
            control.observe(self.update, "value")
        self.mode.observe(lambda change: setattr(self.canvas, "mode", MODES[change["new"]]), "value")
        self.update()
        shown = [control for control in (self.documents, self.total, self.window) if len(control.options) > 1]
        bar = ipywidgets.HBox(shown, layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([bar, ipywidgets.HBox([self.mode, self.causal]), self.summary, self.canvas])

    def update(self, _change: Any = None) -> None:
        """Send the row of the sliders' positions: one message to the browser."""
        row = self.packed_row()
        names = [row.name(index) for index in range(len(row.lengths))] if row.names else []
        self.canvas.row = {
            "lengths": row.lengths.tolist(),
            "names": names,
            "tokens": self.tokens[: row.total],
            "window": row.window,
            "causal": row.causal,
            "words": row.alt_text(),
        }
        self.summary.value = row.summary()

    def packed_row(self) -> PackedRow:
        """The row of the sliders' positions, counted."""
        lengths = self.lengths_for(self.documents.value, self.total.value)
        names = self.names[: len(lengths)] if self.names else None
        return PackedRow(lengths, self.window.value or None, names, self.causal.value)

    def row_data(self) -> dict[str, Any]:
        """What a page without a kernel needs of the row: its first documents, or the examples of as many tokens."""
        rows = None
        if len(self.total.options) > 1:
            examples = (self.lengths_for(count, self.total.value) for _, count in self.documents.options)
            rows = list({len(lengths): lengths for lengths in examples}.values())
        return row_data(self.packed_row(), self.tokens, dark=self.canvas.dark, mode=self.canvas.mode, rows=rows)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget and beside it a picture, for GitHub and a closed kernel, and the row's data, for our own pages."""
        from varlen_lab.viz.figures import draw_masks

        row = self.packed_row()
        options = {"window": row.window, "names": row.names, "causal": row.causal, "dark": bool(self.canvas.dark)}
        picture: Any = draw_masks(row.lengths.tolist(), **options)
        data, metadata = picture._repr_mimebundle_()
        # both: a front end that knows no widget takes the picture
        widget = super()._repr_mimebundle_(**options) or {}
        return {**data, **widget, "text/plain": data["text/plain"], ROW_TYPE: self.row_data()}, metadata


def slider(name: str, values: Sequence[int], value: int) -> ipywidgets.SelectionSlider:
    """A slider over a few numbers; 0 is written ``off``."""
    options = [(f"{each:,}" if each else say("off"), each) for each in values]
    return ipywidgets.SelectionSlider(options=options, value=value, description=name, layout=SLIDER_LAYOUT)
