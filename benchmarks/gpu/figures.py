"""The pictures of the report, from the cells that counted: ``kernels.png``, ``training.png``, ``parity.png``.

``mask.png`` and ``three_losses.png`` are drawn by their sections. All in the visual language of ``varlen_lab.viz``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.bench import varlen_kernels
from benchmarks.gpu.store import Cell
from varlen_lab.viz.style import (
    BODY,
    CLAIM,
    LIGHT,
    SMALL,
    TITLE,
    WIDTH,
    Picture,
    boxes,
    fill,
    fonts,
    hatch,
    lettering,
    lines,
    shorten,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = Mapping[tuple[str, str], Cell]
CROSSING = ("full causal", "C packed")  # answers another question: it crosses seams
BAR, STEP = 0.17, 0.30  # inches


def draw_all(folder: Path, cells: Cells, caption: str) -> dict[str, str]:
    """Draw what there are cells for; file name -> alt text."""
    drawn = {}
    for name, draw in FIGURES.items():
        figure = draw(cells, caption)
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            drawn[name] = figure.alt_text
    return drawn


def section(cells: Cells, name: str) -> list[Cell]:
    return [cell for (where, _), cell in cells.items() if where == name and cell["status"] == "ok"]


def draw_kernels(cells: Cells, caption: str) -> Picture | None:
    """TFLOP/s of forward and backward, one panel a head width, one line a kernel over the mixes of documents."""
    found = section(cells, "kernels")
    if not found:
        return None
    mixes = list(dict.fromkeys(cell["mix"] for cell in found))
    mixes.sort(key=lambda mix: float(mix.split()[-1].replace(",", "")))
    widths = sorted({cell["width"] for cell in found})
    kernels = list(dict.fromkeys(cell["kernel"] for cell in found))
    value = {(cell["width"], cell["kernel"], cell["mix"]): cell["both_tflops"] for cell in found}
    best = max(value, key=lambda key: value[key] if key[1] in (*varlen_kernels(), "sdpa, each document") else 0)
    claim = f"fastest inside documents: {best[1]} with {value[best]:.4g} TFLOP/s on documents of {best[2]}"
    alt = f"TFLOP/s on the pairs inside documents, forward and backward; {claim}. " + "; ".join(
        f"{kernel}, width {width}: "
        + ", ".join(f"{value[width, kernel, mix]:.4g}" for mix in mixes if (width, kernel, mix) in value)
        for width in widths
        for kernel in kernels
        if any((width, kernel, mix) in value for mix in mixes)
    )
    picture = Picture(WIDTH, 3.75, LIGHT, "How fast the kernels are", alt)
    picture.write(0.55, 0.30, "How fast the kernels are", TITLE, weight="bold")
    picture.write(0.55, 0.54, shorten(claim, WIDTH - 0.7, CLAIM), CLAIM, color=LIGHT.quiet)
    names = max(text_width(kernel, SMALL) for kernel in kernels) + 0.12
    each = (WIDTH - 0.55 - 0.1) / len(widths)
    top = max(value.values()) * 1.08
    for number, width in enumerate(widths):
        left = 0.55 + number * each
        axes = picture.panel(left, 1.0, each - names - 0.45 * (number + 1 < len(widths)), 2.05)
        axes.set(xlim=(-0.2, len(mixes) - 0.8), ylim=(0, top))
        axes.set_title(f"heads of {width}", loc="left", pad=6, **lettering(LIGHT.ink, va="baseline"))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xticks(range(len(mixes)), [mix.replace("lognormal ", "~") for mix in mixes])
        numbered(axes)
        ends: list[tuple[float, str]] = []
        for kernel in kernels:
            places = [i for i, mix in enumerate(mixes) if (width, kernel, mix) in value]
            if not places:
                continue
            heights = [value[width, kernel, mixes[i]] for i in places]
            curve(axes, places, heights, kernel)
            ends.append((heights[-1], kernel))
        ends.sort()
        for place, (_, kernel) in zip(spread([height for height, _ in ends], top * 0.075), ends):
            words = {"xycoords": "data", "annotation_clip": False}
            at = (len(mixes) - 0.8 + 0.06 * len(mixes) / 4, place)
            axes.annotate(kernel, at, **words, **lettering(colour_of(kernel), ha="left"))  # type: ignore[arg-type]
    picture.write(
        0.55,
        3.38,
        "TFLOP/s on the pairs inside documents, by tokens of a document (~ lognormal)",
        SMALL,
        color=LIGHT.quiet,
    )
    picture.write(0.55, 3.60, shorten(caption, WIDTH - 0.7, SMALL), SMALL, color=LIGHT.quiet)
    return picture


def curve(axes: Axes, places: list[int], heights: list[float], kernel: str) -> None:
    """A line with a mark at each mix; what crosses seams is dashed."""
    points = np.stack([np.asarray(places, float), np.asarray(heights)], -1)
    style = {"linestyles": "dashed"} if kernel in CROSSING else {}
    lines(axes, np.stack([points[:-1], points[1:]], 1), colour_of(kernel), **style)
    mark = "o" if kernel in varlen_kernels() else "s"
    axes.plot(places, heights, mark, markersize=4, color=colour_of(kernel), clip_on=False)


def colour_of(kernel: str) -> str:
    """Own documents blue, across seams orange, the rest grey."""
    if kernel in CROSSING:
        return LIGHT.cross_ink
    return LIGHT.own if kernel in (*varlen_kernels(), "D varlen") else LIGHT.quiet


def spread(values: list[float], apart: float) -> list[float]:
    """Ascending places for labels, at least ``apart`` from each other, near their values."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + apart) if places else value)
    return places


def numbered(axes: Axes) -> None:
    """Small numbers and a light grid for a value axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=LIGHT.line, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=LIGHT.quiet, labelfontfamily=fonts())


def draw_training(cells: Cells, caption: str) -> Picture | None:
    """Real tokens a second of each way to feed the same documents; and what varlen gains over packed-full by row."""
    found = section(cells, "training")
    if not found:
        return None
    small, middle = found[0]["model"], found[0]["row"]
    same = [cell for cell in found if (cell["model"], cell["row"]) == (small, middle)]
    bars = [(way(cell), cell["tokens_per_second"], cell) for cell in same]
    bars += [(cell["cell"], cell["tokens_per_second"], cell) for cell in section(cells, "peers")]
    bars.sort(key=lambda bar: -bar[1])
    gains = gains_by_row(found, small)
    claim = headline({cell["mode"]: cell["tokens_per_second"] for cell in same if not cell["compiled"]}, middle)
    alt = f"{claim}. " + "; ".join(f"{name}: {shown(rate)} tokens a second" for name, rate, _ in bars)
    alt += ". Varlen over packed-full by row length: " + ", ".join(f"{row:,}: {gain:.2f}" for row, gain in gains)
    height = 0.95 + STEP * max(len(bars), 4) + 0.5
    picture = Picture(WIDTH, height, LIGHT, "The same documents, fed in different ways", alt)
    picture.write(0.2, 0.30, "The same documents, fed in different ways", TITLE, weight="bold")
    picture.write(0.2, 0.54, shorten(claim, WIDTH - 0.3, CLAIM), CLAIM, color=LIGHT.quiet)
    names = max(text_width(name, BODY) for name, *_ in bars) + 0.32
    right = 2.0 if gains else 0.0
    width = WIDTH - names - 0.95 - right
    picture.write(
        0.2, 0.86, f"{small}, rows of {middle:,}: real tokens a second, peak memory", SMALL, color=LIGHT.quiet
    )
    axes = picture.panel(names, 0.95, width, STEP * len(bars))
    axes.set(xlim=(0, max(rate for _, rate, _ in bars)), ylim=(len(bars), 0))
    axes.spines[:].set_visible(False)
    for number, (name, rate, cell) in enumerate(bars):
        base = 0.95 + STEP * (number + 0.5)
        middle_ = number + 0.5
        outline = boxes(0, rate, middle_ - BAR / STEP / 2, middle_ + BAR / STEP / 2)
        mode = cell.get("mode", "")
        if mode in CROSSING:
            hatch(axes, outline[0], LIGHT)
        else:
            fill(axes, outline, LIGHT.own if mode == "D varlen" else LIGHT.line)
        picture.write(names - 0.1, base, name, BODY, ha="right", va="center_baseline")
        memory = f" · {cell['peak_gib']:.0f} GiB" if cell.get("peak_gib") else ""
        end = names + width * rate / axes.get_xlim()[1] + 0.06
        picture.write(end, base, shown(rate) + memory, SMALL, va="center_baseline", color=LIGHT.quiet)
    if gains:
        draw_gains(picture, gains, WIDTH - right + 0.25, 0.95, right - 0.45, STEP * len(bars) - 0.25)
    picture.write(0.2, height - 0.15, shorten(caption, WIDTH - 0.3, SMALL), SMALL, color=LIGHT.quiet)
    return picture


def way(cell: Cell) -> str:
    return cell["mode"][2:] + (", compiled" if cell["compiled"] else "") + recomputed(cell)


def recomputed(cell: Cell) -> str:
    return "" if cell["recomputed"] == "nothing" else f", {cell['recomputed']} recomputed"


def shown(rate: float) -> str:
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"


def headline(rates: dict[str, float], row: int) -> str:
    """Varlen against the honest baselines, whatever it says."""
    words = {"A padded": "padded", "B grouped": "grouped by length", "C packed": "packed without seams"}
    mine = rates.get("D varlen")
    parts = [f"{mine / rates[mode]:.2f}× {name}" for mode, name in words.items() if mine and mode in rates]
    return f"tokens a second of varlen: {', '.join(parts)}" if parts else f"rows of {row:,}"


def gains_by_row(found: list[Cell], model: str) -> list[tuple[int, float]]:
    rates = {(c["mode"], c["row"]): c["tokens_per_second"] for c in found if c["model"] == model and not c["compiled"]}
    rows = sorted({row for _, row in rates})
    pairs = [(row, rates.get(("D varlen", row)), rates.get(("C packed", row))) for row in rows]
    return [(row, mine / full) for row, mine, full in pairs if mine and full]


def draw_gains(
    picture: Picture, gains: list[tuple[int, float]], left: float, top: float, width: float, height: float
) -> None:
    """A bar a row length; the line is 1, where nothing is gained."""
    picture.write(left, 0.86, "varlen over packed, by row", SMALL, color=LIGHT.quiet)
    axes = picture.panel(left, top, width, height)
    axes.set(xlim=(-0.5, len(gains) - 0.5), ylim=(0, max(1.2, *(gain for _, gain in gains)) * 1.2))
    axes.spines[["top", "right", "left"]].set_visible(False)
    for number, (_, gain) in enumerate(gains):
        fill(axes, boxes(number - 0.3, number + 0.3, 0, gain), LIGHT.own)
        axes.text(number, gain + axes.get_ylim()[1] * 0.05, f"{gain:.2f}×", **lettering(LIGHT.ink, ha="center"))
    axes.axhline(1, color=LIGHT.ink, linewidth=0.8, linestyle="dotted")
    axes.set_xticks(range(len(gains)), [f"{row // 1024}k" if row >= 1024 else str(row) for row, _ in gains])
    axes.tick_params(labelsize=SMALL, colors=LIGHT.quiet, labelfontfamily=fonts())


def draw_parity(cells: Cells, caption: str) -> Figure | None:
    """The three losses of the parity section."""
    from varlen_lab.viz.losses import draw_losses

    cell = cells.get(("parity", "three losses"))
    if cell is None or cell["status"] != "ok":
        return None
    return draw_losses(cell["losses"], caption=cell["caption"])


FIGURES: dict[str, Callable[[Cells, str], Any]] = {
    "kernels.png": draw_kernels,
    "training.png": draw_training,
    "parity.png": draw_parity,
}
