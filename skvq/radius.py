"""The length of a vector as code columns, for the schemes that code directions.

A direction and a length are two things: quantizers of directions leave the length
away, or code it in one of three ways, each a few code columns behind their own.

==============  ====================================================================
``"unit"``      no code: every reconstruction has length 1
``"uniform"``   one code: equal cells between the smallest and the largest length seen
``"learned"``   one code: the levels of least squared error for the lengths seen
``"float32"``   two codes: the upper and the lower 16 bits of the length as a float32
==============  ====================================================================
"""

import numpy as np

from skvq._array_api import array_namespace, is_foreign
from skvq._checks import check_memory
from skvq._validation import warn
from skvq.learning import scalar_arrays
from skvq.learning.levels import best_levels
from skvq.learning.scalar import (
    Grid,
    Levels,
    column_range,
    distinct,
    tile_rows,
)

RADII = frozenset({"unit", "uniform", "learned", "float32"})

# Upper halves of the finite floats that are not negative: all pairs of codes are valid.
_N_UPPER = 0x7F80
_N_LOWER = 0x10000


def row_norms(X: np.ndarray) -> np.ndarray:
    """Return the Euclidean lengths of rows in float64, (n_rows,).

    Rows are scaled by a power of two first: no square overflows or vanishes.
    """
    if is_foreign(X):
        return scalar_arrays.row_norms(X)
    norms = np.empty(len(X))
    tile = tile_rows(X.shape[1])
    for begin in range(0, len(X), tile):
        rows = X[begin : begin + tile].astype(np.float64)
        exponent = row_exponents(rows)
        rows = np.ldexp(rows, -exponent[:, None])
        squares = np.einsum("ij,ij->i", rows, rows)
        with np.errstate(over="ignore"):  # a length may, though no coordinate does
            norms[begin : begin + tile] = np.ldexp(np.sqrt(squares), exponent)
    return norms


def row_exponents(rows: np.ndarray) -> np.ndarray:
    """Return e for which the largest entry of each row is in [2**(e-1), 2**e)."""
    return np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]


def check_radius_memory(how: str, n_levels: int, x_bytes: int) -> None:
    """Raise if levels of the length are out of proportion to X; see `fit_radius`."""
    if how == "learned":
        check_memory(f"Levels of radius_levels={n_levels}", 3 * 8 * n_levels, x_bytes)


def fit_radius(
    how: str, norms: np.ndarray, weights: np.ndarray | None, n_levels: int
) -> "RadiusCode":
    """Set up the code of lengths; warn if there are too few for it.

    Parameters
    ----------
    how : {"unit", "uniform", "learned", "float32"}
        See the table of this module.
    norms : ndarray of shape (n_samples,)
        Training lengths.
    weights : ndarray of shape (n_samples,) or None
        Sample weights.
    n_levels : int
        V of "uniform" and "learned".

    Returns
    -------
    code : RadiusCode

    Raises
    ------
    ValueError
        If a length is infinite.
    """
    if how == "unit":
        return RadiusCode()
    if not _all_finite(norms):
        raise ValueError(
            "The length of a sample overflows: X is too large for float64."
        )
    if how == "float32":
        return Float32Radius()
    if how == "uniform":
        low, high = column_range(norms[:, None])
        if low == high and n_levels > 1:
            warn(
                "all lengths of samples are equal, and so are all levels: "
                f"radius_levels={n_levels} cut an empty range."
            )
        return ScalarRadius(Grid(low, high, (n_levels,)))
    values, mass = distinct(norms, weights)
    if len(values) < n_levels:
        warn(
            "{} distinct lengths of samples are fewer than radius_levels="
            f"{n_levels}: the codebook repeats them.",
            len(values),
        )
    levels = best_levels([(values, mass)], [n_levels])
    return ScalarRadius(Levels(levels, [n_levels]))


def _all_finite(norms) -> bool:
    xp = array_namespace(norms) if is_foreign(norms) else np
    return bool(xp.all(xp.isfinite(norms)))


class RadiusCode:
    """No code at all: every length is 1.

    Attributes
    ----------
    sizes : tuple of int
        V of each code column.
    """

    sizes: tuple[int, ...] = ()

    def encode(self, norms: np.ndarray) -> np.ndarray:
        """Return the codes (n_rows, n_columns) of lengths."""
        return np.empty((len(norms), 0), dtype=np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the lengths (n_rows,) of codes, in float64."""
        if is_foreign(codes):
            return scalar_arrays.ones(codes)
        return np.ones(len(codes))

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
        if is_foreign(norms):
            return scalar_arrays.float32_halves(norms)
        largest = np.finfo(np.float32).max
        bits = np.minimum(norms, largest).astype(np.float32).view(np.uint32)
        return np.column_stack((bits >> 16, bits & 0xFFFF)).astype(np.uint16)

    def decode(self, codes):
        """Return the lengths (n_rows,) of codes, in float64."""
        if is_foreign(codes):
            return scalar_arrays.from_float32_halves(codes)
        bits = codes[:, 0].astype(np.uint32) << 16 | codes[:, 1].astype(np.uint32)
        return bits.view(np.float32).astype(np.float64)

    def tables(self, dtype):
        """Return the lengths of the upper halves, and the counts of units below."""
        upper = (np.arange(_N_UPPER, dtype=np.uint32) << 16).view(np.float32)
        lower = np.arange(_N_LOWER)
        return upper.astype(dtype)[:, None], lower.astype(dtype)[:, None]
