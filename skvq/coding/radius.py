"""Codes of the length of a vector, behind those of its direction.

`skvq.learning.radius` says which there are, and sets them up.
"""

from typing import Any

import numpy as np

from skvq import nearest
from skvq.coding.levels import Grid, Levels

# Upper halves of the finite floats that are not negative: all pairs of codes are valid.
_N_UPPER = 0x7F80
_N_LOWER = 0x10000


class RadiusCode:
    """No code at all: every length is 1.

    Attributes
    ----------
    sizes : tuple of int
        V of each code column.
    """

    sizes: tuple[int, ...] = ()

    def encode(self, norms: Any) -> Any:
        """Return the codes (n_rows, n_columns) of lengths."""
        return np.empty((len(norms), 0), dtype=np.uint8)

    def decode(self, codes: Any) -> Any:
        """Return the lengths (n_rows,) of codes, in float64."""
        return 1.0 + nearest.backend_of(codes).zeros((codes.shape[0],))

    def tables(self, dtype) -> tuple[np.ndarray, ...]:
        """Return the table of each code column."""
        return ()


class ScalarRadius(RadiusCode):
    """One code: a scalar codebook.

    Parameters
    ----------
    codec : Grid or Levels
        Of one column.
    """

    def __init__(self, codec: Grid | Levels):
        self.codec = codec
        self.sizes = codec.sizes

    def encode(self, norms):
        """Return the codes (n_rows, 1) of lengths."""
        return self.codec.encode(norms[:, None])

    def decode(self, codes):
        """Return the lengths (n_rows,) of codes, in float64."""
        return self.codec.decode(codes)[:, 0]

    def tables(self, dtype):
        """Return the table of lengths, (V, 1)."""
        return self.codec.tables(dtype)


class Float32Radius(RadiusCode):
    """Two codes: the halves of a float32; beyond its range, its largest value."""

    sizes = (_N_UPPER, _N_LOWER)

    def encode(self, norms):
        """Return the codes (n_rows, 2) of lengths."""
        be = nearest.backend_of(norms)
        bits = be.float32_bits(norms)
        codes = be.xp.stack([bits >> 16, bits & 0xFFFF], axis=1)
        return be.cast(codes, be.code_dtype(np.uint16))

    def decode(self, codes):
        """Return the lengths (n_rows,) of codes, in float64."""
        be = nearest.backend_of(codes)
        codes = be.cast(codes, np.int64)
        return be.from_float32_bits((codes[:, 0] << 16) + codes[:, 1])

    def tables(self, dtype):
        """Return the lengths of the upper halves, and the counts of units below."""
        upper = (np.arange(_N_UPPER, dtype=np.uint32) << 16).view(np.float32)
        lower = np.arange(_N_LOWER)
        return upper.astype(dtype)[:, None], lower.astype(dtype)[:, None]
