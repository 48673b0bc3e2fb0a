"""The held-out loss of every arm by step, and what it is above varlen's, with a band over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from varlen_lab.errors import plural
from varlen_lab.viz import style

LEFT, RIGHT, TOP, HEIGHT, BETWEEN, BELOW, FOOT = 0.72, 1.45, 0.95, 2.6, 0.5, 1.7, 0.72  # inches
APART = 0.17  # inches between names at the right end

BASE = "varlen"

HeldOut = Mapping[str, Mapping[int, Sequence[float]]]  # arm -> step -> loss of each seed


def draw_held_out(found: HeldOut, caption: str) -> style.Picture:
    """Lines are means over seeds, bands reach from the lowest seed to the highest; colours, dashes and names agree."""
    colours = style.theme(dark=False)
    title, claim = "Loss of documents alone, by what a token saw in training", claim_of(found)
    height = TOP + HEIGHT + BETWEEN + BELOW + FOOT
    picture = style.Picture(style.WIDTH, height, colours, title, f"{title}. {claim}. {caption}")
    picture.write(LEFT, 0.30, title, style.TITLE, weight="bold")
    picture.write(LEFT, 0.56, claim, style.CLAIM, color=colours.quiet)
    # unpacked first: a broad band below varlen's thin line, which must cover it
    curves = {arm: np.array(list(found[arm].values())) for arm in sorted(found, key=lambda name: name != "unpacked")}
    above = {arm: values - curves[BASE] for arm, values in curves.items() if arm != BASE} if BASE in curves else {}
    for top, inches, shown, words in (
        (TOP, HEIGHT, curves, "mean over seeds; bands reach from the lowest to the highest"),
        (TOP + HEIGHT + BETWEEN, BELOW, above, f"difference to {BASE}, seed by seed"),
    ):
        axes = picture.panel(LEFT, top, style.WIDTH - LEFT - RIGHT, inches)
        draw_arms(axes, inches, list(next(iter(found.values()))), shown, colours)
        axes.set_title(words, loc="left", pad=5, **style.lettering(colours.quiet, va="baseline"))
    axes.set_xlabel("optimizer step", **style.lettering(colours.quiet, va="top"))
    picture.write_caption(LEFT, caption)
    return picture


def draw_arms(
    axes: Axes, inches: float, steps: list[int], curves: Mapping[str, np.ndarray], colours: style.Theme
) -> None:
    """Arms as lines and bands, ``curves`` (steps, seeds) each, named with their last value at the right end."""
    style.quiet_axes(axes, colours)
    for arm, values in curves.items():
        line = line_of(arm, colours)
        axes.plot(steps, values.mean(1), marker="o", markersize=3.5, solid_capstyle="round", **line)
        axes.fill_between(steps, values.min(1), values.max(1), color=line["color"], alpha=0.2, linewidth=0)
    axes.set_xticks(steps)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(steps[0], steps[-1] * 1.01)
    low, high = axes.get_ylim()
    place = low
    for last, arm in sorted((float(values[-1].mean()), arm) for arm, values in curves.items()):
        place = max(last, place)
        ink = colours.quiet if arm == "unpacked" else line_of(arm, colours)["color"]
        axes.text(
            steps[-1] * 1.01, place, f"  {arm} {round(last, 3) + 0.0:.3f}", **style.lettering(ink, fontsize=style.BODY)
        )
        place += APART / inches * (high - low)


def line_of(arm: str, colours: style.Theme) -> dict[str, Any]:
    """How an arm is drawn, told apart by width and dashes too."""
    return {
        "unpacked": {"color": colours.own_soft, "linewidth": 6.0, "zorder": 2},
        "varlen": {"color": colours.own, "linewidth": 1.6, "zorder": 4},
        "packed": {"color": colours.cross_ink, "linewidth": 1.6, "linestyle": (0, (4, 1.5)), "zorder": 3},
        "restarting": {"color": colours.third, "linewidth": 1.6, "linestyle": (0, (1, 1)), "zorder": 3},
    }[arm]


def claim_of(found: HeldOut) -> str:
    """Where every arm ends, in the order of the losses."""
    last = {arm: (list(of)[-1], float(np.mean(list(of.values())[-1]))) for arm, of in found.items()}
    seeds = len(next(iter(next(iter(found.values())).values())))
    ends = ", ".join(f"{arm} {value:.3f}" for arm, (_, value) in sorted(last.items(), key=lambda one: one[1][1]))
    return f"After {max(step for step, _ in last.values())} steps, {plural(seeds, 'seed')}: {ends}"
