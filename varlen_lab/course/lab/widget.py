"""The lab as a widget: the front end of the page, and a kernel that runs what the reader turns on.

Imported only where widgets can run; ``broken.break_it`` is the way in. A recorded run is shown at once, and the
kernel's own takes its place when it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from varlen_lab.course.lab import LAB_TYPE
from varlen_lab.course.lab.broken import Board
from varlen_lab.course.lab.page import asked, lab_data, shown
from varlen_lab.course.lab.record import as_json
from varlen_lab.course.lab.switches import SWITCHES
from varlen_lab.language.saying import speaking, spoken

HERE = Path(__file__).parent


class Lab(anywidget.AnyWidget):
    """The twelve switches. ``asked``: the one that was turned on; ``live``: its run, measured by this kernel."""

    _esm = HERE / "lab.js"
    _css = HERE / "lab.css"
    data = traitlets.Dict().tag(sync=True)
    asked = traitlets.Unicode("").tag(sync=True)
    live = traitlets.Dict().tag(sync=True)

    def __init__(self, record: dict[str, Any], seed: int = 0, switch: str | None = None) -> None:
        """``record``: the runs to show until there are own ones; ``seed``: of the weights of these.

        ``switch``: the one that is on at first.
        """
        self.record, self.seed, self.language, self.first = record, seed, spoken(), switch
        super().__init__(data=lab_data(record, switch))
        self.observe(self.run_asked, "asked")

    def run_asked(self, _change: Any = None) -> None:
        """Run the switch that was turned on, and send what it showed."""
        from varlen_lab.course.lab.measuring import measure

        if self.asked not in SWITCHES:
            return
        run = as_json(*measure(SWITCHES[self.asked], self.record["lengths"], self.seed))
        with speaking(self.language):
            self.live = {"switch": self.asked, "run": shown(run, self.record)}

    def __str__(self) -> str:
        return str(Board())

    __repr__ = __str__

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget; beside it the list of switches, and for our own pages that a lab stands here."""
        shown_as: Any = super()._repr_mimebundle_(**options) or {}
        data, metadata = shown_as if isinstance(shown_as, tuple) else (shown_as, {})
        with speaking(self.language):
            return {**data, "text/plain": str(self), LAB_TYPE: asked(self.first)}, metadata
