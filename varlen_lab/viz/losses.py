"""Three losses and what separates them: the curves above, the paired differences to unpacked below.

The rule: the modes trained on the same documents in the same steps, so step i of one is compared with step i
of another, and nothing is smoothed. The difference axis is logarithmic away from zero on both sides, so that
rounding (1e-7) and leakage (1e-1) show in one panel. The title says what the numbers say, whatever they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from varlen_lab.errors import InputError, plural
from varlen_lab.viz import style

Losses = Mapping[str, Sequence[float] | Sequence[Sequence[float]]]  # mode -> one number per step, or several runs

REFERENCE = "unpacked"
LEFT, RIGHT, HEAD, CURVES, BETWEEN, DIFFERENCES, FOOT = 0.72, 0.95, 0.88, 2.35, 0.42, 1.55, 0.72  # inches
ROUNDING = 1e-4  # two recipes that do the same differ by less, in nats of fp32
COUNTS = {2: "Two", 3: "Three", 4: "Four"}
VARLEN_SHARE, PACKED_GAP = 0.01, 1e-3  # the claim needs a varlen gap below 1 % of the packed gap, and that above 0.001


def draw_losses(losses: Losses, *, caption: str = "", dark: bool = False, reference: str = REFERENCE) -> Figure:
    """Loss curves by mode, and each mode minus ``reference``, step by step.

    ``losses``: mode -> loss of every optimizer step, all equally long; unpacked, packed, varlen, or others. A mode
    may also have a list of runs, one per seed, the same seeds in the same order for every mode: lines are then
    means, bands reach from the lowest run to the highest, and differences are taken seed by seed.
    ``caption``: what it was measured on (backend, device, dtype, seed).
    Raises InputError for what cannot be drawn.
    """
    curves = check_losses(losses, reference)
    gaps = differences(curves, reference)
    colours = style.theme(dark)
    height = HEAD + CURVES + FOOT + (BETWEEN + DIFFERENCES if gaps else 0)
    title, claim = headline(gaps, curves, reference)
    alt_text = alt_text_losses(losses, caption=caption, reference=reference)
    picture = style.Picture(style.WIDTH, height, colours, title, alt_text)
    picture.write(LEFT, 0.30, title, style.TITLE, weight="bold")
    picture.write(LEFT, 0.56, claim, style.CLAIM, color=colours.quiet)
    names = as_drawn(curves, reference)
    runs, count = next(iter(curves.values())).shape
    steps = np.arange(1, count + 1)

    width = style.WIDTH - LEFT - RIGHT
    axes = picture.panel(LEFT, HEAD, width, CURVES)
    for mode, values in curves.items():
        draw_curve(axes, steps, values, names[mode], colours)
    name_axes(axes, colours, "loss", steps)
    if runs > 1:
        words = f"mean of {runs} runs, band from lowest to highest"
        axes.set_title(words, loc="left", pad=5, **style.lettering(colours.quiet, va="baseline"))
    name_ends(axes, curves, names, colours)
    if gaps:
        axes.tick_params(labelbottom=False)
        axes = picture.panel(LEFT, HEAD + CURVES + BETWEEN, width, DIFFERENCES)
        axes.axhline(0, color=colours.quiet, linewidth=0.8, zorder=1)
        for mode, values in gaps.items():
            draw_curve(axes, steps, values, names[mode], colours)
        name_axes(axes, colours, "", steps)
        scale_symlog(axes, list(gaps.values()))
        words = f"difference to {reference}, each step" + (" of each run" if runs > 1 else "")
        axes.set_title(words, loc="left", pad=5, **style.lettering(colours.quiet, va="baseline"))
        name_ends(axes, gaps, names, colours)
    axes.set_xlabel("optimizer step", **style.lettering(colours.quiet, va="top"))
    if caption:
        picture.write_caption(LEFT, caption)
    return picture


def alt_text_losses(losses: Losses, *, caption: str = "", reference: str = REFERENCE) -> str:
    """What ``draw_losses`` shows, in words, for a reader who does not see it."""
    curves = check_losses(losses, reference)
    runs, steps = next(iter(curves.values())).shape
    means = {mode: mean_over_runs(values) for mode, values in curves.items()}
    ends = ", ".join("{} from {:.3g} to {:.3g}".format(mode, *first_and_last(values)) for mode, values in means.items())
    gaps = [
        f"{mode} differs from {reference} by at most {largest_text(gap)}"
        for mode, gap in differences(curves, reference).items()
    ]
    seeds = f", means and ranges of {runs} runs" if runs > 1 else ""
    words = f"Loss curves over {plural(steps, 'step')}{seeds}: {ends}. "
    if gaps:
        words += "; ".join(gaps).capitalize() + ". "
    return (words + caption).strip()


def check_losses(losses: Losses, reference: str = REFERENCE) -> dict[str, np.ndarray]:
    """The curves as float arrays (runs, steps), in the given order with ``reference`` first, or an InputError."""
    if not isinstance(losses, Mapping) or not losses:
        raise InputError("there are no losses to draw; pass {'unpacked': [...], 'packed': [...], 'varlen': [...]}.")
    curves = {}
    for mode in sorted(losses, key=lambda name: name != reference):
        try:
            curves[mode] = np.atleast_2d(np.asarray(losses[mode], dtype=float))
        except (TypeError, ValueError):
            raise InputError(
                f"the losses of {mode!r} are not numbers, or its runs not equally long; pass one float per step."
            ) from None
        if curves[mode].ndim != 2 or not curves[mode].size:
            shape = np.shape(losses[mode])
            raise InputError(f"{mode!r} has losses of shape {shape}, it needs one number per step, or a list of runs.")
        if not np.isfinite(curves[mode]).any():
            raise InputError(f"the losses of {mode!r} are all nan or infinite, there is nothing to draw.")
    for axis, noun in ((1, "steps"), (0, "runs")):
        if len({values.shape[axis] for values in curves.values()}) > 1:
            counts = ", ".join(f"{mode} {values.shape[axis]}" for mode, values in curves.items())
            raise InputError(f"the modes have different numbers of {noun} ({counts}); compare as many of each.")
    return curves


def mean_over_runs(values: np.ndarray) -> np.ndarray:
    """The mean over runs, float (steps,); nan or infinite where a run is."""
    with np.errstate(invalid="ignore"):
        return values.mean(axis=0)


def first_and_last(values: np.ndarray) -> tuple[float, float]:
    """The ends of a curve, without steps that have no loss; nan only if none has one."""
    finite = values[np.isfinite(values)]
    return (float(finite[0]), float(finite[-1])) if len(finite) else (float("nan"), float("nan"))


def differences(curves: Mapping[str, np.ndarray], reference: str = REFERENCE) -> dict[str, np.ndarray]:
    """Each other mode minus ``reference``, step by step; empty when there is nothing to compare."""
    if reference not in curves:
        return {}
    with np.errstate(invalid="ignore"):
        return {mode: values - curves[reference] for mode, values in curves.items() if mode != reference}


def as_drawn(curves: Mapping[str, np.ndarray], reference: str) -> dict[str, str]:
    """The mode in whose style each curve is drawn: itself, or, beside another reference, in turns.

    Orange is left to what leaks.
    """
    if reference == REFERENCE:
        return {mode: mode for mode in curves}
    others = [mode for mode in curves if mode != reference]
    return {reference: REFERENCE} | {mode: ("varlen", "")[i % 2] for i, mode in enumerate(others)}


def largest(gap: np.ndarray) -> float:
    """The largest absolute difference; nan only if no step can be compared."""
    finite = np.abs(gap[np.isfinite(gap)])
    return float(finite.max()) if len(finite) else float("nan")


def largest_text(gap: np.ndarray) -> str:
    """The largest absolute difference as words."""
    value = largest(gap)
    if value == 0 or value >= 1e-3 or np.isnan(value):
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def headline(
    gaps: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray], reference: str = REFERENCE
) -> tuple[str, str]:
    """The claim that these numbers support, and the numbers."""
    words = f"largest difference to {reference}: " + ",  ".join(
        f"{mode} {largest_text(gap)}" for mode, gap in gaps.items()
    )
    if not gaps:
        (mode, values), *others = curves.items()
        if others:
            return "Loss by step", f"no differences are drawn: that needs {reference} and another mode"
        first, last = first_and_last(mean_over_runs(values))
        return "Loss by step", f"{mode}: from {first:.2f} to {last:.2f} in {values.shape[1]} steps"
    if reference != REFERENCE:
        one = all(largest(gap) <= ROUNDING for gap in gaps.values())
        count = COUNTS.get(len(curves), str(len(curves)))
        return f"{count} recipes, {'one loss curve' if one else 'and their losses differ'}", words
    if {"varlen", "packed"} <= set(gaps):
        varlen, packed = largest(gaps["varlen"]), largest(gaps["packed"])
        if varlen <= VARLEN_SHARE * packed and packed > PACKED_GAP:
            return "Varlen trains like unpacked, packed does not", words
    return "Three ways to train on the same documents" if len(gaps) == 2 else "Loss by mode", words


def draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, mode: str, colours: style.Theme) -> None:
    """The mean of the runs as a line, and what lies between the lowest and the highest as a band."""
    line = curve_style(mode, colours, len(steps))
    axes.plot(steps, mean_over_runs(values), label=mode, **line)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        band: dict[str, Any] = {"color": line["color"], "alpha": 0.22, "linewidth": 0, "zorder": line["zorder"] - 1}
        axes.fill_between(steps, low, high, where=np.isfinite(low) & np.isfinite(high), **band)


def curve_style(mode: str, colours: style.Theme, steps: int) -> dict[str, Any]:
    """How a mode is drawn: unpacked as a broad band under varlen's thin line, packed orange and dashed."""
    line = {
        REFERENCE: {"color": colours.own_soft, "linewidth": 5.0, "zorder": 2},
        "varlen": {"color": colours.own, "linewidth": 1.5, "zorder": 4},
        "packed": {"color": colours.cross_ink, "linewidth": 1.5, "linestyle": (0, (4, 1.5)), "zorder": 3},
    }.get(mode, {"color": colours.third, "linewidth": 1.3, "linestyle": (0, (1, 1)), "zorder": 5})
    return line | {"solid_capstyle": "round"} | ({"marker": "o", "markersize": 4} if steps < 10 else {})


def name_axes(axes: Axes, colours: style.Theme, name: str, steps: np.ndarray) -> None:
    """Steps across, at whole numbers, and ``name`` up the left side."""

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(AutoLocator())
    style.quiet_axes(axes, colours)
    axes.set_ylabel(name, **style.lettering(colours.quiet, va="bottom"))
    axes.set_xlim(1, max(2, len(steps)))


def scale_symlog(axes: Axes, gaps: list[np.ndarray]) -> None:
    """Log away from zero on both sides, linear only below the smallest difference; a few decades as ticks."""

    sizes = np.abs(np.concatenate(gaps, axis=None))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    low, high = (np.floor(np.log10(sizes.min())), np.ceil(np.log10(sizes.max()))) if len(sizes) else (-8, -7)
    # at most twelve decades: what is smaller still reads as 0
    low = int(max(low, high - 12))
    high = int(max(high, low + 1))
    decades = np.arange(high, low - 1, -max(1, round((high - low) / 3)))
    ticks = [
        0.0,
        *(sign * 10.0**decade for sign in (1, -1) for decade in decades if decade > low or high - low == 1),
    ]
    axes.set_yscale("symlog", linthresh=10.0**low, linscale=0.5)
    axes.set_ylim(-(10.0**high) * 1.6, 10.0**high * 1.6)
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(decade_label))


def decade_label(value: float, _position: int = 0) -> str:
    """``+1e-7``, ``0``, ``−0.1``: a tick of the difference axis."""
    if value == 0:
        return "0"
    sign = "+" if value > 0 else "−"
    exponent = round(float(np.log10(abs(value))))
    return sign + (f"{10.0**exponent:g}" if -3 < exponent < 4 else f"1e{exponent}".replace("-", "−"))


def name_ends(axes: Axes, curves: Mapping[str, np.ndarray], names: Mapping[str, str], colours: style.Theme) -> None:
    """Each curve's name at its right end, pushed apart so that none covers another."""
    height = axes.get_window_extent().height / axes.figure.dpi
    step = 0.17 / height  # of the axes, per line of text
    to_axes = axes.transData + axes.transAxes.inverted()
    places = []
    for mode, values in curves.items():
        curve = mean_over_runs(values)
        finite = np.flatnonzero(np.isfinite(curve))
        last = float(curve[finite[-1]]) if len(finite) else 0.0
        places.append((float(to_axes.transform((len(curve), last))[1]), mode))
    places.sort()
    spots: list[float] = []
    for place, _ in places:
        spots.append(max(place, spots[-1] + step) if spots else place)
    # pushing apart moved all of them up; back by the mean, and not out of the panel
    shift = sum(place for place, _ in places) / len(places) - sum(spots) / len(spots)
    shift = max(min(shift, 1.0 - spots[-1]), -spots[0])
    for spot, (_, mode) in zip(spots, places, strict=True):
        name = names[mode]  # in whose style it is drawn
        ink = colours.quiet if name == REFERENCE else curve_style(name, colours, 99)["color"]
        font = style.lettering(ink, fontsize=style.BODY)
        axes.text(
            1.012, spot + shift, style.shorten(style.one_line(mode), RIGHT - 0.1), transform=axes.transAxes, **font
        )
