"""``break_it``: make one of twelve mistakes and look at what it does; without a name the whole lab.

broken = break_it("merged documents")       # runs it: the right way, and with the mistake
print(broken)                               # mask, strip, losses, what arrived, what the audit says
broken.name("seams a token late")           # right or not, and by which sign the two differ
break_it()                                  # all twelve: a widget in a notebook, their list in a script
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from textwrap import fill
from typing import Any
from unicodedata import east_asian_width

from varlen_lab.course.lab import LAB_TYPE
from varlen_lab.course.lab.record import USUAL, as_json, checked_row, made, recorded
from varlen_lab.course.lab.switches import SWITCHES, Switch, find_switch
from varlen_lab.course.lab.texts import LETTERS, correct, interface, mistaken, told
from varlen_lab.course.verdicts import Verdict
from varlen_lab.language.saying import say

MARKS = {(True, True): "#", (True, False): "x", (False, True): "o", (False, False): "."}  # is, should be
WIDTH = 79


def break_it(switch: str | None = None, *, lengths: Sequence[int] = USUAL, seed: int = 0) -> Any:
    """One mistake, made and measured (``Broken``); without a name the lab of all twelve.

    ``switch``: a name of ``lab.switches`` or an alias of the registry. ``lengths``: tokens of the documents of the row,
    at most 52 together; ``seed``: of the model's weights. The lab is a widget in a notebook, where the kernel runs what
    is turned on; elsewhere it is a ``Board``, their list. InputError for a switch, a row or a seed that it cannot show.
    """
    chosen = None if switch is None else find_switch(switch)
    row, seed = checked_row(lengths, seed, windowed=chosen is None or chosen.fault.needs == "window"), int(seed)
    if chosen is not None:
        from varlen_lab.course.lab.measuring import alone, measure

        right, now = measure(chosen, row, seed)
        truth, truths = alone(row, seed)
        record = {"lengths": row, "truth": truth, "truths": list(truths), "right": as_json(right, right)}
        record["switches"] = {chosen.name: as_json(right, now)}
        return Broken(chosen, record, seed)
    record = recorded() if tuple(row) == USUAL and seed == 0 else made(row, seed)
    return widget(record, seed) or Board()


def widget(record: dict[str, Any], seed: int, switch: str | None = None) -> Any:
    """The lab as a widget where a notebook can show one, else None; ``switch``: the one that is on at first."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        return None
    try:
        from varlen_lab.course.lab.widget import Lab
    except Exception:  # a half-installed anywidget fails in as many ways as it has imports
        return None
    return Lab(record, seed, switch)


class Board:
    """The twelve switches as a list, where no widget runs."""

    def __str__(self) -> str:
        wide = max(len(name) for name in SWITCHES)
        lines = [f"  {name:<{wide}}  {each.source}" for name, each in SWITCHES.items()]
        ways = say('Make one of them: break_it("{name}"). Name what you see: .name("…").', name="merged documents")
        return "\n".join([say("Twelve mistakes that people made, and where:"), *lines, ways])

    __repr__ = __str__


@dataclass(frozen=True)
class Broken:
    """A row with one mistake beside the same row without. ``record``: as ``lab.record`` writes it, of this switch."""

    switch: Switch
    record: dict[str, Any]
    seed: int = 0

    @property
    def run(self) -> dict[str, Any]:
        """The run with the mistake, as JSON."""
        return self.record["switches"][self.switch.name]  # type: ignore[no-any-return]

    @property
    def loss(self) -> float:
        """The loss of the row as it is."""
        return float(self.run["loss"])

    @property
    def truth(self) -> float:
        """The loss of its documents, each run alone."""
        return float(self.record["truth"])

    @property
    def findings(self) -> list[dict[str, str]]:
        """What the audit says of it: kind, where, what and fix of each finding."""
        return list(self.run["findings"])

    @cached_property
    def changed(self) -> list[str]:
        """What of it differs from the right row: "picture", "strip", "batch", "loss"."""
        right = self.record["right"]
        found = ["picture"] if marks(self.run) != marks(right) else []
        found += ["strip"] if self.run["trained"] != right["trained"] else []
        found += ["batch"] if any(should != now for _, should, now in self.run["batch"]) else []
        return found + ["loss"] * (abs(self.loss - self.truth) > 1e-5)

    def name(self, word: str) -> Verdict:
        """Whether the mistake is the one of this name; for another one the sign by which the two differ."""
        guess = find_switch(word)
        if guess is self.switch:
            return Verdict(True, correct(guess.words()))
        return Verdict(False, mistaken(guess.words(), self.switch.words()["sign"]))

    def __str__(self) -> str:
        return "\n".join([*self.drawing(), "", *map(folded, self.sentences())])

    __repr__ = __str__

    def sentences(self) -> list[str]:
        """What the marks mean, what the row costs, what arrived, and what the audit says, a line each."""
        words, tell = interface(), told(self.run, self.record)
        legend = "   ".join(f"{mark} {words[kind]}" for mark, kind in (("#", "own"), ("x", "cross"), ("o", "missing")))
        said = [legend, tell["loss"]]
        for key, should, now in self.run["batch"]:
            if should != now:
                seen = [words["absent"] if value is None else value for value in (now, should)]
                said.append(say("{key} is {now}, it should be {should}", key=key, now=seen[0], should=seen[1]))
        for one in self.run["findings"]:
            said.append(f"audit: {one['kind']}, {one['where']}: {one['what']}. Fix: {one['fix']}.")
        return said

    def drawing(self) -> list[str]:
        """Mask and strip of the right row and of this one side by side, a character a token."""
        right, now = self.record["right"], self.run
        size = len(self.run["heard"])
        rows = [f"  {filled(say('As it should be'), size)}   {say('As it is')}"] if size < 38 else []
        both = size < 38  # else only this one: two would be wider than a terminal
        for at in range(size):
            lines = [crossed(run["heard"][at], right["heard"][at]) for run in ((right, now) if both else (now,))]
            rows.append(f"{LETTERS[at]} {'   '.join(lines)}")
        letters = [LETTERS[:size]] * (1 + both)
        strips = [predicted(run["trained"], right["trained"]) for run in ((right, now) if both else (now,))]
        return [*rows, f"  {'   '.join(letters)}", f"  {'   '.join(strips)}"]

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """The pictures of the lab in a notebook; where no widget runs, text."""
        plain = {"text/html": self.in_html(), "text/plain": str(self)}
        lab = widget(self.record, self.seed, self.switch.name)
        if lab is None:
            return plain
        data, metadata = lab._repr_mimebundle_()
        if tuple(self.record["lengths"]) != USUAL or self.seed:
            del data[LAB_TYPE]  # our pages show the recorded runs
        return data | plain, metadata

    def in_html(self) -> str:
        """Its text, the drawing in letters of one width."""
        drawn, heard = escape("\n".join(self.drawing())), escape(told(self.run, self.record)["picture"])
        lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences())
        return f'<pre style="line-height:1.15" role="img" aria-label="{heard}">{drawn}</pre>{lines}'


def marks(run: dict[str, Any]) -> list[list[bool]]:
    """Which tokens are heard at all."""
    return [[mark != "0" for mark in row] for row in run["heard"]]


def crossed(row: str, should: str) -> str:
    """A row of a mask in characters."""
    return "".join(MARKS[one != "0", other != "0"] for one, other in zip(row, should, strict=True))


def predicted(trained: str, should: str) -> str:
    """The strip in characters: the letter that a token must predict, as a capital where it should not be asked."""
    marks = []
    for at, (one, other) in enumerate(zip(trained, should, strict=True)):
        letter = LETTERS[at + 1 : at + 2]
        marks.append(MARKS[one == "1", other == "1"] if one == "0" else letter if other == "1" else letter.upper())
    return "".join(marks)


def filled(text: str, size: int) -> str:
    """Text with blanks behind it, as wide as so many letters; a Chinese sign is as wide as two."""
    return text + " " * (size - len(text) - sum(east_asian_width(sign) in "WF" for sign in text))


def folded(text: str) -> str:
    """Text in lines of a terminal."""
    return fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
