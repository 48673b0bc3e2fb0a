"""A figure of ours for a dark page, and for a narrow one: made from the picture a notebook holds.

A notebook keeps one picture of a figure, drawn on white. Our figures have two themes of the same few colours, so every
shade of a picture lies on a line between two colours of the light theme (edges of letters and shapes are such
mixtures), and its twin lies at the same place between the same two of the dark one. For a narrow page the two halves
of a mask are laid one below the other, and the legend is broken into lines.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from itertools import combinations
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from varlen_lab.viz.style import DARK, LIGHT

SHADES = 4096  # more than that is a photograph
COLOURS = 96  # what is left of them: flat colours stay exact, edges keep their steps, the file has a third the size
MARGIN = 0.13  # inches left of a half that belong to it


class Twins(NamedTuple):
    """PNG files of one figure, b'' for what it has not; ``narrow`` is its width there in pixels of CSS."""

    dark: bytes = b""
    stacked: bytes = b""
    stacked_dark: bytes = b""
    narrow: int = 0


def twins(data: bytes, page: Mapping[str, Any]) -> Twins:
    """The twins of a PNG; ``page`` is what its Picture said of it: ``dark``, ``inches``, ``fold``."""
    try:
        width = float(page["inches"][0])
        fold = tuple(float(part) for part in page.get("fold") or ())
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return Twins()
    usable = width > 0 and all(map(isfinite, (width, *fold)))
    return made(data, bool(page.get("dark")), width, fold) if usable else Twins()


@lru_cache(maxsize=64)  # the landing page shows figures of the lessons again
def made(data: bytes, dark: bool, width: float, fold: tuple[float, ...]) -> Twins:
    """The twins of a PNG that is ``width`` inches wide and folds as Picture.folds_at says, if at all."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        counted = image.getcolors(SHADES)
    except (OSError, ValueError, Image.DecompressionBombError):
        return Twins()
    if counted is None:
        return Twins()
    counted.sort(reverse=True)
    shades = np.array([colour for _, colour in counted], dtype=np.int64)
    palette = few(shades, np.array([count for count, _ in counted]))
    index = places(np.asarray(image), shades, cKDTree(palette).query(shades)[1])
    night = None if dark else in_the_dark(palette)
    stack = stacked(index, image.width / width, *fold) if len(fold) == 3 else None
    return Twins(
        dark=png(index, night) if night is not None else b"",
        stacked=png(stack, palette) if stack is not None else b"",
        stacked_dark=png(stack, night) if stack is not None and night is not None else b"",
        narrow=round(100 * width * stack.shape[1] / image.width) if stack is not None else 0,
    )


def few(shades: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """COLOURS of ``shades``, int (n, 3), commonest first: half the commonest, half the worst served by these."""
    chosen = shades[: COLOURS // 2]
    while len(chosen) < min(COLOURS, len(shades)):
        miss = cKDTree(chosen).query(shades)[0] ** 2 * counts
        chosen = np.concatenate([chosen, shades[np.argsort(-miss)[:6]]])
    return chosen[:COLOURS]


def places(pixels: np.ndarray, shades: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """The place in the palette of every pixel, uint8 (height, width); ``nearest`` are those of ``shades``."""
    keys = one_number(shades)
    order = np.argsort(keys)
    return nearest[order][np.searchsorted(keys[order], one_number(pixels))].astype(np.uint8)


def one_number(rgb: np.ndarray) -> np.ndarray:
    """Three channels as one integer."""
    wide = rgb.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def in_the_dark(palette: np.ndarray) -> np.ndarray:
    """The same colours of the dark theme, uint8 (n, 3)."""
    names = [each.name for each in fields(LIGHT)]
    pairs = [(rgb(getattr(LIGHT, name)), rgb(getattr(DARK, name))) for name in names]
    best, found = np.full(len(palette), np.inf), np.zeros((len(palette), 3))
    for (start, start_dark), (end, end_dark) in [*((pair, pair) for pair in pairs), *combinations(pairs, 2)]:
        line = end - start
        share = np.clip((palette - start) @ line / max(line @ line, 1e-9), 0, 1)[:, None]
        # the shortest line that explains a shade: grey is a word's colour rather than a mixture of black and white
        miss = np.linalg.norm(start + share * line - palette, axis=1) + 0.03 * np.linalg.norm(line)
        better = miss < best
        best = np.where(better, miss, best)
        found = np.where(better[:, None], start_dark + share * (end_dark - start_dark), found)
    return found.round().astype(np.uint8)


def rgb(colour: str) -> np.ndarray:
    """``#0072b2`` as three numbers."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=float)


def stacked(index: np.ndarray, dots: float, left: float, right: float, foot: float) -> np.ndarray | None:
    """The halves one below the other, then the legend in lines; ``dots`` an inch. None where that is no fold."""
    height, width = index.shape
    cut, top = round((right - MARGIN) * dots), height - round(foot * dots)
    if not (0 < left < right and 0 < cut < width and 0 < top < height):
        return None
    paper = index[0, 0]
    indent = max(0, round((left - MARGIN) * dots))  # squares stand one below the other
    wide = max(cut, indent + width - cut)
    halves = [index[:top, :cut], np.full((top, indent + width - cut), paper)]
    halves[1][:, indent:] = index[:top, cut:]
    parts = [as_high_as_drawn(half, paper, 0.1 * dots) for half in halves]
    parts += in_lines(index[top:], paper, wide, dots)
    return np.concatenate([np.pad(part, ((0, 0), (0, wide - part.shape[1])), constant_values=paper) for part in parts])


def as_high_as_drawn(part: np.ndarray, paper: int, margin: float) -> np.ndarray:
    """The part down to ``margin`` dots below the last thing in it."""
    drawn = np.flatnonzero((part != paper).any(axis=1))
    return part[: drawn[-1] + 1 + round(margin)] if len(drawn) else part[:0]


def in_lines(band: np.ndarray, paper: int, wide: int, dots: float) -> list[np.ndarray]:
    """A line of words and marks as lines that fit: broken between entries, or between words if it is a sentence."""
    for gap in (0.14, 0.035):  # inches
        entries = between_gaps((band != paper).any(axis=0), gap * dots)
        if all(end - start <= wide for start, end in entries):
            break
    else:
        return []
    lines: list[np.ndarray] = []
    first = entries[0][0] if entries else 0
    at, before = wide + 1, 0
    for start, end in entries:
        at += min(start - before, round(0.24 * dots))
        if at + end - start > wide - round(0.05 * dots):
            lines.append(np.full((len(band), wide), paper))
            at = min(first, wide - (end - start))
        lines[-1][:, at : at + end - start] = band[:, start:end]
        at, before = at + end - start, end
    return [as_high_as_drawn(line, paper, 0.1 * dots) for line in lines]


def between_gaps(drawn: np.ndarray, gap: float) -> list[tuple[int, int]]:
    """Runs of True, (start, end), those closer than ``gap`` as one."""
    spots = np.flatnonzero(drawn)
    if not len(spots):
        return []
    breaks = np.flatnonzero(np.diff(spots) > gap)
    starts, ends = spots[np.r_[0, breaks + 1]], spots[np.r_[breaks, len(spots) - 1]] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG file of palette colours."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(index, dtype=np.uint8), mode="P")
    image.putpalette(palette.astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=7)
    return file.getvalue()
