"""Cells of a codebook: their best codewords, and the split of the heaviest.

A cell is the set of samples that share a code.  Each metric has its own codeword that
minimises the distance summed over a cell: the mean for squared Euclidean distance; for
the cosine, the mean of the unit vectors, normalised (Dhillon and Modha 2001); the
median of every feature for the Manhattan distance.

All arrays are NumPy arrays, except those of `unit_rows` and `cell_sums`.
"""

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from skvq import nearest
from skvq._arrays import to_host

# Metrics for which the codeword of a cell has an update that minimises the distance.
LEARNABLE_METRICS = frozenset({"sqeuclidean", "cosine", "cityblock"})


def unit_rows(X: np.ndarray) -> np.ndarray:
    """Return the rows divided by their norms, in X's dtype; zero rows stay zero."""
    be = nearest.backend_of(X)
    scaled = be.unit_rows(X)
    return be.xp.where(be.xp.isfinite(scaled), scaled, be.xp.zeros_like(scaled))


def best_codewords(
    X: Any,
    codes: Any,
    codebook: np.ndarray,
    weights: np.ndarray | None,
    metric: nearest.Metric,
) -> np.ndarray:
    """Return the table that minimises the distance for the given codes.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples; unit vectors if the metric is the cosine.
    codes : ndarray of shape (n_samples,)
        Cell of each sample.
    codebook : ndarray of shape (n_codewords, n_features)
        The current codewords, which empty cells keep.
    weights : ndarray of shape (n_samples,) or None
        Sample weights.
    metric : str
        One of `LEARNABLE_METRICS`.

    Returns
    -------
    codebook : ndarray of shape (n_codewords, n_features)
        In the dtype of the given codebook.
    """
    if metric == "cityblock":
        return _medians(X, codes, codebook, weights)
    sums, counts = cell_sums(X, codes, len(codebook), weights)
    return cell_means(sums, counts, codebook, metric)


def cell_means(
    sums: np.ndarray, counts: np.ndarray, codebook: np.ndarray, metric: nearest.Metric
) -> np.ndarray:
    """Do as `best_codewords`, but from the sums of the cells; not for medians."""
    used = counts > 0
    result = codebook.astype(np.float64)
    if metric == "cosine":
        # The vectors of a cell may cancel: it has no direction and keeps its codeword.
        used &= np.einsum("ij,ij->i", sums, sums) > 1e-24 * counts**2
        result[used] = unit_rows(sums[used])
    else:
        result[used] = sums[used] / counts[used, None]
    return result.astype(codebook.dtype)


def cell_sums(
    X: Any, codes: Any, n_codewords: int, weights: Any = None
) -> tuple[Any, Any]:
    """Do as `nearest.accumulate`, with the results on the host for any library of X."""
    sums, counts = nearest.accumulate(X, codes, n_codewords, weights=weights)
    return to_host(sums), to_host(counts)


def _medians(X: Any, codes: Any, codebook: Any, weights: Any) -> np.ndarray:
    result = codebook.copy()
    for code, rows in _members(codes, len(codebook)):
        result[code] = _median(X[rows], None if weights is None else weights[rows])
    return result


def _median(rows: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the lower weighted median of each feature.

    It minimises the distance and is one of the values.  Taking the lower one makes a
    row of weight two count as two rows.
    """
    if weights is None:
        return np.sort(rows, axis=0)[(len(rows) - 1) // 2]
    order = np.argsort(rows, axis=0, kind="stable")
    cumulated = np.cumsum(weights[order], axis=0)
    middle = (cumulated < 0.5 * cumulated[-1] * (1 - 1e-12)).sum(axis=0)[None]
    return np.take_along_axis(rows, np.take_along_axis(order, middle, 0), 0)[0]


def _members(codes: np.ndarray, n_codewords: int) -> Iterator[Any]:
    """Yield each code in use with the indices of its samples."""
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(n_codewords + 1))
    for code in np.flatnonzero(np.diff(bounds)):
        yield code, order[bounds[code] : bounds[code + 1]]


def repair_empty(
    X: np.ndarray, codes: np.ndarray, codebook: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Give codewords that no sample uses halves of the heaviest cells.

    This never raises the summed squared distance, and it is deterministic.

    Parameters
    ----------
    X, codes, weights
        As in `best_codewords`.
    codebook : ndarray of shape (n_codewords, n_features)
        The best codebook for the codes.

    Returns
    -------
    codebook : ndarray of shape (n_codewords, n_features)
        A new table, or the same if nothing was empty.
    """
    counts = np.bincount(codes, minlength=len(codebook))
    empty = np.flatnonzero(counts == 0)
    if empty.size == 0:
        return codebook
    cost = nearest.paired(X, codebook, codes=codes)
    cost = cost if weights is None else cost * weights
    split = split_heaviest(X, codes, codebook, weights, "sqeuclidean", cost, empty)
    return split[0]


def split_heaviest(
    X: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray,
    weights: np.ndarray | None,
    metric: nearest.Metric,
    cost: np.ndarray,
    slots: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Split the cell of the largest summed cost once for each free slot.

    Parameters
    ----------
    X, codes, codebook, weights, metric
        As in `best_codewords`.
    cost : ndarray of shape (n_samples,)
        Weighted distance of each sample from its codeword.
    slots : ndarray of int
        Rows of the codebook that receive the second halves.

    Returns
    -------
    codebook, codes : ndarray
        The new table, and the codes after the splits.
    """
    codebook, codes = codebook.copy(), codes.copy()
    members = dict(_members(codes, len(codebook)))
    heap = [(-float(cost[rows].sum()), code) for code, rows in members.items()]
    heapq.heapify(heap)
    for slot in slots:
        halves = None
        while heap and halves is None:
            negative_cost, code = heapq.heappop(heap)
            if not negative_cost < 0:
                heap.clear()  # no split would improve what is left
            else:
                rows = members[code]
                w = None if weights is None else weights[rows]
                halves = _halve(X[rows], codebook[code], w)
        if halves is None:
            break
        for cell, rows_of in ((code, rows[~halves]), (slot, rows[halves])):
            w = None if weights is None else weights[rows_of]
            x, here = X[rows_of], np.zeros(len(rows_of), dtype=np.intp)
            codebook[cell] = best_codewords(x, here, codebook[[code]], w, metric)[0]
            distance = nearest.paired(x, codebook, metric, codes=here + cell)
            members[cell] = rows_of
            codes[rows_of] = cell
            summed = distance.sum() if w is None else distance @ w
            heapq.heappush(heap, (-float(summed), cell))
    return codebook, codes


def _halve(
    rows: np.ndarray, codeword: np.ndarray, weights: np.ndarray | None
) -> np.ndarray | None:
    """Cut a cell through its codeword, across its longest axis; None if it is a point.

    The axis is found by a few steps of power iteration from the farthest row.
    """
    gaps = rows.astype(np.float64) - codeword
    squares = np.einsum("ij,ij->i", gaps, gaps)
    farthest = int(squares.argmax())
    largest = squares[farthest]
    if not largest > 0 or (rows == rows[0]).all():
        return None
    gaps = gaps / largest**0.5
    axis = gaps[farthest]
    for _ in range(8):
        along = gaps @ axis
        if weights is not None:
            along = along * weights
        axis = along @ gaps
        length = float(axis @ axis) ** 0.5
        if not length > 0:
            break
        axis = axis / length
    second = gaps @ axis > 0
    if second.all() or not second.any():
        second = (rows == rows[farthest]).all(axis=1)
    return second if second.any() and not second.all() else None
