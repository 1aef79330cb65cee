"""The engine on NumPy.

For the metrics that are a matrix product, a row tile x and a table C share one form.
With a centre m taken from the table alone,

    argmin_k ||x - c_k||^2 = argmin_k  1/2 ||c_k - m||^2 - (x - m) . (c_k - m),

which is one GEMM of the tile, extended by a column of ones, with the table
[-(C - m)^T; 1/2 ||c - m||^2], and one `argmin` over each row of the result.  The tile
stays in cache, so no n x V matrix ever exists.  Without the centre, data far from the
origin would lose every digit that matters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array
from scipy.spatial.distance import cdist

from skvq._array_api import unique_rows
from skvq._checks import check_unmasked
from skvq.nearest._metrics import (
    PRODUCT_METRICS,
    Metric,
    check_metric,
    why_out_of_reach,
    why_undefined,
)
from skvq.nearest._threads import (
    even_chunk,
    map_tiles,
    multiply_rows,
    product_rows,
    scratch,
)

# Scores of one tile, in elements: what a core's cache holds, with enough rows in it
# that the calls into NumPy do not show (benchmarks/nearest.py).
_TILE_SCORES = 2**18
_MAX_TILE_SCORES = 2**21
_MIN_GOOD_ROWS = 512

# A chunk shares one pass of everything but the scores.  Long ones, since each call into
# NumPy hands the interpreter's lock over, but not so long that they leave the cache.
_CHUNK_ELEMENTS = 2**19
_MAX_CHUNK_ROWS = 16384

# Rows of a product tile: one subspace's scores are small, so fewer rows do.
_PRODUCT_TILE_ROWS = 128
_PRODUCT_TILE_SCORES = 2**21
_PRODUCT_CHUNK_ROWS = 1024

# `accumulate` cuts the rows in at most this many chunks, whatever the threads.
_MAX_CHUNKS = 16
_MIN_CHUNK_ROWS = 16384
# Up to so many numbers, sums are counted rather than multiplied out.
_FEW_ELEMENTS = 4096

# 2^64 over the golden ratio: an odd multiplier that spreads the bits of a hash.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def compute_dtype(dtype) -> np.dtype:
    """Return the floating dtype that input of `dtype` is computed in.

    float16 and integers of 8 and 16 bits: float32; float32: itself; all else: float64.
    The values play no part in the choice.

    Parameters
    ----------
    dtype : dtype-like
        That of the input.

    Returns
    -------
    dtype : numpy.dtype
        That of the computation.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import compute_dtype
    >>> compute_dtype(np.uint8), compute_dtype(np.int64)
    (dtype('float32'), dtype('float64'))
    """
    dtype = np.dtype(dtype)
    narrow = dtype.kind in "biuf" and dtype.itemsize <= 2
    return np.dtype(np.float32 if narrow or dtype == np.float32 else np.float64)


class _Table(NamedTuple):
    """A codebook made ready for the search with a matrix product."""

    weights: np.ndarray  # (d + 1, V'), [-(C - m)^T; 1/2 ||c - m||^2]
    rows: np.ndarray  # (V', d), the distinct codewords, shifted and scaled
    centre: np.ndarray  # (d,), m
    scale: float  # power of two that keeps squares away from over- and underflow
    first: np.ndarray | None  # (V',), index of each row in the codebook; None: all
    limit: float  # the largest |x| whose scores stay finite


def _first_of_distinct(codebook: np.ndarray) -> np.ndarray | None:
    """Ascending indices of the first of each group of equal rows; None if all differ.

    Equal columns of a GEMM need not come out equal, since its edges run through other
    kernels.  The search over distinct codewords gives the lowest index always.
    """
    # Equal rows have equal hashes; different hashes settle the usual case cheaply.
    # Adding zero makes -0.0 and 0.0 the same bits.
    plain = np.ascontiguousarray(codebook) + 0.0
    wide = plain.shape[1] * plain.itemsize % 8 == 0
    bits = plain.view(np.uint64 if wide else f"u{plain.itemsize}")
    bits = bits.astype(np.uint64, copy=False)
    mixer = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * _GOLDEN
    hashes = np.einsum("ij,j->i", bits, mixer)
    if np.unique(hashes).size == len(codebook):
        return None
    first, _ = unique_rows(plain)
    return None if first.size == len(codebook) else np.sort(first)


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0, dtype=np.float64)


def _coarse_centre(rows: np.ndarray, middle=_mean) -> np.ndarray:
    """Mean, or another middle, on a grid so coarse that differences from it stay short.

    Integers stay integers and dyadic fractions stay short, so that ties in such data
    stay exact ties.  The centre depends on the table alone: were it taken from X, a
    row's code would depend on its batch.
    """
    centre = middle(rows)
    spread = 0.0
    if rows.size:
        # The largest |row - centre|, without so large an array.
        above, below = rows.max(axis=0) - centre, centre - rows.min(axis=0)
        spread = float(max(above.max(), below.max()))
    if not 0.0 < spread < np.inf:
        return centre
    unit = 2.0 ** max(np.floor(np.log2(spread)) - 3.0, -1000.0)
    if _are_integers(rows[:1]) and _are_integers(rows):
        unit = max(unit, 1.0)
    return np.rint(centre / unit) * unit


def _are_integers(rows: np.ndarray) -> bool:
    return np.array_equal(rows, np.rint(rows))


def check_no_zero_rows(rows: np.ndarray, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError if a row is zero; see `skvq.nearest.check_no_zero_rows`."""
    zero = np.flatnonzero(~rows.any(axis=1))
    if zero.size:
        raise ValueError(
            f"metric='cosine' is not defined for zero vectors: row "
            f"{start + zero[0]} of {name} is zero. Drop such rows, or use "
            "metric='sqeuclidean'."
        )


def _unit_rows(rows: np.ndarray, name: str, start: int = 0) -> np.ndarray:
    """Rows divided by their norms, or a ValueError that names the first zero row."""
    check_no_zero_rows(rows, name, start)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    # Through the largest entry, so that neither tiny nor huge rows lose their norm.
    scaled = rows / largest
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled


def _prepare(codebook: np.ndarray, metric: Metric, dtype: np.dtype) -> _Table:
    first = _first_of_distinct(codebook)
    rows = (codebook if first is None else codebook[first]).astype(np.float64)
    if metric == "cosine":
        rows = _unit_rows(rows, "the codebook")
    with np.errstate(over="ignore", invalid="ignore"):
        # Rounded to the dtype first, so that rows and samples shift by the same vector.
        centre = _coarse_centre(rows).astype(dtype)
        rows -= centre
        spread = float(max(rows.max(initial=0.0), -rows.min(initial=0.0)))
        scale = _power_of_two_scale(spread, dtype)
        if scale != 1.0:
            rows *= scale
        half_norms = 0.5 * np.einsum("ij,ij->i", rows, rows)
    if metric == "inner_product":
        # -x.c is sought, up to what is the same for all c: -(x - m).(c - m) - m.(c - m)
        half_norms = -rows @ (scale * centre.astype(np.float64))
    if not np.isfinite(half_norms).all():
        raise ValueError(
            f"The codebook's values, up to {np.abs(codebook).max():.3g}, are too large "
            f"for squared distances in {dtype}: scale X."
        )
    rows = rows.astype(dtype, copy=False)
    weights = np.empty((rows.shape[1] + 1, len(rows)), dtype=dtype)
    np.negative(rows.T, out=weights[:-1])
    weights[-1] = half_norms
    # |x - m| * scale may reach this before a score, a sum of d products, overflows.
    largest = float(np.finfo(dtype).max)
    reach = largest / (4 * max(1.0, spread * scale * rows.shape[1]))
    limit = min(reach / scale, largest) - float(np.abs(centre).max(initial=0.0))
    return _Table(weights, rows, centre, scale, first, limit)


def _power_of_two_scale(spread: float, dtype: np.dtype) -> float:
    """1 for ordinary tables; else what brings the spread near 1, exactly."""
    ordinary, most = (30, 100) if dtype == np.float32 else (400, 900)
    exponent = int(np.frexp(spread)[1])
    if spread == 0.0 or abs(exponent) < ordinary:
        return 1.0
    return 2.0 ** float(np.clip(-exponent, -most, most))


def _check_reach(x: np.ndarray, limit: float) -> None:
    """Raise unless all |x| are below the limit of a table; NaN fails too."""
    largest = max(x.max(initial=0.0), -float(x.min(initial=0.0)))
    if not largest < limit:
        raise ValueError(why_out_of_reach(float(largest)))


def _subtract(x: np.ndarray, centre: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Take the centre from each row; narrow rows several at a time: longer loops."""
    fold = max(1, 512 // max(1, x.shape[1]))
    if len(x) % fold == 0 and x.flags.c_contiguous:
        x = x.reshape(len(x) // fold, -1)
        np.subtract(
            x, np.tile(centre, fold), out=out.reshape(x.shape), casting="same_kind"
        )
    else:
        np.subtract(x, centre, out=out, casting="same_kind")
    return out


def _tile_rows(n_rows: int, n_features: int, n_codewords: int) -> tuple[int, int]:
    """Rows of a tile, whose scores stay in cache, and of a chunk of several tiles."""
    tile = max(
        _TILE_SCORES // n_codewords,
        min(_MIN_GOOD_ROWS, _MAX_TILE_SCORES // n_codewords),
        16,
    )
    rows = min(_CHUNK_ELEMENTS // n_features, _MAX_CHUNK_ROWS)
    chunk = even_chunk(n_rows, max(tile, rows), n_features * n_codewords)
    return min(tile, chunk), chunk


def _as_2d(X, name: str) -> np.ndarray:
    X = np.asarray(check_unmasked(X, name))
    if X.ndim != 2:
        raise ValueError(f"{name} has shape {X.shape}; expected two dimensions.")
    if X.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {X.dtype}; expected real numbers.")
    return X


def _check_tables(X, codebook) -> tuple[np.ndarray, np.ndarray]:
    X, codebook = _as_2d(X, "X"), _as_2d(codebook, "codebook")
    if X.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"X has {X.shape[1]} features, the codebook has {codebook.shape[1]}."
        )
    if codebook.shape[0] == 0:
        raise ValueError("codebook has no codewords; expected at least one.")
    return X, codebook


def _common_dtype(X: np.ndarray, codebook: np.ndarray) -> np.dtype:
    return np.result_type(compute_dtype(X.dtype), compute_dtype(codebook.dtype))


def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Find the nearest codeword of each row; see `skvq.nearest.nearest`."""
    X, codebook = _check_tables(X, codebook)
    metric = check_metric(metric)
    codes = np.empty(len(X), dtype=np.intp)
    found = np.empty(len(X)) if return_distances else None
    if metric in PRODUCT_METRICS:
        _search_by_product(X, codebook, metric, codes, found)
    else:
        _search_by_cdist(X, codebook, metric, codes, found)
    return codes, found


def _search_by_product(X, codebook, metric, codes, found) -> None:
    dtype = _common_dtype(X, codebook)
    table = _prepare(codebook, metric, dtype)
    n_features, n_codewords = X.shape[1], table.weights.shape[1]
    tile, chunk = _tile_rows(len(X), n_features, n_codewords)
    product = product_rows(n_codewords, n_features + 1)

    def make_worker():
        extended = scratch("extended", (chunk, n_features + 1), dtype)
        extended[:, n_features] = 1
        centred = scratch("centred", (chunk, n_features), dtype)
        gaps = scratch("gaps", (chunk, n_features), dtype)
        scores = scratch("scores", (tile, n_codewords), dtype)

        def worker(start: int, stop: int) -> None:
            x, shifted = X[start:stop], centred[: stop - start]
            if metric == "cosine":
                x = _unit_rows(x.astype(dtype, copy=False), "X", start)
            _check_reach(x, table.limit)
            _subtract(x, table.centre, out=shifted)
            if table.scale != 1.0:
                shifted *= dtype.type(table.scale)
            extended[: stop - start, :n_features] = shifted
            code = codes[start:stop]
            for low in range(0, stop - start, tile):
                high = min(low + tile, stop - start)
                score = scores[: high - low]
                multiply_rows(extended[low:high], table.weights, score, product)
                score.argmin(axis=1, out=code[low:high])
            if found is not None:
                gap = np.take(
                    table.rows, code, axis=0, out=gaps[: stop - start], mode="clip"
                )
                found[start:stop] = _found_distances(gap, x, shifted, table, metric)
            if table.first is not None:
                codes[start:stop] = table.first[code]

        return worker

    map_tiles(make_worker, len(X), chunk, n_features * n_codewords)
    _check_finite(found)


def _found_distances(gap, x, shifted, table: _Table, metric: Metric) -> np.ndarray:
    """Distances of the tile x to its codewords, whose table rows `gap` holds."""
    ones = np.ones(x.shape[1], dtype=gap.dtype)
    if metric == "inner_product":
        # The table is centred; the product asked for is not.
        gap += gap.dtype.type(table.scale) * table.centre
        gap *= x
        return (gap @ ones).astype(np.float64) / -table.scale
    gap -= shifted
    gap *= gap
    half = 0.5 if metric == "cosine" else 1.0
    return (gap @ ones).astype(np.float64) * half / table.scale / table.scale


def _search_by_cdist(X, codebook, metric, codes, found) -> None:
    codebook = codebook.astype(np.float64)
    tile = max(16, _TILE_SCORES // (4 * len(codebook)))

    def make_worker():
        def worker(start: int, stop: int) -> None:
            table = cdist(X[start:stop].astype(np.float64), codebook, metric)
            code = table.argmin(axis=1)
            best = table[np.arange(stop - start), code]
            _check_defined(best, metric, X[start:stop])
            codes[start:stop] = code
            if found is not None:
                found[start:stop] = best

        return worker

    work = 8 * X.shape[1] * len(codebook)
    if callable(metric):
        work = 0  # Python code holds the interpreter's lock: threads would only wait
    map_tiles(make_worker, len(X), tile, work)


def _check_defined(values: np.ndarray, metric: Metric, X: np.ndarray) -> None:
    """Raise unless distances of the rows of X are numbers."""
    if not np.isfinite(values).all():
        largest = max(float(X.max()), -float(X.min()))
        raise ValueError(why_undefined(metric, largest))


def _check_finite(found: np.ndarray | None) -> None:
    if found is not None and not np.isfinite(found).all():
        raise ValueError("Distances between X and the codebook overflow: scale X.")


class _Run(NamedTuple):
    """Consecutive subspaces of one width and one number of distinct codewords."""

    first: int  # the run's first subspace
    start: int  # its first feature
    tables: list[_Table]
    weights: np.ndarray  # (n_subspaces, width + 1, V')
    centre: np.ndarray  # (n_subspaces, width, 1)
    scale: np.ndarray  # (n_subspaces, 1, 1)

    @property
    def width(self) -> int:
        return self.weights.shape[1] - 1

    @property
    def stop(self) -> int:
        return self.start + len(self.tables) * self.width


def _group_runs(tables: Sequence[_Table], most_scores: int) -> list[_Run]:
    """Cut the subspaces into runs whose scores one batched product computes."""
    runs: list[_Run] = []
    start = first = 0
    while first < len(tables):
        shape = tables[first].weights.shape
        last = first + 1
        room = max(1, most_scores // shape[1])
        while (
            last < len(tables)
            and last - first < room
            and tables[last].weights.shape == shape
        ):
            last += 1
        run = list(tables[first:last])
        scale = np.array([table.scale for table in run], dtype=run[0].weights.dtype)
        runs.append(
            _Run(
                first,
                start,
                run,
                np.stack([table.weights for table in run]),
                np.stack([table.centre for table in run])[:, :, None],
                scale[:, None, None],
            )
        )
        start = runs[-1].stop
        first = last
    return runs


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp) -> np.ndarray:
    """Do on NumPy what `skvq.nearest.nearest_product` says."""
    X = _as_2d(X, "X")
    codebooks = [_as_2d(table, f"codebooks[{j}]") for j, table in enumerate(codebooks)]
    widths = [table.shape[1] for table in codebooks]
    if sum(widths) != X.shape[1]:
        raise ValueError(
            f"The codebooks' widths {widths} add up to {sum(widths)}, but X has "
            f"{X.shape[1]} features."
        )
    common = np.result_type(*(_common_dtype(X, table) for table in codebooks))
    tables = [_prepare(table, "sqeuclidean", common) for table in codebooks]
    largest = max(table.weights.shape[1] for table in tables)
    rows = int(np.clip(_PRODUCT_TILE_SCORES // largest, 16, _PRODUCT_TILE_ROWS))
    runs = _group_runs(tables, _PRODUCT_TILE_SCORES // rows)
    codes = np.empty((len(X), len(tables)), dtype=dtype)
    chunk = min(_PRODUCT_CHUNK_ROWS, max(len(X), 1))
    rows = min(rows, chunk)
    limit = min(table.limit for table in tables)

    def make_worker():
        scratch = [_RunScratch(run, rows) for run in runs]
        columns = np.empty((len(tables), chunk), dtype=dtype)

        def worker(start: int, stop: int) -> None:
            features = np.ascontiguousarray(X[start:stop].T)
            _check_reach(features, limit)
            for run in scratch:
                run.search(features, columns[:, : stop - start])
            codes[start:stop] = columns[:, : stop - start].T

        return worker

    work = sum(table.weights.size for table in tables)
    map_tiles(make_worker, len(X), chunk, work)
    return codes


class _RunScratch:
    """One thread's memory for the search in a run of subspaces."""

    def __init__(self, run: _Run, rows: int) -> None:
        n_subspaces, _, n_codewords = run.weights.shape
        dtype = run.weights.dtype
        self.run = run
        self.rows = rows
        self.extended = np.ones((n_subspaces, run.width + 1, rows), dtype=dtype)
        self.scores = np.empty((n_subspaces, rows, n_codewords), dtype=dtype)
        self.codes = np.empty((n_subspaces, rows), dtype=np.intp)
        self.scaled = bool((run.scale != 1.0).any())
        self.repeated = any(table.first is not None for table in run.tables)

    def search(self, features: np.ndarray, columns: np.ndarray) -> None:
        """Write the codes of the chunk, (d, n) features, into (m, n) columns."""
        run, n_subspaces = self.run, len(self.run.tables)
        x = features[run.start : run.stop].reshape(n_subspaces, run.width, -1)
        for start in range(0, x.shape[2], self.rows):
            stop = min(start + self.rows, x.shape[2])
            size = stop - start
            shifted = self.extended[:, :-1, :size]
            np.subtract(
                x[:, :, start:stop], run.centre, out=shifted, casting="same_kind"
            )
            if self.scaled:
                shifted *= run.scale
            tile = self.extended[:, :, :size].swapaxes(1, 2)
            np.matmul(tile, run.weights, out=self.scores[:, :size])
            self.scores[:, :size].argmin(axis=2, out=self.codes[:, :size])
            found = columns[run.first : run.first + n_subspaces, start:stop]
            found[...] = self.codes[:, :size]
            if self.repeated:
                for j, table in enumerate(run.tables):
                    if table.first is not None:
                        found[j] = table.first[found[j]]


class DistanceTable:
    """Distances from many rows to a few codewords at a time.

    Keeps what does not depend on the codewords, for learners that ask again and again
    about the same rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers.
    metric : str or callable, default="sqeuclidean"
        As in `nearest`.

    Examples
    --------
    >>> from skvq.nearest import DistanceTable
    >>> DistanceTable([[0.0, 1.0]])([[0.0, 0.0], [4.0, 4.0]]).tolist()
    [[1.0], [25.0]]
    """

    def __init__(self, X, metric: Metric = "sqeuclidean") -> None:
        X = _as_2d(X, "X")
        self.metric = check_metric(metric)
        if self.metric not in PRODUCT_METRICS:
            self.rows = X.astype(np.float64)
            return
        rows = X.astype(compute_dtype(X.dtype))
        if self.metric == "cosine":
            rows = _unit_rows(rows, "X")
        self.centre = _coarse_centre(rows).astype(rows.dtype)
        if self.metric == "inner_product":
            self.centre[:] = 0
        self.rows = rows - self.centre
        self.norms = np.einsum("ij,ij->i", self.rows, self.rows)

    def __call__(self, codebook) -> np.ndarray:
        """Return the distances, (n_codewords, n_samples), never negative.

        Under "inner_product", minus the products, of any sign.
        """
        if self.metric not in PRODUCT_METRICS:
            table = cdist(np.asarray(codebook, np.float64), self.rows, self.metric)
            _check_defined(table, self.metric, self.rows)
            return table
        table = np.asarray(codebook, dtype=self.rows.dtype)
        if self.metric == "cosine":
            table = _unit_rows(table, "the codebook")
        if self.metric == "inner_product":
            return -(table @ self.rows.T)
        table = table - self.centre
        result = (-2.0 * table) @ self.rows.T
        result += self.norms
        result += np.einsum("ij,ij->i", table, table)[:, None]
        np.maximum(result, 0.0, out=result)
        if self.metric == "cosine":
            result *= 0.5
        return result


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None) -> np.ndarray:
    """Do on NumPy what `skvq.nearest.paired` says."""
    X, Y = _as_2d(X, "X"), _as_2d(Y, "Y")
    if X.shape[1] != Y.shape[1] or (codes is None and len(X) != len(Y)):
        raise ValueError(f"X has shape {X.shape}, Y has shape {Y.shape}.")
    metric = check_metric(metric)
    found = np.empty(len(X))
    tile = max(1, 2**16 // max(X.shape[1], 1))

    def make_worker():
        def worker(start: int, stop: int) -> None:
            x = X[start:stop].astype(np.float64)
            rows = slice(start, stop) if codes is None else codes[start:stop]
            found[start:stop] = _paired_tile(x, Y[rows].astype(np.float64), metric)

        return worker

    map_tiles(make_worker, len(X), tile, 8 * X.shape[1])
    _check_defined(found, metric, X)
    return found


def _paired_tile(x: np.ndarray, y: np.ndarray, metric: Metric) -> np.ndarray:
    if metric == "inner_product":
        return -np.einsum("ij,ij->i", x, y)
    if metric == "cityblock":
        return np.abs(x - y).sum(axis=1)
    if metric in PRODUCT_METRICS:
        half = 1.0
        if metric == "cosine":
            x, y, half = _unit_rows(x, "X"), _unit_rows(y, "Y"), 0.5
        x = x - y
        return half * np.einsum("ij,ij->i", x, x)
    return np.array(
        [cdist(a[None], b[None], metric)[0, 0] for a, b in zip(x, y, strict=True)]
    )


def accumulate(X, codes, n_codewords: int, weights=None):
    """Add up the rows of each code; see `skvq.nearest.accumulate`."""
    X = _as_2d(X, "X")
    codes = np.asarray(check_unmasked(codes, "codes"))
    if codes.size and codes.dtype.kind not in "biu":
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers.")
    codes = codes.astype(np.intp, copy=False)
    if codes.shape != (len(X),):
        raise ValueError(f"codes has shape {codes.shape}; expected ({len(X)},).")
    if codes.size and not (0 <= codes.min() and codes.max() < n_codewords):
        raise ValueError(
            f"codes range from {codes.min()} to {codes.max()}; expected "
            f"[0, {n_codewords})."
        )
    if weights is not None:
        weights = np.asarray(check_unmasked(weights, "weights"), dtype=np.float64)
        if weights.shape != codes.shape:
            raise ValueError(
                f"weights has shape {weights.shape}; expected {codes.shape}."
            )
    chunk = max(_MIN_CHUNK_ROWS, n_codewords, -(-len(X) // _MAX_CHUNKS))
    work = 16 * X.shape[1]
    chunk = even_chunk(len(X), chunk, work)
    parts: dict[int, np.ndarray] = {}

    def make_worker():
        def worker(start: int, stop: int) -> None:
            rows = X[start:stop].astype(np.float64, copy=False)
            some = None if weights is None else weights[start:stop]
            add_up = _add_up_few if rows.size <= _FEW_ELEMENTS else _add_up
            parts[start] = add_up(rows, codes[start:stop], n_codewords, some)

        return worker

    map_tiles(make_worker, len(X), chunk, work)
    sums = np.zeros((n_codewords, X.shape[1]))
    for start in sorted(parts):
        sums += parts[start]
    counts = np.bincount(codes, weights, minlength=n_codewords).astype(np.float64)
    return sums, counts


def _add_up(rows, codes, n_codewords: int, weights) -> np.ndarray:
    """Add up the rows of each code, in float64, in the order of the rows."""
    values = np.ones(len(rows)) if weights is None else weights
    # Column i of this matrix has one entry, in the row of sample i's code.
    chosen = csc_array(
        (values, codes, np.arange(len(rows) + 1)), shape=(n_codewords, len(rows))
    )
    return chosen @ rows


def _add_up_few(rows, codes, n_codewords: int, weights) -> np.ndarray:
    """Do the same, in the same order, without a matrix, whose making costs more."""
    width = rows.shape[1]
    if weights is not None:
        rows = rows * weights[:, None]
    cells = codes[:, None] * width + np.arange(width)
    sums = np.bincount(cells.ravel(), rows.ravel(), minlength=n_codewords * width)
    return sums.reshape(n_codewords, width)
