"""One visual language for every figure of the kit: colours, type sizes, and how numbers are written.

Blue is *own document*, hatched orange is *another document* (or wasted), grey is *nothing there*. Blue and
orange are Okabe and Ito's, apart for every kind of colour vision, and the hatch says it without colour. Sizes
are points at the width GitHub shows a README (830 px = 8.3 inches at 100 dpi). Nothing imports matplotlib.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 8.3  # inches
TITLE, CLAIM, BODY, SMALL = 13.0, 10.5, 9.5, 8.2  # points
STROKE = 1.4  # points: nothing that matters is drawn thinner
FONT = "DejaVu Sans"  # the one that comes with matplotlib: a figure looks the same everywhere
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "SimHei",
)
HATCH = "////"


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


def percent(share: float) -> str:
    """A share as a percentage that never rounds to a claim: 0 % means none, 100 % means all.

    >>> percent(0.757), percent(0.9991), percent(0.99999), percent(0.00001)
    ('76 %', '99.9 %', '>99.9 %', '<0.1 %')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1 or value > 99.9:
        return "<0.1 %" if value < 0.1 else ("99.9 %" if value < 99.95 else ">99.9 %")
    return f"{value:.1f} %" if value < 1 or value >= 99 else f"{value:.0f} %"


def factor(value: float) -> str:
    """A ratio with the digits that matter: 1, 1.01, 4.1, 38, 1,003."""
    if value < 1.1:
        return "1" if value == 1 else f"{max(value, 1.01):.2f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    """``1 document``, ``1,000 documents``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
