"""Codes of the length of a vector, placed after those of its direction.

`skvq.learning.radius` lists them and sets them up.
"""

from typing import Any

import numpy as np

from skvq import nearest
from skvq.coding.levels import Grid, Levels, between

# Number of upper halves of finite non-negative floats: all pairs of codes are valid.
_N_UPPER = 0x7F80
_N_LOWER = 0x10000
# The smallest positive normal number; some devices lack subnormal ones.
_SMALLEST = np.finfo(np.float64).tiny


class RadiusCode:
    """No code for the length: every length is 1.

    Attributes
    ----------
    sizes : tuple of int
        Number of codewords V of each code column.
    """

    sizes: tuple[int, ...] = ()

    def encode(self, norms: Any) -> Any:
        """Return the codes (n_rows, n_columns) of lengths."""
        return np.empty((len(norms), 0), dtype=np.uint8)

    def decode(self, codes: Any) -> Any:
        """Return the lengths (n_rows,) of codes, in float64."""
        return 1.0 + nearest.backend_of(codes).zeros((codes.shape[0],))

    def tables(self, dtype: Any) -> tuple[np.ndarray, ...]:
        """Return the table of each code column."""
        return ()


class ScalarRadius(RadiusCode):
    """One code for the length, from a scalar codebook.

    Parameters
    ----------
    codec : Grid or Levels
        A codec of one column.
    """

    sizes: tuple[int, ...]

    def __init__(self, codec: Grid | Levels) -> None:
        self.codec = codec
        self.sizes = codec.sizes

    def encode(self, norms: Any) -> Any:
        """Return the codes (n_rows, 1) of lengths."""
        return self.codec.encode(norms[:, None])

    def decode(self, codes: Any) -> Any:
        """Return the lengths (n_rows,) of codes, in float64."""
        return self.codec.decode(codes)[:, 0]

    def tables(self, dtype: Any) -> Any:
        """Return the table of lengths, (V, 1)."""
        return self.codec.tables(dtype)


class LogRadius(ScalarRadius):
    """One code for the length: zero, or the nearest of the levels by ratio.

    Edges are geometric means of neighbouring levels, found by comparison, so that every
    library finds the same codes.

    Parameters
    ----------
    levels : ndarray of float64, shape (V,)
        Ascending; zero is the first.
    """

    def __init__(self, levels: np.ndarray) -> None:
        low, high = levels[:-1], levels[1:]
        # Only the length zero has code zero, however small other lengths are.
        middles = np.maximum(np.sqrt(low) * np.sqrt(high), _SMALLEST)
        edges = between(levels, middles)
        edges[0] = _SMALLEST
        super().__init__(Levels([levels], edges=[edges]))

    @classmethod
    def between(cls, low: float, high: float, n_levels: int, dtype: Any) -> "LogRadius":
        """Return a code whose levels have equal ratios between two positive lengths.

        Parameters
        ----------
        low, high : float
            The smallest and the largest length; a single level lies between them.
        n_levels : int
            Number of levels V, including zero.
        dtype : dtype
            Dtype of reconstructions; levels are exact in it, so that tables keep them.
        """
        n_positive = n_levels - 1
        levels = np.resize(np.sqrt(low) * np.sqrt(high), n_positive)
        if n_positive > 1 and low < high:
            levels = np.exp(np.linspace(np.log(low), np.log(high), n_positive))
            levels[[0, -1]] = low, high
        levels = np.maximum.accumulate(np.clip(levels, low, high))
        levels = np.concatenate([[0.0], levels]).astype(dtype)
        return cls(levels.astype(np.float64))


class Float32Radius(RadiusCode):
    """Two codes: the halves of a float32; larger lengths become its largest value."""

    sizes: tuple[int, int] = (_N_UPPER, _N_LOWER)

    def encode(self, norms: Any) -> Any:
        """Return the codes (n_rows, 2) of lengths."""
        be = nearest.backend_of(norms)
        bits = be.float32_bits(norms)
        codes = be.xp.stack([bits >> 16, bits & 0xFFFF], axis=1)
        return be.cast(codes, be.code_dtype(np.uint16))

    def decode(self, codes: Any) -> Any:
        """Return the lengths (n_rows,) of codes, in float64."""
        be = nearest.backend_of(codes)
        codes = be.cast(codes, np.int64)
        return be.from_float32_bits((codes[:, 0] << 16) + codes[:, 1])

    def tables(self, dtype: Any) -> tuple[Any, Any]:
        """Return the values of the upper halves, and the counts of units below them."""
        upper = (np.arange(_N_UPPER, dtype=np.uint32) << 16).view(np.float32)
        lower = np.arange(_N_LOWER)
        return upper.astype(dtype)[:, None], lower.astype(dtype)[:, None]
