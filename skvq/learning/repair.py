"""The repair of empty cells, for rows wherever they are stored."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from skvq import nearest
from skvq.learning.cells import split_heaviest
from skvq.learning.random_rows import first_distinct, first_of_block, uniforms
from skvq.learning.rows import Block, Learner, Rows, block_rows

# Key of the random numbers by which rows are chosen.
_KEY = 0


def repaired(
    rows: Rows,
    codes: Any,
    codebook: np.ndarray,
    counts: np.ndarray,
    metric: nearest.Metric,
    how: str,
) -> Learner[np.ndarray]:
    """Move the codewords that no row uses to where they help.

    This never raises the summed distance: "split" cuts the cell of the largest sum in
    two and takes the best codeword of each half; "farthest" moves the codeword onto the
    row farthest from its own.  It is deterministic and needs no search.

    Parameters
    ----------
    rows : Rows
        The samples; unit vectors if the metric is the cosine.
    codes : state of the rows
        Their codes.
    codebook : ndarray of shape (n_codewords, n_features)
        The best codebook for the codes.
    counts : ndarray of shape (n_codewords,)
        Weight of each cell.
    metric : {"sqeuclidean", "cosine", "cityblock"}
        The distance.
    how : {"split", "farthest", "keep"}
        The rule.

    Returns
    -------
    codebook : ndarray of shape (n_codewords, n_features)
        A new table, or the same if nothing was empty.

    Notes
    -----
    If there are more rows than in one block, cells are split by a sample of that size,
    drawn half with probability by distance and half uniformly, and weighted by the
    inverse probability.  The codewords of split cells then stay where they are, so that
    rows outside the sample lose nothing.

    References
    ----------
    Bachem, Lucic and Krause (2018), "Scalable k-means clustering via lightweight
    coresets", algorithm 1.
    """
    empty = np.flatnonzero(counts == 0)
    if how == "keep" or empty.size == 0:
        return codebook
    if how == "farthest":
        found = yield rows.gather(
            _farthest,
            codebook,
            metric,
            empty.size,
            state=codes,
            join=partial(first_distinct, empty.size),
            most=empty.size,
        )
        result = codebook.copy()
        result[empty[: len(found[0])]] = found[0]
        return result
    X, weights, cost, own, is_whole = yield from drawn_by_cost(
        rows, codes, _costs, codebook, metric
    )
    table, _ = split_heaviest(X, own, codebook, weights, metric, cost, empty)
    if is_whole:
        return table
    result = codebook.copy()
    result[empty] = table[empty]
    return result


def drawn_by_cost(
    rows: Rows, codes: Any, costs: Callable[..., Any], *args: Any
) -> Learner[tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, bool]]:
    """Return rows to split cells of: all rows, or about as many as a block has.

    Parameters
    ----------
    rows : Rows
        The samples.
    codes : state of the rows
        Their codes.
    costs : callable
        ``costs(block, *args)`` is the weighted distance of each row.
    *args : object
        Further arguments of `costs`.

    Returns
    -------
    X, weights, cost, codes : ndarray
        Rows; their weights and weighted distances, both divided by the probability of
        being drawn; and their codes.  Weights are None where all are one.
    is_whole : bool
        Whether they are all rows.
    """
    # The probability of a row to be drawn is even + by_cost * its distance.
    even, by_cost, most = 1.0, 0.0, block_rows(rows.n_features)
    is_whole = rows.n_rows <= most
    if not is_whole:
        (total,) = yield rows.fold(_total, costs, args, state=codes)
        even = 0.5 * most / rows.n_rows
        by_cost = 0.5 * most / float(total) if total > 0 else 0.0
    # The number of rows drawn is nearly Poisson distributed.
    X, weights, cost, own = yield rows.gather(
        _sample, costs, args, even, by_cost, state=codes, most=2 * most + 64
    )
    has_weights = rows.weighted or not is_whole
    return X, weights if has_weights else None, cost, own, is_whole


def _costs(block: Block, codebook: np.ndarray, metric: nearest.Metric) -> Any:
    """Return the weighted distance of each row from its codeword."""
    codes = block.be.cast(block.state[0], np.intp)
    return block.weighted(nearest.paired(block.x, codebook, metric, codes=codes))


def _total(
    block: Block, costs: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (block.be.xp.sum(costs(block, *args)),)


def _farthest(
    block: Block, codebook: np.ndarray, metric: nearest.Metric, most: int
) -> tuple[Any, ...]:
    cost = block.be.to_host(_costs(block, codebook, metric))
    return first_of_block(block, -cost, np.flatnonzero(cost > 0), most)


def _sample(
    block: Block,
    costs: Callable[..., Any],
    args: tuple[Any, ...],
    even: float,
    by_cost: float,
) -> tuple[Any, ...]:
    """Return rows, their weights, their weighted distances, and codes."""
    be, weights = block.be, block.host_weights()
    cost = be.to_host(costs(block, *args))
    own = be.to_host(be.cast(block.state[0], np.intp))
    if even == 1:
        return block.x, weights, cost, own
    chances = np.minimum(1.0, even + by_cost * cost)
    drawn = np.flatnonzero(uniforms(_KEY, block.first, block.n_rows) < chances)
    chances = chances[drawn]
    x = be.take(block.x, drawn)
    return x, weights[drawn] / chances, cost[drawn] / chances, own[drawn]
