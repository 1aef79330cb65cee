"""Terms that searches add to errors: for the bits of codes, or for even use of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq._arrays import look_up

# The cost of the entropy coder's smallest frequency, 2^-24: no code costs more.
MOST_BITS = 24.0


class Charge(NamedTuple):
    """Costs of the codes of a column in a search that weighs bits."""

    price: float  # error per bit
    bits: np.ndarray  # (n_codewords,), float64

    @property
    def sizes(self) -> tuple[int]:
        """The number of codes, as one column."""
        return (len(self.bits),)

    @property
    def bias(self) -> np.ndarray:
        """The term added to the squared error of each codeword."""
        with np.errstate(over="ignore"):
            return np.minimum(self.price * self.bits, np.finfo(np.float64).max / 4)

    def in_order(self, order: np.ndarray) -> "Charge":
        """Return the charge of the same codes in another order."""
        return self._replace(bits=self.bits[order])


class Prices(NamedTuple):
    """Prices of the codes of a column in a search that uses them in given shares."""

    bias: np.ndarray  # (n_codewords,), float64, the least of them zero
    shares: np.ndarray  # (n_codewords,), target share of all samples for each code

    @property
    def sizes(self) -> tuple[int]:
        """The number of codes, as one column."""
        return (len(self.bias),)

    def in_order(self, order: np.ndarray) -> "Prices":
        """Return the prices of the same codes in another order."""
        return Prices(self.bias[order], self.shares[order])


# One for each code column; None: the search adds nothing.
Charges = Sequence[Charge | Prices | None]


def costs_of(rate_weight: float, balance: Any) -> frozenset[str]:
    """Return the terms that a search adds with these parameters, see `_code_costs`."""
    costs = {"code_lengths": rate_weight > 0, "prices": balance is not None}
    return frozenset(name for name, there in costs.items() if there)


def of_bits(charges: Charges) -> list[Charge | None]:
    """Return the charges for bits, with None in place of prices for even use.

    Bits are part of what a quantizer is judged by, prices are not.
    """
    return [charge if isinstance(charge, Charge) else None for charge in charges]


def ideal_bits(counts: np.ndarray) -> np.ndarray:
    """Return -log2 of the frequency of each code, at most `MOST_BITS`.

    Parameters
    ----------
    counts : ndarray of shape (n_codewords,)
        How often each code was seen; they do not sum to zero.
    """
    with np.errstate(divide="ignore"):
        return np.minimum(np.log2(counts.sum()) - np.log2(counts), MOST_BITS)


def even_bits(n_codewords: int) -> np.ndarray:
    """Return the cost of each code if nothing is known of their frequencies."""
    return np.full(n_codewords, np.log2(n_codewords))


def biases(charges: Charges, sizes: Sequence[int]) -> list[np.ndarray] | None:
    """Return the terms of each code of each column; None if there are none at all."""
    if all(charge is None for charge in charges):
        return None
    return [
        np.zeros(size) if charge is None else charge.bias
        for charge, size in zip(charges, sizes, strict=True)
    ]


def charged(added: Sequence[np.ndarray], codes: Any) -> Any:
    """Return the terms of codes (..., n_codes), summed over their columns."""
    total: Any = 0.0
    for j, bias in enumerate(added):
        total = total + look_up(bias, codes[..., j])
    return total
