"""The engine: how the argmin is computed.

Every estimator, learner and score of skvq finds its nearest codewords, its distances
and its sums here; nobody else computes a distance.

========================  ==========================================================
`nearest`                 code and distance of the nearest codeword of each row
`nearest_product`         codes in all subspaces of each row, in one pass
`nearest_best`            codes whose codewords add up to each row, by beam search
`improve_sums`            better codes of such sums, one table at a time
`nearest_kronecker`       codes of the nearest product of rows, factor by factor
`DistanceTable`           distances to every codeword of a small table
`paired`                  distance of each row to its own reconstruction
`accumulate`              sums and counts of the rows of each code
`compute_dtype`           the precision that a dtype is computed in
`single_threaded_blas`    holds BLAS to one thread, for the linear algebra of learners
========================  ==========================================================

A backend is one module with these functions for one array library; `_numpy` is the
reference.
"""

from skvq.nearest._best import nearest_best
from skvq.nearest._icm import improve_sums
from skvq.nearest._kronecker import kronecker_rows, nearest_kronecker
from skvq.nearest._metrics import (
    BATCH_DEPENDENT_METRICS,
    METRICS,
    PRODUCT_METRICS,
    Metric,
    check_metric,
)
from skvq.nearest._numpy import (
    DistanceTable,
    accumulate,
    check_no_zero_rows,
    compute_dtype,
    nearest,
    nearest_product,
    paired,
)
from skvq.nearest._threads import single_threaded_blas

__all__ = [
    "BATCH_DEPENDENT_METRICS",
    "METRICS",
    "PRODUCT_METRICS",
    "DistanceTable",
    "Metric",
    "accumulate",
    "check_metric",
    "check_no_zero_rows",
    "compute_dtype",
    "improve_sums",
    "kronecker_rows",
    "nearest",
    "nearest_best",
    "nearest_kronecker",
    "nearest_product",
    "paired",
    "single_threaded_blas",
]
