"""Codes that are paths through a trellis, one step for each feature that has bits.

A path ends in the state where it began, so the bits of its codes describe it fully.
Levels and searches are NumPy's; values and codes are arrays of any library.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from skvq import nearest
from skvq.codes import smallest_dtype

# Odd factors that scatter windows (from the finalisers of xxHash, Y. Collet).
_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)
_OTHER_FACTORS = (0x27D4EB2F, 0x165667B1, 0xD3A2646D)


class TrellisCode:
    """The levels of each feature, and the trellis that says which may follow which.

    Parameters
    ----------
    trellis : Trellis
        Which levels may follow each other.
    rates : sequence of int
        Bits of each feature.
    alphabets : sequence of 1-d arrays of one floating dtype
        The levels of each feature, one where it has no bits; features may share arrays.

    Raises
    ------
    ValueError
        If the levels do not fit the trellis, or if too few features have bits for a
        path to reach every state.
    """

    alphabets: nearest.Columns
    rates: tuple[int, ...]

    def __init__(
        self,
        trellis: nearest.Trellis,
        rates: Sequence[int],
        alphabets: Sequence[np.ndarray],
    ) -> None:
        self.trellis = trellis
        self.rates = tuple(rates)
        self.alphabets = nearest.Columns(alphabets)
        self.check()

    def check(self) -> None:
        """Raise a ValueError unless rates, alphabets and trellis fit together."""
        arrays, rates = self.alphabets.arrays, self.rates
        if rates != self.trellis.rates(rates, len(arrays)):
            raise ValueError(f"rates={rates}; expected a tuple of ints.")
        n_steps, fewest = len(rates) - rates.count(0), self.trellis.n_forgetting
        if n_steps < fewest:
            raise ValueError(
                f"{n_steps} features have bits; the {self.trellis.n_states} states of "
                f"the trellis take {fewest} or more."
            )
        for j, (levels, rate) in enumerate(zip(arrays, rates, strict=True)):
            size = self.trellis.alphabet_size(rate)
            if levels.shape != (size,):
                raise ValueError(
                    f"alphabets[{j}] has shape {levels.shape}; expected ({size},) for "
                    f"{rate} bits."
                )
            if levels.dtype != arrays[0].dtype or levels.dtype.kind != "f":
                raise ValueError(
                    f"alphabets[{j}] has dtype {levels.dtype}; expected one floating "
                    "dtype for all."
                )
            if not np.isfinite(levels).all():
                raise ValueError(f"alphabets[{j}] holds other than finite numbers.")
            if self.trellis.has_subsets and (levels[1:] < levels[:-1]).any():
                raise ValueError(f"alphabets[{j}] is not in ascending order.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """V of each code column."""
        return tuple(2**rate for rate in self.rates)

    def search(
        self, X: Any, *, as_levels: bool = False, distances: bool = False
    ) -> Any:
        """Return codes, or indices of levels, of rows, and their squared distances."""
        largest = max(self.rates)
        size = self.trellis.alphabet_size(largest) if as_levels else 2**largest
        return nearest.viterbi(
            X,
            self.alphabets,
            self.rates,
            self.trellis,
            as_levels=as_levels,
            return_distances=distances,
            dtype=smallest_dtype(size),
        )

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        return self.search(X)[0]

    def decode(self, codes: Any) -> Any:
        """Return the levels (n_rows, n_columns) of codes."""
        levels = nearest.trellis_levels(codes, self.rates, self.trellis)
        return nearest.entries(levels, self.alphabets, self.alphabets.arrays[0].dtype)


def gaussian_windows(window_bits: int, step_bits: int) -> np.ndarray:
    r"""Return the level of each window of a bitshift trellis, for a standard Gaussian.

    The levels are the quantiles :math:`\Phi^{-1}((p + 1/2) / 2^L)`, where p runs
    through 0..2^L - 1 in scattered order.  The highest k bits of p are the k new bits
    of the window w, XORed with the highest bits of a permutation of the older bits; the
    other bits of p are another permutation of the older bits.  So from every state, the
    2^k possible levels lie in different cells of a partition into 2^k cells of equal
    probability, and the place within the cell looks random.

    Parameters
    ----------
    window_bits : int
        L, at least 2 k.
    step_bits : int
        k.

    Returns
    -------
    levels : ndarray of float64, shape (2^L,)

    References
    ----------
    A. Tseng, Q. Sun, D. Hou and C. De Sa (2024), "QTIP: Quantization with trellises and
    incoherence processing", NeurIPS, whose levels are independent of each other.
    """
    windows = np.arange(2**window_bits, dtype=np.int64)
    older_bits = window_bits - step_bits
    new, older = windows % 2**step_bits, windows >> step_bits
    cell = new ^ (
        _scattered(older, older_bits, _OTHER_FACTORS) >> older_bits - step_bits
    )
    place = (cell << older_bits) | _scattered(older, older_bits, _FACTORS)
    return ndtri((place + 0.5) / 2**window_bits)


def _scattered(numbers: np.ndarray, n_bits: int, factors: Sequence[int]) -> np.ndarray:
    """Return numbers below 2^n_bits, each mapped to another one."""
    for factor in factors:
        numbers = (numbers * factor + (factor >> 7)) % 2**n_bits
        numbers = numbers ^ (numbers >> max(1, n_bits // 2))
    return numbers
