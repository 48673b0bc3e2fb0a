"""The page of one executed notebook: its cells as HTML that holds its pictures and asks for nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.frame import HERE, templates

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


def notebook_page(nb: Any, outcome: Outcome, images: Path) -> str:
    """The page of one executed notebook; pictures its markdown names are read from the folder ``images``."""
    nb.cells = [cell for cell in nb.cells if PAPERMILL_MARKER not in cell.metadata.get("tags", [])]
    body = cells_html(nb, images, outcome.title)
    page = templates().get_template("notebook.html.j2")
    return page.render(title=outcome.title, outcome=outcome, body=body)


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
