"""Cells of scalar levels, lengths and running sums, by the array API standard.

This finds the same cells from the same edges as `host_levels`, evaluated in the same
order, so that codes agree at the edges too.  Tables and ranges are prepared on the
host; rows are taken a tile at a time and stay on their device.

The standard gives no access to the bits of a float.  Powers of two replace them: they
are looked up in a table by the search that finds cells, and products with them are
exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

# Elements in a tile: many enough that a dozen calls into NumPy cost little, and few
# enough that intermediate results stay in a cache of 1 MB (benchmarks/fixed.py).
_TILE_ELEMENTS = 2**16


def tile_rows(n_columns: int, n_rows: int = _TILE_ELEMENTS) -> int:
    """Return the number of rows in a tile that stays in cache, at most n_rows."""
    return max(1, min(n_rows, _TILE_ELEMENTS // max(1, n_columns)))


# -- cells -----------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualCells:
    """Each column's [low, high) cut into equal cells.

    Edge j is ``low + j * (high - low) / V``, evaluated in float64 in this order, which
    makes the edges of integer and decimal grids exact.  Values beyond the range belong
    to the end cells.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The range.  Where it is empty, every value is in the first cell.
    sizes : tuple of int
        Number of cells V of each column.
    """

    low: np.ndarray
    high: np.ndarray
    sizes: tuple[int, ...]

    def __getstate__(self) -> dict[str, Any]:
        # Everything else follows from these.
        return {"low": self.low, "high": self.high, "sizes": self.sizes}

    @cached_property
    def width(self) -> np.ndarray:
        """The width of the range of each column."""
        return self.high - self.low

    @cached_property
    def last(self) -> np.ndarray:
        """The last cell of each column that can hold values."""
        return np.where(self.width > 0, np.asarray(self.sizes) - 1.0, 0.0)

    @cached_property
    def per_unit(self) -> np.ndarray:
        """The number of cells per unit in each column."""
        with np.errstate(over="ignore"):  # infinite where the range must be scaled
            width = self.width
            cut = (width > 0) & (np.asarray(self.sizes) > 1)
            return np.divide(self.sizes, width, out=np.zeros_like(width), where=cut)

    def doubt(self, dtype: Any) -> float:
        """Return twice the worst rounding error of a value's place, in cells."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        errors = largest * self.per_unit + 4.0 * np.asarray(self.sizes)
        return float(np.finfo(dtype).eps * errors.max())

    def start(self, dtype: Any) -> np.ndarray:
        """Return the origin from which cells are counted: below the range by the doubt.

        No value is then placed above its cell, and none more than one cell below,
        unless cells are narrower than the spacing of numbers.
        """
        per_cell = self.per_unit
        return self.low + np.divide(
            min(self.doubt(dtype), 0.49),
            per_cell,
            out=np.zeros_like(per_cell),
            where=per_cell > 0,
        )

    def precision(self, dtype: np.dtype) -> Any:
        """Return the dtype to compute cells in; None if only scaling will do."""
        per_cell = self.per_unit
        per_cell = per_cell[per_cell > 0]
        largest = max(np.abs(self.low).max(), np.abs(self.high).max())
        if largest > 2.0**100 or not (np.abs(np.log2(per_cell)) < 110).all():
            return None
        if dtype == np.float32 and self.doubt(np.float32) < 0.125:
            return np.float32
        return np.float64

    @cached_property
    def scaled(self) -> tuple[np.ndarray, "EqualCells"]:
        """A power of two for each column, and the cells of the columns times it.

        With absolute values of at most 1, nothing overflows, and denormal ranges are
        cut as finely as any.  The scaling itself is exact.
        """
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        factor = np.ldexp(1.0, -np.clip(np.frexp(largest)[1], -1000, 1024))
        return factor, EqualCells(self.low * factor, self.high * factor, self.sizes)


def equal_cells(be: Any, X: Any, cells: EqualCells, dtype: Any) -> Any:
    """Return the cells (n_rows, n_columns) of floating X; see `Backend.equal_cells`."""
    xp, factor = be.xp, np.ones_like(cells.low)
    if cells.precision(np.dtype(np.float64)) is None:
        factor, cells = cells.scaled
    start, size = cells.start(np.float64), np.asarray(cells.sizes, dtype=float)
    rows = [factor, start, cells.per_unit, cells.low, cells.width, size, cells.last]
    sent = be.send(np.stack(rows))
    factor, start, per_cell, low, width, size, last = (
        sent[i, :] for i in range(len(rows))
    )

    def work(x: Any) -> Any:
        x = be.cast(x, np.float64) * factor
        place = (x - start) * per_cell
        # This form puts NaN, from infinity times zero, into the first cell.
        place = xp.where(place > 0, xp.minimum(place, last), xp.zeros_like(place))
        upper = xp.floor(place) + 1.0
        below = be.cast(x < low + upper * width / size, np.float64)
        return be.cast(xp.minimum(upper - below, last), dtype)

    with np.errstate(over="ignore", invalid="ignore"):  # for array-api-strict and NumPy
        return be.map_rows(X, 6 * X.shape[1], work)


class Edges:
    """The edges of all columns, for one binary search over all values at once.

    The edges are padded with infinities, which nothing reaches, to one less than a
    power of two: the steps are then the same for all values, without branches.
    """

    def __init__(self, be: Any, edges: Sequence[np.ndarray]) -> None:
        self.be = be
        self._depth = max(len(edge) for edge in edges).bit_length()
        width = 2**self._depth
        table = np.full((len(edges), width), np.inf, dtype=edges[0].dtype)
        for j, edge in enumerate(edges):
            table[j, : len(edge)] = edge
        self._table = be.send(table.ravel())
        self._begins = be.send(width * np.arange(len(edges)))

    def __call__(self, x: Any) -> Any:
        """Return how many edges each value has reached, int64, in the shape of x."""
        be = self.be
        found = be.xp.zeros_like(x, dtype=be.xp.int64)
        for level in reversed(range(self._depth)):
            step = 2**level
            near = be.look_up(self._table, found + (self._begins + (step - 1)))
            found = found + step * be.cast(x >= near, np.int64)
        return found


def cells_between(be: Any, X: Any, edges: Edges, dtype: Any) -> Any:
    """Return how many edges X has reached; see `Backend.cells_between`."""
    return be.map_rows(X, 6 * X.shape[1], lambda x: be.cast(edges(x), dtype))


def entries(be: Any, table: Any, codes: Any, begins: Any) -> Any:
    """Return entries of tables; see `Backend.entries`."""

    def work(code: Any) -> Any:
        return be.look_up(table, be.cast(code, np.int64) + begins)

    return be.map_rows(codes, 4 * codes.shape[1], work)


def level_sums(
    be: Any, X: Any, codes: Any, shares: Any, sizes: Sequence[int]
) -> tuple[Any, ...]:
    """Return weighted sums of values by code; see `Backend.level_sums`."""
    found = []
    for j, size in enumerate(sizes):
        column = be.contiguous(be.cast(codes[:, j], np.intp))
        sums, reached = be.cell_sums(X[:, j : j + 1], column, size, shares)
        found.append((sums[:, 0], reached))
    return tuple(
        be.to_host(be.concat(list(parts), axis=0)) for parts in zip(*found, strict=True)
    )


# -- powers of two, and the bits of numbers --------------------------------------------

# 2**k is at index k + _ZERO, for k up to half the exponent of any float64.
_ZERO = 540
_POWERS = np.ldexp(1.0, np.arange(-_ZERO, _ZERO + 1))
# Powers of two from the smallest float64 on; how many a number reaches is its exponent.
_ALL_POWERS = np.ldexp(1.0, np.arange(-1074, 1024))
# The same for normal float32: the number reached is the exponent as it is stored.
_FLOAT32_POWERS = np.ldexp(1.0, np.arange(-126, 128))
_MANTISSA = 2**23


def scaled_rows(be: Any, rows: Any) -> tuple[Any, Any]:
    """Return rows divided by powers of two; see `Backend.scaled_rows`."""
    xp, rows = be.xp, be.cast(rows, np.float64)
    largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
    reached = Edges(be, [_ALL_POWERS])(largest)
    exponent = xp.where(reached > 0, reached - 1074, xp.zeros_like(reached))
    return ldexp(be, rows, -exponent), exponent[:, 0]


def ldexp(be: Any, values: Any, exponents: Any) -> Any:
    """Return values times powers of two; exact if the results are in range."""
    table = be.send(_POWERS)
    half = be.xp.floor_divide(exponents, be.xp.full_like(exponents, 2))
    # Two steps are needed, since 2**1073 alone overflows.
    values = values * be.look_up(table, half + _ZERO)
    return values * be.look_up(table, exponents - half + _ZERO)


def float32_bits(be: Any, values: Any) -> Any:
    """Return the bits of numbers as float32; see `Backend.float32_bits`."""
    xp, largest = be.xp, float(np.finfo(np.float32).max)
    x = be.cast(values, np.float64)
    x = xp.where(x < largest, x, xp.full_like(x, largest))
    stored = Edges(be, [_FLOAT32_POWERS])(x[:, None])[:, 0]
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    # Rounded to even as a cast would, which some devices let end at normal numbers.
    # What rounds up to the next power of two carries into the exponent.
    units = be.cast(xp.round(ldexp(be, x, 150 - exponent)), np.int64)
    return units + (exponent - 1) * _MANTISSA


def from_float32_bits(be: Any, bits: Any) -> Any:
    """Return the numbers that have these bits; see `Backend.from_float32_bits`."""
    xp, stored = be.xp, bits // _MANTISSA
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    units = be.cast(bits - (exponent - 1) * _MANTISSA, np.float64)
    return ldexp(be, units, exponent - 150)


# -- along rows ------------------------------------------------------------------------


def running(be: Any, x: Any, add: Callable[[Any, Any], Any]) -> Any:
    """Return the combination of the first 1, 2, ... entries of each row.

    It goes column by column: not all libraries have running products, and this order
    rounds as NumPy does.
    """
    columns = [x[:, k] for k in range(x.shape[1])]
    return be.xp.stack(list(accumulate(columns, add)), axis=1)
