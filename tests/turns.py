"""Which of many classes a run of the tests takes: some always, a fifth each day, all with VARLEN_LAB_ALL=1."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest

DAYS = 5  # until every class had its turn


def by_turns(names: Iterable[str], always: int) -> list[Any]:
    """A parameter for each name: ``always`` of them for ``make test``, the others slow, a fifth of them today's.

    The same seed shuffles them each time, so that classes that are alike, neighbours in transformers' list, are spread.
    """
    shuffled = list(names)
    random.Random(0).shuffle(shuffled)
    today = date.today().toordinal() % DAYS
    turn = f"{date.today()} has turn {today + 1} of {DAYS}"
    waits = pytest.mark.skip(reason=f"{turn}, this one's is another day's; VARLEN_LAB_ALL=1 runs all")
    chosen = []
    for place, name in enumerate(shuffled):
        marks = [] if place < always else [pytest.mark.slow]
        if marks and place % DAYS != today and not os.environ.get("VARLEN_LAB_ALL"):
            marks.append(waits)
        chosen.append(pytest.param(name, marks=marks))
    return chosen


WHY = "only with VARLEN_LAB_ALL=1, as .ci/run --full sets it"
full_only = pytest.mark.skipif(not os.environ.get("VARLEN_LAB_ALL"), reason=WHY)
