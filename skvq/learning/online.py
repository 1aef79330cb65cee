"""Learners that see one batch at a time: minibatch, EMA, and gradient descent."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skvq import nearest
from skvq._arrays import average, like, to_host
from skvq.learning.cells import cell_sums, unit_rows
from skvq.learning.lloyd import LearnedCodebook, mean_distance
from skvq.learning.random_rows import new_key, uniforms
from skvq.learning.rows import Block, Learner, Rows, run
from skvq.learning.start import (
    few_distinct,
    initialise,
    repeat_cyclically,
    weights_of,
)

logger: logging.Logger = logging.getLogger("skvq.learning")

ONLINE_METRICS = frozenset({"sqeuclidean", "cosine"})

# Codewords beyond this may have squared distances that float64 cannot hold.
_FAR = 1e150
# A codeword that none of the last 10 V rows has used may be moved.
_IDLE_ROWS = 10
# Repairs are at least V rows apart, so that they cost no more than the search itself.
_ROWS_BETWEEN_REPAIRS = 1
# A codeword is moved if its loss costs less than this share of what another cell gains.
# That gain is a bound which no split reaches, and a move for little gain would unsettle
# two cells.
_MARGIN = 0.05
# The number of passes without a fall of the distortion that end the learning.
_PATIENCE = 2
# A pass visits each of several blocks this often, for some batches each time.
_VISITS = 4


@dataclass(frozen=True)
class OnlineSettings:
    """Settings that stay the same from batch to batch."""

    learning: str  # "minibatch", "ema" or "sgd"
    metric: nearest.Metric
    decay: float
    learning_rate: float
    dead_codes: str

    @property
    def memory(self) -> tuple[float, float]:
        """Factors of the past and of the current batch in the running sums."""
        return (self.decay, 1.0 - self.decay) if self.learning == "ema" else (1.0, 1.0)


@dataclass(frozen=True)
class StreamState:
    """What a stream has taught so far; a state is never changed in place.

    Attributes
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The table.
    sums, counts : ndarray
        Running (minibatch) or decayed (ema) sums and weights of each cell.
    support : ndarray of shape (n_codewords,)
        Weight of the rows of each cell: of all rows, or decayed ("ema").
    costs : ndarray of shape (n_codewords,)
        Summed distance of the same rows since the cell was last split.
    idle : ndarray of int, shape (n_codewords,)
        Rows that have come since each codeword was last used.
    waited : int
        Rows since the last look for codewords to repair.
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
    support: np.ndarray
    costs: np.ndarray
    idle: np.ndarray
    waited: int = 0
    seeds: np.ndarray | None = None
    seed_weights: np.ndarray | None = None
    n_batches: int = 0


def start(codebook: np.ndarray, weight: float = 0.0) -> StreamState:
    """Return the state of a stream that starts from a given table.

    Parameters
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The table.
    weight : float
        Weight with which each codeword enters the averages.  It is not support: a
        codeword that no row has used can be moved.
    """
    size = len(codebook)
    return StreamState(
        codebook,
        sums=weight * codebook.astype(np.float64),
        counts=np.full(size, weight),
        support=np.zeros(size),
        costs=np.zeros(size),
        idle=np.zeros(size, dtype=np.int64),
    )


def resumed(
    codebook: np.ndarray, counts: np.ndarray, sums: np.ndarray | None
) -> StreamState:
    """Return the state of a stream that has been learned elsewhere.

    Parameters
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The table.
    counts : ndarray of shape (n_codewords,)
        Running, or decayed, weight of the rows of each cell.
    sums : ndarray of shape (n_codewords, n_features) or None
        Their sums; None: the codewords times the counts.
    """
    state = start(codebook)
    if sums is None:
        sums = codebook.astype(np.float64) * counts[:, None]
    return replace(state, sums=sums, counts=counts, support=counts.copy(), n_batches=1)


def moved(state: StreamState, codebook: np.ndarray) -> StreamState:
    """Return the state with moved codewords, which keep their weights.

    A table of another size starts from nothing, and so does one for a state that still
    collects its first rows.
    """
    if state.seeds is not None or len(codebook) != len(state.codebook):
        return start(codebook)
    sums = codebook.astype(np.float64) * state.counts[:, None]
    return replace(state, codebook=codebook, sums=sums)


def reordered(state: StreamState, order: np.ndarray) -> StreamState:
    """Return the state with its codewords in another order."""
    names = "codebook", "sums", "counts", "support", "costs", "idle"
    return replace(state, **{name: getattr(state, name)[order] for name in names})


def start_from_few(
    rows: Rows, distinct: np.ndarray, n_codewords: int
) -> Learner[StreamState]:
    """Return the state of a stream with fewer distinct rows than codewords.

    Parameters
    ----------
    rows : Rows
        The samples.
    distinct : ndarray of shape (n_distinct, n_features)
        All distinct rows, from `start.few_distinct`.
    n_codewords : int
        Number of codewords.
    """
    (weights,) = yield rows.fold(weights_of, distinct)
    state = start(repeat_cyclically(distinct, n_codewords))
    return replace(state, seeds=distinct, seed_weights=weights, n_batches=1)


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

    Until there are as many distinct rows as codewords, the rows are kept with their
    weights and serve as the codebook; then the initialisation sees all of them.

    Returns
    -------
    state : StreamState
        The state, with seeds while there are too few rows.
    X, weights : ndarray
        Rows that the table has yet to learn from: the seeds and the batch.
    """
    w = np.ones(X.shape[0]) if weights is None else weights
    n_batches = 0 if state is None else state.n_batches
    if state is not None and state.seeds is not None:
        both = np.concatenate([state.seeds, to_host(X)])
        w = like(np.concatenate([state.seed_weights, to_host(w)]), X)
        X = like(both, X)
    rows = Rows(X, w)
    few = run(few_distinct(rows, n_codewords))
    if few is not None:
        state = run(start_from_few(rows, few, n_codewords))
        return replace(state, n_batches=n_batches + 1), X, w
    state = start(run(initialise(rows, n_codewords, init, metric, rng)))
    return replace(state, n_batches=n_batches), X, w


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
        The learning rule and its constants.

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
    n_rows, size = X.shape[0], len(state.codebook)
    table = nearest.Table(state.codebook, exact=False)
    codes, found = nearest.nearest(X, table, settings.metric)
    sums, counts = cell_sums(X, codes, size, weights)
    costs, _ = cell_sums(found[:, None], codes, size, weights)
    old, new = settings.memory
    with np.errstate(over="ignore"):
        all_costs = old * state.costs + costs[:, 0]
    total_sums, total_counts = state.sums, state.counts
    codebook = state.codebook.astype(np.float64)
    if settings.learning == "sgd":
        used = counts > 0
        means = sums[used] / counts[used, None]
        codebook[used] += settings.learning_rate * (means - codebook[used])
    else:
        total_sums = old * total_sums + new * sums
        total_counts = old * total_counts + new * counts
        # A cell unused for very long has decayed to nothing: it keeps its codeword.
        used = total_counts > 1e-200
        codebook[used] = total_sums[used] / total_counts[used, None]
    if settings.metric == "cosine":
        # Opposite rows have no mean direction: their cell keeps its codeword.
        lost = np.einsum("ij,ij->i", codebook, codebook) <= 1e-24
        codebook[lost] = state.codebook[lost]
        codebook = unit_rows(codebook)
    after = replace(
        state,
        codebook=codebook.astype(state.codebook.dtype),
        sums=total_sums,
        counts=total_counts,
        support=old * state.support + counts,
        costs=all_costs,
        idle=np.where(counts > 0, 0, state.idle + n_rows),
        waited=state.waited + n_rows,
        seeds=None,
        seed_weights=None,
        n_batches=state.n_batches + 1,
    )
    after = _repair(after, X, weights, codes, found, settings)
    return after, average(found, weights)


# Sums of distances may overflow where the distances do not.  They are infinite then,
# and no loss exceeds them.
@np.errstate(over="ignore")
def _repair(
    state: Any, X: Any, weights: Any, codes: Any, distances: Any, settings: Any
) -> StreamState:
    """Move codewords that no row has used for long to where they help more.

    Losing a codeword costs its support times the distance to its nearest neighbour,
    which inherits its cell.  A cell of the batch gains at most the summed distance of
    its rows.
    """
    size = len(state.codebook)
    dead = np.flatnonzero(state.idle >= _IDLE_ROWS * size)
    too_soon = state.waited < _ROWS_BETWEEN_REPAIRS * size
    if settings.dead_codes == "keep" or dead.size == 0 or too_soon:
        return state
    state = replace(state, waited=0)
    heirs, losses = _losses(state, dead, settings.metric)
    # A batch is small: the rest is bookkeeping on the host.
    codes, cost = to_host(codes), to_host(distances)
    w = np.ones(len(cost)) if weights is None else to_host(weights)
    cost = cost / (cost.max() or 1.0)
    rows, gains = _worst_rows(state.costs, codes, cost * w, settings.dead_codes)
    if not (losses.min() < _MARGIN * gains).any():
        return state
    X = to_host(X)
    fresh = _distinct_rows(X, rows, codes, state.codebook)
    codebook, sums = state.codebook.copy(), state.sums.copy()
    counts, support = state.counts.copy(), state.support.copy()
    costs, idle = state.costs.copy(), state.idle.copy()
    new = settings.memory[1]
    touched: set[int] = set()
    for at in np.argsort(losses, kind="stable"):
        slot, heir = dead[at], heirs[at]
        if support[slot] > 0 and not touched.isdisjoint((slot, heir)):
            continue  # its loss has changed: a later batch will look at it again
        place = next(fresh, None)
        if place is None or not losses[at] < _MARGIN * gains[place]:
            break
        touched.update((slot, heir))
        # As if the rows of the moved codeword had come to its heir, and this row to it.
        inherited = new * support[slot]
        sums[heir] += inherited * codebook[slot].astype(np.float64)
        counts[heir] += inherited
        support[heir] += support[slot]
        costs[heir] += costs[slot] + losses[at]
        row = rows[place]
        codebook[slot], support[slot], idle[slot] = X[row], w[row], 0
        costs[[codes[row], slot]] = 0.0
        counts[slot] = new * w[row]
        sums[slot] = counts[slot] * codebook[slot].astype(np.float64)
    return replace(
        state,
        codebook=codebook,
        sums=sums,
        counts=counts,
        support=support,
        costs=costs,
        idle=idle,
    )


def _losses(state: Any, dead: np.ndarray, metric: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest neighbours of codewords, and the cost of losing each."""
    table = state.codebook
    found, _ = nearest.nearest_best(
        table[dead], [table], 2, n_best=2, return_distances=False
    )
    first, last = found[:, 0, 0], found[:, -1, 0]
    # The search returns the first of equal codewords for all of them.
    heirs = np.where(first == dead, last, first)
    wide = table.astype(np.float64)
    support = state.support[dead]
    losses = np.full(len(dead), np.inf)  # without a neighbour that is near enough
    near = np.abs(wide[dead] - wide[heirs]).max(axis=1) < _FAR
    near &= heirs != dead
    distances = nearest.paired(wide[dead[near]], wide, metric, codes=heirs[near])
    losses[near] = support[near] * distances
    losses[support == 0] = 0.0
    return heirs, losses


def _worst_rows(
    costs: Any, codes: Any, cost: Any, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Order the rows by the gain of a codeword there; return rows and gains.

    In a cell the farthest row comes first, and gains all that the cell has cost.  A
    second codeword for the same cell gains half of the cost, without the share of the
    rows that are farther; a third one gains a third, and so on.
    """
    by_cell = np.lexsort((-cost, codes))
    by_cell = by_cell[cost[by_cell] > 0]
    cost, codes = cost[by_cell], codes[by_cell]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    length = np.diff(np.append(begins, len(codes)))
    rank = np.arange(len(codes)) - np.repeat(begins, length)
    upto = np.cumsum(cost)
    # Costs of the farthest row and all behind it, and of this row and all behind it.
    whole = np.repeat(upto[begins + length - 1] - upto[begins] + cost[begins], length)
    left = np.repeat(upto[begins + length - 1], length) - upto + cost
    gains = costs[codes] * (left / whole / (rank + 1))
    order = np.argsort(-(gains if how == "split" else cost), kind="stable")
    return by_cell[order], np.minimum.accumulate(gains[order])


def _distinct_rows(
    X: Any, rows: np.ndarray, codes: Any, codebook: Any
) -> Iterator[int]:
    """Yield indices into `rows` of distinct rows that differ from their codewords."""
    seen: set[bytes] = set()
    for place, row in enumerate(rows):
        key = (X[row] + 0.0).tobytes()
        if key not in seen and (X[row] != codebook[codes[row]]).any():
            seen.add(key)
            yield place


def learn_epochs(
    rows: Rows,
    state: StreamState,
    settings: OnlineSettings,
    rng: np.random.RandomState,
    *,
    batch_size: int,
    max_iter: int,
    tol: float,
) -> Learner[tuple[StreamState, LearnedCodebook]]:
    """Pass over rows in shuffled batches until the distortion no longer falls.

    A block is shuffled and cut into batches.  Blocks come in random order, a quarter of
    the batches of each at a time, so that similar rows of sorted data do not all come
    together.  The distortion of a pass is that of its batches, each measured before it
    is learned from.  Batches differ, and the first passes may move codewords in ways
    that only later passes profit from: hence the second chance.

    Parameters
    ----------
    rows : Rows
        Samples; unit vectors if the metric is the cosine.
    state, settings
        As in `learn_batch`.
    rng : RandomState
        Shuffles.
    batch_size, max_iter : int
        Rows of a batch; the most passes.
    tol : float
        Stop when two consecutive passes have lowered the distortion by at most this
        share of it.

    Returns
    -------
    state : StreamState
        The state, to go on with more batches.
    learned : LearnedCodebook
        The codebook, its distortion over the rows, and the number of passes.
    """
    best, n_iter, waited = np.inf, 0, 0
    blocks = rows.filled_blocks()
    n_visits = 1 if len(blocks) == 1 else _VISITS

    def learned() -> Learner[tuple[StreamState, LearnedCodebook]]:
        table = state.codebook
        distortion = yield from mean_distance(rows, table, settings.metric)
        return state, LearnedCodebook(table, distortion, n_iter)

    while n_iter < max_iter and waited < _PATIENCE:
        n_iter += 1
        task = rows.task.begin("iteration")
        key, summed = new_key(rng), 0.0
        for number in rng.permutation(len(blocks) * n_visits):
            place, visit = divmod(int(number), n_visits)
            some = slice(visit, None, n_visits)
            state, found = yield rows.fold(
                _learn_block,
                state,
                settings,
                key,
                batch_size,
                some,
                blocks=[blocks[place]],
            )
            summed += found
        logger.debug(
            "%s: pass %d, at most %d, summed distortion %.6g",
            settings.learning,
            n_iter,
            max_iter,
            summed,
        )
        waited = 0 if summed < (1 - tol) * best else waited + 1
        best = min(best, summed)
        if task.end(lambda: run(learned())):
            break
    return (yield from learned())


def _learn_block(
    block: Block,
    state: StreamState,
    settings: OnlineSettings,
    key: int,
    size: int,
    some: slice,
) -> tuple[StreamState, float]:
    """Return the state after some batches of a block, and their summed distortion."""
    be, summed = block.be, 0.0
    order = np.argsort(uniforms(key, block.first, block.n_rows), kind="stable")
    for begin in range(0, block.n_rows, size)[some]:
        places = order[begin : begin + size]
        w = None if block.w is None else be.take(block.w, places)
        state, distortion = learn_batch(state, be.take(block.x, places), w, settings)
        weight = len(places) if w is None else float(be.xp.sum(w))
        summed += distortion * weight
    return state, summed
