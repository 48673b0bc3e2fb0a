"""Three losses and what separates them: the curves above, how far each is from unpacked below.

The rule: the modes trained on the same documents in the same steps, so step i of one is compared with step i
of another, and nothing is smoothed. The lower axis is logarithmic, so that rounding (1e-7) and leakage (1e-1) show in
one panel; what two exact runs may differ by is shaded. The title says what the numbers say, whatever they say. Type is
large: a telephone shows the figure at half its width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, listed, phrase, say, spoken
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

Losses = Mapping[str, Sequence[float] | Sequence[Sequence[float]]]  # mode -> one number per step, or several runs

REFERENCE = "unpacked"
LEFT, RIGHT, HEAD, CURVES, BETWEEN, DIFFERENCES, FOOT = 0.85, 1.12, 1.08, 2.3, 0.5, 2.0, 0.92  # inches
LARGE, WORDS, NUMBERS = 16.0, 12.5, 11.5  # points: the title, the sentence and names of curves, numbers at axes
MOST_DOTS = 40  # steps that are marked one by one
ROUNDING = 1e-5  # what the losses of two exact float32 runs may differ by
OF_RECIPES = 1e-4  # two recipes that do the same differ by less, in nats of fp32
MOST_DECADES = 12  # of the lower axis: what is smaller reads as 0
COUNTS = {2: "Two", 3: "Three", 4: "Four"}
VARLEN_SHARE, PACKED_GAP = 0.01, 1e-3  # the claim needs a varlen gap below 1 % of the packed gap, and that above 0.001


def draw_losses(
    losses: Losses,
    *,
    caption: str = "",
    dark: bool = False,
    reference: str = REFERENCE,
    rounding: float | None = None,
) -> Figure:
    """Loss curves by mode, and how far each mode is from ``reference``, step by step.

    ``losses``: mode -> loss of every optimizer step, all equally long; unpacked, packed, varlen, or others. A mode
    may also have a list of runs, one per seed, the same seeds in the same order for every mode: lines are then
    means, bands reach from the lowest run to the highest, and differences are taken seed by seed.
    ``caption``: what it was measured on (backend, device, dtype, seed). ``rounding``: differences up to here are
    shaded as such, by default those of float32; 0 shades none. Raises InputError for what cannot be drawn.
    """
    curves = check_losses(losses, reference)
    gaps = differences(curves, reference)
    colours = style.theme(dark)
    height = HEAD + CURVES + FOOT + (BETWEEN + DIFFERENCES if gaps else 0)
    with style.inking():
        title, claim = headline(gaps, curves, reference)
    alt_text = alt_text_losses(losses, caption=caption, reference=reference)
    picture = style.Picture(style.WIDTH, height, colours, title, alt_text)
    picture.write(LEFT, 0.36, title, LARGE, weight="bold")
    picture.write(LEFT, 0.65, claim, WORDS, color=colours.quiet)
    names = as_drawn(curves, reference)
    runs, count = next(iter(curves.values())).shape
    steps = np.arange(1, count + 1)

    width = style.WIDTH - LEFT - RIGHT
    axes = picture.panel(LEFT, HEAD, width, CURVES)
    for mode, values in curves.items():
        draw_curve(axes, steps, values, names[mode], colours)
    mean = inked("loss, mean of {runs} runs; bands: all of them", runs=runs)
    name_axes(axes, colours, mean if runs > 1 else inked("loss"), steps)
    name_ends(axes, curves, names, colours)
    if gaps:
        axes.tick_params(labelbottom=False)
        axes = picture.panel(LEFT, HEAD + CURVES + BETWEEN, width, DIFFERENCES)
        if rounding is None:
            rounding = ROUNDING if reference == REFERENCE else OF_RECIPES
        sizes = {mode: np.abs(values) for mode, values in gaps.items()}
        floor = scale_log(axes, list(sizes.values()), rounding)
        sizes = {mode: np.maximum(values, floor) for mode, values in sizes.items()}
        for mode, values in sizes.items():
            draw_curve(axes, steps, values, names[mode], colours, dots=True)
        each = (
            "difference to {reference}, each step" if runs == 1 else "difference to {reference}, each step of each run"
        )
        name_axes(axes, colours, inked(each, reference=inked(reference)), steps)
        if rounding > floor:
            shade_rounding(axes, rounding, floor, colours)
        name_ends(axes, sizes, names, colours)
    axes.set_xlabel(inked("optimizer step"), **style.lettering(colours.quiet, va="top", fontsize=NUMBERS))
    if caption:
        picture.write_caption(LEFT, caption)
    return picture


def alt_text_losses(losses: Losses, *, caption: str = "", reference: str = REFERENCE) -> str:
    """What ``draw_losses`` shows, in words, for a reader who does not see it."""
    curves = check_losses(losses, reference)
    runs, steps = next(iter(curves.values())).shape
    means = {mode: mean_over_runs(values) for mode, values in curves.items()}
    ends = []
    for mode, values in means.items():
        first, last = first_and_last(values)
        ends.append(say("{mode} from {first:.3g} to {last:.3g}", mode=phrase(mode), first=first, last=last))
    base = phrase(reference)
    gaps = [
        say("{mode} differs from {base} by at most {most}", mode=phrase(mode), base=base, most=largest_text(gap))
        for mode, gap in differences(curves, reference).items()
    ]
    seeds = say(", means and ranges of {runs} runs", runs=runs) if runs > 1 else ""
    words = say("Loss curves over {steps}{seeds}: {ends}", steps=counted(steps, "step"), seeds=seeds, ends=listed(ends))
    words += say(". ")
    if gaps:
        told = say("; ").join(gaps)
        words += (told.capitalize() if spoken() == "en" else told) + say(". ")
    return (words + style.part_by_part(caption)).strip()


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
    found = say(",  ").join(f"{phrase(mode)} {largest_text(gap)}" for mode, gap in gaps.items())
    words = say("largest difference to {reference}: {found}", reference=phrase(reference), found=found)
    if not gaps:
        (mode, values), *others = curves.items()
        if others:
            needs = phrase(reference)
            return say("Loss by step"), say(
                "no differences are drawn: that needs {reference} and another mode", reference=needs
            )
        first, last = first_and_last(mean_over_runs(values))
        ends = {"mode": phrase(mode), "first": first, "last": last, "steps": values.shape[1]}
        return say("Loss by step"), say("{mode}: from {first:.2f} to {last:.2f} in {steps} steps", **ends)
    if reference != REFERENCE:
        one = all(largest(gap) <= OF_RECIPES for gap in gaps.values())
        count = phrase(COUNTS.get(len(curves), str(len(curves))))
        title = "{count} recipes, one loss curve" if one else "{count} recipes, and their losses differ"
        return say(title, count=count), words
    if {"varlen", "packed"} <= set(gaps):
        varlen, packed = largest(gaps["varlen"]), largest(gaps["packed"])
        if varlen <= VARLEN_SHARE * packed and packed > PACKED_GAP:
            return say("Varlen trains like unpacked, packed does not"), words
    return say("Three ways to train on the same documents" if len(gaps) == 2 else "Loss by mode"), words


def draw_curve(
    axes: Axes, steps: np.ndarray, values: np.ndarray, mode: str, colours: style.Theme, dots: bool = False
) -> None:
    """The mean of the runs as a line, and what lies between the lowest and the highest as a band; a dot a step."""
    line = curve_style(mode, colours, len(steps))
    if dots and len(steps) <= MOST_DOTS:
        line |= {"marker": "o" if mode == "varlen" else "D", "markersize": 4}
    axes.plot(steps, mean_over_runs(values), label=mode, **line)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        band: dict[str, Any] = {"color": line["color"], "alpha": 0.22, "linewidth": 0, "zorder": line["zorder"] - 1}
        axes.fill_between(steps, low, high, where=np.isfinite(low) & np.isfinite(high), **band)


def curve_style(mode: str, colours: style.Theme, steps: int) -> dict[str, Any]:
    """How a mode is drawn: unpacked as a broad band under varlen's thin line, packed orange and dashed."""
    line = {
        REFERENCE: {"color": colours.own_soft, "linewidth": 7.0, "zorder": 2},
        "varlen": {"color": colours.own, "linewidth": 2.0, "zorder": 4},
        "packed": {"color": colours.cross_ink, "linewidth": 2.0, "linestyle": (0, (4, 1.5)), "zorder": 3},
    }.get(mode, {"color": colours.third, "linewidth": 1.6, "linestyle": (0, (1, 1)), "zorder": 5})
    return line | {"solid_capstyle": "round"} | ({"marker": "o", "markersize": 4} if steps < 10 else {})


def name_axes(axes: Axes, colours: style.Theme, name: str, steps: np.ndarray) -> None:
    """Steps across, at whole numbers, numbers up the left side, and what they are in words above."""
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    style.quiet_axes(axes, colours)
    axes.tick_params(labelsize=NUMBERS)
    axes.set_title(name, loc="left", pad=6, **style.lettering(colours.quiet, va="baseline", fontsize=NUMBERS))
    axes.set_xlim(1, max(2, len(steps)))


def scale_log(axes: Axes, sizes: list[np.ndarray], rounding: float) -> float:
    """A logarithmic axis for absolute differences, a tick every few decades; the height at which 0 is drawn."""
    found = np.concatenate(sizes, axis=None)
    found = found[np.isfinite(found) & (found > 0)]
    found = np.append(found, [rounding, 9 * rounding]) if rounding else found  # room above it for its name
    low, high = (np.floor(np.log10(found.min())), np.ceil(np.log10(found.max()))) if len(found) else (-8, -7)
    low = int(max(low, high - MOST_DECADES))
    high = int(max(high, low + 1))
    axes.set_yscale("log")
    axes.set_ylim(10.0 ** (low - 1) / 1.8, 10.0**high * 1.8)
    decades = list(range(high, low - 1, -max(1, round((high - low) / 4))))
    axes.yaxis.set_major_locator(FixedLocator([10.0 ** (low - 1), *(10.0**decade for decade in decades)]))
    axes.yaxis.set_major_formatter(FixedFormatter(["0", *map(decade_label, decades)]))
    axes.yaxis.set_minor_locator(NullLocator())
    return float(10.0 ** (low - 1))


def decade_label(exponent: int) -> str:
    """A tick of the lower axis: ``0.1``, ``1e−7``."""
    return f"{10.0**exponent:g}" if -3 < exponent < 4 else f"1e{exponent}".replace("-", "−")


def shade_rounding(axes: Axes, rounding: float, floor: float, colours: style.Theme) -> None:
    """What two exact runs may differ by, as a field with its name at its upper edge."""
    axes.axhspan(floor / 2, rounding, color=colours.own, alpha=0.1, linewidth=0, zorder=0)
    axes.axhline(rounding, color=colours.own, linewidth=1.0, zorder=1)
    exact = 10.0 ** round(math.log10(rounding))
    limit = decade_label(round(math.log10(rounding))) if math.isclose(rounding, exact) else f"{rounding:.1g}"
    words = inked("rounding: up to {limit}", limit=limit)
    font = style.lettering(colours.own, va="bottom", ha="left", fontsize=NUMBERS)
    place = (0.012, rounding * 1.25)
    axes.text(*place, words, transform=axes.get_yaxis_transform(), **font)


def name_ends(axes: Axes, curves: Mapping[str, np.ndarray], names: Mapping[str, str], colours: style.Theme) -> None:
    """Each curve's name at its right end, pushed apart so that none covers another."""
    height = axes.get_window_extent().height / axes.figure.dpi
    step = 0.21 / height  # of the axes, per line of text
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
        font = style.lettering(ink, fontsize=WORDS)
        axes.text(
            1.015,
            spot + shift,
            style.shorten(style.one_line(inked(mode)), RIGHT - 0.15, WORDS),
            transform=axes.transAxes,
            **font,
        )
