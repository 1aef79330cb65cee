"""The host, for the few rows whose best scores are too near to each other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skvq.nearest.backends.base import Backend, Residuals, Sums, less
from skvq.nearest.backends.host import NumpyBackend, doubtful


class CarefulBackend(NumpyBackend):
    """The host, for the few rows whose best scores are too near to each other.

    It computes in float64, and decides between near scores by the distances themselves,
    from the differences of what was given: their rounding is a share of the distance.
    """

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this backend's arrays from those of others."""
        return ("careful",)

    def settled(
        self,
        scores: Any,
        codes: Any,
        norms: Any,
        distances: Any,
        table: Any,
        between: Any,
    ) -> tuple[Any, Any]:
        """Decide by distances between all scores within the room of the best."""
        few, room, state = doubtful(norms, distances, table)
        scores = scores[few]
        best = scores[np.arange(len(few)), codes[few]]
        row, codeword = np.nonzero(scores <= (best + room)[:, None])
        several = np.bincount(row, minlength=len(few)) > 1
        row, codeword = (each[several[row]] for each in (row, codeword))
        if row.size:
            found = between(few[row], codeword)
            # By row, then by distance; of equals the first.
            order = np.lexsort((codeword, found, row))
            chosen, at = np.unique(row[order], return_index=True)
            codes[few[chosen]] = codeword[order][at]
        return codes, state

    def argmin_products(
        self, y: Any, norms: Any, block: Any, between: Callable[..., Any]
    ) -> tuple[Any, Any, Any]:
        """Return index and score of the best product of each row, and state."""
        index, _, state = super().argmin_products(y, norms, block, between)
        # As exact as they are compared, also with those of other blocks.
        return index, between(np.arange(len(y)), index - block.first), state

    def residuals(self, x: Any, n_sums: int, search: Any) -> "Residuals":
        """Return what so many empty sums leave of a tile of rows."""
        return _CarefulResiduals(self, x, n_sums, search)

    def sums(
        self, x: Any, factors: list[Any], centre: list[Any], search: Any
    ) -> "Sums":
        """Return sums of codewords for a tile of rows, to be improved."""
        return _CarefulSums(self, x, factors, centre, search)


class _CarefulResiduals(Residuals):
    """Residuals that are not shifted, so that their differences are exact."""

    centre: Any = 0.0

    def shift(self, centre: Any) -> None:
        """Take a centre from all of them, for the next choice alone."""
        self.centre = centre

    def choose(self, loss: Any, stage: Any) -> tuple[Any, Any, Any]:
        """Return sum and codeword of the best candidates, by exact distances."""
        raw = self.rest
        scores, least = self.scores(raw - self.centre, loss, stage)
        self.centre = 0.0
        n, n_codewords = len(raw), len(stage.rows)
        room = stage.margin.slack * (4 * self.most + least)
        kth = np.partition(scores, stage.width - 1, axis=1)[:, stage.width - 1]
        row, place = np.nonzero(scores <= (kth + room)[:, None])
        parent, code = np.divmod(place, n_codewords)
        found = np.empty(len(row))
        step = max(1, 2**18 // raw.shape[2])
        for low in range(0, len(row), step):
            cut = slice(low, low + step)
            gaps = raw[row[cut], parent[cut]] - stage.exact[code[cut]]
            found[cut] = np.einsum("ij,ij->i", gaps, gaps)
        share = 1.0 / (stage.weight + stage.ahead)
        if loss is not None:
            found += loss[row, parent] * share
        if stage.bias is not None:
            found += stage.bias[code] * share
        order = np.lexsort((place, found, row))
        first = np.searchsorted(row[order], np.arange(n))
        best = place[order][first[:, None] + np.arange(stage.width)]
        return *np.divmod(best, n_codewords), np.zeros(n, np.uint8)

    def advance(self, parent: Any, code: Any, stage: Any) -> None:
        """Put the residuals of the chosen sums in place of those before."""
        super().advance(parent, code, stage._replace(rows=stage.exact))

    def doubtful(self, stage: Any) -> np.ndarray:
        """Return that all rows are sure."""
        return np.zeros(len(self.rest), np.uint8)


class _CarefulSums(Sums):
    """Sums anew from what was given in every step, and without an error."""

    def __init__(
        self, be: Backend, x: Any, factors: Any, centre: list[Any], search: Any
    ) -> None:
        super().__init__(be, x, factors, centre, search)
        self.given = x * search.scale
        self.codes: list[Any] = []

    def _less(self, but: int | None) -> tuple[Any, ...]:
        """Return what all codewords but one leave, and the digits that it has lost."""
        left = self.given, np.zeros_like(self.given)
        for j, factor in enumerate(self.factors):
            if j != but:
                left = less(*left, factor.exact[self.codes[j]])
        return left

    def leave(self, codes: list[Any]) -> Any:
        """Set what the codewords leave of the rows; return its squared norms."""
        self.codes = list(codes)
        left = np.add(*self._less(None))
        return np.einsum("ij,ij->i", left, left)

    def step(self, j: int, column: Any, size: Any) -> tuple[Any, Any]:
        """Return the nearest codes to what the other tables leave, and their state."""
        factor, (high, low) = self.factors[j], self._less(j)

        def between(row: Any, codeword: Any) -> Any:
            gaps = (high[row] - factor.exact[codeword]) + low[row]
            return 0.5 * np.einsum("ij,ij->i", gaps, gaps)

        # Nothing of what is left has been rounded away.
        size = None if size is None else 0.0
        left = (high - factor.centre) + low
        self.codes[j], state = self.chosen(left, factor, size, between)
        return self.codes[j], state


CAREFUL = CarefulBackend()
