"""The engine on CuPy: `_generic`, with kernels of its own where they pay.

- A search in subspaces, and a flat one in narrow rows, is one kernel: the table in
  shared memory, some rows in the registers of each thread, no scores in memory at all.
- A flat search in wide rows is one cuBLAS product per tile, whose scores stay in the
  device's cache, and a warp per row that looks for the smallest.  The kernel that does
  both at once is there to be measured against it: see `flat_path`.
- Distances are summed up by a warp per row, from the differences.
- Sums are added up in pieces of the rows sorted by code, then the pieces in order: no
  atomics, the same bits every time.

Rows of NumPy come in chunks, the next one copied while this one is computed.  Sizes of
tiles and chunks follow the device's free memory.
"""

import importlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq._array_api import is_foreign, to_host
from skvq.nearest import _best, _generic, _host, _icm, _kernels, _numpy
from skvq.nearest._metrics import PRODUCT_METRICS, Metric, check_metric

# Scores of a tile: 32 MB of float32, which is less than the cache of large devices.
_TILE_ELEMENTS = 2**23
# Bytes of a table in shared memory that every device has without being asked.
_SHARED_BYTES = 48 * 1024
# Widths of rows that fit in the registers of a thread, and registers for all its rows.
_MAX_WIDTH = 32
_REGISTERS = 64
_THREADS = 256
# Rows of NumPy that go to the device at once.
_CHUNK_BYTES = 2**28
# What CUDA and cuBLAS raise when they find no memory.
_CUDA_ERRORS = frozenset({"CUDARuntimeError", "CUDADriverError", "CUBLASError"})
_NO_MEMORY = ("out of memory", "MEMORY_ALLOCATION", "OUT_OF_MEMORY", "ALLOC_FAILED")
# Memory that sorting a row takes, with what its place in the order is made from.
_SORT_BYTES = 48
# Scores of a row from which a block looks for the smallest, and not a warp.
_LONG_ROW = 2048
# Rows of a code that one block adds up.
_PIECE = 256


def _cupy() -> Any:
    return importlib.import_module("cupy")


def flat_path(width: int) -> str:
    """Return how a flat search in rows of a width is done.

    "registers": by the kernel of product codes, as in one subspace.  "product": by a
    product of cuBLAS, whose scores go through memory.  "fused": by a kernel of its own
    without scores in memory; never chosen before it has been seen to be faster, which
    `benchmarks/gpu.py` measures.
    """
    # A product that sums few terms is bound by the memory that its scores take.
    return "registers" if width <= _MAX_WIDTH else "product"


class CupyLibrary(_generic.Library):
    """CuPy on the device of its own context."""

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether this is what CuPy, or what it is built on, raises without memory."""
        if isinstance(error, MemoryError):  # that of CuPy's pool among them
            return True
        # Errors of CUDA and cuBLAS, whose classes tell no more than their names.
        of_cuda = type(error).__name__ in _CUDA_ERRORS
        return of_cuda and any(word in str(error) for word in _NO_MEMORY)

    def free_bytes(self) -> int:
        """Return the device's free memory, and what CuPy's pool holds unused."""
        cupy = _cupy()
        free, _ = cupy.cuda.runtime.memGetInfo()
        return int(free + cupy.get_default_memory_pool().free_bytes())

    def tile_elements(self) -> int:
        """Return how many elements the scores of a tile may have."""
        return max(1, min(_TILE_ELEMENTS, self.free_bytes() // 64))

    def release(self) -> None:
        """Give back memory that CuPy keeps for itself."""
        _cupy().get_default_memory_pool().free_all_blocks()

    def product_search(self, *arguments: Any) -> Any:
        """Return the search by matrix products, or what does without them."""
        return _FlatSearch(self, *arguments)

    def smallest(self, scores: Any) -> Any:
        """Return where the smallest of each row is, along the last axis; the first."""
        cupy = _cupy()
        if scores.dtype.name not in _kernels.TOP:
            return super().smallest(scores)
        codes = cupy.empty(scores.shape[:-1], dtype=cupy.int64)
        _smallest(cupy.ascontiguousarray(scores), None, codes)
        return codes

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return where the k smallest of each row are, ascending."""
        cupy = _cupy()
        if scores.dtype.name not in _kernels.TOP:
            return super().smallest_few(scores, k)
        scores = cupy.ascontiguousarray(scores)
        n, n_scores = scores.shape
        places = cupy.empty((n, k), dtype=cupy.int64)
        if n:
            arguments = scores, np.int64(n), np.int32(n_scores), np.int32(k), places
            _kernels.kernel("few", scores.dtype.name)(*_groups(n), arguments)
        return places

    def add_up(self, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
        """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
        cupy = _cupy()
        sums = cupy.zeros((n_codewords, X.shape[1] + 1))

        def work(start: int, stop: int) -> Any:
            part = None if weights is None else weights[start:stop]
            return _added_up(cupy, X[start:stop], codes[start:stop], n_codewords, part)

        # What a row takes is its place in the order, and where it is converted, a copy.
        there = X.flags.c_contiguous and X.dtype.name in _kernels.TOP
        per_row = 1 if there else 1 + 2 * X.shape[1]
        for part in _generic.iterate_tiles(self, X.shape[0], per_row, work):
            sums += part
        return sums


def _added_up(cupy, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
    """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
    n_columns = X.shape[1] + 1
    dtype = "float32" if X.dtype == cupy.float32 else "float64"
    X = cupy.ascontiguousarray(X, dtype=dtype)
    order, begin, end, first = _pieces(cupy, codes, n_codewords)
    pieces = cupy.empty((begin.size, n_columns))
    threads = min(_THREADS, 32 * -(-n_columns // 32))
    weighted = np.int32(weights is not None)
    # Without weights the kernel reads none, but wants a pointer.
    given = pieces if weights is None else cupy.ascontiguousarray(weights)
    _kernels.kernel("add_pieces", dtype)(
        (begin.size,),
        (threads,),
        (X, given, weighted, np.int32(X.shape[1]), order, begin, end, pieces),
    )
    sums = cupy.empty((n_codewords, n_columns))
    _kernels.kernel("add_cells", dtype)(
        (n_codewords,), (threads,), (pieces, np.int32(n_columns), first, sums)
    )
    return sums


def _groups(n_rows: int, size: int = 32) -> tuple[tuple[int], tuple[int]]:
    """Return grid and block of a kernel in which so many threads serve a row."""
    return (-(-size * n_rows // _THREADS),), (_THREADS,)


def _smallest(scores: Any, bias: Any, codes: Any) -> None:
    """Write to codes where the smallest of each row of scores + bias is."""
    if not codes.size:
        return
    width = scores.shape[-1]
    group = _THREADS if width >= _LONG_ROW else 32
    kernel = _kernels.kernel("smallest", scores.dtype.name, GROUP=group)
    biased, n = np.int32(bias is not None), np.int64(codes.size)
    # Without a bias the kernel reads none, but wants a pointer.
    given = scores if bias is None else bias
    arguments = scores, given, biased, n, np.int32(width), codes
    kernel(*_groups(codes.size, group), arguments)


def _pieces(cupy, codes: Any, n_codewords: int) -> tuple[Any, Any, Any, Any]:
    """Cut the rows, sorted by code, in pieces of one code each.

    Returns the order of rows, where each piece begins and ends in it, and the first
    piece of each code, with their number at the end.
    """
    # If there is no memory for the sort, this says so, in a way that can be caught.
    cupy.empty(_SORT_BYTES * codes.size, dtype=cupy.uint8)
    # A radix sort takes as many passes as keys have bytes.
    narrow = codes.astype(np.min_scalar_type(max(1, n_codewords - 1)), copy=False)
    order = cupy.argsort(narrow).astype(cupy.int64, copy=False)
    every = cupy.arange(n_codewords, dtype=cupy.int64)
    end_of = cupy.searchsorted(cupy.take(codes, order), every, side="right")
    zero = cupy.zeros(1, dtype=cupy.int64)
    start = cupy.concatenate([zero, end_of.astype(cupy.int64, copy=False)])
    of_code = (start[1:] - start[:-1] + (_PIECE - 1)) // _PIECE
    first = cupy.concatenate([zero, cupy.cumsum(of_code)]).astype(cupy.int64)
    piece = cupy.arange(int(first[-1]), dtype=cupy.int64)
    code = cupy.searchsorted(first[1:], piece, side="right")
    begin = start[code] + (piece - first[code]) * _PIECE
    end = cupy.minimum(begin + _PIECE, start[code + 1])
    return order, begin, end, first


# -- searches without scores in memory -------------------------------------------------


def _in_fours(x: Any) -> bool:
    """Whether each row begins where four floats can be read at once."""
    return x.shape[1] % 4 == 0 and x.data.ptr % 16 == 0


def product_constants(width: int, dtype: str, code_dtype: str) -> dict[str, Any]:
    """Return the constants of the kernel "product" for rows of a width."""
    registers = width * np.dtype(dtype).itemsize // 4
    return {
        "CODE": _kernels.C_TYPES[code_dtype],
        "W": width,
        "ROWS": max(1, min(4, _REGISTERS // registers)),
        "FOURS": int(width % 4 == 0 and dtype == "float32"),
    }


def _in_registers(
    x: Any, start: int, weights: Any, centre: Any, scale: Any, dtype: Any
) -> Any:
    """Return codes (n_rows, m) of rows in the columns from `start` on, in one kernel.

    weights: (m, width + 1, n_codewords); centre: (m, width); scale: (m, 1).
    """
    cupy = _cupy()
    m, width, n_codewords = weights.shape[0], weights.shape[1] - 1, weights.shape[2]
    x = cupy.ascontiguousarray(x, dtype=weights.dtype)
    codes = cupy.empty((x.shape[0], m), dtype=dtype)
    if not x.shape[0]:
        return codes
    constants = product_constants(width, x.dtype.name, codes.dtype.name)
    aligned = constants["FOURS"] and start % 4 == 0 and _in_fours(x)
    kernel = _kernels.kernel("product", x.dtype.name, **constants, ALIGNED=int(aligned))
    per_codeword = (width + 1) * x.dtype.itemsize
    part = min(n_codewords, _SHARED_BYTES // per_codeword)
    blocks = min(-(-x.shape[0] // (_THREADS * constants["ROWS"])), 2**16)
    kernel(
        (blocks, m),
        (_THREADS,),
        (
            x,
            np.int64(x.shape[0]),
            np.int32(x.shape[1]),
            np.int32(start),
            np.int32(n_codewords),
            np.int32(part),
            weights,
            centre,
            scale,
            codes,
        ),
        shared_mem=part * per_codeword,
    )
    return codes


class _FusedProduct:
    """Distance and argmin of product codes in one kernel."""

    def __init__(self, dtype: Any) -> None:
        name = np.dtype(dtype).name
        self.dtype = name if name in _kernels.C_TYPES else "int64"

    def takes(self, run: _generic.Run) -> bool:
        """Whether a row of the run fits in registers, and the grid has so many runs."""
        return run.width <= _MAX_WIDTH and run.n_subspaces < 2**16

    def __call__(self, x: Any, run: _generic.Run) -> Any:
        """Return the codes (n_rows, n_subspaces) of a tile of rows."""
        dtype = "int64" if run.repeated else self.dtype
        codes = _in_registers(x, run.start, run.weights, run.centre, run.scale, dtype)
        return run.first_of_equal(codes)


class _FlatSearch(_generic._ProductSearch):
    """The search in one table, by whatever `flat_path` says."""

    def __init__(self, library: CupyLibrary, *arguments: Any) -> None:
        super().__init__(library, *arguments)
        width, self.n_codewords = self.X.shape[1], self.weights.shape[1]
        self.path = flat_path(width)
        if self.path == "fused" and self.dtype != np.float32:
            self.path = "product"  # its tiles of float64 do not fit in shared memory
        # The rows, and what they are before they are centred; scores have tiles of
        # their own within these.
        self.elements_per_row = max(1, width // 2)
        self.most_scores = 4 * library.tile_elements() // self.weights.dtype.itemsize
        # Rows and constants of the scores' table, which a product of cuBLAS reads
        # better apart: its sums then have a round number of terms.
        self.factors, self.constants = self.weights[:-1, :], self.weights[-1, :]

    def tile(self, start: int, stop: int) -> tuple[Any, Any]:
        """Return the codes of a tile and their distances, or None."""
        cupy = _cupy()
        x = cupy.ascontiguousarray(self.X[start:stop, :], dtype=self.dtype)
        if self.metric == "cosine":
            x = _generic._nonzero_unit_rows(x, start)
        codes = getattr(self, f"_by_{self.path}")(cupy, x)
        found = None
        if self.return_distances and self.metric == "inner_product":
            found = self._distances(x, None, codes)
        elif self.return_distances:
            found = self._gaps(cupy, x, codes)
        if self.first is not None:
            codes = cupy.take(self.first, codes, axis=0)
        return codes, found

    def _by_registers(self, cupy: Any, x: Any) -> Any:
        scale = cupy.full((1, 1), self.scale, dtype=self.dtype)
        tables = self.weights[None, :, :], self.centre[None, :], scale
        return _in_registers(x, 0, *tables, cupy.int64)[:, 0]

    def _by_product(self, cupy: Any, x: Any) -> Any:
        codes = cupy.empty(x.shape[0], dtype=cupy.int64)
        shifted = x - self.centre
        if self.scale != 1.0:
            shifted *= self.dtype(self.scale)
        rows = max(1, min(x.shape[0], self.most_scores // self.n_codewords))
        scores = cupy.empty((rows, self.n_codewords), dtype=self.dtype)
        for start in range(0, x.shape[0], rows):
            part = shifted[start : start + rows]
            out = scores[: part.shape[0]]
            cupy.matmul(part, self.factors, out=out)
            _smallest(out, self.constants, codes[start : start + rows])
        return codes

    def _by_fused(self, cupy: Any, x: Any) -> Any:
        codes = cupy.empty(x.shape[0], dtype=cupy.int64)
        if not x.shape[0]:
            return codes
        n_rows, width = x.shape
        weights, constants = self._padded(cupy)
        kernel = _kernels.kernel("flat", x.dtype.name, FOURS=int(_in_fours(x)))
        kernel(
            (-(-n_rows // _kernels.SIDE),),
            (_THREADS,),
            (
                x,
                np.int64(n_rows),
                np.int32(width),
                np.int32(constants.size),
                weights,
                constants,
                self.centre,
                self.dtype(self.scale),
                codes,
            ),
        )
        return codes

    def _padded(self, cupy: Any) -> tuple[Any, Any]:
        """Return factors and constants of the scores, in whole tiles of the kernel."""
        width, n_codewords = self.factors.shape
        wide = -(-n_codewords // _kernels.SIDE) * _kernels.SIDE
        weights = cupy.zeros(
            (-(-width // _kernels.STEP) * _kernels.STEP, wide), dtype=self.dtype
        )
        weights[:width, :n_codewords] = self.factors
        constants = cupy.full(wide, _kernels.TOP["float32"], dtype=self.dtype)
        constants[:n_codewords] = self.constants
        return weights, constants

    def _gaps(self, cupy: Any, x: Any, codes: Any) -> Any:
        distances = cupy.empty(x.shape[0], dtype=cupy.float64)
        half = 0.5 if self.metric == "cosine" else 1.0
        if x.shape[0]:
            kernel = _kernels.kernel("gaps", x.dtype.name)
            kernel(
                *_groups(x.shape[0]),
                (
                    x,
                    np.int64(x.shape[0]),
                    np.int32(x.shape[1]),
                    self.centre,
                    self.dtype(self.scale),
                    self.rows,
                    codes,
                    np.float64(half / self.scale / self.scale),
                    distances,
                ),
            )
        return distances


# -- NumPy's rows, in chunks -----------------------------------------------------------


class _Chunk(NamedTuple):
    """Rows on their way to the device."""

    rows: slice
    device: Any
    copied: Any


class _Loader:
    """Copies rows to the device, by way of pinned memory, in a stream of its own."""

    def __init__(self, library: CupyLibrary, X: np.ndarray) -> None:
        cupy = _cupy()
        self.library, self.X = library, X
        self.place = cupy.cuda.Device(cupy.cuda.Device().id)
        self.stream = _copying_stream(self.place.id)
        row = max(1, X.dtype.itemsize * X.shape[1])
        # What is computed from a row takes a few times its memory.
        most = min(_CHUNK_BYTES, library.free_bytes() // 16) // row
        self.n_rows = max(1, min(most, len(X)))
        # Memory of the host, in turns: who asks for a chunk is done with the one before
        # the last, so that nothing reads what is written here.
        self.staging: list[Any] = [None, None]
        self.turn = 0

    def load(self, start: int) -> _Chunk | None:
        """Begin to copy the rows from `start` on; None if there are no more."""
        # This runs in a thread that knows nothing of the device in use.
        with self.place, self.stream:
            while start < len(self.X):
                stop = min(start + self.n_rows, len(self.X))
                try:
                    return self._load(slice(start, stop))
                except Exception as error:
                    if not self.library.ran_out_of_memory(error):
                        raise
                    if stop - start == 1:
                        raise MemoryError(
                            "The device has no memory for one row of X: free some."
                        ) from error
                self.library.release()
                self.n_rows = (stop - start + 1) // 2
        return None

    def _load(self, rows: slice) -> _Chunk:
        part, turn = self.X[rows], self.turn
        device = _cupy().empty(part.shape, dtype=part.dtype)
        if self.staging[turn] is None:
            self.staging[turn] = _pinned((self.n_rows, *part.shape[1:]), part.dtype)
        host = self.staging[turn][: len(part)]
        host[...] = part
        device.set(host, stream=self.stream)
        self.turn = 1 - turn
        return _Chunk(rows, device, self.stream.record())


_streams = threading.local()


def _copying_stream(device: int) -> Any:
    """Return this thread's stream for copies: memory stays with the stream it had."""
    known = vars(_streams)
    key = f"of_device_{device}"
    if key not in known:
        known[key] = _cupy().cuda.Stream(non_blocking=True)
    return known[key]


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return memory that the device reads by itself, or what there is."""
    try:
        return importlib.import_module("cupyx").empty_pinned(shape, dtype=dtype)
    except Exception:
        # The host's limits on such memory are not known before; copies then wait.
        return np.empty(shape, dtype=dtype)


def _chunks(
    library: CupyLibrary, X: np.ndarray
) -> Generator[tuple[slice, Any], None, None]:
    """Yield the rows on the device, the next ones on their way meanwhile."""
    loader = _Loader(library, X)
    stream = _cupy().cuda.get_current_stream()
    try:
        with ThreadPoolExecutor(1, "skvq-copy") as thread:
            chunk = thread.submit(loader.load, 0).result()
            while chunk is not None:
                ahead = thread.submit(loader.load, chunk.rows.stop)
                stream.wait_event(chunk.copied)
                yield chunk.rows, chunk.device
                # Its memory goes back to the pool: nothing may still be reading it.
                stream.synchronize()
                chunk = ahead.result()
    finally:
        # Also after an error: nothing may outlive the memory that it reads.
        loader.stream.synchronize()
        stream.synchronize()


def _in_chunks(X: np.ndarray, work: Callable) -> tuple[np.ndarray | None, ...]:
    """Return what a function makes of the rows of X on the device, on the host.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        The rows.
    work : callable
        ``work(library, x, rows)`` returns a tuple of arrays of the device, or None in
        their place; `x` are rows on the device, `rows` is the slice of X that they are.

    Returns
    -------
    joined : tuple of ndarray or None
        What it returns for all rows.
    """
    library = CupyLibrary(_cupy().empty(0))
    joined: list[np.ndarray | None] = []
    with closing(_chunks(library, X)) as chunks:
        for rows, x in chunks:
            found = [None if a is None else to_host(a) for a in work(library, x, rows)]
            if not joined:
                joined = [
                    None if a is None else np.empty((len(X), *a.shape[1:]), a.dtype)
                    for a in found
                ]
            for whole, part in zip(joined, found, strict=True):
                if whole is not None:
                    whole[rows] = part
    return tuple(joined)


def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Find the nearest codeword of each row; see `nearest.nearest`."""
    if is_foreign(X):
        library = CupyLibrary(X)
        return _generic.nearest_with(library, X, codebook, metric, return_distances)
    X, codebook = _numpy._check_tables(X, codebook)
    metric = check_metric(metric)
    if metric not in PRODUCT_METRICS | _generic._DIRECT_METRICS:
        return _host.nearest(X, codebook, metric, return_distances=return_distances)
    if metric == "cosine":
        check_no_zero_rows(X)  # here, where rows are counted from the first
    if not len(X):
        return _host.nearest(X, codebook, metric, return_distances=return_distances)

    def work(library: CupyLibrary, x: Any, rows: slice) -> tuple:
        return _generic.nearest_with(library, x, codebook, metric, return_distances)

    return _in_chunks(X, work)


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Find the nearest codeword in every subspace; see `nearest.nearest_product`."""
    fused = _FusedProduct(dtype)
    if is_foreign(X):
        return _generic.product_with(CupyLibrary(X), X, codebooks, dtype, fused)
    X = _numpy._as_2d(X, "X")
    if not len(X):
        return _host.nearest_product(X, codebooks, dtype=dtype)

    def work(library: CupyLibrary, x: Any, rows: slice) -> tuple:
        return (_generic.product_with(library, x, codebooks, dtype, fused),)

    return _in_chunks(X, work)[0]


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
    """Find codes of sums by beam search; see `nearest_best`."""
    options = {
        "n_best": n_best,
        "stage_weights": stage_weights,
        "return_distances": return_distances,
        "dtype": dtype,
    }
    search = partial(_generic.best_with, codebooks=codebooks, beam_size=beam_size)
    if is_foreign(X):
        return search(CupyLibrary(X), X, begin=begin, **options)
    X = _numpy._as_2d(X, "X")
    begin = _best._check_begin(begin, X, codebooks)
    if not len(X):
        return _host.nearest_best(X, codebooks, beam_size, begin=begin, **options)

    def work(library: CupyLibrary, x: Any, rows: slice) -> tuple:
        return search(library, x, begin=begin[rows], **options)

    return _in_chunks(X, work)


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
    # All rows have the same rounds, whatever the chunk that they are in.
    options = {
        "n_rounds": n_rounds,
        "n_replaced": n_replaced,
        "n_sweeps": n_sweeps,
        "seed": seed,
        "dtype": dtype,
    }
    if is_foreign(X):
        return _generic.improve_with(CupyLibrary(X), X, codebooks, codes, **options)
    X, codes = _numpy._as_2d(X, "X"), np.asarray(codes)
    _icm.check_codes_shape(codes, X, codebooks)
    if not len(X):
        return _host.improve_sums(X, codebooks, codes, **options)

    def work(library: CupyLibrary, x: Any, rows: slice) -> tuple:
        return _generic.improve_with(library, x, codebooks, codes[rows], **options)

    return _in_chunks(X, work)


def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Find the nearest Kronecker product of rows; see `nearest_kronecker`."""
    if is_foreign(X):
        library = CupyLibrary(X)
        return _generic.kronecker_with(library, X, codebooks, return_distances)
    X = _numpy._as_2d(X, "X")
    if not len(X):
        return _host.nearest_kronecker(X, codebooks, return_distances=return_distances)

    def work(library: CupyLibrary, x: Any, rows: slice) -> tuple:
        return _generic.kronecker_with(library, x, codebooks, return_distances)

    return _in_chunks(X, work)


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Compute the distance of each row to its own reconstruction; see `paired`."""
    if is_foreign(X):
        return _generic.paired_with(CupyLibrary(X), X, Y, metric, codes)
    # A pass over the rows that does little with each: not worth the transfer.
    return _host.paired(X, Y, metric, codes=codes)


def accumulate(X, codes, n_codewords: int, weights=None):
    """Add up the rows of each code; see `nearest.accumulate`."""
    if is_foreign(X):
        library = CupyLibrary(X)
        return _generic.accumulate_with(library, X, codes, n_codewords, weights)
    return _host.accumulate(X, codes, n_codewords, weights)


def map_rows(X: Any, elements_per_row: int, work: Any, *beside: Any) -> Any:
    """Call ``work(X[tile], ...)`` for every tile of rows, and join what it returned."""
    return _generic.map_rows_with(CupyLibrary(X), X, elements_per_row, work, beside)


def row_tiles(X: Any, elements_per_row: int, work: Callable) -> Iterator[Any]:
    """Yield ``work(rows)`` for every tile of rows, a slice."""
    return _generic.row_tiles_with(CupyLibrary(X), X, elements_per_row, work)


def check_no_zero_rows(rows: Any, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError that names the first zero row, counted from `start`."""
    module = _generic if is_foreign(rows) else _host
    module.check_no_zero_rows(rows, name, start)
