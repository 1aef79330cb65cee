"""Mean, spread and principal axes of rows."""

from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq.learning.rows import Block, Learner, Rows, in_memory

# Number of rows whose products are added up at a time, in float64.
_PRODUCT_ROWS = 16384


class RowMoments(NamedTuple):
    """Weight, mean and spread of rows, in float64."""

    weight: float  # summed over all rows
    mean: np.ndarray  # (n_features,)
    squares: float  # weighted sum of the squared distances from the mean


def moments(rows: Rows) -> Learner[RowMoments]:
    """Return weight, mean and summed squared distance from the mean.

    This takes one pass: each block is measured about its own mean, and two blocks are
    joined by the distance of their means.

    References
    ----------
    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance",
    The American Statistician 37(3), eq. 2.1.
    """
    return of_parts(*(yield rows.fold(_moments, join=join_moments)))


def of_parts(sums: np.ndarray, weight: np.ndarray, squares: np.ndarray) -> RowMoments:
    """Return the moments that `block_moments` has found."""
    return RowMoments(float(weight[0]), sums[0] / weight[0], float(squares[0]))


def _moments(block: Block) -> tuple[Any, ...]:
    one = block.be.zeros((block.n_rows,), np.intp)
    sums, weight = block.be.cell_sums(block.x, one, 1, block.w)
    return block_moments(block, sums, weight)


def block_moments(block: Block, sums: Any, counts: Any) -> tuple[Any, ...]:
    """Return summed rows (1, d), weight and squares (1,) of a block, on the host.

    They are to be joined by `join_moments`.  Sums and counts are those of any cells.
    """
    be = block.be
    sums = be.to_host(sums).sum(axis=0, keepdims=True)
    weight = be.to_host(counts).sum(keepdims=True)
    one = be.zeros((block.n_rows,), np.intp)
    gaps = nearest.paired(block.x, sums / weight[0], codes=one)
    squares = be.to_host(be.xp.sum(block.weighted(gaps)))
    return sums, weight, np.reshape(squares, (1,))


def join_moments(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the moments of two blocks."""
    (sums, weight, squares), (others, their_weight, their_squares) = a, b
    both = weight + their_weight
    gap = others / their_weight[0] - sums / weight[0]
    between = weight * (their_weight / both) * (gap @ gap.T)[0]
    return sums + others, both, squares + their_squares + between


class Principal(NamedTuple):
    """Mean and principal axes of rows."""

    mean: np.ndarray  # (n_features,)
    axes: np.ndarray  # (n_features, n_axes), orthonormal columns
    variances: np.ndarray  # (n_axes,), descending, times the weight of all rows


def principal_components(rows: Rows) -> Learner[Principal]:
    """Return mean, principal axes and variances, the first two in the rows' dtype.

    If there are fewer rows than features, there are as many axes as rows: they span
    all rows.
    """
    mean = (yield from moments(rows)).mean.astype(rows.dtype)
    if rows.n_rows < rows.n_features:
        X, weights = yield from in_memory(rows)
        gaps = (X - mean).astype(np.float64)
        gaps = gaps if weights is None else gaps * np.sqrt(weights)[:, None]
        with nearest.single_threaded_blas():
            _, roots, axes = np.linalg.svd(gaps, full_matrices=False)
        axes, variances = axes.T, roots**2
    else:
        (covariance,) = yield rows.fold(_scatter, mean)
        with nearest.single_threaded_blas():
            variances, axes = np.linalg.eigh(covariance)
        axes, variances = axes[:, ::-1], variances[::-1]
    return Principal(mean, np.ascontiguousarray(axes).astype(rows.dtype), variances)


def principal_axes(rows: Rows) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return the mean and the principal axes of rows, in their dtype.

    Returns
    -------
    mean : ndarray of shape (n_features,)
        The weighted mean.
    axes : ndarray of shape (n_features, n_axes)
        Orthonormal columns in order of falling variance; see `principal_components`.
    """
    found = yield from principal_components(rows)
    return found.mean, found.axes


def _scatter(block: Block, mean: np.ndarray) -> tuple[Any, ...]:
    be, result = block.be, None
    here: Any = be.send(mean)
    with nearest.single_threaded_blas():
        for start in range(0, block.n_rows, _PRODUCT_ROWS):
            cut = slice(start, min(start + _PRODUCT_ROWS, block.n_rows))
            gaps = be.cast(block.x[cut, :] - here, np.float64)
            weighted = gaps if block.w is None else gaps * block.w[cut][:, None]
            found = be.xp.matmul(gaps.T, weighted)
            result = found if result is None else result + found
    return (result,)
