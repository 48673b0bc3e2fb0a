"""What leaving the seams out does to a training: differences step by step, and held-out beside training loss.

Both figures say in their title what the numbers say, whatever they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, listed, phrase, say, spoken
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

Curve = tuple[Sequence[float], Sequence[float]]  # steps, and a loss at each
LEFT, RIGHT, HEAD, FOOT = 0.70, 1.75, 0.80, 0.78  # inches
WIDTH, STRIP, BETWEEN, PANEL = 6.6, 0.86, 0.36, 1.85
LETTER = 0.20  # inches between two names
LEAK = "restarting"


def draw_gaps(gaps: Mapping[str, Sequence[float]], *, what: str = "packed", base: str = "varlen") -> Figure:
    """A strip of bars a run: ``what`` minus ``base`` in every step, up and hatched where ``what`` lies above.

    ``gaps``: the name of a run -> its paired differences. All strips have one scale, the largest said at its left.
    Raises InputError for nothing to draw.
    """
    told = alt_text_gaps(gaps, what=what, base=base)
    colours = style.theme(False)
    height = HEAD + len(gaps) * (STRIP + BETWEEN)
    with style.inking():
        title = gaps_title(gaps, what=what, base=base)
    lowest, highest = (edge(0.0, *(gap for run in gaps.values() for gap in run)) for edge in (min, max))
    pad = 0.06 * (highest - lowest or 1.0)
    picture = style.Picture(WIDTH, height, colours, title, told)
    picture.write(0.2, 0.32, title, style.TITLE, weight="bold")
    words = inked("a bar a step; hatched up: {what} is higher, blue down: lower", what=inked(what))
    picture.write(0.2, 0.57, words, style.CLAIM, color=colours.quiet)
    for number, (name, run) in enumerate(gaps.items()):
        top = HEAD + number * (STRIP + BETWEEN)
        limits = {"xlim": (0.4, len(run) + 0.6), "ylim": (lowest - pad, highest + pad)}
        axes = picture.panel(LEFT, top, WIDTH - LEFT - RIGHT, STRIP, frame=False, **limits)
        for step, gap in enumerate(run, start=1):
            outline = style.boxes(step - 0.36, step + 0.36, min(0, gap), max(0, gap))
            if gap > 0:
                style.hatch(axes, outline[0], colours, stroke=0.8)
            else:
                style.fill(axes, outline, colours.own)
        axes.axhline(0, color=colours.ink, linewidth=0.8)
        largest = max(run, key=abs)
        axes.set_yticks((0, largest), ("0", f"{largest:+.2g}".replace("-", "−")))
        axes.tick_params(labelsize=style.BODY, colors=colours.quiet, labelfontfamily=style.fonts())
        middle = top + STRIP / 2
        aside = WIDTH - RIGHT + 0.15
        above = inked("{above} of {steps}", above=sum(gap > 0 for gap in run), steps=len(run))
        picture.write(aside, middle - 0.15, style.shorten(style.one_line(inked(name)), RIGHT - 0.2), style.BODY)
        picture.write(aside, middle + 0.08, above, style.CLAIM, weight="bold")
        picture.write(
            aside, middle + 0.28, inked("mean {gap}", gap=signed(float(np.mean(run)))), style.BODY, color=colours.quiet
        )
    return picture


def gaps_title(gaps: Mapping[str, Sequence[float]], *, what: str, base: str) -> str:
    """In how many steps ``what`` lies above, of the run with most and the run with least of them."""
    runs = sorted(gaps.values(), key=lambda run: -float(np.mean(np.asarray(run) > 0)))
    counts = [say("{above} of {steps}", above=sum(gap > 0 for gap in run), steps=len(run)) for run in runs]
    what, base = phrase(what.capitalize() if spoken() == "en" else what), phrase(base)
    if counts[0] == counts[-1]:
        return say("{what} lies above {base} in {counts} steps", what=what, base=base, counts=counts[0])
    least = {"what": what, "base": base, "most": counts[0], "least": counts[-1]}
    return say("{what} lies above {base} in {most} steps, or {least}", **least)


def alt_text_gaps(gaps: Mapping[str, Sequence[float]], *, what: str = "packed", base: str = "varlen") -> str:
    """What ``draw_gaps`` shows, in words, for a reader who does not see it."""
    if not gaps or not all(len(run) and np.isfinite(run).all() for run in gaps.values()):
        raise InputError("there are no differences to draw; give every run one finite number a step.")
    found = [
        say(
            "{name}: above in {above} of {steps}, mean {mean:+.3f}",
            name=phrase(name),
            above=sum(gap > 0 for gap in run),
            steps=counted(len(run), "step"),
            mean=np.mean(run),
        )
        for name, run in gaps.items()
    ]
    sides = {"what": phrase(what), "base": phrase(base), "found": say("; ").join(found)}
    return say("Differences {what} minus {base}, step by step. {found}.", **sides)


def draw_effect(held_out: Mapping[str, Curve], training: Mapping[str, Curve], *, caption: str = "") -> Figure:
    """Two panels over the same steps: the loss of held-out documents alone, and the loss that training shows.

    ``held_out`` and ``training``: arm -> (steps, losses); ``unpacked`` is a broad band under ``varlen``, an arm named
    ``restarting`` the leak. ``caption``: what it was measured on. Raises InputError for what cannot be drawn.
    """
    told = alt_text_effect(held_out, training, caption=caption)
    colours = style.theme(False)
    height = HEAD + 0.2 + 2 * PANEL + 0.5 + FOOT
    with style.inking():
        title, claim = effect_title(held_out, training), effect_claim(held_out)
    picture = style.Picture(WIDTH, height, colours, title, told)
    picture.write(0.2, 0.32, title, style.TITLE, weight="bold")
    picture.write(0.2, 0.57, claim, style.CLAIM, color=colours.quiet)
    names = inked("loss of held-out documents, each alone"), inked("training loss: what the run itself shows")
    right = max(float(max(steps)) for curves in (held_out, training) for steps, _ in curves.values())
    for number, (name, curves) in enumerate(zip(names, (held_out, training), strict=True)):
        top = HEAD + 0.2 + number * (PANEL + 0.5)
        axes = picture.panel(LEFT, top, WIDTH - LEFT - RIGHT, PANEL, xlim=(0, right * 1.02))
        draw_arms(axes, curves, colours)
        picture.write(LEFT, top - 0.09, name, style.BODY)
        name_arms(picture, axes, curves, top)
    picture.write(LEFT, height - 0.42, inked("optimizer step"), style.BODY, color=colours.quiet)
    picture.write_caption(0.2, caption, above=0.16)
    return picture


def arm_style(arm: str, colours: style.Theme) -> dict[str, Any]:
    """How an arm is drawn: blue is exact, orange is not; the leak is bold, with crosses."""
    return {
        "unpacked": {"color": colours.own_soft, "linewidth": 6.0, "zorder": 2},
        "varlen": {"color": colours.own, "linewidth": 1.8, "marker": "o", "zorder": 4},
        "packed": {
            "color": colours.cross_ink,
            "linewidth": 1.6,
            "linestyle": (0, (3, 1.5)),
            "marker": "s",
            "zorder": 3,
        },
        LEAK: {"color": colours.cross_ink, "linewidth": 2.4, "marker": "X", "markersize": 8, "zorder": 5},
    }.get(arm, {"color": colours.third, "linewidth": 1.3, "linestyle": (0, (1, 1)), "zorder": 3})


def draw_arms(axes: Axes, curves: Mapping[str, Curve], colours: style.Theme) -> None:
    """The curves of a panel and its axes."""
    style.quiet_axes(axes, colours)
    values = [value for _, losses in curves.values() for value in losses]
    pad = 0.08 * (max(values) - min(values) or 1.0)
    axes.set_ylim(min(values) - pad, max(values) + pad)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=style.BODY)
    for arm, (steps, losses) in curves.items():
        axes.plot(steps, losses, **arm_style(arm, colours))


def name_arms(picture: style.Picture, axes: Axes, curves: Mapping[str, Curve], top: float) -> None:
    """Each arm's name and last number at the right, pushed apart so that none covers another."""
    low, high = axes.get_ylim()
    places = sorted(
        (PANEL * (high - losses[-1]) / (high - low), arm, losses[-1]) for arm, (_, losses) in curves.items()
    )
    spots: list[float] = []
    for place, _, _ in places:
        spots.append(max(place, spots[-1] + LETTER) if spots else place)
    shift = min(0.0, PANEL - spots[-1])
    for spot, (_, arm, value) in zip(spots, places, strict=True):
        ink = picture.colours.quiet if arm == "unpacked" else arm_style(arm, picture.colours)["color"]
        words = style.shorten(f"{value:.3f} {inked(arm)}", RIGHT - 0.1)
        weight = "bold" if arm == LEAK else "normal"
        picture.write(
            WIDTH - RIGHT + 0.1, top + spot + shift, words, style.BODY, color=ink, va="center_baseline", weight=weight
        )


def falls(curve: Curve) -> float:
    """How far a curve falls from its second point to its last: the first may be before any training."""
    losses = curve[1]
    return float(losses[min(1, len(losses) - 1)] - losses[-1])


def effect_title(held_out: Mapping[str, Curve], training: Mapping[str, Curve]) -> str:
    """The claim that these numbers support."""
    leak, exact = held_out.get(LEAK), held_out.get("varlen")
    if leak and exact and LEAK in training and leak[1][-1] > exact[1][-1] and falls(leak) < falls(training[LEAK]) / 4:
        return say("A leak trains on while its held-out loss stands still")
    return say("Trainings of one checkpoint that differ in what a token sees")


def effect_claim(held_out: Mapping[str, Curve]) -> str:
    """Held-out loss of every arm at the end, against varlen."""
    if "varlen" not in held_out:
        return ""
    base = held_out["varlen"][1][-1]
    gaps = {arm: losses[-1] - base for arm, (_, losses) in held_out.items() if arm != "varlen"}
    told = [
        f"{phrase(arm)} {signed(gap)}" if abs(gap) >= 5e-4 else say("{arm} the same", arm=phrase(arm))
        for arm, gap in gaps.items()
    ]
    return style.shorten(say("held-out, minus varlen: {gaps}", gaps=listed(told)), WIDTH - 0.4, style.CLAIM)


def signed(value: float) -> str:
    """``+0.016``, ``−0.003``."""
    return f"{value:+.3f}".replace("-", "−")


def alt_text_effect(held_out: Mapping[str, Curve], training: Mapping[str, Curve], *, caption: str = "") -> str:
    """What ``draw_effect`` shows, in words, for a reader who does not see it."""
    if not held_out or not training:
        raise InputError("there are no losses to draw; give held-out and training losses of at least one arm.")
    for curves in (held_out, training):
        for arm, (steps, losses) in curves.items():
            if not len(losses) or len(steps) != len(losses) or not np.isfinite(losses).all():
                raise InputError(f"{arm} needs a finite loss for each of its steps, and at least one.")
    told = []
    for name, of in ((say("Held-out loss of documents alone"), held_out), (say("Training loss"), training)):
        arms = [f"{phrase(arm)} " + listed(f"{x:.3f}" for x in losses) for arm, (_, losses) in of.items()]
        told.append(say("{name}: {arms}", name=name, arms=say("; ").join(arms)))
    return (say(". ").join([effect_title(held_out, training), *told, style.part_by_part(caption)])).strip()
