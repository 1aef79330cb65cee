"""The least distortion that any code has on Gaussian features.

Independent Gaussian features of variances v_1, ..., v_d share their bits by reverse
water-filling (Cover and Thomas 2006, theorem 10.3.3): those above a level are coded
down to it, with log2(v_i / level) / 2 bits each, and the others are left out.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def principal_variances(
    X: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the variances of rows along their principal axes, the largest first.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        The rows.
    weights : ndarray of shape (n_rows,), optional
        Their weights.

    Returns
    -------
    variances : ndarray of shape (n_features,)
        Those of Gaussian features with the covariance of X, made independent; zeros
        along the axes in which fewer rows than features do not vary.
    """
    rows = X - np.average(X, axis=0, weights=weights).astype(np.float64)
    shares = np.full(len(X), 1 / len(X)) if weights is None else weights / weights.sum()
    rows *= np.sqrt(shares)[:, None]
    if len(rows) < rows.shape[1]:
        found = np.linalg.svd(rows, compute_uv=False) ** 2
        return np.pad(found, (0, rows.shape[1] - len(found)))
    return np.maximum(np.linalg.eigvalsh(rows.T @ rows)[::-1], 0.0)


def n_coded(variances: ArrayLike, bits: float) -> int:
    """Return how many features are above the level that some bits reach; 1 at least.

    Parameters
    ----------
    variances : array-like of shape (n_features,)
        Variances of independent Gaussian features.
    bits : float
        Bits of all features together.
    """
    return max(1, int(np.searchsorted(_thresholds(_sorted(variances)), bits)))


def distortion_bound(variances: ArrayLike, bits: ArrayLike) -> NDArray[np.float64]:
    """Return the least squared error that some bits allow.

    Parameters
    ----------
    variances : array-like of shape (n_features,)
        Variances of independent Gaussian features.
    bits : array-like of shape (n_points,)
        Bits of all features together, 0 or more.

    Returns
    -------
    errors : ndarray of shape (n_points,)
        The error, summed over the features.
    """
    found, bits = _sorted(variances), np.asarray(bits, dtype=np.float64)
    if not len(found):
        return np.zeros(bits.shape)
    n = np.maximum(1, np.searchsorted(_thresholds(found), bits))
    logs = np.cumsum(np.log2(found))[n - 1]
    left_out = np.append(np.cumsum(found[::-1])[::-1], 0.0)[n]
    return n * 2.0 ** ((logs - 2 * bits) / n) + left_out


def _sorted(variances: ArrayLike) -> NDArray[np.float64]:
    """Return the variances above 0, the largest first."""
    found = np.sort(np.asarray(variances, dtype=np.float64))[::-1]
    return found[found > 0]


def _thresholds(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bits from which on each feature is coded."""
    logs = np.log2(found)
    bits: NDArray[np.float64] = (
        np.cumsum(logs) - np.arange(1, len(logs) + 1) * logs
    ) / 2
    return bits
