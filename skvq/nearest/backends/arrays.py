"""Functions for arrays of any library.

scikit-learn carries array-api-compat from 1.7 on, without promising to keep it; it is
also a package of its own.  Without either, NumPy's arrays still work, and so do arrays
that name their namespace themselves.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np


def _import_compat() -> Any:
    for name in ("sklearn.externals.array_api_compat", "array_api_compat"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_compat = _import_compat()
_FLOATING = ("float16", "bfloat16", "float32", "float64")


def array_namespace(*arrays: Any) -> Any:
    """Return the namespace that all the arrays belong to.

    Raises
    ------
    TypeError
        If one of them is not an array, or they belong to different namespaces.
    """
    if _compat is not None:
        return _compat.array_namespace(*arrays)
    found = []
    for array in arrays:
        if isinstance(array, np.ndarray | np.generic):
            namespace = np
        elif hasattr(array, "__array_namespace__"):
            namespace = array.__array_namespace__()
        else:
            raise TypeError(
                f"{type(array).__name__} is not a supported array type; for arrays of "
                "libraries without a namespace of their own, such as torch, install "
                "scikit-learn 1.7 or later, or array-api-compat."
            )
        if namespace not in found:
            found.append(namespace)
    if len(found) != 1:
        raise TypeError(f"Arrays of several libraries: {found}.")
    return found[0]


def is_floating(xp: Any, dtype: Any) -> bool:
    """Return whether a dtype is a real floating dtype."""
    return any(dtype == getattr(xp, name) for name in _FLOATING if hasattr(xp, name))


def astype(xp: Any, array: Any, dtype: Any) -> Any:
    """Return the array in another dtype; the array itself if it has it already."""
    if array.dtype == dtype:
        return array
    # NumPy has had this function since version 2.
    return xp.astype(array, dtype) if hasattr(xp, "astype") else array.astype(dtype)


def concat(xp: Any, arrays: list[Any], axis: int) -> Any:
    """Join arrays along an axis."""
    # NumPy has had this name since version 2.
    join = xp.concat if hasattr(xp, "concat") else xp.concatenate
    return arrays[0] if len(arrays) == 1 else join(arrays, axis=axis)


def stop_gradient(array: Any) -> Any:
    """Return the array as a constant for automatic differentiation: sg[x]."""
    if hasattr(array, "detach"):
        return array.detach()
    if _compat is not None and _compat.is_jax_array(array):
        import jax

        return jax.lax.stop_gradient(array)
    return array


# Functions that make backends, by class of array or its name; with names, no library
# has to be imported.  Classes are looked up in method resolution order.
_MAKERS: dict[type[Any] | str, Callable[[Any], Any]] = {}


def register_backend(array_type: type[Any] | str, make: Callable[[Any], Any]) -> None:
    """Register the backend that computes with the arrays of a class.

    Parameters
    ----------
    array_type : type or str
        The class, or its name as in "torch.Tensor".
    make : callable
        ``make(array)`` returns the backend of an array's library and device.
    """
    _MAKERS[array_type] = make


def maker_of(array: Any) -> Callable[[Any], Any] | None:
    """Return the function that makes the backend of an array; None if there is none."""
    for each in type(array).__mro__:
        make = _MAKERS.get(each) or _MAKERS.get(f"{each.__module__}.{each.__name__}")
        if make is not None:
            return make
    return None


def is_dask(value: Any) -> bool:
    """Return whether a value is a Dask collection, without importing Dask.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    is_dask : bool
        True for Dask's arrays, dataframes, bags and delayed values.
    """
    if isinstance(value, np.ndarray):
        return False
    module = type(value).__module__.partition(".")[0]
    return module in ("dask", "dask_expr") and hasattr(value, "__dask_graph__")


# -- arrays of other libraries, and NumPy's --------------------------------------------


def is_foreign(array: Any) -> bool:
    """Return whether a value is an array of a library other than NumPy."""
    # NumPy's own arrays, lists, classes and dataframes are recognised first.
    if isinstance(array, np.ndarray | np.generic | list | tuple | type):
        return False
    if hasattr(array, "__array_namespace__"):
        return True
    if _compat is None or not hasattr(array, "shape"):
        return False
    return _compat.is_array_api_obj(array)


def library_of_namespace(xp: Any) -> str:
    """Return the name under which a namespace's library is imported."""
    return xp.__name__.split("array_api_compat.")[-1]


def moved(array: Any, xp: Any, device: Any) -> Any:
    """Return a library's own array on a device; None for arrays of other libraries."""
    if not is_foreign(array) or array_namespace(array) is not xp:
        return None
    there = device_of(array) == device
    return array if there else _compat.to_device(array, device)


def import_namespace(name: str) -> Any:
    """Return the namespace of a library by name; None if it cannot be used.

    A library that is installed but has no device to work on counts as missing.
    """
    try:
        return array_namespace(importlib.import_module(name).asarray(0))
    except Exception:
        # The exception that a library raises without a driver is not standardised.
        return None


def device_of(array: Any) -> Any:
    """Return the device of an array of another library."""
    return array.device if _compat is None else _compat.device(array)


def to_host(array: Any) -> np.ndarray:
    """Return any array as a NumPy array; the array itself if it is one."""
    make = maker_of(array)
    if make is not None:
        return make(array).to_host(array)
    return standard_to_host(array)


def standard_to_host(array: Any) -> np.ndarray:
    """Return an array as a NumPy array by means of the standard alone."""
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError, ValueError):
        if not is_foreign(array):
            raise
        return np.asarray(array.to_device(_host_device(array)))


def _host_device(array: Any) -> Any:
    """Return the host as a device of the array's library."""
    xp = array_namespace(array)
    return xp.Device("CPU_DEVICE") if hasattr(xp, "Device") else "cpu"
