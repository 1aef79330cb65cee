"""CuPy, with kernels of its own where they pay.

- A search in subspaces, and a flat one in narrow rows, is one kernel: the table is in
  shared memory, some rows in the registers of each thread, and no scores in memory.
- A flat search in wide rows is one cuBLAS product per tile, whose scores stay in the
  device's cache, and one warp per row that finds the smallest.
- One warp per row sums up distances from the differences.
- Sums by code are added up in pieces of the rows sorted by code, then the pieces in
  order: without atomics, the bits are the same every time.

NumPy rows come in chunks; one is copied while the one before it is computed.  Sizes of
tiles and chunks follow the device's free memory.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.backends import choice, kernels
from skvq.nearest.backends.arrays import array_namespace
from skvq.nearest.backends.base import Backend, Centred
from skvq.nearest.backends.host import HOST, NumpyBackend
from skvq.nearest.threads import carried

# Numbers of a tile, 1 GB of float32: launches and calls take microseconds each, and
# what the cache holds is no faster than that (measured on an H200).
_TILE_ELEMENTS = 2**28
# Bytes of the scores that one product makes: no longer ones were faster.
_SCORE_BYTES = 2**25
# Bytes of shared memory that every device has without special settings.
_SHARED_BYTES = 48 * 1024
# The largest width of rows kept in a thread's registers, and most registers for its
# rows, by their number: what was fastest on an H200.
_MAX_WIDTH = 64
_REGISTERS = {4: 64, 2: 128}
_THREADS = 256
# Bytes of NumPy rows that go to the device at once.
_CHUNK_BYTES = 2**28
# Parts of them that threads of the host copy side by side.
_COPIES = 8
# The errors that CUDA and cuBLAS raise when they run out of memory.
_CUDA_ERRORS = frozenset({"CUDARuntimeError", "CUDADriverError", "CUBLASError"})
_NO_MEMORY = ("out of memory", "MEMORY_ALLOCATION", "OUT_OF_MEMORY", "ALLOC_FAILED")
# Bytes that sorting takes per row, including those that its order is made from.
_SORT_BYTES = 48
# Number of scores per row from which a block, not a warp, finds the smallest.
_LONG_ROW = 2048
# Number of rows of a code that one block adds up.
_PIECE = 256


def _cupy() -> Any:
    return importlib.import_module("cupy")


class CupyBackend(Backend):
    """CuPy on its current device."""

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Return whether CuPy, or what it is built on, raises this without memory."""
        if isinstance(error, MemoryError):  # includes that of CuPy's pool
            return True
        # Classes of CUDA's and cuBLAS's errors can only be told by their names.
        of_cuda = type(error).__name__ in _CUDA_ERRORS
        return of_cuda and any(word in str(error) for word in _NO_MEMORY)

    def free_bytes(self) -> int:
        """Return the device's free memory plus the unused memory of CuPy's pool."""
        cupy = _cupy()
        free, _ = cupy.cuda.runtime.memGetInfo()
        return int(free + cupy.get_default_memory_pool().free_bytes())

    def tile_elements(self) -> int:
        """Return how many elements the scores of a tile may have."""
        return max(1, min(_TILE_ELEMENTS, self.free_bytes() // 64))

    def release(self) -> None:
        """Free the memory that CuPy keeps for itself."""
        _cupy().get_default_memory_pool().free_all_blocks()

    def to_host(self, array: Any) -> np.ndarray:
        """Return an array of the device as a NumPy array."""
        return array.get()

    def remedy(self, array: Any, name: str) -> str:
        """Return advice, for messages, about an array that NumPy cannot read."""
        return f"give {name}.get()"

    def contiguous(self, array: Any) -> Any:
        """Return an array whose rows are consecutive in memory.

        CuPy reduces views of columns slowly, in a single block.
        """
        return _cupy().ascontiguousarray(array)

    def argmin(self, scores: Any) -> Any:
        """Return the first index of the smallest entry along the last axis."""
        if scores.dtype.name not in kernels.TOP:
            return super().argmin(scores)
        return _smallest(scores)[0]

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return the indices of the k smallest entries of each row, ascending."""
        cupy = _cupy()
        if scores.dtype.name not in kernels.TOP:
            return super().smallest_few(scores, k)
        scores = cupy.ascontiguousarray(scores)
        n, n_scores = scores.shape
        places = cupy.empty((n, k), dtype=cupy.int64)
        if n:
            arguments = scores, np.int64(n), np.int32(n_scores), np.int32(k), places
            kernels.kernel("few", scores.dtype.name)(*_groups(n), arguments)
        return places

    def cell_sums(
        self, X: Any, codes: Any, n_codewords: int, weights: Any
    ) -> tuple[Any, ...]:
        """Return sums (n_codewords, d) and counts (n_codewords,) of rows by code."""
        cupy = _cupy()
        sums = cupy.zeros((n_codewords, X.shape[1] + 1))

        def work(rows: slice) -> Any:
            part = None if weights is None else weights[rows]
            return _added_up(cupy, X[rows], codes[rows], n_codewords, part)

        # A row takes memory for its place in the order, and for a copy if converted.
        there = X.flags.c_contiguous and X.dtype.name in kernels.TOP
        per_row = _SORT_BYTES // 4 + (0 if there else 2 * X.shape[1])
        for part in self.tiles(X.shape[0], per_row, work):
            sums += part
        return sums[:, :-1], sums[:, -1]

    # -- searches without scores in memory -------------------------------------------

    def numbers_per_row(self, n_features: int, n_scores: int) -> int:
        """Return how many numbers a row takes in memory during a search."""
        return 4 * n_features + 16  # scores have tiles of their own

    def centred(self, x: Any, table: Any, dtype: np.dtype) -> Centred:
        """Return rows minus the centre of a table, unless a kernel subtracts it."""
        if _fits(table):
            return Centred(x, x)
        return super().centred(x, table, dtype)

    def argmin_product(self, rows: Centred, table: Any) -> tuple[Any, Any]:
        """Return argmin_k of [x 1] W for each centred row, and its state."""
        cupy, margin = _cupy(), table.margin
        if _fits(table):
            scale = cupy.full(1, table.scale, dtype=table.weights.dtype)
            given = table.weights[None], table.centre[None], scale
            codes, state = _in_registers(rows.rest, 0, *given, margin, table.rounded)
            return codes[:, 0], state[:, 0]
        codes, gaps = self._by_product(rows.rest, table.weights)
        if table.offset is None:
            distances, norms = _pairs(rows.rest, table.rows, codes)
            norms += table.rounded
        else:
            chosen = self.take(table.rows, codes) + table.offset
            product = self.row_products(rows.rest + table.offset, chosen)
            norms = self.row_products(rows.rest, rows.rest)
            distances, norms = abs(product), 0.5 * (norms + table.reach)
        return codes, _state(gaps, norms, distances, margin)

    def judged(
        self, scores: Any, codes: Any, norms: Any, distances: Any, table: Any
    ) -> Any:
        """Return the state of the argmin of each row of scores."""
        if scores.dtype.name not in kernels.TOP:
            return super().judged(scores, codes, norms, distances, table)
        # A look at all scores is cheaper than asking the host which of them matter.
        return _state(_smallest(scores)[1], norms, distances, table.margin)

    def _by_product(self, rest: Any, weights: Any) -> tuple[Any, Any]:
        """Return codes, and by how much the next best score is above the best."""
        cupy, (n, n_codewords) = _cupy(), (rest.shape[0], weights.shape[1])
        codes = cupy.empty(n, dtype=cupy.int64)
        gaps = cupy.empty(n, dtype=rest.dtype)
        # The factors and the constants of the scores are passed apart: the terms of
        # cuBLAS's product then have a round number, for which it is faster.
        factors, constants = weights[:-1, :], weights[-1, :]
        most = min(_SCORE_BYTES, self.free_bytes() // 16) // rest.dtype.itemsize
        rows = max(1, min(n, most // n_codewords))
        scores = cupy.empty((rows, n_codewords), dtype=rest.dtype)
        for start in range(0, n, rows):
            tile = slice(start, start + rows)
            part = rest[tile]
            out = scores[: part.shape[0]]
            cupy.matmul(part, factors, out=out)
            _smallest(out, constants, codes[tile], gaps[tile])
        return codes, gaps

    def gap_norms(self, x: Any, rows: Any, codes: Any) -> Any:
        """Return ||c - x||^2, as float64, for each x and its codeword c."""
        return _pairs(x, rows, codes)[0]

    def argmin_run(self, x: Any, run: Any) -> tuple[Any, Any]:
        """Return codes (n_rows, m) in consecutive subspaces, and their state."""
        m, width = run.weights.shape[0], run.width
        if width <= _MAX_WIDTH and m < 2**16:
            given = run.weights, run.centre, run.scale
            codes, state = _in_registers(x, run.start, *given, run.margin)
        else:
            found = [
                self._argmin_part(x, run, j, run.start + j * width) for j in range(m)
            ]
            codes, state = (
                _cupy().stack(part, axis=1) for part in zip(*found, strict=True)
            )
        if run.first is not None:
            codes = self.take_along(run.first, codes.T).T
        return codes, state

    def _argmin_part(self, x: Any, run: Any, j: int, start: int) -> tuple[Any, Any]:
        """Return codes (n_rows,) in one wide subspace, and their state."""
        weights = run.weights[j]
        rest = (x[:, start : start + run.width] - run.centre[j]) * run.scale[j]
        codes, gaps = self._by_product(rest, weights)
        # The factors of the scores are minus the codewords, feature by feature.
        distances, norms = _pairs(rest, -weights[:-1, :].T, codes)
        return codes, _state(gaps, norms, distances, run.margin)


def _fits(table: Any) -> bool:
    """Return whether one kernel computes with rows in registers, centres and all."""
    return table.weights.shape[0] <= _MAX_WIDTH + 1 and table.offset is None


def _added_up(cupy: Any, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
    """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
    n_columns = X.shape[1] + 1
    dtype = "float32" if X.dtype == cupy.float32 else "float64"
    X = cupy.ascontiguousarray(X, dtype=dtype)
    order, begin, end, first = _pieces(cupy, codes, n_codewords)
    pieces = cupy.empty((begin.size, n_columns))
    threads = min(_THREADS, 32 * -(-n_columns // 32))
    weighted = np.int32(weights is not None)
    # Without weights the kernel reads none, but it wants a pointer.
    given = pieces if weights is None else cupy.ascontiguousarray(weights)
    kernels.kernel("add_pieces", dtype)(
        (begin.size,),
        (threads,),
        (X, given, weighted, np.int32(X.shape[1]), order, begin, end, pieces),
    )
    sums = cupy.empty((n_codewords, n_columns))
    kernels.kernel("add_cells", dtype)(
        (n_codewords,), (threads,), (pieces, np.int32(n_columns), first, sums)
    )
    return sums


def _groups(n_rows: int, size: int = 32) -> tuple[tuple[int], tuple[int]]:
    """Return grid and block of a kernel that serves each row by `size` threads."""
    return (-(-size * n_rows // _THREADS),), (_THREADS,)


def _smallest(
    scores: Any, bias: Any = None, codes: Any = None, gaps: Any = None
) -> tuple[Any, Any]:
    """Return where the smallest of each row of scores + bias is.

    And by how much the next one is above it.  Arrays for both may be given.
    """
    cupy, scores = _cupy(), _cupy().ascontiguousarray(scores)
    shape, width = scores.shape[:-1], scores.shape[-1]
    if codes is None or gaps is None:
        codes = cupy.empty(shape, dtype=cupy.int64)
        gaps = cupy.empty(shape, dtype=scores.dtype)
    if not codes.size:
        return codes, gaps
    group = _THREADS if width >= _LONG_ROW else 32
    kernel = kernels.kernel("smallest", scores.dtype.name, GROUP=group)
    biased, n = np.int32(bias is not None), np.int64(codes.size)
    # Without a bias the kernel reads none, but it wants a pointer.
    given = scores if bias is None else bias
    arguments = scores, given, biased, n, np.int32(width), codes, gaps
    kernel(*_groups(codes.size, group), arguments)
    return codes, gaps


def _pairs(x: Any, rows: Any, codes: Any) -> tuple[Any, Any]:
    """Return ||c - x||^2 and ||x||^2, float64, for each x and its codeword c."""
    cupy, n = _cupy(), x.shape[0]
    x = cupy.ascontiguousarray(x, dtype=rows.dtype)
    distances, norms = cupy.empty(n), cupy.empty(n)
    if n:
        kernel, width = kernels.kernel("gaps", x.dtype.name), np.int32(x.shape[1])
        given = x, np.int64(n), width, cupy.ascontiguousarray(rows), codes
        kernel(*_groups(n), (*given, distances, norms))
    return distances, norms


def _state(gaps: Any, norms: Any, distances: Any, margin: Any) -> Any:
    """Return the state of codes from scores with such gaps; see `Backend.judged`."""
    cupy, n = _cupy(), gaps.size
    state = cupy.zeros(n, dtype=cupy.uint8)
    if n:
        norms, distances = (
            cupy.ascontiguousarray(each, dtype=cupy.float64)
            for each in (norms, distances)
        )
        kernel = kernels.kernel("state", gaps.dtype.name)
        limits = _limits(margin)
        kernel(*_groups(n, 1), (gaps, norms, distances, np.int64(n), *limits, state))
    return state


def _limits(margin: Any) -> tuple[np.float64, ...]:
    return tuple(
        np.float64(each) for each in (margin.share, margin.slack, margin.least)
    )


def _pieces(cupy: Any, codes: Any, n_codewords: int) -> tuple[Any, Any, Any, Any]:
    """Cut the rows, sorted by code, into pieces of one code each.

    Returns the order of the rows, the begin and end of each piece in it, and the first
    piece of each code, followed by the number of pieces.
    """
    # If there is no memory for the sort, this raises an error that can be caught.
    cupy.empty(_SORT_BYTES * codes.size, dtype=cupy.uint8)
    # A radix sort takes one pass per byte of the keys.
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


# -- kernels of product codes ----------------------------------------------------------


def _in_fours(x: Any) -> bool:
    """Return whether four floats can be read at once from the start of each row."""
    return x.shape[1] % 4 == 0 and x.data.ptr % 16 == 0


def product_constants(width: int, dtype: str) -> dict[str, Any]:
    """Return the constants of the kernel "product" for rows of a width."""
    registers = width * np.dtype(dtype).itemsize // 4
    rows = [rows for rows, most in _REGISTERS.items() if rows * registers <= most]
    return {
        "W": width,
        "ROWS": max(rows, default=1),
        "FOURS": int(width % 4 == 0 and dtype == "float32"),
    }


def _in_registers(
    x: Any,
    start: int,
    weights: Any,
    centre: Any,
    scale: Any,
    margin: Any,
    rounded: float = 0.0,
) -> tuple[Any, Any]:
    """Return codes (n_rows, m) of rows, from column `start` on, and their state.

    weights: (m, width + 1, n_codewords); centre: (m, width); scale: (m,).
    """
    cupy = _cupy()
    m, width, n_codewords = weights.shape[0], weights.shape[1] - 1, weights.shape[2]
    x = cupy.ascontiguousarray(x, dtype=weights.dtype)
    codes = cupy.empty((x.shape[0], m), dtype=cupy.int64)
    state = cupy.empty((x.shape[0], m), dtype=cupy.uint8)
    if not x.shape[0]:
        return codes, state
    constants = product_constants(width, x.dtype.name)
    aligned = constants["FOURS"] and start % 4 == 0 and _in_fours(x)
    kernel = kernels.kernel("product", x.dtype.name, **constants, ALIGNED=int(aligned))
    per_codeword = (width + 1) * x.dtype.itemsize
    part = min(n_codewords, _SHARED_BYTES // per_codeword)
    blocks = min(-(-x.shape[0] // (_THREADS * constants["ROWS"])), 2**16)
    share, slack, least = _limits(margin)
    n, added = np.int64(x.shape[0]), np.float64(rounded)
    sizes = n, *(np.int32(size) for size in (x.shape[1], start))
    tables = weights, centre, scale
    counts = np.int32(n_codewords), np.int32(part)
    limits = share, least, added
    kernel(
        (blocks, m),
        (_THREADS,),
        (x, *sizes, *counts, *tables, *limits, codes, state),
        shared_mem=part * per_codeword,
    )
    kernel = kernels.kernel("second", x.dtype.name, W=width)
    counts = np.int32(m), np.int32(n_codewords)
    limits = slack, least, added
    given = x, *sizes, *counts, *tables, *limits, codes, state
    kernel(*_groups(state.size, 1), given)
    return codes, state


# -- NumPy rows, in chunks -------------------------------------------------------------


class _Chunk(NamedTuple):
    """Rows that are being copied to the device."""

    rows: slice
    device: Any
    copied: Any


class _Loader:
    """Copies rows to the device, through pinned memory, in a stream of its own."""

    def __init__(self, be: CupyBackend, X: np.ndarray) -> None:
        cupy = _cupy()
        self.be, self.X = be, X
        self.place = cupy.cuda.Device(cupy.cuda.Device().id)
        self.stream = _copying_stream(self.place.id)
        row = max(1, X.dtype.itemsize * X.shape[1])
        # Computing with a row takes a few times its memory.
        most = min(_CHUNK_BYTES, be.free_bytes() // 16) // row
        self.n_rows = max(1, min(most, len(X)))
        # Two buffers of the host take turns: whoever asks for a chunk is done with the
        # one before the last, so nothing still reads what is overwritten.
        self.staging: list[Any] = [None, None]
        self.turn = 0

    def load(self, start: int) -> _Chunk | None:
        """Start to copy the rows from `start` on; return None if there are no more."""
        # This runs in a thread that does not know the current device.
        with self.place, self.stream:
            while start < len(self.X):
                stop = min(start + self.n_rows, len(self.X))
                try:
                    return self._load(slice(start, stop))
                except Exception as error:
                    if not self.be.ran_out_of_memory(error):
                        raise
                    if stop - start == 1:
                        raise MemoryError(
                            "The device has no memory for one row of X: free some."
                        ) from error
                self.be.release()
                self.n_rows = (stop - start + 1) // 2
        return None

    def _load(self, rows: slice) -> _Chunk:
        part, turn = self.X[rows], self.turn
        device = _cupy().empty(part.shape, dtype=part.dtype)
        if self.staging[turn] is None:
            self.staging[turn] = _pinned((self.n_rows, *part.shape[1:]), part.dtype)
        host = self.staging[turn][: len(part)]
        # One thread copies a fraction of what the device takes in the same time.
        step = -(-len(part) // _COPIES)

        def copy(i: int) -> None:
            host[i * step : (i + 1) * step] = part[i * step : (i + 1) * step]

        HOST.map_jobs(copy, _COPIES)
        device.set(host, stream=self.stream)
        self.turn = 1 - turn
        return _Chunk(rows, device, self.stream.record())


_streams = threading.local()


def _copying_stream(device: int) -> Any:
    """Return this thread's stream for copies, to which its memory stays bound."""
    known = vars(_streams)
    key = f"of_device_{device}"
    if key not in known:
        known[key] = _cupy().cuda.Stream(non_blocking=True)
    return known[key]


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return memory that the device can read directly, or ordinary memory."""
    try:
        return importlib.import_module("cupyx").empty_pinned(shape, dtype=dtype)
    except Exception:
        # The host limits such memory in ways not known before; copies then wait.
        return np.empty(shape, dtype=dtype)


def _chunks(be: CupyBackend, X: np.ndarray) -> Generator[tuple[slice, Any], None, None]:
    """Yield the rows on the device; the next ones are copied meanwhile."""
    loader = _Loader(be, X)
    stream = _cupy().cuda.get_current_stream()
    try:
        with ThreadPoolExecutor(1, "skvq-copy") as thread:
            chunk = thread.submit(loader.load, 0).result()
            while chunk is not None:
                ahead = thread.submit(loader.load, chunk.rows.stop)
                stream.wait_event(chunk.copied)
                yield chunk.rows, chunk.device
                # The chunk's memory returns to the pool: nothing may still read it.
                stream.synchronize()
                chunk = ahead.result()
    finally:
        # After errors too: nothing may outlive the memory that it reads.
        loader.stream.synchronize()
        stream.synchronize()


class FromHost(NumpyBackend):
    """The backend that computes with NumPy rows on the device, chunk by chunk."""

    def call(
        self, search: Callable[..., Any], X: np.ndarray, *beside: np.ndarray
    ) -> Any:
        """Return the result of a search on the device, on the host."""
        if not len(X):
            return search(HOST, X, *beside)
        be = CupyBackend(*_namespace())
        joined: list[np.ndarray | None] = []
        single = False
        with closing(_chunks(be, X)) as chunks:
            for rows, x in chunks:
                be.first_row = rows.start
                found = search(be, x, *(be.send(array[rows]) for array in beside))
                single = not isinstance(found, tuple)
                found = [
                    None if each is None else be.to_host(each)
                    for each in ((found,) if single else found)
                ]
                if not joined:
                    joined = [
                        None if a is None else np.empty((len(X), *a.shape[1:]), a.dtype)
                        for a in found
                    ]
                for whole, part in zip(joined, found, strict=True):
                    if whole is not None:
                        whole[rows] = part
        return joined[0] if single else tuple(joined)


FROM_HOST = FromHost()


def _namespace() -> tuple[Any, Any]:
    array = _cupy().empty(0)
    return array_namespace(array), array.device


def backend_of(array: Any) -> CupyBackend:
    """Return the backend of a CuPy array."""
    return CupyBackend(array_namespace(array), array.device)


def computes() -> bool:
    """Return whether a search works: it needs the kernel compiler and cuBLAS."""
    be, wide = CupyBackend(*_namespace()), np.zeros((1, 128), dtype=np.float32)
    codes = be.argmin(be.xp.matmul(be.send(wide), be.send(wide.T)))
    return be.to_host(codes).tolist() == [0]


def _callers_device() -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that makes other threads use this thread's GPU."""
    if "cupy" not in sys.modules or not choice.cupy_has_device():
        return nullcontext
    cupy = _cupy()
    return partial(cupy.cuda.Device, cupy.cuda.Device().id)


carried.append(_callers_device)
