"""Nearest neighbours among rows that are kept as codes.

A search compares each query with all codes, by a few look-ups for each of them (see
`skvq.coding.sums`): exact over the reconstructions, without decoding them.
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

# Metrics, and what of them the sums over codes are.
_SUMMED = {
    "euclidean": "sqeuclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
    "inner_product": "inner_product",
}
# Numbers of a tile: of the tables of queries and what is found for them; and of rows.
_QUERY_ELEMENTS, _ROW_ELEMENTS = 2**21, 2**19


class QuantizedNeighbors(
    Documented,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    r"""Nearest neighbours of queries among rows that are kept as codes.

    The rows are encoded once.  A query is not: it is compared with the reconstruction
    of every row (an asymmetric distance), by look-ups in a table of what each code adds
    to the distance.  The search is exact over the reconstructions: what is lost is lost
    in the codes alone, and `rerank` wins most of it back where the rows are at hand.

    Parameters
    ----------
    quantizer : quantizer
        A quantizer of skvq that has `distance_table`, whose reconstructions are sums of
        what codes stand for, or concatenations.  `fit` clones and fits it; one that is
        fitted already comes in a `sklearn.frozen.FrozenEstimator`, and is taken as it
        is.
    n_neighbors : int, default=5
        Number of neighbours, where the methods are not told another.
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}, \
            default="euclidean"
        The distance; that of the last is minus the product.
    rerank : int, default=None
        So many rows that are nearest to a query by their codes, or `n_neighbors` of
        them, if that is more, are compared with it again, as they were before they were
        encoded.  The rows are kept for it: a reference to X as it is, which may be a
        memory map.  None: distances are those from the reconstructions, and no rows are
        kept.

    Attributes
    ----------
    quantizer_ : quantizer
        The fitted quantizer; what was given as a fitted one, as it was then, without a
        copy of its tables.
    n_samples_fit_ : int
        Number of rows that are searched.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of features, if `fit` has seen any.

    See Also
    --------
    skvq.nearest.scan : The search, without estimators.

    Notes
    -----
    The methods are those of scikit-learn's `NearestNeighbors`, which keeps rows whole,
    and of its `KNeighborsTransformer`.

    All codes are read for every query, on all threads: n rows of m codes take about n m
    look-ups.  There is no index that would spare most of them, such as inverted lists
    or a graph of neighbours; see the page on searching codes.

    Of equal distances the lower index comes first.  The result is that of the sums in
    float64; rows whose distances differ by less than their rounding may take each
    other's place.  Distances that are returned are computed anew, from the
    reconstructions or the rows.

    Memory beside the codes is some tens of MB, whatever their number.  Sums, as of
    residual and additive codes, keep 4 bytes a row beside the codes for squared
    distances, as all schemes do for cosine distances; 8 bytes in float64.

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

    # -- what is searched ----------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit(self, X: MatrixLike, y: Any = None) -> Self:
        """Fit a clone of the quantizer, and encode the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows, from which the quantizer learns as well; may be a memory map.
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
        """Take rows that are codes already, of a quantizer that is fitted.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes) or (n_samples, n_bytes)
            Codes as `transform` of the quantizer gives them; with `packed`, rows of
            bytes as `skvq.codes.pack` packs these.
        X : array-like of shape (n_samples, n_features), default=None
            The rows themselves, for `rerank`, now or as it is set later; they are not
            copied, and may be a memory map.
        packed : bool, default=False
            Whether `codes` are packed.  If so, they are not copied, so that they may be
            a memory map: every search reads them anew, a chunk at a time.  Others are
            packed here, and kept in the order in which they are read, which makes the
            search of few queries twice as fast.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        ValueError
            If the quantizer is not fitted, the codes are not its own, or there are not
            as many rows in X.
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
        # As it is now: the codes are not those of what a fit may make of it later.
        self.quantizer_, self._metric_ = as_it_is_now(_bare(quantizer)), self.metric
        return self.quantizer_

    def _take_codes(self, packed: np.ndarray, *, prepared: bool) -> None:
        """Keep packed codes, and the terms of their rows."""
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
        # What is scanned, as `nearest.scan` takes it.
        self._scanned_: tuple[Any, ...] = (scanned, summed, *terms)
        if prepared:
            self._scanned_ = (nearest.Packed(*self._scanned_), None, None, None)

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
            The queries.  None: the rows themselves, where `rerank` has kept them, else
            their reconstructions; each of them is then left out of its own neighbours.
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
        # It may have been changed after the fit, which no constraint has seen.
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
        # The nearest by their codes, of which the k nearest are kept.
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
        """Return some of the queries; of None, of the rows that are searched."""
        X = self._rows_ if X is None else X
        if X is None:
            return self._decoded(np.arange(rows.start, rows.stop))
        return np.asarray(X[rows])

    def _search(self, queries: np.ndarray, k: int, n_near: int) -> tuple[Any, ...]:
        """Return distances and indices of the k nearest rows of each query."""
        metric = _SUMMED[self._metric_]
        table = self.quantizer_._distance_table(queries.astype(np.float64), metric)
        codes, sizes, factor, offset = self._scanned_
        near, _ = nearest.scan(codes, sizes, table, n_near, factor, offset)
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
        """Return the distances from queries to some rows of each."""
        # Each of them once, and in order, as files are read.
        distinct, place = np.unique(near, return_inverse=True)
        rows = self._rows_ if self.rerank is not None else None
        rows = self._decoded(distinct) if rows is None else np.asarray(rows[distinct])
        found = nearest.paired(
            np.repeat(queries, near.shape[1], axis=0), rows[place.ravel()], metric
        )
        return found.reshape(near.shape)

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        """Return reconstructions of some of the rows."""
        codes = unpack(self._codes_[rows], self.quantizer_.codebook_sizes_)
        return self.quantizer_._decode_here(as_indices(codes))

    # -- graphs, as scikit-learn takes them ----------------------------------------

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
            What the entries are: ones, or distances.

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

        As of scikit-learn's `KNeighborsTransformer`: for estimators that take
        ``metric="precomputed"``.  A sample that is among the rows counts as a neighbour
        of its own there, so there is one more than `n_neighbors`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        graph : csr_array of shape (n_samples, n_samples_fit)
            With ``n_neighbors + 1`` entries in a row, the smallest first.
        """
        check_is_fitted(self)
        n_neighbors = check_count("n_neighbors", self.n_neighbors) + 1
        return self.kneighbors_graph(X, n_neighbors, mode="distance")

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are rows to search."""
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
    """Return packed codes as they are; raise unless they are rows of bytes."""
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
    """Return numbers of all rows with those of some, in a wider dtype if they need it.

    Not joined at the end, when they would be there twice.
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
    """Return neighbours without the row itself; without the last, where it is none."""
    keep = indices != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = len(own), indices.shape[1] - 1
    return distances[keep].reshape(shape), indices[keep].reshape(shape)
