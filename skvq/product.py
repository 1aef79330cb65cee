"""The concatenated scheme: a table for each slice of the features."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np

from skvq import nearest
from skvq._arrays import (
    as_indices,
    join,
    join_columns,
    repeat,
    reshape,
    stable_order,
    take_along,
)
from skvq._checks import check_counts, check_memory
from skvq._compat import RANDOM_STATE, SIZE, SIZES, Interval, StrOptions
from skvq._validation import collected, copy_to_fit, warn, warn_of_parts
from skvq.base import QUANTIZER, BaseQuantizer
from skvq.learning.rows import Rows, columns, stacked
from skvq.parts import (
    check_as_begun,
    check_sizes_as_begun,
    fit_parts,
    make_parts,
    parts_elements,
    searched_tables,
    why_in_memory,
    why_no_stream,
    why_no_sums,
)
from skvq.vector import VectorQuantizer


class ProductQuantizer(BaseQuantizer):
    r"""Cut the features in slices and quantize each on its own.

    The concatenated scheme: :math:`f(x, W) = \mathrm{concat}_j f(x_j, W_j)`, with
    :math:`x_j` the j-th slice of the features.  M tables of V codewords stand for a
    codebook of :math:`V^M`, at the cost in time and memory of one table of V.  What is
    lost is the dependence between slices.  A rotation before this step removes some of
    it, but bits must follow the variance: a random rotation evens it out over equal
    slices; after PCA, which gathers it in the first, give these more codewords.

    Parameters
    ----------
    n_subspaces : int, default=8
        M, the number of slices.  Widths that do not divide evenly are cut as
        `numpy.array_split` does; with fewer features than slices, each feature is one,
        and a ConvergenceWarning says so.
    n_codewords : int or sequence of int, default=None
        Codewords of every table, or of each; set on the clones of `quantizer`.  None:
        as they have it (256 for the default).
    quantizer : quantizer, default=None
        Quantizer of a slice, cloned for each; None: ``VectorQuantizer(tol=1e-3)``.
        Its own default of 1e-4 gains 0.1 to 0.4 % for half as much training again.
    share_codebook : bool, default=False
        Whether one table serves all slices, which must then have equal widths.
    n_jobs : int, default=None
        Slices that are fitted at the same time in joblib's workers, see
        `joblib.Parallel`.  None or 1: on threads of this process, as many as BLAS would
        use, which is as fast on one machine.
    random_state : int, RandomState instance or None, default=None
        Seeds the parts; None: they keep their own.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.
        With "auto", parts that have a backend of their own keep it.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, d_j)
        The tables W_1..W_M.
    codebook_sizes_ : tuple of int
        V_1..V_M.
    bits_per_sample_ : float
        Sum of log2 V_j.
    quantizers_ : list of quantizers
        The fitted parts; with `share_codebook`, the same one M times.
    n_subspaces_ : int
        Number of slices.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    n_features_in_ : int
        Number of features.

    See Also
    --------
    VectorQuantizer : One table for all features.

    References
    ----------
    Jegou, Douze and Schmid (2011), "Product Quantization for Nearest Neighbor Search",
    IEEE TPAMI 33(1).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> pq = ProductQuantizer(n_subspaces=4, n_codewords=16, random_state=0).fit(X)
    >>> pq.transform(X).shape, pq.bits_per_sample_
    ((1000, 4), 16.0)
    >>> pq.inverse_transform(pq.transform(X)).shape
    (1000, 8)
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_subspaces": [SIZE],
        "n_codewords": [SIZE, SIZES, None],
        "quantizer": [QUANTIZER, None],
        "share_codebook": ["boolean"],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    def __init__(
        self,
        n_subspaces=8,
        n_codewords=None,
        *,
        quantizer=None,
        share_codebook=False,
        n_jobs=None,
        random_state=None,
        backend="auto",
    ):
        self.n_subspaces = n_subspaces
        self.n_codewords = n_codewords
        self.quantizer = quantizer
        self.share_codebook = share_codebook
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.backend = backend

    def _fit(self, rows):
        slices = self._slices(rows.n_features)
        parts = self._new_parts(slices)
        self._check_memory(rows)
        width = slices[0].stop
        if self.share_codebook:
            # The slices under each other, sample by sample.
            of_parts = [rows.view(stacked, width, width=width, times=len(slices))]
        else:
            of_parts = [
                rows.view(columns, cut.start, cut.stop, width=cut.stop - cut.start)
                for cut in slices
            ]
        parts, notices = yield from fit_parts(parts, of_parts, self.n_jobs)
        warn_of_parts("table" if self.share_codebook else "subspace", notices)
        return self._found(parts, len(slices))

    def _partial_fit(self, X, weights):
        slices = self._slices(X.shape[1])
        if self.__sklearn_is_fitted__():
            check_as_begun("n_subspaces", len(slices), self.n_subspaces_)
            check_sizes_as_begun(self.n_codewords, self.quantizers_)
            distinct = list({id(part): part for part in self.quantizers_}.values())
            was_shared = len(distinct) < len(slices)
            if len(slices) > 1:
                check_as_begun("share_codebook", self.share_codebook, was_shared)
            # Shallow copies: the parts never change an array in place, so the old ones
            # stay whole if this batch fails.
            parts = [copy_to_fit(part, fitted=True) for part in distinct]
        else:
            parts = self._new_parts(slices)
            self._check_memory(Rows(X))
        n_subspaces = len(slices)
        if self.share_codebook:
            X = reshape(X, (-1, slices[0].stop))
            if weights is not None:
                weights = repeat(weights, n_subspaces, axis=0)
            slices = [slice(None)]
        found = []
        for part, cut in zip(parts, slices, strict=True):
            with collected() as notices:
                part._validate_params()
                part._learn_batch(_columns(X, cut), weights)
            found.append(notices)
        warn_of_parts("table" if self.share_codebook else "subspace", found)
        return self._found(parts, n_subspaces)

    def _new_parts(self, slices) -> list:
        """Return unfitted parts: one for each slice, or the one that they share."""
        sizes = self.n_codewords
        if self.share_codebook:
            widths = {columns.stop - columns.start for columns in slices}
            if len(widths) > 1:
                raise ValueError(
                    f"share_codebook=True needs slices of equal width; n_subspaces="
                    f"{self.n_subspaces} cuts {slices[-1].stop} features in widths "
                    f"{sorted(widths)}."
                )
            if sizes is not None and not isinstance(sizes, Integral):
                sizes = check_counts("n_codewords", sizes)
                if len(sizes) != len(slices) or len(set(sizes)) > 1:
                    raise ValueError(
                        f"share_codebook=True takes one n_codewords for all "
                        f"{len(slices)} subspaces; got {sizes}."
                    )
                sizes = sizes[0]
        return make_parts(
            self._template(),
            1 if self.share_codebook else len(slices),
            n_codewords=sizes,
            random_state=self.random_state,
            backend=self.backend,
        )

    def _table_elements(self, n_features):
        n_subspaces = min(self.n_subspaces, n_features)
        widths = [len(p) for p in np.array_split(np.arange(n_features), n_subspaces)]
        if self.share_codebook:
            sizes = self.n_codewords
            if not (sizes is None or isinstance(sizes, Integral)):
                sizes = next(iter(sizes))
            return parts_elements(self._template(), sizes, widths[:1])
        return parts_elements(self._template(), self.n_codewords, widths)

    def _check_memory(self, rows) -> None:
        d = rows.n_features
        check_memory(
            f"Tables of n_codewords={self.n_codewords} for n_subspaces="
            f"{self.n_subspaces} slices of {d} features",
            rows.dtype.itemsize * self._table_elements(d),
            rows.n_bytes,
        )

    @property
    def _follows_namespace(self):  # type: ignore[override]
        return getattr(self._template(), "_follows_namespace", False)

    def _template(self):
        if self.quantizer is None:
            return VectorQuantizer(tol=1e-3)
        return self.quantizer

    def _slices(self, n_features: int) -> list[slice]:
        n_subspaces = min(self.n_subspaces, n_features)
        if n_subspaces < self.n_subspaces:
            warn(
                f"n_subspaces={self.n_subspaces} is more than n_features={n_features}: "
                "each feature is a subspace."
            )
        columns = np.array_split(np.arange(n_features), n_subspaces)
        return [slice(int(part[0]), int(part[-1]) + 1) for part in columns]

    def _found(self, fitted: list, n_subspaces: int) -> dict:
        """Return the fitted attributes of the distinct parts."""
        parts = fitted * n_subspaces if self.share_codebook else fitted
        sizes = [size for part in parts for size in part.codebook_sizes_]
        found = {
            "quantizers_": parts,
            "n_subspaces_": n_subspaces,
            "codebook_sizes_": tuple(sizes),
            "_tables_": searched_tables(parts),
        }
        # Squared distances add up over slices; what does not is measured.
        if all(part._score_metric == "sqeuclidean" for part in fitted):
            shares = n_subspaces if self.share_codebook else 1
            found["distortion_"] = shares * sum(part.distortion_ for part in fitted)
        return found

    def _needs_rows_in_memory(self):
        return why_in_memory(self._template())

    def _can_partial_fit(self) -> bool:
        return hasattr(self._template(), "partial_fit")

    def _why_no_partial_fit(self) -> str:
        return why_no_stream(self._template())

    def _parts_with_columns(self) -> Iterator[tuple]:
        """Yield each part with its columns of X and its columns of the codes."""
        feature = column = 0
        for part in self.quantizers_:
            width, n_codes = part.n_features_in_, len(part.codebook_sizes_)
            yield (
                part,
                slice(feature, feature + width),
                slice(column, column + n_codes),
            )
            feature, column = feature + width, column + n_codes

    def _encode(self, X):
        if self._tables_ is not None:
            return nearest.nearest_product(X, self._tables_)
        return join_columns(
            [
                part._encode(_columns(X, features))
                for part, features, _ in self._parts_with_columns()
            ]
        )

    def _can_encode_best(self):
        return self._template()._can_encode_best()

    def _encode_best(self, X, n_best):
        """Join the best codes of each slice; the best sums are among their pairs."""
        codes: list = []
        errors = None
        for part, features, _ in self._parts_with_columns():
            x = _columns(X, features)
            found = as_indices(part._encode_best(x, n_best))
            sums = _errors(part, x, found)
            if errors is not None:
                sums = errors[:, :, None] + sums[:, None, :]
                sums = reshape(sums, (X.shape[0], -1))
            best = stable_order(sums)[:, : min(n_best, sums.shape[1])]
            errors = take_along(sums, best)
            before = best // found.shape[1]
            here = best - before * found.shape[1]
            codes = [take_along(some, before) for some in codes]
            codes.append(take_along(found, here))
        return join(codes, axis=2)

    def _has_free_tables(self):
        return not self.share_codebook and self._template()._has_free_tables()

    def _free_tables(self):
        return [
            (
                slice(features.start + columns.start, features.start + columns.stop),
                table,
            )
            for part, features, _ in self._parts_with_columns()
            for columns, table in part._free_tables()
        ]

    def _with_tables(self, tables):
        copy = copy_to_fit(self, fitted=True)
        copy.quantizers_ = [
            part._with_tables(tables[columns])
            for part, _, columns in self._parts_with_columns()
        ]
        copy._tables_ = searched_tables(copy.quantizers_)
        return copy

    def _why_no_sums(self):
        return why_no_sums(getattr(self, "quantizers_", [self._template()]))

    def _entries(self, X, metric):
        return np.concatenate(
            [
                part._entries(X[:, features], metric)
                for part, features, _ in self._parts_with_columns()
            ],
            axis=1,
        )

    def _is_concatenation(self):
        return all(part._is_concatenation() for part in self.quantizers_)

    def _decode(self, codes):
        return join_columns(
            [
                part._decode(codes[:, columns])
                for part, _, columns in self._parts_with_columns()
            ]
        )

    def _codebooks(self):
        return [table for part in self.quantizers_ for table in part._codebooks()]


def _errors(part, x, codes):
    """Return the error (n_samples, n_sums) of each of some codes of a sample."""
    n, n_sums, n_codes = codes.shape
    decoded = part._decode(reshape(codes, (n * n_sums, n_codes)))
    found = nearest.paired(repeat(x, n_sums, axis=0), decoded)
    return reshape(found, (n, n_sums))


def _columns(X, features: slice):
    """Return some columns, contiguous, as the engine wants them."""
    return nearest.backend_of(X).contiguous(X[:, features])
