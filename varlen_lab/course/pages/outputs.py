"""One output of a cell as HTML: the richest form that a page without a kernel can show, and that is safe."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from varlen_lab.course.pages.cleaning import Page, clean
from varlen_lab.course.pages.figures import figure
from varlen_lab.course.pages.pictures import from_base64
from varlen_lab.errors import InputError
from varlen_lab.viz.policy import ROW_TYPE

WIDGET = "application/vnd.jupyter.widget-view+json"
STRAY = re.compile(r"<IPython\.core\.display\.\w+ object>|Output\(\)")  # how a thing is called that shows nothing


def output_html(output: Any, cell: Any, page: Page) -> str:
    """An output as nbformat holds it; '' for one that says nothing here, such as a widget's name."""
    from nbconvert.filters import ansi2html

    if output.output_type == "stream":
        kind = " stderr" if output.name == "stderr" else ""
        return f'<pre class="text{kind}">{ansi2html(rewritten(output.text))}</pre>' if output.text.strip() else ""
    if output.output_type == "error":
        lines = "\n".join(ansi2html(line) for line in output.traceback) or escape(f"{output.ename}: {output.evalue}")
        return f'<pre class="text traceback" id="error">{lines}</pre>'
    for mime, show in SHOWN.items():
        if mime in output.data and (html := show(output.data[mime], output, cell, page)):
            return html
    return ""


def rewritten(text: str) -> str:
    """Lines as a terminal leaves them: what follows a carriage return stands in place of what was before."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def joined(value: Any) -> str:
    """Text that a notebook may keep as a list of lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def row_html(data: Any, output: Any, cell: Any, page: Page) -> str:
    """The live explorer; its own module checks the data, and what is no row is shown otherwise."""
    from varlen_lab.viz.explorer_page import fragment

    try:
        return fragment(data, label="Attention masks of a packed row")
    except InputError:
        return ""


def markup(value: Any, output: Any, cell: Any, page: Page) -> str:
    """HTML, cleaned; '' when nothing of it is left to see."""
    html = clean(joined(value), page)
    return f'<div class="html">{html}</div>' if re.sub(r"<(?!img)[^>]*>|\s", "", html) else ""


def markdown(value: Any, output: Any, cell: Any, page: Page) -> str:
    """Markdown of an output."""
    html = clean(markdown_html(joined(value)), page)
    return f'<div class="html prose">{html}</div>' if html.strip() else ""


def image(value: Any, output: Any, cell: Any, page: Page) -> str:
    """A picture with its alt text: its own, the cell's, or at least what page it stands on."""
    about = [each for mime, each in output.metadata.items() if mime.startswith("image/") and isinstance(each, dict)]
    details: dict[str, Any] = about[0] if about else {}
    alt = details.get("alt") or cell.metadata.get("alt") or f"Figure of {page.title}"
    data = joined(value).encode("utf-8") if joined(value).lstrip().startswith("<") else from_base64(joined(value))
    return figure(data, str(alt), details)


def plain(value: Any, output: Any, cell: Any, page: Page) -> str:
    """Text; the name of a widget is none, for the widget itself cannot be here."""
    from nbconvert.filters import ansi2html

    text = joined(value)
    if WIDGET in output.data or STRAY.fullmatch(text.strip()) or not text.strip():
        return ""
    return f'<pre class="text">{ansi2html(text)}</pre>'


def markdown_html(source: str, attachments: Any = None) -> str:
    """Markdown as nbconvert writes it, not clean yet; pictures stay addresses."""
    from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    try:
        return str(MarkdownWithMath(renderer=renderer).render(source))
    except InvalidNotebook:  # names an attachment that is not there
        return markdown_html(source.replace("](attachment:", "](missing-"))


SHOWN: dict[str, Callable[[Any, Any, Any, Page], str]] = {  # richest first
    ROW_TYPE: row_html,
    "text/html": markup,
    "text/markdown": markdown,
    "image/svg+xml": image,
    "image/png": image,
    "image/jpeg": image,
    "image/gif": image,
    "image/webp": image,
    "text/latex": plain,
    "text/plain": plain,
}
