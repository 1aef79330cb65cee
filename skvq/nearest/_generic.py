"""The engine on any library that follows the array API standard.

The same search as in `_numpy`, from the same tables: these are made ready on the host,
with the same centre, the same scale and the same distinct codewords, and sent to the
device of the rows.  Rows are taken a tile at a time, so that no n x V matrix ever
exists; a tile that finds no memory is halved.

A `Library` is what differs from one library to another.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skvq._array_api import (
    array_namespace,
    astype,
    concat,
    device_of,
    is_foreign,
    largest_magnitude,
    library_name,
    like,
    numpy_dtype,
    send,
    take_rows,
    to_host,
    unit_rows,
)
from skvq.nearest import _numpy
from skvq.nearest._metrics import PRODUCT_METRICS, Metric, check_metric

# Scores of one tile, in elements.
_TILE_ELEMENTS = 2**21
# Metrics that are computed from the differences themselves.
_DIRECT_METRICS = frozenset({"cityblock", "chebyshev"})


class Library:
    """What the engine asks of the library that holds the rows; here, the standard."""

    # What it raises when a tile finds no memory.
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,)

    def __init__(self, like_array: Any) -> None:
        self.xp = array_namespace(like_array)
        self.device = device_of(like_array)

    def tile_elements(self) -> int:
        """Return how many elements the scores of a tile may have."""
        return _TILE_ELEMENTS

    def release(self) -> None:
        """Give back memory that the library keeps for itself."""

    def send(self, array: np.ndarray) -> Any:
        """Return an array of the host on the device."""
        return send(self.xp, array, self.device)

    def dtype(self, dtype: Any) -> Any:
        """Return the library's dtype of the same name as one of NumPy."""
        return getattr(self.xp, str(np.dtype(dtype)))

    def smallest(self, scores: Any) -> Any:
        """Return where the smallest of each row is, along the last axis; the first."""
        return self.xp.argmin(scores, axis=-1)

    def add_up(self, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
        """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
        xp = self.xp
        places = xp.arange(n_codewords, dtype=codes.dtype, device=self.device)[None, :]

        def work(start: int, stop: int) -> Any:
            chosen = codes[start:stop][:, None] == places
            rows = _with_weights(xp, X[start:stop, :], weights, start, stop)
            return xp.matmul(xp.astype(chosen, xp.float64).T, rows)

        # A product with zeros and ones, and not atomics: the same bits every time.
        parts = in_tiles(self, X.shape[0], n_codewords + X.shape[1], work)
        result = xp.zeros(
            (n_codewords, X.shape[1] + 1), dtype=xp.float64, device=self.device
        )
        for part in parts:
            result = result + part
        return result


class TorchLibrary(Library):
    """PyTorch, which adds rows up by index, on the CPU in a fixed order."""

    @property
    def out_of_memory(self) -> tuple[type[BaseException], ...]:  # type: ignore[override]
        """What it raises when a tile finds no memory."""
        return (MemoryError, self.xp.OutOfMemoryError)

    def tile_elements(self) -> int:
        """Return how many elements the scores of a tile may have."""
        if self.device.type != "cuda":
            return _TILE_ELEMENTS
        free, _ = self.xp.cuda.mem_get_info(self.device)
        return int(min(2**24, max(_TILE_ELEMENTS, free // 64)))

    def release(self) -> None:
        """Give back memory that the library keeps for itself."""
        if self.device.type == "cuda":
            self.xp.cuda.empty_cache()

    def add_up(self, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
        """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
        if self.device.type != "cpu":
            return super().add_up(X, codes, n_codewords, weights)
        xp = self.xp
        result = xp.zeros((n_codewords, X.shape[1] + 1), dtype=xp.float64)

        def work(start: int, stop: int) -> None:
            rows = _with_weights(xp, X[start:stop, :], weights, start, stop)
            result.index_add_(0, codes[start:stop], rows)

        in_tiles(self, X.shape[0], X.shape[1] + 1, work)
        return result


def library_of(X: Any) -> Library:
    """Return what the engine needs to know of the library of an array."""
    if library_name(X) == "torch":
        return TorchLibrary(X)
    return Library(X)


def in_tiles(
    library: Library,
    n_rows: int,
    elements_per_row: int,
    work: Callable[[int, int], Any],
) -> list[Any]:
    """Call ``work(start, stop)`` for every tile of rows; return what it returned.

    A tile that finds no memory is halved, and so are those after it.

    Raises
    ------
    MemoryError
        If there is no memory for a single row.
    """
    rows = max(1, library.tile_elements() // max(1, elements_per_row))
    parts, start = [], 0
    while start < n_rows:
        stop = min(start + rows, n_rows)
        try:
            parts.append(work(start, stop))
        except library.out_of_memory as error:
            if stop - start == 1:
                raise MemoryError(
                    f"The device has no memory for one row of {elements_per_row} "
                    "numbers: free some, or use fewer codewords."
                ) from error
            library.release()
            rows = (stop - start + 1) // 2
            continue
        start = stop
    return parts


def map_rows(X: Any, elements_per_row: int, work: Callable, *beside: Any) -> Any:
    """Call ``work(X[tile], ...)`` for every tile of rows, and join what it returned."""
    return map_rows_with(library_of(X), X, elements_per_row, work, beside)


def map_rows_with(
    library: Library, X: Any, elements_per_row: int, work: Callable, beside: tuple
) -> Any:
    """Call a function for every tile of rows, by means of a library."""

    def tile(start: int, stop: int) -> Any:
        cut = slice(start, stop)
        found = work(X[cut, ...], *(array[cut, ...] for array in beside))
        return found if isinstance(found, tuple) else (found,)

    parts = in_tiles(library, X.shape[0], elements_per_row, tile) or [tile(0, 0)]
    joined = [concat(library.xp, list(found), 0) for found in zip(*parts, strict=True)]
    return joined[0] if len(joined) == 1 else tuple(joined)


def _with_weights(xp, rows, weights, start: int, stop: int) -> Any:
    """Rows in float64, each extended by one and multiplied by its weight."""
    rows = astype(xp, rows, xp.float64)
    rows = concat(xp, [rows, xp.ones_like(rows[:, :1])], axis=1)
    return rows if weights is None else rows * weights[start:stop][:, None]


def _check_2d(array: Any, name: str) -> Any:
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}; expected two dimensions."
        )
    if is_foreign(array):
        xp = array_namespace(array)
        kinds = ("bool", "integral", "real floating")
        real = any(xp.isdtype(array.dtype, kind) for kind in kinds)
    else:
        real = array.dtype.kind in "biuf"
    if not real:
        raise ValueError(f"{name} has dtype {array.dtype}; expected real numbers.")
    return array


def _host_table(codebook: Any, X: Any, name: str = "codebook") -> np.ndarray:
    table = _numpy._as_2d(to_host(codebook), name)
    if X.shape[1] != table.shape[1]:
        raise ValueError(
            f"X has {X.shape[1]} features, the {name} has {table.shape[1]}."
        )
    if len(table) == 0:
        raise ValueError(f"{name} has no codewords; expected at least one.")
    return table


def _common_dtype(X: Any, tables: Sequence[np.ndarray]) -> np.dtype:
    own = _numpy.compute_dtype(numpy_dtype(X))
    return np.result_type(own, *(_numpy.compute_dtype(t.dtype) for t in tables))


def _check_reach(X: Any, limit: float) -> None:
    """Raise unless all |x| are below the limit of a table; NaN fails too."""
    if X.shape[0] and not largest_magnitude(X) < limit:
        raise ValueError(
            "X contains NaN, infinity, or values so far from the codebook that their "
            "distances overflow: scale X, or pass float64."
        )


def check_no_zero_rows(rows: Any, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError that names the first zero row, counted from `start`."""
    xp = array_namespace(rows)
    zero = ~xp.any(rows != 0, axis=1)
    if bool(xp.any(zero)):
        row = start + int(xp.argmax(astype(xp, zero, xp.uint8)))
        raise ValueError(
            f"metric='cosine' is not defined for zero vectors: row {row} of {name} is "
            "zero. Drop such rows, or use metric='sqeuclidean'."
        )


def _nonzero_unit_rows(rows: Any, start: int) -> Any:
    check_no_zero_rows(rows, "X", start)
    return unit_rows(rows)


def _joined(library: Library, parts: list[Any], dtype: Any, shape: tuple) -> Any:
    """Put the results of tiles under each other."""
    if not parts:
        return library.xp.empty(shape, dtype=dtype, device=library.device)
    return concat(library.xp, parts, axis=0)


# -- the search ------------------------------------------------------------------------


def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Find the nearest codeword of each row; see `_numpy.nearest`."""
    return nearest_with(library_of(X), X, codebook, metric, return_distances)


def nearest_with(library: Library, X, codebook, metric: Metric, return_distances: bool):
    """Find the nearest codeword of each row by means of a library."""
    X = _check_2d(X, "X")
    host = _host_table(codebook, X)
    metric = check_metric(metric)
    if metric in PRODUCT_METRICS:
        search: Any = _ProductSearch(library, X, host, metric, return_distances)
    elif metric in _DIRECT_METRICS:
        search = _DirectSearch(library, X, host, metric)
    else:
        search = _HostSearch(library, X, host, metric)
    parts = in_tiles(library, X.shape[0], search.elements_per_row, search.tile)
    xp = library.xp
    codes = _joined(library, [part[0] for part in parts], xp.int64, (0,))
    if not return_distances:
        return codes, None
    found = _joined(library, [part[1] for part in parts], xp.float64, (0,))
    if metric in PRODUCT_METRICS and not bool(xp.all(xp.isfinite(found))):
        raise ValueError("Distances between X and the codebook overflow: scale X.")
    return codes, found


class _ProductSearch:
    """The search by one matrix product over the tile."""

    def __init__(self, library, X, host, metric, return_distances) -> None:
        dtype = _common_dtype(X, [host])
        table = _numpy._prepare(host, metric, dtype)
        self.library, self.X, self.metric = library, X, metric
        self.return_distances = return_distances
        self.scale = table.scale
        self.dtype = library.dtype(dtype)
        self.weights = library.send(table.weights)
        self.centre = library.send(table.centre.astype(dtype))
        self.first = None if table.first is None else library.send(table.first)
        self.rows = library.send(table.rows) if return_distances else None
        self.elements_per_row = table.weights.shape[1] + 4 * X.shape[1]
        # Of unit rows only the values before their division can be out of reach.
        _check_reach(X, np.inf if metric == "cosine" else table.limit)

    def tile(self, start: int, stop: int):
        """Return the codes of a tile and their distances, or None."""
        xp = self.library.xp
        x = astype(xp, self.X[start:stop, :], self.dtype)
        if self.metric == "cosine":
            x = _nonzero_unit_rows(x, start)
        shifted = x - self.centre
        if self.scale != 1.0:
            shifted = shifted * self.scale
        extended = concat(xp, [shifted, xp.ones_like(shifted[:, :1])], axis=1)
        code = self.library.smallest(xp.matmul(extended, self.weights))
        found = self._distances(x, shifted, code) if self.return_distances else None
        if self.first is not None:
            code = xp.take(self.first, code, axis=0)
        return astype(xp, code, xp.int64), found

    def _distances(self, x, shifted, code):
        xp = self.library.xp
        gap = xp.take(self.rows, code, axis=0)
        if self.metric == "inner_product":
            # The table is centred; the product asked for is not.
            gap = (gap + self.centre * self.scale) * x
            return astype(xp, xp.sum(gap, axis=1), xp.float64) / -self.scale
        gap = gap - shifted
        half = 0.5 if self.metric == "cosine" else 1.0
        squares = astype(xp, xp.sum(gap * gap, axis=1), xp.float64)
        return squares * half / self.scale / self.scale


class _DirectSearch:
    """The search by the differences themselves, in float64."""

    def __init__(self, library, X, host, metric) -> None:
        self.library, self.X, self.metric = library, X, metric
        self.table = library.send(host.astype(np.float64))
        self.elements_per_row = 2 * host.size

    def tile(self, start: int, stop: int):
        """Return the codes of a tile and their distances."""
        xp = self.library.xp
        x = astype(xp, self.X[start:stop, :], xp.float64)
        gaps = xp.abs(x[:, None, :] - self.table[None, :, :])
        reduce = xp.sum if self.metric == "cityblock" else xp.max
        table = reduce(gaps, axis=2)
        found = xp.min(table, axis=1)
        _check_defined(xp, found, self.metric)
        return astype(xp, self.library.smallest(table), xp.int64), found


class _HostSearch:
    """The search by metrics that SciPy alone has: on the host, a tile at a time."""

    def __init__(self, library, X, host, metric) -> None:
        self.library, self.X, self.host, self.metric = library, X, host, metric
        self.elements_per_row = host.shape[0] + X.shape[1]

    def tile(self, start: int, stop: int):
        """Return the codes of a tile and their distances."""
        rows = to_host(self.X[start:stop, :])
        codes, found = _numpy.nearest(rows, self.host, self.metric)
        send = self.library.send
        return send(codes.astype(np.int64)), send(found)


def _check_defined(xp, values, metric) -> None:
    if not bool(xp.all(xp.isfinite(values))):
        raise ValueError(
            f"metric={metric!r} gives NaN or infinity on some rows of X: X is not "
            "finite, or the metric is not defined there."
        )


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Find the nearest codeword in every subspace; see `_numpy.nearest_product`."""
    return product_with(library_of(X), X, codebooks, dtype)


def product_with(library: Library, X, codebooks: Sequence, dtype, search=None):
    """Find the nearest codewords in all subspaces by means of a library.

    Parameters
    ----------
    library, X, codebooks, dtype
        As in `nearest_product`.
    search : callable, optional
        ``search(x, run)`` returns the codes (n_rows, n_subspaces) of a tile of rows in
        a run of equal subspaces, without scores in memory; asked only for runs that
        ``search.takes(run)``.
    """
    X = _check_2d(X, "X")
    hosts = [
        _numpy._as_2d(to_host(table), f"codebooks[{j}]")
        for j, table in enumerate(codebooks)
    ]
    widths = [table.shape[1] for table in hosts]
    if sum(widths) != X.shape[1]:
        raise ValueError(
            f"The codebooks' widths {widths} add up to {sum(widths)}, but X has "
            f"{X.shape[1]} features."
        )
    common = _common_dtype(X, hosts)
    tables = [_numpy._prepare(table, "sqeuclidean", common) for table in hosts]
    _check_reach(X, min(table.limit for table in tables))
    largest = max(table.weights.shape[1] for table in tables)
    most = max(1, library.tile_elements() // 64)
    runs = [
        Run(library, run, common)
        for run in _numpy._group_runs(tables, max(largest, most))
    ]
    wanted = library.dtype(np.dtype(dtype))
    fused = [search is not None and search.takes(run) for run in runs]

    def tile(start: int, stop: int) -> Any:
        x = astype(library.xp, X[start:stop, :], library.dtype(common))
        columns = [
            search(x, run) if taken else run.search(x)
            for run, taken in zip(runs, fused, strict=True)
        ]
        codes = concat(library.xp, columns, axis=1)
        return astype(library.xp, codes, wanted)

    scores = [
        0 if taken else run.elements_per_row
        for run, taken in zip(runs, fused, strict=True)
    ]
    per_row = max(scores) + 4 * X.shape[1]
    parts = in_tiles(library, X.shape[0], per_row, tile)
    return _joined(library, parts, wanted, (0, len(tables)))


class Run:
    """Consecutive subspaces of one width and one number of distinct codewords."""

    def __init__(self, library: Library, run, dtype: np.dtype) -> None:
        self.library = library
        self.start, self.stop, self.width = run.start, run.stop, run.width
        self.n_subspaces, _, self.n_codewords = run.weights.shape
        self.weights = library.send(run.weights)  # (m, width + 1, V')
        self.centre = library.send(run.centre[:, :, 0].astype(dtype))  # (m, width)
        self.scale = library.send(run.scale[:, :, 0])  # (m, 1)
        self.repeated = any(table.first is not None for table in run.tables)
        if self.repeated:
            every = np.arange(self.n_codewords)
            first = [every if t.first is None else t.first for t in run.tables]
            self.first = library.send(np.stack(first).astype(np.int64))
        self.elements_per_row = run.weights.shape[0] * (self.n_codewords + self.width)

    def search(self, x: Any) -> Any:
        """Return the codes of a tile of rows by one batched product."""
        xp = self.library.xp
        x = xp.reshape(x[:, self.start : self.stop], (-1, self.n_subspaces, self.width))
        shifted = (x - self.centre[None, :, :]) * self.scale[None, :, :]
        ones = xp.ones_like(shifted[:, :, :1])
        extended = xp.permute_dims(concat(xp, [shifted, ones], axis=2), (1, 0, 2))
        codes = self.library.smallest(xp.matmul(extended, self.weights))
        return self.first_of_equal(codes.T)

    def first_of_equal(self, codes: Any) -> Any:
        """Return the codes (n_rows, n_subspaces) in the tables before distinction."""
        if not self.repeated:
            return codes
        xp = self.library.xp
        columns = [
            xp.take(self.first[j, :], codes[:, j], axis=0)
            for j in range(self.n_subspaces)
        ]
        return xp.stack(columns, axis=1)


# -- distances and sums ----------------------------------------------------------------


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Compute the distance of each row to its own reconstruction; see `_numpy`."""
    return paired_with(library_of(X), X, Y, metric, codes)


def paired_with(library: Library, X, Y, metric: Metric, codes):
    """Compute the distance of each row to its own by means of a library."""
    X, Y = _check_2d(X, "X"), _check_2d(like(Y, X), "Y")
    if X.shape[1] != Y.shape[1] or (codes is None and X.shape[0] != Y.shape[0]):
        raise ValueError(f"X has shape {tuple(X.shape)}, Y has shape {tuple(Y.shape)}.")
    metric = check_metric(metric)
    xp = library.xp
    codes = None if codes is None else like(codes, X)

    def tile(start: int, stop: int) -> Any:
        x = astype(xp, X[start:stop, :], xp.float64)
        rows = Y[start:stop, :] if codes is None else take_rows(Y, codes[start:stop])
        return _paired_tile(library, x, astype(xp, rows, xp.float64), metric)

    parts = in_tiles(library, X.shape[0], 4 * X.shape[1], tile)
    found = _joined(library, parts, xp.float64, (0,))
    _check_defined(xp, found, metric)
    return found


def _paired_tile(library: Library, x, y, metric: Metric):
    xp = library.xp
    if metric == "inner_product":
        return -xp.sum(x * y, axis=1)
    if metric in _DIRECT_METRICS:
        reduce = xp.sum if metric == "cityblock" else xp.max
        return reduce(xp.abs(x - y), axis=1)
    if metric not in PRODUCT_METRICS:
        return library.send(_numpy.paired(to_host(x), to_host(y), metric))
    half = 1.0
    if metric == "cosine":
        check_no_zero_rows(y, "Y")
        x, y, half = _nonzero_unit_rows(x, 0), unit_rows(y), 0.5
    gap = x - y
    return half * xp.sum(gap * gap, axis=1)


def accumulate(X, codes, n_codewords: int, weights=None):
    """Add up the rows of each code; see `_numpy.accumulate`."""
    return accumulate_with(library_of(X), X, codes, n_codewords, weights)


def accumulate_with(library: Library, X, codes, n_codewords: int, weights):
    """Add up the rows of each code by means of a library."""
    X = _check_2d(X, "X")
    xp = library.xp
    codes = like(codes, X, xp.int64)
    n = X.shape[0]
    if tuple(codes.shape) != (n,):
        raise ValueError(f"codes has shape {tuple(codes.shape)}; expected ({n},).")
    if n:
        low, high = int(xp.min(codes)), int(xp.max(codes))
        if low < 0 or high >= n_codewords:
            raise ValueError(
                f"codes range from {low} to {high}; expected [0, {n_codewords})."
            )
    if weights is not None:
        weights = like(weights, X, xp.float64)
        if tuple(weights.shape) != (n,):
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}; expected ({n},)."
            )
    result = library.add_up(X, codes, n_codewords, weights)
    return result[:, :-1], result[:, -1]
