"""Prices of codewords, by which a table is used evenly, or in given shares."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq._validation import warn
from skvq.coding.charges import Prices
from skvq.learning.cells import cell_means
from skvq.learning.lloyd import Learned
from skvq.learning.rows import Block, Learner, Rows, run

logger: logging.Logger = logging.getLogger("skvq.learning")

# Tables that are tried, and rounds of prices for each; and for the final one.
_TABLES = 8
# How many iterations the task of the rows is told of: those, and the final prices.
ITERATIONS = _TABLES + 1
_ROUNDS = 20
_FINAL_ROUNDS = 100
# The first step of a price, for a cell e times as heavy as it is to be, in units of the
# mean distance.
_STEP = 0.1
# A step falls when its price turns, and grows while a cell comes nearer to its target
# slowly, keeping more than this share of its distance: where cells lie close together
# prices need small steps, and between far ones large ones.
_FALLS, _GROWS, _SLOW = 0.7, 1.1, 0.9
# And by so much where no row has come or gone, of those that there are.
_LEAPS = 1.5
# No log of a share over its target counts for more, so that empty cells have one.
_MOST_LOG = 3.0
# A round that makes the largest cell so many times larger is taken back, and the steps
# of those cells cut that have grown or fallen as much.
_LOST = 2.0
_CUTS = 0.25
# Even enough: the largest cell over its share; in the end, and for a table on the way.
_EVEN, _EVEN_BEFORE = 1.01, 1.1


# Cells that are so much larger than their share are told of.
_UNEVEN = 1.5


class Level(NamedTuple):
    """Prices, and how evenly codes are used with them."""

    prices: np.ndarray  # (n_codewords,)
    steps: np.ndarray  # (n_codewords,), by which they go on
    logs: np.ndarray  # (n_codewords,), of the ratios, as they count
    ratios: np.ndarray  # (n_codewords,), weight of each cell over its target
    largest: float  # of the ratios


# The weight of each cell under prices, as a learner finds it.
Weigh = Callable[[np.ndarray], Learner[np.ndarray]]


def level(
    weigh: Weigh,
    prices: np.ndarray,
    targets: np.ndarray,
    unit: float,
    *,
    steps: np.ndarray | None = None,
    n_rounds: int = _FINAL_ROUNDS,
    enough: float = _EVEN,
) -> Learner[Level]:
    """Raise the prices of cells that are too heavy, and lower those of light ones.

    Parameters
    ----------
    weigh : callable
        ``weigh(prices)`` is a learner of the weight of each cell.
    prices : ndarray of shape (n_codewords,)
        The start; of one column of codes, or of several, one after the other.
    targets : ndarray of shape (n_codewords,)
        What each cell is to weigh.
    unit : float
        A distance to which steps are in proportion.
    steps : ndarray of shape (n_codewords,), optional
        Those that an earlier call has come to.
    n_rounds : int
        How many prices are tried, at most.
    enough : float
        The largest cell, over its target, that ends it.

    Returns
    -------
    Level
        Those of the least largest cell, over its target.
    """
    if steps is None:
        steps = np.full(len(prices), _STEP * unit)
    best: Level | None = None
    last: Level | None = None
    for _ in range(n_rounds):
        weights = yield from weigh(prices)
        ratios = weights / targets
        largest = float(ratios.max())
        if last is not None and largest > _LOST * last.largest:
            # A step of some prices went too far: back, and again with smaller ones.
            blame = ratios > _LOST * np.maximum(last.ratios, 1.0)
            blame |= _LOST * ratios < np.minimum(last.ratios, 1.0)
            last = last._replace(steps=np.where(blame, _CUTS, 1.0) * last.steps)
            prices = _moved(last.prices, last.steps * last.logs)
            continue
        with np.errstate(divide="ignore"):
            logs = np.clip(np.log(ratios), -_MOST_LOG, _MOST_LOG)
        if last is not None:
            turned = logs * last.logs < 0
            slow = np.abs(logs) > _SLOW * np.abs(last.logs)
            still = (logs == last.logs) & (ratios > 0)
            grows = np.where(still, _LEAPS, _GROWS)
            steps = np.where(turned, _FALLS, np.where(slow, grows, 1.0)) * last.steps
        last = Level(prices, steps, logs, ratios, largest)
        if best is None or largest < best.largest:
            best = last
        if best.largest <= enough:
            break
        prices = _moved(prices, steps * logs)
    assert best is not None  # there is a round at least
    return best


def _moved(prices: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return prices that are raised, the least of them zero, and none infinite."""
    most = np.finfo(np.float64).max / 8
    moved = np.clip(prices + np.clip(by, -most, most), -most, most)
    return moved - moved.min()


def balanced(
    rows: Rows,
    start: Learned,
    shares: np.ndarray,
    prices: np.ndarray | None = None,
) -> Learner[Learned]:
    """Learn prices with which codewords are used in given shares, and a table for them.

    Every search is the argmin of the squared distance and the price.  Prices and table
    are improved in turn: a few rounds of prices, then the mean of each cell; in the end
    many rounds on the final table.  Of the tables on the
    way the one is kept whose largest cell is the least; of those that are even, the one
    of the least distance.

    Parameters
    ----------
    rows : Rows
        Samples.
    start : Learned
        A table that is good without prices.
    shares : ndarray of shape (n_codewords,)
        Share of the weight of all rows that each cell is to have, together one.
    prices : ndarray of shape (n_codewords,), optional
        Those that are tried first; None: none.

    Returns
    -------
    Learned
        With prices as its charge.

    Notes
    -----
    Prices are the dual variables of the transport of rows to codewords of given
    weights: where they balance it, no other assignment of the same weights has a lower
    mean distance to this table.  They are found by a count of the cells alone, in
    passes over the rows that keep nothing of them.

    References
    ----------
    Aurenhammer, Hoffmann and Aronov (1998), "Minkowski-type theorems and least-squares
    clustering", Algorithmica 20.
    """
    (total,) = yield rows.fold(_weight)
    targets = shares * float(total)
    (n_heavy,) = yield rows.fold(_heavier, float(targets.max()) * (1 + 1e-9))
    if n_heavy:
        warn(
            "{} samples have each more of the weight of all samples than the largest "
            "share of a codeword: no prices give codewords their shares.",
            int(n_heavy),
        )
    table, unit = start.codebook, start.distortion
    steps = None
    if prices is None:
        prices = np.zeros(len(table))
    mean = float(total) / rows.n_rows
    if unit == 0 or len(table) == 1:
        charge = Prices(np.zeros(len(table)), shares)
        n_iter = max(1, start.n_iter)
        return start._replace(charge=charge, nearest=start.distortion, n_iter=n_iter)

    def learned(table: np.ndarray, prices: np.ndarray) -> Learner[Learned]:
        summed, plain, counts = yield rows.fold(_measured, nearest.Table(table), prices)
        return Learned(
            table,
            float(summed / total),
            start.n_iter + _TABLES,
            counts if mean == 1 else counts / mean,
            Prices(prices, shares),
            nearest=float(plain / total),
        )

    tried = [(yield from _tried(rows, table, np.zeros(len(table)), targets))]
    for n_rounds in (*(_ROUNDS,) * _TABLES, _FINAL_ROUNDS):
        task = rows.task.begin("iteration")
        searched = nearest.Table(table, exact=False)
        weigh = _weighing(rows, searched)
        enough = _EVEN_BEFORE if n_rounds == _ROUNDS else _EVEN
        even = yield from level(
            weigh, prices, targets, unit, steps=steps, n_rounds=n_rounds, enough=enough
        )
        prices, steps = even.prices, even.steps
        logger.debug("balance: largest cell %.4g of its share", even.largest)
        tried.append((yield from _tried(rows, table, prices, targets)))
        if task.end(partial(run, learned(table, prices))):
            break
        if n_rounds == _ROUNDS:
            sums, counts = yield rows.fold(_cells, searched, prices)
            means = cell_means(sums, counts, table, "sqeuclidean")
            # What is nearer to its rows by as much is dearer by as much: at the mean of
            # a cell, distance and price are together what they were.
            prices = _moved(prices, nearest.paired(means, table))
            table = means
    best = min(tried, key=_merit)
    found = yield from learned(best.table, best.prices)
    largest = float((np.asarray(found.counts) * mean / targets).max())
    if largest > _UNEVEN and not n_heavy:
        warn(
            "the largest cell has {}% of its share: no prices were found that use "
            "codewords evenly, which is hard where samples are equal or far apart, or "
            "have few features.",
            round(100 * largest),
        )
    return found


def largest_cell(
    rows: Rows, table: np.ndarray, prices: np.ndarray, shares: np.ndarray
) -> Learner[float]:
    """Return the weight of a cell over its share of all, of that which has the most."""
    (weights,) = yield rows.fold(_weights_of_cells, nearest.Table(table), prices)
    return float((weights / weights.sum() / shares).max())


class _Tried(NamedTuple):
    """A table with prices."""

    table: np.ndarray
    prices: np.ndarray
    largest: float  # weight of a cell over its target
    distance: float  # summed over rows


def _tried(
    rows: Rows, table: np.ndarray, prices: np.ndarray, targets: np.ndarray
) -> Learner[_Tried]:
    distance, counts = yield rows.fold(
        _found, nearest.Table(table, exact=False), prices
    )
    return _Tried(table, prices, float((counts / targets).max()), float(distance))


def _merit(one: _Tried) -> tuple[float, float]:
    """Return what is to be small: of even tables the distance decides."""
    return max(one.largest, _EVEN), one.distance


def _weighing(rows: Rows, table: nearest.Table) -> Weigh:
    """Return what finds the weights of the cells of a table under prices."""

    def weigh(prices: np.ndarray) -> Learner[np.ndarray]:
        (weights,) = yield rows.fold(_weights_of_cells, table, prices)
        return weights

    return weigh


def _weight(block: Block) -> tuple[Any, ...]:
    return (np.array(block.host_weights().sum()),)


def _heavier(block: Block, limit: float) -> tuple[Any, ...]:
    return (np.array((block.host_weights() > limit).sum()),)


def _counted(block: Block, codes: Any, size: int) -> np.ndarray:
    weights = None if block.w is None else block.host_weights()
    return np.bincount(block.be.to_host(codes), weights, size).astype(np.float64)


def _weights_of_cells(
    block: Block, table: nearest.Table, prices: np.ndarray
) -> tuple[Any, ...]:
    codes, _ = nearest.nearest(block.x, table, bias=prices, return_distances=False)
    return (_counted(block, codes, len(table)),)


def _cells(block: Block, table: nearest.Table, prices: np.ndarray) -> tuple[Any, ...]:
    codes, _ = nearest.nearest(block.x, table, bias=prices, return_distances=False)
    return block.be.cell_sums(block.x, codes, len(table), block.w)


def _found(block: Block, table: nearest.Table, prices: np.ndarray) -> tuple[Any, ...]:
    """Return summed distances with prices, and the weights of cells."""
    codes, found = nearest.nearest(block.x, table, bias=prices)
    return block.be.xp.sum(block.weighted(found)), _counted(block, codes, len(table))


def _measured(
    block: Block, table: nearest.Table, prices: np.ndarray
) -> tuple[Any, ...]:
    """Return summed distances with prices and without, and the weights of cells."""
    be = block.be
    codes, found = nearest.nearest(block.x, table, bias=prices)
    _, plain = nearest.nearest(block.x, table)
    sums = [be.xp.sum(block.weighted(each)) for each in (found, plain)]
    return *sums, _counted(block, codes, len(table))
