"""Distances to reconstructions as sums over codes: methods of every quantizer.

A scheme implements the hook ``_entries``, which returns the contribution of each code
to distances, or has a reason why there is none.  The formulas are those of
`skvq.coding.sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._arrays import to_host
from skvq._checks import check_memory, naming
from skvq._compat import available_unless
from skvq._typing import MatrixLike, SumMetric
from skvq._validation import as_it_is_now, in_own_context
from skvq.coding.sums import check_sum_metric, narrowed, row_terms, squared_sums


def _reason_against_sums(estimator: SumsOfCodes) -> str | None:
    why = estimator._why_no_sums()
    return why and (
        f"{type(estimator).__name__} has no distance_table and no row_terms: {why}"
    )


class SumsOfCodes:
    """The methods of `BaseQuantizer` for searches over codes."""

    # Provided by the quantizer.
    codebook_sizes_: tuple[int, ...]
    n_features_in_: int
    _home_: nearest.Backend
    _decode: Callable[[Any], Any]
    _check_fitted: Callable[[], None]
    _check_input: Callable[[Any, str], np.ndarray]
    _check_codes: Callable[[Any, str, tuple[int, ...]], np.ndarray]

    # -- hooks; samples are float64, and all arrays are on the host ----------------

    def _why_no_sums(self) -> str | None:
        """Return why distances are not sums over codes; None if they are."""
        if type(self)._entries is not SumsOfCodes._entries:
            return None
        return "its reconstruction is no sum of what single codes stand for."

    def _entries(self, X: np.ndarray, metric: str) -> np.ndarray:
        """Return the contribution of each code to distances, (n_samples, V_1 + ...).

        The metric is "inner_product" or, for concatenations, also "sqeuclidean".
        """
        raise AssertionError("guarded by _why_no_sums")  # pragma: no cover

    def _is_concatenation(self) -> bool:
        """Return whether the codes describe disjoint features."""
        return False

    def _n_scales(self) -> int:
        """Return the number of code columns, at the end, that scale the whole sum."""
        return 0

    def _scales(self, codes: np.ndarray) -> np.ndarray:
        """Return the factor of each row's sum."""
        raise AssertionError("guarded by _n_scales")  # pragma: no cover

    # -- methods that follow from the hooks ----------------------------------------

    # A scheme in front of another may pass these on to it, and change the samples, the
    # factor and the offset on the way.

    def _distance_table(self, X: np.ndarray, metric: str) -> np.ndarray:
        """Return the table of `distance_table`."""
        sizes = self.codebook_sizes_[: len(self.codebook_sizes_) - self._n_scales()]
        n_bytes = 8 * len(X) * sum(sizes)
        check_memory(f"Distances to {sum(sizes)} codewords", n_bytes, X.nbytes)
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._sums(X, metric, sizes)
        if not np.isfinite(found).all():
            raise ValueError(f"Distances under metric={metric!r} overflow: scale X.")
        return found

    def _sums(self, X: np.ndarray, metric: str, sizes: Sequence[int]) -> np.ndarray:
        if metric == "cosine":
            nearest.check_no_zero_rows(X)
            return self._entries(nearest.HOST.unit_rows(X), "inner_product")
        scaled = self._n_scales() > 0
        if metric == "inner_product" or (self._is_concatenation() and not scaled):
            return self._entries(X, metric)
        if scaled:
            return 2 * self._entries(X, "inner_product")
        X = X - self._origin()
        return squared_sums(X, self._entries(X, "inner_product"), sizes)

    def _origin(self) -> np.ndarray:
        """Return the reconstruction of zeros, which is near data far from zero."""
        return self._decode_here(np.zeros((1, len(self.codebook_sizes_)), np.intp))

    def _decode_here(self, codes: np.ndarray) -> np.ndarray:
        """Return reconstructions of codes on the host."""
        return to_host(self._decode(self._home_.like(codes)))

    def _row_terms(self, codes: np.ndarray, metric: str) -> tuple[Any, ...]:
        """Return the factor and the offset of `row_terms`."""
        scaled = self._n_scales() > 0
        squares = metric == "sqeuclidean"
        alone = metric == "inner_product" or (squares and self._is_concatenation())
        if alone and not scaled:
            return None, None
        origin = self._origin() if squares and not scaled else 0.0
        step, found = nearest.tile_rows(self.n_features_in_), []
        for start in range(0, max(1, len(codes)), step):
            some = codes[start : start + step]
            rows = self._decode_here(some)
            terms = row_terms(
                rows.astype(np.float64) - origin,
                self._scales(some) if scaled else None,
                metric,
                start,
            )
            found.append([narrowed(term, rows.dtype) for term in terms])
        return tuple(
            None if parts[0] is None else np.concatenate(parts)
            for parts in zip(*found, strict=True)
        )

    # -- public methods ------------------------------------------------------------

    @available_unless(_reason_against_sums)
    @in_own_context
    def distance_table(
        self, queries: MatrixLike, metric: SumMetric = "sqeuclidean"
    ) -> NDArray[np.float64]:
        """Return the contribution of each code to the distances from queries.

        Parameters
        ----------
        queries : array-like of shape (n_queries, n_features)
            Samples.
        metric : {"sqeuclidean", "cosine", "inner_product"}, default="sqeuclidean"
            The distance; for "inner_product" it is minus the product.

        Returns
        -------
        table : ndarray of float64, shape (n_queries, V_1 + ... + V_m)
            The entries of the codewords of the first code column, then those of the
            second, and so on, without columns that code a length.  The distance from a
            reconstruction is ``offset + factor * total`` up to a constant of the query,
            where `total` adds up the entries of its codes, and `row_terms` returns
            `factor` and `offset`.  The constant is 1 for "cosine", the squared length
            of the query for "sqeuclidean" with a factor, and 0 otherwise.

        Raises
        ------
        ValueError
            If the metric is not one of these, a query is zero under "cosine", or
            distances overflow.

        See Also
        --------
        skvq.nearest.scan : The rows of packed codes with the smallest distances.
        skvq.QuantizedNeighbors : The search that uses these tables.
        """
        self = as_it_is_now(self)
        self._check_fitted()
        metric = check_sum_metric(metric)
        with naming("queries"):
            X = self._check_input(queries, "distance_table")
        found = self._distance_table(to_host(X).astype(np.float64), metric)
        return nearest.backend_of(X).send(found)

    @available_unless(_reason_against_sums)
    @in_own_context
    def row_terms(
        self, codes: MatrixLike, metric: SumMetric = "sqeuclidean"
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return the factors and offsets of rows in distances that are sums of entries.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes as `transform` returns them.
        metric : {"sqeuclidean", "cosine", "inner_product"}, default="sqeuclidean"
            As in `distance_table`.

        Returns
        -------
        factor : ndarray of shape (n_samples,), or None
            Factor of the sum of entries; None stands for ones.
        offset : ndarray of shape (n_samples,), or None
            Added to that product; None stands for zeros.  Both are in the dtype of the
            reconstructions, or in float64 if its range is too narrow.

        Raises
        ------
        ValueError
            If the metric is not one of these, a code is not valid, or a reconstruction
            is zero under "cosine".
        """
        self = as_it_is_now(self)
        self._check_fitted()
        metric = check_sum_metric(metric)
        codes = self._check_codes(codes, "row_terms", (len(self.codebook_sizes_),))
        factor, offset = (
            None if term is None else self._home_.send(term)
            for term in self._row_terms(to_host(codes), metric)
        )
        return factor, offset
