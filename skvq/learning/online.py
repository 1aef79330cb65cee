"""Learners that see one batch at a time: minibatch, EMA, and gradient descent."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from skvq import nearest
from skvq._array_api import average, like, take_rows, to_host, total, unique_rows
from skvq.learning.cells import cell_sums, unit_rows
from skvq.learning.initialise import few_distinct, initialise, repeat_cyclically
from skvq.learning.lloyd import Learned

logger = logging.getLogger("skvq.learning")

ONLINE_METRICS = frozenset({"sqeuclidean", "cosine"})

# A codeword that none of the last 10 V samples has used is moved.
_ROWS_BETWEEN_REPAIRS = 10


@dataclass(frozen=True)
class OnlineSettings:
    """What stays the same from batch to batch."""

    learning: str  # "minibatch", "ema" or "sgd"
    metric: nearest.Metric
    decay: float
    learning_rate: float
    dead_codes: str


@dataclass(frozen=True)
class StreamState:
    """What a stream has taught so far; never changed in place.

    Attributes
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The table.
    sums, counts : ndarray
        Running (minibatch) or decayed (ema) sums and weights of each cell.
    usage : ndarray of shape (n_codewords,)
        Weight that each codeword has drawn since the last repair.
    seeds : ndarray of shape (n_seeds, n_features) or None
        The distinct rows so far, while they are fewer than the codewords.
    seed_weights : ndarray of shape (n_seeds,) or None
        Their weights.
    n_batches : int
        Number of batches seen.
    """

    codebook: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    usage: np.ndarray
    seeds: np.ndarray | None = None
    seed_weights: np.ndarray | None = None
    n_batches: int = 0


def start(codebook: np.ndarray) -> StreamState:
    """Return the state of a stream that starts from a given table."""
    zeros = np.zeros(len(codebook))
    return StreamState(codebook, np.zeros(codebook.shape), zeros, zeros)


def moved(state: StreamState, codebook: np.ndarray) -> StreamState:
    """Return the state after its codewords have moved, with the weights they had."""
    if state.seeds is not None:
        return start(codebook)
    sums = codebook.astype(np.float64) * state.counts[:, None]
    return replace(state, codebook=codebook, sums=sums)


def start_from_batch(
    X: np.ndarray,
    weights: np.ndarray | None,
    n_codewords: int,
    init: str,
    metric: nearest.Metric,
    rng: np.random.RandomState,
    state: StreamState | None,
) -> tuple[StreamState, np.ndarray, np.ndarray | None]:
    """Start a stream whose table comes from its first rows.

    While fewer distinct rows have come than there are codewords, they are kept, with
    their weights, and are the codebook; then the initialisation sees all of them.

    Returns
    -------
    state : StreamState
        The state, with seeds while there are too few.
    X, weights : ndarray
        Rows that the table has yet to learn from: the seeds and the batch.
    """
    w = np.ones(X.shape[0]) if weights is None else weights
    if state is not None and state.seeds is not None:
        rows = np.concatenate([state.seeds, to_host(X)])
        w = like(np.concatenate([state.seed_weights, to_host(w)]), X)
        X = like(rows, X)
    if few_distinct(X, n_codewords) is not None:
        rows = to_host(X) + 0.0
        first, group = unique_rows(rows)
        distinct, merged = rows[first], np.bincount(group, to_host(w))
        fresh = start(repeat_cyclically(distinct, n_codewords))
        return replace(fresh, seeds=distinct, seed_weights=merged), X, w
    return start(initialise(X, n_codewords, init, w, metric, rng)), X, w


def learn_batch(
    state: StreamState,
    X: np.ndarray,
    weights: np.ndarray | None,
    settings: OnlineSettings,
) -> tuple[StreamState, float]:
    """Learn from one batch.

    Parameters
    ----------
    state : StreamState
        The state before the batch.
    X : ndarray of shape (n_samples, n_features)
        The batch; unit vectors if the metric is the cosine.
    weights : ndarray of shape (n_samples,) or None
        Positive sample weights.
    settings : OnlineSettings
        The rule.

    Returns
    -------
    state : StreamState
        The state after the batch.
    distortion : float
        Weighted mean distance of the batch from the codebook before it.

    Notes
    -----
    With n_k the weight and s_k the sum of the samples in cell k:

    - "minibatch": N_k += n_k, M_k += s_k, c_k = M_k / N_k (Sculley 2010);
    - "ema": N_k = g N_k + (1 - g) n_k, M_k = g M_k + (1 - g) s_k, c_k = M_k / N_k, with
      g the decay.  Both averages start at zero, so that their ratio has no bias towards
      the start (van den Oord et al. 2017, appendix A.1; Razavi et al. 2019);
    - "sgd": c_k += a (s_k / n_k - c_k), the gradient step of rate a on half the mean
      squared distance within the cell (the codebook loss).

    Under the cosine, codewords are normalised after each step.
    """
    codes, found = nearest.nearest(X, state.codebook, settings.metric)
    sums, counts = cell_sums(X, codes, len(state.codebook), weights)
    if settings.learning == "sgd":
        total_sums, total_counts = state.sums, state.counts
        moved = counts > 0
        codebook = state.codebook.astype(np.float64)
        means = sums[moved] / counts[moved, None]
        codebook[moved] += settings.learning_rate * (means - codebook[moved])
    else:
        old, new = 1.0, 1.0
        if settings.learning == "ema":
            old, new = settings.decay, 1.0 - settings.decay
        total_sums = old * state.sums + new * sums
        total_counts = old * state.counts + new * counts
        # A cell unused for very long has decayed to nothing: it keeps its codeword.
        moved = total_counts > 1e-200
        codebook = state.codebook.astype(np.float64)
        codebook[moved] = total_sums[moved] / total_counts[moved, None]
    if settings.metric == "cosine":
        codebook = unit_rows(codebook)
    weighted = found if weights is None else found * weights
    after = replace(
        state,
        codebook=codebook.astype(state.codebook.dtype),
        sums=total_sums,
        counts=total_counts,
        usage=state.usage + counts,
        seeds=None,
        seed_weights=None,
        n_batches=state.n_batches + 1,
    )
    mass = float(X.shape[0] if weights is None else total(weights))
    after = _repair(after, X, codes, weighted, settings)
    return after, total(weighted) / mass


def _repair(state, X, codes, cost, settings) -> StreamState:
    """Move codewords that no sample has used for long onto samples of this batch."""
    if state.usage.sum() < _ROWS_BETWEEN_REPAIRS * len(state.usage):
        return state
    dead = np.flatnonzero(state.usage == 0)
    fresh = replace(state, usage=np.zeros_like(state.usage))
    if settings.dead_codes == "keep" or dead.size == 0:
        return fresh
    # A batch is small: what remains is bookkeeping, for the host.
    X, codes, cost = to_host(X), to_host(codes), to_host(cost)
    order = np.argsort(-cost, kind="stable")
    if settings.dead_codes == "split":
        order = _round_robin(codes, cost, len(state.usage))
    order = order[cost[order] > 0]
    rows = order[np.sort(unique_rows(X[order])[0])]
    dead, rows = dead[: len(rows)], rows[: dead.size]
    codebook, sums = state.codebook.copy(), state.sums.copy()
    counts = state.counts.copy()
    codebook[dead], sums[dead], counts[dead] = X[rows], X[rows], 1.0
    return replace(fresh, codebook=codebook, sums=sums, counts=counts)


def _round_robin(codes: np.ndarray, cost: np.ndarray, n_codewords: int) -> np.ndarray:
    """Order samples: the farthest of each cell, heaviest cells first, then the next."""
    weight = np.bincount(codes, cost, minlength=n_codewords)[codes]
    by_cell = np.lexsort((-cost, codes, -weight))
    first = np.flatnonzero(np.diff(codes[by_cell], prepend=-1))
    length = np.diff(np.append(first, len(codes)))
    rank = np.arange(len(codes)) - np.repeat(first, length)
    return by_cell[np.argsort(rank, kind="stable")]


def learn_epochs(
    X: np.ndarray,
    state: StreamState,
    weights: np.ndarray | None,
    settings: OnlineSettings,
    rng: np.random.RandomState,
    *,
    batch_size: int,
    max_iter: int,
    tol: float,
) -> tuple[StreamState, Learned]:
    """Pass over X in shuffled batches until the distortion no longer falls.

    Parameters
    ----------
    X, state, weights, settings
        As in `learn_batch`.
    rng : RandomState
        Shuffles.
    batch_size, max_iter : int
        Rows of a batch; largest number of passes.
    tol : float
        Stop when a pass lowers the distortion by this share of it or less.

    Returns
    -------
    state : StreamState
        To go on with more batches.
    learned : Learned
        The codebook, its distortion over X, and the number of passes.
    """
    previous = np.inf
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        order = rng.permutation(X.shape[0])
        summed = 0.0
        for begin in range(0, X.shape[0], batch_size):
            rows = order[begin : begin + batch_size]
            w = None if weights is None else take_rows(weights, rows)
            state, distortion = learn_batch(state, take_rows(X, rows), w, settings)
            summed += distortion * float(len(rows) if w is None else total(w))
        logger.debug(
            "%s: pass %d, at most %d, distortion of its last batch %.6g",
            settings.learning,
            n_iter,
            max_iter,
            distortion,
        )
        if previous - summed <= tol * previous:
            break
        previous = summed
    found = nearest.nearest(X, state.codebook, settings.metric)[1]
    return state, Learned(state.codebook, average(found, weights), n_iter)
