"""Exact quantiles of features, for rows that no machine can sort together.

A float can be mapped to an integer in the same order.  The highest bits of a quantile's
integer follow from the weight of the rows with each value of these bits, the next bits
from the rows that share the bits found so far, and so on: each pass finds some bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skvq.learning.rows import Block, Learner, Rows

# The most bins in all histograms of a pass, and the most bits found per pass.
_MOST_BINS = 2**20
_MOST_BITS = 16
# Number of values whose bits are looked at together.
_TILE_ELEMENTS = 2**19


def quantiles(rows: Rows, shares: Sequence[float]) -> Learner[np.ndarray]:
    """Return the smallest values up to which at least these shares of the weight lie.

    Parameters
    ----------
    rows : Rows
        The samples.
    shares : sequence of float
        From 0 to 1; 0.5 is the lower median.

    Returns
    -------
    values : ndarray of shape (n_shares, n_features), in the dtype of the rows
        Each is one of the values of its feature.  A row of weight two counts twice.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.learning.quantiles import quantiles
    >>> from skvq.learning.rows import Rows, run
    >>> rows = Rows(np.array([[3.0], [1.0], [2.0], [8.0]]))
    >>> run(quantiles(rows, [0.5, 0.75])).ravel().tolist()
    [2.0, 3.0]
    """
    n_bits = 8 * rows.dtype.itemsize
    shape = len(shares), rows.n_features
    digit = _digit_bits(shape[0] * shape[1], rows.n_rows)
    # Known so far: all bits of the key above `low`, and the weight below these keys.
    known, below = np.zeros(shape, np.uint64), np.zeros(shape)
    wanted: np.ndarray | None = None
    low = n_bits
    while low > 0:
        high, low = low, max(0, low - digit)
        (found,) = yield rows.fold(_histograms, known, high, low)
        reached = np.cumsum(found, axis=2) + below[:, :, None]
        if wanted is None:
            # Rounding may leave a sum of floats just below a share that it reaches.
            wanted = np.asarray(shares)[:, None] * reached[:, :, -1] * (1 - 1e-12)
        # The first bin that reaches it and has any weight.
        is_there = (reached >= wanted[:, :, None]) & (found > 0)
        last = found.shape[2] - 1 - np.argmax(found[:, :, ::-1] > 0, axis=2)
        place = np.where(is_there.any(axis=2), is_there.argmax(axis=2), last)
        place = place[:, :, None]
        before = np.take_along_axis(reached, np.maximum(place - 1, 0), axis=2)
        below = np.where(place > 0, before, below[:, :, None])[:, :, 0]
        known = (known << np.uint64(high - low)) | place[:, :, 0].astype(np.uint64)
    return _floats(known, rows.dtype)


def _digit_bits(n_histograms: int, n_rows: int) -> int:
    """Return how many bits to find at a time, for few passes and small histograms."""
    most = max(1, _MOST_BINS // n_histograms).bit_length() - 1
    # Histograms of many more bins than rows take longer than more passes.
    return max(1, min(_MOST_BITS, most, n_rows.bit_length() + 2))


def _histograms(
    block: Block, known: np.ndarray, high: int, low: int
) -> tuple[Any, ...]:
    """Return the weight of each value of some bits, where the bits above are known."""
    # Counting runs on the host: no other library exposes the bits of a float.
    x, weights = block.be.to_host(block.x), None
    if block.w is not None:
        weights = np.broadcast_to(block.host_weights()[:, None], x.shape)
    shape = *known.shape, 1 << (high - low)
    result = np.zeros(shape)
    tile = max(1, _TILE_ELEMENTS // x.shape[1])
    for start in range(0, len(x), tile):
        cut = slice(start, start + tile)
        keys = _keys(x[cut])
        digits = (keys >> _of(keys, low)) & _of(keys, shape[2] - 1)
        # Indices of the bins, feature by feature.
        digits = digits.astype(np.intp) + np.arange(shape[1]) * shape[2]
        w = None if weights is None else weights[cut]
        is_first = high == 8 * keys.itemsize
        for share in range(1 if is_first else shape[0]):
            there = np.ones(keys.shape, dtype=bool)
            if not is_first:
                there = keys >> _of(keys, high) == known[share].astype(keys.dtype)
            some = None if w is None else w[there]
            counts = np.bincount(digits[there], some, minlength=shape[1] * shape[2])
            result[share] += counts.reshape(shape[1:])
        if is_first:
            result[1:] = result[0]
    return (result,)


def _of(keys: np.ndarray, number: int) -> Any:
    return keys.dtype.type(number)


def _keys(x: np.ndarray) -> np.ndarray:
    """Return unsigned integers in the order of floats; both zeros are the same."""
    unsigned = np.dtype(f"u{x.itemsize}")
    bits, sign = (x + 0).view(unsigned), unsigned.type(1 << (8 * x.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _floats(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the floats of keys."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    sign, keys = unsigned.type(1 << (8 * dtype.itemsize - 1)), keys.astype(unsigned)
    return np.where(keys & sign, keys ^ sign, ~keys).view(dtype)
