"""Arrays of any library, for functions that serve them all.

scikit-learn carries array-api-compat from 1.7 on, without promising to keep it; before
that it is a package of its own.  Where there is neither, NumPy's arrays still do, and
those that name their namespace themselves.
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
        If one of them is no array, or they belong to different namespaces.
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
    """Whether a dtype is one of real floating numbers."""
    return any(dtype == getattr(xp, name) for name in _FLOATING if hasattr(xp, name))


def astype(xp: Any, array: Any, dtype: Any) -> Any:
    """Return the array in another dtype, itself if it has it already."""
    if array.dtype == dtype:
        return array
    # The function came with NumPy 2.
    return xp.astype(array, dtype) if hasattr(xp, "astype") else array.astype(dtype)


def concat(xp: Any, arrays: list[Any], axis: int) -> Any:
    """Join arrays along an axis."""
    # The name came with NumPy 2.
    join = xp.concat if hasattr(xp, "concat") else xp.concatenate
    return arrays[0] if len(arrays) == 1 else join(arrays, axis=axis)


def stop_gradient(array: Any) -> Any:
    """Return the array as a constant to automatic differentiation: sg[x]."""
    if hasattr(array, "detach"):
        return array.detach()
    if _compat is not None and _compat.is_jax_array(array):
        import jax

        return jax.lax.stop_gradient(array)
    return array


# Makes of backends, by the class of array that they take, or by its name, so that no
# library is imported for it; an array's class is looked up as methods are.
_MAKERS: dict[type[Any] | str, Callable[[Any], Any]] = {}


def register_backend(array_type: type[Any] | str, make: Callable[[Any], Any]) -> None:
    """Let arrays of a class be computed with by a backend.

    Parameters
    ----------
    array_type : type or str
        The class, or its name as in "torch.Tensor".
    make : callable
        ``make(array)`` returns the backend of an array's library and device.
    """
    _MAKERS[array_type] = make


def maker_of(array: Any) -> Callable[[Any], Any] | None:
    """Return what makes the backend of an array; None if none is registered."""
    for each in type(array).__mro__:
        make = _MAKERS.get(each) or _MAKERS.get(f"{each.__module__}.{each.__name__}")
        if make is not None:
            return make
    return None


def is_dask(value: Any) -> bool:
    """Whether this is a collection of Dask's, which is not imported for that.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    is_dask : bool
        Arrays, dataframes, bags and delayed values are.
    """
    if isinstance(value, np.ndarray):
        return False
    module = type(value).__module__.partition(".")[0]
    return module in ("dask", "dask_expr") and hasattr(value, "__dask_graph__")


# -- arrays of other libraries, and NumPy's --------------------------------------------


def is_foreign(array: Any) -> bool:
    """Whether this is an array of another library than NumPy."""
    # NumPy's own arrays, lists, classes and dataframes leave by the first doors.
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
    """Return a library's own array on a device; None if it is another library's."""
    if not is_foreign(array) or array_namespace(array) is not xp:
        return None
    there = device_of(array) == device
    return array if there else _compat.to_device(array, device)


def import_namespace(name: str) -> Any:
    """Return a namespace by the name of its library; None if there is no such thing.

    A library that is installed but has no device to work on counts as missing.
    """
    try:
        return array_namespace(importlib.import_module(name).asarray(0))
    except Exception:
        # What a library raises when it finds no driver is its own invention.
        return None


def device_of(array: Any) -> Any:
    """Return the device of an array of another library."""
    return array.device if _compat is None else _compat.device(array)


def to_host(array: Any) -> np.ndarray:
    """Return any array as one of NumPy, itself if it is one."""
    make = maker_of(array)
    if make is not None:
        return make(array).to_host(array)
    return standard_to_host(array)


def standard_to_host(array: Any) -> np.ndarray:
    """Do the same of an array of which no backend knows more."""
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
