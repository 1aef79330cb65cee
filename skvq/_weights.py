"""Validation of sample weights, and the unit in which they count."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq._checks import check_array_of_dask, check_unmasked, naming
from skvq._compat import _check_sample_weight

# The weight that counts as one: a mantissa in [1/2, 1), and the exponent of two.
WeightUnit = tuple[float, int]
ONE: WeightUnit = (0.5, 1)
# Means of weights that were divided by their mean differ from one by rounding.
_ROUNDING = 1e-12
# The largest ratio, either way, of the heaviest row of a batch to the unit.
_MAX_RATIO = 1e100


def check_weights(sample_weight: Any, X: Any) -> Any:
    """Validate sample weights: finite, not negative, not all zero; float64 or None.

    They are moved to the library of X if they come from another one.  They are returned
    multiplied by a power of two, with the largest below 1: weights that form a mean
    matter only by their ratios, and sums of these cannot overflow.
    """
    if sample_weight is None:
        return None
    weights = _scaled_weights(sample_weight, X)[0]
    heavy = weights > 0
    if np.ptp(weights[heavy]) == 0:
        # Equal weights give the same bits as none.
        weights = heavy.astype(np.float64)
    return nearest.backend_of(X).like(weights)


_ALL_ZERO = "All sample_weight are zero; expected at least one positive weight."


def _scaled_weights(sample_weight: Any, X: Any) -> tuple[np.ndarray, int]:
    """Return valid weights on the host, divided by a power of two, and its exponent.

    The largest is then in [1/2, 1).  Weights too small beside it for a float are zero.
    """
    check_unmasked(sample_weight, "sample_weight")
    # Checking a vector on the host is fast, and the message names the entry.
    X = np.broadcast_to(np.float64(0), (X.shape[0], 1))
    sample_weight = nearest.backend_of(sample_weight).to_host(sample_weight)
    with naming("sample_weight"):
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        raise ValueError(
            f"Negative values in sample_weight: sample_weight[{negative[0]}] = "
            f"{weights[negative[0]]}; expected weights of zero or more."
        )
    if not weights.any():
        raise ValueError(_ALL_ZERO)
    exponent = int(np.frexp(weights.max())[1])
    return np.ldexp(weights, -exponent), exponent


class WeightsSeen(NamedTuple):
    """What a part of the weights contributes to the properties of all of them."""

    n_rows: int
    n_heavy: np.ndarray  # number of positive weights in each block
    smallest: float  # smallest positive weight
    largest: float
    total: float  # sum, divided by two to the exponent, as for `_scaled_weights`
    exponent: int


def check_weight_shape(sample_weight: Any, n_samples: int) -> None:
    """Raise unless there is one weight per sample."""
    if np.isnan(sample_weight.shape).any():
        raise ValueError(
            "sample_weight has chunks of unknown lengths: give "
            "sample_weight.to_dask_array(lengths=True), of a series, or call "
            "compute_chunk_sizes(), of an array, first."
        )
    if sample_weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight.shape == {sample_weight.shape}, expected {(n_samples,)}!"
        )


def weights_as_given(sample_weight: Any, n_samples: int | None) -> Any:
    """Return weights for the rows of a Dask array, as an array of NumPy or Dask.

    Parameters
    ----------
    sample_weight : collection of Dask's or array-like
        A single number is the weight of each sample.
    n_samples : int or None
        Number of samples; None if it is unknown, as it may be for Dask arrays.
    """
    if nearest.is_dask(sample_weight):
        check_array_of_dask(sample_weight, "sample_weight", "arrays and series")
        if hasattr(sample_weight, "to_dask_array"):
            sample_weight = sample_weight.to_dask_array()
        if n_samples is not None:
            check_weight_shape(sample_weight, n_samples)
        return sample_weight
    check_unmasked(sample_weight, "sample_weight")
    assert n_samples is not None
    weights = np.asarray(nearest.backend_of(sample_weight).to_host(sample_weight))
    if weights.ndim == 0:
        weights = np.full(n_samples, weights)
    check_weight_shape(weights, n_samples)
    if weights.dtype.kind != "O":
        return weights
    with naming("sample_weight"):
        return weights.astype(np.float64)


def look_at_weights(
    sample_weight: Any, start: int, block: int, exponent: int | None = None
) -> WeightsSeen:
    """Validate a part of the weights.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_rows,)
        Weights of consecutive rows.
    start : int
        Number of the first row.
    block : int
        Number of rows in a block.
    exponent : int, optional
        The exponent of all weights: weights too small beside it for a float are zero,
        as in memory.
    """
    check_unmasked(sample_weight, "sample_weight")
    sample_weight = np.asarray(sample_weight)
    if sample_weight.dtype.kind not in "biuf":
        raise ValueError(
            f"sample_weight has dtype {sample_weight.dtype}; expected real numbers."
        )
    weights = np.asarray(sample_weight, np.float64)
    wrong = np.flatnonzero(~(weights >= 0) | np.isinf(weights))
    if wrong.size:
        value = weights[wrong[0]]
        what = "NaN" if np.isnan(value) else "infinity"
        raise ValueError(
            f"{'Negative values' if value < 0 else f'Input contains {what}'} in "
            f"sample_weight: sample_weight[{start + wrong[0]}] = {value}; expected "
            "weights of zero or more."
        )
    if exponent is not None:
        weights = np.where(np.ldexp(weights, -exponent) > 0, weights, 0)
    heavy = weights > 0
    counts = np.add.reduceat(heavy, np.arange(0, len(weights), block), dtype=np.intp)
    if not heavy.any():
        return WeightsSeen(len(weights), counts, np.inf, 0.0, 0.0, -(2**15))
    largest = float(weights.max())
    exponent = int(np.frexp(largest)[1])
    total = float(np.ldexp(weights, -exponent).sum())
    smallest = float(weights[heavy].min())
    return WeightsSeen(len(weights), counts, smallest, largest, total, exponent)


def unit_of_all(seen: Sequence[WeightsSeen]) -> tuple[int, WeightUnit, bool]:
    """Return the exponent of all weights, their unit, and whether all equal it.

    Parameters
    ----------
    seen : sequence of WeightsSeen
        The contributions of all parts.

    Raises
    ------
    ValueError
        If all weights are zero.
    """
    if not any(one.largest > 0 for one in seen):
        raise ValueError(_ALL_ZERO)
    exponent = max(one.exponent for one in seen)
    smallest = min(one.smallest for one in seen)
    constant = smallest == max(one.largest for one in seen)
    value = np.ldexp(smallest, -exponent)
    if not constant:
        total = sum(np.ldexp(one.total, one.exponent - exponent) for one in seen)
        value = total / sum(int(one.n_heavy.sum()) for one in seen)
    unit = _unit_of(float(value), constant, exponent, stream=False)
    first = in_units(np.array([smallest]), exponent, unit)
    return exponent, unit, bool(constant and first[0] == 1)


def in_units(weights: np.ndarray, exponent: int, unit: WeightUnit) -> np.ndarray:
    """Return weights in units; the exponent keeps intermediate values in range."""
    return _in_units(np.ldexp(weights.astype(np.float64), -exponent), exponent, unit)


def _in_units(scaled: np.ndarray, exponent: int, unit: WeightUnit) -> np.ndarray:
    mantissa, power = unit
    with np.errstate(over="ignore"):
        return np.ldexp(scaled, exponent - power) / mantissa


def drop_zero_weights(X: Any, weights: Any) -> tuple[Any, Any]:
    """Return X and weights without the rows of weight zero.

    Weights that are all one become None, which gives the same bits.
    """
    if weights is None:
        return X, weights
    be, host = nearest.backend_of(X), nearest.backend_of(weights).to_host(weights)
    if not host.all():
        rows = np.flatnonzero(host)
        X, host = be.take(X, rows), host[rows]
    return X, None if (host == 1).all() else be.like(host)


def weights_in_units(
    X: Any, sample_weight: Any, *, unit: WeightUnit | None = None, stream: bool = False
) -> tuple[Any, WeightUnit]:
    """Validate the weights of a learner's samples, and remove their common scale.

    Scaling all weights then changes nothing: equal weights become None, and weights
    that differ by a power of two give the same bits.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        The samples.
    sample_weight : array-like of shape (n_samples,) or None
        The weights that were given; None: all are one.
    unit : WeightUnit, optional
        The weight that counts as one, from an earlier call; None: it is chosen.
    stream : bool
        The choice of the unit.  True: the mean of these weights, since weights of a
        stream meet numbers of rows.  False: the next lower power of two, by which they
        are divided without rounding, since only their ratios matter.

    Returns
    -------
    weights : array of shape (n_samples,) or None
        In units, in the library of X; None: all are one.
    unit : WeightUnit
        The weight that counts as one.

    Raises
    ------
    ValueError
        If the weights are not valid, or far from a given unit in magnitude.
    """
    if sample_weight is None:
        if unit in (None, ONE):
            return None, ONE
        weights, exponent = np.ones(X.shape[0]), 0
    else:
        weights, exponent = _scaled_weights(sample_weight, X)
    if unit is None:
        heavy = weights[weights > 0]
        constant = bool((heavy == heavy[0]).all())
        value = heavy[0] if constant else heavy.mean()
        unit = _unit_of(float(value), constant, exponent, stream)
    mantissa, power = unit
    weights = _in_units(weights, exponent, unit)
    largest = float(weights.max())
    if not 1 / _MAX_RATIO < largest < _MAX_RATIO:
        raise ValueError(
            f"The largest sample_weight of this batch is {largest:.3g} times the mean "
            f"of the first batch's, {float(np.ldexp(mantissa, power)):.3g}; expected "
            f"weights of one scale, at most {_MAX_RATIO:.0e} times as large or small."
        )
    equal = bool((weights == 1).all())
    return None if equal else nearest.backend_of(X).like(weights), unit


def _unit_of(mean: float, constant: bool, exponent: int, stream: bool) -> WeightUnit:
    mantissa, power = np.frexp(mean)
    if mantissa > 1 - _ROUNDING:
        mantissa, power = 0.5, power + 1
    # This keeps weights of mean one as they are, for example those of a part.
    if mantissa < 0.5 + _ROUNDING or not (stream or constant):
        mantissa = 0.5
    return float(mantissa), int(power) + exponent
