"""Bit allocation: how many levels each column gets out of a total number of bits.

References
----------
Shoham and Gersho (1988), "Efficient bit allocation for an arbitrary set of
quantizers", IEEE Trans. Acoustics, Speech and Signal Processing 36(9).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from skvq.learning.rows import Learner

# The most bits that a column takes, and how far beyond the mean the first try goes.
MOST_BITS = 16
_BEYOND_MEAN = 4


def candidate_sizes(most_bits: float) -> tuple[int, ...]:
    """Return every number of levels up to 16, then four to the octave."""
    many = np.rint(2.0 ** np.arange(4, most_bits + 0.25, 0.25)).astype(int)
    few = np.arange(1, min(17, int(2.0**most_bits) + 1))
    return tuple(np.union1d(few, many).tolist())


def best_sizes(errors: np.ndarray, bits: np.ndarray, total_bits: float) -> np.ndarray:
    """Return the number of levels of each column that minimises the summed error.

    The algorithm follows the lower convex hulls of the curves of error over bits.  It
    repeatedly takes the step that gains most per bit.  A column whose next step does
    not fit gets no more.

    Parameters
    ----------
    errors : ndarray of shape (n_columns, n_sizes)
        Error of each column with each candidate number of levels.
    bits : ndarray of shape (n_sizes,)
        Cost of each number of levels, ascending.
    total_bits : float
        The most that all columns may cost together.

    Returns
    -------
    chosen : ndarray of int, shape (n_columns,)
        Indices into `bits`.  The total is never exceeded.
    """
    column, order, size, cost, slope = _hull_steps(errors, bits)
    best_first = np.lexsort((column, order, slope))
    column, size, cost = column[best_first], size[best_first], cost[best_first]
    chosen = np.zeros(len(errors), dtype=int)
    n_fit = int(np.searchsorted(np.cumsum(cost), total_bits + 1e-9, "right"))
    np.maximum.at(chosen, column[:n_fit], size[:n_fit])
    left, closed = total_bits + 1e-9 - cost[:n_fit].sum(), set()
    for i in range(n_fit, len(cost)):
        if left < cost[i]:
            closed.add(column[i])
        if column[i] not in closed:
            chosen[column[i]] = size[i]
            left -= cost[i]
    return chosen


def allocated(
    errors: Callable[[tuple[int, ...]], Learner[np.ndarray]],
    n_columns: int,
    total_bits: float,
    powers_of_two: bool = False,
) -> Learner[tuple[tuple[int, ...], bool]]:
    """Spread bits over columns so that the summed error becomes small.

    Parameters
    ----------
    errors : callable
        ``errors(sizes)`` is a learner of the error of each column with each of some
        ascending numbers of levels, (n_columns, n_sizes).
    n_columns : int
        Number of columns.
    total_bits : float
        The most that all columns may cost together.
    powers_of_two : bool, default=False
        Whether all numbers of levels must be powers of two.

    Returns
    -------
    sizes : tuple of int
        The levels of each column; the sum of their log2 never exceeds the total.
    useless : bool
        Whether bits are left over from which no column gains.
    """
    most = min(float(MOST_BITS), total_bits)
    cap = min(most, total_bits / n_columns + _BEYOND_MEAN)
    sizes: tuple[int, ...] = ()
    curves = np.empty((n_columns, 0))
    while True:
        wanted = _powers(cap) if powers_of_two else candidate_sizes(cap)
        more = tuple(size for size in wanted if size not in sizes)
        curves = np.hstack([curves, (yield from errors(more))])
        sizes += more
        bits = np.log2(sizes)
        chosen = best_sizes(curves, bits, total_bits)
        if cap >= most or chosen.max() < len(sizes) - 1:
            break
        cap = min(most, cap + _BEYOND_MEAN)  # a column may gain from more
    satisfied = best_sizes(curves, bits, np.inf)
    left = bits[chosen].sum() + 1e-9 < total_bits
    useless = bool(left and (chosen == satisfied).all())
    return tuple(int(sizes[i]) for i in chosen), useless


def _powers(most_bits: float) -> tuple[int, ...]:
    return tuple(2**k for k in range(int(most_bits) + 1))


def _hull_steps(errors: Any, bits: Any) -> Any:
    """Return the steps between corners of the curves' lower convex hulls.

    From each corner the steepest descent leads to the next one, until none descends.
    All curves are followed together, one corner at a time.

    Returns
    -------
    column, order, size, cost, slope : ndarray of shape (n_steps,)
        For each step: its column, its number within the column, the size that it leads
        to, the bits that it costs, and what it gains per bit.
    """
    places = np.arange(len(bits))
    found: list[tuple[np.ndarray, ...]] = []
    at = np.zeros(len(errors), dtype=int)
    going = np.arange(len(errors))
    while going.size:
        begin = at[going]
        costs = bits - bits[begin, None]
        falls = errors[going] - errors[going, begin][:, None]
        slopes = np.full(falls.shape, np.inf)
        np.divide(falls, costs, out=slopes, where=places > begin[:, None])
        # Among corners on one line, take the last.
        end = len(bits) - 1 - np.argmin(slopes[:, ::-1], axis=1)
        rows = np.arange(len(going))
        steepest = slopes[rows, end]
        falling = steepest < 0
        going, end = going[falling], end[falling]
        at[going] = end
        order = np.full(len(going), len(found))
        cost = costs[rows[falling], end]
        found.append((going, order, end, cost, steepest[falling]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
