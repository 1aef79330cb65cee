"""Operations on arrays of any library, for learners and schemes.

Each of these calls one method of the array's backend, which handles the differences.
"""

from typing import Any

import numpy as np

from skvq.nearest import backend_of


def to_host(array: Any) -> np.ndarray:
    """Return an array as a NumPy array; the array itself if it is one."""
    return np.asarray(backend_of(array).to_host(array))


def like(array: Any, other: Any) -> Any:
    """Return an array, of any library, in the library and on the device of another."""
    return backend_of(other).like(array)


def in_dtype(array: Any, dtype: Any) -> Any:
    """Return an array in a NumPy dtype."""
    return backend_of(array).cast(array, dtype)


def as_indices(codes: Any) -> Any:
    """Return codes in the dtype that their library requires of indices."""
    return backend_of(codes).cast(codes, np.intp)


def code_dtype(array: Any, dtype: Any) -> np.dtype:
    """Return the dtype of codes in the library of an array; see `Backend`."""
    return backend_of(array).code_dtype(dtype)


def take_along(array: Any, index: Any) -> Any:
    """Return (n, k, ...) entries along the second axis, by an index (n, k)."""
    return backend_of(array).take_along(array, index)


def look_up(table: Any, codes: Any) -> Any:
    """Return the rows of a table, of any library, by codes of any shape."""
    be = backend_of(codes)
    return be.look_up(be.like(table), codes)


def reshape(array: Any, shape: tuple[int, ...]) -> Any:
    """Return an array in another shape."""
    return backend_of(array).xp.reshape(array, shape)


def repeat(array: Any, times: int, axis: int) -> Any:
    """Repeat each entry along an axis."""
    return backend_of(array).repeat(array, times, axis)


def zeros(shape: tuple[int, ...], other: Any, dtype: Any = np.float64) -> Any:
    """Return zeros in the library of another array."""
    return backend_of(other).zeros(shape, dtype)


def join(arrays: list[Any], axis: int) -> Any:
    """Join arrays of one library along an axis."""
    return backend_of(arrays[0]).concat(arrays, axis)


def join_columns(arrays: list[Any]) -> Any:
    """Put arrays of one library beside each other."""
    return backend_of(arrays[0]).concat(arrays, 1)


def stable_order(values: Any) -> Any:
    """Return the indices that sort each row; equal entries keep their order."""
    return backend_of(values).stable_order(values)


def squared_norms(rows: Any) -> Any:
    """Return the sums of squares along the last axis, summed in float64."""
    return backend_of(rows).squared_norms(rows)


def total(values: Any, weights: Any = None) -> float:
    """Return the weighted sum of a vector."""
    be = backend_of(values)
    return be.total(values, None if weights is None else be.like(weights))


def average(values: Any, weights: Any = None) -> float:
    """Return the weighted mean of a vector."""
    be = backend_of(values)
    return be.average(values, None if weights is None else be.like(weights))
