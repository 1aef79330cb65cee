"""The host backend for the few rows whose best scores are too near to each other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skvq.nearest.backends.base import Backend, Residuals, Sums, less
from skvq.nearest.backends.host import NumpyBackend, doubtful


class CarefulBackend(NumpyBackend):
    """The host backend for the few rows whose best scores are too near to each other.

    It computes in float64 and decides between near scores by the distances themselves,
    from differences of the given numbers: their rounding is relative to the distance.
    """

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that distinguishes this backend's arrays from those of others."""
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
        """Choose by exact distances among all scores near enough to the best."""
        few, room, state = doubtful(norms, distances, table)
        scores = scores[few]
        best = scores[np.arange(len(few)), codes[few]]
        row, codeword = np.nonzero(scores <= (best + room)[:, None])
        several = np.bincount(row, minlength=len(few)) > 1
        row, codeword = (each[several[row]] for each in (row, codeword))
        if row.size:
            found = between(few[row], codeword)
            # By row, then by distance; the first of equal codewords.
            order = np.lexsort((codeword, found, row))
            chosen, at = np.unique(row[order], return_index=True)
            codes[few[chosen]] = codeword[order][at]
        return codes, state

    def argmin_products(
        self, y: Any, norms: Any, block: Any, between: Callable[..., Any]
    ) -> tuple[Any, Any, Any]:
        """Return index and score of the best product for each row, and state."""
        index, _, state = super().argmin_products(y, norms, block, between)
        # Scores are recomputed exactly, since they are compared with other blocks' too.
        return index, between(np.arange(len(y)), index - block.first), state

    def residuals(self, x: Any, n_sums: int, search: Any) -> "Residuals":
        """Return the residuals of a tile of rows after n_sums empty partial sums."""
        return _CarefulResiduals(self, x, n_sums, search)

    def sums(
        self, x: Any, factors: list[Any], centre: list[Any], search: Any
    ) -> "Sums":
        """Return one sum of codewords per row of a tile, to be improved."""
        return _CarefulSums(self, x, factors, centre, search)


class _CarefulResiduals(Residuals):
    """Residuals that are not shifted, so that their differences are exact."""

    centre: Any = 0.0

    def shift(self, centre: Any) -> None:
        """Subtract a centre from all residuals, for the next choice only."""
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
        """Replace the residuals by those of the chosen sums."""
        super().advance(parent, code, stage._replace(rows=stage.exact))

    def doubtful(self, stage: Any) -> np.ndarray:
        """Return that all rows are sure."""
        return np.zeros(len(self.rest), np.uint8)


class _CarefulSums(Sums):
    """Sums that are recomputed exactly from the given numbers in every step."""

    def __init__(
        self, be: Backend, x: Any, factors: Any, centre: list[Any], search: Any
    ) -> None:
        super().__init__(be, x, factors, centre, search)
        self.given = x * search.scale
        self.codes: list[Any] = []

    def _less(self, but: int | None) -> tuple[Any, ...]:
        """Return the residual of all codewords but one, and the digits that it lost."""
        left = self.given, np.zeros_like(self.given)
        for j, factor in enumerate(self.factors):
            if j != but:
                left = less(*left, factor.exact[self.codes[j]])
        return left

    def leave(self, codes: list[Any]) -> Any:
        """Set the residuals of the given codes; return their squared norms."""
        self.codes = list(codes)
        left = np.add(*self._less(None))
        return np.einsum("ij,ij->i", left, left)

    def step(self, j: int, column: Any, size: Any) -> tuple[Any, Any]:
        """Return the codes nearest to the other tables' residuals, and their state."""
        factor, (high, low) = self.factors[j], self._less(j)

        def between(row: Any, codeword: Any) -> Any:
            gaps = (high[row] - factor.exact[codeword]) + low[row]
            return 0.5 * np.einsum("ij,ij->i", gaps, gaps)

        # Residuals are exact here, so nothing was lost to rounding.
        size = None if size is None else 0.0
        left = (high - factor.centre) + low
        self.codes[j], state = self.chosen(left, factor, size, between)
        return self.codes[j], state


CAREFUL = CarefulBackend()
