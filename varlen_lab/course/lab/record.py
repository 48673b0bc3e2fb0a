"""The recorded runs of the lab, ``recorded.json``: what a page without a kernel shows, and a lab until its kernel runs.

``python docs/record_lab.py`` makes it; the same weights, rows and switches give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from varlen_lab.errors import InputError, quoted
from varlen_lab.packing.checks import checked_lengths

PLACE = Path(__file__).parent / "recorded.json"
USUAL = (5, 1, 7, 13)  # tokens of the documents: a one-token one, and one longer than two layers hear
WINDOW = 6  # of each of the two layers
MOST = 52  # tokens of a row: as many as there are letters to call them by
MOST_SEEDS = 2**63  # torch takes no more
DIGITS = 6  # of a loss


@cache
def recorded() -> dict[str, Any]:
    """The record: ``lengths``, ``window``, the ``truth``, the ``right`` run, and one run for each of ``switches``."""
    found: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8"))
    return found


def made(lengths: Sequence[int] = USUAL, seed: int = 0) -> dict[str, Any]:
    """The record of a row and of weights of this seed, measured now; InputError for a row that the lab cannot show."""
    from varlen_lab.course.lab.measuring import alone, measure
    from varlen_lab.course.lab.switches import SWITCHES

    row = checked_row(lengths, seed)
    truth, truths = alone(row, seed)
    return {
        "lengths": row,
        "window": WINDOW,
        "truth": rounded(truth),
        "truths": [rounded(loss) for loss in truths],
        "right": as_json(*measure(None, row, seed)),
        "switches": {name: as_json(*measure(switch, row, seed)) for name, switch in SWITCHES.items()},
    }


def checked_row(lengths: Sequence[int], seed: int = 0, windowed: bool = True) -> list[int]:
    """Lengths of documents for the lab; InputError for a row or a seed that it cannot show.

    ``windowed``: a switch is among those shown that is seen only where a document is longer than the window.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < MOST_SEEDS:
        raise InputError(f"seed is {quoted(seed)}, it must be a whole number of at least 0; leave it out for 0.")
    try:
        found: list[int] = checked_lengths(lengths, one_row=True).tolist()
    except InputError:
        found = []
    if len(found) < 2 or sum(found) > MOST or max(found) < 3:
        raise InputError(
            f"lengths is {quoted(lengths)}, it must be two documents or more, one of at least 3 tokens, of at most "
            f"{MOST} tokens together; leave it out for {USUAL}."
        )
    if windowed and max(found) <= WINDOW:
        raise InputError(
            f"lengths is {quoted(lengths)}, and 'window one too wide' is seen only in a document of more than {WINDOW} "
            f"tokens; leave it out for {USUAL}, or name another switch."
        )
    return found


def as_json(right: Any, now: Any) -> dict[str, Any]:
    """A run (``measuring.Run``) as JSON holds it; what arrived stands beside what was right for its attention."""
    keys = [*now.batch, *(key for key in right.batch if key not in now.batch)]
    return {
        "heard": ["".join(map(str, row)) for row in now.heard.tolist()],
        "trained": "".join("01"[int(one)] for one in now.trained),
        "loss": rounded(now.loss),
        "losses": [rounded(loss) for loss in now.losses],
        "batch": [[key, right.batch.get(key), now.batch.get(key)] for key in keys],
        "findings": [asdict(finding) for finding in now.findings],
    }


def rounded(loss: float | None) -> float | None:
    """A loss with as many digits as are the same on any machine."""
    return None if loss is None else round(loss, DIGITS)


def differences(one: dict[str, Any], other: dict[str, Any], near: float = 1e-4) -> list[str]:
    """In what two runs as JSON differ by more than rounding: nothing heard may be lost, a level may be the next one."""
    found = []
    cells = [(a, b) for row, twin in zip(one["heard"], other["heard"], strict=True) for a, b in zip(row, twin)]
    if any((a == "0") != (b == "0") or abs(int(a) - int(b)) > 1 for a, b in cells):
        found.append("heard")
    found += [name for name in ("trained", "batch") if one[name] != other[name]]
    losses: Sequence[tuple[Any, Any]] = [
        (one["loss"], other["loss"]),
        *zip(one["losses"], other["losses"], strict=True),
    ]
    if any((a is None) != (b is None) or (a is not None and abs(a - b) > near) for a, b in losses):
        found.append("loss")
    kinds = [[finding["kind"] for finding in run["findings"]] for run in (one, other)]
    return found + ["findings"] * (kinds[0] != kinds[1])
