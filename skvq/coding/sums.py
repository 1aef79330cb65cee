r"""Distances to reconstructions, by what each of their codes adds: for searches.

Where a reconstruction is a sum of what its codes stand for,
:math:`\hat x = \sum_j w_j`, a table of the numbers that each code adds is all that is
needed of a query, and rows of codes are compared with it by a few look-ups, without
being decoded:

.. math::

    -x \cdot \hat x = \sum_j -x \cdot w_j, \quad
    |x - \hat x|^2 = |x|^2 + \sum_j -2 x \cdot w_j + |\hat x|^2, \quad
    1 - \frac{x \cdot \hat x}{|x| |\hat x|}
        = 1 + \frac{1}{|\hat x|} \sum_j -\frac{x}{|x|} \cdot w_j.

What is not in the sums belongs to the row alone: a factor, :math:`1 / |\hat x|`, and an
offset, :math:`|\hat x|^2`.  A concatenation has none of them for squared distances,
which add up over features apart: :math:`|x - \hat x|^2 = \sum_j |x_j - w_j|^2`.  A
scale :math:`s` of the whole sum, which codes of its own stand for, is a factor too.

All is computed in float64 and on the host, whatever the dtype of the samples: squares
of float32 numbers neither overflow nor vanish there, and a table is short.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from skvq import nearest
from skvq._typing import SumMetric

METRICS = ("sqeuclidean", "cosine", "inner_product")


def check_sum_metric(metric: object) -> SumMetric:
    """Return a metric; raise unless it is one that sums over codes give."""
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
        Minus the product is the distance of the second.
    """
    rows = partial(table.codewords.astype, np.float64)
    distances = table.form(
        ("distances", metric), lambda: nearest.DistanceTable(rows(), metric)
    )
    return distances(X)


def squared_sums(
    X: np.ndarray, products: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """Return what adds up to squared distances, but for those of the rows of codes.

    Parameters
    ----------
    X : ndarray of float64, shape (n_samples, n_features)
        The rows, less an origin that is a reconstruction itself: that of zeros.
    products : ndarray of float64, shape (n_samples, V_1 + ... + V_m)
        Minus their products with what codes stand for.
    sizes : sequence of int
        V_1..V_m.
    """
    table, start = 2 * products, 0
    # What codes stand for is taken from the origin's as well, by linearity.
    for size in sizes:
        column = table[:, start : start + size]
        column -= column[:, :1].copy()
        start += size
    table[:, : sizes[0]] += nearest.HOST.squared_norms(X)[:, None]
    return table


def row_terms(
    rows: np.ndarray, scales: Any, metric: str, start: int = 0
) -> tuple[Any, ...]:
    """Return the factor and the offset of reconstructions, each None if it has none.

    Parameters
    ----------
    rows : ndarray of float64, shape (n_samples, n_features)
        The reconstructions; for "sqeuclidean", less the origin.
    scales : ndarray of float64, shape (n_samples,), or None
        What multiplies the sums that they are.
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
    """Return numbers in the dtype of the samples, unless its range is too narrow."""
    if term is None or term.dtype == dtype:
        return term
    sizes, limits = np.abs(term[term != 0]), np.finfo(dtype)
    if sizes.size and not limits.tiny <= sizes.min() <= sizes.max() <= limits.max:
        return term
    return term.astype(dtype)
