"""Threads of the engine: one per core that BLAS would use, while BLAS is held to one.

Matrix products over small tiles do not scale inside BLAS, and `argmin` does not use
BLAS at all.  So the engine distributes whole tiles over its own threads.  The allowed
number of threads is read from BLAS, because joblib's workers and
`threadpoolctl.threadpool_limits` state it there.
"""

import _thread
import math
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401  loads SciPy's BLAS, so that the guard knows it
from threadpoolctl import ThreadpoolController

T = TypeVar("T")

# Below this many multiply-adds the start of a thread costs more than it saves.
MIN_WORK_PER_CALL = 20_000_000

# Up to this many rows, of less work than this, are not cut for two threads.
_FEW_ROWS, _LITTLE_WORK = 256, MIN_WORK_PER_CALL


class _BlasGuard:
    """Holds BLAS at one thread while any thread is inside.

    The limits of threadpoolctl are process-wide.  If several threads entered them, each
    would save the count that the one before it has set, and the process would be left
    at one thread.  This guard knows its users: the first one saves and limits, the last
    one restores.

    An interrupt may occur anywhere, even in the first line of ``__exit__``.  A user is
    therefore not a count but a weak reference to an object that only the ``with``
    statement holds: when the block ends, however it ends, the object dies and the
    counts are restored.
    """

    def __init__(self) -> None:
        # The lock is re-entrant, since a garbage collection inside may end a block.
        self._lock = threading.RLock()
        self._users: list[weakref.ref[Any]] = []
        # The libraries' counts before, kept until all of them are restored.
        self._counts: list[int] | None = None
        self._controller: ThreadpoolController | None = None

    def __reduce__(self) -> str:
        return "single_threaded_blas"  # there is one guard in each process

    def __call__(self) -> "_Hold":
        """Return a context that holds BLAS to a thread; its value is the old count."""
        return _Hold(self)

    def enter(self, user: weakref.ref[Any]) -> int:
        """Limit BLAS for a user; return how many threads it would have used."""
        with self._lock:
            libraries = self._found().lib_controllers
            was_left = self._counts is not None and not self._has_users()
            self._users.append(user)
            # The counts are saved before the first library is limited.
            if self._counts is None:
                self._counts = [library.num_threads for library in libraries]
            elif was_left:
                # An interrupt has kept some counts from being restored.
                pairs = zip(self._counts, libraries, strict=True)
                self._counts = [
                    had if library.num_threads == 1 else library.num_threads
                    for had, library in pairs
                ]
            for library in libraries:
                library.set_num_threads(1)
            n_threads = max(self._counts or [_available_cores()])
        return n_threads

    def leave(self, user: weakref.ref[Any]) -> None:
        """Restore BLAS if this was the last user."""
        with self._lock:
            self._users = [other for other in self._users if other is not user]
            self.settle()

    def settle(self, _: object = None) -> None:
        """Restore BLAS if no thread is inside."""
        with self._lock:
            if self._counts is not None and not self._has_users():
                pairs = zip(self._found().lib_controllers, self._counts, strict=True)
                for library, count in pairs:
                    library.set_num_threads(count)
                self._counts = None

    def _has_users(self) -> bool:
        self._users = [user for user in self._users if user() is not None]
        return bool(self._users)

    def _found(self) -> ThreadpoolController:
        if self._controller is None:
            self._controller = ThreadpoolController().select(user_api="blas")
        return self._controller


class _Hold:
    """The object behind one ``with`` statement on the guard."""

    def __init__(self, guard: _BlasGuard) -> None:
        self._guard = guard
        self._user: weakref.ref[Any] | None = None

    def __enter__(self) -> int:
        assert self._user is not None  # Python looks up __exit__ before it enters
        return self._guard.enter(self._user)

    @property
    def __exit__(self) -> Callable[..., None]:
        # A bound method is created at each look-up, so only the statement holds this
        # one.  A traceback holds frames and their variables, but not this.
        leave = self._leave
        self._user = weakref.ref(leave, self._guard.settle)
        return leave

    def _leave(self, *_: object) -> None:
        assert self._user is not None
        self._guard.leave(self._user)
        self._user = None  # there is nothing left to restore


def _available_cores() -> int:
    """Return the cores of this process, for a BLAS that threadpoolctl cannot ask."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


single_threaded_blas: _BlasGuard = _BlasGuard()


def blas() -> str:
    """Return which BLAS computes for NumPy, and for which kind of processor."""
    found = single_threaded_blas._found().lib_controllers
    # Prefer the BLAS that NumPy ships; which others are loaded depends on imports.
    found = [one for one in found if "numpy" in one.filepath] or found
    facts = ("internal_api", "version", "architecture")
    each = {" ".join(str(getattr(one, fact, "")) for fact in facts) for one in found}
    return ", ".join(sorted(each))


class _Pool:
    """Threads that wait between calls: starting one costs 0.1 ms.

    They use primitives in C, which an interrupt of the caller does not split.  An
    interrupt in a condition of `threading`, on which the executors of the standard
    library are built, could leave its lock held and a thread of the pool waiting
    forever.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._size = 0

    def start(self, job: Callable[[], None], copies: int) -> None:
        """Let `copies` threads do a job, which must not raise; do not wait for them."""
        while self._size < copies:
            # This thread ends with the process; jobs of a caller end before that.
            _thread.start_new_thread(_serve, (self._jobs,))
            self._size += 1
        for _ in range(copies):
            self._jobs.put(job)


def _serve(jobs: "SimpleQueue[Callable[[], None]]") -> None:
    while True:
        jobs.get()()


_pool = _Pool()


def _renew_after_fork() -> None:
    """Start anew in a forked child, which has neither the threads nor the locks."""
    global _pool
    _pool = _Pool()
    guard = single_threaded_blas
    counts, controller = guard._counts, guard._controller
    guard.__init__()  # type: ignore[misc]
    guard._counts, guard._controller = counts, controller
    guard.settle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


def even_chunk(n_rows: int, most: int, work_per_row: float, unit: int = 1) -> int:
    """Return a chunk size of about `most` that gives an even number of chunks.

    An odd chunk at the end would leave one of two threads waiting.  A few rows of
    little work are one chunk, since none of it would go to another thread.  Others are
    a multiple of a unit.
    """
    if n_rows <= min(most, _FEW_ROWS) and n_rows * work_per_row < _LITTLE_WORK:
        return max(1, n_rows)
    n_pairs = max(1, -(-n_rows // (2 * most)))
    chunk = -(-n_rows // (2 * n_pairs))
    return max(1, -(-chunk // unit) * unit)


# Bytes of a line of the caches.  A vector of that size that lies across two of them is
# loaded in twice the time, and NumPy aligns to 16 bytes.
_LINE = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of arbitrary values that begins with a line of the caches."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + _LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


class _Scratch(threading.local):
    """Memory of one thread, kept between calls: fresh pages cost a fault each."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}
        self.addresses: dict[str, int] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array of arbitrary values, which the next call may overwrite."""
        dtype = np.dtype(dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        buffer = self.buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            buffer = self.buffers[name] = aligned_empty((n_bytes,), np.uint8)
            self.addresses[name] = buffer.ctypes.data
        return buffer[:n_bytes].view(dtype).reshape(shape)

    def address(self, name: str, n_bytes: int) -> int:
        """Return the address of n_bytes of memory, under the same rule."""
        buffer = self.buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            self(name, (n_bytes,), np.uint8)
        return self.addresses[name]


scratch: _Scratch = _Scratch()


Worker = Callable[[int, int], None]


class _Share(threading.local):
    """How many threads the calls of a thread may use while several calls run."""

    def __init__(self) -> None:
        self.most = sys.maxsize


_share = _Share()


class one_thread(AbstractContextManager[None]):
    """A context in which the engine computes on the calling thread alone.

    It is for callers that run several such blocks at a time.
    """

    def __enter__(self) -> None:
        self._before, _share.most = _share.most, 1

    def __exit__(self, *_: object) -> None:
        _share.most = self._before


def n_threads() -> int:
    """Return how many threads a call of this thread may use."""
    with single_threaded_blas() as found:
        return min(found, _share.most)


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
        Number of rows, and rows in a tile.  The borders depend on these two alone, so
        results do not depend on the number of threads.
    work_per_row : float
        Multiply-adds per row; small jobs stay on the calling thread.
    """
    starts = range(0, n_rows, tile)
    with single_threaded_blas() as n_threads:
        if n_rows * work_per_row < MIN_WORK_PER_CALL:
            n_threads = 1
        n_threads = min(n_threads, len(starts), _share.most)
        remaining = deque(starts)
        stopped = False
        running: list[threading.Lock] = []
        errors: list[BaseException] = []

        def drain() -> None:
            # The caller checks for overflow, so warnings are off.
            with np.errstate(all="ignore"):
                worker = make_worker()
                while not stopped:
                    try:
                        start = remaining.popleft()
                    except IndexError:
                        return
                    worker(start, min(start + tile, n_rows))

        def assist() -> None:
            nonlocal stopped
            busy = threading.Lock()
            with busy:
                # Append first: a thread that starts too late to be waited for stops.
                running.append(busy)
                if stopped:
                    return
                try:
                    drain()
                except BaseException as error:
                    stopped = True
                    errors.append(error)

        try:
            try:
                if n_threads > 1:
                    _pool.start(assist, n_threads - 1)
                # A context of its own keeps interrupts from leaving other flags behind.
                copy_context().run(drain)
            finally:
                # Helpers that have not started by now are not needed, and must not be
                # waited for: they may be busy with a call that waits for this one.
                stopped = True
                _wait_for(running)
        except BaseException:
            # Repeated, since a second interrupt may have skipped the line above.
            stopped = True
            _wait_for(running)
            raise
        if errors:
            del errors[1:]
            raise errors.pop()


def map_plain_tiles(
    make_worker: Callable[[], Worker], n_rows: int, tile: int, work_per_row: float
) -> None:
    """Do the same for work without linear algebra, where one tile needs no BLAS held.

    That saves half of the time of a few rows.
    """
    if n_rows > tile:
        map_tiles(make_worker, n_rows, tile, work_per_row)
    else:
        alone(lambda: make_worker()(0, n_rows))


def alone(work: Callable[[], T]) -> T:
    """Return the result of work that is a single tile, without overflow warnings."""

    def quietly() -> T:
        with np.errstate(all="ignore"):
            return work()

    # A context of its own, as above.
    return copy_context().run(quietly)


def _wait_for(running: list[threading.Lock]) -> None:
    """Wait until no thread is working any more, even if interrupts occur meanwhile."""
    try:
        for busy in running:
            with busy:
                pass
    except BaseException:
        _wait_for(running)
        raise


# State of the caller that threads need besides context variables: functions that are
# called in the caller, each returning a function that makes a context in the thread.
carried: list[Callable[[], Callable[[], AbstractContextManager[Any]]]] = []


def map_jobs(job: Callable[[int], None], n_jobs: int) -> None:
    """Call ``job(i)`` for all i on as many threads as are allowed.

    Calls of the engine inside a job use the threads that are left for it.  Many small
    jobs, whose tiles are too few to keep all threads busy, take a thread each.  Jobs
    see the caller's context variables, floating-point flags and GPU.

    Parameters
    ----------
    job : callable
        Takes the number of the job.
    n_jobs : int
        Number of jobs.
    """
    flags, entered = np.geterr(), [function() for function in carried]
    with single_threaded_blas() as n_threads:
        n_threads = min(n_threads, _share.most)
        share = max(1, n_threads // max(1, n_jobs))
        contexts = [copy_context() for _ in range(n_jobs)]

        def make_worker() -> Worker:
            def worker(start: int, stop: int) -> None:
                before, _share.most = _share.most, share
                try:
                    with np.errstate(**flags), ExitStack() as stack:
                        for context in entered:
                            stack.enter_context(context())
                        contexts[start].run(job, start)
                finally:
                    _share.most = before

            return worker

        map_tiles(make_worker, n_jobs, 1, MIN_WORK_PER_CALL)
