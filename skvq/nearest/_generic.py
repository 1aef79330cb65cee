"""The engine on any library that follows the array API standard.

The same search as in `_numpy`, from the same tables: these are made ready on the host,
with the same centre, the same scale and the same distinct codewords, and sent to the
device of the rows.  Rows are taken a tile at a time, so that no n x V matrix ever
exists; a tile that finds no memory is halved.

A `Library` is what differs from one library to another.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from skvq._array_api import (
    array_namespace,
    astype,
    code_dtype,
    concat,
    contiguous,
    device_of,
    is_foreign,
    library_name,
    like,
    look_up,
    numpy_dtype,
    send,
    stable_order,
    take_along,
    take_rows,
    times_power,
    to_host,
    unit_rows,
)
from skvq.nearest import _best, _icm, _kronecker, _numpy
from skvq.nearest._metrics import (
    PRODUCT_METRICS,
    Metric,
    check_metric,
    why_out_of_reach,
    why_undefined,
)

# Scores of one tile, in elements.
_TILE_ELEMENTS = 2**21
# Metrics that are computed from the differences themselves.
_DIRECT_METRICS = frozenset({"cityblock", "chebyshev"})


class Library:
    """What the engine asks of the library that holds the rows; here, the standard."""

    def __init__(self, like_array: Any) -> None:
        self.xp = array_namespace(like_array)
        self.device = device_of(like_array)

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether this is what the library raises when it finds no memory."""
        return isinstance(error, MemoryError)

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

    def product_search(self, *arguments: Any) -> Any:
        """Return the search by matrix products."""
        return _ProductSearch(self, *arguments)

    def smallest(self, scores: Any) -> Any:
        """Return where the smallest of each row is, along the last axis; the first."""
        return self.xp.argmin(scores, axis=-1)

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return where the k smallest of each row are, ascending; of equals the first.

        Parameters
        ----------
        scores : array of shape (n_rows, n_scores)
            Finite numbers.
        k : int
            How many; at most n_scores.

        Returns
        -------
        places : array of shape (n_rows, k), dtype int64
        """
        xp = self.xp
        if k > _best._MAX_ROUNDS:
            # The standard knows no partial sort.
            return xp.argsort(scores, axis=1, stable=True)[:, :k]
        places = xp.arange(scores.shape[1], dtype=xp.int64, device=self.device)
        found = []
        for j in range(k):
            found.append(astype(xp, self.smallest(scores), xp.int64)[:, None])
            if j < k - 1:
                taken = found[-1] == places[None, :]
                scores = xp.where(taken, xp.full_like(scores, xp.inf), scores)
        return concat(xp, found, axis=1)

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

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether this is what the library raises when it finds no memory."""
        return isinstance(error, MemoryError | self.xp.OutOfMemoryError)

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

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return where the k smallest of each row are, ascending."""
        if k == 1:
            return self.smallest(scores)[:, None]
        places = self.xp.topk(scores, k, dim=1, largest=False, sorted=False).indices
        # Which of equals come within k is up to torch; those that do are in order.
        places = self.xp.sort(places, axis=1)
        return take_along(places, stable_order(take_along(scores, places)))

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


class RowTooLargeError(MemoryError):
    """There is no memory for a single row."""


def iterate_tiles(
    library: Library,
    n_rows: int,
    elements_per_row: int,
    work: Callable[[int, int], Any],
) -> Iterator[Any]:
    """Yield ``work(start, stop)`` for every tile of rows.

    A tile that finds no memory is halved, and so are those after it: what the work does
    for a tile must not be seen elsewhere before it returns.

    Raises
    ------
    RowTooLargeError
        If there is no memory for a single row.
    """
    rows = max(1, library.tile_elements() // max(1, elements_per_row))
    start = 0
    while start < n_rows:
        stop = min(start + rows, n_rows)
        try:
            found = work(start, stop)
        except Exception as error:
            if not library.ran_out_of_memory(error):
                raise
            if stop - start == 1:
                if isinstance(error, RowTooLargeError):
                    raise  # of tiles within tiles, the innermost know what they ask for
                raise RowTooLargeError(
                    f"The device has no memory for one row of {elements_per_row} "
                    "numbers: free some, or use fewer codewords."
                ) from error
            rows = (stop - start + 1) // 2
        else:
            start = stop
            yield found
            continue
        # Not before the error is gone, which holds what the work had allocated.
        library.release()


def in_tiles(
    library: Library,
    n_rows: int,
    elements_per_row: int,
    work: Callable[[int, int], Any],
) -> list[Any]:
    """Return ``work(start, stop)`` of every tile of rows; see `iterate_tiles`."""
    return list(iterate_tiles(library, n_rows, elements_per_row, work))


def row_tiles(X: Any, elements_per_row: int, work: Callable) -> Iterator[Any]:
    """Yield ``work(rows)`` for every tile of rows, a slice."""
    return row_tiles_with(library_of(X), X, elements_per_row, work)


def row_tiles_with(
    library: Library, X: Any, elements_per_row: int, work: Callable
) -> Iterator[Any]:
    """Yield what a function returns for tiles of rows, by means of a library."""

    def tile(start: int, stop: int) -> Any:
        return work(slice(start, stop))

    return iterate_tiles(library, X.shape[0], elements_per_row, tile)


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


class _Reach:
    """How far rows reach, which a device finds out while tables are made ready."""

    def __init__(self, X: Any) -> None:
        xp = array_namespace(X)
        self.extremes: tuple[Any, ...] = ()
        if 0 not in X.shape:
            # Not through xp.abs, which would take memory for another such array.
            self.extremes = xp.max(X), xp.min(X)

    def check(self, limit: float) -> None:
        """Raise unless all |x| are below the limit of a table; NaN fails too."""
        if not self.extremes:
            return
        high, low = map(float, self.extremes)
        largest = max(high, -low)
        if not largest < limit:
            raise ValueError(why_out_of_reach(largest))


def _check_reach(X: Any, limit: float) -> None:
    """Raise unless all |x| are below the limit of a table; NaN fails too."""
    _Reach(X).check(limit)


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


def _check_range(codes: Any, sizes: Sequence[int], name: str) -> None:
    """Raise unless codes, along the last axis, are rows of tables of these sizes.

    Some libraries look up any index, modulo the size.
    """
    if 0 in codes.shape:
        return
    xp = array_namespace(codes)
    flat = xp.reshape(codes, (-1, len(sizes)))
    low, high = (to_host(reduce(flat, axis=0)) for reduce in (xp.min, xp.max))
    for j, size in enumerate(sizes):
        if low[j] < 0 or high[j] >= size:
            raise ValueError(
                f"{name}[..., {j}] ranges from {low[j]} to {high[j]}; "
                f"expected [0, {size})."
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
    """Find the nearest codeword of each row; see `nearest.nearest`."""
    return nearest_with(library_of(X), X, codebook, metric, return_distances)


def nearest_with(library: Library, X, codebook, metric: Metric, return_distances: bool):
    """Find the nearest codeword of each row by means of a library."""
    X = _check_2d(X, "X")
    host = _host_table(codebook, X)
    metric = check_metric(metric)
    if metric in PRODUCT_METRICS:
        search: Any = library.product_search(X, host, metric, return_distances)
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
        dtype, reach = _common_dtype(X, [host]), _Reach(X)
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
        reach.check(np.inf if metric == "cosine" else table.limit)

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
        _check_defined(xp, found, self.metric, x)
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


def _check_defined(xp, values, metric, X) -> None:
    """Raise unless distances of the rows of X are numbers."""
    if not bool(xp.all(xp.isfinite(values))):
        largest = max(float(xp.max(X)), -float(xp.min(X)))
        raise ValueError(why_undefined(metric, largest))


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Find the nearest codeword in every subspace; see `nearest.nearest_product`."""
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
    common, reach = _common_dtype(X, hosts), _Reach(X)
    tables = [_numpy._prepare(table, "sqeuclidean", common) for table in hosts]
    reach.check(min(table.limit for table in tables))
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
    # Without scores there is only a copy of the rows, and that perhaps.
    per_row = max(scores) + 4 * X.shape[1] if any(scores) else max(1, X.shape[1] // 8)
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


# -- sums of codewords -----------------------------------------------------------------


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
    """Find codes whose codewords add up to nearly each row; see `nearest_best`."""
    return best_with(
        library_of(X),
        X,
        codebooks,
        beam_size,
        n_best=n_best,
        begin=begin,
        stage_weights=stage_weights,
        return_distances=return_distances,
        dtype=dtype,
    )


def best_with(
    library: Library,
    X,
    codebooks: Sequence,
    beam_size: int,
    *,
    n_best: int,
    begin,
    stage_weights,
    return_distances: bool,
    dtype,
):
    """Find codes of sums by beam search by means of a library; see `nearest_best`."""
    X, xp = _check_2d(X, "X"), library.xp
    hosts = [
        _host_table(table, X, f"codebooks[{j}]") for j, table in enumerate(codebooks)
    ]
    if begin is None:
        begin = xp.zeros((X.shape[0], 1, 0), dtype=xp.int64, device=library.device)
    begin = _best._check_begin_shape(like(begin, X), X, hosts)
    n_begun = begin.shape[2]
    _check_range(begin, [len(table) for table in hosts[:n_begun]], "begin")
    # What it asks of the rows is their shape and dtype: these take no memory.
    rows = np.broadcast_to(_numpy.compute_dtype(numpy_dtype(X)).type(0), X.shape)
    begun = np.broadcast_to(np.intp(0), tuple(begin.shape))
    search = _best._Search(rows, hosts, begun, beam_size, n_best, stage_weights)
    _check_reach(X, search.limit)
    wanted = code_dtype(X, np.dtype(dtype))
    beam = _BeamSearch(library, search)

    def tile(start: int, stop: int):
        x = astype(xp, X[start:stop, :], beam.dtype)
        codes, errors = beam.tile(x, begin[start:stop, ...], return_distances)
        return astype(xp, codes, wanted), errors

    parts = in_tiles(library, X.shape[0], beam.elements_per_row(X.shape[1]), tile)
    n_found = search.stages[-1].width if search.stages else begin.shape[1]
    shape = (0, n_found, len(hosts))
    codes = _joined(library, [part[0] for part in parts], wanted, shape)
    if not return_distances:
        return codes, None
    errors = [part[1] for part in parts]
    found = _joined(library, errors, xp.float64, (0, n_found))
    if not bool(xp.all(xp.isfinite(found))):
        raise ValueError("Distances between X and the codebooks overflow: scale X.")
    return codes, found


class _BeamSearch:
    """The beam search of `_best` with its tables on a device."""

    def __init__(self, library: Library, search: _best._Search) -> None:
        self.library, self.shared = library, search
        self.dtype = library.dtype(search.dtype)
        self.begun = [library.send(rows) for rows in search.begun]
        self.stages = [
            stage._replace(
                weights=library.send(stage.weights),
                rows=library.send(stage.rows),
                centre=None if stage.centre is None else library.send(stage.centre),
                first=None if stage.first is None else library.send(stage.first),
            )
            for stage in search.stages
        ]

    def elements_per_row(self, n_features: int) -> int:
        """Return about how many numbers of memory a row takes."""
        return 2 * self.shared.most_scores + 4 * self.shared.most_sums * n_features

    def tile(self, x, begun, distances: bool):
        """Return the codes of a tile and their distances, or None."""
        xp, shared = self.library.xp, self.shared
        rest, loss = self._begin(x, begun)
        codes = astype(xp, begun, xp.int64)
        for j, stage in enumerate(self.stages):
            last = j == len(self.stages) - 1
            if stage.centre is not None:
                rest = rest - stage.centre
            parent, code = self._choose(rest, stage, loss)
            codes = self._with_codes(codes, stage, parent, code)
            if not last or distances:
                rest = take_along(rest, parent) - look_up(stage.rows, code)
                if shared.weighted:
                    loss = take_along(loss, parent) + float(stage.weight) * _norms(
                        xp, rest
                    )
        if not distances:
            return codes, None
        total = loss if shared.weighted else _norms(xp, rest)
        return codes, total / shared.scale / shared.scale

    def _begin(self, x, begun):
        """Return the residuals of the sums begun, and their loss so far."""
        xp, shared = self.library.xp, self.shared
        n, b, n_begun = begun.shape
        rest = xp.broadcast_to(x[:, None, :], (n, b, x.shape[1]))
        if shared.scale != 1.0:
            rest = rest * float(shared.scale)
        loss = xp.zeros((n, b), dtype=xp.float64, device=self.library.device)
        for j in range(n_begun):
            own = astype(xp, begun[:, :, j], xp.int64)
            rest = rest - look_up(self.begun[j], own)
            if shared.weighted:
                loss = loss + float(shared.begun_weights[j]) * _norms(xp, rest)
        return rest, loss

    def _choose(self, rest, stage, loss):
        """Return the sum and the codeword of each of the best candidates, in order."""
        xp = self.library.xp
        n, b, d = rest.shape
        if b == 1:
            costs = xp.zeros_like(rest[:, :, :1])
        else:
            norms = _norms(xp, rest)
            if self.shared.weighted:
                norms = norms + loss / float(stage.weight + stage.ahead)
            # Only differences within a row count: this keeps them from drowning.
            norms = 0.5 * (norms - xp.min(norms, axis=1, keepdims=True))
            costs = astype(xp, norms, self.dtype)[:, :, None]
        columns = [rest, xp.ones_like(rest[:, :, :1]), costs]
        extended = xp.reshape(concat(xp, columns, axis=2), (n * b, d + 2))
        scores = xp.reshape(xp.matmul(extended, stage.weights), (n, -1))
        best = astype(xp, self.library.smallest_few(scores, stage.width), xp.int64)
        n_codewords = stage.rows.shape[0]
        parent = best // n_codewords
        return parent, best - parent * n_codewords

    def _with_codes(self, codes, stage, parent, code):
        """Return the codes of the sums chosen, (n, width, n_codes + 1)."""
        xp = self.library.xp
        if stage.first is not None:
            code = astype(xp, look_up(stage.first, code), xp.int64)
        return concat(xp, [take_along(codes, parent), code[:, :, None]], axis=2)


def _norms(xp, rest):
    return astype(xp, xp.sum(rest * rest, axis=2), xp.float64)


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
    """Improve codes of sums, one table at a time; see `improve_sums`."""
    return improve_with(
        library_of(X),
        X,
        codebooks,
        codes,
        n_rounds=n_rounds,
        n_replaced=n_replaced,
        n_sweeps=n_sweeps,
        seed=seed,
        dtype=dtype,
    )


def improve_with(
    library: Library,
    X,
    codebooks: Sequence,
    codes,
    *,
    n_rounds: int,
    n_replaced: int,
    n_sweeps: int,
    seed: int,
    dtype,
):
    """Improve codes of sums by means of a library; see `improve_sums`."""
    X, xp = _check_2d(X, "X"), library.xp
    hosts = [
        _host_table(table, X, f"codebooks[{j}]") for j, table in enumerate(codebooks)
    ]
    codes = like(codes, X)
    _icm.check_codes_shape(codes, X, hosts)
    _check_range(codes, [len(table) for table in hosts], "codes")
    # What it asks of the rows is their shape and dtype: these take no memory.
    rows = np.broadcast_to(_numpy.compute_dtype(numpy_dtype(X)).type(0), X.shape)
    search = _icm._Search(rows, hosts, n_sweeps)
    _check_reach(X, search.limit)
    schedule = _icm._schedule([len(t.rows) for t in search.tables], n_replaced, seed)
    rounds = [next(schedule) for _ in range(n_rounds)]
    wanted = code_dtype(X, np.dtype(dtype))
    sums = _SumsSearch(library, search)

    def tile(start: int, stop: int):
        x = astype(xp, X[start:stop, :], sums.dtype)
        given = astype(xp, codes[start:stop, :], xp.int64)
        found, errors = sums.tile(x, given, rounds)
        return astype(xp, found, wanted), errors

    parts = in_tiles(library, X.shape[0], search.most + 4 * X.shape[1], tile)
    found = _joined(library, [part[0] for part in parts], wanted, (0, len(hosts)))
    distances = _joined(library, [part[1] for part in parts], xp.float64, (0,))
    if not bool(xp.all(xp.isfinite(distances))):
        raise ValueError("Distances between X and the codebooks overflow: scale X.")
    return found, distances


class _SumsSearch:
    """The iterated conditional modes of `_icm` with their tables on a device."""

    def __init__(self, library: Library, search: _icm._Search) -> None:
        self.library, self.shared = library, search
        self.dtype = library.dtype(search.dtype)
        self.centre = library.send(search.centre)
        self.weights = [library.send(table.weights) for table in search.tables]
        self.rows = [library.send(table.rows) for table in search.tables]

    def tile(self, x, given, rounds):
        """Return the best codes of a tile that were seen, and their distances."""
        xp, shared = self.library.xp, self.shared
        target = (x if shared.scale == 1.0 else x * float(shared.scale)) - self.centre
        best = [given[:, j] for j in range(len(shared.tables))]
        for j, table in enumerate(shared.tables):
            if table.place is not None:
                best[j] = astype(xp, look_up(table.place, best[j]), xp.int64)
        error = self._errors(self._left(target, best))
        for each in rounds:
            codes = list(best)
            for j, offset in zip(each.replaced, each.offsets, strict=True):
                size = len(shared.tables[j].rows)
                moved = codes[j] + int(offset)
                codes[j] = xp.where(moved >= size, moved - size, moved)
            left = self._left(target, codes)
            for _ in range(shared.n_sweeps):
                for j in each.order:
                    left = left + look_up(self.rows[j], codes[j])
                    codes[j] = self._nearest(left, j)
                    left = left - look_up(self.rows[j], codes[j])
            # Anew from the codes: rounding does not build up from step to step.
            new = self._errors(self._left(target, codes))
            better = new < error
            best = [
                xp.where(better, column, old)
                for column, old in zip(codes, best, strict=True)
            ]
            error = xp.where(better, new, error)
        for j, table in enumerate(shared.tables):
            if table.first is not None:
                best[j] = astype(xp, look_up(table.first, best[j]), xp.int64)
        return xp.stack(best, axis=1), error / shared.scale / shared.scale

    def _left(self, target, codes):
        """Return what the codewords leave of the rows."""
        for rows, column in zip(self.rows, codes, strict=True):
            target = target - look_up(rows, column)
        return target

    def _errors(self, left):
        xp = self.library.xp
        return astype(xp, xp.sum(left * left, axis=1), xp.float64)

    def _nearest(self, left, j: int):
        xp = self.library.xp
        extended = concat(xp, [left, xp.ones_like(left[:, :1])], axis=1)
        scores = xp.matmul(extended, self.weights[j])
        return astype(xp, self.library.smallest(scores), xp.int64)


# -- products of codewords -------------------------------------------------------------


def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Find the nearest Kronecker product of rows; see `nearest_kronecker`."""
    return kronecker_with(library_of(X), X, codebooks, return_distances)


def kronecker_with(library: Library, X, codebooks: Sequence, return_distances: bool):
    """Find the nearest Kronecker product of rows by means of a library."""
    X, xp = _check_2d(X, "X"), library.xp
    hosts = [
        _numpy._as_2d(to_host(table), f"codebooks[{j}]")
        for j, table in enumerate(codebooks)
    ]
    _kronecker._check_widths(X, hosts)
    search = _KroneckerSearch(library, hosts, _common_dtype(X, hosts))
    index = best = None
    for block in search.shared.all_blocks():
        scorer = _BlockScores(library, search.dtype, block)

        def work(start: int, stop: int, scorer=scorer):
            return scorer.find(search.shift(X[start:stop, :]))

        per_row = block.scratch_size(1) + 4 * X.shape[1]
        parts = in_tiles(library, X.shape[0], per_row, work)
        found = _joined(library, [part[0] for part in parts], xp.int64, (0,))
        score = _joined(library, [part[1] for part in parts], search.dtype, (0,))
        if index is None:
            index, best = found, score
        else:
            index = xp.where(score < best, found, index)
            best = xp.minimum(score, best)
    codes = search.codes(index)
    if not return_distances:
        return codes, None
    tables = [library.send(table.astype(np.float64)) for table in hosts]

    def tile(start: int, stop: int) -> Any:
        rows = [look_up(table, codes[start:stop, j]) for j, table in enumerate(tables)]
        gaps = astype(xp, X[start:stop, :], xp.float64)
        gaps = gaps - _kronecker.kronecker_rows(rows)
        return xp.sum(gaps * gaps, axis=1)

    parts = in_tiles(library, X.shape[0], 4 * X.shape[1], tile)
    distances = _joined(library, parts, xp.float64, (0,))
    if not bool(xp.all(xp.isfinite(distances))):
        raise ValueError("Distances between X and the codebook overflow: scale X.")
    return codes, distances


class _KroneckerSearch:
    """The search of `_kronecker` for the rows of a library."""

    def __init__(self, library: Library, hosts, dtype: np.dtype) -> None:
        self.library, self.dtype = library, library.dtype(dtype)
        self.shared = _kronecker._Search(hosts, dtype)
        self.centre = library.send(self.shared.centre)

    def shift(self, x: Any) -> Any:
        """Return scaled samples less the centre, the factors in order."""
        xp, shared = self.library.xp, self.shared
        n, d = x.shape
        scaled = times_power(astype(xp, x, xp.float64), -shared.exponent)
        scaled = xp.reshape(scaled - self.centre[None, :], (n, *shared.widths))
        scaled = xp.permute_dims(scaled, (0, *(j + 1 for j in shared.order)))
        y = astype(xp, xp.reshape(scaled, (n, d)), self.dtype)
        _check_reach(y, shared.limit)
        return y

    def codes(self, index: Any) -> Any:
        """Turn indices of codewords into codes of the caller's tables."""
        xp, shared = self.library.xp, self.shared
        columns: list[Any] = [None] * len(shared.order)
        # Of a single table, the first factor is a one that is no table of the caller's.
        idle = len(shared.sizes) - len(shared.order)
        for place in reversed(range(len(shared.order))):
            size, j = shared.sizes[idle + place], shared.order[place]
            rest = index // size
            column, index = index - rest * size, rest
            if shared.firsts[j] is not None:
                column = look_up(shared.firsts[j], column)
            columns[j] = astype(xp, column, xp.int64)
        codes = xp.stack(columns, axis=1)
        if shared.zero_codes is None:
            return codes
        none = xp.zeros(codes.shape[0], dtype=xp.bool, device=self.library.device)
        for zero, column in zip(shared.zero_rows, columns, strict=True):
            none = none | look_up(zero, column)
        lowest = self.library.send(np.array(shared.zero_codes, dtype=np.int64))
        return xp.where(none[:, None], lowest[None, :], codes)


class _BlockScores:
    """The scores of consecutive codewords; as in `_kronecker._Block`."""

    def __init__(self, library: Library, dtype: Any, block) -> None:
        def send(array: np.ndarray) -> Any:
            return astype(library.xp, library.send(array), dtype)

        self.library, self.block = library, block
        self.weights = send(block.weights)
        self.constants = send(block.constants)
        self.half_norms = send(block.half_norms)
        self.last_centre = send(block.last_centre)
        self.contract = [send(table) for table in block.contract]
        self.inner = [
            _kronecker._Factor(*(send(array) for array in factor))
            for factor in block.inner
        ]

    def find(self, y: Any) -> tuple[Any, Any]:
        """Return index and score of the best codeword of each row."""
        xp = self.library.xp
        n, n_prefix = y.shape[0], self.block.n_prefix
        top = y
        for table in self.contract:
            top = self._contracted(top, table)
        top = xp.reshape(top, (n, self.block.width, n_prefix))
        common = self._common_terms(y)[:, None, :]
        constants = xp.broadcast_to(self.constants[None, ...], (n, 2, n_prefix))
        extended = concat(xp, [top, common, constants], axis=1)
        extended = xp.reshape(xp.permute_dims(extended, (0, 2, 1)), (n * n_prefix, -1))
        scores = xp.reshape(xp.matmul(extended, self.weights), (n, -1))
        index = astype(xp, self.library.smallest(scores), xp.int64)
        score = take_along(scores, index[:, None])[:, 0]
        return index + self.block.first, score

    def _contracted(self, y: Any, table: Any) -> Any:
        """Replace the leading factor of each row by its products, which come last."""
        xp = self.library.xp
        y = xp.reshape(y, (y.shape[0], table.shape[0], -1))
        y = xp.matmul(xp.permute_dims(y, (0, 2, 1)), table)
        return xp.reshape(y, (y.shape[0], -1))

    def _shorter(self, y: Any, centre: Any) -> Any:
        xp = self.library.xp
        rows = xp.reshape(y, (-1, centre.shape[0]))
        return xp.reshape(xp.matmul(rows, centre), (y.shape[0], -1))

    def _common_terms(self, y: Any) -> Any:
        """Return what the scores of all v have in common, for every row and u."""
        shorter = self._shorter(y, self.last_centre)
        return self.half_norms[None, :] - self._inner(shorter, self.inner)

    def _inner(self, y: Any, factors: Sequence) -> Any:
        """Return y.(c - centre) for all products c of the factors."""
        xp = self.library.xp
        *prefix, last = factors
        if not prefix:
            return xp.matmul(y, last.shifted.T)
        contracted = y
        for factor in prefix:
            contracted = self._contracted(contracted, factor.rows.T)
        width = last.centre.shape[0]
        n = y.shape[0]
        contracted = xp.reshape(contracted, (n, width, -1))
        contracted = xp.permute_dims(contracted, (0, 2, 1))
        result = xp.matmul(contracted, last.shifted.T)
        rest = self._inner(self._shorter(y, last.centre), prefix)
        return xp.reshape(result + rest[:, :, None], (n, -1))


# -- distances and sums ----------------------------------------------------------------


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Compute the distance of each row to its own reconstruction; see `paired`."""
    return paired_with(library_of(X), X, Y, metric, codes)


def paired_with(library: Library, X, Y, metric: Metric, codes):
    """Compute the distance of each row to its own by means of a library."""
    X, Y = _check_2d(X, "X"), _check_2d(like(Y, X), "Y")
    if X.shape[1] != Y.shape[1] or (codes is None and X.shape[0] != Y.shape[0]):
        raise ValueError(f"X has shape {tuple(X.shape)}, Y has shape {tuple(Y.shape)}.")
    metric = check_metric(metric)
    xp = library.xp
    if codes is not None:
        codes = like(codes, X)
        _check_range(codes[:, None], [Y.shape[0]], "codes")

    def tile(start: int, stop: int) -> Any:
        x = astype(xp, X[start:stop, :], xp.float64)
        rows = Y[start:stop, :] if codes is None else take_rows(Y, codes[start:stop])
        return _paired_tile(library, x, astype(xp, rows, xp.float64), metric)

    parts = in_tiles(library, X.shape[0], 4 * X.shape[1], tile)
    found = _joined(library, parts, xp.float64, (0,))
    _check_defined(xp, found, metric, X)
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
    """Add up the rows of each code; see `nearest.accumulate`."""
    return accumulate_with(library_of(X), X, codes, n_codewords, weights)


def accumulate_with(library: Library, X, codes, n_codewords: int, weights):
    """Add up the rows of each code by means of a library."""
    X = _check_2d(X, "X")
    xp = library.xp
    codes = contiguous(like(codes, X, xp.int64))
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
