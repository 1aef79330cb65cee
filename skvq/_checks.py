"""Checks that the engine, the functions and the estimators share.

This module imports nothing of skvq, so that all of skvq may use it.
"""

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np

# Limit of sizes of codebooks and searches: codes have at most 32 bits.
LARGEST_SIZE = 2**32

_GIB = 2**30
# An array may take this many times the memory of X, however large X is.
_SHARE_OF_X = 64
# Most sizes that a representation names.
_MOST_NAMED = 6
# Packages whose frames are not the user's.
_NOT_THE_USERS = {"skvq", "sklearn", "joblib", "contextlib"}


def check_count(
    name: str, value: Any, smallest: int = 1, largest: int | None = LARGEST_SIZE
) -> int:
    """Return an integer of any type as a Python int, which never wraps around.

    Parameters
    ----------
    name : str
        The parameter, named in the message.
    value : int
        The value that was given.
    smallest, largest : int
        Limits; there is no upper one if the largest is None.

    Returns
    -------
    value : int

    Raises
    ------
    ValueError
        If it is not an integer within the limits.
    """
    if _is_within(value, smallest, largest):
        return int(value)
    limits = _limits(smallest, largest)
    raise ValueError(f"{name}={value!r}; expected an integer {limits}.")


def check_counts(
    name: str, values: Any, smallest: int = 1, largest: int | None = LARGEST_SIZE
) -> list[int]:
    """Return the results of `check_count` for each of several integers."""
    limits = _limits(smallest, largest)
    if not is_sequence(values):
        raise ValueError(
            f"{name}={values!r}; expected a sequence of integers {limits}."
        )
    values = list(values.tolist() if hasattr(values, "tolist") else values)
    most = math.inf if largest is None else largest
    # Checking Python's own ints one by one would take longer than many a search.
    plain = set(map(type, values)) == {int}
    if plain and smallest <= min(values) and max(values) <= most:
        return values
    for value in values:
        if not _is_within(value, smallest, largest):
            raise ValueError(f"{name} holds {value!r}; expected integers {limits}.")
    return [int(value) for value in values]


def _is_within(value: Any, smallest: int, largest: int | None) -> bool:
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    return smallest <= int(value) and (largest is None or int(value) <= largest)


def _limits(smallest: int, largest: int | None) -> str:
    if largest is None:
        return f"of {smallest} or more"
    return f"from {smallest} to {largest}"


def as_plain(value: Any) -> Any:
    """Return a number of any type as a Python number; anything else unchanged."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value


def is_finite_number(value: Any) -> bool:
    """Return whether it is a real number that a float can hold, and not a bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_true(value: Any) -> bool:
    """Return whether a value is True, Python's or NumPy's."""
    return isinstance(value, bool | np.bool_) and bool(value)


def is_sequence(value: Any) -> bool:
    """Return whether it is a sequence: a list, a tuple, an array of any library.

    Strings, sets, mappings and arrays without dimensions are not.
    """
    if isinstance(value, str | bytes | Mapping | Set | type):
        return False
    shape = getattr(value, "shape", None)
    if shape is not None:
        return isinstance(shape, tuple) and len(shape) > 0
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def check_code_dtype(dtype: Any, largest: int) -> np.dtype:
    """Return a dtype for codes; raise unless it is an integer dtype that holds them.

    Parameters
    ----------
    dtype : dtype-like
        The dtype that was given.
    largest : int
        The largest code.

    Raises
    ------
    ValueError
        If it is not an integer dtype, or too narrow.
    """
    try:
        found = np.dtype("V" if dtype is None else dtype)
    except TypeError:
        found = np.dtype("V")
    if found.kind not in "iu" or np.iinfo(found).max < largest:
        raise ValueError(
            f"dtype={dtype!r}; expected an integer dtype that holds codes up to "
            f"{largest}."
        )
    return found.newbyteorder("=")


def check_unmasked(array: Any, name: str) -> Any:
    """Return an array; raise if it has masked entries, which NumPy would unmask.

    Masked arrays without masked entries are like any other array.
    """
    rows = array if isinstance(array, list | tuple) else (array,)
    if any(np.ma.is_masked(row) for row in rows):
        raise ValueError(
            f"{name} is a masked array, and masked entries have no values here: fill "
            "them (numpy.ma.filled, or an imputer), or leave their rows away."
        )
    return array


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Make errors raised in the block name the parameter that they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)):
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: {error}") from error


def check_memory(what: str, n_bytes: float, x_bytes: float, given: str = "X") -> None:
    """Raise, before it is made, if an array would be out of proportion to the samples.

    Parameters
    ----------
    what : str
        The array, with the parameters that determine its size.
    n_bytes : float
        The size of the array.
    x_bytes : float
        The size of X, or of what was given in its place.
    given : str, default="X"
        The name of X in the message.

    Raises
    ------
    ValueError
        If it takes more than 1 GiB, and more than 64 times the size of X.
    """
    if n_bytes <= max(_GIB, _SHARE_OF_X * x_bytes):
        return
    raise ValueError(
        f"{what} would take {_readable(n_bytes)}, more than 1 GiB and more than "
        f"{_SHARE_OF_X} times {given}, which takes {_readable(x_bytes)}."
    )


def _readable(n_bytes: float) -> str:
    for unit, size in (("GiB", _GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def check_array_of_dask(value: object, name: str, kinds: str) -> None:
    """Raise unless a Dask collection is an array, or can become one.

    Parameters
    ----------
    value : Dask collection
        It is not computed.
    name : str
        Its name in the message.
    kinds : str
        The collections that are accepted, in the plural.
    """
    # The class is asked, since a delayed value seems to have every attribute.
    if not any(hasattr(type(value), one) for one in ("rechunk", "to_dask_array")):
        raise TypeError(
            f"{name} is a {class_name(type(value))}; of Dask's collections {kinds} are "
            "taken."
        )


def class_name(cls: type[Any]) -> str:
    """Return the name of a class for messages, with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def columns_in_words(sizes: Sequence[int]) -> str:
    """Return what code columns there are, in a few words, for representations.

    Parameters
    ----------
    sizes : sequence of int
        Number of codewords behind each code column.

    Examples
    --------
    >>> columns_in_words((256, 256)), columns_in_words((8, 4))
    ('2 columns of 256 codewords', '2 columns of 8, 4 codewords')
    """
    n = len(sizes)
    if len(set(sizes)) > 1:
        named = ", ".join(map(str, sizes[:_MOST_NAMED])) + ", ..." * (n > _MOST_NAMED)
    else:
        named = f"{sizes[0]}" if n else "no"
    return f"{n} column{'s' * (n != 1)} of {named} codewords"


def refusal(row: int, values: np.ndarray) -> str:
    """Return the message about a row that is not finite, from its values as given."""
    column = int(np.argmin(np.isfinite(values.astype(np.float64))))
    what = "a value too large for float64, the widest dtype that is computed in"
    if not np.isfinite(values[column]):
        what = "NaN" if np.isnan(values[column]) else "infinity"
    return f"Input X contains {what}: in row {row}, column {column}."


def users_level() -> int:
    """Return the stacklevel, for the caller, of the innermost frame of the user's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and _package(frame.f_globals) in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    return level


def _package(names: Mapping[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
