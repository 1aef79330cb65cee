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

import numpy as np

from skvq._checks import check_count
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


def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Find the nearest codeword of each row.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers of any dtype, contiguous or not; read a tile at a time, so it may
        be a memory map.
    codebook : array-like of shape (n_codewords, n_features)
        The codewords.  Of equal ones, the first is found.
    metric : str or callable, default="sqeuclidean"
        "sqeuclidean", "cosine", "inner_product" (distance: minus the product),
        "manhattan", another name that `scipy.spatial.distance.cdist` takes, or a
        callable of two vectors; the last three are slower.
    return_distances : bool, default=True
        Whether to compute the distances as well.

    Returns
    -------
    codes : ndarray of shape (n_samples,), dtype intp
        Index of the nearest codeword.
    distances : ndarray of shape (n_samples,), dtype float64, or None
        Distance to it, in the units of the metric, computed from the difference of row
        and codeword; None if `return_distances` is False.

    Raises
    ------
    ValueError
        If shapes do not fit, the metric is unknown, values are not finite or overflow
        the dtype, or a row is zero under the cosine metric.

    Notes
    -----
    Computed in the wider of the dtypes that `compute_dtype` gives for both arrays.
    Extra memory is a few MB a thread.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest
    >>> codes, distances = nearest([[0.0, 1.0], [5.0, 5.0]], [[0.0, 0.0], [4.0, 4.0]])
    >>> codes.tolist(), distances.tolist()
    ([0, 1], [1.0, 2.0])
    """
    search = backend_module(X, _work(X, _size(codebook))).nearest
    return search(X, codebook, metric, return_distances=return_distances)


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Find the nearest codeword of each row in every subspace, in one pass.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features_j)
        One table per subspace.  The widths add up to n_features; subspace j is the next
        n_features_j columns of X.
    dtype : dtype, default=intp
        Integer dtype of the result.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codebooks)
        Index of the codeword nearest in squared Euclidean distance.

    Raises
    ------
    ValueError
        If the widths do not add up, or values are not finite or overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest_product
    >>> tables = [np.array([[0.0], [1.0]]), np.array([[0.0, 0.0], [3.0, 3.0]])]
    >>> nearest_product(np.array([[0.9, 2.0, 2.0], [0.2, 1.0, 1.0]]), tables).tolist()
    [[1, 1], [0, 0]]
    """
    per_row = sum(_size(table) for table in codebooks)
    search = backend_module(X, _work(X, per_row)).nearest_product
    return search(X, codebooks, dtype=dtype)


def nearest_best(
    X,
    codebooks: Sequence,
    beam_size: int,
    *,
    n_best: int = 1,
    begin=None,
    stage_weights=None,
    return_distances: bool = True,
    dtype=np.intp,
):
    """Find codes whose codewords add up to nearly each row, by beam search.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features)
        Tables that each give one codeword, in the order of the search.
    beam_size : int
        Partial sums of each row that are kept from one table to the next.  With one, a
        code is the nearest codeword of what the codes before it have left.
    n_best : int, default=1
        Sums of each row to return.
    begin : array-like of shape (n_samples, n_sums, n_begun), optional
        Codes in the first n_begun tables, from which the search goes on.
    stage_weights : array-like of shape (n_codebooks,), optional
        Weights of the errors of the partial sums in the loss that ranks; the last one
        positive.  None: only the last error counts.
    return_distances : bool, default=True
        Whether to compute the distances as well.
    dtype : dtype, default=intp
        Integer dtype of the codes.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_found, n_codebooks)
        Codes of the sums, best first; `n_found` is `n_best`, or the number of sums if
        there are fewer.
    distances : ndarray of shape (n_samples, n_found), dtype float64, or None
        Squared Euclidean distance of each row from its sums; with `stage_weights`, the
        weighted sum of the distances from all partial sums.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are not finite or overflow.

    Notes
    -----
    The weight of the stages to come counts for the error at hand: without weights, and
    with all of it on the last stage, this is the order by the last error.  Of equal
    codewords the first is found.  Extra memory is a few MB a thread.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest_best
    >>> tables = [np.array([[0.0], [10.0]]), np.array([[0.0], [6.0]])]
    >>> codes, distances = nearest_best([[6.0]], tables, beam_size=2)
    >>> codes.tolist(), distances.tolist()
    ([[[0, 1]]], [[0.0]])
    """
    beam_size = check_count("beam_size", beam_size)
    n_best = check_count("n_best", n_best)
    per_row = _beam_work(codebooks, beam_size, begin)
    search = backend_module(X, _work(X, per_row)).nearest_best
    return search(
        X,
        codebooks,
        beam_size,
        n_best=n_best,
        begin=begin,
        stage_weights=stage_weights,
        return_distances=return_distances,
        dtype=dtype,
    )


def improve_sums(
    X,
    codebooks: Sequence,
    codes,
    *,
    n_rounds: int,
    n_replaced: int = 1,
    n_sweeps: int = 2,
    seed: int = 0,
    dtype=np.intp,
):
    """Improve codes whose codewords add up to each row, one table at a time.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features)
        Tables that each give one codeword.
    codes : array-like of shape (n_samples, n_codebooks)
        Where to start.
    n_rounds : int
        Rounds of replacing codes at random and improving all.  The first replaces none.
    n_replaced : int, default=1
        Codes replaced in each round after the first.
    n_sweeps : int, default=2
        How often a round goes through all tables.
    seed : int, default=0
        Of the tables, orders and offsets of the rounds, which are the same for all
        rows.  Fewer rounds do what the first of more rounds do.
    dtype : dtype, default=intp
        Integer dtype of the codes.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codebooks)
        Of each row the best codes seen, the given ones included.
    distances : ndarray of shape (n_samples,), dtype float64
        Squared Euclidean distance of each row from its sum.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are not finite or overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import improve_sums
    >>> tables = [np.array([[0.0], [10.0]]), np.array([[0.0], [6.0]])]
    >>> codes, distances = improve_sums([[6.0]], tables, [[1, 1]], n_rounds=1)
    >>> codes.tolist(), distances.tolist()
    ([[0, 1]], [0.0])
    """
    n_rounds = check_count("n_rounds", n_rounds, 0, largest=None)
    n_replaced = check_count("n_replaced", n_replaced, 0, largest=None)
    n_sweeps = check_count("n_sweeps", n_sweeps, 0, largest=None)
    seed = check_count("seed", seed, 0, largest=None)
    per_row = n_rounds * n_sweeps * sum(_size(table) for table in codebooks)
    search = backend_module(X, _work(X, per_row)).improve_sums
    return search(
        X,
        codebooks,
        codes,
        n_rounds=n_rounds,
        n_replaced=n_replaced,
        n_sweeps=n_sweeps,
        seed=seed,
        dtype=dtype,
    )


def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Find the nearest Kronecker product of rows, one from each table.

    The result is that of `nearest` over the table of all prod V_j products, which is
    never built.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (V_j, d_j)
        The tables; the product of the widths d_j is n_features.
    return_distances : bool, default=False
        Whether to compute the distances as well.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codebooks), dtype intp
        Row of each table in the nearest product.  Of equal rows of a table the first
        is found, and of the codes of the zero vector the lowest.
    distances : ndarray of shape (n_samples,), dtype float64, or None
        Squared Euclidean distance to it, computed from the difference of row and
        product; None unless `return_distances`.

    Raises
    ------
    ValueError
        If the widths do not multiply to n_features, or values are not finite or
        overflow.

    Notes
    -----
    With V = prod V_j and d_m the least of the widths, a row takes about V (d_m + 3)
    multiplications, where the dense search takes V (d + 1), and as many comparisons.
    Extra memory is a few MB a thread: beyond 2^20 products they take turns.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest_kronecker
    >>> tables = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 0]])]
    >>> codes, distances = nearest_kronecker(
    ...     [[0.0, 0.0, 2.0, 1.0]], tables, return_distances=True
    ... )
    >>> codes.tolist(), distances.tolist()
    ([[1, 0]], [1.0])
    """
    shapes = [np.shape(table) for table in codebooks]
    # One product of the narrowest factor for each codeword.
    per_row = math.prod(s[0] for s in shapes) * min((s[-1] for s in shapes), default=1)
    search = backend_module(X, _work(X, per_row)).nearest_kronecker
    return search(X, codebooks, return_distances=return_distances)


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Compute the distance of each row of X to the same row of Y.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    Y : array-like of shape (n_samples, n_features), or (n_codewords, n_features)
        Their reconstructions; with `codes`, the codebook that these are looked up in.
    metric : str or callable, default="sqeuclidean"
        As in `nearest`.
    codes : array-like of shape (n_samples,), optional
        Row of Y that belongs to each row of X.

    Returns
    -------
    distances : ndarray of shape (n_samples,), dtype float64
        Distance of each pair.

    Examples
    --------
    >>> from skvq.nearest import paired
    >>> paired([[0.0, 1.0], [2.0, 2.0]], [[0.0, 0.0], [2.0, 2.0]]).tolist()
    [1.0, 0.0]
    """
    return backend_module(X, 0.0).paired(X, Y, metric, codes=codes)


def accumulate(X, codes, n_codewords: int, weights=None):
    """Add up the rows of each code.

    The results of chunks, batches or workers add up to the result of the whole.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers.
    codes : array-like of shape (n_samples,)
        Integers in [0, n_codewords).
    n_codewords : int
        Number of rows of the result.
    weights : array-like of shape (n_samples,), optional
        Weight of each row; 1 if not given.

    Returns
    -------
    sums : ndarray of shape (n_codewords, n_features), dtype float64
        Weighted sum of the rows of each code.
    counts : ndarray of shape (n_codewords,), dtype float64
        Sum of their weights.

    Raises
    ------
    ValueError
        If shapes do not fit or a code is out of range.

    Notes
    -----
    The rows are cut at borders that depend on the shapes alone, and the parts are added
    in order: the same bits come out whatever the number of threads.

    Examples
    --------
    >>> from skvq.nearest import accumulate
    >>> sums, counts = accumulate([[1.0], [2.0], [4.0]], [1, 1, 0], n_codewords=2)
    >>> sums.tolist(), counts.tolist()
    ([[4.0], [3.0]], [1.0, 2.0])
    """
    n_codewords = check_count("n_codewords", n_codewords)
    return backend_module(X, 0.0).accumulate(X, codes, n_codewords, weights)


def check_no_zero_rows(rows, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError if a row is zero.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        The rows.
    name : str, default="X"
        What the message calls them.
    start : int, default=0
        Number of the first row.

    Raises
    ------
    ValueError
        That names the first zero row.
    """
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
