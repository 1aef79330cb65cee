"""The first table of a learner, from rows wherever they are stored."""

from functools import partial
from typing import Any

import numpy as np

from skvq import nearest
from skvq.learning.cells import best_codewords, split_heaviest
from skvq.learning.lloyd import lloyd
from skvq.learning.moments import principal_axes
from skvq.learning.random_rows import draw_distinct, new_key, uniforms
from skvq.learning.rows import (
    Block,
    Learner,
    Rows,
    columns,
    in_memory,
    picked,
    rotated,
    scaled,
)
from skvq.learning.tasks import SILENT
from skvq.nearest.distinct import unique_rows

INITS = ("k-means++", "random", "splitting", "progressive", "normal")

# Up to this many rows per codeword, k-means++ looks at every row for every codeword.
_EXACT_ROWS_PER_CODEWORD = 8
# Up to this many candidates, all distances between them are computed at once.
_MAX_ALL_PAIRS = 2048
# Each round draws about V rows: two of these end where five of V/2 do, but sooner.
_ROUNDS = 2
_LBG_ITERATIONS = 5
# Steps in which the number of principal components grows, and iterations in each.
_PROGRESSIVE_STEPS = 10
_PROGRESSIVE_ITERATIONS = 5

# Metrics under which scaling the samples scales the codebook.
_HOMOGENEOUS = frozenset({"sqeuclidean", "inner_product", "cityblock"})


def few_distinct(rows: Rows, n_codewords: int) -> Learner[np.ndarray | None]:
    """Return the distinct rows, sorted lexicographically, if fewer than n_codewords."""
    start, stop = 0, 2 * n_codewords
    found = np.empty((0, rows.n_features), rows.dtype)
    while start < rows.n_rows:
        stop = min(stop, rows.n_rows)
        (fresh,) = yield rows.gather(
            _distinct_between,
            start,
            stop,
            n_codewords,
            join=partial(_join_distinct, n_codewords),
            most=n_codewords,
            # The first few rows are enough in most cases.
            blocks=rows.blocks_between(start, stop),
        )
        if len(found):
            (fresh,) = _join_distinct(n_codewords, (found,), (fresh,))
        found = fresh
        if len(found) == n_codewords:
            return None
        start, stop = stop, 4 * stop
    return found


def _distinct_between(
    block: Block, start: int, stop: int, most: int
) -> tuple[Any, ...]:
    low, high = (min(max(n - block.first, 0), block.n_rows) for n in (start, stop))
    return (distinct(block.be.to_host(block.x[low:high, :]))[:most],)


def _join_distinct(
    most: int, a: tuple[Any, ...], b: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (distinct(np.concatenate([a[0], b[0]]))[:most],)


def distinct(rows: np.ndarray) -> np.ndarray:
    """Return the distinct rows in lexicographic order."""
    rows = rows + 0.0
    return rows[unique_rows(rows)[0]] if len(rows) else rows


def weights_of(block: Block, distinct: np.ndarray) -> tuple[Any, ...]:
    """Return, for each distinct row, the weight of all rows that equal it."""
    # The distinct rows come first, in their order, and so do their groups.
    both = np.concatenate([distinct, block.be.to_host(block.x) + 0.0])
    group = unique_rows(both)[1][len(distinct) :]
    return (np.bincount(group, block.host_weights(), minlength=len(distinct)),)


def repeat_cyclically(rows: np.ndarray, n_codewords: int) -> np.ndarray:
    """Fill a table of n_codewords rows by repeating the given rows cyclically."""
    return rows[np.arange(n_codewords) % len(rows)]


def initialise(
    rows: Rows,
    n_codewords: int,
    init: str,
    metric: nearest.Metric,
    rng: np.random.RandomState,
) -> Learner[np.ndarray]:
    """Return a first codebook.

    Parameters
    ----------
    rows : Rows
        Samples, at least n_codewords of them distinct, except for "normal".
    n_codewords : int
        Number of codewords.
    init : {"k-means++", "random", "splitting", "progressive", "normal"}
        The method.  "splitting" takes the rows into memory.
    metric : str or callable
        The distance.
    rng : RandomState
        Source of all random numbers.

    Returns
    -------
    codebook : ndarray of shape (n_codewords, n_features), in the dtype of the rows
    """
    if init == "normal":
        table = rng.standard_normal((n_codewords, rows.n_features))
        return table.astype(rows.dtype)
    if init == "random":
        return (yield from draw_distinct(rows, n_codewords, rng))
    scale = yield from ordinary_scale(rows, metric)
    rows = rows if scale == 1 else rows.view(scaled, scale).held()
    if init == "splitting":
        table = yield from splitting(rows, n_codewords, metric)
    elif init == "progressive":
        table = yield from progressive(rows, n_codewords, rng)
    else:
        # An inner product is no distance and cannot tell how far rows are apart.
        spread = "sqeuclidean" if metric == "inner_product" else metric
        table = yield from k_means_plus_plus(rows, n_codewords, spread, rng)
    return table if scale == 1 else table / scale


def ordinary_scale(
    rows: Rows, metric: nearest.Metric = "sqeuclidean"
) -> Learner[float]:
    """Return 1 for ordinary values, else a power of two that keeps squares finite."""
    if metric not in _HOMOGENEOUS:
        return 1
    (largest,) = yield rows.fold(_largest, join=_larger)
    exponent = int(np.frexp(largest[0])[1])
    limit = np.finfo(rows.dtype).maxexp
    if abs(exponent) <= limit // 4:
        return 1
    # A Python number works with the dtypes of all libraries.
    return 2.0 ** float(np.clip(-exponent, 2 - limit, limit - 2))


def _largest(block: Block) -> tuple[Any, ...]:
    # xp.abs would take memory for another array of this size.
    xp = block.be.xp
    return (np.array([max(float(xp.max(block.x)), -float(xp.min(block.x)))]),)


def _larger(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return (np.maximum(a[0], b[0]),)


def k_means(
    rows: Rows,
    n_codewords: int,
    rng: np.random.RandomState,
    max_iter: int,
    tol: float = 1e-4,
    init: str = "k-means++",
) -> Learner[np.ndarray]:
    """Return a table by a start and Lloyd's iteration, or the rows if few are distinct.

    Parameters
    ----------
    rows, n_codewords, rng
        As in `initialise`, but fewer rows than codewords may be distinct.
    max_iter, tol
        As in `lloyd.lloyd`.
    init
        As in `initialise`.
    """
    few = yield from few_distinct(rows, n_codewords)
    if few is not None:
        return repeat_cyclically(few, n_codewords)
    table = yield from initialise(rows, n_codewords, init, "sqeuclidean", rng)
    # Of the start of another learner nobody is told.
    rows = rows.under(SILENT)
    learned = yield from lloyd(rows, table, max_iter=max_iter, tol=tol)
    return learned.codebook


# -- k-means++ -------------------------------------------------------------------------


def k_means_plus_plus(
    rows: Rows, n_codewords: int, metric: nearest.Metric, rng: np.random.RandomState
) -> Learner[np.ndarray]:
    """Choose rows far from each other, with probability by distance.

    With up to 8 rows per codeword this is greedy k-means++, which tries 2 + log(V) rows
    for each codeword and keeps the best.  With more it is k-means||: two rounds each
    draw about V rows at once; the 2 V candidates, weighted by the samples nearest to
    them, are then reduced to V by greedy k-means++.

    References
    ----------
    Arthur and Vassilvitskii (2007), "k-means++".
    Bahmani et al. (2012), "Scalable k-means++".
    """
    if rows.n_rows <= _EXACT_ROWS_PER_CODEWORD * n_codewords:
        X, weights = yield from in_memory(rows)
    else:
        X, weights = yield from _oversample(rows, n_codewords, metric, rng)
    return X[greedy(X, n_codewords, weights, metric, rng)]


def greedy(
    X: np.ndarray,
    n_codewords: int,
    weights: np.ndarray | None,
    metric: nearest.Metric,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Return the indices of rows that greedy k-means++ chooses."""
    weights = np.ones(len(X)) if weights is None else weights
    weights = weights.astype(X.dtype)
    trials = 2 + int(np.log(n_codewords))
    # BLAS kernels may raise this flag for memory beside the operands.  Sums that are
    # not finite are caught where distances are computed.
    with nearest.single_threaded_blas(), np.errstate(invalid="ignore"):
        table_of = nearest.DistanceTable(X, metric)
        pairs = table_of(X) if len(X) <= _MAX_ALL_PAIRS else None

        def distances(which: Any) -> Any:
            return table_of(X[which]) if pairs is None else pairs[which]

        chosen = [_draw(weights, rng, 1)[0]]
        closest = distances(chosen)[0].copy()
        closest[chosen] = 0
        while len(chosen) < n_codewords:
            potential = closest * weights
            if not potential.any():
                # The remaining rows differ by less than distances can resolve.
                fresh = _first_of_equal(np.concatenate([X[chosen], X])) - len(chosen)
                potential = np.ones(len(X))
                potential[chosen] = 0
                if (fresh >= 0).any():
                    potential[:] = 0
                    potential[fresh[fresh >= 0]] = 1
            picks = _draw(potential, rng, trials)
            table = np.minimum(distances(picks), closest)
            best = int(np.argmin(table @ weights))
            chosen.append(picks[best])
            closest = table[best]
            closest[picks[best]] = 0
    return np.array(chosen)


def _draw(potential: np.ndarray, rng: np.random.RandomState, size: int) -> np.ndarray:
    """Draw indices with probability in proportion to the potential."""
    cumulated = np.cumsum(potential, dtype=np.float64)
    points = rng.random_sample(size) * cumulated[-1]
    found = np.searchsorted(cumulated, points, side="right")
    return np.minimum(found, np.flatnonzero(potential)[-1])


def _first_of_equal(rows: np.ndarray) -> np.ndarray:
    """Return ascending indices of the first of each group of equal rows."""
    return np.sort(unique_rows(rows)[0])


def _oversample(
    rows: Rows, n_codewords: int, metric: nearest.Metric, rng: np.random.RandomState
) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return distinct candidates, n_codewords or more, and their weights."""
    candidates = yield from _draw_one(rows, rng)
    (potential,), state = yield rows.fold(_approach, candidates, 0, metric, keep=True)
    n_rounds, first = 0, np.zeros(1, np.intp)
    while n_rounds < _ROUNDS or len(first) < n_codewords:
        missing = n_codewords - (0 if n_rounds < _ROUNDS else len(first))
        n_rounds += 1
        fresh = yield from _draw_about(rows, missing, float(potential), state, rng)
        if len(fresh) == 0:
            if n_rounds <= _ROUNDS:
                continue
            # The remaining rows differ by less than distances can resolve.
            (fresh,) = yield rows.gather(
                _distinct_between,
                0,
                rows.n_rows,
                n_codewords,
                join=partial(_join_distinct, n_codewords),
                most=n_codewords,
            )
        (potential,), state = yield rows.fold(
            _approach, fresh, len(candidates), metric, state=state, keep=True
        )
        candidates = np.concatenate([candidates, fresh])
        # Equal rows may be drawn together in one round but count once.
        first = _first_of_equal(candidates)
    (counts,) = yield rows.fold(_owned, len(candidates), state=state)
    return candidates[first], np.maximum(counts[first], np.finfo(float).tiny)


def _draw_one(rows: Rows, rng: np.random.RandomState) -> Learner[np.ndarray]:
    if rows.weighted:
        return (yield from draw_distinct(rows, 1, rng))
    # This takes no pass over the rows.
    number = int(rng.randint(rows.n_rows))
    blocks = rows.blocks_between(number, number + 1)
    (drawn,) = yield rows.gather(picked, np.array([number]), most=1, blocks=blocks)
    return drawn


def _draw_about(
    rows: Rows, expected: int, potential: float, state: Any, rng: np.random.RandomState
) -> Learner[np.ndarray]:
    """Draw each row independently, `expected` in the mean; none if all are 0."""
    if not potential > 0:
        return np.empty((0, rows.n_features), rows.dtype)
    # The number of rows drawn is nearly Poisson distributed.
    (drawn,) = yield rows.gather(
        _drawn,
        new_key(rng),
        expected / potential,
        state=state,
        most=int(2 * expected) + 64,
    )
    if len(drawn) == 0:
        drawn, _ = yield rows.gather(_worst, join=_worse, most=1, state=state)
    return drawn


def _approach(
    block: Block, fresh: np.ndarray, before: int, metric: Any
) -> tuple[Any, ...]:
    """Return the summed distance from the nearest candidates, and the distances."""
    be, xp = block.be, block.be.xp
    codes, closest = nearest.nearest(block.x, fresh, metric)
    owner = be.cast(codes, np.int32) + before
    if block.state:
        old_owner, old = block.state
        closer = closest < old
        owner = xp.where(closer, owner, old_owner)
        closest = xp.minimum(closest, old)
    return (xp.sum(block.weighted(closest)),), (owner, closest)


def _drawn(block: Block, key: int, share: float) -> tuple[Any, ...]:
    lots = uniforms(key, block.first, block.n_rows)
    potential = block.be.to_host(block.weighted(block.state[1]))
    return (block.be.take(block.x, np.flatnonzero(lots < share * potential)),)


def _worst(block: Block) -> tuple[Any, ...]:
    potential = block.be.to_host(block.weighted(block.state[1]))
    row = np.array([np.argmax(potential)])
    return block.be.take(block.x, row), potential[row]


def _worse(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return a if a[1][0] >= b[1][0] else b


def _owned(block: Block, n_candidates: int) -> tuple[Any, ...]:
    owner, weights = block.be.to_host(block.state[0]), None
    if block.w is not None:
        weights = block.host_weights()
    counts = np.bincount(owner, weights, minlength=n_candidates)
    return (counts.astype(np.float64),)


# -- other starts ----------------------------------------------------------------------


def splitting(
    rows: Rows, n_codewords: int, metric: nearest.Metric
) -> Learner[np.ndarray]:
    """Grow a table from one codeword by splitting cells; deterministic.

    Each round splits every cell, or in the last round the heaviest ones, across its
    longest axis, and improves the table by a few of Lloyd's iterations.  The rows are
    taken into memory.

    References
    ----------
    Linde, Buzo and Gray (1980), "An algorithm for vector quantizer design".
    """
    X, weights = yield from in_memory(rows)
    inside = Rows(X, weights)
    codes = np.zeros(len(X), dtype=np.intp)
    codebook = best_codewords(X, codes, X[:1], weights, metric)
    while len(codebook) < n_codewords:
        size = len(codebook)
        slots = np.arange(size, min(2 * size, n_codewords))
        zeros = np.zeros((len(slots), X.shape[1]), codebook.dtype)
        table = np.concatenate([codebook, zeros])
        codes, cost = nearest.nearest(X, codebook, metric)
        cost = cost if weights is None else cost * weights
        table, codes = split_heaviest(X, codes, table, weights, metric, cost, slots)
        grown = int(codes.max()) + 1
        if grown <= size:
            return _fill_with_distinct(X, codebook, n_codewords)
        learned = yield from lloyd(
            inside, table[:grown], metric, max_iter=_LBG_ITERATIONS, tol=1e-3
        )
        codebook = learned.codebook
    return codebook


def _fill_with_distinct(X: Any, codebook: np.ndarray, n_codewords: int) -> np.ndarray:
    """Complete a table with rows that differ by less than distances can resolve."""
    taken = {row.tobytes() for row in codebook + 0.0}
    fresh = [row for row in distinct(X) if row.tobytes() not in taken]
    return np.concatenate([codebook, fresh[: n_codewords - len(codebook)]])


def progressive(
    rows: Rows, n_codewords: int, rng: np.random.RandomState
) -> Learner[np.ndarray]:
    """Learn a table in the first principal components, then in more and more of them.

    The start is random samples.  The leading components, which few samples suffice to
    learn, settle cells along the directions of large variance, and later components
    refine them.  Returned is the table before the last step, in all components.

    References
    ----------
    Chen, Guan and Wang (2010), "Approximate nearest neighbor search by residual vector
    quantization", Sensors 10(12), and the progressive k-means of the faiss library
    (Douze et al. 2024, "The Faiss library").
    """
    mean, axes = yield from principal_axes(rows)
    drawn = yield from draw_distinct(rows, n_codewords, rng)
    with nearest.single_threaded_blas():
        table = (drawn - mean) @ axes
    d = axes.shape[1]
    inside = rows.view(rotated, mean, axes, width=d).held().under(SILENT)
    widths = {round(d ** (step / _PROGRESSIVE_STEPS)) for step in range(1, 10)}
    for width in sorted(widths - {d}):
        learned = yield from lloyd(
            inside.view(columns, 0, width, width=width).held(),
            np.ascontiguousarray(table[:, :width]),
            max_iter=_PROGRESSIVE_ITERATIONS,
            tol=1e-3,
        )
        table = np.zeros_like(table)
        table[:, :width] = learned.codebook
    with nearest.single_threaded_blas():
        return np.ascontiguousarray(table @ axes.T + mean)
