"""What a chat template may cost: its steps, the size of what it makes, and, for work no step is counted for, seconds.

A list that holds another one twice is small until it is written out: what is made is weighed by that. What it costs to
make is another thing, for a slice of a long dialogue holds what is there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic, thread_time
from types import MappingProxyType
from typing import Any

MOST_STEPS = 1_000_000  # of a dialogue
MOST_SECONDS = 60  # of this thread's work at a dialogue; an ordinary one takes a thousandth, and machines may pause
MOST_LETTERS = 10_000_000  # of one text or list that is made at once
MOST_VALUES = MOST_LETTERS // 10  # of one list
MOST_BITS = 100_000  # of a number
SMALL = 1_000  # letters that cost no step; calls that make no more, after which the clock is looked at
DEEPEST = 1_000  # lists in lists: a tuple's hash goes down on the stack of C, and nobody looks how far
OF_A_VALUE = 10  # letters that take as much memory as a place in a list
VIEWS: tuple[type[Any], ...] = type({}.keys()), type({}.values()), type({}.items())
HOLDS: tuple[type[Any], ...] = (
    list,
    tuple,
    dict,
    MappingProxyType,
    *VIEWS,
)  # what holds values in Jinja, and is written out with them
TEXT = str, bytes, bytearray


class Endless(Exception):
    """A template that does not come to an end."""

    def __init__(self, within: str = "") -> None:
        super().__init__(f"it does not come to an end within {within or f'{MOST_STEPS:,} steps'}")


@dataclass
class Budget:
    """What is left to one dialogue, and what each list and dict weighs: by its id, for it is kept beside."""

    steps: int = field(default_factory=lambda: MOST_STEPS)
    calls: int = 0  # that were small
    look_again: float = 0.0  # at the thread's clock
    until: float = 0.0
    weighed: dict[int, tuple[Any, int, int]] = field(default_factory=dict)  # itself, its weight, lists in lists

    def weight(self, made: Any) -> int:
        """Letters and values of what a template made, if it were written out; what holds them is paid for once."""
        waiting = [made] if isinstance(made, HOLDS) else []
        while waiting:
            one = waiting[-1]
            parts = () if id(one) in self.weighed else parts_of(one)
            unknown = [part for part in parts if isinstance(part, HOLDS) and id(part) not in self.weighed]
            if len(unknown) + len(waiting) > MOST_VALUES:
                raise Endless
            waiting += unknown
            if not unknown:
                self.weigh(waiting.pop(), parts)
        return self.weighed[id(made)][1] if isinstance(made, HOLDS) else size_of(made)

    def weigh(self, one: Any, parts: Sequence[Any]) -> None:
        """Keep the weight of what holds these parts, each of which is weighed or holds nothing; pay for the making."""
        if id(one) in self.weighed:
            return
        letters, inside, deep = 0, 0, 0
        for part in parts:
            if isinstance(part, HOLDS):
                _, weight, depth = self.weighed[id(part)]
                inside, deep = inside + weight, max(deep, depth)
            else:
                letters += size_of(part)
        self.weighed[id(one)] = one, 1 + letters + inside, deep + 1
        self.steps -= (letters + len(parts) * OF_A_VALUE) // 1000
        if deep > DEEPEST:
            raise Endless

    def look_at_the_clock(self) -> None:
        """Endless when the time is up; the thread's own clock is slow, and asked once a second."""
        now = monotonic()
        if now >= self.look_again:
            self.look_again = now + 1
            worked = thread_time()
            self.until = self.until or worked + MOST_SECONDS
            if worked > self.until:
                raise Endless(f"{MOST_SECONDS} seconds of work")


def parts_of(one: Any) -> list[Any]:
    """The values that something holds, keys among them; Endless where they are too many to look at."""
    if len(one) > MOST_VALUES:
        raise Endless
    if isinstance(one, VIEWS[2]):
        return [part for pair in one for part in pair]
    held: dict[Any, Any] | list[Any] = one
    return [*held, *held.values()] if isinstance(held, dict | MappingProxyType) else list(held)


def size_of(one: Any) -> int:
    """Letters of what holds nothing, if it were written out."""
    return len(one) if isinstance(one, TEXT) else 1 + one.bit_length() // 3 if isinstance(one, int) else 1


LEFT: ContextVar[Budget | None] = ContextVar("what is left to templates", default=None)


def step(made: Any = None, steps: int = 1) -> Any:
    """Count a step, and those that ``made`` has cost; what was made."""
    left = LEFT.get()
    if left is None:
        return made
    if made is None or (type(made) is str and len(made) < SMALL):  # as nearly all that templates make
        left.steps -= steps
        left.calls += 1
        if left.steps >= 0 and left.calls % SMALL:
            return made
    left.look_at_the_clock()
    weight = left.weight(made)
    left.steps -= steps if isinstance(made, HOLDS) else steps + weight // 1000
    if left.steps < 0 or weight > MOST_LETTERS:
        raise Endless
    return made


def used(made: Any) -> Any:
    """What was made by the way, a comparison or a slice: no step, but not for nothing."""
    return step(made, 0)


def written(made: Any) -> Any:
    """What is put into the text, which costs its letters."""
    left = LEFT.get()
    if left is not None and isinstance(made, HOLDS):
        left.steps -= left.weight(made) // 1000
    return step(made, 0)


@contextmanager
def limited() -> Iterator[None]:
    """Inside, a template has a budget of its own, for one dialogue."""
    token = LEFT.set(Budget())
    try:
        yield
    finally:
        LEFT.reset(token)
