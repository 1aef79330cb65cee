"""How many levels each column gets, where bits are spread over all of them.

References
----------
Shoham and Gersho (1988), "Efficient bit allocation for an arbitrary set of
quantizers", IEEE Trans. Acoustics, Speech and Signal Processing 36(9).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from skvq.learning.rows import Learner

# Bits that a column takes at most, and beyond the mean in a first try.
MOST_BITS = 16
_BEYOND_MEAN = 4


def candidate_sizes(most_bits: float) -> tuple[int, ...]:
    """Return every number up to 16, and four to the octave beyond."""
    many = np.rint(2.0 ** np.arange(4, most_bits + 0.25, 0.25)).astype(int)
    few = np.arange(1, min(17, int(2.0**most_bits) + 1))
    return tuple(np.union1d(few, many).tolist())


def best_sizes(errors: np.ndarray, bits: np.ndarray, total_bits: float) -> np.ndarray:
    """Return which number of levels each column gets, for its error with each.

    Along the lower convex hulls of the curves of error over bits, the step that gains
    most for its bits is taken, again and again; a column whose next step does not fit
    gets no more.

    Parameters
    ----------
    errors : ndarray of shape (n_columns, n_sizes)
        What is to be small in sum, with each of some numbers of levels.
    bits : ndarray of shape (n_sizes,)
        What each number costs, ascending.
    total_bits : float
        What all columns may cost together.

    Returns
    -------
    chosen : ndarray of int, shape (n_columns,)
        Places in `bits`.  The total is never exceeded.
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
    """Spread bits over columns by what they take off the error of each.

    Parameters
    ----------
    errors : callable
        ``errors(sizes)`` is a learner of the error of each column with each of some
        numbers of levels, ascending, (n_columns, n_sizes).
    n_columns : int
        How many there are.
    total_bits : float
        What all of them may cost together.
    powers_of_two : bool, default=False
        Whether no other numbers of levels are wanted.

    Returns
    -------
    sizes : tuple of int
        The levels of each column; the sum of their log2 never exceeds the total.
    useless : bool
        Whether bits are left that no column has a use for.
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
        cap = min(most, cap + _BEYOND_MEAN)  # a column may want more than were tried
    satisfied = best_sizes(curves, bits, np.inf)
    left = bits[chosen].sum() + 1e-9 < total_bits
    useless = bool(left and (chosen == satisfied).all())
    return tuple(int(sizes[i]) for i in chosen), useless


def _powers(most_bits: float) -> tuple[int, ...]:
    return tuple(2**k for k in range(int(most_bits) + 1))


def _hull_steps(errors: Any, bits: Any) -> Any:
    """Return the steps between corners of the curves' lower convex hulls.

    From each corner the steepest fall leads to the next one, as long as it is a fall.
    All curves go together, a corner at a time.

    Returns
    -------
    column, order, size, cost, slope : ndarray of shape (n_steps,)
        Of each step, whose it is, its number there, where it leads, its bits, and what
        it gains for each of them.
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
        # Of corners in one line, the last.
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
