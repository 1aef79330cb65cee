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


# -- arrays of other libraries, and NumPy's --------------------------------------------


def is_foreign(array: Any) -> bool:
    """Whether this is an array of another library than NumPy."""
    # NumPy's own arrays, lists and dataframes leave by the first doors.
    if isinstance(array, np.ndarray | np.generic | list | tuple):
        return False
    if hasattr(array, "__array_namespace__"):
        return True
    return _compat is not None and _compat.is_array_api_obj(array)


def library_name(array: Any) -> str:
    """Return the name under which the library of an array is imported."""
    if not is_foreign(array):
        return "numpy"
    # array-api-compat wraps namespaces in modules of its own.
    return array_namespace(array).__name__.split("array_api_compat.")[-1]


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


def numpy_dtype(array: Any) -> np.dtype:
    """Return NumPy's dtype of the same name as an array's; float32 for bfloat16."""
    name = str(array.dtype).rpartition(".")[2]
    return np.dtype(np.float32 if name == "bfloat16" else name)


def to_host(array: Any) -> np.ndarray:
    """Return any array as one of NumPy, itself if it is one."""
    if not is_foreign(array):
        return np.asarray(array)
    if hasattr(array, "detach"):
        return array.detach().cpu().numpy()
    if hasattr(array, "get"):
        return array.get()
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError, ValueError):
        return np.asarray(array.to_device(_host_device(array)))


def _host_device(array: Any) -> Any:
    """Return the host as a device of the array's library."""
    xp = array_namespace(array)
    return xp.Device("CPU_DEVICE") if hasattr(xp, "Device") else "cpu"


def like(array: Any, other: Any, dtype: Any = None) -> Any:
    """Return an array, of any library, in the library and on the device of another."""
    if not is_foreign(other):
        return np.asarray(to_host(array), dtype=dtype)
    xp, device = array_namespace(other), device_of(other)
    if is_foreign(array) and library_name(array) == library_name(other):
        same = device_of(array) == device
        array = array if same else _compat.to_device(array, device)
    else:
        array = send(xp, to_host(array), device)
    return array if dtype is None else astype(xp, array, dtype)


def send(xp: Any, array: np.ndarray, device: Any) -> Any:
    """Return a NumPy array as one of another library; None: its default device."""
    # A copy of its own, since some libraries would share the memory, and complain if
    # it may not be written.
    return xp.asarray(np.array(array, order="C"), device=device)


def contiguous(array: Any) -> Any:
    """Return an array of any library with its rows one after the other in memory.

    Views of columns make some devices slow: CuPy reduces them in a single block.
    """
    if hasattr(array, "contiguous"):
        return array.contiguous()
    if not is_foreign(array):
        return np.ascontiguousarray(array)
    make = getattr(array_namespace(array), "ascontiguousarray", None)
    return array if make is None else make(array)


def take_rows(array: Any, rows: Any) -> Any:
    """Return rows of an array of any library, by indices of any library."""
    if not is_foreign(array):
        return array[rows]
    return array_namespace(array).take(array, like(rows, array), axis=0)


def take_along(array: Any, index: Any) -> Any:
    """Return (n, k, ...) entries along the second axis, by an index (n, k)."""
    if not is_foreign(array):
        return np.take_along_axis(
            array, index.reshape(index.shape + (1,) * (array.ndim - 2)), axis=1
        )
    xp = array_namespace(array)
    n, width = array.shape[:2]
    shape = tuple(index.shape) + tuple(array.shape[2:])
    starts = xp.arange(n, dtype=xp.int64, device=device_of(array)) * width
    flat = xp.reshape(index + starts[:, None], (-1,))
    rows = xp.reshape(array, (n * width, *array.shape[2:]))
    return xp.reshape(xp.take(rows, flat, axis=0), shape)


def as_indices(codes: Any) -> Any:
    """Return codes of any library in the dtype that it takes as indices."""
    if not is_foreign(codes):
        return codes.astype(np.intp, copy=False)
    xp = array_namespace(codes)
    return astype(xp, codes, xp.int64)


def look_up(table: Any, codes: Any) -> Any:
    """Return the rows of a table, of any library, by codes of any shape."""
    if not is_foreign(codes):
        return table[codes]
    xp, table = array_namespace(codes), like(table, codes)
    rows = xp.take(table, xp.reshape(as_indices(codes), (-1,)), axis=0)
    return xp.reshape(rows, (*codes.shape, *table.shape[1:]))


def reshape(array: Any, shape: tuple[int, ...]) -> Any:
    """Return an array of any library in another shape."""
    if not is_foreign(array):
        return array.reshape(shape)
    return array_namespace(array).reshape(array, shape)


def repeat(array: Any, times: int, axis: int) -> Any:
    """Repeat each entry along an axis."""
    if not is_foreign(array):
        return np.repeat(array, times, axis=axis)
    xp, shape = array_namespace(array), list(array.shape)
    wide = (*shape[: axis + 1], times, *shape[axis + 1 :])
    shape[axis] *= times
    return xp.reshape(
        xp.broadcast_to(xp.expand_dims(array, axis=axis + 1), wide), tuple(shape)
    )


def zeros(shape: tuple[int, ...], other: Any, dtype: Any = None) -> Any:
    """Return zeros, of float64 by default, in the library of another array."""
    if not is_foreign(other):
        return np.zeros(shape, dtype=np.float64 if dtype is None else dtype)
    xp = array_namespace(other)
    dtype = xp.float64 if dtype is None else dtype
    return xp.zeros(shape, dtype=dtype, device=device_of(other))


def stable_order(values: Any) -> Any:
    """Return the order of the entries of each row; equals stay in theirs."""
    if not is_foreign(values):
        return np.argsort(values, axis=1, kind="stable")
    return array_namespace(values).argsort(values, axis=1, stable=True)


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct rows, in lexicographic order, of NumPy's real finite numbers.

    NumPy's own search makes a structured row of the columns.  To compare such rows it
    calls Python, and takes any error there, an interrupt also, for a TypeError.  Rows
    as words of bytes are compared in C.

    Returns
    -------
    first : ndarray of shape (n_distinct,), dtype intp
        The first row of each group of equal rows.
    group : ndarray of shape (n_rows,), dtype intp
        The group of each row.
    """
    rows = np.ascontiguousarray(rows)
    if rows.dtype.kind == "f":
        # The same bits for both zeros; and no longer than a word of the processor.
        rows = (rows + 0.0).astype(min(rows.dtype, np.dtype(np.float64)), copy=False)
    unsigned = np.dtype(f"u{rows.dtype.itemsize}")
    bits, sign = rows.view(unsigned), unsigned.type(1 << (8 * unsigned.itemsize - 1))
    if rows.dtype.kind == "f":
        bits = np.where(bits & sign, ~bits, bits | sign)
    elif rows.dtype.kind == "i":
        bits = bits ^ sign
    # The highest byte first: words are in the order of the numbers then.
    ordered = np.ascontiguousarray(bits, dtype=unsigned.newbyteorder(">"))
    words = ordered.view(np.dtype((np.void, ordered[:1].nbytes))).reshape(-1)
    _, first, group = np.unique(words, return_index=True, return_inverse=True)
    return first, group.reshape(-1)


def times_power(array: Any, exponent: int) -> Any:
    """Return a floating array of any library, multiplied by 2**exponent."""
    if not is_foreign(array):
        return np.ldexp(array, exponent)
    # In steps of which each is a number, also in single precision.
    while exponent:
        step = max(-100, min(exponent, 100))
        array = array * 2.0**step
        exponent -= step
    return array


def with_column(array: Any, j: int, column: Any) -> Any:
    """Return a copy of a matrix of any library with another column in place of one."""
    if not is_foreign(array):
        array = array.copy()
        array[:, j] = column
        return array
    column = like(column, array, array.dtype)[:, None]
    return concat(
        array_namespace(array), [array[:, :j], column, array[:, j + 1 :]], axis=1
    )


def in_dtype(array: Any, dtype: np.dtype) -> Any:
    """Return an array of any library in a dtype that is NumPy's."""
    if not is_foreign(array):
        return array.astype(dtype, copy=False)
    xp = array_namespace(array)
    return astype(xp, array, getattr(xp, str(np.dtype(dtype))))


def column_means(X: Any, weights: Any = None) -> np.ndarray:
    """Return the weighted mean of the rows, which add up in float64, on the host."""
    if not is_foreign(X):
        if weights is None:
            return X.mean(axis=0, dtype=np.float64)
        return np.einsum("i,ij->j", weights / weights.sum(), X, dtype=np.float64)
    xp = array_namespace(X)
    rows = astype(xp, X, xp.float64)
    if weights is None:
        return to_host(xp.mean(rows, axis=0))
    return to_host(xp.matmul(weights / xp.sum(weights), rows))


def squared_norms(rows: Any) -> Any:
    """Return the sums of squares along the last axis, added up in float64."""
    if not is_foreign(rows):
        return np.einsum("...j,...j->...", rows, rows, dtype=np.float64)
    xp = array_namespace(rows)
    rows = astype(xp, rows, xp.float64)
    return xp.sum(rows * rows, axis=-1)


def join(arrays: list[Any], axis: int) -> Any:
    """Join arrays of one library along an axis."""
    if not is_foreign(arrays[0]):
        return np.concatenate(arrays, axis=axis)
    return concat(array_namespace(arrays[0]), arrays, axis=axis)


def join_columns(arrays: list[Any]) -> Any:
    """Put arrays of one library beside each other."""
    if not is_foreign(arrays[0]):
        return np.hstack(arrays)
    return concat(array_namespace(arrays[0]), arrays, axis=1)


def total(values: Any, weights: Any = None) -> float:
    """Return the weighted sum of a vector of any library."""
    if not is_foreign(values):
        return float(values.sum() if weights is None else values @ weights)
    xp = array_namespace(values)
    return float(xp.sum(values if weights is None else values * like(weights, values)))


def average(values: Any, weights: Any = None) -> float:
    """Return the weighted mean of a vector of any library."""
    if not is_foreign(values):
        return float(np.average(values, weights=weights))
    sum_of_weights = values.shape[0] if weights is None else total(weights)
    return total(values, weights) / sum_of_weights


def largest_magnitude(array: Any) -> float:
    """Return the largest |entry| of an array of any library; 0 if it is empty."""
    if not is_foreign(array):
        return float(np.abs(array).max(initial=0.0))
    if 0 in array.shape:
        return 0.0
    xp = array_namespace(array)
    # Not through xp.abs, which would take memory for another such array.
    return max(float(xp.max(array)), -float(xp.min(array)))


def unit_rows(array: Any) -> Any:
    """Rows of another library's array divided by their norms; zero rows stay zero."""
    xp = array_namespace(array)
    largest = xp.max(xp.abs(array), axis=1, keepdims=True)
    one = xp.ones_like(largest)
    # Through the largest entry, so that neither tiny nor huge rows lose their norm.
    scaled = array / xp.where(largest > 0, largest, one)
    norms = xp.sqrt(xp.sum(scaled * scaled, axis=1, keepdims=True))
    return scaled / xp.where(norms > 0, norms, one)


def code_dtype(array: Any, dtype: np.dtype) -> Any:
    """Return an unsigned dtype in the library of an array, to be that of codes.

    Or the next wider signed one, where the library cannot compare or add in it: torch
    has uint16 and uint32 by name only.
    """
    if not is_foreign(array):
        return dtype
    xp = array_namespace(array)
    name = str(np.dtype(dtype))
    if library_name(array) == "torch" or not hasattr(xp, name):
        name = {"uint16": "int32", "uint32": "int64"}.get(name, name)
    return getattr(xp, name)
