"""Nearest neighbours among rows that are stored as codes.

A search compares each query with all codes, by a few look-ups per row (see
`skvq.coding.sums`).  It is exact over the reconstructions, without decoding them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray
from scipy import sparse as sp
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._arrays import as_indices, to_host
from skvq._callbacks import fit_clone
from skvq._checks import check_count, check_unmasked, naming
from skvq._compat import (
    SIZE,
    BaseEstimator,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    Documented,
    StrOptions,
    TransformerMixin,
    _fit_context,
)
from skvq._typing import Frozen, MatrixLike, NeighborsMetric, Size
from skvq._validation import (
    as_it_is_now,
    check_samples,
    copy_to_fit,
    in_own_context,
    take_over,
)
from skvq.base import QUANTIZER, BaseQuantizer, over_blocks
from skvq.codes import pack, packed_bits, unpack
from skvq.features import FROZEN
from skvq.nearest import HOST

# Metrics, each with the one that sums over codes give.
_SUMMED = {
    "euclidean": "sqeuclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
    "inner_product": "inner_product",
}
# Limits of tiles, in numbers: tables and results of queries; and rows.
_QUERY_ELEMENTS, _ROW_ELEMENTS = 2**21, 2**19


class QuantizedNeighbors(
    Documented,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    r"""Nearest neighbours of queries among rows that are stored as codes.

    The rows are encoded once.  Queries are not encoded: each is compared with the
    reconstruction of every row (an asymmetric distance), by look-ups in a table of the
    contribution of each code to the distance.  The search is exact over the
    reconstructions: only coding loses accuracy, and `rerank` wins most of it back if
    the rows are available.

    Parameters
    ----------
    quantizer : quantizer
        A quantizer of skvq that has `distance_table`, whose reconstructions are sums
        over codes, or concatenations.  `fit` fits a clone.  A fitted one is passed in a
        `sklearn.frozen.FrozenEstimator`, and is used as it is.
    n_neighbors : int, default=5
        Number of neighbours, unless a method is given another.
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}, \
            default="euclidean"
        The distance; for "inner_product" it is minus the product.
    rerank : int, default=None
        This many rows nearest to a query by their codes, or `n_neighbors` rows if that
        is more, are compared with it again by their original values.  The rows are kept
        for it: a reference to X as it is, which may be a memory map.  None: distances
        are those to the reconstructions, and no rows are kept.

    Attributes
    ----------
    quantizer_ : quantizer
        The fitted quantizer; one that was given fitted stays as it was at that time,
        without a copy of its tables.
    n_samples_fit_ : int
        Number of rows that are searched.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of features, if `fit` has seen any.

    See Also
    --------
    skvq.nearest.scan : The search without estimators.

    Notes
    -----
    The methods are those of scikit-learn's `NearestNeighbors`, which stores whole rows,
    and of its `KNeighborsTransformer`.

    All codes are read for every query, on all threads: n rows of m codes take about n m
    look-ups.  There is no index that would avoid most of them, such as inverted lists
    or a graph of neighbours; see the page on searching codes.

    Of equal distances the lower index comes first.  The result is that of the sums in
    float64; rows whose distances differ by less than their rounding may be swapped.
    Returned distances are computed anew, from the reconstructions or the rows.

    Memory besides the codes is some tens of MB, whatever their number.  For cosine
    distances, and for squared distances to sums (as of residual and additive codes), 4
    more bytes per row are kept; 8 bytes in float64.

    References
    ----------
    Jegou, Douze and Schmid (2011), "Product Quantization for Nearest Neighbor Search",
    IEEE TPAMI 33(1), doi:10.1109/TPAMI.2010.57.

    Jegou, Tavenard, Douze and Amsaleg (2011), "Searching in One Billion Vectors:
    Re-rank with Source Coding", ICASSP, arXiv 1102.3828.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer, QuantizedNeighbors
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> pq = ProductQuantizer(4, 16, random_state=0)
    >>> search = QuantizedNeighbors(pq, n_neighbors=3, rerank=50).fit(X)
    >>> distances, indices = search.kneighbors(X[:2])
    >>> indices[:, 0].tolist(), distances[:, 0].tolist()
    ([0, 1], [0.0, 0.0])
    >>> search.transform(X).shape
    (1000, 1000)
    """

    quantizer_: BaseQuantizer
    n_samples_fit_: int
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    _rows_: Any

    _parameter_constraints = {  # noqa: RUF012
        "quantizer": [QUANTIZER, FROZEN],
        "n_neighbors": [SIZE],
        "metric": [StrOptions(set(_SUMMED))],
        "rerank": [SIZE, None],
    }

    def __init__(
        self,
        quantizer: BaseQuantizer | Frozen,
        n_neighbors: Size = 5,
        *,
        metric: NeighborsMetric = "euclidean",
        rerank: Size | None = None,
    ) -> None:
        self.quantizer = quantizer
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.rerank = rerank

    # -- the rows to search --------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit(self, X: MatrixLike, y: Any = None) -> Self:
        """Fit a clone of the quantizer, and encode the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows, from which the quantizer also learns; may be a memory map.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted search.
        """
        new, data = copy_to_fit(self, fitted=False), (X, y, None)
        _check_sums(_bare(self.quantizer))
        X = new._checked(X, reset=True, min_samples=2)
        fitted, task = fit_clone(self, new, X, data)
        quantizer = new._take_quantizer(fitted)
        if quantizer.n_features_in_ != new.n_features_in_:
            raise ValueError(
                f"X has {new.n_features_in_} features, but the frozen quantizer was "
                f"fitted on {quantizer.n_features_in_}."
            )
        with quantizer._computing(X):
            parts = [
                pack(to_host(codes), quantizer.codebook_sizes_)
                for _, codes in over_blocks(X, quantizer._encode)
            ]
        new._take_codes(np.concatenate(parts), prepared=True)
        new._rows_ = None if self.rerank is None else new._comparable(X)
        take_over(self, new)
        task.end(lambda: None)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit_codes(
        self, codes: MatrixLike, *, X: MatrixLike | None = None, packed: bool = False
    ) -> Self:
        """Set rows that are codes already, of a fitted quantizer.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes) or (n_samples, n_bytes)
            Codes as `transform` of the quantizer returns them; with `packed`, rows of
            bytes as `skvq.codes.pack` packs them.
        X : array-like of shape (n_samples, n_features), default=None
            The rows themselves, for `rerank`, now or as it is set later.  They are not
            copied, and may be a memory map.
        packed : bool, default=False
            Whether `codes` are packed.  If so, they are not copied and may be a memory
            map: every search reads them anew, a chunk at a time.  Other codes are
            packed here, and kept in the order in which they are read, which spares
            searches of few queries that work.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        ValueError
            If the quantizer is not fitted, the codes are not valid for it, or X has
            another number of rows.
        """
        new = copy_to_fit(self, fitted=False)
        quantizer = new._take_quantizer(self.quantizer)
        quantizer._check_fitted()
        _check_sums(quantizer)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(quantizer, name):
                setattr(new, name, getattr(quantizer, name))
        if not packed:
            codes = pack(codes, quantizer.codebook_sizes_)
        new._take_codes(_packed_of(codes, quantizer), prepared=not packed)
        unused = X is None and self.rerank is None
        new._rows_ = None if unused else new._rows_of_codes(X)
        take_over(self, new)
        return self

    def _take_quantizer(self, quantizer: Any) -> BaseQuantizer:
        # Its current state is kept: a later fit may change the meaning of codes.
        self.quantizer_, self._metric_ = as_it_is_now(_bare(quantizer)), self.metric
        return self.quantizer_

    def _take_codes(self, packed: np.ndarray, *, prepared: bool) -> None:
        """Keep packed codes and the terms of their rows."""
        sizes = self.quantizer_.codebook_sizes_
        summed = sizes[: len(sizes) - self.quantizer_._n_scales()]
        terms: list[np.ndarray | None] = [None, None]
        beside = []
        for rows in _tiles(len(packed), self.n_features_in_, _ROW_ELEMENTS):
            codes = unpack(packed[rows], sizes).astype(np.intp)
            found = self.quantizer_._row_terms(codes, _SUMMED[self._metric_])
            terms = [
                _with_rows(term, len(packed), rows, part)
                for term, part in zip(terms, found, strict=True)
            ]
            if len(summed) < len(sizes):
                beside.append(pack(codes[:, : len(summed)], summed))
        self.n_samples_fit_ = len(packed)
        self._codes_ = packed
        scanned = np.concatenate(beside) if beside else packed
        # The arguments of `nearest.scan`.
        self._scanned_: tuple[Any, ...] = (scanned, summed, *terms)
        if prepared:
            factor, offset = terms
            made = nearest.Packed(scanned, summed, factor=factor, offset=offset)
            self._scanned_ = (made, None, None, None)

    def _checked(self, X: Any, *, reset: bool, min_samples: int = 1) -> Any:
        if nearest.is_dask(X):
            raise TypeError(
                f"{type(self).__name__} takes no Dask collections: fit the quantizer "
                "on them, give its codes to fit_codes, and ask a chunk at a time."
            )
        return check_samples(self, X, reset=reset, min_samples=min_samples)

    def _rows_of_codes(self, X: Any) -> Any:
        if X is None:
            raise ValueError(
                f"rerank={self.rerank} compares queries with the rows themselves: give "
                "them to fit_codes as X, or use rerank=None."
            )
        X = self._checked(X, reset=False)
        if len(X) != self.n_samples_fit_:
            raise ValueError(
                f"X has {len(X)} rows, but there are codes of {self.n_samples_fit_}."
            )
        return self._comparable(X)

    def _comparable(self, X: Any) -> Any:
        """Return rows; raise if distances from them are not defined."""
        if self._metric_ == "cosine":
            for rows in _tiles(len(X), X.shape[1], _ROW_ELEMENTS):
                nearest.check_no_zero_rows(np.asarray(X[rows]), "X", rows.start)
        return X

    # -- the search ----------------------------------------------------------------

    @overload
    def kneighbors(
        self,
        X: MatrixLike | None = ...,
        n_neighbors: Size | None = ...,
        return_distance: Literal[True] = ...,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]: ...
    @overload
    def kneighbors(
        self,
        X: MatrixLike | None = ...,
        n_neighbors: Size | None = ...,
        *,
        return_distance: Literal[False],
    ) -> NDArray[np.intp]: ...
    @in_own_context
    def kneighbors(
        self,
        X: MatrixLike | None = None,
        n_neighbors: Size | None = None,
        return_distance: bool = True,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]] | NDArray[np.intp]:
        """Find the nearest rows of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            The queries.  None: the rows themselves if `rerank` has kept them, else
            their reconstructions; each row is then left out of its own neighbours.
        n_neighbors : int, default=None
            Number of neighbours; None: the parameter.
        return_distance : bool, default=True
            Whether to return the distances as well.

        Returns
        -------
        neigh_dist : ndarray of float64, shape (n_queries, n_neighbors)
            Distances, the smallest first; only if `return_distance`.
        neigh_ind : ndarray of shape (n_queries, n_neighbors), dtype intp
            Indices of the rows; of equal distances the lower one first.

        Raises
        ------
        ValueError
            If there are fewer rows than neighbours, or a query is not valid.
        """
        self = as_it_is_now(self)
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        k = check_count("n_neighbors", k)
        # It may have been changed after the fit, unseen by the constraints.
        most = 0 if self.rerank is None else check_count("rerank", self.rerank)
        if most and self._rows_ is None:
            raise ValueError(
                f"rerank={self.rerank} needs the rows, which were not kept with "
                "rerank=None: fit anew, or use rerank=None."
            )
        alone = X is None
        queries = None if alone else self._checked(X, reset=False)
        n_queries = self.n_samples_fit_ if queries is None else len(queries)
        if k + alone > self.n_samples_fit_:
            raise ValueError(
                f"Expected n_neighbors {'<' if alone else '<='} n_samples_fit, but "
                f"n_neighbors = {k}, n_samples_fit = {self.n_samples_fit_}, "
                f"n_samples = {n_queries}."
            )
        distances = np.empty((n_queries, k))
        indices = np.empty((n_queries, k), np.intp)
        # Rows nearest by their codes, among which the k nearest are chosen.
        n_near = min(max(k + alone, most), self.n_samples_fit_)
        n_entries = sum(self.quantizer_.codebook_sizes_) + 4 * n_near
        for rows in _tiles(n_queries, n_entries, _QUERY_ELEMENTS):
            found = self._search(self._queries(queries, rows), k + alone, n_near)
            if alone:
                found = _without(np.arange(rows.start, rows.stop), *found)
            distances[rows], indices[rows] = found
        if self._metric_ == "euclidean":
            np.sqrt(distances, out=distances)
        return (distances, indices) if return_distance else indices

    def _queries(self, X: Any, rows: slice) -> np.ndarray:
        """Return some of the queries; by default, of the rows that are searched."""
        X = self._rows_ if X is None else X
        if X is None:
            return self._decoded(np.arange(rows.start, rows.stop))
        return np.asarray(X[rows])

    def _search(self, queries: np.ndarray, k: int, n_near: int) -> tuple[Any, ...]:
        """Return distances and indices of the k nearest rows of each query."""
        metric = _SUMMED[self._metric_]
        table = self.quantizer_._distance_table(queries.astype(np.float64), metric)
        codes, sizes, factor, offset = self._scanned_
        near, _ = nearest.scan(
            codes, sizes, table, k=n_near, factor=factor, offset=offset
        )
        distances = np.empty(near.shape)
        per_query = n_near * queries.shape[1]
        for some in _tiles(len(queries), per_query, _ROW_ELEMENTS):
            distances[some] = self._distances(queries[some], near[some], metric)
        order = np.lexsort((near, distances), axis=1)[:, :k]
        return (
            np.take_along_axis(distances, order, axis=1),
            np.take_along_axis(near, order, axis=1),
        )

    def _distances(self, queries: Any, near: Any, metric: str) -> np.ndarray:
        """Return the distances from queries to some rows each."""
        # Each row is read once, and in order, which suits files.
        distinct, place = np.unique(near, return_inverse=True)
        rows = self._rows_ if self.rerank is not None else None
        rows = self._decoded(distinct) if rows is None else np.asarray(rows[distinct])
        found = nearest.paired(
            np.repeat(queries, near.shape[1], axis=0), rows[place.ravel()], metric
        )
        return found.reshape(near.shape)

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        """Return the reconstructions of some rows."""
        codes = unpack(self._codes_[rows], self.quantizer_.codebook_sizes_)
        return self.quantizer_._decode_here(as_indices(codes))

    # -- graphs, in scikit-learn's form --------------------------------------------

    def kneighbors_graph(
        self,
        X: MatrixLike | None = None,
        n_neighbors: Size | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
    ) -> sp.csr_array:
        """Return the graph of the nearest rows of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            As in `kneighbors`.
        n_neighbors : int, default=None
            Number of neighbours; None: the parameter.
        mode : {"connectivity", "distance"}, default="connectivity"
            The entries: ones, or distances.

        Returns
        -------
        graph : csr_array of shape (n_queries, n_samples_fit)
            An entry for each neighbour; those of a row in the order of `kneighbors`.
        """
        if mode not in ("connectivity", "distance"):
            raise ValueError(
                f"mode={mode!r}; expected one of 'connectivity', 'distance'."
            )
        distances, indices = self.kneighbors(X, n_neighbors)
        n_queries, k = indices.shape
        entries = distances if mode == "distance" else np.ones_like(distances)
        ends = np.arange(0, n_queries * k + 1, k)
        shape = n_queries, self.n_samples_fit_
        return sp.csr_array((entries.ravel(), indices.ravel(), ends), shape=shape)

    def transform(self, X: MatrixLike) -> sp.csr_array:
        """Return the graph of distances to the nearest rows of each sample.

        As in scikit-learn's `KNeighborsTransformer`, this is for estimators that take
        ``metric="precomputed"``.  There, a sample that is among the rows counts as its
        own neighbour, so there is one more than `n_neighbors`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        graph : csr_array of shape (n_samples, n_samples_fit)
            ``n_neighbors + 1`` entries in each row, smallest first.
        """
        check_is_fitted(self)
        n_neighbors = check_count("n_neighbors", self.n_neighbors) + 1
        return self.kneighbors_graph(X, n_neighbors, mode="distance")

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there are rows to search."""
        return hasattr(self, "n_samples_fit_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _bare(quantizer: Any) -> BaseQuantizer:
    """Return a quantizer without the FrozenEstimator around it."""
    frozen = not isinstance(quantizer, BaseQuantizer)
    return quantizer.estimator if frozen else quantizer


def _check_sums(quantizer: BaseQuantizer) -> None:
    """Raise unless distances are sums over the codes of a quantizer."""
    why = quantizer._why_no_sums()
    if why is not None:
        raise ValueError(
            f"quantizer={quantizer!r} has no distance_table, which the search is made "
            f"of: {why}"
        )


def _packed_of(codes: Any, quantizer: BaseQuantizer) -> np.ndarray:
    """Return packed codes unchanged; raise unless they are rows of bytes."""
    with naming("codes"):
        packed = np.asarray(HOST.to_host(check_unmasked(codes, "codes")))
    n_bytes = -(-packed_bits(quantizer.codebook_sizes_) // 8)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != n_bytes:
        raise ValueError(
            f"codes have dtype {packed.dtype} and shape {packed.shape}; expected uint8 "
            f"and (n_samples, {n_bytes}) of packed codes of {type(quantizer).__name__}."
        )
    if not len(packed):
        raise ValueError("codes have no rows; expected at least one.")
    return packed


def _tiles(n_rows: int, per_row: int, elements: int) -> Iterator[slice]:
    step = max(1, elements // max(1, per_row))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _with_rows(term: np.ndarray | None, n_rows: int, rows: slice, part: Any) -> Any:
    """Return numbers of all rows with some set, in a wider dtype if they need it.

    Joining them at the end would need the memory twice.
    """
    if part is None:
        return None
    if term is None:
        term = np.empty(n_rows, part.dtype)
    term = term.astype(np.promote_types(term.dtype, part.dtype), copy=False)
    term[rows] = part
    return term


def _without(
    own: np.ndarray, distances: Any, indices: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours without the row itself, or without the last if it is absent."""
    keep = indices != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = len(own), indices.shape[1] - 1
    return distances[keep].reshape(shape), indices[keep].reshape(shape)
