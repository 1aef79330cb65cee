"""Equal cells of one width (the step) for all features, and the step of a given rate.

If the codes of features are entropy coded, equal cells are nearly optimal at every
rate, and one step for all features allocates the bits well among them (Gish and Pierce
1968): a feature whose spread is below the step takes hardly any.

References
----------
Gish and Pierce (1968), "Asymptotically efficient quantizing", IEEE Trans. Inf. Theory
14(5).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skvq._checks import check_memory
from skvq.coding.levels import CellMeans, Grid
from skvq.coding.rates import code_lengths
from skvq.learning.rows import Block, Learner, Rows
from skvq.learning.scalar import column_range, level_shares, spread, weighted_mean

# No code has more cells than the first number.  Cells about numbers of more steps than
# the second are narrower than the spacing of floats.
MOST_CELLS, _MOST_PLACES = 2**32, 2**52
# The most cells, over all features, that are counted for one of the steps in a pass.
_MOST_COUNTED = 2**22
# Relative tolerance of the rate reached, and the most passes to reach it.
_TOLERANCE, MOST_PASSES = 1e-4, 12
# Distances of the first steps from the first guess, as powers of two.
_FIRST = (-1.5, -0.75, 0.0, 0.75, 1.5)
# Places around the best guess that a pass tries, as shares of the bracket.
_AROUND = (-0.1, -0.02, 0.0, 0.02, 0.1)


def cells_of_step(
    low: np.ndarray, high: np.ndarray, step: float, *, spare: bool = False
) -> Grid | None:
    """Return the cells [(k - 1/2) step, (k + 1/2) step) that a range reaches.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The least and the largest values.
    step : float
        The width of a cell.
    spare : bool, default=False
        Whether columns of several cells get one more at either end.  Other samples will
        reach further than those seen, and a code that is hardly ever used costs next to
        nothing.

    Returns
    -------
    cells : Grid or None
        None if a column would have more than 2**32 cells, or if the cells are narrower
        than the spacing of floats.
    """
    with np.errstate(over="ignore"):
        first, last = (np.floor(end / step + 0.5) for end in (low, high))
        if not max(np.abs(first).max(), np.abs(last).max()) < _MOST_PLACES:
            return None
    if spare:
        several = last > first
        first, last = first - several, last + several
    counts = last - first + 1
    if counts.max() > MOST_CELLS:
        return None
    return Grid((first - 0.5) * step, (last + 0.5) * step, tuple(map(int, counts)))


def means_of_step(rows: Rows, step: float, what: str) -> Learner[CellMeans]:
    """Return the cells of a step, decoded to the means of their samples.

    Cells without samples are decoded to their midpoints.

    Parameters
    ----------
    rows : Rows
        The samples.
    step : float
        The width of a cell.
    what : str
        The parameter and its value, named in the messages.

    Raises
    ------
    ValueError
        If there are too many cells.
    """
    low, high = yield from column_range(rows)
    cells = cells_of_step(low, high, step, spare=True)
    if cells is None:
        raise ValueError(
            f"{what}: numbers of X are too large for it. A feature would have more "
            "than 2**32 cells, or its numbers are further apart; expected a larger "
            "step."
        )
    n_cells = sum(cells.sizes)
    check_memory(
        f"{n_cells} cells of {what} in {rows.n_features} features",
        5 * 8 * n_cells,
        rows.n_bytes,
    )
    parts, shares = yield from level_shares(rows, cells, cells.sizes)
    middles = np.concatenate([table[:, 0] for table in cells.tables()])
    means = np.divide(parts, shares, out=middles, where=shares > 0)
    return CellMeans(cells, np.split(means, np.cumsum(cells.sizes)[:-1]))


def coded_rate(shares: np.ndarray, sizes: Sequence[int], n_rows: int) -> float:
    """Return the bits of a row if each code takes -log2 of its share of a column.

    Parameters
    ----------
    shares : ndarray of shape (sum V,)
        Shares of the codes, column after column.
    sizes : sequence of int
        Number of codes V of each column.
    n_rows : int
        The sum of the counts of a column, to which `code_lengths` adds.
    """
    columns = np.split(shares, np.cumsum(sizes)[:-1])
    return float(sum(share @ code_lengths(share * n_rows) for share in columns))


def step_of_rate(rows: Rows, rate: float) -> Learner[tuple[float, float]]:
    """Return the step whose codes take about `rate` bits a row, and the bits they take.

    Each pass counts the codes of several steps.

    Parameters
    ----------
    rows : Rows
        The samples.
    rate : float
        Bits for each row.
    """
    low, high = yield from column_range(rows)
    largest = max(float(np.abs(low).max()), float(np.abs(high).max()))
    if largest == 0:
        return 1.0, 0.0
    deviation = yield from spread(rows, (yield from weighted_mean(rows)))
    # At the largest step every feature has one cell.
    upper, lower = (np.log2(largest) + 1.001, 0.0), None
    guess = np.log2(_gaussian_step(deviation, largest, rate))
    # Below the smallest steps whose cells are counted, the rate is unknown.
    guess = max(guess, _least_counted(low, high, upper[0]) - min(_FIRST))
    places, found = [guess + shift for shift in _FIRST], [upper]
    for _ in range(MOST_PASSES):
        known = {place for place, _ in found}
        grids = {}
        for place in places:
            if place in known or place > upper[0]:
                continue
            cells = _counted_cells(low, high, place)
            if cells is not None:
                grids[place] = cells
        if not grids:
            break
        task = rows.task.begin("iteration")
        counted = yield rows.fold(_counts, tuple(grids.values()))
        for shares, (place, cells) in zip(counted, grids.items(), strict=True):
            whole = shares[: cells.sizes[0]].sum()
            found.append((place, coded_rate(shares / whole, cells.sizes, rows.n_rows)))
        place, best = min(found, key=lambda pair: (abs(pair[1] - rate), -pair[0]))
        if task.end() or abs(best - rate) <= _TOLERANCE * rate:
            break
        upper = min(pair for pair in found if pair[1] < rate)
        above = [pair for pair in found if pair[1] >= rate and pair[0] < upper[0]]
        lower = max(above, default=None)
        if lower is None:
            places = [upper[0] - shift for shift in (1.0, 2.0, 4.0, 6.0)]
            continue
        width = upper[0] - lower[0]
        middle = (lower[1] - rate) / (lower[1] - upper[1])
        places = [
            lower[0] + width * float(np.clip(middle + shift, 0.01, 0.99))
            for shift in _AROUND
        ]
    place, best = min(found, key=lambda pair: (abs(pair[1] - rate), -pair[0]))
    return float(np.exp2(place)), best


def _counted_cells(low: np.ndarray, high: np.ndarray, place: float) -> Grid | None:
    """Return the cells of the step 2**place; None if they are too many to count."""
    step = float(np.exp2(place))
    cells = cells_of_step(low, high, step, spare=True) if step > 0 else None
    if cells is None or sum(cells.sizes) > _MOST_COUNTED + len(low):
        return None
    return cells


def _least_counted(low: np.ndarray, high: np.ndarray, most: float) -> float:
    """Return about the smallest power of two whose cells are not too many to count."""
    least = most - 2 - np.log2(_MOST_PLACES)
    for _ in range(12):
        middle = (least + most) / 2
        if _counted_cells(low, high, middle) is None:
            least = middle
        else:
            most = middle
    return most


def _counts(block: Block, grids: Sequence[Grid]) -> tuple[Any, ...]:
    be, shares = block.be, block.weighted(block.be.zeros((block.n_rows,)) + 1.0)
    return tuple(
        be.level_sums(block.x, cells.encode(block.x), shares, cells.sizes)[1]
        for cells in grids
    )


def _gaussian_step(deviation: np.ndarray, largest: float, rate: float) -> float:
    """Return about the step of a rate, as if features were Gaussian.

    Features wider than the step take log2(spread / step) + 2 bits.
    """
    used = np.log2(np.sort(deviation[deviation > 0])[::-1] * 4.1327)
    if not used.size:
        return largest
    counts = np.arange(1, len(used) + 1)
    steps = (np.cumsum(used) - rate) / counts
    # Among the numbers of widest features that would take bits, the largest.
    wide = np.flatnonzero(steps <= used)
    return float(np.exp2(steps[wide[-1]] if wide.size else steps[0]))
