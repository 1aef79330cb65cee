"""The base of schemes whose reconstruction is a sum that grows stage by stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._arrays import as_indices
from skvq._compat import available_unless
from skvq._typing import MatrixLike, VectorLike
from skvq._validation import as_it_is_now
from skvq._weights import check_weights
from skvq.base import BaseQuantizer, over_blocks
from skvq.learning.rows import Block, Rows, execute


def _reason_against_stages(estimator: StagedQuantizer) -> str | None:
    why = estimator._why_no_stages()
    return why and (
        f"{type(estimator).__name__} has no staged_inverse_transform and no "
        f"staged_score: {why}"
    )


class StagedQuantizer(BaseQuantizer):
    """Base of schemes with partial sums: one model gives a rate-distortion curve.

    A scheme implements the hook `_partial_sums(codes)`, which yields the reconstruction
    after each stage that the code columns contain, and `_decodable_widths()`.  A scheme
    that has stages only if its part has them implements `_why_no_stages()` too.
    """

    def _why_no_stages(self) -> str | None:
        """Return why codes can only be decoded with all columns; None if not so."""
        return None

    @abstractmethod
    def _partial_sums(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the reconstruction (n_samples, n_features) after each stage."""

    @available_unless(_reason_against_stages)
    def staged_inverse_transform(self, codes: MatrixLike) -> Iterator[NDArray[Any]]:
        """Decode codes stage by stage.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes as `transform` returns them, or their first columns, whole stages.

        Yields
        ------
        X_quant : ndarray of shape (n_samples, n_features)
            The sum of the codewords up to each stage.
        """
        self = as_it_is_now(self)
        codes = self._check_codes(codes, "staged_inverse_transform")
        yield from self._partial_sums(codes)

    @available_unless(_reason_against_stages)
    def staged_score(
        self, X: MatrixLike, y: Any = None, sample_weight: VectorLike | None = None
    ) -> Iterator[float]:
        """Score the partial sums, which gives a rate-distortion curve.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.

        Yields
        ------
        score : float
            For each stage, minus the mean squared distance of the samples from the sum
            of the codewords up to it.  The codes are those of all stages: a beam may
            make an early stage worse than a search for that stage alone would.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "staged_score")
        rows = Rows(X, check_weights(sample_weight, X))
        with self._computing(X):
            ((totals, weight),) = execute([rows.fold(_distances, self)])
        for summed in totals:
            yield -float(summed / weight)


def _distances(block: Block, quantizer: StagedQuantizer) -> tuple[Any, ...]:
    """Return the summed distances from each partial sum, and the weight."""

    def work(x: Any) -> list[Any]:
        codes = as_indices(quantizer._encode(x))
        return [nearest.paired(x, sums) for sums in quantizer._partial_sums(codes)]

    totals = np.zeros(len(quantizer._decodable_widths()))
    for rows, found in over_blocks(block.x, work):
        w = None if block.w is None else block.w[rows]
        totals += [block.be.total(distances, w) for distances in found]
    return totals, block.host_weights().sum()
