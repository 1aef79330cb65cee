"""Scalar codebooks on arrays of other libraries, by the array API standard.

`scalar` sends here what is not NumPy's: the same cells from the same edges, evaluated
in the same order, so that codes are equal at the edges also.  Tables and ranges are
made ready on the host; rows are taken a tile at a time, and stay on their device.

The standard has no access to the bits of a float.  Powers of two stand for it: they are
looked up in a table, by the search that finds the cells, and products with them are
exact.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skvq import nearest
from skvq._array_api import (
    array_namespace,
    astype,
    code_dtype,
    device_of,
    like,
    to_host,
)
from skvq.codes import smallest_dtype

# -- cells -----------------------------------------------------------------------------


def grid_cells(
    X: Any,
    factor: np.ndarray,
    start: np.ndarray,
    per_cell: np.ndarray,
    low: np.ndarray,
    width: np.ndarray,
    sizes: Sequence[int],
) -> Any:
    """Return the cells (n_rows, n_columns) of X in equal cells of ranges.

    Parameters
    ----------
    X : array of shape (n_rows, n_columns)
        Floating values.
    factor : ndarray of shape (n_columns,)
        Powers of two that X is multiplied by first.
    start, per_cell : ndarray of shape (n_columns,)
        From where on, and how many to the unit, cells are counted: no value comes out
        above its cell, and none more than one below it.
    low, width : ndarray of shape (n_columns,)
        The ranges, whose edges decide.
    sizes : sequence of int
        V of each column.
    """
    xp = array_namespace(X)
    dtype = code_dtype(X, smallest_dtype(max(sizes)))
    last = np.where(width > 0, np.asarray(sizes) - 1.0, 0.0)
    rows = np.stack(
        [factor, start, per_cell, low, width, np.asarray(sizes, dtype=float), last]
    )
    factor, start, per_cell, low, width, size, last = _rows_of(like(rows, X))

    def work(x: Any) -> Any:
        x = astype(xp, x, xp.float64) * factor
        place = (x - start) * per_cell
        # Written so that a product of infinity and zero is in the first cell.
        place = xp.where(place > 0, xp.minimum(place, last), xp.zeros_like(place))
        upper = xp.floor(place) + 1.0
        below = astype(xp, x < low + upper * width / size, xp.float64)
        return astype(xp, xp.minimum(upper - below, last), dtype)

    with np.errstate(over="ignore", invalid="ignore"):  # array-api-strict's, NumPy's
        return nearest.map_rows(X, 6 * X.shape[1], work)


def grid_levels(
    codes: Any,
    factor: np.ndarray,
    low: np.ndarray,
    width: np.ndarray,
    sizes: Sequence[int],
    dtype: Any,
) -> Any:
    """Return the middles (n_rows, n_columns) of equal cells, divided by the factor."""
    xp = array_namespace(codes)
    rows = np.stack([factor, low, width, 2.0 * np.asarray(sizes)])
    factor, low, width, twice = _rows_of(like(rows, codes))

    def work(code: Any) -> Any:
        place = astype(xp, code, xp.float64) * 2 + 1
        level = (place * width / twice + low) / factor
        return astype(xp, level, getattr(xp, str(np.dtype(dtype))))

    return nearest.map_rows(codes, 4 * codes.shape[1], work)


def _rows_of(array: Any) -> list[Any]:
    return [array[i, :] for i in range(array.shape[0])]


def cells_between(X: Any, edges: Sequence[np.ndarray], n_cells: int) -> Any:
    """Return how many edges of its column each value has reached.

    Parameters
    ----------
    X : array of shape (n_rows, n_columns)
        Floating values.
    edges : sequence of 1-d ndarrays
        Of each column, ascending, in the dtype of X.
    n_cells : int
        Largest V of all columns, which tells the dtype.

    Returns
    -------
    cells : array of int, shape (n_rows, n_columns)
    """
    xp, search = array_namespace(X), _Search(X, edges)
    dtype = code_dtype(X, smallest_dtype(n_cells))
    return nearest.map_rows(X, 6 * X.shape[1], lambda x: astype(xp, search(x), dtype))


class _Search:
    """Binary search in the edges of all columns at once.

    The edges are filled up with infinities, which nothing reaches, to one less than a
    power of two: the steps are the same for all values, and there is no branch.
    """

    def __init__(self, like_array: Any, edges: Sequence[np.ndarray]) -> None:
        self._depth = max(len(edge) for edge in edges).bit_length()
        width = 2**self._depth
        table = np.full((len(edges), width), np.inf, dtype=edges[0].dtype)
        for j, edge in enumerate(edges):
            table[j, : len(edge)] = edge
        self._table = like(table.ravel(), like_array)
        self._begins = like(width * np.arange(len(edges)), like_array)

    def __call__(self, x: Any) -> Any:
        """Return the numbers of edges reached, int64, of the shape of x."""
        xp = array_namespace(x)
        found = xp.zeros_like(x, dtype=xp.int64)
        for level in reversed(range(self._depth)):
            step = 2**level
            near = _take(self._table, found + (self._begins + (step - 1)))
            found = found + step * astype(xp, x >= near, xp.int64)
        return found


def look_up(tables: Sequence[Any], codes: Any, dtype: Any) -> Any:
    """Return the entries (n_rows, n_columns) of one 1-d table for each column."""
    xp = array_namespace(codes)
    sizes = [table.shape[0] for table in tables]
    table = np.concatenate([to_host(table) for table in tables]).astype(dtype)
    table = like(table, codes)
    begins = like(np.cumsum([0, *sizes])[:-1], codes)
    return nearest.map_rows(
        codes,
        4 * codes.shape[1],
        lambda code: _take(table, astype(xp, code, xp.int64) + begins),
    )


def _take(table: Any, places: Any) -> Any:
    """Return entries of a 1-d table, in the shape of the places."""
    xp = array_namespace(places)
    found = xp.take(table, xp.reshape(places, (-1,)), axis=0)
    return xp.reshape(found, tuple(places.shape))


# -- statistics ------------------------------------------------------------------------


def column_range(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each column, in float64."""
    xp = array_namespace(X)
    low, high = (to_host(ends(X, axis=0)) for ends in (xp.min, xp.max))
    return low.astype(np.float64), high.astype(np.float64)


def weighted_mean(X: Any, weights: Any, function: Callable[[Any], Any]) -> np.ndarray:
    """Return the mean of function(X) over rows, in float64 on the host."""
    xp = array_namespace(X)
    share = shares(X, weights)[:, None]
    found = nearest.map_rows(
        X,
        4 * X.shape[1],
        # One row for each tile.
        lambda x, share: xp.sum(
            astype(xp, function(astype(xp, x, xp.float64)), xp.float64) * share,
            axis=0,
            keepdims=True,
        ),
        share,
    )
    return to_host(xp.sum(found, axis=0))


def shares(X: Any, weights: Any) -> Any:
    """Return the weights (n_rows,) of rows, scaled to sum 1; None: equal ones."""
    xp = array_namespace(X)
    if weights is None:
        return xp.ones_like(X[:, 0], dtype=xp.float64) / X.shape[0]
    return weights * (1.0 / float(xp.sum(weights)))


# -- lengths ---------------------------------------------------------------------------

# 2**k is at k + _ZERO: half of any exponent of a float64.
_ZERO = 540
_POWERS = np.ldexp(1.0, np.arange(-_ZERO, _ZERO + 1))
# Powers of two from the smallest float64 on: so many are reached by a number.
_ALL_POWERS = np.ldexp(1.0, np.arange(-1074, 1024))
# The same of normal float32: what is reached is the exponent as it is stored.
_FLOAT32_POWERS = np.ldexp(1.0, np.arange(-126, 128))
_MANTISSA = 2**23


def scaled_rows(rows: Any) -> tuple[Any, Any]:
    """Return rows in float64, divided by a power of two, and its exponent (n_rows,).

    The largest entry of each is then in [1/2, 1).
    """
    xp = array_namespace(rows)
    rows = astype(xp, rows, xp.float64)
    largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
    reached = _Search(rows, [_ALL_POWERS])(largest)
    exponent = xp.where(reached > 0, reached - 1074, xp.zeros_like(reached))
    return ldexp(rows, -exponent), exponent[:, 0]


def ldexp(values: Any, exponents: Any) -> Any:
    """Return values times two to the power of exponents; exact, as far as they fit."""
    xp = array_namespace(values)
    table = like(_POWERS, values)
    half = xp.floor_divide(exponents, xp.full_like(exponents, 2))
    # In two steps, since 2**1073 alone overflows.
    values = values * _take(table, half + _ZERO)
    return values * _take(table, exponents - half + _ZERO)


def ones(rows: Any) -> Any:
    """Return the length 1 for every row, (n_rows,)."""
    xp = array_namespace(rows)
    return xp.ones(rows.shape[0], dtype=xp.float64, device=device_of(rows))


def row_norms(X: Any) -> Any:
    """Return the Euclidean lengths of rows in float64, (n_rows,)."""
    xp = array_namespace(X)

    def work(rows: Any) -> Any:
        scaled, exponent = scaled_rows(rows)
        return ldexp(xp.sqrt(xp.sum(scaled * scaled, axis=1)), exponent)

    with np.errstate(over="ignore"):  # array-api-strict's numbers are NumPy's
        return nearest.map_rows(X, 4 * X.shape[1], work)


def float32_halves(lengths: Any) -> Any:
    """Return the upper and the lower 16 bits (n_rows, 2) of lengths as float32."""
    xp = array_namespace(lengths)
    largest = float(np.finfo(np.float32).max)
    x = xp.where(lengths < largest, lengths, xp.full_like(lengths, largest))
    x = astype(xp, astype(xp, x, xp.float32), xp.float64)
    stored = _Search(x, [_FLOAT32_POWERS])(x[:, None])[:, 0]
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    units = astype(xp, ldexp(x, 150 - exponent), xp.int64)
    bits = units + (exponent - 1) * _MANTISSA
    codes = xp.stack([bits // 2**16, bits % 2**16], axis=1)
    return astype(xp, codes, code_dtype(lengths, np.dtype(np.uint16)))


def from_float32_halves(codes: Any) -> Any:
    """Return the lengths (n_rows,) of the two halves of their bits, in float64."""
    xp = array_namespace(codes)
    codes = astype(xp, codes, xp.int64)
    bits = codes[:, 0] * 2**16 + codes[:, 1]
    stored = bits // _MANTISSA
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    units = astype(xp, bits - (exponent - 1) * _MANTISSA, xp.float64)
    return ldexp(units, exponent - 150)
