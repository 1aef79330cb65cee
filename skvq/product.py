"""The concatenated scheme: a table for each slice of the features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Self

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
from skvq._given import are_shared
from skvq._typing import BackendName, Number, RandomState, Size, Sizes
from skvq._validation import collected, copy_to_fit, warn, warn_of_parts
from skvq.base import QUANTIZER, BaseQuantizer
from skvq.coding import rates
from skvq.coding.charges import biases, charged, of_bits
from skvq.learning.rows import Learner, Rows, columns, stacked
from skvq.parts import (
    EVENLY,
    QUANTIZERS,
    NestingQuantizer,
    Parts,
    check_as_begun,
    check_sizes_as_begun,
    fit_parts,
)
from skvq.vector import VectorQuantizer


class ProductQuantizer(NestingQuantizer):
    r"""Cut the features into slices and quantize each slice independently.

    The concatenated scheme: :math:`f(x, W) = \mathrm{concat}_j f(x_j, W_j)`, with
    :math:`x_j` the j-th slice of the features.  M tables of V codewords represent a
    codebook of :math:`V^M`, at the cost in time and memory of one table of V.  The
    dependence between slices is lost.  A rotation before this step removes some of it,
    but bits must follow the variance: a random rotation evens out the variance over
    equal slices; PCA gathers it in the first slices, which then need more codewords.

    Parameters
    ----------
    n_subspaces : int, default=8
        M, the number of slices.  Features that do not divide evenly are cut as
        `numpy.array_split` does.  With fewer features than slices, each feature is a
        slice, with a ConvergenceWarning.  It plays no part with `widths`, or with a
        list as `quantizer`, whose lengths are the number of slices.
    n_codewords : int or sequence of int, default=None
        Number of codewords of all tables, or of each; set on the clones of `quantizer`.
        None keeps their own (256 for the default), and is required with a list.
    quantizer : quantizer, or list of quantizers or of (str, quantizer), default=None
        Quantizer of a slice, cloned for each; None: ``VectorQuantizer(tol=1e-3)``,
        since the default of 1e-4 gains little for more iterations.
        A list has a quantizer for each slice, with or without names.  Their parameters
        are set by ``<name>__<parameter>``, as in a `Pipeline`; quantizers without names
        are called 0, 1, ...
    widths : sequence of int, default=None
        Number of features of each slice, in order, summing to that of X.  None: as
        equal as possible.
    share_codebook : bool, default=False
        Whether one table serves all slices, which must then have equal widths.
    rate_weight : float, default=0.0
        Squared distance that a bit is worth in the search of each part, see
        `VectorQuantizer`; set on the clones of `quantizer`.  0 keeps their own.
    balance : True or None, default=None
        True: the codewords of every table are used evenly, see `VectorQuantizer`; set
        on the clones of `quantizer`.  None keeps their own.
    n_jobs : int, default=None
        Number of slices that are fitted at the same time in joblib's workers, see
        `joblib.Parallel`.  None or 1: on threads of this process, as many as BLAS would
        use, which is enough on one machine.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted tables of all parts, so that codes
        keep their meaning as far as possible; see `skvq.codes.match`.
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
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.
    code_lengths_ : tuple of ndarray of shape (V_j,)
        Bits that the search counts for each code of each column; only if it weighs
        bits.
    prices_ : tuple of ndarray of shape (V_j,)
        Squared distance that the search adds for each code of each column; only if it
        uses codes evenly.
    objective_ : float
        `distortion_` plus the cost of the bits of the training samples; only if the
        search weighs bits.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    VectorQuantizer : One table for all features.

    References
    ----------
    Jegou, Douze and Schmid (2011), "Product Quantization for Nearest Neighbor Search",
    IEEE TPAMI 33(1), doi:10.1109/TPAMI.2010.57.

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

    backend: BackendName
    share_codebook: bool

    n_subspaces_: int
    objective_: float

    _parameter_constraints = {  # noqa: RUF012
        "n_subspaces": [SIZE],
        "n_codewords": [SIZE, SIZES, None],
        "quantizer": [QUANTIZER, QUANTIZERS, None],
        "widths": [SIZES, None],
        "share_codebook": ["boolean"],
        "rate_weight": [Interval(Real, 0, None, closed="left")],
        "balance": [EVENLY, None],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    _COUNT = "n_subspaces"
    _DIAGRAM = "parallel"

    def __init__(
        self,
        n_subspaces: Size = 8,
        n_codewords: Size | Sizes | None = None,
        *,
        quantizer: BaseQuantizer
        | Sequence[BaseQuantizer | tuple[str, BaseQuantizer]]
        | None = None,
        widths: Sizes | None = None,
        share_codebook: bool = False,
        rate_weight: Number = 0.0,
        balance: bool | None = None,
        n_jobs: Size | None = None,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.n_subspaces = n_subspaces
        self.n_codewords = n_codewords
        self.quantizer = quantizer
        self.widths = widths
        self.share_codebook = share_codebook
        self.rate_weight = rate_weight
        self.balance = balance
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    _TASKS_IN_TURN = False

    def _n_tasks(self) -> int | None:
        return 1 if self.share_codebook else self._n_parts()

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        slices = self._slices(rows.n_features)
        parts = self._parts_of(slices)
        self._go_on(parts)
        self._check_memory(rows)
        width = slices[0].stop
        if self.share_codebook:
            # The slices are stacked, sample by sample.
            of_parts = [rows.view(stacked, width, width=width, times=len(slices))]
        else:
            of_parts = [
                rows.view(columns, cut.start, cut.stop, width=cut.stop - cut.start)
                for cut in slices
            ]
        templates = self._template_of_each(len(parts))
        parts, notices = yield from fit_parts(
            parts,
            of_parts,
            templates,
            None if self.n_jobs is None else int(self.n_jobs),
        )
        warn_of_parts("table" if self.share_codebook else "subspace", notices)
        found = self._found(parts, len(slices))
        if not self.share_codebook:
            counts = [own for part in parts for own in part.code_counts_]
            found["code_counts_"] = rates.kept(counts, found["codebook_sizes_"])
        return found

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        slices = self._slices(X.shape[1])
        if self.__sklearn_is_fitted__():
            check_as_begun(self._count(), len(slices), self.n_subspaces_)
            now = [cut.stop - cut.start for cut in slices]
            then = [part.n_features_in_ for part in self.quantizers_]
            check_as_begun("widths", now, then)
            check_sizes_as_begun(self.n_codewords, self.quantizers_)
            if len(slices) > 1:
                was_shared = are_shared(self.quantizers_)
                check_as_begun("share_codebook", self.share_codebook, was_shared)
            # A table that was given for some slices continues as one for each.
            kept = self.quantizers_[: 1 if self.share_codebook else None]
            # Shallow copies suffice: parts never change an array in place, so the old
            # parts stay intact if this batch fails.
            parts = [copy_to_fit(part, fitted=True) for part in kept]
        else:
            parts = self._parts_of(slices)
            self._check_memory(Rows(X))
        n_subspaces = len(slices)
        if self.share_codebook:
            X = reshape(X, (-1, slices[0].stop))
            if weights is not None:
                weights = repeat(weights, n_subspaces, axis=0)
            slices = [slice(None)]
        found = []
        templates = self._template_of_each(len(parts))
        for part, cut, template in zip(parts, slices, templates, strict=True):
            with collected() as notices, template.naming():
                part._validate_params()
                part._learn_batch(_columns(X, cut), weights)
            found.append(notices)
        warn_of_parts("table" if self.share_codebook else "subspace", found)
        return self._found(parts, n_subspaces)

    def _parts_of(self, slices: Any) -> list[Any]:
        """Return unfitted parts: one for each slice, or one for all if it is shared."""
        sizes = self.n_codewords
        if self.share_codebook:
            widths = {cut.stop - cut.start for cut in slices}
            if len(widths) > 1:
                raise ValueError(
                    f"share_codebook=True needs slices of equal width; {self._count()}="
                    f"{len(slices)} cuts {slices[-1].stop} features in widths "
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
        return self._new_parts(1 if self.share_codebook else len(slices), sizes)

    def _table_elements(self, n_features: int) -> int:
        sizes: Any = self.n_codewords
        widths = self._widths_in(n_features)
        if self.share_codebook:
            if not (sizes is None or isinstance(sizes, Integral)):
                sizes = next(iter(sizes))
            widths = widths[:1]
        return self._elements_of_parts(sizes, widths, len(widths))

    def _check_memory(self, rows: Rows) -> None:
        d = rows.n_features
        check_memory(
            f"{self._tables_in_words()} slices of {d} features",
            rows.dtype.itemsize * self._table_elements(d),
            rows.n_bytes,
        )

    def _default_part(self) -> BaseQuantizer:
        return VectorQuantizer(tol=1e-3)

    def _n_parts(self) -> int:
        return super()._n_parts() if self.widths is None else len(self.widths)

    def _count(self) -> str:
        return super()._count() if self.widths is None else "len(widths)"

    def _check_list(self) -> None:
        super()._check_list()
        if self.widths is not None and len(self.widths) != len(self.quantizer):
            raise ValueError(
                f"widths={self.widths!r} has {len(self.widths)} entries, but quantizer "
                f"has {len(self.quantizer)}: give a width for each."
            )

    def _widths_in(self, n_features: int) -> list[int]:
        """Return the widths of the slices of n_features features."""
        if self.widths is not None:
            widths = check_counts("widths", self.widths)
            if sum(widths) != n_features:
                raise ValueError(
                    f"widths={widths} are {sum(widths)} together; expected the number "
                    f"of features, which is {n_features}."
                )
            return widths
        n_parts = min(self._n_parts(), n_features)
        if n_parts < len(self._pairs):
            raise ValueError(
                f"quantizer has {len(self._pairs)} parts, but X has n_features="
                f"{n_features}: a part takes one feature or more."
            )
        cut = np.array_split(np.arange(n_features), n_parts)
        return [len(columns) for columns in cut]

    def _slices(self, n_features: int) -> list[slice]:
        widths = self._widths_in(n_features)
        if len(widths) < self._n_parts():
            warn(
                f"n_subspaces={self.n_subspaces} is more than n_features={n_features}: "
                "each feature is a subspace."
            )
        stops = accumulate(widths)
        return [slice(s - w, s) for s, w in zip(stops, widths, strict=True)]

    def _from_tables(
        self, tables: list[nearest.Table], code_lengths: Any = None, prices: Any = None
    ) -> dict[str, Any]:
        costs = {"code_lengths": code_lengths, "prices": prices}
        parts = self._parts_of_tables(tables, costs)
        widths = [part.n_features_in_ for part in parts]
        n_features = sum(widths)
        if self.widths is not None or widths != self._widths_in(n_features):
            self._imply(widths=widths)
        shared = are_shared(parts)
        self.share_codebook = shared or self.share_codebook
        found = self._found(parts[:1] if shared else parts, len(parts))
        return {"n_features_in_": n_features, **found}

    def _slice_widths(self, n_features: int) -> list[int] | None:
        widths = self._widths_in(n_features)
        templates = self._template_of_each(len(widths))
        pairs = zip(templates, widths, strict=True)
        return [
            own
            for template, width in pairs
            for own in template.quantizer._slice_widths(width) or [width]
        ]

    def _n_tables_of_each(self) -> list[int | None]:
        each = super()._n_tables_of_each()
        if self.widths is None:
            return each
        each = each * (len(self.widths) // len(each))
        pairs = zip(each, self.widths, strict=True)
        return [width if size is None else size for size, width in pairs]

    def _found(self, fitted: list[Any], n_subspaces: int) -> dict[Any, Any]:
        """Return the fitted attributes of the distinct parts."""
        parts = fitted * n_subspaces if self.share_codebook else fitted
        known = Parts(parts)
        found = {
            "quantizers_": parts,
            "n_subspaces_": n_subspaces,
            "codebook_sizes_": known.sizes,
            "_parts_": known,
        }
        # Squared distances add up over slices; other distances are measured.
        if all(part._score_metric == "sqeuclidean" for part in fitted):
            shares = n_subspaces if self.share_codebook else 1
            found["distortion_"] = shares * sum(part.distortion_ for part in fitted)
            if any(of_bits(known.charges)):
                # The costs of bits add up too, and are zero if bits have no price.
                costs = (getattr(p, "objective_", p.distortion_) for p in fitted)
                found["objective_"] = shares * sum(costs)
        return found

    def _parts_with_columns(self) -> Iterator[tuple[Any, ...]]:
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

    def _encode(self, X: Any) -> Any:
        if self._parts_.tables is not None:
            return nearest.nearest_product(
                X, self._parts_.tables, bias=self._parts_.biases
            )
        return join_columns(
            [
                part._encode(_columns(X, features))
                for part, features, _ in self._parts_with_columns()
            ]
        )

    def _encode_best(self, X: Any, n_best: int) -> Any:
        """Join the best codes of each slice: the best sums are among their pairs."""
        codes: list[Any] = []
        errors = None
        for part, features, _ in self._parts_with_columns():
            x = _columns(X, features)
            found = as_indices(part._encode_best(x, n_best))
            sums = part._errors_of(x, found)
            added = biases(part._charges(), part.codebook_sizes_)
            if added is not None:
                sums = sums + charged(added, found)
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

    def _has_free_tables(self) -> bool:
        # Code frequencies would not fit another table.
        bound = self.share_codebook or self._code_costs()
        return not (bound or self._without(lambda one: one._has_free_tables()))

    def _free_tables(self) -> list[tuple[slice, np.ndarray]]:
        return [
            (
                slice(features.start + columns.start, features.start + columns.stop),
                table,
            )
            for part, features, _ in self._parts_with_columns()
            for columns, table in part._free_tables()
        ]

    def _with_tables(self, tables: list[np.ndarray]) -> Self:
        copy = copy_to_fit(self, fitted=True)
        copy.quantizers_ = [
            part._with_tables(tables[columns])
            for part, _, columns in self._parts_with_columns()
        ]
        copy._parts_ = Parts(copy.quantizers_)
        return copy

    def _entries(self, X: Any, metric: str) -> Any:
        return np.concatenate(
            [
                part._entries(X[:, features], metric)
                for part, features, _ in self._parts_with_columns()
            ],
            axis=1,
        )

    def _is_concatenation(self) -> bool:
        return all(part._is_concatenation() for part in self.quantizers_)

    def _decode(self, codes: Any) -> Any:
        return join_columns(
            [
                part._decode(codes[:, columns])
                for part, _, columns in self._parts_with_columns()
            ]
        )


def _columns(X: Any, features: slice) -> Any:
    """Return some columns, contiguous, as the engine requires."""
    return nearest.backend_of(X).contiguous(X[:, features])
