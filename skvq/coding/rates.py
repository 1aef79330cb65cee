"""Counts of codes, and the bits that codes cost when frequent ones take fewer."""

from collections.abc import Iterable, Sequence

import numpy as np

from skvq._ans import UNSEEN

# The largest column of codes that is counted.  Entropy coders keep no table of
# frequencies for larger columns, nor for more codewords than the sum below.
LARGEST_COUNTED = 2**16
MOST_COUNTED = 2**20

# How often each code was seen, for each column; None: the column is not counted.
Counts = tuple[np.ndarray | None, ...]


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the cost of each code of a column, -log2 of its probability.

    Parameters
    ----------
    counts : ndarray of shape (n_codewords,)
        How often each code was seen; they do not sum to zero.

    Returns
    -------
    bits : ndarray of float64, shape (n_codewords,)
        Probabilities are in proportion to the counts, each raised by `UNSEEN`.
    """
    smoothed = np.asarray(counts, dtype=np.float64) + UNSEEN
    return np.log2(smoothed.sum()) - np.log2(smoothed)


def counted_columns(sizes: Sequence[int]) -> list[int]:
    """Return the columns of codes that are counted, which their sizes decide.

    These are the columns of at most `LARGEST_COUNTED` codewords, or none if they have
    more than `MOST_COUNTED` together.
    """
    columns = [j for j, size in enumerate(sizes) if size <= LARGEST_COUNTED]
    return columns if sum(sizes[j] for j in columns) <= MOST_COUNTED else []


def in_columns(counts: Iterable[np.ndarray], sizes: Sequence[int]) -> Counts:
    """Return the counts of counted columns in their places, and None elsewhere."""
    found = dict(zip(counted_columns(sizes), counts, strict=True))
    return tuple(found.get(j) for j in range(len(sizes)))


def kept(counts: Sequence[np.ndarray | None], sizes: Sequence[int]) -> Counts:
    """Return the counts of all columns, with None for those that are not counted."""
    columns = set(counted_columns(sizes))
    return tuple(found if j in columns else None for j, found in enumerate(counts))


def in_mean_weights(
    sums: Sequence[np.ndarray], weight: float, n_rows: float, sizes: Sequence[int]
) -> Counts:
    """Return the weights of codes, summed over rows, in units of the mean weight."""
    unit = float(weight) / n_rows
    return in_columns((found if unit == 1 else found / unit for found in sums), sizes)


def no_counts(sizes: Sequence[int]) -> Counts:
    """Return counts of zero for all counted columns."""
    return in_columns((np.zeros(sizes[j]) for j in counted_columns(sizes)), sizes)


def added(a: Counts, b: Counts) -> Counts:
    """Add counts of the same columns."""
    return tuple(
        None if x is None or y is None else x + y for x, y in zip(a, b, strict=True)
    )


def reordered(counts: Counts, orders: Sequence[np.ndarray | None]) -> Counts:
    """Return counts with the codes of each column reordered; None: as they are.

    Counts of a column whose table got another size also stay as they are.
    """
    return tuple(
        own if own is None or order is None or len(own) != len(order) else own[order]
        for own, order in zip(counts, orders, strict=True)
    )


def count_into(
    counts: Sequence[np.ndarray],
    columns: Sequence[int],
    codes: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """Add the weights of codes on the host to the counts of some columns, in place."""
    for j, found in zip(columns, counts, strict=True):
        found += np.bincount(codes[:, j], weights, len(found))
