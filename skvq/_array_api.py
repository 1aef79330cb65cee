"""Arrays of any library, for functions that serve them all.

scikit-learn carries array-api-compat from 1.7 on, without promising to keep it; before
that it is a package of its own.  Where there is neither, NumPy's arrays still do, and
those that name their namespace themselves.
"""

import importlib
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
