"""The calculator of ``packing.count_steps`` with sliders, and a picture of what the steps did to a loss.

    explore_steps(documents_per_row=5.4)
    draw_held_out({"unpacked, 64 steps": 6.17, "packed, 13 steps": 6.72})

Where widgets cannot run, the calculator is the count itself; kept in a notebook it is the table of its first state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import listed, phrase, say
from varlen_lab.packing.steps import count_steps
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

ROW, BAR = 0.44, 0.5  # inches a run takes, share of it that is bar
HEAD, FOOT, RIGHT = 0.92, 0.30, 0.75  # inches
SLIDERS = {  # an argument of count_steps, and what stands before its slider
    "documents": "documents",
    "documents_per_row": "documents per row",
    "batch_size": "batch size",
    "accumulative_counts": "accumulative counts",
    "epochs": "epochs",
    "learning_rate": "learning rate",
}
DOCUMENTS = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000]
PER_ROW = [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100]
FEW = [1, 2, 4, 8, 16, 32, 64, 128]
EPOCHS = [1, 2, 3, 4, 5, 10]
RATES = [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3]


def explore_steps(
    documents: int = 1_000,
    documents_per_row: float = 5,
    batch_size: int = 1,
    accumulative_counts: int = 16,
    epochs: int = 3,
    learning_rate: float = 2e-5,
) -> Any:
    """``count_steps`` with a slider for each argument; the count itself where widgets cannot run.

    Raises InputError for what ``count_steps`` refuses.
    """
    start = count_steps(documents, documents_per_row, batch_size, accumulative_counts, epochs, learning_rate)
    try:
        import ipywidgets
    except ModuleNotFoundError:  # pip install varlen_lab[notebooks]
        return start

    choices: dict[str, list[Any]] = {
        "documents": DOCUMENTS,
        "documents_per_row": PER_ROW,
        "batch_size": FEW,
        "accumulative_counts": FEW,
        "epochs": EPOCHS,
        "learning_rate": RATES,
    }
    sliders = {name: slider(name, values, getattr(start, name)) for name, values in choices.items()}
    shown = ipywidgets.HTML(start._repr_html_())

    def update(_change: Any) -> None:
        shown.value = count_steps(**{name: each.value for name, each in sliders.items()})._repr_html_()

    for each in sliders.values():
        each.observe(update, "value")

    class Calculator(ipywidgets.VBox):  # type: ignore[misc]
        """Sliders over a table; beside the widget its first table, for GitHub and a closed kernel."""

        def _repr_mimebundle_(self, **options: Any) -> Any:
            widget = super()._repr_mimebundle_(**options) or {}
            return {**widget, "text/html": start._repr_html_(), "text/plain": str(start)}

    return Calculator([*sliders.values(), shown])


def slider(name: str, values: list[Any], value: Any) -> Any:
    """A slider over a few numbers, ``value`` among them."""
    import ipywidgets

    options = [(f"{each:,.3g}" if each < 1000 else f"{each:,}", each) for each in sorted({*values, value})]
    wide = {"description_width": "11em"}
    words = phrase(SLIDERS[name])
    return ipywidgets.SelectionSlider(
        options=options, value=value, description=words, style=wide, layout=ipywidgets.Layout(width="30em")
    )


def draw_held_out(losses: Mapping[str, float], *, caption: str = "", dark: bool = False) -> Figure:
    """Held-out losses of several runs as bars from the first run's: hatched where it is higher, plain where lower.

    ``losses``: what to call a run -> its loss. Raises InputError for fewer than two runs and what is no finite number.
    """
    runs = checked_runs(losses)
    names = [style.shorten(style.one_line(inked(name)), style.WIDTH / 2) for name in runs]
    values = np.array(list(runs.values()))
    gaps = values - values[0]
    colours = style.theme(dark)
    with style.inking():
        title = headline(gaps)
    height = HEAD + ROW * len(names) + FOOT
    picture = style.Picture(style.WIDTH, height, colours, title, alt_text_held_out(losses, caption=caption))
    picture.write(0.10, 0.30, title, style.TITLE, weight="bold")
    picture.write(
        0.10, 0.56, inked("held-out loss, and how far from {name}", name=names[0]), style.CLAIM, color=colours.quiet
    )
    left = 0.10 + max(style.text_width(name) for name in names) + 0.15
    span = max(float(np.ptp(np.append(gaps, 0))), 1e-6)
    limits: dict[str, tuple[float, float]] = {
        "xlim": (min(gaps.min(), 0) - 0.02 * span, max(gaps.max(), 0) + 0.02 * span),
        "ylim": (len(names), 0.0),
    }
    axes = picture.panel(left, HEAD, style.WIDTH - RIGHT - left, ROW * len(names), frame=False, **limits)
    for row, (name, value, gap) in enumerate(zip(names, values, gaps, strict=True)):
        foot = HEAD + ROW * (row + 0.5) + 0.05
        picture.write(0.10, foot, name)
        bar = style.boxes(min(gap, 0), max(gap, 0), row + 0.5 - BAR / 2, row + 0.5 + BAR / 2)
        if gap > 0:
            style.hatch(axes, bar[0], colours, stroke=0.8)
        else:
            style.fill(axes, bar, colours.own)
        words = f"{value:.2f}" if not row else f"{value:.2f}  ({gap:+.2f})"
        at = max(gap, 0.0)
        inside = gap > 0.6 * limits["xlim"][1]
        place: dict[str, Any] = {"xycoords": "data", "textcoords": "offset points", "xytext": (-6 if inside else 6, 0)}
        font = style.lettering(colours.ink, ha="right" if inside else "left")
        note = axes.annotate(words, (at, row + 0.5), **place, **font)
        if inside:
            note.set_bbox({"facecolor": colours.page, "edgecolor": "none", "pad": 1.5})
    axes.axvline(0, color=colours.ink, linewidth=1.0)
    if caption:
        picture.write_caption(0.10, caption)
    return picture


def checked_runs(losses: Any) -> dict[str, float]:
    """Names and finite losses, or an InputError."""
    if not isinstance(losses, Mapping) or len(losses) < 2:
        raise InputError("two runs at least are compared; pass {'unpacked': 2.51, 'packed': 2.68}.")
    try:
        runs = {str(name): float(value) for name, value in losses.items()}
    except (TypeError, ValueError):
        raise InputError(f"each run has one loss, a number; these are {list(losses.values())!r}.") from None
    if not np.isfinite(list(runs.values())).all():
        raise InputError("a loss is nan or infinite, there is nothing to draw; leave that run out.")
    return runs


def headline(gaps: np.ndarray) -> str:
    """What the bars say: the largest step up, or that there is none."""
    if gaps.max() <= 0:
        return say("The same documents, stepped differently: none is worse")
    return say("The same documents, stepped differently: up to {most:.2f} nats worse", most=gaps.max())


def alt_text_held_out(losses: Mapping[str, float], *, caption: str = "") -> str:
    """What ``draw_held_out`` shows, in words, for a reader who does not see it."""
    runs = checked_runs(losses)
    first = next(iter(runs.values()))
    named = [f"{phrase(name)} {value:.2f} ({value - first:+.2f})" for name, value in list(runs.items())[1:]]
    bars = listed([f"{phrase(next(iter(runs)))} {first:.2f}", *named])
    return say("Bars of held-out losses: {bars}. {caption}", bars=bars, caption=style.part_by_part(caption)).strip()
