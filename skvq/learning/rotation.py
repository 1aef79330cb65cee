"""Codebooks in subspaces of their own, in a rotation learned with them.

Tables whose rows lie in orthogonal subspaces can be searched one by one: since
||x - w||^2 = ||P x - w||^2 + ||x - P x||^2 for w in the range of the projector P, the
nearest row of a table to x is the nearest to x's part in its subspace, and the sum of
the rows found is the reconstruction of a product quantizer in a rotated space.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skvq import nearest
from skvq._arrays import (
    in_dtype,
    join_columns,
    largest_magnitude,
    like,
    look_up,
    numpy_dtype,
    to_host,
)
from skvq._arrays import total as sum_of
from skvq.learning.cells import repair_empty


class Rotated(NamedTuple):
    """A product codebook in a rotated space."""

    # (r, d), rows orthonormal, r the width of X; rows of X times this are cut in slices
    rotation: np.ndarray
    tables: list[np.ndarray]  # (V_j, d_j)
    distortion: float  # weighted mean squared distance of the samples


def turn(X: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return samples, of any library, times a matrix of the host, in X's dtype."""
    dtype = numpy_dtype(X)
    return in_dtype(X @ like(rotation.astype(dtype), X), dtype)


def principal_axes(X: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Eigenvectors of the covariance in columns, of falling variance; float64.

    Of fewer samples than features, as many as there are samples: the others have no
    variance.
    """
    total = float(X.shape[0] if weights is None else sum_of(weights))
    one = np.zeros(X.shape[0], dtype=np.intp)
    mean = nearest.accumulate(X, one, 1, weights)[0][:1, :] / total
    # Through the largest entry: squares of tiny or huge samples leave the dtype.
    gaps = in_dtype(X, np.dtype(np.float64)) - mean
    gaps = gaps / (largest_magnitude(gaps) or 1.0)
    weighted = gaps if weights is None else gaps * weights[:, None]
    with nearest.single_threaded_blas():
        if X.shape[0] < X.shape[1]:
            gaps = gaps if weights is None else gaps * weights[:, None] ** 0.5
            return np.linalg.svd(to_host(gaps), full_matrices=False)[2].T
        return np.linalg.eigh(to_host(gaps.T @ weighted) / total)[1][:, ::-1]


def balanced_order(variances: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Order of axes of falling variance that evens out the slices' variances.

    Each axis in turn goes to the slice whose variances have the smallest product so
    far and that has room (Ge et al. 2013, section 3.2).
    """
    slices: list[list[int]] = [[] for _ in widths]
    logs = np.zeros(len(widths))
    floor = max(float(variances.max(initial=0.0)) * 1e-12, np.finfo(float).tiny)
    for axis, variance in enumerate(variances):
        open_slices = [j for j, width in enumerate(widths) if len(slices[j]) < width]
        chosen = min(open_slices, key=lambda j: (logs[j], j))
        slices[chosen].append(axis)
        # Relative to the smallest, so that every axis adds to its slice.
        logs[chosen] += np.log(max(float(variance), floor) / floor)
    return np.concatenate([np.array(axes, dtype=np.intp) for axes in slices])


def improve_rotation(
    X: np.ndarray,
    start: Rotated,
    weights: np.ndarray | None,
    *,
    max_iter: int,
    tol: float,
) -> Rotated:
    """Improve tables and rotation in turns.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples; of fewer features than the rotation has columns, if they are the
        coordinates of samples of low rank in their span.
    start : Rotated
        Where to start.
    weights : ndarray of shape (n_samples,) or None
        Positive sample weights.
    max_iter : int
        Largest number of turns.
    tol : float
        Stop when a turn lowers the distortion by this share of it or less.

    Returns
    -------
    Rotated
        Of a distortion no higher than the start's.

    Notes
    -----
    A turn is one of Lloyd's iterations in every slice, then the rotation that brings
    the samples nearest to their reconstructions: U V^T with U S V^T = X^T Y, Y the
    reconstructions in the rotated space (Ge et al. 2013, section 3.1, without
    parameters; Schonemann 1966).
    """
    total = float(X.shape[0] if weights is None else sum_of(weights))
    rotation, tables = start.rotation, start.tables
    best, value = start, start.distortion
    for _ in range(max_iter):
        rotated = turn(X, rotation)
        inexact = [nearest.Table(table, exact=False) for table in tables]
        codes = nearest.nearest_product(rotated, inexact)
        tables, decoded = _update(rotated, codes, tables, weights)
        target = decoded if weights is None else decoded * weights[:, None]
        with nearest.single_threaded_blas():
            both = to_host(in_dtype(X.T, np.dtype(np.float64)) @ target)
            u, _, vt = np.linalg.svd(both, full_matrices=False)
            rotation = u @ vt
        new = sum_of(nearest.paired(turn(X, rotation), decoded), weights) / total
        if new < best.distortion:
            best = Rotated(rotation, tables, new)
        if value - new <= tol * value:
            break
        value = new
    return best


def _update(rotated, codes, tables, weights):
    """One of Lloyd's updates in every slice; the tables and the reconstructions."""
    updated, decoded, begin = [], [], 0
    for j, table in enumerate(tables):
        code, columns = codes[:, j], slice(begin, begin + table.shape[1])
        x = nearest.backend_of(rotated).contiguous(rotated[:, columns])
        sums, counts = (
            to_host(some) for some in nearest.accumulate(x, code, len(table), weights)
        )
        used = counts > 0
        fresh = table.astype(np.float64)
        fresh[used] = sums[used] / counts[used, None]
        fresh = fresh.astype(table.dtype)
        decoded.append(look_up(fresh, code))
        updated.append(repair_empty(x, code, fresh, weights))
        begin = columns.stop
    return updated, in_dtype(join_columns(decoded), np.dtype(np.float64))
