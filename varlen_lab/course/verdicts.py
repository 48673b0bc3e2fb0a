"""What a check of a lesson says, and what every check needs: an answer in, a sentence out, never a traceback.

    @judging
    def check_cu_seqlens(cu_seqlens: Callable[[list[int]], Any]) -> Verdict:
        for lengths in ([2, 4, 3], [1], [5, 1]):
            given = numbers(call(cu_seqlens, lengths=lengths))
            ...

A reader's code may be anything: no function, one that raises, one that returns None or a ragged list. ``call`` and
``numbers`` end such a check with the sentence that helps (``Wrong``), and ``judging`` turns what nobody thought of into
one, too: a notebook must run to its end, and a hint teaches more than a traceback.

Sentences stand here in English and are said in the language that is spoken while a check runs (``right``, ``not_yet``
and ``unless`` say what they are given); a verdict stays in the language it was made in.
"""

from __future__ import annotations

import functools
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from typing import Any, ParamSpec

import numpy as np

from varlen_lab.language.saying import phrase, say, speaking, spoken

SHOWN = 160  # characters of an answer that are repeated
MOST = 1_000_000  # numbers that are read of an iterator, which may have no end
MEANT = {  # what answers to a yes-or-no question mean
    **dict.fromkeys(("true", "yes", "对", "是", "真", "正确", "会", "能", "有"), True),
    **dict.fromkeys(("false", "no", "错", "否", "假", "错误", "不对", "不是", "不会", "不能", "没有", "不"), False),
}
P = ParamSpec("P")


@dataclass(frozen=True)
class Verdict:
    """What a check says; a notebook shows it with its mark, and what was expected beside what came."""

    right: bool
    words: str
    expected: str = ""
    got: str = ""
    judged: bool = True  # False: nothing was answered, there is nothing to judge
    language: str = field(default_factory=spoken)  # of its words

    @property
    def said(self) -> str:
        """The words with their mark, on one line."""
        with speaking(self.language):
            if self.right:
                return say("✓ right: {words}", words=self.words)
            if self.judged:
                return say("✗ not yet: {words}", words=self.words)
            return say("· no guess: {words}", words=self.words)

    @property
    def beside(self) -> list[tuple[str, str]]:
        """What stands side by side: a heading and a value, twice or not at all."""
        with speaking(self.language):
            return [(say("expected"), self.expected), (say("got"), self.got)] if self.expected else []

    def __str__(self) -> str:
        return "\n".join([self.said, *(f"   {name:8}  {value}" for name, value in self.beside)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = "#0072b2" if self.right else "#b34e00" if self.judged else "#767676"
        beside = "".join(
            f'<div style="display:flex"><span style="flex:0 0 6em">{name}</span>'
            f'<code style="white-space:pre-wrap">{escape(value)}</code></div>'
            for name, value in self.beside
        )
        return f'<div style="border-left:4px solid {colour};padding:.3em .8em">{escape(self.said)}{beside}</div>'


class Wrong(Exception):
    """Ends a check with its verdict, from however deep."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.words)
        self.verdict = verdict


def right(words: str, /, **values: Any) -> Verdict:
    """The answer is the right one; ``words``, said here with the ``values`` of their braces, say why it is."""
    return Verdict(True, say(words, **values))


def not_yet(words: str, /, expected: Any = None, got: Any = None, **values: Any) -> Verdict:
    """The answer is not the right one; ``words``, said here with their ``values``, name the mistake.

    ``expected`` and ``got`` stand side by side.
    """
    said = say(words, **values)
    return Verdict(False, said) if expected is None else Verdict(False, said, shown(expected), shown(got))


def in_case(words: str, case: str) -> str:
    """``words`` (said here) and the ``case`` they are about."""
    return say("{words} (for {case})", words=phrase(words), case=case)


def judging(check: Callable[P, Verdict]) -> Callable[P, Verdict]:
    """A check that never raises: what no rule of it foresaw is a verdict, too."""

    @functools.wraps(check)
    def judge(*args: P.args, **more: P.kwargs) -> Verdict:
        try:
            return check(*args, **more)
        except Wrong as wrong:
            return wrong.verdict
        except Exception as problem:  # an answer that no rule foresaw; the lesson goes on
            return not_yet("the check cannot read this answer ({problem}).", problem=named(problem))

    return judge


def call(function: Any, /, **arguments: Any) -> Any:
    """What the reader's ``function`` returns for these arguments, handed over in their order; Wrong where it fails.

    Wrong says on what it was called, and the line of the reader's own code that raised.
    """
    if function is None or function is ...:
        raise Wrong(not_yet("write your code in the cell above first, then run it and this one again."))
    if not callable(function):
        raise Wrong(not_yet("a function is wanted here, this is {answer}.", answer=shown(function)))
    on = ", ".join(f"{name} = {shown(value)}" for name, value in arguments.items())
    try:
        found = function(*arguments.values())
    except Exception as problem:
        own = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.name == function.__name__]
        where = say(" (its line: {line})", line=own[-1].line) if own and own[-1].line else ""
        words = "your function stops with {problem}{where}, called with {on}."
        raise Wrong(not_yet(words, problem=named(problem), where=where, on=on)) from None
    if found is None:
        raise Wrong(not_yet("your function returns None, called with {on}; does it end in return?", on=on))
    return found


def numbers(answer: Any) -> list[Any]:
    """Lists, tuples, iterators, arrays and (1, T) tensors as a flat list; Wrong for what holds no plain numbers."""
    try:
        array = np.asarray(list(islice(answer, MOST)) if isinstance(answer, Iterator) else answer)
    except Exception:  # ragged lists
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise Wrong(not_yet("a flat list of numbers is wanted, this is {answer}.", answer=shown(answer)))
    return array.reshape(-1).tolist()


def number(answer: Any) -> float:
    """One number out of ``0.62``, a tensor, ``"62%"``, ``"６２％"`` or ``"1,000"``; Wrong for words, and for NaN."""
    try:
        text = written(answer).replace(",", "").replace("×", "")
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except (ValueError, TypeError):
        value = float("nan")
    if value != value or answer is None or isinstance(answer, bool):
        raise Wrong(not_yet("a number is wanted, this is {answer}.", answer=shown(answer)))
    return value


def written(answer: Any) -> str:
    """An answer as text, the wide letters and signs of a Chinese keyboard as plain ones."""
    with suppress(Exception):  # several numbers
        answer = answer.item()
    return unicodedata.normalize("NFKC", str(answer)).strip()


def unless(given: Any, wanted: Any, mistakes: Sequence[tuple[Any, str]], otherwise: str, on: str = "") -> None:
    """Nothing where ``given`` is ``wanted``; else Wrong with the sentence of the first mistake that gives it.

    ``mistakes``: what each known mistake would have given, and its sentence, which is said here. ``on``: the case, as
    in ``lengths = [2, 4, 3]``, for the sentence.
    """
    if same(given, wanted):
        return
    words = next((words for value, words in mistakes if same(given, value)), otherwise)
    raise Wrong(not_yet(in_case(words, on) if on else words, wanted, given))


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
    ``"62%"`` and ``"62 %"`` are read as the number before the sign when ``unit`` is per cent. Yes and no are read in
    Chinese, too.
    """
    plain = isinstance(truth, (bool, str))
    after = "" if plain else unit_said(unit)
    measured = shown(truth) if plain else f"{truth:.3g}{after}"
    if said is None or said is ...:
        words = "measured: {measured}. Write a guess into its cell first, and you will remember this."
        return Verdict(False, say(words, measured=measured), judged=False)
    if plain:
        mine, true = (MEANT.get(word, word) for word in (written(one).rstrip("。").lower() for one in (said, truth)))
        return Verdict(
            mine == true, say("you said {guess}, measured: {measured}.", guess=shown(said), measured=measured)
        )
    text = written(said)
    for one in (unit, after):
        text = text.removesuffix(one.strip()).strip()
    try:
        value = number(text)
    except Wrong:
        words = "your guess is {guess}, and a number is measured: {measured}."
        return not_yet(words, guess=shown(said), measured=measured)
    told = say("you said {guess}, measured: {measured}.", guess=f"{value:g}{after}", measured=measured)
    return Verdict(abs(value - truth) <= within * abs(truth), told)


def unit_said(unit: str) -> str:
    """A unit that a lesson hands over, as it follows a number: `` tokens`` as it is, or as the catalogue has it."""
    found = phrase(unit)
    return found if found != unit or not unit.strip() else unit.replace(unit.strip(), phrase(unit.strip()))


def named(problem: BaseException) -> str:
    """An error by its type and its words."""
    return f"{type(problem).__name__}: {shown(str(problem))}"


def shown(value: Any) -> str:
    """``value`` as a reader would write it, on one line, cut where it is long."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    words = " ".join((plain if isinstance(plain, str) and len(plain) > 40 else repr(plain)).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
