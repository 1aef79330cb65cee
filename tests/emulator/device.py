"""The emulated device: memory that has an end, streams, pinned memory."""

import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

_NO_LIMIT = 2**40
# Each thread has a device and a stream in use.
_current = threading.local()


class OutOfMemoryError(MemoryError):
    """CuPy's error of this name, which its memory pool raises."""


class _Memory:
    """What is allocated on the device, in bytes."""

    def __init__(self) -> None:
        self.limit, self.used, self.peak, self.refusals = _NO_LIMIT, 0, 0, 0
        self._known: dict[int, int] = {}  # the device of each, by its identity
        self._lock = threading.RLock()

    def take(self, array: np.ndarray) -> None:
        """Count the memory of an array, once for all that share it."""
        while isinstance(array.base, np.ndarray):
            array = array.base
        with self._lock:
            if id(array) in self._known:
                return
            if self.used + array.nbytes > self.limit:
                self.refusals += 1
                raise OutOfMemoryError(f"Out of memory allocating {array.nbytes} bytes")
            self._known[id(array)] = Device().id
            self.used += array.nbytes
            self.peak = max(self.peak, self.used)
        weakref.finalize(array, self._give_back, id(array), array.nbytes)

    def place_of(self, array: np.ndarray) -> int:
        """Return the number of the device that has the memory of an array."""
        while isinstance(array.base, np.ndarray):
            array = array.base
        return self._known[id(array)]

    def _give_back(self, identity: int, nbytes: int) -> None:
        with self._lock:
            self._known.pop(identity, None)
            self.used -= nbytes


MEMORY = _Memory()


def reset() -> None:
    """Give the device all of its memory back."""
    MEMORY.limit, MEMORY.peak, MEMORY.refusals = _NO_LIMIT, MEMORY.used, 0
    RUNTIME.n_launches.clear()


POOL = types.SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)

RUNTIME = types.SimpleNamespace(
    getDeviceCount=lambda: 1,
    memGetInfo=lambda: (MEMORY.limit - MEMORY.used, MEMORY.limit),
    getDeviceProperties=lambda device: {"name": b"emulation"},
    # How often each kernel was started, by name.
    n_launches={},
)


class Device:
    """One of two devices, a context manager as CuPy's is; None: the one in use."""

    def __init__(self, device: Any = None) -> None:
        number = getattr(_current, "device", 0) if device is None else device
        self.id: int = number.id if isinstance(number, Device) else number
        self._before: list[int] = []

    def __enter__(self) -> "Device":
        self._before.append(getattr(_current, "device", 0))
        _current.device = self.id
        return self

    def __exit__(self, *error: object) -> None:
        _current.device = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def synchronize(self) -> None:
        """Wait for all streams; each one's work was done or is waited for by it."""


def _bytes_of(array: np.ndarray) -> Callable[[], np.ndarray | None]:
    """Return what finds the bytes of an array, as long as someone keeps its memory."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    begin = array.ctypes.data - root.ctypes.data
    memory, end = weakref.ref(root), begin + array.nbytes

    def find() -> np.ndarray | None:
        found = memory()
        return None if found is None else found.reshape(-1).view(np.uint8)[begin:end]

    return find


class Stream:
    """A stream whose copies happen when someone waits for them, and not before."""

    def __init__(self, non_blocking: bool = False) -> None:
        self._waiting: list[tuple[Any, Any]] = []
        self._before: list[Stream] = []

    def __enter__(self) -> "Stream":
        self._before.append(get_current_stream())
        _current.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        _current.stream = self._before.pop()

    def copy(self, source: np.ndarray, target: np.ndarray) -> None:
        """Put a copy in line.  The memory of both has to stay until it happens."""
        self._waiting.append((_bytes_of(source), _bytes_of(target)))

    def record(self) -> "Event":
        """Return an event that has come when all that is in line by now is done."""
        return Event(self, len(self._waiting))

    def wait_event(self, event: "Event") -> None:
        """Do nothing before the event."""
        event.synchronize()

    def synchronize(self) -> None:
        """Wait for all that is in line."""
        self.run(len(self._waiting))

    def run(self, count: int) -> None:
        """Do the first copies in line."""
        while count and self._waiting:
            source, target = (find() for find in self._waiting.pop(0))
            count -= 1
            assert source is not None, "memory of the host was released before its copy"
            assert target is not None, "memory of the device was released in a copy"
            target[...] = source


class Event:
    """A point in a stream."""

    def __init__(self, stream: Stream | None = None, count: int = 0) -> None:
        self._stream, self._left = stream, count

    def synchronize(self) -> None:
        """Wait until the event has come."""
        if self._stream is not None:
            self._stream.run(self._left)
            self._left = 0


_default = Stream()


def get_current_stream() -> Stream:
    """Return the stream that work is given to."""
    return getattr(_current, "stream", _default)


def empty_pinned(shape: tuple[int, ...], dtype: Any = float) -> np.ndarray:
    """Return memory of the host for copies that others do not wait for."""
    return np.full(shape, 77, dtype=dtype)
