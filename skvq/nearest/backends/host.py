"""The NumPy backend, on threads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from skvq._checks import check_unmasked, naming
from skvq.nearest.backends import host_bits, host_levels, host_scan, products
from skvq.nearest.backends.arrays import to_host
from skvq.nearest.backends.base import (
    DOUBTFUL,
    MAX_ROUNDS,
    OUT_OF_REACH,
    Backend,
    Plan,
)
from skvq.nearest.backends.levels import EqualCells
from skvq.nearest.threads import (
    alone,
    blas,
    even_chunk,
    map_jobs,
    map_plain_tiles,
    map_tiles,
)

# Numbers in a tile of work other than searches.
_TILE_ELEMENTS = 2**19
# Scores in a tile: as many as fit a core's cache, with enough rows that the overhead of
# calls into NumPy is negligible (benchmarks/native.py).
_TILE_SCORES = 2**18
_MAX_TILE_SCORES = 2**21
_MIN_GOOD_ROWS = 512

# Rows in a tile of a search in subspaces, which has scores for all of them.
_PRODUCT_TILE_ROWS = 128

# `cell_sums` cuts the rows into at most this many chunks, whatever the threads.
_MAX_CHUNKS = 16
_MIN_CHUNK_ROWS = 16384


def sum_chunk(X: Any, n_codewords: int) -> int:
    """Return how many rows are added up at a time."""
    n, d = X.shape
    chunk = max(_MIN_CHUNK_ROWS, n_codewords, -(-n // _MAX_CHUNKS))
    return even_chunk(n, chunk, 16 * d)


class NumpyBackend(Backend):
    """NumPy on the host.  Overrides are for speed, and for old versions of NumPy."""

    on_host = True
    direct_metrics: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__(np, None)

    def fingerprint(self) -> str:
        """Return, in words, what the bits of results depend on."""
        return f"NumPy {np.__version__} with {blas()}"

    # -- where and how ---------------------------------------------------------------

    def map_jobs(self, job: Callable[[int], None], n_jobs: int) -> None:
        """Call ``job(i)`` for all i, on as many threads as are allowed."""
        map_jobs(job, n_jobs)

    def tile_elements(self) -> int:
        """Return how many numbers a tile may have."""
        return _TILE_ELEMENTS

    def gathered(self, n_rows: int, parts: Iterator[Any], dtype: Any = None) -> Any:
        """Join arrays for consecutive slices of rows."""
        whole: Any = None
        for rows, part in parts:
            if whole is None:
                if len(part) == n_rows:
                    return part.astype(dtype or part.dtype, copy=False)
                whole = np.empty((n_rows, *part.shape[1:]), dtype or part.dtype)
            whole[rows] = part
        return whole

    def over_rows(
        self,
        n_rows: int,
        plan: Plan,
        tile: Callable[[slice], tuple[Any, ...]],
        outputs: Sequence[Any],
    ) -> list[Any]:
        """Copy the results of tiles into arrays, on threads."""
        if plan.plain and n_rows <= plan.chunk:
            parts = alone(partial(tile, slice(0, n_rows)))
            return [
                np.array(part, dtype)
                for part, (_, dtype) in zip(parts, outputs, strict=True)
            ]
        joined = [np.empty((n_rows, *shape), dtype) for shape, dtype in outputs]

        def worker(start: int, stop: int) -> None:
            parts = tile(slice(start, stop))
            for whole, part in zip(joined, parts, strict=True):
                whole[start:stop] = part

        map_tiles(lambda: worker, n_rows, plan.chunk, plan.work)
        return joined

    # -- arrays ----------------------------------------------------------------------

    def matrix(self, X: Any, name: str) -> np.ndarray:
        """Return a matrix of real numbers as an array; raise if it is not one."""
        if type(X) is not np.ndarray:
            with naming(name):
                X = np.asarray(check_unmasked(X, name))
        if X.ndim != 2:
            raise ValueError(f"{name} has shape {X.shape}; expected two dimensions.")
        if X.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {X.dtype}; expected real numbers.")
        return X

    def like(self, array: Any, dtype: Any = None) -> Any:
        """Return an array of any library as a NumPy array."""
        return np.asarray(to_host(array), dtype=dtype)

    def dtype(self, dtype: Any) -> Any:
        """Return the dtype."""
        return np.dtype(dtype)

    def code_dtype(self, dtype: Any) -> np.dtype:
        """Return the dtype, with which NumPy computes."""
        return np.dtype(dtype)

    def numpy_dtype(self, array: Any) -> np.dtype:
        """Return the array's dtype."""
        return array.dtype

    def send(self, array: Any) -> Any:
        """Return the array."""
        return array

    def sent(self, form: Any, kind: str = "") -> Any:
        """Return the named tuple."""
        return form

    def to_host(self, array: Any) -> Any:
        """Return the array."""
        return array

    def cast(self, array: Any, dtype: Any) -> Any:
        """Return the array in a dtype; the array itself if it has it already."""
        if array.dtype == np.bool_ and dtype == np.uint8:
            return array.view(np.uint8)  # the same bytes
        return array.astype(dtype, copy=False)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        """Return zeros."""
        return np.zeros(shape, dtype)

    def concat(self, parts: list[Any], axis: int) -> Any:
        """Join arrays along an axis."""
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    def contiguous(self, array: Any) -> Any:
        """Return an array whose rows are consecutive in memory."""
        return np.ascontiguousarray(array)

    def take(self, array: Any, rows: Any) -> Any:
        """Return rows of an array."""
        return array[rows]

    def look_up(self, table: Any, codes: Any) -> Any:
        """Return the rows of a table by codes of any shape."""
        return table[codes]

    def take_along(self, array: Any, index: Any) -> Any:
        """Return (n, k, ...) entries along the second axis, by an index (n, k)."""
        index = index.reshape(index.shape + (1,) * (array.ndim - 2))
        return np.take_along_axis(array, index, axis=1)

    def replaced(self, array: Any, rows: Any, values: Any) -> Any:
        """Return the array, with some of its rows overwritten."""
        array[rows] = values
        return array

    def flagged(self, state: Any) -> Any:
        """Return the indices of the nonzero entries of a vector."""
        return np.flatnonzero(state)

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array with its axes permuted."""
        return array.transpose(axes)

    def repeat(self, array: Any, times: int, axis: int) -> Any:
        """Repeat each entry along an axis."""
        return np.repeat(array, times, axis=axis)

    def squared_norms(self, rows: Any) -> Any:
        """Return the sums of squares along the last axis, summed in float64."""
        return np.einsum("...j,...j->...", rows, rows, dtype=np.float64)

    def stable_order(self, values: Any) -> Any:
        """Return the indices that sort each row; equal entries keep their order."""
        return np.argsort(values, axis=1, kind="stable")

    def unit_rows(self, x: Any) -> Any:
        """Return rows divided by their norms; zero rows become NaN."""
        largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
        scaled = x / np.where(largest > 0, largest, 1)
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        scaled /= np.where(norms > 0, norms, np.nan)
        return scaled

    def row_sums(self, x: Any) -> Any:
        """Return sums along the last axis, as float64."""
        return (x @ np.ones(x.shape[-1], x.dtype)).astype(np.float64)

    def total(self, values: Any, weights: Any = None) -> float:
        """Return the weighted sum of a vector."""
        return float(values.sum() if weights is None else values @ weights)

    def average(self, values: Any, weights: Any = None) -> float:
        """Return the weighted mean of a vector."""
        return float(np.average(values, weights=weights))

    def is_finite(self, x: Any) -> bool:
        """Return whether an array has neither NaN nor infinity."""
        return bool(np.isfinite(x).all())

    def row_products(self, x: Any, y: Any) -> Any:
        """Return the product of each row of x with the same row of y."""
        return np.einsum("ij,ij->i", x, y)

    # -- searches --------------------------------------------------------------------

    def rows_at_a_time(self, n_features: int, n_codewords: int) -> int:
        """Return how many rows of a search a thread takes at a time."""
        good = min(_MIN_GOOD_ROWS, _MAX_TILE_SCORES // n_codewords)
        most = max(_TILE_SCORES // n_codewords, good)
        return max(16, min(_TILE_ELEMENTS // n_features, most))

    def product_rows_at_a_time(self, work: float) -> int:
        """Return the same for a search in subspaces."""
        return _PRODUCT_TILE_ROWS

    def smallest(self, scores: Any) -> tuple[Any, Any]:
        """Return the first index of the smallest entry of each row, and the entry."""
        codes = scores.argmin(axis=-1)
        # Indexing is cheaper than a second pass for the minimum.
        flat = scores.reshape(-1, scores.shape[-1])
        best = flat[np.arange(len(flat)), codes.ravel()]
        return codes, best.reshape(codes.shape)

    def with_one(self, x: Any) -> Any:
        """Return rows, along the last axis, with a one appended."""
        extended = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
        extended[..., :-1], extended[..., -1] = x, 1
        return extended

    def judged(
        self, scores: Any, codes: Any, norms: Any, distances: Any, table: Any
    ) -> Any:
        """Return the state of the argmin of each row of scores."""
        few, room, state = doubtful(norms, distances, table)
        if few.size:
            others, every = scores[few], np.arange(len(few))
            best = others[every, codes[few]]
            others[every, codes[few]] = np.inf
            state[few[~(others.min(axis=1) > best + room)]] = DOUBTFUL
        return state

    def gap_norms(self, x: Any, rows: Any, codes: Any) -> Any:
        """Return ||c - x||^2, as float64, for each x and its codeword c."""
        gaps = rows[codes]
        np.subtract(gaps, x, out=gaps, casting="same_kind")
        gaps *= gaps
        return self.row_sums(gaps)

    # -- smallest of many, and sums --------------------------------------------------

    def argmin(self, scores: Any) -> Any:
        """Return the first index of the smallest entry along the last axis."""
        return scores.argmin(axis=-1)

    def product_rows(self, block: Any) -> int:
        """Return how many rows are compared with products at a time."""
        return products.tile_shape(block)[2]

    def argmin_products(
        self, y: Any, norms: Any, block: Any, between: Callable[..., Any]
    ) -> tuple[Any, Any, Any]:
        """Return index and score of the best product for each row, and state."""
        n = len(y)
        index, best = np.empty(n, np.intp), np.empty(n, block.dtype)
        state = np.zeros(n, np.uint8)
        for cut, scores in products.host_tiles(y, block):
            index[cut], best[cut] = self.smallest(scores)
        distances, norms = norms + 2 * best, norms + block.rounded
        few = np.flatnonzero(self.far(norms, distances, block))
        if few.size:
            for cut, scores in products.host_tiles(y[few], block):
                at = few[cut]
                pairs = partial(_of_rows, between, at)
                index[at], state[at] = self.settled(
                    scores, index[at], norms[at], distances[at], block, pairs
                )
        return index + block.first, best, state

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return the indices of the k smallest entries of each row, ascending.

        Among equal entries the first are taken.  The scores are overwritten.
        """
        if k == 1:
            return scores.argmin(axis=1)[:, None]
        if k > MAX_ROUNDS:
            return _smallest_by_bound(scores, k)
        rows = np.arange(len(scores))
        best = np.empty((len(scores), k), dtype=np.intp)
        for j in range(k):
            best[:, j] = scores.argmin(axis=1)
            scores[rows, best[:, j]] = np.inf
        return best

    def cell_sums(
        self, X: Any, codes: Any, n_codewords: int, weights: Any
    ) -> tuple[Any, ...]:
        """Return sums (n_codewords, d) and counts (n_codewords,) of rows by code."""

        def added(start: int, stop: int) -> tuple[Any, ...]:
            some = None if weights is None else weights[start:stop]
            return self.added_up(X[start:stop], codes[start:stop], n_codewords, some)

        return self.sums_of_chunks(X, n_codewords, added, 16 * X.shape[1])

    @staticmethod
    def sums_of_chunks(
        X: Any,
        n_codewords: int,
        added: Callable[[int, int], tuple[Any, ...]],
        work_per_row: float,
    ) -> tuple[Any, ...]:
        """Return the sums and counts that ``added(start, stop)`` finds, added in order.

        Borders depend on the shapes alone.
        """
        n, d = X.shape
        sums, counts = np.zeros((n_codewords, d)), np.zeros(n_codewords)
        parts: dict[int, tuple[Any, ...]] = {}

        def worker(start: int, stop: int) -> None:
            parts[start] = added(start, stop)

        map_plain_tiles(lambda: worker, n, sum_chunk(X, n_codewords), work_per_row)
        for start in sorted(parts):
            sums += parts[start][0]
            counts += parts[start][1]
        return sums, counts

    def added_up(
        self, rows: np.ndarray, codes: Any, n_codewords: Any, weights: Any
    ) -> tuple[Any, ...]:
        """Return float64 sums and counts by code, added in the order of the rows."""
        values = np.ones(len(rows)) if weights is None else weights
        # Column i of this matrix has one entry: row codes[i].
        chosen = csc_array(
            (values, codes, np.arange(len(rows) + 1)), shape=(n_codewords, len(rows))
        )
        counts = np.bincount(codes, weights, minlength=n_codewords)
        return chosen @ rows.astype(np.float64, copy=False), counts

    # -- packed codes ----------------------------------------------------------------

    def scanner(self, codes: Any, tables: Any) -> Any:
        """Return an object that lets rows of packed codes compete for the best.

        Parameters
        ----------
        codes : Packed
            The codes.
        tables : ndarray of shape (n_queries, n_entries)
            Contiguous, in the dtype to compute in.

        Returns
        -------
        scanner : callable
            ``scanner(best)``, called once in each thread, returns a function of
            `start`, a multiple of 256, and `stop` that lets these rows compete.  Rows
            ascend from call to call.  The order within `best` is up to the scanner.
        """
        return partial(partial, host_scan.scan_rows, codes, tables)

    def pack_words(self, words: Any, widths: Sequence[int], row_aligned: bool) -> Any:
        """Return words packed into bytes, each in so many bits, highest bits first.

        Parameters
        ----------
        words : ndarray of int, shape (n_rows, n_words)
            Not negative, and within their widths.
        widths : sequence of int
            Number of bits of the words of each column, up to 32.
        row_aligned : bool
            Whether each row begins with a new byte.
        """
        return host_bits.pack_words(words, widths, row_aligned)

    def unpack_words(
        self,
        packed: Any,
        n_rows: int,
        widths: Sequence[int],
        row_aligned: bool,
        dtype: Any,
    ) -> Any:
        """Return the words (n_rows, n_words) that were packed, in an unsigned dtype."""
        return host_bits.unpack_words(packed, n_rows, widths, row_aligned, dtype)

    # -- cells of scalar levels ------------------------------------------------------

    def equal_cells(self, X: Any, cells: EqualCells, dtype: Any) -> Any:
        """Return the cells (n_rows, n_columns) of floating X among equal cells."""
        return host_levels.equal_cells(self, X, cells, dtype)

    def edges(self, edges: Sequence[np.ndarray]) -> Any:
        """Return the ascending edges of columns in the form that searches take."""
        return edges

    def cells_between(self, X: Any, edges: Any, dtype: Any) -> Any:
        """Return how many edges of its column each value of floating X has reached."""
        return host_levels.cells_between(X, edges, dtype)

    def entries(self, table: Any, codes: Any, begins: Any) -> Any:
        """Return the entries of codes in their columns' parts of a table."""
        return host_levels.entries(table, codes, begins)

    def level_sums(
        self, X: Any, codes: Any, shares: Any, sizes: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weighted sums of values, and of weights, by code and column."""
        return host_levels.level_sums(X, codes, shares, sizes)

    def scaled_rows(self, rows: Any) -> tuple[Any, Any]:
        """Return float64 rows divided by powers of two, and the exponents."""
        rows = rows.astype(np.float64)
        exponent = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
        return np.ldexp(rows, -exponent[:, None]), exponent

    def ldexp(self, values: Any, exponents: Any) -> Any:
        """Return values times powers of two; exact if the results are in range."""
        return np.ldexp(values, exponents)

    def float32_bits(self, values: Any) -> Any:
        """Return the bits (n,), int64, of non-negative numbers within float32."""
        values = np.minimum(values, np.finfo(np.float32).max)
        return values.astype(np.float32).view(np.uint32).astype(np.int64)

    def from_float32_bits(self, bits: Any) -> Any:
        """Return the numbers of such bits, in float64."""
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)

    def angle(self, y: Any, x: Any) -> Any:
        """Return the angles of points (x, y), from -pi to pi."""
        return np.arctan2(y, x)

    def running_sums(self, x: Any) -> Any:
        """Return the sums of the first 1, 2, ... entries of each row."""
        return np.cumsum(x, axis=1)

    def running_products(self, x: Any) -> Any:
        """Return the products of the first 1, 2, ... entries of each row."""
        return np.cumprod(x, axis=1)


def _of_rows(between: Any, rows: np.ndarray, row: Any, codeword: Any) -> Any:
    """Return the exact values behind scores, for pairs of some rows and codewords."""
    return between(rows[row], codeword)


def doubtful(norms: Any, distances: Any, form: Any) -> tuple[Any, ...]:
    """Return the rows whose best scores may not be sure, as for `Backend.judged`.

    Returns
    -------
    few : ndarray of shape (n_few,)
        Indices of these rows.
    room : ndarray of shape (n_few,)
        For each, the difference of two scores up to which either may be the better.
    state : ndarray of shape (n_rows,)
        Marks rows that cannot be compared at all.
    """
    # Comparisons are written so that NaN counts as doubtful.
    margin, state = form.margin, np.zeros(len(norms), np.uint8)
    norms = norms + norms.dtype.type(margin.least)
    sure = distances > norms.dtype.type(margin.share) * norms
    sure &= (norms < np.inf) & (distances < np.inf)
    few = np.flatnonzero(~sure)
    norms, distances = norms[few], distances[few]
    finite = np.isfinite(norms) & np.isfinite(distances)
    if not finite.all():
        state[few[~finite]] = OUT_OF_REACH
        few, norms, distances = few[finite], norms[finite], distances[finite]
    return few, norms.dtype.type(margin.slack) * (3 * norms + distances), state


def _smallest_by_bound(scores: np.ndarray, k: int) -> np.ndarray:
    """Sort only the entries of each row that do not exceed its k-th smallest."""
    bound = np.partition(scores, k - 1, axis=1)[:, k - 1]
    rows, where = np.nonzero(scores <= bound[:, None])
    order = np.lexsort((where, scores[rows, where], rows))
    first = np.searchsorted(rows, np.arange(len(scores)))
    return where[order][first[:, None] + np.arange(k)]


HOST = NumpyBackend()
