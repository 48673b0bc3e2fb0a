"""Steps that are made when somebody asks for them: a run of a trillion has as many numbers in memory as one of ten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import overload

Step = list[list[int]]  # the batches of one optimizer step, each a list of row numbers


class LazySteps(Sequence[Step]):
    """The steps ``step_of(n)`` for each n of ``numbers``; a part of them is again one, made of nothing."""

    def __init__(self, step_of: Callable[[int], Step], numbers: range) -> None:
        self.step_of, self.numbers = step_of, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, which: int) -> Step: ...

    @overload
    def __getitem__(self, which: slice) -> LazySteps: ...

    def __getitem__(self, which: int | slice) -> Step | LazySteps:
        found = self.numbers[which]
        return LazySteps(self.step_of, found) if isinstance(found, range) else self.step_of(found)

    def __iter__(self) -> Iterator[Step]:
        return map(self.step_of, self.numbers)

    def __eq__(self, other: object) -> bool:
        """Whether they are the same steps; ``other`` may be a list."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        first = ", ".join(map(repr, islice(self, 3)))
        return f"<{len(self):,} steps: {first}{', ...' if len(self) > 3 else ''}>"


def each(steps: Sequence[Step], change: Callable[[Step], Step]) -> LazySteps:
    """Every one of ``steps``, changed when it is asked for."""
    return LazySteps(lambda number: change(steps[number]), range(len(steps)))


class Batches:
    """The batches of ``steps`` in their order; it can be gone through more than once."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        return (batch for step in self.steps for batch in step)
