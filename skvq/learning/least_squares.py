r"""Joint least squares: all tables at once, for given codes.

A reconstruction that is a sum of codewords is linear in them.  For given codes, the
tables that minimise

.. math:: \sum_i u_i \sum_s w_s \| x_i - \sum_{j \le s} W_j[c_{ij}] \|^2
solve one linear system.  With the tables stacked to one of K rows, the block
:math:`(j, k)` of its matrix holds the weighted counts of the pairs
:math:`(c_{ij}, c_{ik})` times :math:`\sum_{s \ge \max(j, k)} w_s`.  Block j of the
right side holds the weighted sums of the samples of each code times
:math:`\sum_{s \ge j} w_s`.  The matrix does not have full rank, since a vector may move
from one table to another.  A ridge towards the current tables makes the solution unique
and keeps rarely used codewords from fitting noise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

from skvq import nearest
from skvq._arrays import to_host, total

# Beyond this many codewords the matrix is kept sparse and the system is solved by
# conjugate gradients: a dense factor would take K^2 numbers and K^3 / 3 multiply-adds.
_MAX_DENSE_CODEWORDS = 4096
_MAX_STEPS = 200
_TOLERANCE = 1e-8


class NormalEquations(NamedTuple):
    """The linear system of the stacked tables; systems of chunks of rows add up."""

    gram: np.ndarray | scipy.sparse.csr_array  # (K, K)
    moments: np.ndarray  # (K, d)
    # (K,), the diagonal that a ridge of strength one adds: that of samples which weigh
    # as much as a codeword of the table does on average
    curvature: np.ndarray


def system_bytes(n_codewords: int, n_features: int, n_pairs: int) -> int:
    """Return a bound on the memory of the system for this many pairs of codes."""
    entries = n_codewords**2
    if n_codewords > _MAX_DENSE_CODEWORDS:
        entries = min(entries, n_pairs)
    return 8 * (2 * entries + 2 * n_codewords * n_features)


def cumulated_weights(stage_weights: Any, n_stages: int) -> np.ndarray:
    """Return each stage's weight plus all later ones; None: only the last counts."""
    if stage_weights is None:
        return np.ones(n_stages)
    return np.cumsum(np.asarray(stage_weights, dtype=np.float64)[::-1])[::-1]


def normal_equations(
    X: np.ndarray,
    codes: np.ndarray,
    starts: Any,
    sizes: Sequence[int],
    weights: np.ndarray | None = None,
    stage_weights: Any = None,
) -> NormalEquations:
    """Set up the system for given codes.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        What the sums of codewords approximate; of any library.
    codes : ndarray of shape (n_samples, n_stages)
        One code for each table.
    starts, sizes : sequence of int
        First row of each stage's table in the stacked one, and its number of rows.
        Stages that share a table have the same place.
    weights : ndarray of shape (n_samples,), optional
        Sample weights, u.
    stage_weights : array-like of shape (n_stages,), optional
        Weights of the partial sums, w; None: only the whole sum counts.

    Returns
    -------
    NormalEquations
    """
    n_stages = codes.shape[1]
    above = cumulated_weights(stage_weights, n_stages)
    n_rows = max(start + size for start, size in zip(starts, sizes, strict=True))
    whole = float(X.shape[0] if weights is None else total(weights))
    moments = np.zeros((n_rows, X.shape[1]))
    curvature = np.zeros(n_rows)
    for j in range(n_stages):
        rows = slice(starts[j], starts[j] + sizes[j])
        sums, _ = nearest.accumulate(X, codes[:, j], sizes[j], weights=weights)
        moments[rows] += above[j] * to_host(sums)
        curvature[rows] = np.maximum(curvature[rows], above[j] * whole / sizes[j])
    mass = None if weights is None else to_host(weights)
    gram = _gram(codes.astype(np.int64), starts, sizes, mass, above)
    return NormalEquations(gram, moments, curvature)


def _gram(
    codes: Any, starts: Any, sizes: Sequence[int], weights: Any, above: Any
) -> Any:
    """Return the weighted counts of pairs of codewords that occur together."""
    n_rows = max(start + size for start, size in zip(starts, sizes, strict=True))
    dense = n_rows <= _MAX_DENSE_CODEWORDS
    empty = np.zeros if dense else scipy.sparse.csr_array
    half = empty((n_rows, n_rows))
    for k in range(codes.shape[1]):
        for j in range(k + 1):
            factor = above[k] * (0.5 if j == k else 1.0)
            if dense:
                pairs = codes[:, j] * sizes[k] + codes[:, k]
                counts = np.bincount(pairs, weights, sizes[j] * sizes[k])
                rows = slice(starts[j], starts[j] + sizes[j])
                columns = slice(starts[k], starts[k] + sizes[k])
                half[rows, columns] += factor * counts.reshape(sizes[j], sizes[k])
            else:
                values = np.ones(len(codes)) if weights is None else weights
                places = (starts[j] + codes[:, j], starts[k] + codes[:, k])
                counts = scipy.sparse.csr_array((values, places), half.shape)
                half = half + factor * counts
    return half + half.T


def ridge(
    equations: NormalEquations,
    prior: np.ndarray,
    strength: float,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """Solve the system with a ridge towards given tables.

    Parameters
    ----------
    equations : NormalEquations
        From `normal_equations`.
    prior : ndarray of shape (K, n_features)
        The stacked tables towards which the solution is drawn.
    strength : float
        Positive.  It acts like samples that lie on each codeword of the prior and weigh
        this many times what a codeword of the table weighs on average.  It depends
        neither on the scale of the weights nor on how often all samples are repeated.
    fixed : ndarray of shape (K,), dtype bool, optional
        Rows that stay as they are.

    Returns
    -------
    tables : ndarray of shape (K, n_features), dtype float64
    """
    prior = prior.astype(np.float64)
    gram, curvature = equations.gram, equations.curvature
    free = slice(None) if fixed is None else np.flatnonzero(~fixed)
    with nearest.single_threaded_blas():
        # Solve for the step from the prior, so that rounding is relative to the step.
        right = (equations.moments - gram @ prior)[free]
        if fixed is not None:
            gram = gram[free][:, free]
        diagonal = strength * np.maximum(curvature[free], curvature.max() * 1e-12)
        if scipy.sparse.issparse(gram):
            step = _conjugate_gradients(gram, diagonal, right)
        else:
            matrix = gram.copy()
            matrix.flat[:: len(matrix) + 1] += diagonal
            factor = scipy.linalg.cho_factor(
                matrix, lower=True, overwrite_a=True, check_finite=False
            )
            step = scipy.linalg.cho_solve(factor, right, check_finite=False)
    result = prior.copy()
    result[free] += step
    return result


def _conjugate_gradients(gram: Any, diagonal: Any, right: Any) -> np.ndarray:
    """Solve (gram + diag(diagonal)) step = right, all columns at once."""
    scale = 1.0 / (gram.diagonal() + diagonal)
    step = np.zeros_like(right)
    rest = right.copy()
    direction = scale[:, None] * rest
    energy = np.einsum("ij,ij->j", rest, direction)
    enough = _TOLERANCE**2 * energy
    for _ in range(_MAX_STEPS):
        going = energy > enough
        if not going.any():
            break
        image = gram @ direction + diagonal[:, None] * direction
        curvature = np.einsum("ij,ij->j", direction, image)
        length = np.divide(energy, curvature, out=np.zeros_like(energy), where=going)
        step += length * direction
        rest -= length * image
        scaled = scale[:, None] * rest
        new = np.einsum("ij,ij->j", rest, scaled)
        ratio = np.divide(new, energy, out=np.zeros_like(energy), where=going)
        direction = scaled + ratio * direction
        energy = new
    return step
