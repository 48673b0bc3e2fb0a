"""Which of many tests a run takes: of many parameters some always and a fifth each day, all with VARLEN_LAB_ALL=1.

``.ci/run`` sets VARLEN_LAB_TURNS=1: then a quarter of the other slow tests runs each day, and of those in a browser.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest

DAYS = 5  # until every one had its turn
SLOW_DAYS = 4  # until every other slow test had it


def by_turns(names: Iterable[Any], always: int) -> list[Any]:
    """A parameter for each name, or tuple of several: ``always`` of them for ``make test``, the others slow.

    A fifth of those is today's, of less than five one. The same seed shuffles them each time, so that classes that are
    alike, neighbours in transformers' list, are spread.
    """
    shuffled = list(names)
    random.Random(0).shuffle(shuffled)
    days = min(DAYS, max(1, len(shuffled)))
    today = date.today().toordinal() % days
    turn = f"{date.today()} has turn {today + 1} of {days}"
    waits = pytest.mark.skip(reason=f"{turn}, this one's is another day's; VARLEN_LAB_ALL=1 runs all")
    chosen = []
    for place, name in enumerate(shuffled):
        marks = [] if place < always else [pytest.mark.slow("has its turn")]
        if marks and place % days != today and not os.environ.get("VARLEN_LAB_ALL"):
            marks.append(waits)
        chosen.append(pytest.param(*(name if isinstance(name, tuple) else (name,)), marks=marks))
    return chosen


def take_turns(items: Iterable[pytest.Item]) -> None:
    """Skip slow tests, those of the real model and those in a browser that have another day.

    By their names, so that a new one moves no other; those in a browser by their files, whose tests share a page.
    """
    if not os.environ.get("VARLEN_LAB_TURNS") or os.environ.get("VARLEN_LAB_ALL"):
        return
    today = date.today().toordinal()
    for item in items:
        slow = next(filter(None, map(item.get_closest_marker, ("slow", "real", "browser"))), None)
        whole = item.get_closest_marker("browser") and not item.get_closest_marker("slow")
        name = item.nodeid.partition("::")[0] if whole else item.nodeid
        wait = (zlib.crc32(name.encode()) - today) % SLOW_DAYS
        if slow and not slow.args and wait:
            when = ("tomorrow", "the day after tomorrow", "in three days")[wait - 1]
            item.add_marker(pytest.mark.skip(reason=f"{date.today()}: this one runs every fourth day, {when}"))


WHY = "only with VARLEN_LAB_ALL=1, as .ci/run --full sets it"
full_only = pytest.mark.skipif(not os.environ.get("VARLEN_LAB_ALL"), reason=WHY)
