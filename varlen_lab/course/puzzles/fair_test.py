"""The check of a test: does it tell equal from different, and does it notice when it could not have failed?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right
from varlen_lab.language.saying import phrase

ROUNDING = 1e-5  # what the losses of two exact float32 runs may differ by
EQUAL, DIFFERENT, COULD_NOT_FAIL = "equal", "different", "could not fail"
BASE = [3.0, 2.5, 2.25, 2.125]  # losses of unpacked

# varlen and packed as differences to BASE, the verdict, and the sentence for a test that says otherwise
CASES: list[tuple[list[float], list[float], str, str]] = [
    (
        [0.02, -0.02, 0.0, 0.0],
        [0.02, -0.02, 0.02, 0.005],
        DIFFERENT,
        "differences of opposite sign cancel when you compare means or sums; compare step by step.",
    ),
    (
        [0.0, 0.02, 0.0, 0.0],
        [0.02, -0.02, 0.02, 0.005],
        DIFFERENT,
        "only step 2 differs here; look at every step, not at the last one.",
    ),
    (
        [0.0, -0.02, 0.0, 0.0],
        [0.02, -0.02, 0.02, 0.005],
        DIFFERENT,
        "varlen lies *below* unpacked in a step, and that is a leak as well; take the absolute difference.",
    ),
    (
        [1e-7, 0.0, -4e-7, 9e-7],
        [0.02, -0.02, 0.02, 0.005],
        EQUAL,
        "differences below 1e-6 are rounding; allow up to 1e-5 instead of asking for the same bits.",
    ),
    (
        [1e-7, 0.0, 0.0, 0.0],
        [0.0, 1e-7, -1e-7, 0.0],
        COULD_NOT_FAIL,
        "packed equals unpacked too, so nothing here could have come out different: no seam was in these rows. "
        "Ask the control before you say equal.",
    ),
    (
        [1e-7, 0.0, 0.0, 0.0],
        [0.0, -0.28, 0.0, 0.0],
        EQUAL,
        "the control differs in one step, below unpacked, and one is enough: in the others each row held one document.",
    ),
    (
        [0.02, 0.02, 0.02, 0.02],
        [0.02, 0.02, 0.02, 0.02],
        DIFFERENT,
        "varlen and packed are wrong in the same way; compare varlen with unpacked, not with packed.",
    ),
    (
        [0.02, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        DIFFERENT,
        "varlen differs, whatever the control says: that comes first.",
    ),
    (
        [0.0, float("nan"), 0.0, 0.0],
        [0.02, -0.02, 0.02, 0.005],
        DIFFERENT,
        "a loss of nan equals nothing, and nan > 1e-5 is False; ask whether all differences are small, not whether "
        "one is large.",
    ),
    ([0.0], [0.02], EQUAL, "a run of one step is a run."),
]


@judging
def check_fair_test(test: Callable[[list[float], list[float], list[float]], Any]) -> Verdict:
    """A function (varlen, unpacked, packed) -> "equal", "different" or "could not fail", from one loss a step."""
    for varlen, packed, wanted, mistake in CASES:
        base = BASE[: len(varlen)]
        runs = {
            "varlen": [loss + gap for loss, gap in zip(base, varlen, strict=True)],
            "unpacked": list(base),
            "packed": [loss + gap for loss, gap in zip(base, packed, strict=True)],
        }
        said = call(test, **runs)
        if said not in (EQUAL, DIFFERENT, COULD_NOT_FAIL):
            raise Wrong(not_yet('say "equal", "different" or "could not fail".', wanted, said))
        if said != wanted:
            on = ", ".join(f"{name} {[round(loss, 7) for loss in losses]}" for name, losses in runs.items())
            raise Wrong(not_yet("{words} ({case})", wanted, said, words=phrase(mistake), case=on))
    return right("every step, rounding allowed, and a control that had to come out different.")
