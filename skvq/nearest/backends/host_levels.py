"""Cells of scalar levels in NumPy's arrays: in scratch memory, on threads.

Equal cells are found in the precision of X, and where that may not do, the edges
decide; cells between edges by one of three searches, of which the number of edges, and
where they lie, tell the fastest.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from skvq.nearest.backends.levels import EqualCells, tile_rows
from skvq.nearest.threads import map_plain_tiles, scratch

# What an element costs, in multiply-adds, for the choice of threads.
_WORK = 40.0
# Up to this many edges, a comparison with each is the fastest search.
_FEW_EDGES = 8
# Up to so many doubtful places, by eights, wait for the other tiles and are settled at
# once; of more, all of a tile are.
_FEW_DOUBTS = 256
# From so many rows on it pays to index the edges first.
_MANY_ROWS = 256
# Edges of which the index, eight times as large, is kept.
_MOST_KEPT = 2**17


def _repeat_row(name: str, row: np.ndarray, n_rows: int) -> np.ndarray:
    """Return a row over and over, in this thread's scratch memory of that name.

    Whole tiles are combined in one run, which broadcasting a short row is not: twice as
    fast at 64 columns.
    """
    repeated = scratch(name, (n_rows, len(row)), row.dtype)
    repeated[...] = row
    return repeated


# -- equal cells -----------------------------------------------------------------------


def equal_cells(X: np.ndarray, cells: EqualCells, dtype) -> np.ndarray:
    """Return the cells of X; see `Backend.equal_cells`."""
    precision, factor = cells.precision(X.dtype), None
    if precision is None:
        precision, (factor, cells) = np.float64, cells.scaled
    codes = np.empty(X.shape, dtype)
    tile = tile_rows(X.shape[1], len(X))
    search = _CellSearch(X, cells, codes, precision, factor)
    map_plain_tiles(lambda: search.worker(tile), len(X), tile, _WORK * X.shape[1])
    if search.later:
        places = np.concatenate(search.later)[:, None] + np.arange(8)
        rows, columns = np.divmod(places[places < X.size], X.shape[1])
        x = X[rows, columns]
        if factor is not None:
            with np.errstate(over="ignore"):  # what overflows is beyond the range
                x = x * factor[columns]
        codes[rows, columns] = search.compare(x, codes[rows, columns], columns)
    return codes


class _CellSearch:
    """A search that computes the least and the largest cell of each value.

    Rounding moves the place of a value by less than the doubt.  Where the place less
    the doubt and the place plus it lie in the same cell, that is the code; where they
    don't, the edge between them decides.

    Attributes
    ----------
    later : list of ndarray
        Places of values, by eights, that are not decided yet.
    """

    def __init__(self, X, cells, codes, dtype, factor) -> None:
        self.X, self.cells, self.codes = X, cells, codes
        self.dtype, self.factor = dtype, factor
        self.later: list[np.ndarray] = []

    def worker(self, tile: int):
        """Make a worker that does a tile of so many rows."""
        X, codes, dtype = self.X, self.codes, self.dtype
        per_cell = self.cells.per_unit
        # The ends as rows: a maximum with a scalar takes three times as long.
        start, scale, first, last = (
            _repeat_row(name, row.astype(dtype), tile)
            for name, row in (
                ("start", self.cells.start(dtype)),
                ("scale", per_cell),
                ("first", np.zeros_like(per_cell)),
                ("last", np.array(self.cells.sizes) - 1.0),
            )
        )
        twice = dtype(2 * self.cells.doubt(dtype))
        places = scratch("places", (tile, X.shape[1]), dtype)
        above = scratch("above", (tile, X.shape[1]), codes.dtype)
        flags = scratch("flags", (-(-places.size // 8) * 8,), bool)
        flags[...] = False
        words = flags.view(np.uint64)  # eight flags at a time

        def work(begin: int, end: int) -> None:
            n = end - begin
            x, place, code = X[begin:end], places[:n], codes[begin:end]
            if self.factor is not None:
                x = x * self.factor
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
                code[...] = self.compare(x, code)
            elif found.size:
                self.later.append(8 * found + begin * X.shape[1])

        return work

    def compare(self, x, found, columns=slice(None)) -> np.ndarray:
        """Return the cells of x, from those that they are in or just above."""
        low, width = self.cells.low[columns], self.cells.width[columns]
        sizes = np.asarray(self.cells.sizes)[columns]
        upper = found + 1.0
        upper -= x < low + upper * width / sizes
        return np.minimum(upper, self.cells.last[columns]).astype(found.dtype)


# -- cells between edges ---------------------------------------------------------------


class Edges:
    """Edges of columns, and what the searches make ready of them.

    Parameters
    ----------
    arrays : sequence of 1-d ndarrays
        Each ascending, in the dtype of what is searched.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays, self.dtype = tuple(arrays), arrays[0].dtype
        self.most = max(map(len, arrays))

    @cached_property
    def rows(self) -> np.ndarray:
        """The first edges of the columns, the second, ...; infinite where none is."""
        rows = np.full((self.most, len(self.arrays)), np.inf, dtype=self.dtype)
        for j, edge in enumerate(self.arrays):
            rows[: len(edge), j] = edge
        return rows

    @cached_property
    def _kept_index(self) -> "_EdgeIndex":
        return _EdgeIndex(self.arrays, self.dtype)

    def index(self) -> "_EdgeIndex":
        """Return buckets over the edges; very many are made anew each time."""
        if self.most * len(self.arrays) > _MOST_KEPT:
            return _EdgeIndex(self.arrays, self.dtype)
        return self._kept_index


def cells_between(X: np.ndarray, edges: Edges, dtype) -> np.ndarray:
    """Return how many edges X has reached; see `Backend.cells_between`."""
    codes = np.empty(X.shape, dtype)
    tile = tile_rows(X.shape[1], len(X))
    search = _search_edges
    if edges.most <= _FEW_EDGES:
        search = _count_edges
    elif len(X) >= _MANY_ROWS:
        index = edges.index()
        search = index.worker if index.most <= _FEW_EDGES else search
    map_plain_tiles(
        lambda: search(X, edges, codes, tile), len(X), tile, _WORK * X.shape[1]
    )
    return codes


def _count_edges(X, edges, codes, tile):
    """Make a worker that compares a tile with the first edges, the second, ..."""
    repeated = [_repeat_row(f"edge {j}", row, tile) for j, row in enumerate(edges.rows)]
    passed = scratch("passed", (tile, X.shape[1]), bool)

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
    columns = scratch("columns", (X.shape[1], tile), X.dtype)

    def work(begin: int, end: int) -> None:
        x = columns[:, : end - begin]
        x[...] = X[begin:end].T
        for j, edge in enumerate(edges.arrays):
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


def entries(table: np.ndarray, codes: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return entries of tables; see `Backend.entries`."""
    result = np.empty(codes.shape, table.dtype)
    tile = tile_rows(codes.shape[1], len(codes))

    def make_worker():
        places = scratch("places", (tile, codes.shape[1]), np.intp)

        def work(begin: int, end: int) -> None:
            place = places[: end - begin]
            np.add(codes[begin:end], begins, out=place, casting="unsafe")
            np.take(table, place, out=result[begin:end], mode="clip")

        return work

    map_plain_tiles(make_worker, len(codes), tile, _WORK * codes.shape[1])
    return result


# -- sums by code ----------------------------------------------------------------------


def level_sums(X, codes, shares, sizes: Sequence[int]) -> tuple:
    """Return weighted sums of values by code; see `Backend.level_sums`."""
    begins = np.cumsum([0, *sizes])
    sums, reached = np.zeros((2, begins[-1]))
    tile = tile_rows(X.shape[1])
    for begin in range(0, len(X), tile):
        x = X[begin : begin + tile].astype(np.float64)
        share = np.repeat(shares[begin : begin + tile], X.shape[1])
        place = (codes[begin : begin + tile] + begins[:-1]).ravel()
        reached += np.bincount(place, share, len(reached))
        sums += np.bincount(place, x.ravel() * share, len(sums))
    return sums, reached
