"""What passes the border: samples, weights and codes; and the warnings of a fit."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, validate_data

from skvq._array_api import (
    array_namespace,
    astype,
    device_of,
    is_foreign,
    library_name,
    like,
    take_rows,
    to_host,
)
from skvq._compat import _check_sample_weight, is_library_followed


def check_samples(estimator, X, *, reset: bool, min_samples: int = 1) -> Any:
    """Validate X as scikit-learn does, but keep its dtype and its memory map.

    The estimators compute in row blocks, in the dtype that `nearest.compute_dtype`
    names; converting here would copy the whole of X.
    """
    if is_foreign(X):
        if is_followed(estimator, X):
            return _check_foreign_samples(estimator, X, reset, min_samples)
        X = _as_numpy(estimator, X)
    # The quick test for NaN is a sum, in which huge values of both signs cancel.
    with np.errstate(invalid="ignore"):
        X = validate_data(
            estimator,
            X,
            reset=reset,
            dtype="numeric",
            ensure_min_samples=min_samples,
        )
    if X.dtype.kind not in "biuf":
        raise ValueError(
            f"X has dtype {X.dtype}; {type(estimator).__name__} takes real numbers."
        )
    return X


def is_followed(estimator, X) -> bool:
    """Whether the answer to X is to be an array of the same library.

    So it is for CuPy's arrays, which NumPy cannot read; for those of the library that
    the estimator was fitted in; and for all others where the user has switched on
    scikit-learn's ``array_api_dispatch``.  Without it, an array of, say, torch is what
    NumPy makes of it, as everywhere in scikit-learn.
    """
    if not is_foreign(X) or not getattr(estimator, "_follows_namespace", False):
        return False
    name = library_name(X)
    return is_library_followed(name) or name == getattr(estimator, "_namespace_", None)


def is_followed_by_functions(array) -> bool:
    """Whether functions, which have no estimator, answer in the array's library."""
    return is_foreign(array) and is_library_followed(library_name(array))


def _as_numpy(estimator, X) -> np.ndarray:
    try:
        return np.asarray(X)
    except (TypeError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"{type(estimator).__name__} computes with NumPy, which cannot read X, an "
            f"array of {library_name(X)}: copy it to the host."
        ) from error


def check_same_library(estimator, X, method: str) -> None:
    """Raise if X is not an array of the library, on the device, of those of `fit`."""
    fitted = getattr(estimator, "_namespace_", "numpy")
    given = library_name(X) if is_followed(estimator, X) else "numpy"
    places = "", ""
    if fitted == given != "numpy":
        places = f" on {estimator._device_}", f" on {device_of(X)}"
    if fitted + places[0] != given + places[1]:
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same "
            "namespace and the same device as those passed to fit(). The estimator was "
            f"fitted on arrays of {fitted}{places[0]}; X is one of {given}{places[1]}."
        )


def _check_foreign_samples(estimator, X, reset: bool, min_samples: int) -> Any:
    """Validate as scikit-learn does, in its words, and on the device.

    Not by `validate_data` alone, since that takes other libraries' arrays only while
    dispatch is on, and CuPy's are to be taken always.
    """
    name = type(estimator).__name__
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: {name} takes X of shape "
            "(n_samples, n_features)."
        )
    n_samples, n_features = X.shape
    if n_samples < min_samples:
        raise ValueError(
            f"Found array with {n_samples} sample(s) (shape={tuple(X.shape)}) while a "
            f"minimum of {min_samples} is required by {name}."
        )
    if n_features < 1:
        raise ValueError(
            f"Found array with {n_features} feature(s) (shape={tuple(X.shape)}) while "
            f"a minimum of 1 is required by {name}."
        )
    xp = array_namespace(X)
    if not any(xp.isdtype(X.dtype, k) for k in ("bool", "integral", "real floating")):
        raise ValueError(f"X has dtype {X.dtype}; {name} takes real numbers.")
    if xp.isdtype(X.dtype, "real floating") and not bool(xp.all(xp.isfinite(X))):
        raise ValueError(
            f"Input X contains NaN, infinity or a value too large for {X.dtype}."
        )
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return X


def check_foreign_matrix(X, name: str) -> Any:
    """Return a 2-d array of another library; raise unless it is finite and real."""
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"{name} has shape {tuple(X.shape)}; expected (n_samples, n_features), one "
            "or more of each."
        )
    xp = array_namespace(X)
    if not any(xp.isdtype(X.dtype, k) for k in ("bool", "integral", "real floating")):
        raise ValueError(f"{name} has dtype {X.dtype}; expected real numbers.")
    if xp.isdtype(X.dtype, "real floating") and not bool(xp.all(xp.isfinite(X))):
        raise ValueError(f"{name} contains NaN or infinity.")
    return X


def check_weights(sample_weight, X) -> Any:
    """Validate sample weights: finite, not negative, not all zero; float64 or None.

    They are of the library of X; or come from another one, and go there.
    """
    if sample_weight is None:
        return None
    if is_foreign(X):
        # A vector of the host is checked quickly, and its message names the entry.
        host = to_host(sample_weight)
        weights = check_weights(host, np.broadcast_to(np.float64(0), X.shape))
        return like(weights, X)
    if is_foreign(sample_weight):
        sample_weight = to_host(sample_weight)
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        raise ValueError(
            f"Negative values in sample_weight: sample_weight[{negative[0]}] = "
            f"{weights[negative[0]]}; expected weights of zero or more."
        )
    if not weights.any():
        raise ValueError(
            "All sample_weight are zero; expected at least one positive weight."
        )
    return weights


def drop_zero_weights(X, weights):
    """Return X and weights without the rows that weigh nothing."""
    if weights is None:
        return X, weights
    if is_foreign(X):
        kept = to_host(weights) > 0
        if kept.all():
            return X, weights
        rows = np.flatnonzero(kept)
        return take_rows(X, rows), take_rows(weights, rows)
    if weights.all():
        return X, weights
    kept = weights > 0
    return X[kept], weights[kept]


def check_codes(estimator, codes, sizes: Sequence[int], widths: Sequence[int]) -> Any:
    """Validate codes for decoding and return them as intp.

    Parameters
    ----------
    estimator : object
        Named in the messages.
    codes : array-like or dataframe of shape (n_samples, n_codes)
        Integers, or floats without fraction.
    sizes : sequence of int
        Number of codewords of each code column.
    widths : sequence of int
        Numbers of columns that can be decoded.

    Returns
    -------
    codes : array of shape (n_samples, n_codes), dtype intp
        NumPy's, or of the library that they came in, and then int64.
    """
    name = type(estimator).__name__
    if is_foreign(codes):
        if _valid_foreign_codes(codes, sizes, widths):
            xp = array_namespace(codes)
            return astype(xp, codes, xp.int64)
        codes = to_host(codes)  # to say what is wrong
    codes = check_array(
        codes,
        dtype="numeric",
        ensure_all_finite=False,
        ensure_min_samples=0,
        input_name="codes",
    )
    if codes.shape[1] not in widths:
        expected = " or ".join(str(width) for width in widths)
        raise ValueError(
            f"codes has {codes.shape[1]} columns, but {name} decodes {expected}."
        )
    if codes.dtype.kind not in "biuf":
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers.")
    limits = np.asarray(sizes[: codes.shape[1]], dtype=np.int64)
    # Written so that NaN is not valid; compared before the cast, which would wrap.
    valid = (codes >= 0) & (codes < limits)
    if codes.dtype.kind == "f":
        valid &= codes == np.floor(codes)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(
            f"codes[{row}, {column}] = {codes[row, column]} is not a code of {name}: "
            f"column {column} takes the integers 0 to {limits[column] - 1}."
        )
    # In one layout, since products of what the codes look up may round by it.
    return np.ascontiguousarray(codes, dtype=np.intp)


def _valid_foreign_codes(codes, sizes: Sequence[int], widths: Sequence[int]) -> bool:
    """Check codes on their device: of the right shape, and all in range."""
    xp = array_namespace(codes)
    if codes.ndim != 2 or codes.shape[1] not in widths:
        return False
    if not any(xp.isdtype(codes.dtype, kind) for kind in ("integral", "real floating")):
        return False
    found = codes
    if xp.isdtype(codes.dtype, "integral"):
        found = astype(xp, codes, xp.int64)
    limits = like(np.asarray(sizes[: codes.shape[1]], dtype=np.int64), codes)
    limits = astype(xp, limits, found.dtype)
    valid = (found >= 0) & (found < limits[None, :])
    if found is codes:
        valid = valid & (codes == xp.floor(codes))
    return bool(xp.all(valid))


# -- warnings --------------------------------------------------------------------------

_Place = tuple[str, int, tuple[int, ...]]


class Notice(NamedTuple):
    """What is to be warned of at the end of a fit, and where it was found.

    Parameters
    ----------
    text : str
        With ``{}`` for the number, if it has one.
    numbers : tuple of int
        The smallest and the largest of all places.
    places : tuple of (noun, count, numbers)
        What parts of what parts, from the outermost on: what they are called, how many
        there are, and which are meant.
    """

    text: str
    numbers: tuple[int, int] = (0, 0)
    places: tuple[_Place, ...] = ()

    def __str__(self) -> str:
        low, high = self.numbers
        number = f"{low}" if low == high else f"{low} to {high}"
        text = self.text.replace("{}", number)
        if not self.places:
            return text
        return f"In {', '.join(_in_words(*place) for place in self.places)}: {text}"


# Most places that a warning names.
_MOST_NAMED = 10

# A list, while warnings wait for a fit to end.  Python's own way to catch warnings is
# one for all threads, and does not reach the workers of joblib.
_waiting: ContextVar[list[Notice] | None] = ContextVar("skvq_notices", default=None)

# Where frames are not the user's.
_NOT_THE_USERS = (
    str(Path(__file__).parent) + os.sep,
    *(str(Path(str(one.__file__)).parent) + os.sep for one in (sklearn, joblib)),
    str(contextlib.__file__),
)


def warn(text: str, number: int = 0) -> None:
    """Give a ConvergenceWarning when the outermost fit is done; outside of one, now.

    Parameters
    ----------
    text : str
        The message; ``{}`` in it stands for the number.
    number : int, default=0
        What may differ from part to part.
    """
    _give([Notice(text, (number, number))])


def warn_of_some(noun: str, text: str, numbers: Sequence[int | None]) -> None:
    """Warn of some features, or what else the noun says.

    Parameters
    ----------
    noun : str
        What they are called, in the singular.
    text : str
        As in `warn`.
    numbers : sequence of int or None
        The number for each, None where there is nothing to say.
    """
    found = [[] if one is None else [Notice(text, (one, one))] for one in numbers]
    warn_of_parts(noun, found)


def warn_of_parts(noun: str, found: Sequence[list[Notice]]) -> None:
    """Warn of what was collected from each of some parts, once for all of a kind."""
    count = len(found)
    _give(
        [
            one._replace(places=((noun, count, (j,)), *one.places))
            for j, notices in enumerate(found)
            for one in notices
        ]
    )


@contextmanager
def collected() -> Iterator[list[Notice]]:
    """Collect the warnings of the block, and of fits in it, for `warn_of_parts`."""
    notices: list[Notice] = []
    token = _waiting.set(notices)
    try:
        yield notices
    finally:
        _waiting.reset(token)


@contextmanager
def one_warning() -> Iterator[None]:
    """Give what is warned of in the block as one warning at its end.

    Within another such block it is handed up to that one.
    """
    with collected() as notices:
        yield
    if notices:
        _give(notices)


def _give(notices: list[Notice]) -> None:
    merged: dict[tuple, Notice] = {}
    for one in notices:
        kind = one.text, *(place[:2] for place in one.places)
        before = merged.get(kind)
        merged[kind] = one if before is None else _merged(before, one)
    waiting = _waiting.get()
    if waiting is not None:
        waiting.extend(merged.values())
    elif merged:
        message = " ".join(map(str, merged.values()))
        warnings.warn(message, ConvergenceWarning, stacklevel=_users_level())


def _merged(one: Notice, other: Notice) -> Notice:
    numbers = one.numbers + other.numbers
    places = tuple(
        (noun, count, tuple(sorted({*which, *others})))
        for (noun, count, which), (_, _, others) in zip(
            one.places, other.places, strict=True
        )
    )
    return Notice(one.text, (min(numbers), max(numbers)), places)


def _in_words(noun: str, count: int, which: tuple[int, ...]) -> str:
    if len(which) == count:
        return f"the one {noun}" if count == 1 else f"all {count} {noun}s"
    named = ", ".join(map(str, which[:_MOST_NAMED]))
    more = ", ..." if len(which) > _MOST_NAMED else ""
    return f"{len(which)} of {count} {noun}s ({named}{more})"


def _users_level() -> int:
    """Return the stacklevel, for the caller, of the innermost line of the user's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        level, frame = level + 1, frame.f_back
    return level


@contextmanager
def unchanged_on_failure(estimator) -> Iterator[None]:
    """Put the estimator's attributes back if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
