"""Prices of codewords that make searches use a table evenly, or in given shares."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq._validation import warn
from skvq.coding.charges import Prices
from skvq.learning.cells import cell_means
from skvq.learning.lloyd import LearnedCodebook
from skvq.learning.rows import Block, Learner, Rows, run

logger: logging.Logger = logging.getLogger("skvq.learning")

# The number of tables tried, and the rounds of prices for each and for the final one.
_TABLES = 8
# How many iterations the task of the rows is told of: those, and the final prices.
ITERATIONS = _TABLES + 1
_ROUNDS = 20
_FINAL_ROUNDS = 100
# The first step of a price for a cell e times as heavy as its target, in units of the
# mean distance.
_STEP = 0.1
# A step shrinks when its price reverses.  It grows while a cell approaches its target
# slowly, keeping more than the share _SLOW of its distance: where cells lie close
# together prices need small steps, and between far ones large steps.
_FALLS, _GROWS, _SLOW = 0.7, 1.1, 0.9
# A slow step grows by this factor if the cell has rows, and none has come or gone.
_LEAPS = 1.5
# The log of a share over its target is clipped here, so that empty cells have one too.
_MOST_LOG = 3.0
# A round that makes the largest cell this many times larger is undone.  The steps of
# the cells that grew or shrank as much are then cut.
_LOST = 2.0
_CUTS = 0.25
# A table is even if the largest cell over its share is at most this: at the end, and on
# the way there.
_EVEN, _EVEN_BEFORE = 1.01, 1.1


# The warning is given if the largest cell exceeds its share by this factor.
_UNEVEN = 1.5


class BalancedPrices(NamedTuple):
    """Prices, and how evenly they make codes used."""

    prices: np.ndarray  # (n_codewords,)
    steps: np.ndarray  # (n_codewords,), next change of each price
    logs: np.ndarray  # (n_codewords,), clipped logs of the ratios
    ratios: np.ndarray  # (n_codewords,), weight of each cell over its target
    largest: float  # largest of the ratios


# A learner of the weight of each cell under given prices.
Weigh = Callable[[np.ndarray], Learner[np.ndarray]]


def balance_prices(
    weigh: Weigh,
    prices: np.ndarray,
    targets: np.ndarray,
    unit: float,
    *,
    steps: np.ndarray | None = None,
    n_rounds: int = _FINAL_ROUNDS,
    enough: float = _EVEN,
) -> Learner[BalancedPrices]:
    """Raise the prices of cells that are too heavy, and lower those of light ones.

    Parameters
    ----------
    weigh : callable
        ``weigh(prices)`` is a learner of the weight of each cell.
    prices : ndarray of shape (n_codewords,)
        The first prices, of one column of codes or of several concatenated.
    targets : ndarray of shape (n_codewords,)
        Desired weight of each cell.
    unit : float
        A distance to which steps are in proportion.
    steps : ndarray of shape (n_codewords,), optional
        Steps that an earlier call ended with.
    n_rounds : int
        The most rounds of prices to try.
    enough : float
        Stop when the largest ratio of a cell's weight to its target is at most this.
        The largest cell, over its target, that ends it.

    Returns
    -------
    BalancedPrices
        The prices with the smallest largest ratio.
    """
    if steps is None:
        steps = np.full(len(prices), _STEP * unit)
    best: BalancedPrices | None = None
    last: BalancedPrices | None = None
    for _ in range(n_rounds):
        weights = yield from weigh(prices)
        ratios = weights / targets
        largest = float(ratios.max())
        if last is not None and largest > _LOST * last.largest:
            # The step of some prices was too long: go back and take smaller ones.
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
        last = BalancedPrices(prices, steps, logs, ratios, largest)
        if best is None or largest < best.largest:
            best = last
        if best.largest <= enough:
            break
        prices = _moved(prices, steps * logs)
    assert best is not None  # there is at least one round
    return best


def _moved(prices: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return changed prices, shifted so that the least is zero, and all finite."""
    most = np.finfo(np.float64).max / 8
    moved = np.clip(prices + np.clip(by, -most, most), -most, most)
    return moved - moved.min()


def balanced(
    rows: Rows,
    start: LearnedCodebook,
    shares: np.ndarray,
    prices: np.ndarray | None = None,
) -> Learner[LearnedCodebook]:
    """Learn prices with which codewords are used in given shares, and a table for them.

    Every search minimises the sum of squared distance and price.  Prices and table are
    improved in turn: a few rounds of prices, then the mean of each cell.  The final
    table gets many rounds.  The table kept is the one whose largest cell is smallest;
    among tables that are even enough, the one of least distance.

    Parameters
    ----------
    rows : Rows
        Samples.
    start : LearnedCodebook
        A table that is good without prices.
    shares : ndarray of shape (n_codewords,)
        Share of the weight of all rows that each cell is to have, together one.
    prices : ndarray of shape (n_codewords,), optional
        The first prices to try; None: zeros.

    Returns
    -------
    LearnedCodebook
        The learned table; its `charge` holds the prices.

    Notes
    -----
    Prices are the dual variables of the transport of rows to codewords of given
    weights: if they balance it, no other assignment with these weights has a lower mean
    distance to this table.  Each pass over the rows only counts the cells and keeps
    nothing else.

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

    def learned(table: np.ndarray, prices: np.ndarray) -> Learner[LearnedCodebook]:
        summed, plain, counts = yield rows.fold(_measured, nearest.Table(table), prices)
        return LearnedCodebook(
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
        even = yield from balance_prices(
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
            # A codeword that moved nearer to its rows gets dearer by as much, so that
            # at the mean of a cell the sum of distance and price stays the same.
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
    """Return the largest weight of a cell, relative to the cell's share of all."""
    (weights,) = yield rows.fold(_weights_of_cells, nearest.Table(table), prices)
    return float((weights / weights.sum() / shares).max())


class _Tried(NamedTuple):
    """A table, its prices, and how good they are together."""

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
    """Return the sort key, less is better: among even tables distance decides."""
    return max(one.largest, _EVEN), one.distance


def _weighing(rows: Rows, table: nearest.Table) -> Weigh:
    """Return a function that gives the weights of a table's cells under prices."""

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
    return nearest.nearest_cells(block.x, table, bias=prices, weights=block.w)[1:]


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
