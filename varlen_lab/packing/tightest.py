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
UP = 0.7  # rounding up takes the parts that are at least this share of the largest
WORTHWHILE = 1.002  # best-fit this close to the bound is left alone
EXACT = 1e-9  # the solver's noise
SMOOTHING = 0.8  # weight of the steadier prices: plain ones jump, and the generation takes ten times as long
CLOSE = 2e-4  # the program stops within this of the proven bound
COLUMNS = 300  # new patterns a pricing


def tightest(lengths: np.ndarray, max_length: int, seed: int | None = None) -> Placement:
    """Place segments (int64 lengths, none over ``max_length``) in at most as many rows as ``best_fit``.

    ``seed`` shuffles which of several equally long segments goes where.
    """
    simple = best_fit(lengths, max_length, seed)
    if len(simple.offsets) - 1 <= lower_bound(lengths, max_length) * WORTHWHILE:
        return simple
    # Lengths rounded up to a grid are fewer; rows of a narrow set lose next to nothing by it.
    grid = -(-int(lengths.max() - lengths.min() + 1) // MOST_LENGTHS)
    room = max_length // grid  # a segment that reaches beyond the last grid line has a row to itself
    sizes, counts = np.unique(np.minimum(-(-lengths // grid), room), return_counts=True)
    rows = patterns(sizes, counts, room)
    if len(rows) >= len(simple.offsets) - 1:
        return simple
    # The segments, longest first, are handed to the places that ask for their length.
    wanted = sizes[np.concatenate(rows)]
    order = np.empty(len(lengths), dtype=np.int64)
    order[longest_first(wanted)] = longest_first(lengths, seed)  # decreasing on both sides, so each fits its place
    return Placement(order, np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


def patterns(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> list[np.ndarray]:
    """The rows, each as the numbers (indices into ``lengths``) of its documents, longest first."""
    left = counts.copy()
    rows: list[np.ndarray] = []
    columns = first_columns(lengths, counts, max_length)
    for _ in range(ROUNDS):
        columns, used, _ = solve(lengths, left, columns, max_length)
        whole = rounded(columns, used, left)
        if not whole.any():
            break
        left = left - columns @ whole
        for column, times in zip(columns.T[whole > 0], whole[whole > 0].tolist(), strict=True):
            rows += [np.repeat(np.arange(len(lengths)), column)[::-1]] * times
        if not left.any():
            return rows
        # A pattern that asks for more than is left is worth what it finds: cut, it can be rounded again.
        columns = np.unique(np.minimum(columns, left[:, None]), axis=1)
        columns = np.concatenate([columns[:, columns.any(axis=0)], alone(lengths, left, max_length)], axis=1)
    numbers = np.repeat(np.arange(len(lengths)), left)
    order, offsets = best_fit(lengths[numbers], max_length)
    return rows + [numbers[order[a:b]] for a, b in itertools.pairwise(offsets)]


def program_bound(sizes: np.ndarray, max_length: int) -> float:
    """Proven by the prices of the program: no plan of whole documents needs fewer rows than this."""
    lengths, counts = np.unique(sizes, return_counts=True)
    return solve(lengths, counts, first_columns(lengths, counts, max_length), max_length)[2]


def first_columns(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> np.ndarray:
    """(lengths, patterns): as many of one length as fit, and the patterns best-fit comes up with."""
    numbers = np.repeat(np.arange(len(lengths)), counts)
    order, offsets = best_fit(lengths[numbers], max_length)
    seen = {tuple(np.bincount(numbers[order[a:b]], minlength=len(lengths))) for a, b in itertools.pairwise(offsets)}
    return np.concatenate([alone(lengths, counts, max_length), np.array(sorted(seen)).T], axis=1)


def alone(lengths: np.ndarray, counts: np.ndarray, max_length: int) -> np.ndarray:
    """One pattern for each length: as many as fit in a row, and as there are."""
    return np.diag(np.minimum(max_length // lengths, counts))[:, counts > 0]


def solve(
    lengths: np.ndarray, demand: np.ndarray, columns: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Generate patterns until the program is within ``CLOSE`` of its bound: patterns, their uses, the bound."""
    centre = lengths / max_length  # prices in proportion to length: a good first guess
    bound = 0.0
    known = {column.tobytes() for column in columns.T.astype(np.int64)}
    for _ in range(ITERATIONS):
        used, plain, value = program(columns, demand)
        # The smooth prices first; if they know no new pattern, the plain ones, and then there is none.
        for prices in (SMOOTHING * centre + (1 - SMOOTHING) * plain, plain):
            table = knapsack(lengths, prices, max_length)
            allowed = prices / max(1.0, table[-1])  # no pattern is worth more than its row: a feasible dual
            if allowed @ demand > bound:
                bound, centre = float(allowed @ demand), allowed
            fresh = [c for c in price(lengths, prices, table, max_length) if c.tobytes() not in known]
            if fresh:
                break
        if not fresh or value <= bound * (1 + CLOSE):
            break
        known.update(column.tobytes() for column in fresh)
        columns = np.concatenate([columns, np.stack(fresh, axis=1)], axis=1)
    return columns, np.pad(used, (0, columns.shape[1] - len(used))), bound


def program(columns: np.ndarray, demand: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Fewest rows that hold at least ``demand``: use of each column, price of each length, value."""
    from scipy.optimize import linprog
    from scipy.sparse import csc_matrix

    result = linprog(np.ones(columns.shape[1]), A_ub=-csc_matrix(columns), b_ub=-demand, method="highs-ds")
    return result.x, -result.ineqlin.marginals, float(result.fun)


def rounded(columns: np.ndarray, used: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Whole uses, none taking more of a length than there is.

    Down to the whole part where there is one; else up, the largest parts first, as far as documents last.
    """
    whole = np.zeros(len(used), dtype=np.int64)
    left = demand.copy()
    up = used.max() < 1 - EXACT
    for index in np.argsort(-used, kind="stable").tolist():
        times = int(used[index] >= UP * used.max()) if up else int(used[index] + EXACT)
        if not times:
            break
        column = columns[:, index]
        needed = column > 0
        whole[index] = min(times, int((left[needed] // column[needed]).min()))
        left = left - whole[index] * column
    return whole


def knapsack(lengths: np.ndarray, prices: np.ndarray, max_length: int) -> np.ndarray:
    """``table[room]``: the most that documents within ``room`` tokens can be worth, any number of each length."""
    table = np.zeros(max_length + 1)
    shortest = int(lengths[0])
    for room in range(shortest, max_length + 1):
        fitting = np.searchsorted(lengths, room, side="right")
        table[room] = max(table[room - 1], float((table[room - lengths[:fitting]] + prices[:fitting]).max()))
    return table


def price(lengths: np.ndarray, prices: np.ndarray, table: np.ndarray, max_length: int) -> Iterator[np.ndarray]:
    """The best pattern around each length that is worth more than the row it takes, the most valuable first."""
    worth = prices + table[max_length - lengths]
    for number in np.argsort(-worth, kind="stable")[:COLUMNS].tolist():
        if worth[number] <= 1 + 1e-9:
            return
        column = np.zeros(len(lengths), dtype=np.int64)
        column[number] = 1
        room = int(max_length - lengths[number])
        while room >= lengths[0] and table[room] > 1e-12:
            fitting = np.searchsorted(lengths, room, side="right")
            gains = table[room - lengths[:fitting]] + prices[:fitting]
            chosen = int(np.argmax(gains))
            if gains[chosen] < table[room] - 1e-9:
                room -= 1  # the value of this room is that of a smaller one
                continue
            column[chosen] += 1
            room -= int(lengths[chosen])
        yield column
