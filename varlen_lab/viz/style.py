"""One visual language for every figure of the kit: colours, type, the Figure itself and its marks.

Blue is *own document*, hatched orange is *another document* (or wasted), grey is *nothing there*. Blue and
orange are Okabe and Ito's, apart for every kind of colour vision, and the hatch says it without colour. Sizes
are points at the width GitHub shows a README (830 px = 8.3 inches at 100 dpi).

Positions are inches from the upper left corner, so squares are square and type never moves. A ``Picture`` is a
``matplotlib.figure.Figure`` without pyplot: no backend is chosen, nothing shown or saved. It carries its alt text:
shown in a notebook it is a sharp PNG with it; saved, the alt text is the file's description.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager
from matplotlib.patches import Polygon
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from varlen_lab.language.saying import phrase, say, speaking, spoken
from varlen_lab.viz.masks import legible

WIDTH = 8.3  # inches
TITLE, CLAIM, BODY, SMALL = 13.0, 10.5, 9.5, 8.2  # points
STROKE = 1.4  # points: nothing that matters is drawn thinner
FONT = "DejaVu Sans"  # the one that comes with matplotlib: a figure looks the same everywhere
CHINESE_FONTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans SC",
        "Source Han Sans SC",
        "Source Han Sans CN",
        "PingFang SC",
        "Hiragino Sans GB",
    ),
    *("Microsoft YaHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Noto Sans CJK JP", "Noto Sans CJK TC"),
)
HATCH = "////"
BOLD = 700  # as the weight of a font
SAVED_DPI = 200  # dots per inch of what is saved: two pixels for each of GitHub's
CHINESE_FILES = re.compile(r"(NotoSans(CJK|SC)|SourceHanSans|wqy-|msyh|simhei|PingFang|Hiragino)[^/]*$", re.IGNORECASE)
NO_FONT = (
    "没有找到中文字体，图里的文字保持英文；安装 Noto Sans CJK 或文泉驿（apt install fonts-noto-cjk）后重启内核即可。"
    " No font for Chinese was found: figures keep English words."
)
UNESCAPED = re.compile(r"(?<!\\)\$")
NOTEBOOK_DPI = 150  # of what a notebook shows, and keeps: six of these pictures in a file of 250 kB


@dataclass(frozen=True)
class Theme:
    """Colours of one background. Names say what a colour means, not what it is."""

    page: str
    ink: str
    quiet: str  # secondary text
    line: str  # frames and guides
    empty: str  # cells that no token sees
    own: str
    own_soft: str  # every second document, where neighbours touch
    on_own: str  # words on those two
    on_soft: str
    cross: str  # fill under the hatch
    cross_ink: str  # the hatch, and words about it
    third: str  # a third curve, neither own nor cross


LIGHT = Theme(
    page="#ffffff",
    ink="#1f2328",
    quiet="#59636e",
    line="#c9d1d9",
    empty="#f3f5f8",
    own="#0072b2",
    own_soft="#7db8dc",
    on_own="#ffffff",
    on_soft="#1f2328",
    cross="#fbd9a0",
    cross_ink="#b34e00",
    third="#1f2328",
)
DARK = Theme(
    page="#0d1117",
    ink="#f0f6fc",
    quiet="#9da7b3",
    line="#3d444d",
    empty="#161c25",
    own="#56b4e9",
    own_soft="#1f6ea5",
    on_own="#0d1117",
    on_soft="#ffffff",
    cross="#4a2f0b",
    cross_ink="#f0a030",
    third="#f0f6fc",
)


def theme(dark: bool) -> Theme:
    """The colours for a light or a dark page."""
    return DARK if dark else LIGHT


class Picture(Figure):
    """A figure of ``width`` x ``height`` inches. ``title`` and ``alt_text`` go wherever the picture goes."""

    def __init__(self, width: float, height: float, colours: Theme, title: str, alt_text: str) -> None:
        super().__init__(figsize=(width, height), dpi=100, facecolor=colours.page)
        self.colours, self.title, self.alt_text = colours, legible(title), legible(alt_text)
        self.inches = (width, height)
        self.fold: tuple[float, float, float] | None = None

    def folds_at(self, left: float, right: float, foot: float) -> None:
        """A narrow page may stack its halves: where each begins, and how high the legend is, in inches."""
        self.fold = (left, right, foot)

    def panel(
        self, left: float, top: float, width: float, height: float, frame: bool = True, **limits: tuple[float, float]
    ) -> Axes:
        """Axes without ticks at a place in inches, ``top`` below the upper edge; ``limits``: ``xlim`` and ``ylim``."""
        w, h = self.inches
        axes = self.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
        axes.set_facecolor("none")
        axes.tick_params(length=0)
        axes.set(xticks=[], yticks=[], **limits)
        for side in axes.spines.values():
            side.set(color=self.colours.line, linewidth=0.8, visible=frame)
        return axes

    def write(self, left: float, top: float, words: str, size: float = BODY, **style: Any) -> Text:
        """Text at a place in inches, its baseline at ``top``."""
        w, h = self.inches
        style = {"color": self.colours.ink, "va": "baseline", "ha": "left"} | style
        return self.text(left / w, 1 - top / h, words, fontsize=size, family=fonts(), **style)

    def write_caption(self, left: float, words: str, above: float = 0.15) -> None:
        """Small type ``above`` the lower edge, in inches: as much of it as fits on one line."""
        with inking():
            words = part_by_part(words)
        words = shorten(one_line(words), self.inches[0] - left - 0.1, SMALL)
        self.write(left, self.inches[1] - above, words, SMALL, color=self.colours.quiet)

    def draw(self, renderer: Any) -> None:
        """As in matplotlib; what no file can hold is written out first, whoever wrote it."""
        for text in self.findobj(Text):
            said = text.get_text()
            if "\\mathdefault" not in said and (words := as_text(said)) != said:  # that is matplotlib's, of a tick
                text.set_text(words)
        super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """As in matplotlib, sharp by default; PNG and SVG get the title and the alt text as metadata."""
        name = str(options.get("format") or fname).lower()
        if name.endswith(("png", "svg")):
            details = {"Title": self.title, "Description": self.alt_text}
            options["metadata"] = details | (options.get("metadata") or {})
        options = {"dpi": SAVED_DPI} | options
        if not name.endswith("svg"):
            super().savefig(fname, **options)
            return
        drawn = io.BytesIO()
        super().savefig(drawn, **options | {"format": "svg"})
        # matplotlib keeps the description among its metadata, where no screen reader looks
        description = f"</title>\n <desc>{escape(self.alt_text)}</desc>"
        svg = drawn.getvalue().decode("utf-8").replace("</title>", description, 1).encode("utf-8")
        if hasattr(fname, "write"):
            fname.write(svg)
        else:
            Path(fname).write_bytes(svg)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """What a notebook shows: a PNG with three dots for two pixels, so that it is sharp, with its alt text."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=NOTEBOOK_DPI)
        png = base64.b64encode(buffer.getvalue()).decode("ascii")
        width, height = (round(100 * side) for side in self.inches)
        page = {
            "dark": self.colours is DARK,
            "inches": self.inches,
            "fold": self.fold,
        }  # what a web page may do with it
        details = {"width": width, "height": height, "alt": self.alt_text, "varlen_lab": page}
        return {"image/png": png, "text/plain": self.alt_text}, {"image/png": details}


def fill(axes: Axes, outlines: Any, colours: Any, stroke: Any = 0.0) -> None:
    """Polygons in data coordinates, one collection for all of them; ``stroke`` in points, one or one each."""
    axes.add_collection(
        PolyCollection(outlines, facecolors=colours, edgecolors=colours, linewidths=stroke, joinstyle="miter"),
        autolim=False,
    )


def hatch(axes: Axes, outline: np.ndarray, colours: Theme, stroke: float = 0.0) -> Polygon:
    """One hatched polygon: cells of another document, or tokens that are waste."""
    patch = Polygon(outline, closed=True, facecolor=colours.cross, edgecolor=colours.cross_ink, linewidth=stroke)
    patch.set(hatch=HATCH, joinstyle="miter", hatch_linewidth=0.6)
    axes.add_patch(patch)
    return patch


def lines(axes: Axes, segments: np.ndarray, colour: str, width: float = STROKE, **style: Any) -> LineCollection:
    """Line segments in data coordinates, float (n, 2, 2)."""
    drawn = LineCollection(list(segments), colors=colour, linewidths=width, **style)
    axes.add_collection(drawn, autolim=False)
    return drawn


def segments(x1: Any, y1: Any, x2: Any, y2: Any) -> np.ndarray:
    """Line segments from (x1, y1) to (x2, y2), float64 (n, 2, 2), from coordinates that broadcast."""
    x1, y1, x2, y2 = np.broadcast_arrays(*(np.atleast_1d(value) for value in (x1, y1, x2, y2)))
    return np.stack([np.stack([x1, y1], -1), np.stack([x2, y2], -1)], 1).astype(float)


def boxes(left: Any, right: Any, top: Any, bottom: Any) -> np.ndarray:
    """Outlines of rectangles, float64 (n, 4, 2), from edges that broadcast."""
    left, right, top, bottom = np.broadcast_arrays(*(np.atleast_1d(edge) for edge in (left, right, top, bottom)))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1).astype(float)


@lru_cache(maxsize=1)
def fonts() -> list[str]:
    """Our font, then those of this machine that know Chinese, so that a document may have a Chinese name."""
    installed = {font.name for font in fontManager.ttflist}
    if not installed.intersection(CHINESE_FONTS):  # matplotlib keeps its list from before one was installed
        for path in findSystemFonts():
            if CHINESE_FILES.match(Path(path).name):
                with suppress(OSError, RuntimeError):  # no font after all
                    fontManager.addfont(path)
        installed = {font.name for font in fontManager.ttflist}
    known = [name for name in CHINESE_FONTS if name in installed]
    for name in known:  # one without bold letters stands in for them: matplotlib would take it too, with a warning
        faces = [font for font in fontManager.ttflist if font.name == name]
        if all(face.weight != BOLD for face in faces):
            fontManager.ttflist.append(replace(faces[0], weight=BOLD))
    return [FONT, *known]


def chinese_font() -> str | None:
    """The first font of this machine that knows Chinese, or None."""
    return next(iter(fonts()[1:]), None)


@contextmanager
def inking() -> Iterator[None]:
    """Inside the block, or the function below it, words are said to be drawn: English where no font has the signs."""
    with speaking("en" if spoken() == "zh" and not chinese_font() else spoken()):
        yield


def inked(message: str, /, **values: Any) -> str:
    """``say`` for words that are drawn: English where no font of this machine has the signs."""
    with inking():
        return say(message, **values)


def part_by_part(caption: str) -> str:
    """A caption in the language spoken: as a whole, or of its parts between ``·`` those that have words in it."""
    return said if (said := phrase(caption)) != caption else " · ".join(map(phrase, caption.split(" · ")))


def lettering(colour: str, **more: Any) -> dict[str, Any]:
    """Keyword arguments of small type for matplotlib's own text functions."""
    style = {"fontsize": SMALL, "family": fonts(), "va": "center_baseline", "color": colour}
    return style | more


def label(axes: Axes, x: float, y: float, words: str, colour: str, paper: str | None = None, **style: Any) -> None:
    """Small type centred on a place in data coordinates, on a box of the colour ``paper`` if it is given."""
    frame = None if paper is None else {"facecolor": paper, "edgecolor": "none", "pad": 1.5}
    axes.text(x, y, words, bbox=frame, **lettering(colour, **{"ha": "center"} | style))


def quiet_axes(axes: Axes, colours: Theme, **ticks: Any) -> None:
    """Horizontal guides, small numbers and no box; ``ticks`` as matplotlib's ``tick_params`` takes them."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=colours.line, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=colours.quiet, labelfontfamily=fonts(), **ticks)


def one_line(words: str) -> str:
    """Somebody else's text on one line, its dollar signs not taken for mathematics."""
    return as_text(" ".join(words.split()))


def as_text(words: str) -> str:
    r"""Somebody else's text as matplotlib draws it: every character of it can be written, no dollar is mathematics.

    >>> print(as_text("a\x1b $5"), as_text(as_text("$5")))
    a\x1b \$5 \$5
    """
    return UNESCAPED.sub(r"\\$", legible(words))


@lru_cache(maxsize=4096)
def text_width(words: str, size: float = BODY, weight: str = "normal") -> float:
    """Width of one line of text in inches."""
    if not words.strip():
        return 0.0
    path = TextPath((0, 0), as_text(words), size=size, prop=FontProperties(family=fonts(), weight=weight))
    drawn = path.vertices[path.codes != TextPath.CLOSEPOLY, 0]  # exact extents of the curves would cost ten times more
    return float(np.ptp(drawn)) / 72 if len(drawn) else 0.0


def shorten(words: str, width: float, size: float = BODY) -> str:
    """The text, or as much of it as fits in ``width`` inches with an ellipsis; '' when nothing does."""
    if text_width(words, size) <= width:
        return words
    for end in range(len(words) - 1, 1, -1):
        if text_width(words[:end].rstrip() + "…", size) <= width:
            return words[:end].rstrip() + "…"
    return ""
