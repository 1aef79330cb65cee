"""What searches add to errors for codes: for their bits, or to use them evenly."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq._arrays import look_up

# What the smallest frequency of the entropy coder costs, 2^-24: no code costs more.
MOST_BITS = 24.0


class Charge(NamedTuple):
    """What the codes of a column cost in a search that weighs bits."""

    price: float  # error per bit
    bits: np.ndarray  # (n_codewords,), float64

    @property
    def sizes(self) -> tuple[int]:
        """Of how many codes it tells, as codecs of columns do."""
        return (len(self.bits),)

    @property
    def bias(self) -> np.ndarray:
        """What is added to the squared error of each codeword."""
        with np.errstate(over="ignore"):
            return np.minimum(self.price * self.bits, np.finfo(np.float64).max / 4)

    def in_order(self, order: np.ndarray) -> "Charge":
        """Return the same of codes in another order."""
        return self._replace(bits=self.bits[order])


class Prices(NamedTuple):
    """What the codes of a column cost in a search that uses them in given shares."""

    bias: np.ndarray  # (n_codewords,), float64, the least of them zero
    shares: np.ndarray  # (n_codewords,), of all samples, that each is to be used for

    @property
    def sizes(self) -> tuple[int]:
        """Of how many codes it tells."""
        return (len(self.bias),)

    def in_order(self, order: np.ndarray) -> "Prices":
        """Return the same of codes in another order."""
        return Prices(self.bias[order], self.shares[order])


# Of each code column; None: nothing.
Charges = Sequence[Charge | Prices | None]


def costs_of(rate_weight: float, balance: Any) -> frozenset[str]:
    """Return what a search adds with these parameters, see `_code_costs`."""
    costs = {"code_lengths": rate_weight > 0, "prices": balance is not None}
    return frozenset(name for name, there in costs.items() if there)


def of_bits(charges: Charges) -> list[Charge | None]:
    """Return what bits cost, and nothing for what is only to use codes evenly.

    The one is part of what a quantizer is judged by, the other is not.
    """
    return [charge if isinstance(charge, Charge) else None for charge in charges]


def ideal_bits(counts: np.ndarray) -> np.ndarray:
    """Return -log2 of the frequency of each code, at most `MOST_BITS`.

    Parameters
    ----------
    counts : ndarray of shape (n_codewords,)
        How often each code was seen; all of them together are more than zero.
    """
    with np.errstate(divide="ignore"):
        return np.minimum(np.log2(counts.sum()) - np.log2(counts), MOST_BITS)


def even_bits(n_codewords: int) -> np.ndarray:
    """Return what codes cost of which nothing is known."""
    return np.full(n_codewords, np.log2(n_codewords))


def biases(charges: Charges, sizes: Sequence[int]) -> list[np.ndarray] | None:
    """Return what is added for each code of each column; None: nothing for any."""
    if all(charge is None for charge in charges):
        return None
    return [
        np.zeros(size) if charge is None else charge.bias
        for charge, size in zip(charges, sizes, strict=True)
    ]


def charged(added: Sequence[np.ndarray], codes: Any) -> Any:
    """Return what is added for codes (..., n_codes), in all their columns."""
    total: Any = 0.0
    for j, bias in enumerate(added):
        total = total + look_up(bias, codes[..., j])
    return total
