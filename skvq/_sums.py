"""Distances to reconstructions that are sums of what codes stand for, as methods.

Every quantizer has these: those that say in the hook ``_entries`` what each code adds
to distances, and those that have a reason why they do not.  The formulas are those of
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
    """What `BaseQuantizer` has for searches among codes."""

    # What the contract has of a quantizer.
    codebook_sizes_: tuple[int, ...]
    n_features_in_: int
    _home_: nearest.Backend
    _decode: Callable[[Any], Any]
    _check_fitted: Callable[[], None]
    _check_input: Callable[[Any, str], np.ndarray]
    _check_codes: Callable[[Any, str, tuple[int, ...]], np.ndarray]

    # -- hooks: samples are float64, all is on the host ----------------------------

    def _why_no_sums(self) -> str | None:
        """Return why distances are no sums over codes; None: they are."""
        if type(self)._entries is not SumsOfCodes._entries:
            return None
        return "its reconstruction is no sum of what single codes stand for."

    def _entries(self, X: np.ndarray, metric: str) -> np.ndarray:
        """Return what each code adds to the distance, (n_samples, V_1 + ... + V_m).

        The metric is "inner_product", or, of a concatenation, "sqeuclidean".
        """
        raise AssertionError("guarded by _why_no_sums")  # pragma: no cover

    def _is_concatenation(self) -> bool:
        """Whether the codes stand for features apart."""
        return False

    def _n_scales(self) -> int:
        """Return how many of the code columns, the last ones, scale the whole sum."""
        return 0

    def _scales(self, codes: np.ndarray) -> np.ndarray:
        """Return what multiplies the sum of each row."""
        raise AssertionError("guarded by _n_scales")  # pragma: no cover

    # -- what follows from them ----------------------------------------------------

    # One that stands in front of another scheme may hand it what it is asked, and
    # change the samples, the factor and the offset on the way.

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
        """Return the reconstruction of zeros: near data that are far from zero."""
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
        """Return what each code adds to the distances from queries: for look-ups.

        Parameters
        ----------
        queries : array-like of shape (n_queries, n_features)
            Samples.
        metric : {"sqeuclidean", "cosine", "inner_product"}, default="sqeuclidean"
            The distance; that of the last is minus the product.

        Returns
        -------
        table : ndarray of float64, shape (n_queries, V_1 + ... + V_m)
            The entries of the codewords of the first code column, then those of the
            second, and so on, without columns that code a length.  The distance from a
            reconstruction is ``offset + factor * total``, where `total` adds up the
            entries of its codes, up to a constant of the query, and `row_terms` has the
            rest.  The constant is 1 for "cosine", the squared length of the query for
            "sqeuclidean" with a factor, and else 0.

        Raises
        ------
        ValueError
            If the metric is another, a query is zero under "cosine", or distances
            overflow.

        See Also
        --------
        skvq.nearest.scan : The rows of packed codes with the smallest distances.
        skvq.QuantizedNeighbors : The search that all of it is for.
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
        """Return what belongs to rows of codes in distances that are sums of look-ups.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes as `transform` gives them.
        metric : {"sqeuclidean", "cosine", "inner_product"}, default="sqeuclidean"
            As in `distance_table`.

        Returns
        -------
        factor : ndarray of shape (n_samples,), or None
            What multiplies the sum of entries; None stands for ones.
        offset : ndarray of shape (n_samples,), or None
            What is added to it; None stands for zeros.  Both are in the dtype of the
            reconstructions, or in float64, if its range does not hold them.

        Raises
        ------
        ValueError
            If the metric is another, a code is not valid, or a reconstruction is zero
            under "cosine".
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
