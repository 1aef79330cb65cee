"""Inputs at the border: samples, weights and codes."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from skvq._compat import _check_sample_weight


def check_samples(estimator, X, *, reset: bool, min_samples: int = 1) -> np.ndarray:
    """Validate X as scikit-learn does, but keep its dtype and its memory map.

    The estimators compute in row blocks, in the dtype that `nearest.compute_dtype`
    names; converting here would copy the whole of X.
    """
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


def check_weights(sample_weight, X) -> np.ndarray | None:
    """Validate sample weights: finite, not negative, not all zero; float64 or None."""
    if sample_weight is None:
        return None
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
    if weights is None or weights.all():
        return X, weights
    kept = weights > 0
    return X[kept], weights[kept]


def check_codes(
    estimator, codes, sizes: Sequence[int], widths: Sequence[int]
) -> np.ndarray:
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
    codes : ndarray of shape (n_samples, n_codes), dtype intp
    """
    name = type(estimator).__name__
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
    return codes.astype(np.intp)


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
