"""The page over all notebooks: what ran, and the outputs of every cell tagged ``walkthrough``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from varlen_lab.course.lessons import read_notebook
from varlen_lab.course.outcomes import Outcome, duration
from varlen_lab.course.pages.frame import templates
from varlen_lab.course.pages.lesson import cells_html

TAG = "walkthrough"
HEAD = [70, 300, 180]  # tokens of the documents whose masks stand at the head of the index


def index_page(outcomes: Sequence[Outcome], facts: dict[str, str], seconds: float, quick: bool) -> str:
    """The page over all notebooks: their table, then what is tagged ``walkthrough`` in the executed copies."""
    from varlen_lab.packing.boundaries import Boundaries  # here, for they import torch and numpy: pages do not need to
    from varlen_lab.viz.masks import count_cells

    head = Boundaries.from_lengths(HEAD)
    executed = [outcome for outcome in outcomes if outcome.executed and outcome.executed.exists()]
    results = [(outcome, html) for outcome in executed if (html := shown_outputs(outcome))]
    ran = [outcome for outcome in outcomes if outcome.status != "not run"]
    page = templates().get_template("index.html.j2")
    return page.render(
        title="Varlen attention, on this machine",
        outcomes=outcomes,
        results=results,
        facts=facts,
        quick=quick,
        ran=ran,
        failed=[outcome for outcome in ran if outcome.status == "failed"],
        slowest=max((outcome.seconds for outcome in ran), default=0.0) or 1.0,
        duration=duration(seconds),
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        mask={"total": head.total, "spans": head.spans, "crossing": count_cells(head).cross_share},
    )


def shown_outputs(outcome: Outcome) -> str:
    """Outputs, not code, of the cells tagged ``walkthrough``, and tagged markdown; '' if there are none."""
    assert outcome.executed is not None
    nb = read_notebook(outcome.executed)
    tagged = [cell for cell in nb.cells if TAG in cell.metadata.get("tags", [])]
    nb.cells = [cell for cell in tagged if cell.cell_type == "markdown" or cell.get("outputs")]
    if not nb.cells:
        return ""
    images = Path(nb.metadata.get("papermill", {}).get("input_path") or ".").parent
    return cells_html(nb, images, outcome.title, code=False)
