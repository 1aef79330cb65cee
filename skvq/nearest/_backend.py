"""Where the engine computes.  This is the one place of the rule.

An array of another library than NumPy is computed with that library, on the device
that holds it, and so is the answer.  For NumPy's arrays a backend is named:

===========  =======================================================================
``"auto"``   NumPy; but CuPy, in chunks, for a search of `GPU_WORK` multiply-adds or
             more, if CuPy is installed and sees a device.  If not, nothing is said.
``"numpy"``  NumPy.  Arrays of another library are refused: they would have to be
             copied to the host without having been asked for.
``"cupy"``   CuPy, in chunks, for every search by a metric that the device knows;
             sums and paired distances do little with a row, and stay with NumPy.
             Without CuPy or a device, an error before any work.  Arrays of a
             library other than NumPy and CuPy are refused.
===========  =======================================================================

The multiply-adds of a search in n rows of d features, in tables of V_j codewords:

===================  ===============================================================
`nearest`            n V d
`nearest_product`    n sum_j V_j d_j, where d_j is the width of a table
`nearest_best`       n sum_j S_j V_j d, where S_j sums are there when stage j begins,
                     without the stages that are given
`improve_sums`       n_rounds n_sweeps n sum_j V_j d
`nearest_kronecker`  n prod_j V_j min_j d_j, the product with the narrowest factor
===================  ===============================================================

CuPy is neither imported nor looked for until a search is large enough or a CuPy array
comes.  The device is the one of CuPy's own context.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from types import ModuleType
from typing import Any

import numpy as np

from skvq._array_api import is_foreign, library_name

BACKENDS = frozenset({"auto", "numpy", "cupy"})

# Multiply-adds from which "auto" takes a NumPy array to the device.  An estimate, not
# measured: about a second of two CPU cores, beside which both the transfer and the
# import of CuPy are short.  `benchmarks/gpu.py` prints where the two are level.
GPU_WORK = 2e11

_chosen: ContextVar[str] = ContextVar("skvq_backend", default="auto")


class using(AbstractContextManager[None]):
    """Let the engine compute in a backend inside the block, in this thread.

    Parameters
    ----------
    backend : {"auto", "numpy", "cupy"}
        As in `check_backend`.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        self._token = _chosen.set(self._backend)

    def __exit__(self, *_: object) -> None:
        _chosen.reset(self._token)


def check_backend(backend: str, X: Any) -> None:
    """Raise if a backend cannot be had, or does not take the array.

    Parameters
    ----------
    backend : {"auto", "numpy", "cupy"}
        Where the engine is to compute.
    X : array
        An array of any library.

    Raises
    ------
    ImportError
        If the backend is "cupy" and CuPy is not installed.
    RuntimeError
        If it sees no device.
    ValueError
        If the backend is named, and the array is of a library that it does not take;
        if the array is on another GPU than the one in use.
    """
    name = library_name(X)
    if name == "cupy":
        in_use = importlib.import_module("cupy").cuda.Device()
        if X.device != in_use:
            raise ValueError(
                f"X is on {X.device}, but {in_use} is in use: call inside "
                "'with X.device:'."
            )
    if backend == "numpy" and name != "numpy":
        raise ValueError(
            f"backend='numpy' computes on the host, but X is an array of {name}: copy "
            "it to the host yourself, or use backend='auto'."
        )
    if backend == "cupy":
        if name not in ("numpy", "cupy"):
            raise ValueError(
                f"backend='cupy' takes arrays of NumPy and CuPy, but X is one of "
                f"{name}: use backend='auto'."
            )
        _demand_cupy()


def _demand_cupy() -> None:
    try:
        n_devices = _count_devices()
    except ImportError as error:
        raise ImportError(
            "backend='cupy' needs CuPy: pip install 'skvq[cupy]', or the build of CuPy "
            "for your CUDA version; backend='auto' does without."
        ) from error
    except Exception as error:
        # CuPy's own errors have no common class that is known without importing it.
        raise RuntimeError(f"backend='cupy': CuPy finds no device: {error}") from error
    if n_devices == 0:
        raise RuntimeError("backend='cupy': CuPy finds no device.")


def _count_devices() -> int:
    cupy = importlib.import_module("cupy")
    return cupy.cuda.runtime.getDeviceCount()


@cache
def cupy_has_device() -> bool:
    """Whether CuPy is there, sees a device, and can compute on it; silent if not."""
    # Looking for the package costs microseconds, importing it about a second.
    if _is_forked or importlib.util.find_spec("cupy") is None:
        return False
    try:
        return _count_devices() > 0 and _computes()
    except Exception:
        # An installation without a driver, or without compiler or cuBLAS, fails in many
        # ways, all meaning no device.
        return False


def _computes() -> bool:
    """Whether a search works: it needs the compiler of kernels, and cuBLAS."""
    search = importlib.import_module("skvq.nearest._cupy").nearest
    wide = np.zeros((1, 128), dtype=np.float32)
    return search(wide, wide)[0].tolist() == [0]


_is_forked = False


def _lose_device() -> None:
    """In a forked process: it cannot go on with what its parent began on a device."""
    global _is_forked
    _is_forked = "cupy" in sys.modules
    cupy_has_device.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_device)


def callers_device() -> Callable[[], AbstractContextManager]:
    """Return what makes other threads use the GPU that this one does."""
    # Whoever has not imported CuPy has not chosen a device.
    cupy = sys.modules.get("cupy")
    if cupy is None or not cupy_has_device():
        return nullcontext
    return partial(cupy.cuda.Device, cupy.cuda.Device().id)


def settle(backend: str, work: float) -> str:
    """Return the backend for all of a search that comes in parts.

    Parameters
    ----------
    backend : {"auto", "numpy", "cupy"}
        As in `check_backend`.
    work : float
        About how many multiply-adds the parts have together.

    Returns
    -------
    backend : {"auto", "numpy", "cupy"}
        "cupy" in place of "auto" where a device is worth it.
    """
    return "cupy" if backend == "auto" and _is_worth_it(work) else backend


def goes_to_device() -> bool:
    """Tell whether all searches in NumPy's rows go to a device here.

    Returns
    -------
    goes : bool
        If so, rows are best given in large blocks.
    """
    return _chosen.get() == "cupy"


def _is_worth_it(work: float) -> bool:
    return work >= GPU_WORK and cupy_has_device()


def backend_module(X: Any, work: float) -> ModuleType:
    """Return the module of the engine that computes with an array.

    Parameters
    ----------
    X : array-like
        The rows.
    work : float
        Multiply-adds that would make it worth taking NumPy's rows to a device.
    """
    if is_foreign(X):
        name = "_cupy" if library_name(X) == "cupy" else "_generic"
    else:
        backend = _chosen.get()
        name = "_cupy" if settle(backend, work) == "cupy" else "_host"
    return importlib.import_module(f"skvq.nearest.{name}")
