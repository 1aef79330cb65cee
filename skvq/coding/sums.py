r"""Distances to reconstructions as sums over codes, for searches over codes.

Where a reconstruction is a sum of the vectors of its codes,
:math:`\hat x = \sum_j w_j`, a query is fully described by a table of the numbers that
each code adds.  Rows of codes are compared with it by a few look-ups, without being
decoded:

.. math::

    -x \cdot \hat x = \sum_j -x \cdot w_j, \quad
    |x - \hat x|^2 = |x|^2 + \sum_j -2 x \cdot w_j + |\hat x|^2, \quad
    1 - \frac{x \cdot \hat x}{|x| |\hat x|}
        = 1 + \frac{1}{|\hat x|} \sum_j -\frac{x}{|x|} \cdot w_j.

The other terms depend on the row alone: a factor, :math:`1 / |\hat x|`, and an offset,
:math:`|\hat x|^2`.  A concatenation has neither for squared distances, which add up
over disjoint features: :math:`|x - \hat x|^2 = \sum_j |x_j - w_j|^2`.  If codes of
their own stand for a scale :math:`s` of the whole sum, that is a factor too.

Everything is computed in float64 on the host, whatever the dtype of the samples:
squares of float32 numbers neither overflow nor vanish there, and tables are short.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from skvq import nearest
from skvq._typing import SumMetric

METRICS = ("sqeuclidean", "cosine", "inner_product")


def check_sum_metric(metric: object) -> SumMetric:
    """Return a metric; raise unless distances under it are sums over codes."""
    if isinstance(metric, str) and metric in METRICS:
        return cast(SumMetric, metric)
    raise ValueError(f"metric={metric!r}; expected one of {', '.join(METRICS)}.")


def codeword_entries(X: np.ndarray, table: nearest.Table, metric: str) -> np.ndarray:
    """Return the distances (n_samples, V) from rows to the codewords of a table.

    Parameters
    ----------
    X : ndarray of float64, shape (n_samples, n_features)
        The rows.
    table : Table of shape (V, n_features)
        The codewords.
    metric : {"sqeuclidean", "inner_product"}
        The distance; for "inner_product", minus the product.
    """
    rows = partial(table.codewords.astype, np.float64)
    distances = table.form(
        ("distances", metric), lambda: nearest.DistanceTable(rows(), metric)
    )
    return distances(X)


def squared_sums(
    X: np.ndarray, products: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """Return the terms that add up to squared distances, except those of the rows.

    Parameters
    ----------
    X : ndarray of float64, shape (n_samples, n_features)
        The rows minus an origin, which is the reconstruction of zeros.
    products : ndarray of float64, shape (n_samples, V_1 + ... + V_m)
        Minus their products with the vectors of the codes.
        V_1..V_m.
    """
    table, start = 2 * products, 0
    # By linearity, the codes' vectors are relative to the origin as well.
    for size in sizes:
        column = table[:, start : start + size]
        column -= column[:, :1].copy()
        start += size
    table[:, : sizes[0]] += nearest.HOST.squared_norms(X)[:, None]
    return table


def row_terms(
    rows: np.ndarray, scales: Any, metric: str, start: int = 0
) -> tuple[Any, ...]:
    """Return the factor and the offset of reconstructions, None where there is none.

    Parameters
    ----------
    rows : ndarray of float64, shape (n_samples, n_features)
        The reconstructions; for "sqeuclidean", minus the origin.
    scales : ndarray of float64, shape (n_samples,), or None
        Factor of the whole sum in each reconstruction.
    metric : {"sqeuclidean", "cosine", "inner_product"}
        The distance.
    start : int, default=0
        Number of the first row.

    Raises
    ------
    ValueError
        If a reconstruction has no direction under "cosine", or a square overflows.
    """
    if metric == "inner_product":
        return scales, None
    if metric == "cosine":
        nearest.check_no_zero_rows(rows, "the reconstructions", start)
        return (1.0 if scales is None else scales) / nearest.row_norms(rows), None
    with np.errstate(over="ignore"):
        offset = nearest.HOST.squared_norms(rows)
    if not np.isfinite(offset).all():
        raise ValueError("Squares of the reconstructions overflow: scale X.")
    return scales, offset


def narrowed(term: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    """Return numbers in the dtype of the samples, unless they exceed its range."""
    if term is None or term.dtype == dtype:
        return term
    sizes, limits = np.abs(term[term != 0]), np.finfo(dtype)
    if sizes.size and not limits.tiny <= sizes.min() <= sizes.max() <= limits.max:
        return term
    return term.astype(dtype)
