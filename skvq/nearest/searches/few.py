"""Distances from many rows to a few codewords, or to levels of scalars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from skvq.nearest.backends.host import HOST
from skvq.nearest.metrics import PRODUCT_METRICS, Metric, check_metric
from skvq.nearest.searches.flat import check_defined
from skvq.nearest.tables import coarse_centre, compute_dtype, unit_rows


class DistanceTable:
    """Distances from many rows to a few codewords at a time.

    The table keeps what does not depend on the codewords, for learners that ask
    repeatedly about the same rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers.
    metric : str or callable, default="sqeuclidean"
        As in `nearest`.

    Examples
    --------
    >>> from skvq.nearest import DistanceTable
    >>> DistanceTable([[0.0, 1.0]])([[0.0, 0.0], [4.0, 4.0]]).tolist()
    [[1.0], [25.0]]
    """

    centre: NDArray[Any]
    metric: Metric
    norms: Any
    rows: Any

    def __init__(self, X: Any, metric: Metric = "sqeuclidean") -> None:
        X = HOST.matrix(X, "X")
        self.metric = check_metric(metric)
        if self.metric not in PRODUCT_METRICS:
            self.rows = X.astype(np.float64)
            return
        rows = X.astype(compute_dtype(X.dtype))
        if self.metric == "cosine":
            rows = unit_rows(rows, "X")
        self.centre = coarse_centre(rows).astype(rows.dtype)
        if self.metric == "inner_product":
            self.centre[:] = 0
        self.rows = rows - self.centre
        self.norms = np.einsum("ij,ij->i", self.rows, self.rows)

    def __call__(self, codebook: Any) -> np.ndarray:
        """Return the distances, (n_codewords, n_samples), never negative.

        Under "inner_product" they are minus the products, of any sign.
        """
        if self.metric not in PRODUCT_METRICS:
            table = cdist(np.asarray(codebook, np.float64), self.rows, self.metric)
            check_defined(HOST, table, self.metric, self.rows)
            return table
        table = np.asarray(codebook, dtype=self.rows.dtype)
        if self.metric == "cosine":
            table = unit_rows(table, "the codebook")
        if self.metric == "inner_product":
            return -(table @ self.rows.T)
        table = table - self.centre
        result = (-2.0 * table) @ self.rows.T
        result += self.norms
        result += np.einsum("ij,ij->i", table, table)[:, None]
        np.maximum(result, 0.0, out=result)
        if self.metric == "cosine":
            result *= 0.5
        return result


def level_distances(X: np.ndarray, levels: Sequence[Any], metric: str) -> np.ndarray:
    """Return distances to levels; see `skvq.nearest.level_distances`."""
    columns = np.repeat(np.arange(len(levels)), [len(each) for each in levels])
    each, values = np.concatenate(levels).astype(np.float64), X[:, columns]
    return -values * each if metric == "inner_product" else (values - each) ** 2
