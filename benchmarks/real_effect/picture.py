"""The held-out loss of every arm by step, with a band over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from varlen_lab.viz import style
from varlen_lab.viz.masks import plural

LEFT, RIGHT, TOP, HEIGHT, FOOT = 0.72, 1.35, 0.88, 3.0, 0.72  # inches
APART = 0.17  # inches between names at the right end

HeldOut = Mapping[str, Mapping[int, Sequence[float]]]  # arm -> step -> loss of each seed


def draw_held_out(found: HeldOut, caption: str) -> style.Picture:
    """Lines are means over seeds, bands reach from the lowest seed to the highest; colours, dashes and names agree."""
    colours = style.theme(dark=False)
    title, claim = "Loss of documents alone, by what a token saw in training", claim_of(found)
    picture = style.Picture(style.WIDTH, TOP + HEIGHT + FOOT, colours, title, f"{title}. {claim}. {caption}")
    picture.write(LEFT, 0.30, title, style.TITLE, weight="bold")
    picture.write(LEFT, 0.56, claim, style.CLAIM, color=colours.quiet)
    axes = picture.panel(LEFT, TOP, style.WIDTH - LEFT - RIGHT, HEIGHT)
    ends = []
    # unpacked first: a broad band below varlen's thin line, which must cover it
    for arm in sorted(found, key=lambda name: name != "unpacked"):
        steps = np.array(list(found[arm]))
        values = np.array([found[arm][step] for step in steps])
        line = line_of(arm, colours)
        axes.plot(steps, values.mean(1), solid_capstyle="round", **line)
        if values.shape[1] > 1:
            shade = {"color": line["color"], "alpha": 0.18, "linewidth": 0}
            axes.fill_between(steps, values.min(1), values.max(1), **shade)
        ends.append((float(values[-1].mean()), arm, line["color"]))
    style.quiet_axes(axes, colours)
    axes.set_xticks(steps)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(steps[0], steps[-1])
    axes.set_xlabel("optimizer step", **style.lettering(colours.quiet, va="top"))
    low, high = axes.get_ylim()
    shown = low
    for value, arm, colour in sorted(ends):
        shown = max(value, shown)
        axes.text(steps[-1], shown, f"  {arm} {value:.3f}", **style.lettering(colour, fontsize=style.BODY))
        shown += APART / HEIGHT * (high - low)
    picture.write_caption(LEFT, caption)
    return picture


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
