"""The engine on CuPy: `_generic`, with kernels of its own where they pay.

- A flat search is one cuBLAS product per tile, whose scores stay in the device's cache,
  and a warp per row that looks for the smallest.
- A search in subspaces is one kernel: the table of a subspace in shared memory, some
  rows in the registers of each thread, no scores in memory at all.
- Sums are added up in pieces of the rows sorted by code, then the pieces in order: no
  atomics, the same bits every time.

Rows of NumPy come in chunks, the next one copied while this one is computed.  Sizes of
tiles and chunks follow the device's free memory.

The kernels have been written without a device at hand, and have not been measured.
"""

import importlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from skvq._array_api import is_foreign, to_host
from skvq.nearest import _generic, _numpy
from skvq.nearest._metrics import PRODUCT_METRICS, Metric, check_metric

# Scores of a tile: 32 MB of float32, which is less than the cache of large devices.
_TILE_ELEMENTS = 2**23
# Bytes of a table in shared memory that every device has without being asked.
_SHARED_BYTES = 48 * 1024
# Widths of a subspace whose rows fit in the registers of a thread.
_MAX_WIDTH = 32
_THREADS = 256
# Rows of a code that one block adds up.
_PIECE = 256

_SMALLEST = r"""
extern "C" __global__ void smallest(
    const T* scores, long long n, int n_codewords, long long* codes)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = thread / 32;
    const int lane = threadIdx.x % 32;
    if (row >= n) return;
    const T* score = scores + row * n_codewords;
    T best = lane < n_codewords ? score[lane] : score[0];
    int at = lane < n_codewords ? lane : 0;
    for (int k = lane + 32; k < n_codewords; k += 32)
        if (score[k] < best) { best = score[k]; at = k; }
    for (int offset = 16; offset; offset /= 2) {
        const T other = __shfl_down_sync(0xffffffffu, best, offset);
        const int where = __shfl_down_sync(0xffffffffu, at, offset);
        if (other < best || (other == best && where < at)) { best = other; at = where; }
    }
    if (lane == 0) codes[row] = at;
}
"""

_PRODUCT = r"""
// weights: (m, W + 1, n_codewords), the scores' table as NumPy has it; a block is a
// subspace, a thread takes ROWS rows, so that one read of the table serves them all.
extern "C" __global__ void product(
    const T* x, long long n, int n_features, int start, int n_codewords,
    const T* weights, const T* centre, const T* scale, long long* codes)
{
    extern __shared__ unsigned char memory[];
    T* table = reinterpret_cast<T*>(memory);
    const int j = blockIdx.y, n_subspaces = gridDim.y;
    const T* own = weights + (long long)j * (W + 1) * n_codewords;
    for (int i = threadIdx.x; i < (W + 1) * n_codewords; i += blockDim.x)
        table[(i % n_codewords) * (W + 1) + i / n_codewords] = own[i];
    __syncthreads();
    const long long step = (long long)gridDim.x * blockDim.x * ROWS;
    long long first = (long long)blockIdx.x * blockDim.x * ROWS + threadIdx.x;
    for (; first < n; first += step) {
        T z[ROWS][W], best[ROWS];
        int at[ROWS];
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const long long row = first + (long long)r * blockDim.x;
            at[r] = 0;
            #pragma unroll
            for (int f = 0; f < W; f++)
                z[r][f] = row < n ? (x[row * n_features + start + j * W + f]
                                     - centre[j * W + f]) * scale[j] : (T)0;
        }
        for (int k = 0; k < n_codewords; k++) {
            const T* c = table + k * (W + 1);
            T score[ROWS];
            #pragma unroll
            for (int r = 0; r < ROWS; r++) score[r] = c[W];
            #pragma unroll
            for (int f = 0; f < W; f++)
                #pragma unroll
                for (int r = 0; r < ROWS; r++) score[r] += z[r][f] * c[f];
            #pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (k == 0 || score[r] < best[r]) { best[r] = score[r]; at[r] = k; }
        }
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const long long row = first + (long long)r * blockDim.x;
            if (row < n) codes[row * n_subspaces + j] = at[r];
        }
    }
}
"""

_ADD = r"""
// A block is a piece of the rows of one code; column n_features is the weight itself.
extern "C" __global__ void add_pieces(
    const T* x, const double* weights, int weighted, int n_features,
    const long long* order, const long long* begin, const long long* end, double* sums)
{
    const long long piece = blockIdx.x;
    for (int f = threadIdx.x; f <= n_features; f += blockDim.x) {
        double sum = 0;
        for (long long i = begin[piece]; i < end[piece]; i++) {
            const long long row = order[i];
            const double value = f < n_features ? (double)x[row * n_features + f] : 1.0;
            sum += weighted ? value * weights[row] : value;
        }
        sums[piece * (n_features + 1) + f] = sum;
    }
}

// A block is a code, whose pieces are added in their order.
extern "C" __global__ void add_cells(
    const double* pieces, int n_columns, const long long* first, double* sums)
{
    const long long code = blockIdx.x;
    for (int f = threadIdx.x; f < n_columns; f += blockDim.x) {
        double sum = 0;
        for (long long piece = first[code]; piece < first[code + 1]; piece++)
            sum += pieces[piece * n_columns + f];
        sums[code * n_columns + f] = sum;
    }
}
"""


def _cupy() -> Any:
    return importlib.import_module("cupy")


@cache
def _kernel(source: str, name: str, dtype: str, width: int = 1, rows: int = 1) -> Any:
    c_type = {"float32": "float", "float64": "double"}[dtype]
    defines = f"#define T {c_type}\n#define W {width}\n#define ROWS {rows}\n"
    return _cupy().RawKernel(defines + source, name)


class CupyLibrary(_generic.Library):
    """CuPy on the device of its own context."""

    @property
    def out_of_memory(self) -> tuple[type[BaseException], ...]:  # type: ignore[override]
        """What it raises when a tile finds no memory."""
        return (MemoryError, _cupy().cuda.memory.OutOfMemoryError)

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

    def smallest(self, scores: Any) -> Any:
        """Return where the smallest of each row is, along the last axis; the first."""
        cupy = _cupy()
        if scores.dtype.name not in ("float32", "float64"):
            return super().smallest(scores)
        scores = cupy.ascontiguousarray(scores)
        codes = cupy.empty(scores.shape[:-1], dtype=cupy.int64)
        if codes.size:
            blocks = -(-32 * codes.size // _THREADS)
            kernel = _kernel(_SMALLEST, "smallest", scores.dtype.name)
            width = np.int32(scores.shape[-1])
            arguments = (scores, np.int64(codes.size), width, codes)
            kernel((blocks,), (_THREADS,), arguments)
        return codes

    def add_up(self, X: Any, codes: Any, n_codewords: int, weights: Any) -> Any:
        """Return (n_codewords, d + 1): weighted sums of rows, and of the weights."""
        cupy = _cupy()
        n_columns = X.shape[1] + 1
        if not X.shape[0]:
            return cupy.zeros((n_codewords, n_columns))
        dtype = "float32" if X.dtype == cupy.float32 else "float64"
        X = cupy.ascontiguousarray(X, dtype=dtype)
        order, begin, end, first = _pieces(cupy, codes, n_codewords)
        pieces = cupy.empty((begin.size, n_columns))
        threads = min(_THREADS, 32 * -(-n_columns // 32))
        weighted = np.int32(weights is not None)
        # Without weights the kernel reads none, but wants a pointer.
        given = cupy.ascontiguousarray(weights) if weighted else pieces
        _kernel(_ADD, "add_pieces", dtype)(
            (begin.size,),
            (threads,),
            (X, given, weighted, np.int32(X.shape[1]), order, begin, end, pieces),
        )
        sums = cupy.empty((n_codewords, n_columns))
        _kernel(_ADD, "add_cells", dtype)(
            (n_codewords,), (threads,), (pieces, np.int32(n_columns), first, sums)
        )
        return sums


def _pieces(cupy, codes: Any, n_codewords: int) -> tuple[Any, Any, Any, Any]:
    """Cut the rows, sorted by code, in pieces of one code each.

    Returns the order of rows, where each piece begins and ends in it, and the first
    piece of each code, with their number at the end.
    """
    order = cupy.argsort(codes)
    counts = cupy.bincount(codes, minlength=n_codewords)
    zero = cupy.zeros(1, dtype=cupy.int64)
    start = cupy.concatenate([zero, cupy.cumsum(counts)]).astype(cupy.int64)
    of_code = (counts + _PIECE - 1) // _PIECE
    first = cupy.concatenate([zero, cupy.cumsum(of_code)]).astype(cupy.int64)
    piece = cupy.arange(int(first[-1]), dtype=cupy.int64)
    code = cupy.searchsorted(first[1:], piece, side="right")
    begin = start[code] + (piece - first[code]) * _PIECE
    end = cupy.minimum(begin + _PIECE, start[code + 1])
    return order.astype(cupy.int64), begin, end, first


class _FusedProduct:
    """Distance and argmin of product codes in one kernel."""

    def takes(self, run: _generic.Run) -> bool:
        """Whether a table of the run fits in shared memory, and a row in registers."""
        itemsize = run.weights.dtype.itemsize
        size = run.n_codewords * (run.width + 1) * itemsize
        return run.width <= _MAX_WIDTH and size <= _SHARED_BYTES

    def __call__(self, x: Any, run: _generic.Run) -> Any:
        """Return the codes (n_rows, n_subspaces) of a tile of rows."""
        cupy = _cupy()
        x = cupy.ascontiguousarray(x, dtype=run.weights.dtype)
        codes = cupy.empty((x.shape[0], run.n_subspaces), dtype=cupy.int64)
        rows = max(1, min(4, _MAX_WIDTH // run.width))
        kernel = _kernel(_PRODUCT, "product", x.dtype.name, run.width, rows)
        blocks = min(-(-x.shape[0] // (_THREADS * rows)), 2**16)
        shared = run.n_codewords * (run.width + 1) * x.dtype.itemsize
        kernel(
            (blocks, run.n_subspaces),
            (_THREADS,),
            (
                x,
                np.int64(x.shape[0]),
                np.int32(x.shape[1]),
                np.int32(run.start),
                np.int32(run.n_codewords),
                run.weights,
                run.centre,
                run.scale,
                codes,
            ),
            shared_mem=shared,
        )
        return run.first_of_equal(codes)


# -- NumPy's rows, in chunks -----------------------------------------------------------


def _host_library() -> CupyLibrary:
    return CupyLibrary(_cupy().empty(0))


def _chunks(library: CupyLibrary, X: np.ndarray) -> Iterator[tuple[slice, Any]]:
    """Yield the rows on the device, the next ones on their way meanwhile."""
    cupy, pinned_memory = _cupy(), importlib.import_module("cupyx").empty_pinned
    copying = cupy.cuda.Stream(non_blocking=True)
    itemsize = max(8, X.dtype.itemsize)
    rows = max(1, library.free_bytes() // (16 * itemsize * max(1, X.shape[1])))

    def load(start: int) -> tuple[slice, Any, Any, Any] | None:
        nonlocal rows
        while start < len(X):
            stop = min(start + rows, len(X))
            try:
                host = pinned_memory((stop - start, X.shape[1]), dtype=X.dtype)
                host[...] = X[start:stop]
                with copying:
                    device = cupy.empty(host.shape, dtype=X.dtype)
                    device.set(host, stream=copying)
                return slice(start, stop), device, host, copying.record()
            except library.out_of_memory as error:
                if rows == 1:
                    raise MemoryError(
                        "The device has no memory for a row of X: free some."
                    ) from error
                library.release()
                rows = (stop - start + 1) // 2
        return None

    ahead = load(0)
    while ahead is not None:
        part, device, _host, copied = ahead
        ahead = load(part.stop)
        stream = cupy.cuda.get_current_stream()
        stream.wait_event(copied)
        yield part, device
        # Its memory goes back to the pool: nothing may still be reading it.
        stream.synchronize()


def nearest(X, codebook, metric: Metric = "sqeuclidean", *, return_distances=True):
    """Find the nearest codeword of each row; see `_numpy.nearest`."""
    if is_foreign(X):
        library = CupyLibrary(X)
        return _generic.nearest_with(library, X, codebook, metric, return_distances)
    X, codebook = _numpy._check_tables(X, codebook)
    metric = check_metric(metric)
    if metric not in PRODUCT_METRICS | _generic._DIRECT_METRICS:
        return _numpy.nearest(X, codebook, metric, return_distances=return_distances)
    if metric == "cosine":
        check_no_zero_rows(X)  # here, where rows are counted from the first
    codes = np.empty(len(X), dtype=np.intp)
    found = np.empty(len(X)) if return_distances else None
    library = _host_library()
    for rows, x in _chunks(library, X):
        code, distance = _generic.nearest_with(
            library, x, codebook, metric, return_distances
        )
        codes[rows] = to_host(code)
        if found is not None:
            found[rows] = to_host(distance)
    return codes, found


def nearest_product(X, codebooks: Sequence, *, dtype=np.intp):
    """Find the nearest codeword in every subspace; see `_numpy.nearest_product`."""
    fused = _FusedProduct()
    if is_foreign(X):
        return _generic.product_with(CupyLibrary(X), X, codebooks, dtype, fused)
    X = _numpy._as_2d(X, "X")
    codes = np.empty((len(X), len(codebooks)), dtype=dtype)
    library = _host_library()
    for rows, x in _chunks(library, X):
        found = _generic.product_with(library, x, codebooks, dtype, fused)
        codes[rows] = to_host(found)
    return codes


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
    """Find codes of sums by beam search; see `_best`."""
    return _generic.best_with(
        CupyLibrary(X),
        X,
        codebooks,
        beam_size,
        n_best=n_best,
        begin=begin,
        stage_weights=stage_weights,
        return_distances=return_distances,
        dtype=dtype,
    )


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
    """Improve codes of sums, one table at a time; see `_icm`."""
    return _generic.improve_with(
        CupyLibrary(X),
        X,
        codebooks,
        codes,
        n_rounds=n_rounds,
        n_replaced=n_replaced,
        n_sweeps=n_sweeps,
        seed=seed,
        dtype=dtype,
    )


def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Find the nearest Kronecker product of rows; see `_kronecker`."""
    return _generic.kronecker_with(CupyLibrary(X), X, codebooks, return_distances)


def paired(X, Y, metric: Metric = "sqeuclidean", *, codes=None):
    """Compute the distance of each row to its own reconstruction; see `_numpy`."""
    if is_foreign(X):
        return _generic.paired_with(CupyLibrary(X), X, Y, metric, codes)
    # A pass over the rows that does little with each: not worth the transfer.
    return _numpy.paired(X, Y, metric, codes=codes)


def accumulate(X, codes, n_codewords: int, weights=None):
    """Add up the rows of each code; see `_numpy.accumulate`."""
    if is_foreign(X):
        library = CupyLibrary(X)
        return _generic.accumulate_with(library, X, codes, n_codewords, weights)
    return _numpy.accumulate(X, codes, n_codewords, weights)


def map_rows(X: Any, elements_per_row: int, work: Any, *beside: Any) -> Any:
    """Call ``work(X[tile], ...)`` for every tile of rows, and join what it returned."""
    return _generic.map_rows_with(CupyLibrary(X), X, elements_per_row, work, beside)


def check_no_zero_rows(rows: Any, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError that names the first zero row, counted from `start`."""
    module = _generic if is_foreign(rows) else _numpy
    module.check_no_zero_rows(rows, name, start)
