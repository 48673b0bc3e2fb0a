"""How fast: kernels over lengths of documents as curves, ways to feed the same documents as bars.

Blue stays inside documents, hatched or dashed orange crosses seams and so answers another question, grey is the rest.
Speeds stand on a logarithmic axis, where equal distances are equal ratios; bars start at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.language.saying import capital, listed, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

Speeds = Mapping[str, Mapping[str, Sequence[float | None]]]  # panel -> kernel -> one speed a mix, None: not measured
Roles = Mapping[str, str]  # kernel -> own, crossing or other
LEFT, EDGE, HEAD, PANEL, BETWEEN, FOOT = 0.62, 0.20, 1.05, 2.1, 0.56, 0.86  # inches
LETTER = 0.185  # inches between two names
MARKS = {"own": "o^DvP", "crossing": "X", "other": "sd<p"}  # by role, one kernel after the other
WHAT = "TFLOP/s on the pairs inside documents, forward and backward, by tokens of a document"
STEP, BAR, GAINS = 0.36, 0.22, 2.35  # inches: from bar to bar, a bar, the panel of gains
NOTE = 2.2  # inches, at most, of what stands behind a bar


class Rate(NamedTuple):
    """One bar: ``value`` a second, a ``note`` behind the number, and what it does with seams (``own``, ...)."""

    name: str
    value: float
    note: str = ""
    role: str = "other"


def draw_speeds(speeds: Speeds, mixes: Sequence[str], roles: Roles, *, caption: str = "", dark: bool = False) -> Figure:
    """A panel a head dim, a curve a kernel, over the mixes of documents.

    ``speeds``: panel -> kernel -> TFLOP/s of each of ``mixes``, None where it was not measured. ``roles``: kernel ->
    ``own``, ``crossing`` or ``other`` (which is also what a kernel without a role is). ``caption``: what it was
    measured on. Raises InputError for what cannot be drawn.
    """
    told = alt_text_speeds(speeds, mixes, roles)
    colours, count = style.theme(dark), len(speeds)
    height = HEAD + count * PANEL + (count - 1) * BETWEEN + FOOT
    picture = style.Picture(style.WIDTH, height, colours, say("How fast the kernels are"), told)
    with style.inking():
        write_head(picture, say("How fast the kernels are"), fastest(speeds, mixes, roles))
    names = list(dict.fromkeys(kernel for _, kernel, _ in lines_of(speeds)))
    room = min(3.0, max(style.text_width(f"{inked(name)} 0000", style.BODY) for name in names) + 0.42)
    measured = [value for *_, line in lines_of(speeds) for value in line if value]
    low, high = min(measured) / 1.3, max(measured) * 1.15
    for number, (title, panel) in enumerate(speeds.items()):
        top = HEAD + number * (PANEL + BETWEEN)
        axes = picture.panel(LEFT, top, style.WIDTH - LEFT - room, PANEL, ylim=(low, high))
        axes.set(yscale="log", xlim=(-0.15, len(mixes) - 0.85))
        axes.set_title(
            inked(title), loc="left", pad=6, **style.lettering(colours.ink, va="baseline", fontsize=style.BODY)
        )
        axes.set_xticks(range(len(mixes)), [style.one_line(inked(mix)) for mix in mixes])
        name_values(axes, colours, low, high)
        draw_curves(axes, panel, names, roles, colours)
    picture.write(
        EDGE, height - 0.36, inked("{what} (logarithmic)", what=inked(WHAT)), style.SMALL, color=colours.quiet
    )
    picture.write_caption(EDGE, caption, above=0.14)
    return picture


def write_head(picture: style.Picture, title: str, claim: str) -> None:
    """Title and headline."""
    picture.write(EDGE, 0.32, title, style.TITLE, weight="bold")
    claim = style.shorten(claim, style.WIDTH - 0.3, style.CLAIM)
    picture.write(EDGE, 0.60, claim, style.CLAIM, color=picture.colours.quiet)


def alt_text_speeds(speeds: Speeds, mixes: Sequence[str], roles: Roles) -> str:
    """What ``draw_speeds`` shows, in words, for a reader who does not see it."""
    lines = lines_of(speeds)
    for _, kernel, line in lines:
        if len(line) != len(mixes):
            raise InputError(f"{kernel} has {len(line)} speeds for {len(mixes)} mixes; give one each, or None.")
        check_values(kernel, roles.get(kernel, "other"), [value for value in line if value is not None])
    if not any(value is not None for *_, line in lines for value in line):
        raise InputError("there is no speed to draw; give at least one kernel with one number.")
    numbers = [
        say(
            "{name}, {title}: {speeds}",
            name=phrase(name),
            title=phrase(title),
            speeds=listed(f"{x:.4g}" for x in line if x),
        )
        for title, name, line in lines
    ]
    return say(
        "{what} ({mixes}). {fastest}. {numbers}.",
        what=say(WHAT),
        mixes=listed(map(phrase, mixes)),
        fastest=fastest(speeds, mixes, roles),
        numbers=say("; ").join(numbers),
    )


def lines_of(speeds: Speeds) -> list[tuple[str, str, Sequence[float | None]]]:
    """(panel, kernel, its speeds), one after the other."""
    return [(title, kernel, line) for title, panel in speeds.items() for kernel, line in panel.items()]


def check_values(name: str, role: str, values: Sequence[float]) -> None:
    """InputError for a role that is none, and a speed that is not a positive number."""
    if role not in MARKS:
        raise unknown_choice("role", role, MARKS)
    for value in values:
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}, a speed is a number above 0; leave out what was not measured.")


def fastest(speeds: Speeds, mixes: Sequence[str], roles: Roles) -> str:
    """The headline: the best of the kernels that take a whole row of documents."""
    own = [one for one in lines_of(speeds) if roles.get(one[1]) == "own"]
    found = [(x, kernel, title, mix) for title, kernel, line in own for mix, x in zip(mixes, line, strict=True) if x]
    if not found:
        return say("No kernel here takes a row of documents in one call")
    value, kernel, title, mix = max(found)
    words = {"kernel": phrase(kernel), "value": value, "title": phrase(title), "mix": phrase(mix)}
    return say("Fastest in one call: {kernel}, {value:.4g} TFLOP/s ({title}, documents of {mix})", **words)


def draw_curves(
    axes: Axes,
    panel: Mapping[str, Sequence[float | None]],
    names: Sequence[str],
    roles: Roles,
    colours: style.Theme,
) -> None:
    """The curves of one panel; beside it the name of each, with its mark and its last number."""
    inks = {"own": colours.own, "crossing": colours.cross_ink, "other": colours.quiet}
    ends: list[tuple[float, int, str, dict[str, Any]]] = []
    for name, line in panel.items():
        known = [(place, value) for place, value in enumerate(line) if value is not None]
        if not known:
            continue
        role = roles.get(name, "other")
        alike = [one for one in names if roles.get(one, "other") == role]
        look: dict[str, Any] = {
            "marker": MARKS[role][alike.index(name) % len(MARKS[role])],
            "color": inks[role],
            "markersize": 6,
        }
        dashes = "dashed" if role == "crossing" else "solid"
        width = style.STROKE * (1.5 if role == "own" else 1)
        axes.plot(*zip(*known, strict=True), linestyle=dashes, linewidth=width, clip_on=False, **look)
        ends.append((known[-1][1], known[-1][0], f"{inked(name)} {known[-1][1]:.3g}", look))
    ends.sort(key=lambda end: end[0])
    low, high = (float(np.log(edge)) for edge in axes.get_ylim())
    heights = spread([PANEL * (np.log(end[0]) - low) / (high - low) for end in ends], LETTER, PANEL)
    right = axes.get_xlim()[1]
    inch = (right + 0.15) / (axes.get_position().width * style.WIDTH)
    for (value, place, words, look), height in zip(ends, heights, strict=True):
        at = float(np.exp(low + height * (high - low) / PANEL))
        spot = right + 0.16 * inch
        if right - place < 1:  # a line from where the curve ends, unless it ends long before
            axes.plot((place, spot), (value, at), color=colours.line, linewidth=0.8, clip_on=False, zorder=1)
        axes.plot((spot,), (at,), clip_on=False, **look)
        axes.text(spot + 0.10 * inch, at, words, **style.lettering(look["color"], fontsize=style.BODY))


def spread(places: Sequence[float], apart: float, top: float) -> list[float]:
    """Ascending places moved as little as it takes to be ``apart``, below ``top`` where they fit below it."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart) if moved else place)
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], top)
        top = moved[index] - apart
    return moved


def name_values(axes: Axes, colours: style.Theme, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers: 1, 2, 5, 10 ... or only 1, 10, 100 where there are many."""
    digits = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [digit * 10.0**power for power in range(-9, 9) for digit in digits]
    style.quiet_axes(axes, colours)
    axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=style.BODY)


def draw_rates(
    rates: Sequence[Rate],
    gains: Mapping[str, float] | None = None,
    *,
    claim: str = "",
    unit: str = "real tokens a second",
    caption: str = "",
    dark: bool = False,
) -> Figure:
    """The same documents, fed in different ways: a bar each, the fastest first; beside them gains by row length.

    ``gains``: row length -> varlen over packed without seams. ``claim``: the sentence below the title. ``unit``: what
    the bars count. Raises InputError for no bars, and for values that are not above 0.
    """
    told = alt_text_rates(rates, gains, claim, unit)
    bars = sorted(rates, key=lambda rate: -rate.value)
    names_drawn = [style.one_line(inked(rate.name)) for rate in bars]
    colours, rows = style.theme(dark), max(len(bars), 5)
    height = 1.12 + STEP * rows + 0.42
    picture = style.Picture(style.WIDTH, height, colours, rates_title(bars), told)
    with style.inking():
        write_head(picture, rates_title(bars), phrase(claim))
    right = GAINS if gains else 0.0
    names = min(3.0, max(map(style.text_width, names_drawn)) + 0.35)
    told_of = [style.shorten(style.one_line(f"{shown(rate.value)}{inked(rate.note)}"), NOTE) for rate in bars]
    notes = max(map(style.text_width, told_of)) + 0.25
    width = style.WIDTH - names - notes - right
    picture.write(EDGE, 0.98, style.one_line(inked(unit)), style.BODY, color=colours.quiet)
    axes = picture.panel(names, 1.10, width, STEP * len(bars), frame=False, ylim=(len(bars), 0))
    axes.set_xlim(0, bars[0].value)
    for number, rate in enumerate(bars):
        middle, half = number + 0.5, BAR / STEP / 2
        outline = style.boxes(0, rate.value, middle - half, middle + half)
        if rate.role == "crossing":
            style.hatch(axes, outline[0], colours, stroke=0.8)
        else:
            style.fill(axes, outline, colours.own if rate.role == "own" else colours.line)
        base = 1.10 + STEP * middle
        words = style.shorten(names_drawn[number], names - 0.3)
        picture.write(names - 0.1, base, words, ha="right", va="center_baseline")
        end = names + width * rate.value / bars[0].value + 0.07
        picture.write(end, base, told_of[number], va="center_baseline")
    if gains:
        draw_gains(picture, gains, style.WIDTH - right + 0.42, 1.10, right - 0.6, STEP * rows - 0.25)
    picture.write_caption(EDGE, caption)
    return picture


def alt_text_rates(rates: Sequence[Rate], gains: Mapping[str, float] | None, claim: str, unit: str) -> str:
    """What ``draw_rates`` shows, in words, for a reader who does not see it."""
    if not rates:
        raise InputError("there is no rate to draw; give at least one.")
    for rate in rates:
        check_values(rate.name, rate.role, [rate.value])
    ordered = sorted(rates, key=lambda one: -one.value)
    bars = say("; ").join(f"{phrase(one.name)} {shown(one.value)}{phrase(one.note)}" for one in ordered)
    told = phrase(claim) + say(". ") if claim else ""
    told += say("{unit}: {bars}.", unit=capital(phrase(unit)), bars=bars)
    for name, gain in (gains or {}).items():
        check_values(name, "own", [gain])
    by_row = listed(f"{name} {gain:.2f}×" for name, gain in (gains or {}).items())
    return told + say(" Varlen over packed, by row length: {gains}.", gains=by_row) if by_row else told


def rates_title(bars: Sequence[Rate]) -> str:
    """Which bar is the longest, of ``bars`` from the longest to the shortest."""
    name = phrase(bars[0].name)
    return say("The same documents: {name} is fastest", name=name) if bars[1:] else say("How fast documents are fed")


def shown(rate: float) -> str:
    """``60.0k`` or ``830``."""
    return f"{rate / 1000:.1f}k" if rate >= 999.5 else f"{rate:.3g}"


def draw_gains(
    picture: style.Picture, gains: Mapping[str, float], left: float, top: float, width: float, height: float
) -> None:
    """A bar a row length; the dotted line is 1, where nothing is gained."""
    colours = picture.colours
    picture.write(left, top - 0.12, inked("varlen over packed, by row"), style.BODY, color=colours.quiet)
    highest = max(1.2, *gains.values()) * 1.2
    axes = picture.panel(left, top, width, height, xlim=(-0.6, len(gains) - 0.4), ylim=(0, highest))
    axes.spines[["top", "right", "left"]].set_visible(False)
    for number, gain in enumerate(gains.values()):
        style.fill(axes, style.boxes(number - 0.32, number + 0.32, 0, gain), colours.own)
        style.label(axes, number, gain + highest * 0.06, f"{gain:.2f}×", colours.ink, colours.page, fontsize=style.BODY)
    axes.axhline(1, color=colours.ink, linewidth=1.0, linestyle="dotted")
    axes.set_xticks(range(len(gains)), list(map(style.one_line, gains)))
    axes.tick_params(labelsize=style.BODY, colors=colours.quiet, labelfontfamily=style.fonts())
