"""A first table for the learners."""

from typing import NamedTuple

import numpy as np

from skvq import nearest
from skvq._array_api import (
    largest_magnitude,
    numpy_dtype,
    take_rows,
    to_host,
    unique_rows,
)
from skvq.learning.cells import best_codewords, split_heaviest
from skvq.learning.lloyd import lloyd

INITS = ("k-means++", "random", "splitting", "progressive", "normal")

# Rows per codeword up to which k-means++ looks at every row for every codeword.
_EXACT_ROWS_PER_CODEWORD = 8
# Up to so many candidates, all distances between them are computed at once.
_MAX_ALL_PAIRS = 2048
# Drawn in each round, in codewords: two rounds of V end where five of V/2 do, sooner.
_OVERSAMPLING = 1.0
_ROUNDS = 2
_LBG_ITERATIONS = 5
# Growing numbers of principal components, and iterations in each.
_PROGRESSIVE_STEPS = 10
_PROGRESSIVE_ITERATIONS = 5
_COVARIANCE_ROWS = 16384

# Metrics under which scaling the samples scales the codebook.
_HOMOGENEOUS = frozenset({"sqeuclidean", "inner_product", "cityblock"})


def few_distinct(X: np.ndarray, n_codewords: int) -> np.ndarray | None:
    """Return the distinct rows in lexicographic order if fewer than n_codewords."""
    # Bounds that lie within X: the array API knows no others.
    stop = min(2 * n_codewords, X.shape[0])
    rows = _distinct(X[:stop, :])
    while len(rows) < n_codewords:
        if stop >= X.shape[0]:
            return rows
        start, stop = stop, min(4 * stop, X.shape[0])
        rows = _distinct(np.concatenate([rows, _distinct(X[start:stop, :])]))
    return None


def _distinct(X) -> np.ndarray:
    """Return the distinct rows in lexicographic order, on the host."""
    rows = to_host(X) + 0.0
    return rows[unique_rows(rows)[0]]


def repeat_cyclically(rows: np.ndarray, n_codewords: int) -> np.ndarray:
    """Fill a table of n_codewords rows with the given ones, over and over."""
    return rows[np.arange(n_codewords) % len(rows)]


def initialise(
    X: np.ndarray,
    n_codewords: int,
    init: str,
    weights: np.ndarray | None,
    metric: nearest.Metric,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Return a first codebook.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples, at least n_codewords of them distinct, except for "normal".
    n_codewords : int
        Number of rows.
    init : {"k-means++", "random", "splitting", "progressive", "normal"}
        The method.
    weights : ndarray of shape (n_samples,) or None
        Positive sample weights.
    metric : str or callable
        The distance.
    rng : RandomState
        Source of all random numbers.

    Returns
    -------
    codebook : ndarray of shape (n_codewords, n_features), in X's dtype
    """
    if init == "normal":
        return rng.standard_normal((n_codewords, X.shape[1])).astype(numpy_dtype(X))
    if init == "random":
        return to_host(take_rows(X, draw_distinct(X, n_codewords, weights, rng)))
    scale = _scale(X, metric)
    scaled = X if scale == 1 else X * scale
    if init == "splitting":
        table = splitting(scaled, n_codewords, weights, metric)
    elif init == "progressive":
        # Principal components need LAPACK, and a few rotated copies of X: on the host.
        w = None if weights is None else to_host(weights)
        table = progressive(to_host(scaled), n_codewords, w, rng)
    else:
        # A product is no distance, and cannot say which rows are far from each other.
        spread = "sqeuclidean" if metric == "inner_product" else metric
        table = k_means_plus_plus(scaled, n_codewords, weights, spread, rng)
    return table if scale == 1 else table / scale


def draw_distinct(X, n_rows: int, weights, rng: np.random.RandomState) -> np.ndarray:
    """Draw rows no two of which are equal, one after the other, by weight.

    Equal rows are drawn as one that weighs what they do together.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Samples of any library, at least n_rows of them distinct.
    n_rows : int
        How many to draw.
    weights : array of shape (n_samples,) or None
        Positive sample weights; None: equal ones.
    rng : RandomState
        Source of one random number for each sample.

    Returns
    -------
    rows : ndarray of shape (n_rows,)
        Their indices, in the order in which they were drawn.

    Notes
    -----
    Exponential times, divided by the weights, put the samples in the order of drawing
    without replacement; the first time of several equal samples is distributed as that
    of one of their summed weight.  So the rest of the order is left out where its row
    has come before, and only as much of it is looked at as is needed.

    References
    ----------
    Efraimidis and Spirakis (2006), "Weighted random sampling with a reservoir",
    Information Processing Letters 97(5).
    """
    times = rng.standard_exponential(X.shape[0])
    if weights is not None:
        with np.errstate(over="ignore"):
            times = times / to_host(weights)
    looked_at = min(n_rows, len(times))
    while True:
        earliest = np.argpartition(times, looked_at - 1)[:looked_at]
        order = earliest[np.argsort(times[earliest], kind="stable")]
        rows = order[_first_of_equal(take_rows(X, order))]
        if looked_at == len(times):
            # Rows that scaling has made equal, if there are too few others.
            rows = np.concatenate([rows, np.setdiff1d(order, rows)])
        if len(rows) >= n_rows:
            return rows[:n_rows]
        looked_at = min(2 * looked_at, len(times))


def _scale(X: np.ndarray, metric: nearest.Metric):
    """1 for ordinary values; else the power of two that keeps their squares finite."""
    if metric not in _HOMOGENEOUS:
        return 1
    exponent = int(np.frexp(largest_magnitude(X))[1])
    dtype = numpy_dtype(X)
    limit = np.finfo(dtype).maxexp // 4
    if abs(exponent) <= limit:
        return 1
    most = np.finfo(dtype).maxexp - 2
    # A Python number, which is of any library's dtype.
    return 2.0 ** float(np.clip(-exponent, -most, most))


def k_means_plus_plus(X, n_codewords, weights, metric, rng) -> np.ndarray:
    """Choose rows far from each other, with probability by distance.

    Up to 8 rows per codeword: greedy k-means++, which tries 2 + log(V) rows for each
    codeword and keeps the best.  Beyond: k-means||, two rounds that each draw about V
    rows at once; the 2 V candidates, weighted by the samples nearest to them, are then
    reduced to V by greedy k-means++.

    References
    ----------
    Arthur and Vassilvitskii (2007), "k-means++".
    Bahmani et al. (2012), "Scalable k-means++".
    """
    if X.shape[0] > _EXACT_ROWS_PER_CODEWORD * n_codewords:
        X, weights = _oversample(X, n_codewords, weights, metric, rng)
    # What is left is a few rows per codeword, and every step waits for the one before:
    # the host is the place for it.
    X, weights = to_host(X), None if weights is None else to_host(weights)
    return X[_greedy(X, n_codewords, weights, metric, rng)]


def _greedy(X, n_codewords, weights, metric, rng) -> np.ndarray:
    weights = np.ones(len(X)) if weights is None else weights
    weights = weights.astype(X.dtype)
    trials = 2 + int(np.log(n_codewords))
    # BLAS's kernels may raise the flag for what lies beside the operands; sums that are
    # not finite are caught where distances are.
    with nearest.single_threaded_blas(), np.errstate(invalid="ignore"):
        table_of = nearest.DistanceTable(X, metric)
        pairs = table_of(X) if len(X) <= _MAX_ALL_PAIRS else None

        def distances(rows):
            return table_of(X[rows]) if pairs is None else pairs[rows]

        chosen = [_draw(weights, rng, 1)[0]]
        closest = distances(chosen)[0].copy()
        closest[chosen] = 0
        while len(chosen) < n_codewords:
            potential = closest * weights
            if not potential.any():
                # What is left differs by less than distances can tell.
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


def _draw(potential: np.ndarray, rng, size: int) -> np.ndarray:
    """Draw indices with probability by potential."""
    cumulated = np.cumsum(potential, dtype=np.float64)
    points = rng.random_sample(size) * cumulated[-1]
    found = np.searchsorted(cumulated, points, side="right")
    return np.minimum(found, np.flatnonzero(potential)[-1])


class _Candidates(NamedTuple):
    """Rows drawn so far."""

    rows: np.ndarray  # (n_candidates,), where they are in X
    owner: np.ndarray  # (n_samples,), the candidate nearest to each row of X
    closest: np.ndarray  # (n_samples,), its distance


def _oversample(X, n_codewords, weights, metric, rng):
    """Return distinct candidate rows, n_codewords or more, and their weights.

    Random numbers are drawn on the host, one for each row, whatever the library of X:
    the same rows come out.  So codes and distances go there; the rows stay.
    """
    w = np.ones(X.shape[0]) if weights is None else to_host(weights)
    rows = _draw(w, rng, 1)
    candidates = _Candidates(rows, *_nearest_rows(X, rows, metric))
    for _ in range(_ROUNDS):
        drawn = _draw_about(candidates.closest * w, _OVERSAMPLING * n_codewords, rng)
        candidates = _join(X, candidates, drawn, metric)
    # Equal rows may be drawn together in one round; they count once.
    first = _first_of_equal(take_rows(X, candidates.rows))
    while first.size < n_codewords:
        drawn = _draw_about(candidates.closest * w, n_codewords - first.size, rng)
        if drawn.size == 0:
            # What is left differs by less than distances can tell.
            drawn = _first_of_equal(X)
        candidates = _join(X, candidates, drawn, metric)
        first = _first_of_equal(take_rows(X, candidates.rows))
    counts = np.bincount(candidates.owner, w, minlength=len(candidates.rows))[first]
    chosen = take_rows(X, candidates.rows[first])
    return chosen, np.maximum(counts, np.finfo(float).tiny)


def _nearest_rows(X, rows: np.ndarray, metric) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and distances on the host, the codebook being some rows of X."""
    codes, found = nearest.nearest(X, take_rows(X, rows), metric)
    return to_host(codes), to_host(found)


def _draw_about(potential: np.ndarray, expected: float, rng) -> np.ndarray:
    """Draw each index on its own, `expected` in all on average; none if all are 0."""
    total = potential.sum()
    if not total > 0:
        return np.empty(0, dtype=np.intp)
    drawn = np.flatnonzero(
        rng.random_sample(len(potential)) < expected * potential / total
    )
    return drawn if drawn.size else np.array([np.argmax(potential)])


def _join(X, candidates: _Candidates, drawn: np.ndarray, metric) -> _Candidates:
    if drawn.size == 0:
        return candidates
    codes, found = _nearest_rows(X, drawn, metric)
    closer = found < candidates.closest
    return _Candidates(
        np.concatenate([candidates.rows, drawn]),
        np.where(closer, codes + len(candidates.rows), candidates.owner),
        np.minimum(found, candidates.closest),
    )


def _first_of_equal(rows: np.ndarray) -> np.ndarray:
    """Return ascending indices of the first of each group of equal rows."""
    return np.sort(unique_rows(to_host(rows))[0])


def _fill_with_distinct(X, codebook, n_codewords) -> np.ndarray:
    """Complete a table with rows that differ by less than distances can tell."""
    rows = _distinct(X)
    taken = {row.tobytes() for row in codebook + 0.0}
    fresh = [row for row in rows if row.tobytes() not in taken]
    return np.concatenate([codebook, fresh[: n_codewords - len(codebook)]])


def splitting(X, n_codewords, weights, metric) -> np.ndarray:
    """Grow a table from one codeword by splitting cells; no random numbers.

    Each round splits every cell, or the heaviest ones in the last round, across its
    longest axis, and improves the table by a few of Lloyd's iterations.

    References
    ----------
    Linde, Buzo and Gray (1980), "An algorithm for vector quantizer design".
    """
    codes = np.zeros(X.shape[0], dtype=np.intp)
    codebook = best_codewords(X, codes, to_host(X[:1, :]), weights, metric)
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
        table = table[:grown]
        codebook = lloyd(
            X, table, weights, metric, max_iter=_LBG_ITERATIONS, tol=1e-3
        ).codebook
    return codebook


def progressive(X, n_codewords, weights, rng) -> np.ndarray:
    """Learn a table in the first principal components, then in more and more of them.

    Starts from random samples.  What the leading components settle, the rest can no
    longer upset: cells follow the directions of large variance, which few samples
    suffice to learn.  Returns the table before the last step, in all components.

    References
    ----------
    Chen, Guan and Wang (2010), "Approximate nearest neighbor search by residual vector
    quantization", Sensors 10(12), and the progressive k-means of the faiss library
    (Douze et al. 2024, "The Faiss library").
    """
    mean, axes = _principal_axes(X, weights)
    chosen = np.sort(draw_distinct(X, n_codewords, weights, rng))
    with nearest.single_threaded_blas():
        rotated = (X - mean) @ axes
    table = rotated[chosen]
    d = axes.shape[1]
    widths = {round(d ** (step / _PROGRESSIVE_STEPS)) for step in range(1, 10)}
    for width in sorted(widths - {d}):
        learned = lloyd(
            np.ascontiguousarray(rotated[:, :width]),
            np.ascontiguousarray(table[:, :width]),
            weights,
            max_iter=_PROGRESSIVE_ITERATIONS,
            tol=1e-3,
        )
        table = np.zeros_like(table)
        table[:, :width] = learned.codebook
    with nearest.single_threaded_blas():
        return np.ascontiguousarray(table @ axes.T + mean)


def _principal_axes(X, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the axes, those of largest variance first, in X's dtype.

    Of fewer rows than features, as many axes as rows: they span all rows.
    """
    one = np.zeros(len(X), dtype=np.intp)
    sums, counts = nearest.accumulate(X, one, 1, weights)
    mean = (sums[0] / counts[0]).astype(X.dtype)
    if len(X) < X.shape[1]:
        gaps = (X - mean).astype(np.float64)
        rows = gaps if weights is None else gaps * np.sqrt(weights)[:, None]
        with nearest.single_threaded_blas():
            axes = np.linalg.svd(rows, full_matrices=False)[2].T
        return mean, np.ascontiguousarray(axes).astype(X.dtype)
    covariance = np.zeros((X.shape[1], X.shape[1]))
    with nearest.single_threaded_blas():
        for begin in range(0, len(X), _COVARIANCE_ROWS):
            rows = slice(begin, begin + _COVARIANCE_ROWS)
            gaps = (X[rows] - mean).astype(np.float64)
            scaled = gaps if weights is None else gaps * weights[rows, None]
            covariance += gaps.T @ scaled
        _, axes = np.linalg.eigh(covariance)
    return mean, np.ascontiguousarray(axes[:, ::-1]).astype(X.dtype)
