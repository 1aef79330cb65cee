"""Lloyd's iteration: assign, take the best codeword of every cell, repeat."""

import logging
from typing import NamedTuple

import numpy as np

from skvq import nearest
from skvq._array_api import total
from skvq.learning.cells import best_codewords, cell_sums, repair_empty

logger = logging.getLogger("skvq.learning")


class Learned(NamedTuple):
    """What a learner returns."""

    codebook: np.ndarray
    distortion: float  # weighted mean distance of the samples, under this codebook
    n_iter: int


class _Objective:
    """Summed distance of the samples from the codewords of their cells.

    For the mean-type metrics it follows from the cells' sums, which the update needs
    anyway, so that no distance is computed: sum ||x||^2 - 2 <sums, C> + <counts, c^2>,
    in float64 and about the mean of X.
    """

    def __init__(self, X, weights, metric) -> None:
        self.X, self.weights, self.metric = X, weights, metric
        self.total = float(X.shape[0] if weights is None else total(weights))
        self.from_sums = metric in ("sqeuclidean", "cosine")
        if self.from_sums:
            one = np.zeros(X.shape[0], dtype=np.intp)
            self.mean = cell_sums(X, one, 1, weights)[0][0] / self.total
            squares = nearest.paired(X, self.mean[None], codes=one)
            self.spread = total(squares, weights)

    def __call__(self, codebook):
        """Return codes, sums, counts and the value of a codebook."""
        codes, found = nearest.nearest(
            self.X, codebook, self.metric, return_distances=not self.from_sums
        )
        sums, counts = cell_sums(self.X, codes, len(codebook), self.weights)
        if not self.from_sums:
            return codes, sums, counts, total(found, self.weights)
        gaps = codebook - self.mean
        inner = np.einsum("ij,ij->i", sums - counts[:, None] * self.mean, gaps)
        value = (
            self.spread - 2 * inner.sum() + counts @ np.einsum("ij,ij->i", gaps, gaps)
        )
        half = 0.5 if self.metric == "cosine" else 1.0
        return codes, sums, counts, max(0.0, half * float(value))


def lloyd(
    X: np.ndarray,
    codebook: np.ndarray,
    weights: np.ndarray | None = None,
    metric: nearest.Metric = "sqeuclidean",
    *,
    max_iter: int = 25,
    tol: float = 1e-4,
    dead_codes: str = "split",
) -> Learned:
    """Improve a codebook until its distortion no longer falls.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples; unit vectors if the metric is the cosine.
    codebook : ndarray of shape (n_codewords, n_features)
        The start.
    weights : ndarray of shape (n_samples,), optional
        Positive sample weights.
    metric : {"sqeuclidean", "cosine", "cityblock"}
        The distance.
    max_iter : int
        Largest number of updates.
    tol : float
        Stop when an update lowers the distortion by this share of it or less.
    dead_codes : {"split", "farthest", "keep"}
        Repair of empty cells, see `cells.repair_empty`.

    Returns
    -------
    Learned
        The codebook, its distortion and the number of updates.

    Notes
    -----
    The distortion never rises from one update to the next: an update that would raise
    it, which only rounding can bring about, ends the iteration and is discarded.

    References
    ----------
    Lloyd (1982), "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28(2).
    """
    objective = _Objective(X, weights, metric)
    codes, sums, counts, value = objective(codebook)
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        candidate = best_codewords(X, codes, codebook, weights, metric, sums, counts)
        candidate = repair_empty(
            X, codes, candidate, weights, metric, dead_codes, counts
        )
        codes, sums, counts, new_value = objective(candidate)
        fall = value - new_value
        if fall >= 0:
            codebook, value = candidate, new_value
        logger.debug(
            "lloyd: update %d, at most %d, distortion %.6g",
            n_iter,
            max_iter,
            value / objective.total,
        )
        if fall <= tol * (value + fall):
            break
    return Learned(codebook, value / objective.total, n_iter)
