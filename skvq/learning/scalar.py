"""Scalar codebooks: cells on a line, and levels matched to a density or to samples.

A scalar codebook cuts one feature in intervals, so that the argmin is a place in a
sorted list, and the best codebook a problem in one dimension.  Here are

- `Grid` and `Levels`, the codecs of many columns at once: equal cells found by a
  formula, and any sorted levels found by comparison with their edges;
- `lloyd_max`, the levels of least squared error for a density (Lloyd 1982, Max 1960),
  and `uniform_reach`, the best equal cells; those for samples are found in `levels`;
- the statistics of weighted columns that ranges are taken from.

Cells are half-open: a value on an edge belongs to the cell above.

Arrays of other libraries go to `scalar_arrays`; what is learned from them is NumPy's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_banded
from scipy.optimize import minimize_scalar

from skvq._array_api import is_foreign, like, numpy_dtype, to_host
from skvq._checks import check_counts
from skvq.codes import smallest_dtype
from skvq.learning import scalar_arrays
from skvq.nearest import accumulate
from skvq.nearest._threads import map_tiles, scratch

# Elements of a tile: a dozen calls into NumPy cost little beside their work on it, and
# what they hand on is still in a cache of 1 MB (benchmarks/fixed.py).
_TILE_ELEMENTS = 2**16
# What an element costs, in multiply-adds, for the choice of threads.
_WORK = 40.0
# Up to this many edges, a comparison with each is the fastest search.
_FEW_EDGES = 8
# Up to so many doubtful places, by eights, wait for the other tiles and are settled at
# once; of more, all of a tile are.
_FEW_DOUBTS = 256
# From so many rows on it pays to index the edges first.
_MANY_ROWS = 256


def tile_rows(n_columns: int, n_rows: int = _TILE_ELEMENTS) -> int:
    """Return the rows of a tile that stays in cache, no more than there are."""
    return max(1, min(n_rows, _TILE_ELEMENTS // max(1, n_columns)))


def repeat_row(name: str, row: np.ndarray, n_rows: int) -> np.ndarray:
    """Return a row over and over, in this thread's scratch memory of that name.

    Whole tiles are combined in one run, which broadcasting a short row is not: twice as
    fast at 64 columns.
    """
    repeated = scratch(name, (n_rows, len(row)), row.dtype)
    repeated[...] = row
    return repeated


def per_column(
    name: str, value, n_columns: int, column: str, smallest: int, largest: int
) -> tuple[int, ...]:
    """Return a parameter that is an int, or one for each column, as a tuple of ints.

    Parameters
    ----------
    name : str
        The parameter, named in the messages.
    value : int or sequence of int
        What it was given.
    n_columns : int
        How many there must be.
    column : str
        What a column is called.
    smallest, largest : int
        Limits.

    Returns
    -------
    sizes : tuple of int

    Raises
    ------
    ValueError
        If a sequence has another length, or an entry is no integer within the limits.
    """
    if isinstance(value, Integral):
        return (int(value),) * n_columns
    values = list(value)
    if len(values) != n_columns:
        raise ValueError(
            f"{name} has {len(values)} entries, but X has {n_columns} {column}s; give "
            "one int for all, or one for each."
        )
    return tuple(check_counts(name, values, smallest, largest))


# -- codecs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Each column's [low, high) cut in equal cells, with levels at the midpoints.

    Edge j is ``low + j * (high - low) / V``, evaluated in float64 in this order, which
    makes the edges of integer and decimal grids exact; values beyond the range belong
    to the end cells.  No table is kept: any V costs the same.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The range.  Where it is empty, all levels are equal and every code is 0.
    sizes : tuple of int
        V of each column.
    """

    low: np.ndarray
    high: np.ndarray
    sizes: tuple[int, ...]

    def encode(self, X: np.ndarray) -> np.ndarray:
        """Return the codes (n_rows, n_columns) of floating X."""
        if is_foreign(X):
            return self._encode_foreign(X)
        dtype = self._precision(X.dtype)
        if dtype is None:
            factor, scaled = self._scaled()
            with np.errstate(over="ignore"):  # what overflows is beyond the range
                X = X.astype(np.float64) * factor
            return scaled._encode(X, np.float64)
        return self._encode(X, dtype)

    def decode(self, codes: np.ndarray, dtype=np.float64) -> np.ndarray:
        """Return the levels (n_rows, n_columns) of codes."""
        factor, scaled = self._scaled()
        low, width = scaled.low, scaled.high - scaled.low
        if is_foreign(codes):
            return scalar_arrays.grid_levels(
                codes, factor, low, width, self.sizes, dtype
            )
        twice = 2.0 * np.asarray(self.sizes)
        result = np.empty(codes.shape, dtype)
        tile = tile_rows(codes.shape[1])

        def make_worker():
            buffer = scratch("places", (tile, codes.shape[1]), np.float64)

            def work(begin: int, end: int) -> None:
                x = buffer[: end - begin]
                x[...] = codes[begin:end]
                x *= 2
                x += 1
                x *= width
                x /= twice
                x += low
                np.divide(x, factor, out=result[begin:end], casting="same_kind")

            return work

        map_tiles(make_worker, len(codes), tile, _WORK * codes.shape[1])
        return result

    def tables(self, dtype=np.float64) -> tuple[np.ndarray, ...]:
        """Return the levels of each column, (V, 1)."""
        return tuple(
            Grid(self.low[[j]], self.high[[j]], (size,)).decode(
                np.arange(size)[:, None], dtype
            )
            for j, size in enumerate(self.sizes)
        )

    def _encode_foreign(self, X):
        factor, grid = np.ones_like(self.low), self
        if self._precision(np.dtype(np.float64)) is None:
            factor, grid = self._scaled()
        per_cell = grid._cells_per_unit()
        return scalar_arrays.grid_cells(
            X,
            factor,
            grid.low + grid._less(np.float64, per_cell),
            per_cell,
            grid.low,
            grid.high - grid.low,
            self.sizes,
        )

    def _encode(self, X, dtype):
        codes = np.empty(X.shape, smallest_dtype(max(self.sizes)))
        tile = tile_rows(X.shape[1], len(X))
        later: list[np.ndarray] = []
        map_tiles(
            lambda: self._worker(X, codes, dtype, tile, later),
            len(X),
            tile,
            _WORK * X.shape[1],
        )
        if later:
            places = np.concatenate(later)[:, None] + np.arange(8)
            rows, columns = np.divmod(places[places < X.size], X.shape[1])
            codes[rows, columns] = self._compare(
                X[rows, columns], codes[rows, columns], columns
            )
        return codes

    def _worker(self, X, codes, dtype, tile, later):
        """Make a worker that computes the least and the largest cell of each value.

        Rounding moves the place of a value by less than the doubt.  Where the place
        less the doubt and the place plus it lie in the same cell, that is the code;
        where they don't, the edge between them decides.
        """
        doubt = self._doubt(dtype)
        per_cell = self._cells_per_unit()
        less = self._less(dtype, per_cell)
        # The ends as rows: a maximum with a scalar takes three times as long.
        start, scale, first, last = (
            repeat_row(name, row.astype(dtype), tile)
            for name, row in (
                ("start", self.low + less),
                ("scale", per_cell),
                ("first", np.zeros_like(per_cell)),
                ("last", np.array(self.sizes) - 1.0),
            )
        )
        twice = dtype(2 * doubt)
        places = scratch("places", (tile, X.shape[1]), dtype)
        above = scratch("above", (tile, X.shape[1]), codes.dtype)
        flags = scratch("flags", (-(-places.size // 8) * 8,), bool)
        flags[...] = False
        words = flags.view(np.uint64)  # eight flags at a time

        def work(begin: int, end: int) -> None:
            n = end - begin
            x, place, code = X[begin:end], places[:n], codes[begin:end]
            np.subtract(x, start[:n], out=place)
            place *= scale[:n]
            np.maximum(place, first[:n], out=place)
            np.minimum(place, last[:n], out=place)
            np.copyto(code, place, casting="unsafe")
            place += twice
            np.copyto(above[:n], place, casting="unsafe")
            differ = flags[: x.size].reshape(x.shape)
            np.not_equal(code, above[:n], out=differ)
            found = np.flatnonzero(words[: -(-x.size // 8)])
            if found.size > _FEW_DOUBTS:
                code[...] = self._compare(x, code)
            elif found.size:
                later.append(8 * found + begin * X.shape[1])

        return work

    def _compare(self, x, cells, columns=slice(None)):
        """Return the cells of x, from those that they are in or just above."""
        low, width = self.low[columns], (self.high - self.low)[columns]
        sizes = np.asarray(self.sizes)[columns]
        upper = cells + 1.0
        upper -= x < low + upper * width / sizes
        return np.minimum(upper, np.where(width > 0, sizes - 1, 0)).astype(cells.dtype)

    def _precision(self, dtype):
        """Return the dtype to compute cells in; None: scaled, nothing else will do."""
        per_cell = self._cells_per_unit()
        per_cell = per_cell[per_cell > 0]
        largest = max(np.abs(self.low).max(), np.abs(self.high).max())
        if largest > 2.0**100 or not (np.abs(np.log2(per_cell)) < 110).all():
            return None
        if dtype == np.float32 and self._doubt(np.float32) < 0.125:
            return np.float32
        return np.float64

    def _cells_per_unit(self):
        with np.errstate(over="ignore"):  # infinite where the range must be scaled
            width = self.high - self.low
            cut = (width > 0) & (np.asarray(self.sizes) > 1)
            return np.divide(self.sizes, width, out=np.zeros_like(width), where=cut)

    def _doubt(self, dtype) -> float:
        """Bound the rounding of a place, in cells, on twice its worst."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        errors = largest * self._cells_per_unit() + 4.0 * np.asarray(self.sizes)
        return float(np.finfo(dtype).eps * errors.max())

    def _less(self, dtype, per_cell):
        """Return how far below its place a value is taken to be, for the doubt."""
        return np.divide(
            min(self._doubt(dtype), 0.49),
            per_cell,
            out=np.zeros_like(per_cell),
            where=per_cell > 0,
        )

    def _scaled(self) -> tuple[np.ndarray, "Grid"]:
        """Return a power of two for each column, and the grid of columns times it.

        At most 1 in absolute value, nothing overflows, and denormal ranges are cut as
        finely as any.  The scaling itself is exact.
        """
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        factor = np.ldexp(1.0, -np.clip(np.frexp(largest)[1], -1000, 1024))
        return factor, Grid(self.low * factor, self.high * factor, self.sizes)


class Levels:
    """Sorted levels for each column, and the edges halfway between them.

    Parameters
    ----------
    levels : sequence of 1-d arrays
        Distinct levels of each column, ascending.
    sizes : sequence of int, optional
        V of each column; where there are fewer distinct levels they are repeated.
    edges : sequence of 1-d arrays, optional
        Ascending, one fewer than the levels; if they are not halfway between them.
    """

    def __init__(self, levels, sizes=None, edges=None):
        if edges is None:
            edges = [0.5 * table[:-1] + 0.5 * table[1:] for table in levels]
        if sizes is None:
            sizes = [len(table) for table in levels]
        self.edges = tuple(edges)
        self.sizes = tuple(int(size) for size in sizes)
        self._tables = tuple(
            np.resize(table, size)
            for table, size in zip(levels, self.sizes, strict=True)
        )

    def encode(self, X: np.ndarray) -> np.ndarray:
        """Return the codes (n_rows, n_columns) of floating X."""
        if is_foreign(X):
            edges = [_rounded_up(edge, numpy_dtype(X)) for edge in self.edges]
            return scalar_arrays.cells_between(X, edges, max(self.sizes))
        edges = [_rounded_up(edge, X.dtype) for edge in self.edges]
        codes = np.empty(X.shape, smallest_dtype(max(self.sizes)))
        most = max(len(edge) for edge in edges)
        tile = tile_rows(X.shape[1])
        search = _search_edges
        if most <= _FEW_EDGES:
            search = _count_edges
            tile = tile_rows(X.shape[1], len(X))
        elif len(X) >= _MANY_ROWS:
            index = _EdgeIndex(edges, X.dtype)
            search = index.worker if index.most <= _FEW_EDGES else search
        map_tiles(
            lambda: search(X, edges, codes, tile), len(X), tile, _WORK * X.shape[1]
        )
        return codes

    def decode(self, codes: np.ndarray, dtype=np.float64) -> np.ndarray:
        """Return the levels (n_rows, n_columns) of codes."""
        return look_up(self._tables, codes, dtype)

    def tables(self, dtype=np.float64) -> tuple[np.ndarray, ...]:
        """Return the levels of each column, (V, 1)."""
        return tuple(table.astype(dtype)[:, None] for table in self._tables)


def look_up(tables, codes: np.ndarray, dtype) -> np.ndarray:
    """Return the entries (n_rows, n_columns) of one 1-d table for each column."""
    if is_foreign(codes):
        return scalar_arrays.look_up(tables, codes, dtype)
    table = np.concatenate(tables).astype(dtype)
    begins = np.cumsum([0, *(len(table) for table in tables)])[:-1]
    result = np.empty(codes.shape, dtype)
    tile = tile_rows(codes.shape[1])

    def make_worker():
        places = scratch("places", (tile, codes.shape[1]), np.intp)

        def work(begin: int, end: int) -> None:
            place = places[: end - begin]
            np.add(codes[begin:end], begins, out=place, casting="unsafe")
            np.take(table, place, out=result[begin:end], mode="clip")

        return work

    map_tiles(make_worker, len(codes), tile, _WORK * codes.shape[1])
    return result


def _rounded_up(edges: np.ndarray, dtype) -> np.ndarray:
    """Return edges in `dtype` that its numbers pass exactly if they pass these."""
    with np.errstate(over="ignore"):
        rounded = edges.astype(dtype)
    low = rounded < edges
    rounded[low] = np.nextafter(rounded[low], np.inf, dtype=dtype)
    return rounded


def _count_edges(X, edges, codes, tile):
    """Make a worker that compares a tile with the first edges, the second, ..."""
    most = max(len(edge) for edge in edges)
    rows = np.full((most, len(edges)), np.inf, dtype=X.dtype)
    for j, edge in enumerate(edges):
        rows[: len(edge), j] = edge
    repeated = [repeat_row(f"edge {j}", row, tile) for j, row in enumerate(rows)]
    passed = scratch("passed", (tile, len(edges)), bool)

    def work(begin: int, end: int) -> None:
        n = end - begin
        if not repeated:
            codes[begin:end] = 0
        for j, row in enumerate(repeated):
            np.greater_equal(X[begin:end], row[:n], out=passed[:n])
            if j:
                codes[begin:end] += passed[:n].view(np.uint8)
            else:
                codes[begin:end] = passed[:n].view(np.uint8)

    return work


def _search_edges(X, edges, codes, tile):
    """Make a worker that searches the edges of one column after the other."""
    columns = scratch("columns", (len(edges), tile), X.dtype)

    def work(begin: int, end: int) -> None:
        x = columns[:, : end - begin]
        x[...] = X[begin:end].T
        for j, edge in enumerate(edges):
            codes[begin:end, j] = np.searchsorted(edge, x[j], side="right")

    return work


class _EdgeIndex:
    """Equal buckets over the edges of each column, and the code where each begins.

    A bucket is computed from a value by steps that never fall as it grows, so what is
    below all values of a bucket is known for certain, whatever the rounding; what lies
    in it, hardly ever more than an edge or two, is compared.

    Attributes
    ----------
    most : int
        Largest number of edges in a bucket.
    """

    def __init__(self, edges, dtype):
        n_buckets = 8 * (max(len(edge) for edge in edges) + 1)
        self._start = np.zeros(len(edges), dtype=dtype)
        self._per_unit = np.zeros(len(edges), dtype=dtype)
        self._last = n_buckets - 1
        self._begins = np.cumsum([0, *(len(edge) + 1 for edge in edges)])[:-1]
        self._buckets = n_buckets * np.arange(len(edges))
        codes, self.most = [], 0
        for j, edge in enumerate(edges):
            bucket = np.zeros(len(edge), dtype=np.intp)
            with np.errstate(over="ignore", invalid="ignore"):
                span = edge[-1] - edge[0] if len(edge) > 1 else 0
                scale = n_buckets / max(span, np.finfo(dtype).tiny)
            if 0 < span < np.inf:
                self._start[j] = edge[0]
                self._per_unit[j] = min(scale, np.finfo(dtype).max)
                bucket = self._bucket(edge[:, None], slice(j, j + 1))[:, 0]
            counts = np.bincount(bucket, minlength=n_buckets)
            self.most = max(self.most, int(counts.max()))
            codes.append(self._begins[j] + np.cumsum(counts) - counts)
        self._codes = np.concatenate(codes)
        # A value never reaches the edge behind the last one.
        ends = [np.append(edge, dtype.type(np.inf)) for edge in edges]
        self._edges = np.concatenate(ends)

    def _bucket(self, x, columns=slice(None), place=None):
        place = np.subtract(x, self._start[columns], out=place)
        place *= self._per_unit[columns]
        np.maximum(place, 0, out=place)
        np.minimum(place, self._last, out=place)
        return place.astype(np.intp)

    def worker(self, X, edges, codes, tile):
        """Make a worker that looks the bucket up and compares with what is in it."""
        places = scratch("places", (tile, X.shape[1]), X.dtype)
        near = scratch("near", (tile, X.shape[1]), X.dtype)
        found = scratch("found", (tile, X.shape[1]), np.intp)
        passed = scratch("passed", (tile, X.shape[1]), bool)

        def work(begin: int, end: int) -> None:
            n = end - begin
            bucket = self._bucket(X[begin:end], place=places[:n])
            bucket += self._buckets
            code = np.take(self._codes, bucket, out=found[:n], mode="clip")
            for _ in range(self.most):
                np.take(self._edges, code, out=near[:n], mode="clip")
                np.greater_equal(X[begin:end], near[:n], out=passed[:n])
                code += passed[:n].view(np.uint8)
            np.subtract(code, self._begins, out=codes[begin:end], casting="unsafe")

        return work


# -- weighted columns ------------------------------------------------------------------


def distinct(
    column: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a column, ascending, and how much each weighs.

    Weights that are repeats give the same arrays as the repeated values.  The column
    of another library comes to the host.
    """
    column = to_host(column)
    weights = None if weights is None else to_host(weights)
    values, inverse = np.unique(column.astype(np.float64), return_inverse=True)
    return values, np.bincount(inverse.ravel(), weights, len(values)).astype(float)


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the smallest value that at least this share of the weight does not exceed.

    Parameters
    ----------
    values, weights : ndarray of shape (n_values,)
        As `distinct` gives them.
    share : float
        From 0 to 1.
    """
    return float(values[_first_reaching(weights, np.array([share]))[0]])


def equal_shares(values: np.ndarray, weights: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the n_cells - 1 edges between cells of equal weight, ascending.

    An edge lies halfway between the two values that it parts.  Where one value weighs
    more than a cell, edges coincide.
    """
    below = _first_reaching(weights, np.arange(1, n_cells) / n_cells)
    above = np.minimum(below + 1, len(values) - 1)
    return 0.5 * values[below] + 0.5 * values[above]


def _first_reaching(weights, shares):
    reached = np.cumsum(weights)
    # A sum of floats may fall short of a share that it reaches in truth.
    wanted = shares * reached[-1] * (1 - 1e-12)
    return np.minimum(np.searchsorted(reached, wanted), len(weights) - 1)


def column_range(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each column, in float64."""
    if is_foreign(X):
        return scalar_arrays.column_range(X)
    return X.min(axis=0).astype(np.float64), X.max(axis=0).astype(np.float64)


def weighted_mean(
    X: np.ndarray,
    weights: np.ndarray | None,
    function: Callable[[Any], Any] = lambda rows: rows,
) -> np.ndarray:
    """Return the mean of function(X) over rows, in float64, tile by tile.

    The weights are scaled to sum 1 first, so that no sum exceeds the largest value.
    """
    if is_foreign(X):
        return scalar_arrays.weighted_mean(X, weights, function)
    total = np.zeros(X.shape[1])
    tile = tile_rows(X.shape[1])
    scale = 1.0 / (len(X) if weights is None else float(weights.sum()))
    for begin in range(0, len(X), tile):
        rows = function(X[begin : begin + tile].astype(np.float64))
        if weights is None:
            total += (rows * scale).sum(axis=0)
        else:
            total += (rows * (weights[begin : begin + tile] * scale)[:, None]).sum(0)
    return total


def spread(X: np.ndarray, weights: np.ndarray | None, mean: np.ndarray) -> np.ndarray:
    """Return the root mean square of X - mean over rows, in float64."""
    low, high = column_range(X)
    largest = np.maximum(np.maximum(-low, high), np.abs(mean))
    scale = np.where(largest > 0, largest, 1.0)  # no square overflows or vanishes

    def squares(rows):
        gap = rows / like(scale, rows) - like(mean / scale, rows)
        return gap * gap

    return scale * np.sqrt(weighted_mean(X, weights, squares))


def level_means(
    X: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray | None,
    sizes: tuple[int, ...],
) -> tuple[np.ndarray, ...]:
    """Return the mean of the values of each code of each column.

    Codes that have none lie on the line between the means of the nearest codes that
    have some, and at the ends equal the nearest.

    Parameters
    ----------
    X, codes : ndarray of shape (n_samples, n_columns)
        Values and their codes.
    weights : ndarray of shape (n_samples,) or None
        Sample weights.
    sizes : tuple of int
        V of each column.

    Returns
    -------
    means : tuple of ndarray of float64, shape (V,)
    """
    if is_foreign(X):
        return tuple(
            _filled_means(*_foreign_sums(X[:, j : j + 1], codes[:, j], weights, size))
            for j, size in enumerate(sizes)
        )
    begins = np.cumsum([0, *sizes])
    sums, shares = np.zeros((2, begins[-1]))
    scale = 1.0 / (len(X) if weights is None else float(weights.sum()))
    tile = tile_rows(X.shape[1])
    for begin in range(0, len(X), tile):
        x = X[begin : begin + tile].astype(np.float64)
        share = np.full(x.shape, scale)
        if weights is not None:
            share *= weights[begin : begin + tile, None]
        place = (codes[begin : begin + tile] + begins[:-1]).ravel()
        shares += np.bincount(place, share.ravel(), len(shares))
        sums += np.bincount(place, (x * share).ravel(), len(sums))
    columns = [slice(begins[j], begins[j + 1]) for j in range(len(sizes))]
    return tuple(_filled_means(sums[column], shares[column]) for column in columns)


def _foreign_sums(column, codes, weights, size):
    shares = scalar_arrays.shares(column, weights)
    sums, reached = accumulate(column, codes, size, shares)
    return to_host(sums)[:, 0], to_host(reached)


def _filled_means(sums, shares):
    used = np.flatnonzero(shares > 0)
    return np.interp(np.arange(len(sums)), used, sums[used] / shares[used])


# -- levels for a density --------------------------------------------------------------


class Density(NamedTuple):
    """A log-concave density on an interval, up to a factor.

    Parameters
    ----------
    pdf : callable
        The density of an array of places.
    low, high : float
        Bounds beyond which nothing worth counting lies.
    """

    pdf: Callable[[np.ndarray], np.ndarray]
    low: float
    high: float


# Of mean 0 and standard deviation 1.
GAUSSIAN = Density(lambda x: np.exp(-0.5 * x * x), -12.0, 12.0)
LAPLACIAN = Density(lambda x: np.exp(-np.sqrt(2.0) * np.abs(x)), -48.0, 48.0)
DENSITIES = {"gaussian": GAUSSIAN, "laplacian": LAPLACIAN}

# Gauss-Legendre of this order on this many panels integrates all densities used here
# to rounding; an even number puts the Laplacian's kink on a border.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_N_PANELS = 256
# Newton's method takes about five steps.
_MAX_STEPS = 200


def lloyd_max(
    density: Density, n_levels: int, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the levels of least squared error for a density.

    Every level is the mean of its cell, and every edge halfway between two levels.
    For log-concave densities there is one solution (Fleischer 1964).  It is found by
    Newton's method, the equations being tridiagonal, from the levels that are best as
    V grows (Panter and Dite 1951).

    Parameters
    ----------
    density : Density
        Log-concave.
    n_levels : int
        V.
    start : ndarray of shape (n_levels,), optional
        Levels known to be close, ascending.

    Returns
    -------
    levels : ndarray of float64, shape (n_levels,)
        Ascending.
    """
    levels = _panter_dite(density, n_levels) if start is None else start
    edges, mass, mean, error = _cells(density, levels)
    for _ in range(_MAX_STEPS):
        gap = levels - mean
        if np.abs(gap).max() <= 1e-14 * (density.high - density.low):
            break
        trial = levels - _newton_step(density, edges, levels, mass, gap)
        if (np.diff(trial, prepend=density.low, append=density.high) > 0).all():
            found = _cells(density, trial)
            if found[-1] <= error * (1 + 1e-13):
                levels, (edges, mass, mean, error) = trial, found
                continue
        levels = mean  # Lloyd's step, which never raises the error
        edges, mass, mean, error = _cells(density, levels)
    return levels


def _cells(density, levels):
    """Return the edges, the masses and the means of cells, and the error in all."""
    edges = 0.5 * (levels[:-1] + levels[1:])
    mass, mean, error = cell_moments(density, edges, levels)
    return edges, mass, mean, float(error.sum())


def _panter_dite(density, n_levels):
    """Return the levels whose own density follows the cube root of the density."""
    places = np.linspace(density.low, density.high, 16 * _N_PANELS + 1)
    middles = 0.5 * (places[:-1] + places[1:])
    reached = np.concatenate(([0.0], np.cumsum(np.cbrt(density.pdf(middles)))))
    shares = (np.arange(n_levels) + 0.5) / n_levels
    return np.interp(shares * reached[-1], reached, places)


def _newton_step(density, edges, levels, mass, gap):
    """Solve for the step that closes the gaps between the levels and the cell means."""
    height = density.pdf(edges)
    # How a cell's mean follows its upper and its lower edge; an edge follows each of
    # its two levels by half.
    by_upper = 0.5 * height * (edges - levels[:-1]) / mass[:-1]
    by_lower = 0.5 * height * (levels[1:] - edges) / mass[1:]
    bands = np.zeros((3, len(levels)))
    bands[0, 1:] = -by_upper
    bands[1] = 1.0
    bands[1, :-1] -= by_upper
    bands[1, 1:] -= by_lower
    bands[2, :-1] = -by_lower
    if not np.isfinite(bands).all():
        return gap
    return solve_banded((1, 1), bands, gap)


def cell_moments(
    density: Density, edges: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrate a density over the cells between edges.

    Parameters
    ----------
    density : Density
        Up to a factor.
    edges : ndarray of shape (V - 1,)
        Ascending.
    levels : ndarray of shape (V,)
        Levels of the cells.

    Returns
    -------
    mass : ndarray of shape (V,)
        Integral of the density, with its factor.
    mean : ndarray of shape (V,)
        Mean of the cell; its level where there is no mass.
    error : ndarray of shape (V,)
        Integral of the squared distance from the level, with the factor.
    """
    places, heights, cell = quadrature(density, edges)
    gaps = places - levels[cell][:, None]
    mass, moment, error = (
        np.bincount(cell, (heights * gaps**power).sum(axis=1), len(levels))
        for power in (0, 1, 2)
    )
    shift = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)
    return mass, levels + shift, error


def quadrature(
    density: Density, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points to integrate over cells with: no panel crosses an edge.

    Parameters
    ----------
    density : Density
        Up to a factor.
    edges : ndarray of shape (V - 1,)
        Ascending.

    Returns
    -------
    places : ndarray of shape (n_panels, n_nodes)
        Points in each panel.
    weights : ndarray of shape (n_panels, n_nodes)
        The density there, times the weight of the point.
    cell : ndarray of int, shape (n_panels,)
        The cell in which each panel lies.
    """
    panels = np.linspace(density.low, density.high, _N_PANELS + 1)
    inside = edges[(edges > density.low) & (edges < density.high)]
    borders = np.union1d(panels, inside)
    half = 0.5 * np.diff(borders)
    middle = 0.5 * (borders[:-1] + borders[1:])
    places = middle[:, None] + half[:, None] * _NODES
    weights = density.pdf(places) * (half[:, None] * _WEIGHTS)
    return places, weights, np.searchsorted(edges, middle)


def mean_error(density: Density, edges: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean squared error of a scalar codebook under a density."""
    mass, _, error = cell_moments(density, edges, levels)
    return float(error.sum() / mass.sum())


@lru_cache(maxsize=256)
def standard_levels(name: str, n_levels: int) -> np.ndarray:
    """Return the Lloyd-Max levels of a density of mean 0 and standard deviation 1.

    Parameters
    ----------
    name : {"gaussian", "laplacian"}
        The density.
    n_levels : int
        V.

    Returns
    -------
    levels : ndarray of float64, shape (n_levels,)
        Ascending; read-only.
    """
    levels = lloyd_max(DENSITIES[name], n_levels)
    levels = 0.5 * (levels - levels[::-1])  # symmetric to the last digit
    levels.flags.writeable = False
    return levels


@lru_cache(maxsize=256)
def uniform_reach(name: str, n_levels: int) -> float:
    """Return the a for which V equal cells of [-a, a) have the least squared error.

    Parameters
    ----------
    name : {"gaussian", "laplacian"}
        The density, of mean 0 and standard deviation 1.
    n_levels : int
        V.

    Returns
    -------
    reach : float
    """
    density = DENSITIES[name]

    def error(reach: float) -> float:
        if n_levels > 4096:
            # Beyond, the granular error has its limit, and the end cells are narrow.
            inner = reach * reach / (3.0 * n_levels**2)
            ends = np.array([-reach, 0.0, reach])
            mass, _, far = cell_moments(
                density, ends[[0, 2]], np.array([-reach, 0.0, reach])
            )
            return float(inner + (far[0] + far[2]) / mass.sum())
        edges = np.linspace(-reach, reach, n_levels + 1)
        levels = 0.5 * (edges[:-1] + edges[1:])
        return mean_error(density, edges[1:-1], levels)

    found = minimize_scalar(
        error, bounds=(0.1, density.high), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)
