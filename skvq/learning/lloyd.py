"""Lloyd's iteration: assign, take the best codeword of every cell, repeat."""

import logging
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq.codes import smallest_dtype
from skvq.coding.charges import Charge, Prices, even_bits, ideal_bits
from skvq.learning.cells import best_codewords, cell_means
from skvq.learning.moments import RowMoments, block_moments, join_moments, of_parts
from skvq.learning.repair import repaired
from skvq.learning.rows import Block, Learner, Rows, add, in_memory

logger: logging.Logger = logging.getLogger("skvq.learning")


class LearnedCodebook(NamedTuple):
    """A learned codebook, and what is known of it."""

    codebook: np.ndarray
    distortion: float  # weighted mean distance of the samples, under this codebook
    n_iter: int
    counts: np.ndarray | None = None  # rows of each code, in units of the mean weight
    charge: Charge | Prices | None = None  # what the search adds for each code
    bits: float = 0.0  # weighted mean cost of the samples' codes
    nearest: float = np.nan  # distortion of nearest codewords, if there are prices

    @property
    def objective(self) -> float:
        """Distortion plus the cost of the bits."""
        price = self.charge.price if isinstance(self.charge, Charge) else 0.0
        return self.distortion + price * self.bits


class _Assigned(NamedTuple):
    """Statistics of the rows in the cells of a codebook."""

    sums: np.ndarray  # (n_codewords, n_features), weighted
    counts: np.ndarray  # (n_codewords,), weights
    distance: float  # summed distance of the rows from their codewords
    bits: float  # summed bits of the rows' codes, if bits have a price
    value: float  # the objective, which falls from update to update
    codes: Any  # state of the rows
    about: RowMoments | None  # of all rows; None: distances are found one by one


def lloyd(
    rows: Rows,
    codebook: np.ndarray,
    metric: nearest.Metric = "sqeuclidean",
    *,
    max_iter: int = 25,
    tol: float = 1e-4,
    dead_codes: str = "split",
    rate_weight: float = 0.0,
    bits: np.ndarray | None = None,
) -> Learner[LearnedCodebook]:
    """Improve a codebook until its distortion no longer falls.

    If bits have a price, codebook and code frequencies are improved in turn, until the
    sum of distortion and cost of the bits no longer falls.

    Parameters
    ----------
    rows : Rows
        Samples; unit vectors if the metric is the cosine.
    codebook : ndarray of shape (n_codewords, n_features)
        The first codebook.
    metric : {"sqeuclidean", "cosine", "cityblock"}
        The distance.  For the Manhattan distance the rows are taken into memory, since
        medians do not follow from sums over cells.
    max_iter : int
        The most updates.
    tol : float
        Stop when an update lowers the distortion by at most this share of it.
    dead_codes : {"split", "farthest", "keep"}
        Repair of empty cells, see `repair.repaired`.  There is none if bits have a
        price, since that price is what empties cells.
    rate_weight : float
        Squared distance that one bit costs; zero: bits have no price.
    bits : ndarray of shape (n_codewords,), optional
        Cost of each code at the start, if bits have a price; None: all equal.

    Returns
    -------
    LearnedCodebook
        The codebook, its distortion and the number of updates; each is an iteration,
        which the task of the rows tells of.

    Notes
    -----
    The objective never rises from one update to the next: an update that would raise
    it, which only rounding can cause, is discarded and ends the iteration.

    References
    ----------
    Lloyd (1982), "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28(2).
    Chou, Lookabaugh and Gray (1989), "Entropy-constrained vector quantization",
    IEEE Trans. ASSP 37(1).
    """
    X: Any = None  # all rows, and below all codes, for metrics that need more than sums
    weights = None
    if metric == "cityblock":
        X, weights = yield from in_memory(rows)
    # What the codes cost in the search; None: nothing.
    charge = None
    if rate_weight > 0:
        bits = even_bits(len(codebook)) if bits is None else bits
        charge, dead_codes = Charge(rate_weight, bits), "keep"
    now = yield from _assign(rows, codebook, metric, None, charge)
    about = now.about
    total, n_iter = float(now.counts.sum()), 0
    mean = total / rows.n_rows

    def learned() -> LearnedCodebook:
        counts = now.counts if mean == 1 else now.counts / mean
        distortion, cost = now.distance / total, now.bits / total
        return LearnedCodebook(codebook, distortion, n_iter, counts, charge, cost)

    while n_iter < max_iter:
        n_iter += 1
        task = rows.task.begin("iteration")
        if metric == "cityblock":
            (own,) = yield rows.gather(_codes, state=now.codes, most=rows.n_rows)
            candidate = best_codewords(X, own, codebook, weights, metric)
        else:
            candidate = cell_means(now.sums, now.counts, codebook, metric)
        candidate = yield from repaired(
            rows, now.codes, candidate, now.counts, metric, dead_codes
        )
        at = None if charge is None else Charge(rate_weight, ideal_bits(now.counts))
        after = yield from _assign(rows, candidate, metric, about, at)
        fall = now.value - after.value
        if fall >= 0:
            codebook, charge, now = candidate, at, after
        logger.debug(
            "lloyd: update %d, at most %d, %s %.6g",
            n_iter,
            max_iter,
            "distortion" if charge is None else "objective",
            now.value / total,
        )
        if task.end(learned) or not fall > tol * (now.value + max(fall, 0.0)):
            break
    return learned()


def _assign(
    rows: Rows,
    codebook: np.ndarray,
    metric: nearest.Metric,
    about: RowMoments | None,
    charge: Charge | None,
) -> Learner[_Assigned]:
    """Encode the rows, and add up the cells.

    For mean-type metrics the objective follows from the sums of the cells, so that no
    distance is computed: sum ||x||^2 - 2 <sums, C> + <counts, c^2>, in float64 and
    about the mean of the rows, which the first pass finds.
    """
    table = nearest.Table(codebook, exact=False)
    bias = None if charge is None else charge.bias
    if metric == "cityblock":
        found, codes = yield rows.fold(
            _encode_one_by_one, table, metric, bias, keep=True
        )
        sums, counts, found = found
        distance = float(found[0])
    else:
        is_first = about is None
        found, codes = yield rows.fold(
            _encode,
            table,
            metric,
            bias,
            is_first,
            join=_join_first if is_first else add,
            keep=True,
        )
        sums, counts, *parts = found
        about = of_parts(*parts) if about is None else about
        gaps = codebook - about.mean
        inner = np.einsum("ij,ij->i", sums - counts[:, None] * about.mean, gaps)
        squares = counts @ np.einsum("ij,ij->i", gaps, gaps)
        half = 0.5 if metric == "cosine" else 1.0
        distance = half * float(about.squares - 2 * inner.sum() + squares)
    distance = value = max(0.0, distance)
    bits = 0.0
    if charge is not None:
        bits = float(counts @ charge.bits)
        value = distance + charge.price * bits
    return _Assigned(sums, counts, distance, bits, value, codes, about)


def _encode(
    block: Block,
    table: nearest.Table,
    metric: nearest.Metric,
    bias: np.ndarray | None,
    with_moments: bool,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return sums and counts of cells, moments if wanted, and the codes to be kept."""
    dtype = smallest_dtype(len(table))
    codes, sums, counts = nearest.nearest_cells(
        block.x, table, metric, bias=bias, weights=block.w, dtype=dtype
    )
    found = block_moments(block, sums, counts) if with_moments else ()
    return (sums, counts, *found), (codes,)


def _join_first(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return *add(a[:2], b[:2]), *join_moments(a[2:], b[2:])


def _encode_one_by_one(
    block: Block,
    table: nearest.Table,
    metric: nearest.Metric,
    bias: np.ndarray | None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return sums and counts of cells, summed distances, and the codes to be kept."""
    be = block.be
    codes, found = nearest.nearest(block.x, table, metric, bias=bias)
    sums, counts = be.cell_sums(block.x, codes, len(table), block.w)
    value = be.zeros((1,)) + be.xp.sum(block.weighted(found))
    kept = be.cast(codes, be.code_dtype(smallest_dtype(len(table))))
    return (sums, counts, value), (kept,)


def _codes(block: Block) -> tuple[Any, ...]:
    return (block.be.cast(block.state[0], np.intp),)


def mean_distance(
    rows: Rows, codebook: np.ndarray, metric: nearest.Metric
) -> Learner[float]:
    """Return the weighted mean distance of rows from the nearest codeword."""
    total, weight = yield rows.fold(_distances, nearest.Table(codebook), metric)
    return float(total / weight)


def _distances(
    block: Block, table: nearest.Table, metric: nearest.Metric
) -> tuple[Any, ...]:
    found = nearest.nearest(block.x, table, metric)[1]
    return block.be.xp.sum(block.weighted(found)), block.host_weights().sum()
