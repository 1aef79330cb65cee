"""Inputs at the border: samples, weights and codes."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
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

    They are of the library of X; or come from another one, and go there.  They come
    back times a power of two, the largest below 1: of weights that form a mean, only
    the ratios count, and neither do sums of these overflow.
    """
    if sample_weight is None:
        return None
    return like(_scaled_weights(sample_weight, X)[0], X)


def _scaled_weights(sample_weight, X) -> tuple[np.ndarray, int]:
    """Return valid weights, divided by a power of two, on the host; and its exponent.

    The largest is then in [1/2, 1).  What is too small beside it for a float is zero.
    """
    if is_foreign(X):
        # A vector of the host is checked quickly, and its message names the entry.
        X = np.broadcast_to(np.float64(0), X.shape)
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
    exponent = int(np.frexp(weights.max())[1])
    return np.ldexp(weights, -exponent), exponent


def drop_zero_weights(X, weights):
    """Return X and weights without the rows that weigh nothing.

    Equal weights are None, so that they are the same as none to the last bit.
    """
    if weights is None:
        return X, weights
    host = to_host(weights)
    if not host.all():
        rows = np.flatnonzero(host)
        X, host = take_rows(X, rows), host[rows]
    if (host == host[0]).all():
        return X, None
    return X, like(host, X)


# A weight that counts as one: a mantissa in [1/2, 1), and the exponent of two.
WeightUnit = tuple[float, int]
ONE: WeightUnit = (0.5, 1)
# Means of weights that were divided by their mean differ from one by rounding.
_ROUNDING = 1e-12
# How much more, or less, the heaviest row of a batch may weigh than the unit.
_MAX_RATIO = 1e100


def weights_in_units(
    X, sample_weight, *, unit: WeightUnit | None = None, stream: bool = False
) -> tuple[Any, Any, WeightUnit]:
    """Validate the weights that something is learned with, and rid them of their scale.

    What all weights have in common changes nothing then: equal ones become None, and
    of others that differ by a power of two the same bits are left.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        The samples.
    sample_weight : array-like of shape (n_samples,) or None
        As the user gives them; None: all are one.
    unit : WeightUnit, optional
        The weight that is to count as one, from an earlier call; None: it is chosen.
    stream : bool
        What counts as one: the mean of these weights, since those of a stream meet
        numbers of rows; or the power of two next below, which they are divided by
        without rounding, where their ratios are all that counts.

    Returns
    -------
    X : array of shape (n_kept, n_features)
        The rows that weigh something.
    weights : array of shape (n_kept,) or None
        Their weights in units, in the library of X; None: all are one.
    unit : WeightUnit
        What counts as one.

    Raises
    ------
    ValueError
        If the weights are not valid, or of another order than a given unit.
    """
    if sample_weight is None:
        if unit in (None, ONE):
            return X, None, ONE
        weights, exponent = np.ones(X.shape[0]), 0
    else:
        weights, exponent = _scaled_weights(sample_weight, X)
    if unit is None:
        unit = _unit_of(weights[weights > 0], exponent, stream)
    mantissa, power = unit
    with np.errstate(over="ignore"):
        weights = np.ldexp(weights, exponent - power) / mantissa
    largest = float(weights.max())
    if not 1 / _MAX_RATIO < largest < _MAX_RATIO:
        raise ValueError(
            f"The largest sample_weight of this batch is {largest:.3g} times the mean "
            f"of the first batch's, {float(np.ldexp(mantissa, power)):.3g}; expected "
            f"weights of one scale, at most {_MAX_RATIO:.0e} times as large or small."
        )
    kept = np.flatnonzero(weights)
    if len(kept) < len(weights):
        X, weights = take_rows(X, kept), weights[kept]
    return X, None if (weights == 1).all() else like(weights, X), unit


def _unit_of(weights: np.ndarray, exponent: int, stream: bool) -> WeightUnit:
    constant = bool((weights == weights[0]).all())
    mantissa, power = np.frexp(weights[0] if constant else weights.mean())
    if mantissa > 1 - _ROUNDING:
        mantissa, power = 0.5, power + 1
    # So weights of mean one stay as they are, those of a part for example.
    if mantissa < 0.5 + _ROUNDING or not (stream or constant):
        mantissa = 0.5
    return float(mantissa), int(power) + exponent


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


def warn(message: str, category: type[Warning]) -> None:
    """Warn from within `fit`, at the user's line as far as that can be told."""
    # user -> the context of fit -> fit -> the scheme's hook -> here
    warnings.warn(message, category, stacklevel=5)


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
