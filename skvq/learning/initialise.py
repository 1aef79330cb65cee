"""A first table for the learners."""

import numpy as np

from skvq import nearest
from skvq.learning.cells import best_codewords, split_heaviest
from skvq.learning.lloyd import lloyd

INITS = ("k-means++", "random", "splitting", "normal")

# Rows per codeword up to which k-means++ looks at every row for every codeword.
_EXACT_ROWS_PER_CODEWORD = 8
_OVERSAMPLING = 0.5
_ROUNDS = 5
_LBG_ITERATIONS = 5


def few_distinct(X: np.ndarray, n_codewords: int) -> np.ndarray | None:
    """Return the distinct rows in lexicographic order if fewer than n_codewords."""
    size = 2 * n_codewords
    while True:
        rows = np.unique(X[:size] + 0.0, axis=0)
        if len(rows) >= n_codewords:
            return None
        if size >= len(X):
            return rows
        size *= 4


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
    init : {"k-means++", "random", "splitting", "normal"}
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
    if init == "k-means++":
        return k_means_plus_plus(X, n_codewords, weights, metric, rng)
    if init == "splitting":
        return splitting(X, n_codewords, weights, metric)
    if init == "normal":
        return rng.standard_normal((n_codewords, X.shape[1])).astype(X.dtype)
    p = None if weights is None else weights / weights.sum()
    return X[rng.choice(len(X), n_codewords, replace=False, p=p)]


def k_means_plus_plus(X, n_codewords, weights, metric, rng) -> np.ndarray:
    """Choose rows far from each other, with probability by distance.

    Up to 8 rows per codeword: greedy k-means++, which tries 2 + log(V) rows for each
    codeword and keeps the best.  Beyond: k-means||, five rounds that each draw about
    V/2 rows at once; the 2.5 V candidates, weighted by the samples nearest to them, are
    then reduced to V by greedy k-means++.

    References
    ----------
    Arthur and Vassilvitskii (2007), "k-means++".
    Bahmani et al. (2012), "Scalable k-means++".
    """
    if len(X) > _EXACT_ROWS_PER_CODEWORD * n_codewords:
        X, weights = _oversample(X, n_codewords, weights, metric, rng)
    return X[_greedy(X, n_codewords, weights, metric, rng)]


def _greedy(X, n_codewords, weights, metric, rng) -> np.ndarray:
    weights = np.ones(len(X)) if weights is None else weights
    trials = 2 + int(np.log(n_codewords))
    with nearest.single_threaded_blas():
        distances = nearest.DistanceTable(X, metric)
        chosen = [_draw(weights, rng, 1)[0]]
        closest = distances(X[chosen])[0]
        closest[chosen] = 0
        while len(chosen) < n_codewords:
            potential = closest * weights
            if not potential.max() > 0:
                potential = np.ones(len(X))
                potential[chosen] = 0
            picks = _draw(potential, rng, trials)
            table = np.minimum(distances(X[picks]), closest)
            best = int(np.argmin(table @ weights.astype(table.dtype)))
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


def _oversample(X, n_codewords, weights, metric, rng):
    """Return distinct candidate rows, n_codewords or more, and their weights."""
    w = np.ones(len(X)) if weights is None else weights
    chosen = _draw(w, rng, 1)
    owner = np.zeros(len(X), dtype=np.intp)
    closest = nearest.nearest(X, X[chosen], metric)[1]
    for _ in range(_ROUNDS):
        chosen, owner, closest = _one_round(
            X, chosen, owner, closest, w, _OVERSAMPLING * n_codewords, metric, rng
        )
    # Equal rows may be drawn together in one round; they count once.
    while True:
        first = np.unique(X[chosen] + 0.0, axis=0, return_index=True)[1]
        if first.size >= n_codewords:
            break
        chosen, owner, closest = _one_round(
            X, chosen, owner, closest, w, n_codewords - first.size, metric, rng
        )
    counts = np.bincount(owner, w, minlength=len(chosen))
    first.sort()
    return X[chosen[first]], np.maximum(counts[first], np.finfo(float).tiny)


def _one_round(X, chosen, owner, closest, w, expected, metric, rng):
    potential = closest * w
    share = expected * potential / potential.sum()
    drawn = np.flatnonzero(rng.random_sample(len(X)) < share)
    if drawn.size == 0:
        drawn = np.array([np.argmax(potential)])
    codes, found = nearest.nearest(X, X[drawn], metric)
    closer = found < closest
    owner = np.where(closer, codes + len(chosen), owner)
    return np.concatenate([chosen, drawn]), owner, np.minimum(found, closest)


def splitting(X, n_codewords, weights, metric) -> np.ndarray:
    """Grow a table from one codeword by splitting cells; no random numbers.

    Each round splits every cell, or the heaviest ones in the last round, across its
    longest axis, and improves the table by a few of Lloyd's iterations.

    References
    ----------
    Linde, Buzo and Gray (1980), "An algorithm for vector quantizer design".
    """
    codes = np.zeros(len(X), dtype=np.intp)
    codebook = best_codewords(X, codes, X[:1], weights, metric)
    while len(codebook) < n_codewords:
        size = len(codebook)
        slots = np.arange(size, min(2 * size, n_codewords))
        table = np.concatenate([codebook, np.zeros((len(slots), X.shape[1]), X.dtype)])
        codes, cost = nearest.nearest(X, codebook, metric)
        cost = cost if weights is None else cost * weights
        table, codes = split_heaviest(X, codes, table, weights, metric, cost, slots)
        table = table[: codes.max() + 1]
        codebook = lloyd(
            X, table, weights, metric, max_iter=_LBG_ITERATIONS, tol=1e-3
        ).codebook
    return codebook
