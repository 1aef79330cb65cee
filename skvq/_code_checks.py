"""Checks of code arrays that the functions and classes of `skvq.codes` share."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq._checks import check_unmasked
from skvq._columns import refuse_list_columns
from skvq._validation import followed_backend
from skvq.nearest import Backend

# A limb times a base plus a carry must fit uint64: with 32-bit limbs and bases up to
# 2**32 it is at most 2**64 - 1.
LIMB_BITS = 32
MAX_SIZE = 2**LIMB_BITS


def check_integer(value: Any, name: str, smallest: int, largest: int) -> int:
    """Return an integer within limits as a Python int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    value = int(value)
    if not smallest <= value <= largest:
        raise ValueError(f"{name} must be from {smallest} to {largest}, got {value}")
    return value


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the sizes of code columns as Python ints; raise unless they are valid."""
    try:
        sizes = tuple(sizes)
    except TypeError:
        raise TypeError(
            f"sizes must be a sequence of integers, one per code column, got {sizes!r}"
        ) from None
    if not sizes:
        raise ValueError("sizes must name at least one code column, got none")
    return tuple(
        check_integer(size, f"sizes[{j}]", 1, MAX_SIZE) for j, size in enumerate(sizes)
    )


def sent(be: Backend, array: NDArray[Any]) -> Any:
    """Return an array of the host in the library and on the device of the result."""
    return be.send(array.astype(be.code_dtype(array.dtype), copy=False))


def check_code_array(codes: Any, name: str) -> tuple[Backend, NDArray[Any]]:
    """Return the backend of the result, and the codes as a matrix on the host."""
    refuse_list_columns(codes, name)
    be = followed_backend(codes)
    codes = np.asarray(check_unmasked(be.to_host(codes), name))
    if codes.ndim != 2:
        raise ValueError(
            f"{name} must be 2-d, of shape (n_samples, n_codes), got {codes.shape}"
        )
    return be, codes


def check_integers(codes: NDArray[Any], name: str) -> None:
    """Raise unless codes are integers."""
    if codes.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be integers in every column, got dtype {codes.dtype}"
        )


def check_codes(
    codes: Any,
    sizes: tuple[int, ...],
    name: str = "codes",
    lowest: Sequence[int] | None = None,
) -> tuple[Backend, NDArray[Any]]:
    """Return the backend of the result, and valid codes on the host.

    The lowest code of each column is zero unless `lows` says otherwise.
    """
    be, codes = check_code_array(codes, name)
    if codes.shape[1] != len(sizes):
        raise ValueError(
            f"{name} has {codes.shape[1]} columns, sizes={sizes} has {len(sizes)}: "
            "there must be one size per column"
        )
    check_integers(codes, name)
    for j, size in enumerate(sizes):
        low = 0 if lowest is None else lowest[j]
        i = first_out_of_range(codes[:, j], size, low)
        if i is not None:
            raise ValueError(
                f"{name}[{i}, {j}] is {codes[i, j]}: column {j} has {size} codewords, "
                f"{low} to {low + size - 1}"
            )
    return be, codes


def row_words(codes: NDArray[Any]) -> NDArray[np.void]:
    """Return one opaque word (...) for each row of integers (..., n_codes).

    Words of non-negative codes sort as the rows do, column by column, but faster.
    """
    big = np.ascontiguousarray(codes, dtype=codes.dtype.newbyteorder(">"))
    return big.view(f"V{codes.shape[-1] * codes.itemsize}")[..., 0]


def first_out_of_range(values: NDArray[Any], size: int, low: int = 0) -> int | None:
    """Return the index of the first value outside low to low + size - 1, if any."""
    # Python integers are compared, since no dtype can wrap them around.
    last = low + size - 1
    if not len(values) or (int(values.min()) >= low and int(values.max()) <= last):
        return None
    return next(i for i, value in enumerate(values) if not low <= int(value) <= last)


def smallest_dtype(size: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype that holds the codes 0 to size - 1.

    Parameters
    ----------
    size : int
        Number of codewords, from 1 to 2**64.

    Returns
    -------
    dtype : numpy.dtype
        uint8 up to 256, uint16 up to 65,536, uint32 up to 2**32, else uint64.

    Raises
    ------
    TypeError
        If `size` is not an integer.
    ValueError
        If `size` is below 1 or above 2**64.

    Examples
    --------
    >>> from skvq.codes import smallest_dtype
    >>> smallest_dtype(256), smallest_dtype(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(check_integer(size, "size", 1, 2**64) - 1)
