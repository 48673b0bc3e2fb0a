"""What a benchmark promised, and whether this run kept it."""

from __future__ import annotations


def verdict(goals: list[tuple[str, bool]]) -> int:
    """Print each goal with ``met`` or ``MISSED``; the exit code: 0 when all are met, else 1."""
    print()
    for text, met in goals:
        print(("met     " if met else "MISSED  ") + text)
    return 0 if all(met for _, met in goals) else 1
