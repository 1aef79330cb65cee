"""Cells of scalar levels, lengths and running sums, by the array API standard.

The same cells from the same edges as `host_levels` finds, evaluated in the same order,
so that codes are equal at the edges also.  Tables and ranges are made ready on the
host; rows are taken a tile at a time, and stay on their device.

The standard has no access to the bits of a float.  Powers of two stand for it: they are
looked up in a table, by the search that finds the cells, and products with them are
exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

# Elements of a tile: a dozen calls into NumPy cost little beside their work on it, and
# what they hand on is still in a cache of 1 MB (benchmarks/fixed.py).
_TILE_ELEMENTS = 2**16


def tile_rows(n_columns: int, n_rows: int = _TILE_ELEMENTS) -> int:
    """Return the rows of a tile that stays in cache, no more than there are."""
    return max(1, min(n_rows, _TILE_ELEMENTS // max(1, n_columns)))


# -- cells -----------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualCells:
    """Each column's [low, high) cut in equal cells.

    Edge j is ``low + j * (high - low) / V``, evaluated in float64 in this order, which
    makes the edges of integer and decimal grids exact; values beyond the range belong
    to the end cells.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The range.  Where it is empty, every value is in the first cell.
    sizes : tuple of int
        V of each column.
    """

    low: np.ndarray
    high: np.ndarray
    sizes: tuple[int, ...]

    def __getstate__(self) -> dict[str, Any]:
        # What follows from these is found again.
        return {"low": self.low, "high": self.high, "sizes": self.sizes}

    @cached_property
    def width(self) -> np.ndarray:
        """The width of the range of each column."""
        return self.high - self.low

    @cached_property
    def last(self) -> np.ndarray:
        """The last cell that values of each column are in."""
        return np.where(self.width > 0, np.asarray(self.sizes) - 1.0, 0.0)

    @cached_property
    def per_unit(self) -> np.ndarray:
        """How many cells of each column there are to the unit."""
        with np.errstate(over="ignore"):  # infinite where the range must be scaled
            width = self.width
            cut = (width > 0) & (np.asarray(self.sizes) > 1)
            return np.divide(self.sizes, width, out=np.zeros_like(width), where=cut)

    def doubt(self, dtype: Any) -> float:
        """Bound the rounding of a place, in cells, on twice its worst."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        errors = largest * self.per_unit + 4.0 * np.asarray(self.sizes)
        return float(np.finfo(dtype).eps * errors.max())

    def start(self, dtype: Any) -> np.ndarray:
        """Return from where on cells are counted: below the range, by the doubt.

        No value then comes out above its cell, and none more than one below it, unless
        cells are narrower than numbers are apart.
        """
        per_cell = self.per_unit
        return self.low + np.divide(
            min(self.doubt(dtype), 0.49),
            per_cell,
            out=np.zeros_like(per_cell),
            where=per_cell > 0,
        )

    def precision(self, dtype: np.dtype) -> Any:
        """Return the dtype to compute cells in; None: scaled, nothing else will do."""
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
        """A power of two for each column, and the cells of columns times it.

        At most 1 in absolute value, nothing overflows, and denormal ranges are cut as
        finely as any.  The scaling itself is exact.
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
        # Written so that a product of infinity and zero is in the first cell.
        place = xp.where(place > 0, xp.minimum(place, last), xp.zeros_like(place))
        upper = xp.floor(place) + 1.0
        below = be.cast(x < low + upper * width / size, np.float64)
        return be.cast(xp.minimum(upper - below, last), dtype)

    with np.errstate(over="ignore", invalid="ignore"):  # array-api-strict's, NumPy's
        return be.map_rows(X, 6 * X.shape[1], work)


class Edges:
    """The edges of all columns, in which a binary search is done at once.

    The edges are filled up with infinities, which nothing reaches, to one less than a
    power of two: the steps are the same for all values, and there is no branch.
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
        """Return the numbers of edges reached, int64, of the shape of x."""
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

# 2**k is at k + _ZERO: half of any exponent of a float64.
_ZERO = 540
_POWERS = np.ldexp(1.0, np.arange(-_ZERO, _ZERO + 1))
# Powers of two from the smallest float64 on: so many are reached by a number.
_ALL_POWERS = np.ldexp(1.0, np.arange(-1074, 1024))
# The same of normal float32: what is reached is the exponent as it is stored.
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
    """Return values times two to the power of exponents; exact, as far as they fit."""
    table = be.send(_POWERS)
    half = be.xp.floor_divide(exponents, be.xp.full_like(exponents, 2))
    # In two steps, since 2**1073 alone overflows.
    values = values * be.look_up(table, half + _ZERO)
    return values * be.look_up(table, exponents - half + _ZERO)


def float32_bits(be: Any, values: Any) -> Any:
    """Return the bits of numbers as float32; see `Backend.float32_bits`."""
    xp, largest = be.xp, float(np.finfo(np.float32).max)
    x = xp.where(values < largest, values, xp.full_like(values, largest))
    x = be.cast(be.cast(x, np.float32), np.float64)
    stored = Edges(be, [_FLOAT32_POWERS])(x[:, None])[:, 0]
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    units = be.cast(ldexp(be, x, 150 - exponent), np.int64)
    return units + (exponent - 1) * _MANTISSA


def from_float32_bits(be: Any, bits: Any) -> Any:
    """Return the numbers of such bits; see `Backend.from_float32_bits`."""
    xp, stored = be.xp, bits // _MANTISSA
    exponent = xp.where(stored > 0, stored, xp.ones_like(stored))
    units = be.cast(bits - (exponent - 1) * _MANTISSA, np.float64)
    return ldexp(be, units, exponent - 150)


# -- along rows ------------------------------------------------------------------------


def running(be: Any, x: Any, add: Callable[[Any, Any], Any]) -> Any:
    """Return what the first 1, 2, ... entries of each row are together.

    Column by column: not all libraries have running products, and in this order they
    round as NumPy's do.
    """
    columns = [x[:, k] for k in range(x.shape[1])]
    return be.xp.stack(list(accumulate(columns, add)), axis=1)
