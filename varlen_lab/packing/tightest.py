"""Rows by linear programming: for lengths so alike that best-fit leaves a tenth of every row empty.

Documents of 0.30 to 0.37 of a row: three long ones do not fit, best-fit starts with exactly those, and wastes a ninth.
A program asks instead how often each *pattern* (so many documents of each length, together within a row) should be
used, so that every length is used up in the fewest rows. There are far too many patterns to write down, so they are
generated (Gilmore & Gomory 1961): solve with the ones at hand, and let a knapsack find those that would help at the
current prices. What is left after rounding down goes through once more, and the rest is placed by best-fit.

The result is never worse than best-fit: it is computed too, and the better one is returned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from varlen_lab.packing.whole import Placement, best_fit, longest_first, lower_bound

MOST_LENGTHS = 320  # distinct lengths; more are rounded up to a grid, or the program is slow
ROUNDS, ITERATIONS = 60, 60
ROUND_UP = 0.7  # rounding up takes the uses that are at least this share of the largest
CLOSE_ENOUGH = 1.002  # best-fit this close to the bound is left as it is
SOLVER_NOISE = 1e-9  # numbers of the program that differ by no more are equal
SMOOTHING = 0.8  # weight of the steady prices: the solver's own jump, and the generation takes ten times as long
BOUND_TOLERANCE = 2e-4  # the program stops within this of the proven bound
NEW_PATTERNS = 300  # at most this many are added at a time


def tightest(lengths: np.ndarray, max_length: int, seed: int | None = None, lookahead: int = 0) -> Placement:
    """Place segments (int64 lengths, none over ``max_length``) in at most as many rows as ``best_fit``.

    ``seed`` shuffles which of several equally long segments goes where.
    """
    by_best_fit = best_fit(lengths, max_length, seed)
    if len(by_best_fit.offsets) - 1 <= lower_bound(lengths, max_length) * CLOSE_ENOUGH:
        return by_best_fit
    # Lengths rounded up to a grid are fewer; rows of a narrow set lose next to nothing by it.
    grid = -(-int(lengths.max() - lengths.min() + 1) // MOST_LENGTHS)
    room = max_length // grid  # a segment that reaches beyond the last grid line has a row to itself
    sizes, counts = np.unique(np.minimum(-(-lengths // grid), room), return_counts=True)
    rows = pattern_rows(sizes, counts, room)
    if len(rows) >= len(by_best_fit.offsets) - 1:
        return by_best_fit
    # The segments, longest first, are handed to the places that ask for their length.
    wanted = sizes[np.concatenate(rows)]
    order = np.empty(len(lengths), dtype=np.int64)
    order[longest_first(wanted)] = longest_first(lengths, seed)  # decreasing on both sides, so each fits its place
    return Placement(order, np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


def pattern_rows(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> list[np.ndarray]:
    """Rows for ``counts[i]`` documents of ``lengths[i]``, each as the indices into ``lengths``, longest first."""
    left = counts.copy()
    rows: list[np.ndarray] = []
    patterns = first_patterns(lengths, counts, max_length)
    for _ in range(ROUNDS):
        patterns, uses, _ = solve(lengths, left, patterns, max_length)
        whole = whole_uses(patterns, uses, left)
        if not whole.any():
            break
        left = left - patterns @ whole
        for pattern, times in zip(patterns.T[whole > 0], whole[whole > 0].tolist(), strict=True):
            rows += [np.repeat(np.arange(len(lengths)), pattern)[::-1]] * times
        if not left.any():
            return rows
        # A pattern that asks for more than is left still has its use: cut down to what is left, it can be taken again.
        patterns = np.unique(np.minimum(patterns, left[:, None]), axis=1)
        patterns = patterns[:, patterns.any(axis=0)]
        patterns = np.concatenate([patterns, one_length_patterns(lengths, left, max_length)], axis=1)
    # Rounding finds nothing more to take whole: what is left is a handful of documents.
    numbers = np.repeat(np.arange(len(lengths)), left)
    order, offsets, _ = best_fit(lengths[numbers], max_length)
    return rows + [numbers[order[a:b]] for a, b in itertools.pairwise(offsets)]


def program_bound(sizes: np.ndarray, max_length: int) -> float:
    """Proven by the prices of the program: no plan of whole documents needs fewer rows than this."""
    lengths, counts = np.unique(sizes, return_counts=True)
    return solve(lengths, counts, first_patterns(lengths, counts, max_length), max_length)[2]


def first_patterns(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> np.ndarray:
    """(lengths, patterns): as many of one length as fit, and the patterns best-fit comes up with."""
    numbers = np.repeat(np.arange(len(lengths)), counts)
    order, offsets, _ = best_fit(lengths[numbers], max_length)
    seen = {tuple(np.bincount(numbers[order[a:b]], minlength=len(lengths))) for a, b in itertools.pairwise(offsets)}
    return np.concatenate([one_length_patterns(lengths, counts, max_length), np.array(sorted(seen)).T], axis=1)


def one_length_patterns(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> np.ndarray:
    """One pattern for each length: as many as fit in a row, and as there are. The program always has a solution."""
    return np.diag(np.minimum(max_length // lengths, counts))[:, counts > 0]


def solve(
    lengths: np.ndarray, demand: np.ndarray, patterns: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Generate patterns until the program is within ``BOUND_TOLERANCE`` of its bound: patterns, their uses, the bound.

    ``demand[i]`` documents of ``lengths[i]`` are to be placed; ``patterns``: (lengths, patterns), what is known so far.
    """
    steady = lengths / max_length  # prices in proportion to length: a good first guess
    bound = 0.0
    known = {pattern.tobytes() for pattern in patterns.T.astype(np.int64)}
    for _ in range(ITERATIONS):
        uses, newest, value = fewest_rows(patterns, demand)
        # The smooth prices first; if they know no new pattern, the solver's own, and then there is none.
        for prices in (SMOOTHING * steady + (1 - SMOOTHING) * newest, newest):
            table = knapsack(lengths, prices, max_length)
            allowed = prices / max(1.0, table[-1])  # no pattern is worth more than its row: a feasible dual
            if allowed @ demand > bound:
                bound, steady = float(allowed @ demand), allowed
            found = new_patterns(lengths, prices, table, max_length)
            fresh = [pattern for pattern in found if pattern.tobytes() not in known]
            if fresh:
                break
        if not fresh or value <= bound * (1 + BOUND_TOLERANCE):
            break
        known.update(pattern.tobytes() for pattern in fresh)
        patterns = np.concatenate([patterns, np.stack(fresh, axis=1)], axis=1)
    return patterns, np.pad(uses, (0, patterns.shape[1] - len(uses))), bound


def fewest_rows(patterns: np.ndarray, demand: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The program in fractions: how often to use each pattern, the price of each length, and the number of rows."""
    from scipy.optimize import linprog
    from scipy.sparse import csc_matrix

    result = linprog(np.ones(patterns.shape[1]), A_ub=-csc_matrix(patterns), b_ub=-demand, method="highs-ds")
    return result.x, -result.ineqlin.marginals, float(result.fun)


def whole_uses(patterns: np.ndarray, uses: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Uses as whole numbers, none taking more of a length than there is.

    Down to the whole part where there is one; else up, the largest parts first, as far as documents last.
    """
    whole = np.zeros(len(uses), dtype=np.int64)
    left = demand.copy()
    up = uses.max() < 1 - SOLVER_NOISE
    for index in np.argsort(-uses, kind="stable").tolist():
        times = int(uses[index] >= ROUND_UP * uses.max()) if up else int(uses[index] + SOLVER_NOISE)
        if not times:
            break
        pattern = patterns[:, index]
        needed = pattern > 0
        whole[index] = min(times, int((left[needed] // pattern[needed]).min()))
        left = left - whole[index] * pattern
    return whole


def knapsack(lengths: np.ndarray, prices: np.ndarray, max_length: int) -> np.ndarray:
    """``table[room]``: the most that documents within ``room`` tokens can be worth, any number of each length."""
    table = np.zeros(max_length + 1)
    shortest = int(lengths[0])
    for room in range(shortest, max_length + 1):
        fitting = np.searchsorted(lengths, room, side="right")
        table[room] = max(table[room - 1], float((table[room - lengths[:fitting]] + prices[:fitting]).max()))
    return table


def new_patterns(lengths: np.ndarray, prices: np.ndarray, table: np.ndarray, max_length: int) -> Iterator[np.ndarray]:
    """The best pattern around each length that is worth more than the row it takes, the most valuable first."""
    worth = prices + table[max_length - lengths]
    for number in np.argsort(-worth, kind="stable")[:NEW_PATTERNS].tolist():
        if worth[number] <= 1 + SOLVER_NOISE:
            return
        pattern = np.zeros(len(lengths), dtype=np.int64)
        pattern[number] = 1
        room = int(max_length - lengths[number])
        while room >= lengths[0] and table[room] > 1e-12:
            fitting = np.searchsorted(lengths, room, side="right")
            gains = table[room - lengths[:fitting]] + prices[:fitting]
            chosen = int(np.argmax(gains))
            if gains[chosen] < table[room] - SOLVER_NOISE:
                room -= 1  # the value of this room is that of a smaller one
                continue
            pattern[chosen] += 1
            room -= int(lengths[chosen])
        yield pattern
