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
    in_dtype,
    is_foreign,
    largest_magnitude,
    library_name,
    like,
    numpy_dtype,
    take_rows,
    to_host,
)
from skvq._checks import as_plain, check_unmasked, naming
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
    check_unmasked(X, "X")
    try:
        # The quick test for NaN is a sum, in which huge values of both signs cancel.
        with np.errstate(invalid="ignore"):
            X = validate_data(
                estimator,
                X,
                reset=reset,
                dtype="numeric",
                ensure_min_samples=min_samples,
            )
    except ValueError as error:
        if "Found array with dim" in str(error):
            raise ValueError(f"{error} {_HOW_TO_FLATTEN}") from error
        if str(error).startswith("could not convert"):
            raise ValueError(f"X: {error}") from error
        raise
    except TypeError as error:
        raise TypeError(f"X: {error}") from error
    if X.dtype.kind not in "biuf":
        raise ValueError(
            f"X has dtype {X.dtype}; {type(estimator).__name__} takes real numbers."
        )
    if X.dtype.kind == "f" and X.dtype.itemsize > 8:
        _check_range(X)
    return X


def _check_range(X: np.ndarray) -> None:
    """Raise if numbers of a wide dtype are too large for float64, to compute in."""
    largest = max(X.max(), -X.min())
    if largest > np.finfo(np.float64).max:
        raise ValueError(
            f"X has values up to {largest!s}, too large for float64, the widest dtype "
            "that is computed in: scale X."
        )


_HOW_TO_FLATTEN = (
    "Use X.reshape(-1, n_features) if the last axis holds the features, and "
    "X.reshape(len(X), -1) if all axes but the first one do."
)


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
            f"(n_samples, n_features). {_HOW_TO_FLATTEN}"
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
    check_unmasked(sample_weight, "sample_weight")
    if is_foreign(X):
        # A vector of the host is checked quickly, and its message names the entry.
        host = to_host(sample_weight)
        weights = check_weights(host, np.broadcast_to(np.float64(0), X.shape))
        return like(weights, X)
    if is_foreign(sample_weight):
        sample_weight = to_host(sample_weight)
    with naming("sample_weight"):
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
    check_unmasked(codes, "codes")
    with naming("codes"):
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


def check_table(
    table, name: str, dtype, shape: tuple[int | None, int], meaning: str
) -> np.ndarray:
    """Return a copy of a table that a parameter gives; raise unless it fits.

    Parameters
    ----------
    table : array-like
        NumPy's, or of its kind.
    name : str
        The parameter, named in the messages.
    dtype : dtype
        Of the copy.
    shape : tuple of int or None
        What is expected; None: any number of rows.
    meaning : str
        What the shape stands for.
    """
    expected = f"{meaning} = {shape}" if shape[0] is not None else meaning
    check_unmasked(table, name)
    try:
        table = check_array(table, dtype=dtype, copy=True, input_name=name)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected an array of numbers of shape {expected}. {error}"
        ) from error
    if table.shape != (shape[0] or len(table), shape[1]):
        raise ValueError(f"{name} has shape {table.shape}; expected {expected}.")
    return table


def in_fitted_dtype(X, dtype: np.dtype) -> Any:
    """Return X in the dtype of a fit; raise if that is too narrow for its values."""
    if numpy_dtype(X).itemsize > dtype.itemsize:
        largest = largest_magnitude(X)
        if largest > float(np.finfo(dtype).max):
            raise ValueError(
                f"X has values up to {largest:.3g}, too large for {dtype}, in which "
                "the tables are: scale X, or fit on float64."
            )
    return in_dtype(X, dtype)


def warn(message: str, category: type[Warning]) -> None:
    """Warn from within `fit`, at the user's line as far as that can be told."""
    # user -> the context of fit -> fit -> the scheme's hook -> here
    warnings.warn(message, category, stacklevel=5)


def plain_parameters(estimator) -> dict[str, Any]:
    """Make the numbers among the parameters Python's own; return what they were.

    NumPy's wrap around, or overflow, in arithmetic that is in Python's right.  What the
    user has set is to stay, so that it is put back when the work is done.
    """
    given = estimator.get_params(deep=False)
    vars(estimator).update({name: as_plain(value) for name, value in given.items()})
    return given


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
