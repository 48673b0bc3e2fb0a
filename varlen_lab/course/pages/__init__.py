"""Executed notebooks as pages that open offline: styles, pictures and fonts inside, no script, no request.

nbconvert turns cells into HTML through our own small template (``cells/``), because its stock one loads
require.js and MathJax from a CDN. ``frame.html.j2`` puts a page around that; ``index.html.j2`` shows all
notebooks in a table and below it the outputs of every cell tagged ``walkthrough``. Two things are therefore
not shown: LaTeX stays as it was typed, and of a widget only its text remains.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from varlen_lab.course.lessons import read_notebook

HERE = Path(__file__).parent
TAG = "walkthrough"
PAPERMILL_MARKER = "papermill-error-cell-tag"
OUTPUT_ORDER = [  # richest first; widgets and JavaScript are left out on purpose
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]
HEAD = [70, 300, 180]  # tokens of the documents whose masks stand at the head of the index


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; ``executed`` is the copy with outputs, ``error`` one line if it failed."""

    name: str
    title: str
    status: Literal["ok", "failed", "not run"] = "not run"
    seconds: float = 0.0
    error: str = ""
    executed: Path | None = None

    @property
    def page(self) -> str:
        """File name of its HTML page, or '' when there is none."""
        return self.executed.with_suffix(".html").name if self.executed else ""


def notebook_page(nb: Any, outcome: Outcome, images: Path) -> str:
    """The page of one executed notebook; pictures its markdown names are read from the folder ``images``."""
    nb.cells = [cell for cell in nb.cells if PAPERMILL_MARKER not in cell.metadata.get("tags", [])]
    body = cells_html(nb, images, outcome.title)
    page = templates().get_template("notebook.html.j2")
    return page.render(title=outcome.title, outcome=outcome, body=body)


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


def cells_html(nb: Any, images: Path, title: str, *, code: bool = True) -> str:
    """The cells of ``nb`` as an HTML fragment."""
    resources = {"metadata": {"path": str(images), "name": title}}
    return cells_exporter(code).from_notebook_node(nb, resources)[0]


@cache
def cells_exporter(code: bool) -> Any:
    """nbconvert with our template: local pictures become data URIs, nothing is fetched."""
    import nbconvert
    from traitlets.config import Config

    # installed into a folder of its own (pip install --target) it does not find its own templates
    beside = Path(nbconvert.__file__).parents[1] / "share" / "jupyter" / "nbconvert" / "templates"
    config = Config()
    config.NbConvertBase.display_data_priority = OUTPUT_ORDER
    return nbconvert.HTMLExporter(
        config=config,
        extra_template_basedirs=[str(HERE), str(beside)],
        extra_template_paths=[str(beside)],
        template_name="cells",
        embed_images=True,
        exclude_anchor_links=True,
        exclude_input=not code,
    )


@cache
def templates() -> Any:
    """Jinja over the templates of this folder; text is escaped, what nbconvert made is passed as it is."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.globals["style"] = (HERE / "style.css").read_text(encoding="utf-8") + code_colours()
    found.filters["duration"] = duration
    return found


def code_colours() -> str:
    """Pygments' colours for code, one set for light pages and one for dark ones."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("friendly", "nord"))
    return f"{without_backgrounds(light)}\n@media (prefers-color-scheme: dark) {{\n{without_backgrounds(dark)}\n}}\n"


def without_backgrounds(css: str) -> str:
    """Without the backgrounds and line heights that the style sheet of the page decides."""
    return "\n".join(line for line in css.splitlines() if not re.match(r"(pre|\.highlight \{|td|span\.line)", line))


def duration(seconds: float) -> str:
    """``72.3`` -> ``1 min 12 s``; below a minute with one decimal."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def one_line(text: str, limit: int = 200) -> str:
    """``text`` without colour codes and line breaks, cut at ``limit`` characters."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
