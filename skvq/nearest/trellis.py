"""Trellises: which levels may follow each other.

A stream of bits passes through a trellis.  A step shifts k of them into a window:
window w = (s << k) | u consists of the state s before the step and the k new bits u,
and leads to the state w mod S.  So each window comes from one state, and the 2^k
windows t + j S lead to state t.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skvq._checks import check_count, check_counts

# Parity checks on the bits of the state (Ungerboeck 1982, table I), in octal as there.
# The first begins and ends in a one, the second in zeros.  Therefore, of the windows
# 2i, 2i + 1, 2i + S and 2i + 1 + S, the outer two share one subset and the inner two
# another, told apart by the first check.  The compiled search relies on that.
_CHECKS = {
    2: (0o5, 0o2),
    3: (0o13, 0o4),
    4: (0o23, 0o4),
    5: (0o45, 0o10),
    6: (0o103, 0o24),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
_MOST_WINDOW_BITS, _MOST_STEP_BITS, _MOST_RATE = 16, 4, 16


@dataclass(frozen=True)
class Trellis:
    """A trellis, made by `ungerboeck` or `bitshift`: which levels may follow which.

    Parameters
    ----------
    state_bits : int
        Bits of a state, log2 S.
    step_bits : int, default=1
        k, the bits of a step.
    has_subsets : bool, default=True
        Whether a window stands for every fourth level of an alphabet, or for one.

    Examples
    --------
    >>> from skvq.nearest import Trellis
    >>> trellis = Trellis.ungerboeck(4)
    >>> trellis.n_states, trellis.subsets.tolist()
    (4, [0, 2, 1, 3, 2, 0, 3, 1])
    """

    state_bits: int
    step_bits: int = 1
    has_subsets: bool = True

    def __post_init__(self) -> None:
        subsets = self.has_subsets
        if not isinstance(subsets, bool | np.bool_):
            raise ValueError(f"has_subsets={subsets!r}; expected True or False.")
        step = check_count(
            "step_bits", self.step_bits, 1, 1 if subsets else _MOST_STEP_BITS
        )
        fewest, most = step, _MOST_WINDOW_BITS - step
        if subsets:
            fewest, most = min(_CHECKS), max(_CHECKS)
        state = check_count("state_bits", self.state_bits, fewest, most)
        # Python's integers, whose powers do not wrap around.
        object.__setattr__(self, "state_bits", state)
        object.__setattr__(self, "step_bits", step)
        object.__setattr__(self, "has_subsets", bool(subsets))

    @classmethod
    def ungerboeck(cls, n_states: int = 8) -> "Trellis":
        """Return a trellis of subsets.

        Parameters
        ----------
        n_states : int, default=8
            A power of two from 4 to 256.

        Returns
        -------
        trellis : Trellis
            Each feature of rate R >= 1 has an alphabet of 2^(R + 1) ascending levels,
            level i in subset i mod 4.  A step takes one bit; R - 1 bits select a level
            of the window's subset.

        References
        ----------
        G. Ungerboeck (1982), "Channel coding with multilevel/phase signals", IEEE
        Transactions on Information Theory 28(1).  M. W. Marcellin and T. R. Fischer
        (1990), "Trellis coded quantization of memoryless and Gauss-Markov sources",
        IEEE Transactions on Communications 38(1).
        """
        sizes = {2**bits: bits for bits in _CHECKS}
        bits = sizes.get(check_count("n_states", n_states, min(sizes), max(sizes)))
        if bits is None:
            raise ValueError(
                f"n_states={n_states!r}; expected a power of two from 4 to 256."
            )
        return cls(bits)

    @classmethod
    def bitshift(cls, window_bits: int, step_bits: int = 2) -> "Trellis":
        """Return a trellis in which every window has a level of its own.

        Parameters
        ----------
        window_bits : int
            L, from 2 k to 16.  The paper calls the 2^L windows states.
        step_bits : int, default=2
            k, the rate of every feature that has bits: from 1 to 4.

        Returns
        -------
        trellis : Trellis
            Alphabets have 2^L levels in any order, one for each window.

        References
        ----------
        A. Tseng, Q. Sun, D. Hou and C. De Sa (2024), "QTIP: Quantization with trellises
        and incoherence processing", NeurIPS.
        """
        step = check_count("step_bits", step_bits, 1, _MOST_STEP_BITS)
        window = check_count("window_bits", window_bits, 2 * step, _MOST_WINDOW_BITS)
        return cls(window - step, step, False)

    @property
    def n_states(self) -> int:
        """Number of states, S."""
        return 2**self.state_bits

    @property
    def n_windows(self) -> int:
        """Number of windows, 2^k S."""
        return 2 ** (self.state_bits + self.step_bits)

    @property
    def n_forgetting(self) -> int:
        """Number of steps after which any state can be reached from any other."""
        return -(-self.state_bits // self.step_bits)

    @cached_property
    def subsets(self) -> np.ndarray | None:
        """The subset (n_windows,) of each window; None where each has its own level."""
        if not self.has_subsets:
            return None
        windows = np.arange(self.n_windows)
        high, low = (_parity(windows & check) for check in _CHECKS[self.state_bits])
        found = (2 * high + low).astype(np.uint8)
        found.flags.writeable = False
        return found

    def rates(self, rates: Any, n_features: int) -> tuple[int, ...]:
        """Return the rates of features as Python integers.

        Parameters
        ----------
        rates : sequence of int
            Bits of each feature.
        n_features : int
            Number of features.

        Returns
        -------
        rates : tuple of int
            The same rates.

        Raises
        ------
        ValueError
            If the trellis does not support a rate.
        """
        rates = tuple(check_counts("rates", rates, 0, _MOST_RATE))
        if len(rates) != n_features:
            raise ValueError(
                f"rates has {len(rates)} entries for {n_features} features."
            )
        if not self.has_subsets and not set(rates) <= {0, self.step_bits}:
            raise ValueError(
                f"rates holds {max(set(rates) - {0, self.step_bits})}; expected 0 or "
                f"the {self.step_bits} bits of a step of the bitshift trellis."
            )
        return rates

    def alphabet_size(self, rate: int) -> int:
        """Return the number of levels of a feature with a given rate.

        Parameters
        ----------
        rate : int
            Bits of the feature.

        Returns
        -------
        size : int
            1 if there are no bits.
        """
        rate = check_count("rate", rate, 0, _MOST_RATE)
        if rate == 0:
            return 1
        return 2 ** (rate + 1) if self.has_subsets else self.n_windows


def _parity(values: np.ndarray) -> np.ndarray:
    """Return whether the number of ones is odd."""
    for shift in (8, 4, 2, 1):
        values = values ^ (values >> shift)
    return values & 1
