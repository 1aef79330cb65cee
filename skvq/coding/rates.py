"""What codes cost, when frequent ones are written in fewer bits than rare ones."""

from collections.abc import Iterable, Sequence

import numpy as np

from skvq._ans import UNSEEN

# The largest column of codes that is counted, and the largest sum of sizes: columns
# beyond are none that a table of frequencies is kept for.
LARGEST_COUNTED = 2**16
MOST_COUNTED = 2**20

# How often each code was seen, for each column; None: it is not counted.
Counts = tuple[np.ndarray | None, ...]


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return what each code of a column costs, -log2 of its probability.

    Parameters
    ----------
    counts : ndarray of shape (n_codewords,)
        How often each code was seen; all of them together are more than zero.

    Returns
    -------
    bits : ndarray of float64, shape (n_codewords,)
        With probabilities in proportion to the counts, of which each is raised by
        `UNSEEN`.
    """
    smoothed = np.asarray(counts, dtype=np.float64) + UNSEEN
    return np.log2(smoothed.sum()) - np.log2(smoothed)


def counted_columns(sizes: Sequence[int]) -> list[int]:
    """Return which columns of codes are counted, by their sizes alone.

    Those of at most `LARGEST_COUNTED` codewords; none, if these have more than
    `MOST_COUNTED` in all.
    """
    columns = [j for j, size in enumerate(sizes) if size <= LARGEST_COUNTED]
    return columns if sum(sizes[j] for j in columns) <= MOST_COUNTED else []


def in_columns(counts: Iterable[np.ndarray], sizes: Sequence[int]) -> Counts:
    """Return counts of the counted columns in their places, and None in others."""
    found = dict(zip(counted_columns(sizes), counts, strict=True))
    return tuple(found.get(j) for j in range(len(sizes)))


def kept(counts: Sequence[np.ndarray | None], sizes: Sequence[int]) -> Counts:
    """Return counts of all columns, and None for those that are not to be counted."""
    columns = set(counted_columns(sizes))
    return tuple(found if j in columns else None for j, found in enumerate(counts))


def in_mean_weights(
    sums: Sequence[np.ndarray], weight: float, n_rows: float, sizes: Sequence[int]
) -> Counts:
    """Return the weights of codes, summed over rows, in units of the mean weight."""
    unit = float(weight) / n_rows
    return in_columns((found if unit == 1 else found / unit for found in sums), sizes)


def no_counts(sizes: Sequence[int]) -> Counts:
    """Return the counts of no codes."""
    return in_columns((np.zeros(sizes[j]) for j in counted_columns(sizes)), sizes)


def added(a: Counts, b: Counts) -> Counts:
    """Add counts of the same columns."""
    return tuple(
        None if x is None or y is None else x + y for x, y in zip(a, b, strict=True)
    )


def reordered(counts: Counts, orders: Sequence[np.ndarray | None]) -> Counts:
    """Return counts in another order of the codes of each column; None: as they are.

    Those of a table that was replaced by one of another size stay too.
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
    """Add what codes of the host weigh to the counts of some columns, in place."""
    for j, found in zip(columns, counts, strict=True):
        found += np.bincount(codes[:, j], weights, len(found))
