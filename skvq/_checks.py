"""What the engine, the functions and the estimators check alike.

Nothing of skvq is imported here, so that all of it may use this.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np

# Sizes, of codebooks and of searches: codes are at most 32 bits wide.
LARGEST_SIZE = 2**32

_GIB = 2**30
# What is needed may be so many times as large as X, however large that is.
_SHARE_OF_X = 64
# Most sizes that a representation names.
_MOST_NAMED = 6


def check_count(
    name: str, value: Any, smallest: int = 1, largest: int | None = LARGEST_SIZE
) -> int:
    """Return an integer of any type as Python's, which never wraps around.

    Parameters
    ----------
    name : str
        The parameter, named in the message.
    value : int
        What it was given.
    smallest, largest : int
        Limits; none if the largest is None.

    Returns
    -------
    value : int

    Raises
    ------
    ValueError
        If it is no integer within the limits.
    """
    if _is_within(value, smallest, largest):
        return int(value)
    limits = _limits(smallest, largest)
    raise ValueError(f"{name}={value!r}; expected an integer {limits}.")


def check_counts(
    name: str, values: Any, smallest: int = 1, largest: int | None = LARGEST_SIZE
) -> list[int]:
    """Return what `check_count` does of each of some integers."""
    limits = _limits(smallest, largest)
    if not is_sequence(values):
        raise ValueError(
            f"{name}={values!r}; expected a sequence of integers {limits}."
        )
    values = list(values.tolist() if hasattr(values, "tolist") else values)
    most = math.inf if largest is None else largest
    # Python's own, one by one, would take longer than many a search.
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
    """Return a number of any type as Python's; all else as it is."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value


def is_finite_number(value: Any) -> bool:
    """Whether it is a real number that a float can hold; truth values are none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_true(value: Any) -> bool:
    """Whether a value is True, Python's or NumPy's."""
    return isinstance(value, bool | np.bool_) and bool(value)


def is_sequence(value: Any) -> bool:
    """Whether it is a row of things: a list, a tuple, an array of any library.

    Texts, sets and mappings are none, nor are arrays without dimensions.
    """
    if isinstance(value, str | bytes | Mapping | Set | type):
        return False
    shape = getattr(value, "shape", None)
    if shape is not None:
        return isinstance(shape, tuple) and len(shape) > 0
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def check_code_dtype(dtype: Any, largest: int) -> np.dtype:
    """Return the dtype of codes; raise unless it is of integers and holds them all.

    Parameters
    ----------
    dtype : dtype-like
        As the user gives it.
    largest : int
        The largest code.

    Raises
    ------
    ValueError
        If it is another, or too narrow.
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
    """Return what is given; raise if it hides entries, which NumPy would show again.

    A masked array without a masked entry is one like any other.
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
    """Let errors that the block raises name the parameter that they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)):
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: {error}") from error


def check_memory(what: str, n_bytes: float, x_bytes: float, given: str = "X") -> None:
    """Raise before an array is made that is out of all proportion to the samples.

    Parameters
    ----------
    what : str
        What is to be made, with the parameters that determine its size.
    n_bytes : float
        How much it takes.
    x_bytes : float
        How much X takes, or what was given in its place.
    given : str, default="X"
        What the message calls it.

    Raises
    ------
    ValueError
        If it takes more than 1 GiB, and more than 64 times what X does.
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
    """Raise unless a collection of Dask's is an array, or becomes one.

    Parameters
    ----------
    value : collection of Dask's
        Nothing of it is computed.
    name : str
        What the message calls it.
    kinds : str
        What is taken, in the plural.
    """
    # Of the class: a delayed value seems to have every attribute.
    if not any(hasattr(type(value), one) for one in ("rechunk", "to_dask_array")):
        raise TypeError(
            f"{name} is a {class_name(type(value))}; of Dask's collections {kinds} are "
            "taken."
        )


def class_name(cls: type[Any]) -> str:
    """Return what a class is called in messages, with its module."""
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
