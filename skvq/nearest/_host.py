"""The engine on NumPy, whose searches have files of their own, as one module."""

from skvq.nearest._best import nearest_best
from skvq.nearest._icm import improve_sums
from skvq.nearest._kronecker import nearest_kronecker
from skvq.nearest._numpy import (
    accumulate,
    check_no_zero_rows,
    nearest,
    nearest_product,
    paired,
)

__all__ = [
    "accumulate",
    "check_no_zero_rows",
    "improve_sums",
    "nearest",
    "nearest_best",
    "nearest_kronecker",
    "nearest_product",
    "paired",
]
