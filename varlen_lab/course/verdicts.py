"""What a check of a lesson says, and what every check needs: an answer in, a sentence out, never a traceback.

    @judging
    def check_cu_seqlens(cu_seqlens: Callable[[list[int]], Any]) -> Verdict:
        for lengths in ([2, 4, 3], [1], [5, 1]):
            given = numbers(call(cu_seqlens, lengths=lengths))
            ...

A reader's code may be anything: no function, one that raises, one that returns None or a ragged list. ``call`` and
``numbers`` end such a check with the sentence that helps (``Wrong``), and ``judging`` turns what nobody thought of into
one, too: a notebook must run to its end, and a hint teaches more than a traceback.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any, ParamSpec

import numpy as np

SHOWN = 160  # characters of an answer that are repeated
MOST = 1_000_000  # numbers that are read of an iterator, which may have no end
GUESS_FIRST = "Write a guess into its cell first, and you will remember this."
P = ParamSpec("P")


@dataclass(frozen=True)
class Verdict:
    """What a check says; a notebook shows it with its mark, and what was expected beside what came."""

    right: bool
    words: str
    expected: str = ""
    got: str = ""
    judged: bool = True  # False: nothing was answered, there is nothing to judge

    def __str__(self) -> str:
        mark = "✓ right" if self.right else "✗ not yet" if self.judged else "· no guess"
        said = f"{mark}: {self.words}"
        return f"{said}\n   expected  {self.expected}\n   got       {self.got}" if self.expected else said

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = "#0072b2" if self.right else "#b34e00" if self.judged else "#767676"
        beside = "".join(
            f'<div style="display:flex"><span style="flex:0 0 6em">{name}</span>'
            f'<code style="white-space:pre-wrap">{escape(value)}</code></div>'
            for name, value in (("expected", self.expected), ("got", self.got))
            if self.expected
        )
        said = escape(str(self).split("\n   expected", 1)[0])
        return f'<div style="border-left:4px solid {colour};padding:.3em .8em">{said}{beside}</div>'


class Wrong(Exception):
    """Ends a check with its verdict, from however deep."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.words)
        self.verdict = verdict


def right(words: str) -> Verdict:
    """The answer is the right one; ``words`` say why it is."""
    return Verdict(True, words)


def not_yet(words: str, expected: Any = None, got: Any = None) -> Verdict:
    """The answer is not the right one; ``words`` name the mistake, ``expected`` and ``got`` stand side by side."""
    return Verdict(False, words) if expected is None else Verdict(False, words, shown(expected), shown(got))


def judging(check: Callable[P, Verdict]) -> Callable[P, Verdict]:
    """A check that never raises: what no rule of it foresaw is a verdict, too."""

    @functools.wraps(check)
    def judge(*args: P.args, **more: P.kwargs) -> Verdict:
        try:
            return check(*args, **more)
        except Wrong as wrong:
            return wrong.verdict
        except Exception as problem:  # an answer that no rule foresaw; the lesson goes on
            return not_yet(f"the check cannot read this answer ({type(problem).__name__}: {shown(str(problem))}).")

    return judge


def call(function: Any, /, **arguments: Any) -> Any:
    """What the reader's ``function`` returns for these arguments, handed over in their order; Wrong where it fails.

    Wrong says on what it was called, and the line of the reader's own code that raised.
    """
    if function is None or function is ...:
        raise Wrong(not_yet("write your code in the cell above first, then run it and this one again."))
    if not callable(function):
        raise Wrong(not_yet(f"a function is wanted here, this is {shown(function)}."))
    on = ", ".join(f"{name} = {shown(value)}" for name, value in arguments.items())
    try:
        found = function(*arguments.values())
    except Exception as problem:
        own = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.name == function.__name__]
        where = f" (its line: {own[-1].line})" if own and own[-1].line else ""
        what = f"{type(problem).__name__}: {shown(str(problem))}"
        raise Wrong(not_yet(f"your function stops with {what}{where}, called with {on}.")) from None
    if found is None:
        raise Wrong(not_yet(f"your function returns None, called with {on}; does it end in return?"))
    return found


def numbers(answer: Any) -> list[Any]:
    """Lists, tuples, iterators, arrays and (1, T) tensors as a flat list; Wrong for what holds no plain numbers."""
    try:
        array = np.asarray(list(islice(answer, MOST)) if isinstance(answer, Iterator) else answer)
    except Exception:  # ragged lists
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise Wrong(not_yet(f"a flat list of numbers is wanted, this is {shown(answer)}."))
    return array.reshape(-1).tolist()


def number(answer: Any) -> float:
    """One number out of ``0.62``, a tensor, ``"62%"`` or ``"1,000"``; Wrong for other words, and for NaN."""
    try:
        text = str(answer.item() if hasattr(answer, "item") else answer).strip().replace(",", "").replace("×", "")
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except (ValueError, TypeError):
        value = float("nan")
    if value != value or answer is None or isinstance(answer, bool):
        raise Wrong(not_yet(f"a number is wanted, this is {shown(answer)}."))
    return value


def unless(given: Any, wanted: Any, mistakes: Sequence[tuple[Any, str]], otherwise: str, on: str = "") -> None:
    """Nothing where ``given`` is ``wanted``; else Wrong with the sentence of the first mistake that gives it.

    ``mistakes``: what each known mistake would have given, and its sentence. ``on``: the case, as in
    ``lengths = [2, 4, 3]``, for the sentence.
    """
    if same(given, wanted):
        return
    words = next((words for value, words in mistakes if same(given, value)), otherwise)
    raise Wrong(not_yet(f"{words}{f' (for {on})' if on else ''}", wanted, given))


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, floats up to rounding."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        try:
            return abs(float(one) - float(other)) <= 1e-6 * max(1.0, abs(float(other)))
        except (TypeError, ValueError):
            return False
    return bool(one == other)


def guess(said: Any, truth: Any, unit: str = "", *, within: float = 0.15) -> Verdict:
    """Set a guess that was stored beside what was measured since; there is no wrong guess, only none.

    ``truth``: a number, True or False, or a word. A number is near when it is ``within`` that share of the truth;
    ``"62%"`` and ``"62 %"`` are read as the number before the sign when ``unit`` is per cent.
    """
    if said is None or said is ...:
        measured = shown(truth) if isinstance(truth, (bool, str)) else f"{truth:.3g}{unit}"
        return Verdict(False, f"measured: {measured}. {GUESS_FIRST}", judged=False)
    if isinstance(truth, (bool, str)):
        words = {"true": "true", "false": "false", "yes": "true", "no": "false"}
        mine, measured = (words.get(str(one).strip().lower(), str(one).strip().lower()) for one in (said, truth))
        return Verdict(mine == measured, f"you said {shown(said)}, measured: {shown(truth)}.")
    text = str(said.item() if hasattr(said, "item") else said).strip().removesuffix(unit.strip() or "\0").strip()
    try:
        value = number(text)
    except Wrong:
        return not_yet(f"your guess is {shown(said)}, and a number is measured: {truth:.3g}{unit}.")
    return Verdict(abs(value - truth) <= within * abs(truth), f"you said {value:g}{unit}, measured: {truth:.3g}{unit}.")


def shown(value: Any) -> str:
    """``value`` as a reader would write it, on one line, cut where it is long."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    words = " ".join((plain if isinstance(plain, str) and len(plain) > 40 else repr(plain)).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
