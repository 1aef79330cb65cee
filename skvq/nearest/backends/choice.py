"""The one place that decides which backend computes.

An array of a library other than NumPy is computed with in that library, on the device
that holds it, and the result stays there.  For NumPy arrays a backend is named:

============ =======================================================================
``"auto"``   The compiled library if it was built, otherwise NumPy.  A search of
             `GPU_WORK` multiply-adds or more uses CuPy, in chunks, if CuPy is
             installed and sees a device; if not, there is no message.
``"numpy"``  NumPy.  Arrays of other libraries are refused: they would have to be
             copied to the host without having been asked for.
``"native"`` The compiled library, and NumPy for what it does not do.  If it was not
             built, an error says why.  Other arrays are refused as by "numpy".
``"cupy"``   CuPy, in chunks, for every search by a metric that the device knows.
             Sums and paired distances do little work per row and stay with NumPy.
             Without CuPy or a device, an error is raised before any work.  Arrays of
             libraries other than NumPy and CuPy are refused.
============ =======================================================================

The multiply-adds of a search in n rows of d features, in tables of V_j codewords:

===================  ===============================================================
`nearest`            n V d
`nearest_product`    n sum_j V_j d_j, where d_j is the width of a table
`nearest_best`       n sum_j S_j V_j d, where S_j sums exist when stage j begins,
                     without the stages that are given
`improve_sums`       n_rounds n_sweeps n sum_j V_j d
`nearest_kronecker`  n prod_j V_j min_j d_j, the product with the narrowest factor
===================  ===============================================================

CuPy is neither imported nor looked for until a search is large enough or a CuPy array
arrives.  The device is CuPy's current one.
"""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from skvq._checks import class_name
from skvq.nearest import native
from skvq.nearest.backends.arrays import (
    array_namespace,
    device_of,
    import_namespace,
    is_dask,
    is_foreign,
    maker_of,
    register_backend,
)
from skvq.nearest.backends.base import Backend
from skvq.nearest.backends.host import HOST
from skvq.nearest.backends.native import NativeBackend

BACKENDS = frozenset({"auto", "numpy", "native", "cupy"})

# Multiply-adds from which "auto" takes a NumPy array to the device: what two CPU cores
# do in about two seconds.  The import of CuPy and a first search take one (on an H200);
# after that wide rows pay from a hundredth of this, which `benchmarks/gpu.py` prints.
GPU_WORK = 2e11

_chosen: ContextVar[str] = ContextVar("skvq_backend", default="auto")


class using(AbstractContextManager[None]):
    """A context in which the engine computes with a backend, in this thread.

    Parameters
    ----------
    backend : {"auto", "numpy", "native", "cupy"}
        As in `check_backend`.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        self._token = _chosen.set(self._backend)

    def __exit__(self, *_: object) -> None:
        _chosen.reset(self._token)


def check_backend(backend: str, be: Backend) -> None:
    """Raise if a backend is not available, or does not take arrays of another.

    Parameters
    ----------
    backend : {"auto", "numpy", "native", "cupy"}
        The backend to compute with.
    be : Backend
        The backend of the array.

    Raises
    ------
    ImportError
        If the backend is "cupy" and CuPy is not installed, or if it is "native" and the
        compiled library is missing.
    RuntimeError
        If CuPy finds no device.
    ValueError
        If the array belongs to a library that the backend does not take, or is on
        another GPU than the current one.
    """
    if be.name == "cupy":
        in_use = importlib.import_module("cupy").cuda.Device()
        if be.device != in_use:
            raise ValueError(
                f"X is on {be.device}, but {in_use} is in use: call inside "
                "'with X.device:'."
            )
    if backend in ("numpy", "native") and be.name != "numpy":
        raise ValueError(
            f"backend={backend!r} computes on the host, but X is an array of "
            f"{be.name}: copy it to the host yourself, or use backend='auto'."
        )
    if backend == "native":
        _demand_native()
    if backend == "cupy":
        if be.name not in ("numpy", "cupy"):
            raise ValueError(
                f"backend='cupy' takes arrays of NumPy and CuPy, but X is one of "
                f"{be.name}: use backend='auto'."
            )
        _demand_cupy()


@cache
def _native() -> Backend | None:
    """Return the backend of the compiled library; None if it is missing."""
    library = native.library()
    return None if library is None else NativeBackend(library)


def _demand_native() -> Backend:
    found = _native()
    if found is None:
        raise ImportError(
            f"backend='native' needs the compiled engine: {native.status().reason} "
            "backend='auto' does without."
        )
    return found


def on_host() -> Backend:
    """Return the backend that computes with NumPy arrays in this context.

    Returns
    -------
    backend : Backend
        That of the compiled library, if it is there and NumPy was not asked for.
    """
    chosen = _chosen.get()
    if chosen == "numpy":
        return HOST
    return _demand_native() if chosen == "native" else _native() or HOST


def engine_of(array: Any) -> Backend:
    """Return the backend that computes with an array where it is.

    Parameters
    ----------
    array : array-like
        An array of any library.

    Returns
    -------
    backend : Backend
        As from `backend_of`, except that the compiled library may compute with NumPy
        arrays.
    """
    be = backend_of(array)
    return on_host() if be is HOST else be


def _demand_cupy() -> None:
    try:
        n_devices = _count_devices()
    except ImportError as error:
        raise ImportError(
            "backend='cupy' needs CuPy: pip install 'skvq[cuda12]' or 'skvq[cuda13]', "
            "by the version of your CUDA; backend='auto' does without."
        ) from error
    except Exception as error:
        # CuPy's errors have no common class that could be named without importing it.
        raise RuntimeError(f"backend='cupy': CuPy finds no device: {error}") from error
    if n_devices == 0:
        raise RuntimeError("backend='cupy': CuPy finds no device.")


def _count_devices() -> int:
    cupy = importlib.import_module("cupy")
    return cupy.cuda.runtime.getDeviceCount()


@cache
def cupy_has_device() -> bool:
    """Return whether CuPy is installed and can compute on a device; never raise."""
    # Looking for the package takes microseconds, importing it about a second.
    if _is_forked or importlib.util.find_spec("cupy") is None:
        return False
    try:
        return _count_devices() > 0 and _computes()
    except Exception:
        # Installations without a driver, a compiler or cuBLAS fail in many ways, all of
        # which mean that there is no device.
        return False


def _computes() -> bool:
    """Return whether a search works: it needs the kernel compiler and cuBLAS."""
    return importlib.import_module("skvq.nearest.backends.cupy").computes()


_is_forked = False


def _lose_device() -> None:
    """Give up the device in a forked process, which cannot go on with its parent's."""
    global _is_forked
    _is_forked = "cupy" in sys.modules
    cupy_has_device.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_device)


def settle(backend: str, X: Any, per_row: float) -> str:
    """Return one backend for all parts of a search.

    Parameters
    ----------
    backend : {"auto", "numpy", "native", "cupy"}
        As in `check_backend`.
    X : array
        The rows; only for NumPy arrays does the backend change.
    per_row : float
        Approximate number of multiply-adds per row over all parts.

    Returns
    -------
    backend : {"auto", "numpy", "native", "cupy"}
        "cupy" instead of "auto" if a device is worth it.
    """
    if backend == "auto" and backend_of(X) is HOST and _is_worth_it(len(X) * per_row):
        return "cupy"
    return backend


def chosen() -> str:
    """Return the backend that `using` has set here.

    Returns
    -------
    backend : {"auto", "numpy", "native", "cupy"}
        As in `check_backend`.
    """
    return _chosen.get()


def goes_to_device() -> bool:
    """Return whether all searches in NumPy rows go to a device here.

    Returns
    -------
    goes : bool
        If so, rows are best passed in large blocks.
    """
    return _chosen.get() == "cupy"


def _is_worth_it(work: float) -> bool:
    return work >= GPU_WORK and cupy_has_device()


def _in_module(name: str) -> Callable[[Any], Backend]:
    def make(array: Any) -> Backend:
        module = importlib.import_module(f"skvq.nearest.backends.{name}")
        return module.backend_of(array)

    return make


register_backend("torch.Tensor", _in_module("torch"))
register_backend("cupy.ndarray", _in_module("cupy"))


def backend_of(array: Any) -> Backend:
    """Return the backend that computes with an array where it is stored.

    Parameters
    ----------
    array : array-like
        An array of any library; anything else is made a NumPy array.

    Returns
    -------
    backend : Backend
        The backend of the library and device that hold the array.

    Raises
    ------
    TypeError
        If it is a Dask collection, with which the engine does not compute.
    """
    if isinstance(array, np.ndarray | np.generic):
        return HOST
    make = maker_of(array)
    if make is not None:
        return make(array)
    if is_dask(array):
        raise TypeError(
            f"a {class_name(type(array))} is not computed here: "
            "apply the function to its chunks with dask.array.map_blocks, or compute() "
            "it first."
        )
    if is_foreign(array):
        return Backend(array_namespace(array), device_of(array))
    return HOST


def is_array(value: Any) -> bool:
    """Return whether a value is an array of any library.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    is_array : bool
        False for lists and numbers.
    """
    return isinstance(value, np.ndarray) or backend_of(value) is not HOST


def default_backend(name: str) -> Backend | None:
    """Return the backend of a library's default device; None if there is none.

    Parameters
    ----------
    name : str
        The name under which the library is imported.

    Returns
    -------
    backend : Backend or None
        A library that is installed but has no device to work on counts as missing.
    """
    xp = import_namespace(name)
    return None if xp is None else backend_of(xp.zeros(0))


def backend_in(xp: Any, device: Any = None) -> Backend:
    """Return the backend of a library and one of its devices.

    Parameters
    ----------
    xp : module
        The library or its namespace.
    device : object, optional
        The library's name of it; None: where the library puts arrays by default.

    Returns
    -------
    backend : Backend
        The backend of arrays on that device.

    Raises
    ------
    ValueError
        If `xp` is not a library of arrays, or has no such device.
    """
    name = getattr(xp, "__name__", repr(xp))
    try:
        be = backend_of(xp.asarray(0.0))
    except Exception as error:
        # The exception that a library raises without a driver is not standardised.
        raise ValueError(
            f"xp={name}; expected a library of arrays that works here, such as "
            "numpy, torch or cupy."
        ) from error
    if device is None or (be is HOST and device == "cpu"):
        return be
    try:
        return backend_of(be.xp.zeros(0, device=device))
    except Exception as error:
        raise ValueError(f"device={device!r}: {be.name} has none such.") from error


def backend_for(X: Any, per_row: float) -> Backend:
    """Return the backend that computes a search in the rows of X.

    Parameters
    ----------
    X : array-like
        The rows.
    per_row : float
        Multiply-adds per row; enough of them make taking NumPy rows to a device pay.
    """
    be = backend_of(X)
    if be is not HOST:
        return be
    chosen = _chosen.get()
    # What has no rows is refused later.
    n = math.prod(X.shape[:1]) if is_array(X) else 0
    if chosen == "auto" and _is_worth_it(n * per_row):
        chosen = "cupy"
    if chosen == "cupy":
        return importlib.import_module("skvq.nearest.backends.cupy").FROM_HOST
    return on_host()
