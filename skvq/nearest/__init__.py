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
`map_rows`                a function of rows of another library, tile by tile
`row_tiles`               the same for what is not to be joined
`compute_dtype`           the precision that a dtype is computed in
`map_jobs`                independent jobs, each on a thread where there are enough
`single_threaded_blas`    holds BLAS to one thread, for the linear algebra of learners
========================  ==========================================================

A backend is one module with these functions for one array library; `_host`, which is
NumPy's, is the reference.  `_backend` says which one takes an array; an array of
another library than NumPy stays where it is, and so does what is returned.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps

import numpy as np

from skvq._checks import check_count
from skvq.nearest import _host
from skvq.nearest._backend import (
    BACKENDS,
    backend_module,
    check_backend,
    goes_to_device,
    settle,
    using,
)
from skvq.nearest._kronecker import kronecker_rows
from skvq.nearest._metrics import (
    BATCH_DEPENDENT_METRICS,
    METRICS,
    PRODUCT_METRICS,
    Metric,
    check_metric,
)
from skvq.nearest._numpy import DistanceTable, compute_dtype
from skvq.nearest._threads import map_jobs, single_threaded_blas

__all__ = [
    "BACKENDS",
    "BATCH_DEPENDENT_METRICS",
    "METRICS",
    "PRODUCT_METRICS",
    "DistanceTable",
    "Metric",
    "accumulate",
    "check_backend",
    "check_metric",
    "check_no_zero_rows",
    "compute_dtype",
    "goes_to_device",
    "improve_sums",
    "kronecker_rows",
    "map_jobs",
    "map_rows",
    "nearest",
    "nearest_best",
    "nearest_kronecker",
    "nearest_product",
    "paired",
    "row_tiles",
    "settle",
    "single_threaded_blas",
    "using",
]


@wraps(_host.nearest)
def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Send the search to the library of X, or where the backend says."""
    search = backend_module(X, _work(X, _size(codebook))).nearest
    return search(X, codebook, metric, return_distances=return_distances)


@wraps(_host.nearest_product)
def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Send the search to the library of X, or where the backend says."""
    per_row = sum(_size(table) for table in codebooks)
    search = backend_module(X, _work(X, per_row)).nearest_product
    return search(X, codebooks, dtype=dtype)


@wraps(_host.nearest_best)
def nearest_best(X, codebooks: Sequence, beam_size: int, *, begin=None, **options):
    """Send the search to the library of X, or where the backend says."""
    beam_size = check_count("beam_size", beam_size)
    if "n_best" in options:
        options["n_best"] = check_count("n_best", options["n_best"])
    per_row = _beam_work(codebooks, beam_size, begin)
    search = backend_module(X, _work(X, per_row)).nearest_best
    return search(X, codebooks, beam_size, begin=begin, **options)


@wraps(_host.improve_sums)
def improve_sums(
    X, codebooks: Sequence, codes, *, n_rounds: int, n_sweeps: int = 2, **options
):
    """Send the search to the library of X, or where the backend says."""
    n_rounds = check_count("n_rounds", n_rounds, 0, largest=None)
    n_sweeps = check_count("n_sweeps", n_sweeps, 0, largest=None)
    for name in ("n_replaced", "seed"):
        if name in options:
            options[name] = check_count(name, options[name], 0, largest=None)
    per_row = n_rounds * n_sweeps * sum(_size(table) for table in codebooks)
    search = backend_module(X, _work(X, per_row)).improve_sums
    return search(X, codebooks, codes, n_rounds=n_rounds, n_sweeps=n_sweeps, **options)


@wraps(_host.nearest_kronecker)
def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Send the search to the library of X, or where the backend says."""
    shapes = [np.shape(table) for table in codebooks]
    # One product of the narrowest factor for each codeword.
    per_row = math.prod(s[0] for s in shapes) * min((s[-1] for s in shapes), default=1)
    search = backend_module(X, _work(X, per_row)).nearest_kronecker
    return search(X, codebooks, return_distances=return_distances)


@wraps(_host.paired)
def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Send the rows to the library of X, or where the backend says."""
    return backend_module(X, 0.0).paired(X, Y, metric, codes=codes)


@wraps(_host.accumulate)
def accumulate(X, codes, n_codewords: int, weights=None):
    """Send the rows to the library of X, or where the backend says."""
    n_codewords = check_count("n_codewords", n_codewords)
    return backend_module(X, 0.0).accumulate(X, codes, n_codewords, weights)


@wraps(_host.check_no_zero_rows)
def check_no_zero_rows(rows, name: str = "X", start: int = 0) -> None:
    """Look for zero rows in the library of the array."""
    backend_module(rows, 0.0).check_no_zero_rows(rows, name, start)


def map_rows(X, elements_per_row: int, work: Callable, *beside):
    """Call a function for every tile of rows of an array of another library than NumPy.

    A tile that finds no memory is halved.

    Parameters
    ----------
    X : array of shape (n_rows, ...)
        The rows.
    elements_per_row : int
        Numbers that the function has in memory for a row.
    work : callable
        ``work(tile, ...)`` returns an array, or a tuple of them, to be joined along the
        first axis.  It sees an empty tile if there are no rows.
    *beside : arrays of shape (n_rows, ...)
        Cut in the same tiles, and handed to the function also.

    Returns
    -------
    joined : array or tuple of arrays
        What the function returns for all rows.
    """
    return backend_module(X, 0.0).map_rows(X, elements_per_row, work, *beside)


def row_tiles(X, elements_per_row: int, work: Callable) -> Iterator:
    """Yield what a function returns for tiles of rows of another library than NumPy.

    A tile that finds no memory is halved, and tried again.

    Parameters
    ----------
    X : array of shape (n_rows, ...)
        The rows.
    elements_per_row : int
        Numbers that the function has in memory for a row.
    work : callable
        ``work(rows)``, where `rows` is a slice.  What it does must not be seen
        elsewhere before it returns.

    Yields
    ------
    found : object
        What it returned.
    """
    yield from backend_module(X, 0.0).row_tiles(X, elements_per_row, work)


def _size(table) -> int:
    return math.prod(np.shape(table))


def _beam_work(codebooks: Sequence, beam_size: int, begin) -> int:
    """Return the multiply-adds of a beam search for a row."""
    shape: tuple[int, ...] = () if begin is None else np.shape(begin)
    # Of a shape that does not fit, the search tells.
    n_sums, n_begun = (shape[1], shape[2]) if len(shape) == 3 else (1, 0)
    per_row = 0
    for table in codebooks[n_begun:]:
        per_row += n_sums * _size(table)
        n_sums = min(beam_size, n_sums * np.shape(table)[0])
    return per_row


def _work(X, per_row: int) -> float:
    """Return the multiply-adds of a search in NumPy's rows; else nothing asks."""
    return float(len(X)) * per_row if isinstance(X, np.ndarray) else 0.0
