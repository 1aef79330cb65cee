"""Threads of the engine: one per core that BLAS would use, BLAS held to one inside.

Matrix products over small tiles do not scale inside BLAS, and `argmin` does not use
BLAS at all.  So the engine puts whole tiles on its own threads.  How many there may
be is read from BLAS, because that is where joblib's workers and
`threadpoolctl.threadpool_limits` leave their wish.
"""

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  loads SciPy's BLAS, so that the guard knows it
from threadpoolctl import ThreadpoolController

from skvq.nearest._backend import callers_device

# Below this many multiply-adds the start of a thread costs more than it saves.
MIN_WORK_PER_CALL = 20_000_000

# OpenBLAS's names of the processors whose kernels take small products as they are.
_SMALL_KERNELS = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})
# ... up to so many multiply-adds: above, it copies both factors into blocks first.
_SMALL_PRODUCT = 10**6
_MIN_PRODUCT_ROWS, _MAX_PRODUCT_ROWS = 16, 128


class _BlasGuard:
    """Holds BLAS at one thread while anyone is inside, whichever thread that is.

    The limits of threadpoolctl are process-wide.  Entered by several threads at once,
    each would save the count that the one before it has set, and the process would be
    left at one thread.  This guard counts its users: the first saves and limits, the
    last restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._n_threads = 1
        self._controller: ThreadpoolController | None = None
        self._limiter = None

    def _enter(self) -> int:
        with self._lock:
            if self._users == 0:
                controller = self._found()
                counts = [lib.num_threads for lib in controller.lib_controllers]
                self._n_threads = max(counts) if counts else _available_cores()
                self._limiter = controller.limit(limits=1)
            self._users += 1
            return self._n_threads

    def _exit(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limiter is not None:
                self._limiter.restore_original_limits()
                self._limiter = None

    def has_small_kernels(self) -> bool:
        """Whether NumPy's BLAS multiplies small matrices without copying them first.

        OpenBLAS does where it runs its kernels for AVX-512.
        """
        with self._lock:
            libraries = _numpys_own(self._found().lib_controllers)
            return bool(libraries) and all(
                getattr(library, "architecture", None) in _SMALL_KERNELS
                for library in libraries
            )

    def _found(self) -> ThreadpoolController:
        if self._controller is None:
            self._controller = ThreadpoolController().select(user_api="blas")
        return self._controller

    @contextmanager
    def __call__(self) -> Iterator[int]:
        """Hold BLAS at one thread and yield how many it would have used."""
        n_threads = self._enter()
        try:
            yield n_threads
        finally:
            self._exit()


def _numpys_own(libraries: list) -> list:
    """Of the BLAS libraries in the process, that of NumPy's wheel; all if it has none.

    Others bring their own, of another version: SciPy, faiss, torch.
    """
    folders = {"numpy", "numpy.libs"}
    own = [one for one in libraries if folders & set(Path(one.filepath).parts)]
    return own or libraries


def _available_cores() -> int:
    """Cores of this process, for a BLAS that threadpoolctl cannot ask."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


single_threaded_blas = _BlasGuard()


class _Pool:
    """Threads that wait between calls: starting them anew costs 0.1 ms each time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def submit(self, function: Callable[[], None], copies: int) -> list[Future]:
        with self._lock:
            if self._executor is None or self._size < copies:
                # An older, smaller executor finishes what it has and is collected.
                self._executor = ThreadPoolExecutor(copies, thread_name_prefix="skvq")
                self._size = copies
            return [self._executor.submit(function) for _ in range(copies)]


_pool = _Pool()


def _renew_after_fork() -> None:
    """Start anew in a forked child, which has neither the threads nor the locks."""
    global _pool
    _pool = _Pool()
    held = single_threaded_blas._limiter
    single_threaded_blas.__init__()  # type: ignore[misc]
    if held is not None:
        held.restore_original_limits()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


def even_chunk(n_rows: int, most: int) -> int:
    """Rows of a chunk, at most `most`, that cuts the rows in an even number of chunks.

    An odd chunk at the end would leave one of two threads waiting.
    """
    n_pairs = max(1, -(-n_rows // (2 * most)))
    return max(1, -(-n_rows // (2 * n_pairs)))


class _Scratch(threading.local):
    """Memory of one thread that waits between calls: fresh pages cost a fault each."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Return an array, of arbitrary values, that the next call may overwrite."""
        dtype = np.dtype(dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        buffer = self.buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            buffer = self.buffers[name] = np.empty(n_bytes, dtype=np.uint8)
        return buffer[:n_bytes].view(dtype).reshape(shape)


scratch = _Scratch()


def product_rows(n_columns: int, n_inner: int) -> int | None:
    """Rows that a product of a tile should take at a time; None: all of them.

    A few rows more than OpenBLAS's limit for its small kernels, and a product with few
    columns or a short sum takes up to three times as long.
    """
    rows = (_SMALL_PRODUCT - 1) // (n_columns * n_inner)
    if rows < _MIN_PRODUCT_ROWS or not single_threaded_blas.has_small_kernels():
        return None
    return min(1 << (rows.bit_length() - 1), _MAX_PRODUCT_ROWS)


def multiply_rows(
    tile: np.ndarray, table: np.ndarray, out: np.ndarray, rows: int | None
) -> None:
    """Multiply a tile by a table into `out`, so many rows at a time."""
    whole = 0
    if rows is not None and len(tile) >= rows:
        whole = len(tile) // rows * rows
        np.matmul(
            tile[:whole].reshape(-1, rows, tile.shape[1]),
            table,
            out=out[:whole].reshape(-1, rows, table.shape[1]),
        )
    if whole < len(tile):
        np.matmul(tile[whole:], table, out=out[whole:])


Worker = Callable[[int, int], None]


class _Share(threading.local):
    """How many threads the calls of this one may use, where several run at once."""

    def __init__(self) -> None:
        self.most = sys.maxsize


_share = _Share()


def map_tiles(
    make_worker: Callable[[], Worker], n_rows: int, tile: int, work_per_row: float
) -> None:
    """Call ``worker(start, stop)`` for every tile of rows, on as many threads as pay.

    Parameters
    ----------
    make_worker : callable
        Called once in each thread; makes the scratch memory and returns the function
        that does one tile.
    n_rows, tile : int
        Rows in all, and in a tile.  The borders depend on these two alone, so what a
        tile computes does not depend on the number of threads.
    work_per_row : float
        Multiply-adds for a row; small jobs stay on the calling thread.
    """
    starts = range(0, n_rows, tile)
    with single_threaded_blas() as n_threads:
        if n_rows * work_per_row < MIN_WORK_PER_CALL:
            n_threads = 1
        n_threads = min(n_threads, len(starts), _share.most)
        remaining = iter(starts)
        lock = threading.Lock()
        failed = threading.Event()

        def drain() -> None:
            # Overflow is looked for by the caller, not reported by a warning.
            with np.errstate(all="ignore"):
                try:
                    worker = make_worker()
                    while not failed.is_set():
                        with lock:
                            start = next(remaining, None)
                        if start is None:
                            return
                        worker(start, min(start + tile, n_rows))
                except BaseException:
                    failed.set()
                    raise

        others = _pool.submit(drain, n_threads - 1) if n_threads > 1 else []
        try:
            drain()
        finally:
            # What has not started by now is not needed, and must not be waited for:
            # the threads may be busy with a call that waits for this one.
            errors = [other.exception() for other in others if not other.cancel()]
        for error in errors:
            if error is not None:
                raise error


def map_jobs(job: Callable[[int], None], n_jobs: int) -> None:
    """Call ``job(i)`` for all i, several at a time, on as many threads as there may be.

    What a job does in the engine has what threads are left for it: many small jobs,
    whose tiles are too few to keep all threads busy, take a thread each.  They see the
    caller's context variables, floating-point flags, and GPU.

    Parameters
    ----------
    job : callable
        Takes the number of the job.
    n_jobs : int
        How many there are.
    """
    flags, device = np.geterr(), callers_device()
    with single_threaded_blas() as n_threads:
        n_threads = min(n_threads, _share.most)
        share = max(1, n_threads // max(1, n_jobs))
        contexts = [copy_context() for _ in range(n_jobs)]

        def make_worker():
            def worker(start: int, stop: int) -> None:
                before, _share.most = _share.most, share
                try:
                    with np.errstate(**flags), device():
                        contexts[start].run(job, start)
                finally:
                    _share.most = before

            return worker

        map_tiles(make_worker, n_jobs, 1, MIN_WORK_PER_CALL)
