"""The engine: how the argmin is computed.

Every estimator, learner and score of skvq finds its nearest codewords, its distances
and its sums here: no other module computes distances.

========================  ==========================================================
`nearest`                 code and distance of the nearest codeword of each row
`nearest_product`         codes in all subspaces of each row, in one pass
`nearest_best`            codes whose codewords add up to each row, by beam search
`improve_sums`            better codes of such sums, one table at a time
`nearest_kronecker`       codes of the nearest product of rows, factor by factor
`DistanceTable`           distances to every codeword of a small table;
                          `level_distances` to the levels of each feature
`viterbi`                 codes of the best path of each row through a `Trellis`;
                          `trellis_levels` follows paths back to their levels
`scan`                    rows of packed codes with the smallest sums of look-ups
`paired`                  distance of each row to its own reconstruction
`accumulate`              sums and counts of the rows of each code
`equal_cells`             cells of scalars in equal parts of a range;
                          `equal_levels` gives their midpoints
`cells_between`           cells of scalars between any edges; `entries` looks levels up
`row_norms`               lengths of rows
`Table`, `Tables`         codebooks, and what searches have prepared of them;
                          `Columns`: edges and levels of scalars; `Packed`: codes
`backend_of`              the backend that computes with an array;
                          `register_backend` adds one
`compute_dtype`           the precision in which input of a dtype is computed
========================  ==========================================================

The public functions below validate their input once.  `searches` holds each search,
written once over the interface of a backend (`backends.base.Backend`); `tables`
prepares codebooks for them.  Arrays of libraries other than NumPy stay in their library
and on their device, and so do the results; `backends.choice` says which backend
computes.  What is imported here and not in `__all__` is for the other modules of skvq:
threads, the choice of a backend, checks of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from skvq._checks import check_code_dtype, check_count, check_unmasked, naming
from skvq._typing import MatrixLike
from skvq.nearest.backends.base import Backend as Backend
from skvq.nearest.backends.base import Plan as Plan
from skvq.nearest.backends.choice import (
    BACKENDS,
    backend_for,
    backend_of,
    register_backend,
)
from skvq.nearest.backends.choice import backend_in as backend_in
from skvq.nearest.backends.choice import check_backend as check_backend
from skvq.nearest.backends.choice import chosen as chosen
from skvq.nearest.backends.choice import default_backend as default_backend
from skvq.nearest.backends.choice import engine_of as engine_of
from skvq.nearest.backends.choice import goes_to_device as goes_to_device
from skvq.nearest.backends.choice import is_array as is_array
from skvq.nearest.backends.choice import is_dask as is_dask
from skvq.nearest.backends.choice import settle as settle
from skvq.nearest.backends.choice import using as using
from skvq.nearest.backends.host import HOST as HOST
from skvq.nearest.backends.levels import EqualCells as EqualCells
from skvq.nearest.backends.levels import tile_rows as tile_rows
from skvq.nearest.metrics import (
    BATCH_DEPENDENT_METRICS,
    DIRECT_METRICS,
    METRICS,
    PRODUCT_METRICS,
    Metric,
)
from skvq.nearest.metrics import check_metric as check_metric
from skvq.nearest.searches import beam as _beam
from skvq.nearest.searches import flat as _flat
from skvq.nearest.searches import improve as _improve
from skvq.nearest.searches import kronecker as _kronecker
from skvq.nearest.searches import levels as _levels
from skvq.nearest.searches import paired as _paired
from skvq.nearest.searches import product as _product
from skvq.nearest.searches import scan as _scan
from skvq.nearest.searches import viterbi as _viterbi
from skvq.nearest.searches.few import DistanceTable
from skvq.nearest.searches.few import level_distances as _level_distances
from skvq.nearest.searches.kronecker import kronecker_rows
from skvq.nearest.searches.levels import row_plan as row_plan
from skvq.nearest.tables import (
    Columns,
    Packed,
    Table,
    Tables,
    as_columns,
    as_packed,
    as_table,
    as_tables,
    check_bias,
    compute_dtype,
    fetched,
)
from skvq.nearest.tables import check_no_zero_rows as check_no_zero_rows
from skvq.nearest.threads import map_jobs as map_jobs
from skvq.nearest.threads import one_thread as one_thread
from skvq.nearest.threads import single_threaded_blas as single_threaded_blas
from skvq.nearest.trellis import Trellis

__all__ = [
    "BACKENDS",
    "BATCH_DEPENDENT_METRICS",
    "METRICS",
    "PRODUCT_METRICS",
    "Columns",
    "DistanceTable",
    "Metric",
    "Packed",
    "Table",
    "Tables",
    "Trellis",
    "accumulate",
    "backend_of",
    "cells_between",
    "compute_dtype",
    "entries",
    "equal_cells",
    "equal_levels",
    "improve_sums",
    "kronecker_rows",
    "level_distances",
    "nearest",
    "nearest_best",
    "nearest_kronecker",
    "nearest_product",
    "paired",
    "register_backend",
    "row_norms",
    "scan",
    "trellis_levels",
    "viterbi",
]


def nearest(
    X: MatrixLike,
    codebook: Any,
    metric: Metric = "sqeuclidean",
    *,
    bias: Any = None,
    return_distances: bool = True,
) -> tuple[Any, Any]:
    """Find the nearest codeword of each row.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers of any dtype, contiguous or not.  They are read a tile at a time,
        so X may be a memory map.
    codebook : array-like of shape (n_codewords, n_features), or Table
        The codewords.  Among equal codewords the first is found.  A `Table` keeps what
        searches have prepared for later calls.
    metric : str or callable, default="sqeuclidean"
        "sqeuclidean", "cosine", "inner_product" (distance: minus the product),
        "manhattan", another name that `scipy.spatial.distance.cdist` takes, or a
        callable of two vectors; the last three go pair by pair.
    bias : array-like of shape (n_codewords,), optional
        Added to the distances of each codeword, in their units, during the search:
        codes are argmin_k dist(x, W_k) + b_k.  Equal codewords compete by their bias;
        one with +inf is never chosen.
    return_distances : bool, default=True
        Whether to compute the distances as well; they do not include the bias.

    Returns
    -------
    codes : ndarray of shape (n_samples,), dtype intp
        Index of the nearest codeword.
    distances : ndarray of shape (n_samples,), dtype float64, or None
        Distance to that codeword, in the units of the metric, computed from the
        difference of row and codeword; None if `return_distances` is False.

    Raises
    ------
    ValueError
        If shapes do not fit, the metric is unknown, values are not finite or overflow
        the dtype, a row is zero under the cosine metric, or a bias is NaN or -inf, or
        +inf for all codewords.

    Notes
    -----
    The computation runs in the wider of the dtypes that `compute_dtype` gives for both
    arrays.  If the two smallest distances differ by more than 2^-18 of their value
    (2^-46 in float64), the code is that of exact distances, whatever else is in the
    table.  Scores are too coarse for that in rows whose distance is small compared to
    how far they are from the table's centre; such rows are searched again with care.
    Extra memory is a few MB per thread.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest
    >>> codes, distances = nearest([[0.0, 1.0], [5.0, 5.0]], [[0.0, 0.0], [4.0, 4.0]])
    >>> codes.tolist(), distances.tolist()
    ([0, 1], [1.0, 2.0])
    """
    table, metric = as_table(codebook), check_metric(metric)
    be = backend_of(X)
    if metric in PRODUCT_METRICS | DIRECT_METRICS:
        be = backend_for(X, _size(table))
    X = be.matrix(X, "X")
    _check_width(X, table, "codebook")
    if bias is not None:
        bias = check_bias(bias, len(table))

    def search(be: Backend, x: Any) -> Any:
        return _flat.nearest(be, x, table, metric, bias, bool(return_distances))

    return be.call(search, X)


def nearest_cells(
    X: Any,
    table: Table,
    metric: Metric = "sqeuclidean",
    *,
    bias: Any = None,
    weights: Any = None,
    dtype: DTypeLike = np.intp,
) -> tuple[Any, Any, Any]:
    """Find the nearest codeword of each row, and add up the rows of each code.

    This is `nearest` and `accumulate`, of rows and weights that have been checked, in
    one pass where a backend has one; with the same bits.

    Returns
    -------
    codes : array of shape (n_samples,)
        In the dtype, or that which the library has for it.
    sums : array of shape (n_codewords, n_features)
    counts : array of shape (n_codewords,)
    """
    be, own, dtype = backend_for(X, _size(table)), engine_of(X), np.dtype(dtype)
    if bias is not None:
        bias = check_bias(bias, len(table))
    if metric == "sqeuclidean" and be is own:
        found = _flat.nearest_cells(be, X, table, bias, weights, dtype)
        if found is not None:
            return found
    codes, _ = nearest(X, table, metric, bias=bias, return_distances=False)
    sums, counts = own.cell_sums(X, codes, len(table), weights)
    return own.cast(codes, own.code_dtype(dtype)), sums, counts


def nearest_product(
    X: MatrixLike,
    codebooks: Sequence[Any] | Tables,
    *,
    bias: Any = None,
    dtype: DTypeLike = np.intp,
) -> Any:
    """Find the nearest codeword of each row in every subspace, in one pass.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features_j), or Tables
        One table per subspace.  The widths sum to n_features; subspace j is the next
        n_features_j columns of X.
    bias : sequence of arrays of shape (n_codewords_j,), optional
        As in `nearest`, for each table.
    dtype : dtype, default=intp
        Integer dtype of the result.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codebooks)
        Index of the codeword of least squared Euclidean distance in each subspace.

    Raises
    ------
    ValueError
        If the widths do not sum to n_features, or values are not finite or overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import nearest_product
    >>> tables = [np.array([[0.0], [1.0]]), np.array([[0.0, 0.0], [3.0, 3.0]])]
    >>> nearest_product(np.array([[0.9, 2.0, 2.0], [0.2, 1.0, 1.0]]), tables).tolist()
    [[1, 1], [0, 0]]
    """
    tables = as_tables(codebooks)
    dtype = _check_dtype_of_tables(dtype, tables)
    be = backend_for(X, tables.n_numbers)
    X = be.matrix(X, "X")
    widths = tables.widths
    if sum(widths) != X.shape[1]:
        raise ValueError(
            f"The codebooks' widths {widths} add up to {sum(widths)}, but X has "
            f"{X.shape[1]} features."
        )
    biases = _check_biases(bias, tables)

    def search(be: Backend, x: Any) -> Any:
        return _product.nearest_product(be, x, tables, biases, be.code_dtype(dtype))

    return be.call(search, X)


def nearest_best(
    X: MatrixLike,
    codebooks: Sequence[Any] | Tables,
    beam_size: int,
    *,
    n_best: int = 1,
    begin: Any = None,
    stage_weights: Any = None,
    bias: Any = None,
    return_distances: bool = True,
    dtype: DTypeLike = np.intp,
) -> tuple[Any, Any]:
    """Find codes whose codewords nearly add up to each row, by beam search.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features)
        Tables that contribute one codeword each, in the order of the search.
    beam_size : int
        Number of partial sums per row that are kept from one table to the next.  With
        one, each code is the codeword nearest to the residual of the codes before it.
    n_best : int, default=1
        Number of sums to return per row.
    begin : array-like of shape (n_samples, n_sums, n_begun), optional
        Codes in the first n_begun tables, from which the search continues.
    stage_weights : array-like of shape (n_codebooks,), optional
        Weights of the errors of the partial sums in the loss that ranks sums; the last
        one must be positive.  None: only the last error counts.
    bias : sequence of arrays of shape (n_codewords_j,), optional
        As in `nearest`, for each table; the biases of a sum's codewords add to its
        loss.
    return_distances : bool, default=True
        Whether to compute the distances as well.
    dtype : dtype, default=intp
        Integer dtype of the codes.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_found, n_codebooks)
        Codes of the sums, best first; `n_found` is `n_best`, or the number of sums if
        that is smaller.
    distances : ndarray of shape (n_samples, n_found), dtype float64, or None
        Squared Euclidean distance of each row from its sums, computed from their
        difference; with `stage_weights`, the weighted sum of the distances from all
        partial sums.

    Raises
    ------
    ValueError
        If shapes do not fit, or values are not finite or overflow.

    Notes
    -----
    The error of a partial sum also bears the weights of all later stages.  If all
    weight is on the last stage, sums are thus ranked by their current error.  Among
    equal codewords the first is found.  Extra memory is a few MB per thread.

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
    tables = as_tables(codebooks)
    dtype = _check_dtype_of_tables(dtype, tables)
    be = backend_for(X, _beam_work(tables, beam_size, begin))
    X = be.matrix(X, "X")
    for j, table in enumerate(tables):
        _check_width(X, table, f"codebooks[{j}]")
    if begin is None:
        begin = be.zeros((X.shape[0], 1, 0), np.intp)
    begin = be.like(check_unmasked(begin, "begin"))
    shape, n = tuple(begin.shape), X.shape[0]
    if len(shape) != 3 or shape[0] != n or shape[2] > len(tables):
        raise ValueError(
            f"begin has shape {shape}; expected (n_samples, n_sums, n_begun) "
            f"with {n} samples and at most {len(tables)} codes."
        )
    _check_codes(be, begin, [len(table) for table in tables[: shape[2]]], "begin")
    if not shape[1]:
        raise ValueError(f"begin has shape {shape}; expected at least one sum a row.")
    options = _beam.Options(
        beam_size,
        n_best,
        _checked_weights(stage_weights, len(tables)),
        _check_biases(bias, tables),
        bool(return_distances),
        dtype,
    )

    def search(be: Backend, x: Any, begun: Any) -> Any:
        return _beam.nearest_best(be, x, begun, tables, options)

    return be.call(search, X, begin)


def level_distances(
    X: Any, levels: Sequence[Any], metric: Metric = "sqeuclidean"
) -> np.ndarray:
    """Return the distances from each feature to each of its levels.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Real numbers.
    levels : sequence of ndarray of shape (V_j,)
        The levels of each feature.
    metric : {"sqeuclidean", "inner_product"}, default="sqeuclidean"
        The distance; for "inner_product", minus the product.

    Returns
    -------
    distances : ndarray of float64, shape (n_samples, V_1 + ... + V_d)
        Distances to the levels of the first feature, then the second, and so on.

    Raises
    ------
    ValueError
        If the number of features or the metric is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import level_distances
    >>> levels = [np.array([0.0, 2.0]), np.array([1.0])]
    >>> level_distances(np.array([[1.5, 4.0]]), levels).tolist()
    [[2.25, 0.25, 9.0]]
    """
    X = HOST.matrix(X, "X").astype(np.float64, copy=False)
    _check_columns(X, "X", len(levels))
    if metric not in ("sqeuclidean", "inner_product"):
        raise ValueError(
            f"metric={metric!r}; expected 'sqeuclidean' or 'inner_product'."
        )
    return _level_distances(X, levels, metric)


def _checked_weights(weights: Any, n_tables: int) -> np.ndarray | None:
    """Return stage weights in float64; raise unless there is a valid one per table."""
    if weights is None:
        return None
    with naming("stage_weights"):
        found = np.asarray(
            fetched(check_unmasked(weights, "stage_weights")), dtype=np.float64
        )
    if found.shape != (n_tables,):
        raise ValueError(
            f"stage_weights has shape {found.shape}; expected ({n_tables},), one for "
            "each of codebooks."
        )
    if not np.isfinite(found).all() or (found < 0).any() or not found[-1] > 0:
        raise ValueError(
            f"stage_weights={weights!r}; expected finite numbers, none negative and "
            "the last one positive."
        )
    return found


def improve_sums(
    X: MatrixLike,
    codebooks: Sequence[Any] | Tables,
    codes: Any,
    *,
    n_rounds: int,
    n_replaced: int = 1,
    n_sweeps: int = 2,
    seed: int = 0,
    dtype: DTypeLike = np.intp,
) -> tuple[Any, Any]:
    """Improve codes whose codewords add up to each row, one table at a time.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    codebooks : sequence of arrays of shape (n_codewords_j, n_features)
        Tables that contribute one codeword each.
    codes : array-like of shape (n_samples, n_codebooks)
        The codes to start from.
    n_rounds : int
        Number of rounds, each replacing codes at random and then improving all codes.
        The first round replaces none.
    n_replaced : int, default=1
        Number of codes replaced in each round after the first.
    n_sweeps : int, default=2
        How often a round goes through all tables.
    seed : int, default=0
        Determines the tables, orders and offsets of the rounds, which are the same for
        all rows.  The first rounds do not depend on how many follow.
    dtype : dtype, default=intp
        Integer dtype of the codes.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codebooks)
        The best codes seen for each row, those given included.
    distances : ndarray of shape (n_samples,), dtype float64
        Squared Euclidean distance of each row from its sum, computed from their
        difference.

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
    tables = as_tables(codebooks)
    dtype = _check_dtype_of_tables(dtype, tables)
    per_row = n_rounds * n_sweeps * sum(map(_size, tables))
    be = backend_for(X, per_row)
    X = be.matrix(X, "X")
    for j, table in enumerate(tables):
        _check_width(X, table, f"codebooks[{j}]")
    codes = be.like(check_unmasked(codes, "codes"))
    expected = X.shape[0], len(tables)
    if tuple(codes.shape) != expected:
        raise ValueError(f"codes has shape {tuple(codes.shape)}; expected {expected}.")
    _check_codes(be, codes, [len(table) for table in tables], "codes")
    options = _improve.Options(n_rounds, n_replaced, n_sweeps, seed, dtype)

    def search(be: Backend, x: Any, given: Any) -> Any:
        return _improve.improve_sums(be, x, given, tables, options)

    return be.call(search, X, codes)


def nearest_kronecker(
    X: MatrixLike, codebooks: Sequence[Any] | Tables, *, return_distances: bool = False
) -> tuple[Any, Any]:
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
        Row of each table in the nearest product.  Among equal rows of a table the first
        is found, and among codes of the zero vector the lowest.
    distances : ndarray of shape (n_samples,), dtype float64, or None
        Squared Euclidean distance to the product, computed from the difference of row
        and product; None unless `return_distances`.

    Raises
    ------
    ValueError
        If the widths do not multiply to n_features, or values are not finite or
        overflow.

    Notes
    -----
    With V = prod V_j and d_m the smallest width, a row takes about V (d_m + 3)
    multiplications and V comparisons; the dense search takes V (d + 1) multiplications.
    Extra memory is a few MB per thread: beyond 2^20 products they are scored in turns.

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
    tables = as_tables(codebooks)
    # One product with the narrowest factor for each codeword.
    narrowest = min((table.shape[1] for table in tables), default=1)
    be = backend_for(X, math.prod(map(len, tables)) * narrowest)
    X = be.matrix(X, "X")
    widths = [table.shape[1] for table in tables]
    if not widths or math.prod(widths) != X.shape[1]:
        raise ValueError(
            f"The codebooks' widths {widths} do not multiply to the {X.shape[1]} "
            "features of X."
        )
    for j, table in enumerate(tables):
        if len(table) == 0:
            raise ValueError(f"codebooks[{j}] has no codewords; expected at least one.")
        if not np.isfinite(table.codewords).all():
            raise ValueError(f"codebooks[{j}] contains NaN or infinity.")

    def search(be: Backend, x: Any) -> Any:
        return _kronecker.nearest_kronecker(be, x, tables, bool(return_distances))

    return be.call(search, X)


def viterbi(
    X: MatrixLike,
    alphabets: Columns | Sequence[Any],
    rates: Sequence[int],
    trellis: Trellis,
    *,
    ends: Any = "tail_biting",
    as_levels: bool = False,
    return_distances: bool = True,
    dtype: DTypeLike = np.intp,
) -> tuple[Any, Any]:
    """Find the path through a trellis whose levels are nearest to each row.

    A path takes one step for each feature that has bits, in the order of the features.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers; read a tile at a time.
    alphabets : sequence of 1-d arrays, or Columns
        The levels of each feature: one if its rate is 0, otherwise
        ``trellis.alphabet_size(rate)``, ascending if the trellis has subsets.  Features
        may share an array.  `Columns` keep what searches have prepared.
    rates : sequence of int
        Bits of each feature, R: any number up to 16; in a bitshift trellis, the bits of
        a step or 0.  A feature without bits plays no part in the path.
    trellis : Trellis
        The trellis, which says which levels may follow each other.
    ends : {"tail_biting", "free"} or array of shape (n_samples,), default="tail_biting"
        "free": a path begins in state 0 and ends in any state.  An array: the path of
        each row begins and ends in the given state.  "tail_biting": it ends where it
        begins, so the bits of its codes describe it fully.  That state is the one at
        the seam of the best path through the sequence with its halves exchanged.
    as_levels : bool, default=False
        Whether codes are indices into the alphabets, as `trellis_levels` gives them.
    return_distances : bool, default=True
        Whether to compute the distances as well.
    dtype : dtype, default=intp
        Integer dtype of the codes.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_features)
        Integers below 2^R: the bits of the step; in a trellis of subsets, followed by
        R - 1 bits that select the level within the subset.
    distances : ndarray of shape (n_samples,), dtype float64, or None
        Squared Euclidean distance of each row from its levels, computed from their
        difference; None if `return_distances` is False.

    Raises
    ------
    ValueError
        If shapes do not fit, the trellis cannot give a rate, an alphabet does not have
        the levels that it needs, a path has too few steps to reach every state (except
        for "free" ends), values are not finite, or values or requested distances
        overflow.

    Notes
    -----
    The computation runs in the wider of the dtypes that `compute_dtype` gives for the
    arrays.  The path is optimal up to the rounding of the sum of squares; with
    tail-biting ends it is optimal among those through the state that was found.  Each
    operation is rounded by itself, so that every engine on the host finds the same
    path.  Of two equally near levels of a subset the upper is taken; of two equal
    paths, the one through the lower window into a state, and the lower last state.

    A row takes a few operations per step and window, twice as many with tail-biting
    ends.  On the host, each thread remembers the surviving window of each step and
    state: in NumPy as a byte, for as many rows at a time as take 4 MB, but at least
    one; compiled as k bits, for the 2 to 16 rows that share a register.

    References
    ----------
    G. D. Forney (1973), "The Viterbi algorithm", Proceedings of the IEEE 61(3),
    doi:10.1109/PROC.1973.9030.

    Examples
    --------
    >>> from skvq.nearest import Trellis, viterbi
    >>> alphabet, trellis = [-3.0, -1.0, 1.0, 3.0], Trellis.ungerboeck(4)
    >>> codes, distances = viterbi(
    ...     [[3.0, -3.0, 2.0]], [alphabet] * 3, [1, 1, 1], trellis
    ... )
    >>> codes.tolist(), distances.tolist()
    ([[0, 1, 1]], [1.0])
    """
    trellis, alphabets = _check_trellis(trellis), as_columns(alphabets, "alphabets")
    rates = trellis.rates(rates, len(alphabets))
    n_steps = len(rates) - rates.count(0)
    be = backend_for(X, n_steps * 3 * trellis.n_windows)
    X = be.matrix(X, "X")
    _check_columns(X, "X", len(alphabets))
    name, *states = _check_ends(be, ends, X.shape[0], n_steps, trellis)
    dtype = _check_path_dtype(dtype, rates, trellis, as_levels)
    options = _viterbi.Options(
        trellis, rates, name, bool(as_levels), bool(return_distances), dtype
    )

    def search(be: Backend, x: Any, states: Any = None) -> Any:
        return _viterbi.viterbi(be, x, states, alphabets, options)

    return be.call(search, X, *states)


def trellis_levels(
    codes: Any,
    rates: Sequence[int],
    trellis: Trellis,
    *,
    ends: Any = "tail_biting",
    dtype: DTypeLike = np.intp,
) -> Any:
    """Follow paths through a trellis from their codes to their levels.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_features)
        Codes as `viterbi` returns them.
    rates, trellis, ends : object
        As in `viterbi`.
    dtype : dtype, default=intp
        Integer dtype of the result.

    Returns
    -------
    levels : ndarray of shape (n_samples, n_features)
        Indices into the alphabets of the features.

    Raises
    ------
    ValueError
        If shapes do not fit, or a code is out of range.

    Examples
    --------
    >>> from skvq.nearest import Trellis, trellis_levels
    >>> trellis_levels([[0, 1, 1]], [1, 1, 1], Trellis.ungerboeck(4)).tolist()
    [[3, 0, 3]]
    """
    trellis, be = _check_trellis(trellis), backend_of(codes)
    codes = be.matrix(codes, "codes")
    rates = trellis.rates(rates, codes.shape[1])
    _check_codes(be, codes, [2**rate for rate in rates], "codes")
    n_steps = len(rates) - rates.count(0)
    name, *given = _check_ends(be, ends, codes.shape[0], n_steps, trellis)
    dtype = be.code_dtype(_check_path_dtype(dtype, rates, trellis, True))
    states = given[0] if given else None
    return _viterbi.trellis_levels(be, codes, states, name, rates, trellis, dtype)


def scan(
    packed: Any,
    sizes: Any,
    tables: Any,
    *,
    k: int,
    factor: Any = None,
    offset: Any = None,
) -> tuple[Any, Any]:
    """Find the rows of packed codes with the smallest sums of table entries.

    The score of row i is ``factor[i] * (t_1[c_i1] + ... + t_m[c_im]) + offset[i]``,
    where t_j is the part of a table that belongs to column j.  If the table holds what
    the codewords of a product, residual or additive quantizer contribute to the
    distance from a query, that is the distance, up to a constant of the query.

    Parameters
    ----------
    packed : array-like of uint8, shape (n_samples, n_bytes), or Packed
        Codes packed in rows by `skvq.codes.pack`, each in ceil(log2 V_j) bits.  They
        are read a chunk at a time, so this may be a memory map.  A `Packed` is checked
        and put in order once, for many scans.
    sizes : sequence of int
        Number of codewords V_j of each column; None beside a `Packed`.
    tables : array-like of shape (n_queries, V_1 + ... + V_m)
        One table for each query: the entries of the codes of the first column, then
        those of the second, and so on.
    k : int
        Number of rows to find.
        How many rows to find.
    factor, offset : array-like of shape (n_samples,), optional
        Numbers of any sign; None stands for ones and zeros.  A `Packed` has its own.

    Returns
    -------
    indices : ndarray of shape (n_queries, n_found), dtype intp
        The rows with the smallest scores, in ascending order; among equal scores the
        lower index.  `n_found` is `k`, or the number of rows if that is smaller.
    scores : ndarray of shape (n_queries, n_found), dtype float64
        Their scores.

    Raises
    ------
    TypeError
        If the dtype of packed is not uint8.
    ValueError
        If shapes do not fit, a code is out of range, numbers are not finite, or the
        largest of them might add up to more than an eighth of the largest number of
        their dtype.

    Notes
    -----
    Scores are computed in the widest of the dtypes that `compute_dtype` gives for the
    tables, the factor and the offset.  Entries are added in the order of the columns;
    each sum, the product with the factor and the sum with the offset are rounded one by
    one.  The result is exactly that of these scores, with every backend.  Most rows are
    never summed in full: where no code crosses the border of a byte, a lower bound
    computed in bytes excludes them.  Extra memory is a few MB per thread, plus that of
    a few results.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import scan
    >>> packed = np.array([[0x12], [0x00], [0x10], [0x01]], np.uint8)  # 4 + 4 bits
    >>> table = np.concatenate([np.arange(16.0), 10 * np.arange(16.0)])[None]
    >>> indices, scores = scan(packed, (16, 16), table, k=3)
    >>> indices.tolist(), scores.tolist()
    ([[1, 2, 3]], [[0.0, 1.0, 10.0]])
    """
    be, k = backend_of(packed), check_count("k", k)
    codes = as_packed(packed, sizes, factor, offset)
    tables = HOST.matrix(fetched(tables), "tables")
    n_entries = sum(codes.sizes)
    if tables.shape[1] != n_entries:
        raise ValueError(
            f"tables has {tables.shape[1]} columns; expected {n_entries}, one for each "
            "codeword of each code column."
        )
    dtype = np.result_type(compute_dtype(tables.dtype), *codes.dtypes)
    most, limit = _scan.most_score(codes, tables), float(np.finfo(dtype).max) / 8
    if not most <= limit:
        if not HOST.is_finite(tables):
            raise ValueError("tables contains NaN or infinity.")
        raise ValueError(
            f"Scores might reach {most:.3g}; expected at most {limit:.3g} in {dtype}: "
            "scale tables, factor and offset."
        )
    tables = np.ascontiguousarray(tables, dtype)
    found = _scan.scan(backend_for(codes.packed, 0.0), codes, tables, k)
    return tuple(be.send(each) for each in found)


def paired(
    X: MatrixLike, Y: MatrixLike, metric: Metric = "sqeuclidean", *, codes: Any = None
) -> Any:
    """Compute the distance of each row of X to the same row of Y.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    Y : array-like of shape (n_samples, n_features), or (n_codewords, n_features)
        Their reconstructions; with `codes`, the codebook in which to look them up.
    metric : str or callable, default="sqeuclidean"
        As in `nearest`.
    codes : array-like of shape (n_samples,), optional
        Index into Y for each row of X.

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
    be, metric = backend_of(X), check_metric(metric)
    X, Y = be.matrix(X, "X"), be.matrix(be.like(check_unmasked(Y, "Y")), "Y")
    if X.shape[1] != Y.shape[1] or (codes is None and X.shape[0] != Y.shape[0]):
        raise ValueError(f"X has shape {tuple(X.shape)}, Y has shape {tuple(Y.shape)}.")
    if codes is not None:
        codes = be.like(check_unmasked(codes, "codes"))
        if tuple(codes.shape) != tuple(X.shape[:1]):
            raise ValueError(
                f"codes has shape {tuple(codes.shape)}; expected {tuple(X.shape[:1])}."
            )
        _check_codes(be, codes[:, None], [Y.shape[0]], "codes")
        codes = be.cast(codes, np.intp)
    return _paired.paired(engine_of(X), X, codes, Y, metric)


def accumulate(
    X: MatrixLike, codes: Any, n_codewords: int, *, weights: Any = None
) -> tuple[Any, Any]:
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
        Sum of the weights of the rows of each code.

    Raises
    ------
    ValueError
        If shapes do not fit or a code is out of range.

    Notes
    -----
    Rows are cut at borders that depend on the shapes alone, and the parts are added in
    order: the bits of the result do not depend on the number of threads.

    Examples
    --------
    >>> from skvq.nearest import accumulate
    >>> sums, counts = accumulate([[1.0], [2.0], [4.0]], [1, 1, 0], n_codewords=2)
    >>> sums.tolist(), counts.tolist()
    ([[4.0], [3.0]], [1.0, 2.0])
    """
    n_codewords, be = check_count("n_codewords", n_codewords), engine_of(X)
    X, codes = be.matrix(X, "X"), be.like(check_unmasked(codes, "codes"))
    if be.numpy_dtype(codes).kind not in "biu" and 0 not in codes.shape:
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers.")
    codes, n = be.contiguous(be.cast(codes, np.intp)), X.shape[0]
    if tuple(codes.shape) != (n,):
        raise ValueError(f"codes has shape {tuple(codes.shape)}; expected ({n},).")
    if n:
        low, high = int(be.xp.min(codes)), int(be.xp.max(codes))
        if low < 0 or high >= n_codewords:
            raise ValueError(
                f"codes range from {low} to {high}; expected [0, {n_codewords})."
            )
    if weights is not None:
        weights = be.like(check_unmasked(weights, "weights"), np.float64)
        if tuple(weights.shape) != (n,):
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}; expected ({n},)."
            )
    return be.cell_sums(X, codes, n_codewords, weights)


def equal_cells(X: MatrixLike, cells: EqualCells, dtype: DTypeLike = np.intp) -> Any:
    """Find the cell of each value among equal parts of its column's range.

    Parameters
    ----------
    X : array of shape (n_samples, n_columns)
        Floating values.
    cells : EqualCells
        The ranges, and the number of cells in each.
    dtype : dtype, default=intp
        Integer dtype of the result.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_columns)
        A value on an edge is in the cell above it; a value beyond the range is in the
        first or the last cell.

    Notes
    -----
    Where the dtype of X is too coarse to place a value, the float64 edge between two
    cells decides.  Extra memory is a few MB per thread.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import EqualCells, equal_cells
    >>> cells = EqualCells(np.zeros(2), np.array([4.0, 1.0]), (4, 2))
    >>> equal_cells(np.array([[1.0, 0.4], [9.0, 0.5]]), cells).tolist()
    [[1, 0], [3, 1]]
    """
    be = engine_of(X)
    X = be.matrix(X, "X")
    _check_columns(X, "X", len(cells.sizes))
    dtype = check_code_dtype(dtype, max(cells.sizes, default=1) - 1)
    return be.equal_cells(X, cells, be.code_dtype(dtype))


def equal_levels(codes: Any, cells: EqualCells, dtype: DTypeLike = np.float64) -> Any:
    """Return the midpoints of cells.

    Parameters
    ----------
    codes : array of shape (n_samples, n_columns)
        Codes as `equal_cells` returns them.
    cells : EqualCells
        The ranges, and the number of cells in each.
    dtype : dtype, default=float64
        Floating dtype of the result.

    Returns
    -------
    levels : ndarray of shape (n_samples, n_columns)
        ``low + (2 * code + 1) * (high - low) / (2 * V)``.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import EqualCells, equal_levels
    >>> cells = EqualCells(np.zeros(2), np.array([4.0, 1.0]), (4, 2))
    >>> equal_levels(np.array([[1, 0], [3, 1]]), cells).tolist()
    [[1.5, 0.25], [3.5, 0.75]]
    """
    be = backend_of(codes)
    codes = be.matrix(codes, "codes")
    _check_columns(codes, "codes", len(cells.sizes))
    return _levels.equal_levels(be, codes, cells, np.dtype(dtype))


def cells_between(
    X: MatrixLike, edges: Columns | Sequence[Any], dtype: DTypeLike = np.intp
) -> Any:
    """Count how many edges of its column each value has reached.

    Parameters
    ----------
    X : array of shape (n_samples, n_columns)
        Real numbers; NaN may get any cell.
    edges : sequence of 1-d ndarrays, or Columns
        Edges of each column, ascending; some may be equal, and a column may have none.
        `Columns` keep what searches have prepared.
    dtype : dtype, default=intp
        Integer dtype of the result.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_columns)
        A value on an edge has reached it; float64 edges decide, whatever X's dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import cells_between
    >>> edges = [np.array([1.0, 2.0]), np.array([0.5])]
    >>> cells_between(np.array([[1.0, 0.4], [9.0, 0.5]]), edges).tolist()
    [[1, 0], [2, 1]]
    """
    be, edges = engine_of(X), as_columns(edges, "edges")
    X = be.matrix(X, "X")
    _check_columns(X, "X", len(edges))
    dtype = check_code_dtype(dtype, max(map(len, edges.arrays), default=0))
    return _levels.cells_between(be, X, edges, be.code_dtype(dtype))


def entries(
    codes: Any, tables: Columns | Sequence[Any], dtype: DTypeLike = np.float64
) -> Any:
    """Look codes up in a table of numbers for each column.

    Parameters
    ----------
    codes : array of shape (n_samples, n_columns)
        Integers within the size of each table.
    tables : sequence of 1-d ndarrays, or Columns
        One for each column.
    dtype : dtype, default=float64
        Floating dtype of the result.

    Returns
    -------
    values : ndarray of shape (n_samples, n_columns)
        The table entries of the codes.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import entries
    >>> tables = [np.array([0.0, 5.0]), np.array([1.0, 2.0, 3.0])]
    >>> entries(np.array([[1, 0], [0, 2]]), tables).tolist()
    [[5.0, 1.0], [0.0, 3.0]]
    """
    be, tables = backend_of(codes), as_columns(tables, "tables")
    codes = be.matrix(codes, "codes")
    _check_columns(codes, "codes", len(tables))
    return _levels.entries(be, codes, tables, np.dtype(dtype))


def row_norms(X: MatrixLike) -> Any:
    """Return the Euclidean lengths of rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Floating values.

    Returns
    -------
    norms : ndarray of shape (n_samples,), dtype float64
        Rows are scaled by a power of two first: no square overflows or vanishes.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import row_norms
    >>> row_norms(np.array([[3.0, 4.0], [0.0, 1e300]])).tolist()
    [5.0, 1e+300]
    """
    be = backend_of(X)
    return _levels.row_norms(be, be.matrix(X, "X"))


def _check_path_dtype(
    dtype: Any, rates: Any, trellis: Trellis, as_levels: bool
) -> np.dtype:
    largest = max(rates, default=0)
    n_values = trellis.alphabet_size(largest) if as_levels else 2**largest
    return check_code_dtype(dtype, n_values - 1)


def _check_dtype_of_tables(dtype: Any, tables: Tables) -> np.dtype:
    return check_code_dtype(dtype, tables.most_codewords - 1)


def _check_columns(X: Any, name: str, n_columns: int) -> None:
    if X.shape[1] != n_columns:
        raise ValueError(f"{name} has {X.shape[1]} columns; expected {n_columns}.")


def _check_trellis(trellis: Any) -> Trellis:
    if not isinstance(trellis, Trellis):
        raise ValueError(
            f"trellis={trellis!r}; expected a Trellis, as Trellis.ungerboeck(8) is one."
        )
    return trellis


def _check_ends(
    be: Backend, ends: Any, n_rows: int, n_steps: int, trellis: Trellis
) -> list[Any]:
    """Return the kind of path ends, and the states that are given with it."""
    found = [ends]
    if not isinstance(ends, str):
        with naming("ends"):
            states = be.like(check_unmasked(ends, "ends"))
        if tuple(states.shape) != (n_rows,):
            raise ValueError(
                f"ends has shape {tuple(states.shape)}; expected ({n_rows},)."
            )
        _check_codes(be, states[:, None], [trellis.n_states], "ends")
        found = ["given", be.cast(states, np.int64)]
    elif ends not in ("tail_biting", "free"):
        raise ValueError(
            f"ends={ends!r}; expected 'tail_biting', 'free' or an array of states."
        )
    if found[0] != "free" and n_steps < trellis.n_forgetting:
        raise ValueError(
            f"rates has bits for {n_steps} features, but with its ends tied a path "
            f"through the {trellis.n_states} states of the trellis takes at least "
            f"{trellis.n_forgetting}: use fewer states, or ends='free'."
        )
    return found


def _check_width(X: Any, table: Table, name: str) -> None:
    """Raise unless there are codewords, and they are as wide as the rows."""
    if table.shape[1] != X.shape[1]:
        raise ValueError(
            f"X has {X.shape[1]} features, the {name} has {table.shape[1]}."
        )
    if len(table) == 0:
        raise ValueError(f"{name} has no codewords; expected at least one.")


def _check_biases(bias: Any, tables: Tables) -> list[Any] | None:
    if bias is None:
        return None
    if len(bias) != len(tables):
        raise ValueError(f"bias has {len(bias)} entries for {len(tables)} codebooks.")
    return [
        check_bias(each, len(table), f"bias[{j}]")
        for j, (each, table) in enumerate(zip(bias, tables, strict=True))
    ]


def _check_codes(be: Backend, codes: Any, sizes: Sequence[int], name: str) -> None:
    """Raise unless codes, along the last axis, index tables of these sizes.

    Some libraries accept any index when looking up, and reduce it modulo the size.
    """
    if 0 in codes.shape:
        return
    kind = be.numpy_dtype(codes).kind
    if kind not in "biu":
        raise ValueError(f"{name} has dtype {codes.dtype}; expected integers.")
    codes = be.cast(codes, np.uint8) if kind == "b" else codes
    flat = be.xp.reshape(codes, (-1, len(sizes)))
    low, high = (be.to_host(reduce(flat, axis=0)) for reduce in (be.xp.min, be.xp.max))
    for j, size in enumerate(sizes):
        if low[j] < 0 or high[j] >= size:
            raise ValueError(
                f"{name}[..., {j}] ranges from {low[j]} to {high[j]}; "
                f"expected [0, {size})."
            )


def _size(table: Any) -> int:
    return math.prod(table.shape)


def _beam_work(tables: Tables, beam_size: int, begin: Any) -> int:
    """Return the multiply-adds of a beam search per row."""
    shape: tuple[int, ...] = () if begin is None else np.shape(begin)
    # The search itself raises for a shape that does not fit.
    n_sums, n_begun = (shape[1], shape[2]) if len(shape) == 3 else (1, 0)
    per_row = 0
    for table in tables[n_begun:]:
        per_row += n_sums * _size(table)
        n_sums = min(beam_size, n_sums * len(table))
    return per_row
