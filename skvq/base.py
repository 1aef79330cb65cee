"""The contract of every quantizer, stated once.

The public methods are defined here and only here; those of searches over codes are in
`skvq._sums`.  They check that the estimator is fitted, validate their input, cut the
rows into blocks and call the hooks of the scheme.

========================  ==========================================================
hook                      what a scheme implements in it
========================  ==========================================================
``_fit(rows)``            a learner: it yields requests about the rows (see
                          `skvq.learning.rows`) and returns the fitted attributes by
                          name; `distortion_` and `code_counts_` are measured if they
                          are missing
``_encode(X)``            codes (n_samples, n_codes) of a block of rows
``_decode(codes)``        reconstruction (n_samples, n_features) of a block of codes
``_codebooks()``          W_1..W_m, in the order of the code columns
``_from_tables(tables)``  fitted attributes, as from `_fit`, for given W_1..W_m;
                          parameters that follow from the tables are set
``_entries(X, metric)``   the contribution of each code to distances, if the
                          reconstruction is a sum over codes (see `SumsOfCodes`)
``_encode_best(X, n)``    codes (n_samples, n_found, n_codes) of the n best, best first,
                          if the search can find them (``_can_encode_best()``)
``_charges()``            what the search adds for codes, if bits have a price or codes
                          are used evenly; ``_code_costs()`` says which of the two it
                          will add
``_slice_widths(n)``      widths of slices of n features that are coded independently
``_ranges()``             for scalar schemes, the range outside of which values clip
``_why_no_codebooks()``   why there are no tables by code, if there are none
``_n_tasks()``            how many tasks the learner begins at most, of which callbacks
                          are told (see `skvq.learning.tasks`)
``_renamed(orders)``      fitted attributes with their rows reordered, if codes are
                          names of rows (``_why_no_names``)
========================  ==========================================================

Hooks get finite floating numbers of the right width and never validate.  Weights of a
stream have mean one over its first batch, and keep that unit; of other weights only the
ratios may matter.  Fitted attributes, private ones too, end in an underscore, which
distinguishes them from other attributes.

Codes, reconstructions and public fitted attributes are arrays of the library of X, on
its device.  A scheme whose hooks accept such arrays sets `_follows_namespace`.  The
arrays that it keeps are NumPy's: tables keep their own copies on devices
(`nearest.Table`), and arrays for the user are sent there in this module.  Other schemes
get X converted to NumPy.
"""

from __future__ import annotations

import inspect
import logging
import math
import pickle
import re
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._arrays import (
    as_indices,
    in_dtype,
    join,
    repeat,
    reshape,
    stable_order,
    take_along,
    to_host,
)
from skvq._callbacks import fit_task
from skvq._checks import check_count
from skvq._compat import (
    OF_A_RUNNING_FIT,
    UNUSED,
    Accepted,
    BaseEstimator,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    Documented,
    TransformerMixin,
    _fit_context,
    available_unless,
    in_output_container,
)
from skvq._dask import (
    batches,
    check_container,
    check_lazy_codes,
    dask_rows,
    lazily,
)
from skvq._deprecation import with_new_names
from skvq._elsewhere import is_set_by_fit, line_to_write
from skvq._given import check_codebooks
from skvq._match import check_names
from skvq._sums import SumsOfCodes
from skvq._typing import Matrices, MatrixLike, RoutingRequest, Size, VectorLike
from skvq._validation import (
    as_it_is_now,
    backend_of_samples,
    check_codes,
    check_same_library,
    check_samples,
    copy_to_fit,
    in_own_context,
    one_warning,
    plain_parameters,
    take_over,
)
from skvq._version import __version__
from skvq._weights import (
    ONE,
    WeightUnit,
    check_weights,
    drop_zero_weights,
    weights_in_units,
)
from skvq.codes import from_token_ids, smallest_dtype
from skvq.coding import rates
from skvq.coding.charges import Charges, Prices, of_bits
from skvq.learning.finite import check_finite
from skvq.learning.rows import Block, Learner, Rows, run

# What schemes share besides is for them alone.
__all__ = ["BaseQuantizer"]

# Silent until the user configures logging.  Parts log their own fits, so that a nesting
# scheme shows its progress.
logger: logging.Logger = logging.getLogger("skvq")

# Number of tiles in a block, which bounds the memory of conversions and of hooks.
# Blocks of rows that go to a device are longer by another factor: they are several
# chunks of the engine, so that one can be copied while another is computed.
_TILES_PER_BLOCK = 8
_ON_DEVICE = 64

# Fitted attributes that stay on the host, as entropy coders use them there.
_ON_THE_HOST = ("code_counts_",)

# Methods that accept Dask collections, besides fits.
_OF_COLLECTIONS = ("transform", "quantize", "score")


def _reason_against_names(estimator: BaseQuantizer) -> str | None:
    why = estimator._why_no_names()
    return why and f"{type(estimator).__name__} has no rename_codes: {why}"


def _reason_against_streams(estimator: BaseQuantizer) -> str | None:
    if estimator._can_partial_fit():
        return None
    return (
        f"{type(estimator).__name__} has no partial_fit with these parameters: "
        f"{estimator._why_no_partial_fit()}"
    )


def _reason_against_best(estimator: BaseQuantizer) -> str | None:
    if estimator._can_encode_best():
        return None
    return (
        f"{type(estimator).__name__} has no encode_best with these parameters: it "
        "takes VectorQuantizer under metric='sqeuclidean', products and residuals of "
        "it, or one of these behind a rotation."
    )


class BaseQuantizer(
    Documented,
    CallbackSupportMixin,
    SumsOfCodes,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base class of all quantizers, which replace x by a code and the code by W_code.

    Attributes
    ----------
    codebooks_ : tuple of ndarray
        W_1..W_m, in the order of the code columns.
    codebook_sizes_ : tuple of int
        V_1..V_m, the number of codewords of each code column.
    bits_per_sample_ : float
        Sum of log2 V_j over the code columns.
    distortion_ : float
        Mean distance of the training samples from their reconstructions.
    code_counts_ : tuple of ndarray or None
        How often each code of a column occurs in the training samples, (V_j,) in
        float64, in units of the mean weight; always a NumPy array, since entropy coders
        are made from it (`skvq.codes.EntropyCoder`).  Each batch of a stream is coded
        after it was learned from, and counts add up.  Zeros where tables were given.
        None for columns with more than 2^16 codewords; for all columns, if the others
        have more than 2^20 together.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.
    """

    codebook_sizes_: tuple[int, ...]
    distortion_: float
    code_counts_: tuple[NDArray[np.float64] | None, ...]
    n_features_in_: int
    # If the samples of `fit` have named their features.
    feature_names_in_: NDArray[Any]

    # Whether the hooks accept arrays of any library.
    _follows_namespace = False
    # Whether there is one code column, whatever the parameters are.
    _has_one_column = False
    # Fitted attributes that follow from others and are not pickled.
    _made_anew: tuple[str, ...] = ()

    if TYPE_CHECKING:
        # scikit-learn makes these, of the parameters that the methods have.
        def set_fit_request(self, *, sample_weight: RoutingRequest) -> Self:
            """Choose whether `fit` gets the weights that are routed."""
            ...

        def set_partial_fit_request(self, *, sample_weight: RoutingRequest) -> Self:
            """Choose whether `partial_fit` gets the weights that are routed."""
            ...

        def set_score_request(self, *, sample_weight: RoutingRequest) -> Self:
            """Choose whether `score` gets the weights that are routed."""
            ...

    # Codes are the method's data, not metadata to be routed.
    __metadata_request__inverse_transform = {"codes": UNUSED}  # noqa: RUF012

    @property
    def _score_metric(self) -> nearest.Metric:
        """The metric of `score` and `distortion_`."""
        return "sqeuclidean"

    # -- hooks ---------------------------------------------------------------------

    @abstractmethod
    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        """Learn from rows; return the fitted attributes by name."""

    @abstractmethod
    def _encode(self, X: np.ndarray) -> np.ndarray:
        """Return integer codes (n_samples, n_codes) of floating X."""

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the reconstruction (n_samples, n_features) of intp codes."""

    @abstractmethod
    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        """Return the tables W_1..W_m."""

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        """Learn from one more batch; return the fitted attributes that change."""
        raise AssertionError("guarded by _can_partial_fit")  # pragma: no cover

    def _can_partial_fit(self) -> bool:
        return False

    def _why_no_partial_fit(self) -> str:
        return "the scheme does not learn from a stream."

    def _fewest_rows(self) -> int:
        """Return how many rows `fit` needs: one if it learns nothing from them."""
        return 2

    def _needs_rows_in_memory(self) -> str | None:
        """Return why it cannot learn from a Dask array; None if it can."""
        return None

    def _given_size(self) -> int | None:
        """Return V if a parameter gives the table, which is then fixed."""
        return None

    def _check_as_fitted(self) -> None:
        """Raise if replaced fitted attributes do not fit the others."""

    def _why_no_names(self) -> str | None:
        """Return why codes cannot be renamed; None if they are names of rows."""
        return "its codes are places in an order or a formula, not names of rows."

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        """Return the fitted attributes that change when codes are renamed.

        `orders` has the new order of rows for each column; None: unchanged.
        """
        raise AssertionError("guarded by _why_no_names")  # pragma: no cover

    def _table_elements(self, n_features: int) -> int:
        """Return the number of values in its tables, if they are many."""
        return 0

    def _decodable_widths(self) -> tuple[int, ...]:
        """Return the numbers of code columns that `inverse_transform` takes."""
        return (len(self.codebook_sizes_),)

    # What callbacks are told of a fit.

    # Whether the tasks of a fit are done one after the other.
    _TASKS_IN_TURN = True

    def _n_tasks(self) -> int | None:
        """Return how many tasks the learner begins, at most; None: nobody knows."""
        return 0

    def _as_if_stopped(self, rows: Rows, found: dict[str, Any]) -> Self:
        """Return a copy that has learned what its learner has found so far."""
        copy = copy_to_fit(self, fitted=True)
        copy.__dict__.pop("_before_", None)
        copy._assign(found, rows.be)
        run(copy._measure(rows, found))
        return copy

    # Hooks that are called on a part by the scheme that holds it.

    def _searched_table(self) -> nearest.Table | None:
        """Return the table whose nearest row, by squared distance, is the code.

        The search adds `_charges` to squared distances.
        """
        return None

    def _code_costs(self) -> frozenset[str]:
        """Return the names of what its search adds for codes, with these parameters.

        They are those of `from_codebooks`: "code_lengths" if it weighs bits against
        errors, "prices" if it uses codes evenly.
        """
        return frozenset()

    def _charges(self) -> Charges:
        """Return what the search adds for the codes of each column."""
        return (None,) * len(self.codebook_sizes_)

    def _with_charges(self, charges: Charges) -> Self:
        """Return a fitted copy whose search adds other charges for codes."""
        raise AssertionError("guarded by _can_encode_best")  # pragma: no cover

    def _can_encode_best(self) -> bool:
        """Return whether `_encode_best` is available with these parameters."""
        return False

    def _encode_best(self, X: np.ndarray, n_best: int) -> np.ndarray:
        """Return codes (n_samples, n_found, n_codes) of the best sums, best first."""
        raise AssertionError("guarded by _can_encode_best")  # pragma: no cover

    def _has_free_tables(self) -> bool:
        """Return whether its tables may be replaced by any others."""
        return False

    def _free_tables(self) -> list[tuple[slice, np.ndarray]]:
        """Return each table with its columns of X, in the order of the code columns."""
        raise AssertionError("guarded by _has_free_tables")  # pragma: no cover

    def _with_tables(self, tables: list[np.ndarray]) -> Self:
        """Return a fitted copy with other tables instead of `_free_tables`."""
        raise AssertionError("guarded by _has_free_tables")  # pragma: no cover

    def _slice_widths(self, n_features: int) -> list[int] | None:
        """Return the widths of slices that are coded apart; None if there are none."""
        return None

    def _alignments(self, X: np.ndarray) -> np.ndarray | None:
        """Return the cosines (n_samples,) of rows and their reconstructions.

        None if its codes have no scale that makes inner products unbiased.
        """
        return None

    def _ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ends of the range of each feature; None if there is none.

        Both are float64 arrays (n_features,).
        """
        return None

    # Hooks about tables that are given.

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        """Return fitted attributes for given tables; set parameters that follow.

        Whatever else a scheme can be given is a keyword of its own.
        """
        raise AttributeError(
            f"{type(self).__name__} has no from_codebooks: its codebook is a formula "
            "of its parameters, which `fit` sets up."
        )

    def _n_tables(self) -> int | None:
        """Return the number of tables before the fit; None: one per feature."""
        return None

    def _takes_columns(self) -> bool:
        """Return whether levels (n_levels,) may be given in place of tables."""
        return False

    def _why_no_codebooks(self) -> str | None:
        """Return why there are no tables by code; None if there are."""
        return None

    # -- public methods ------------------------------------------------------------

    @classmethod
    def from_codebooks(cls, codebooks: Matrices, **parameters: Any) -> Self:
        """Return a fitted quantizer whose codebooks are given, not learned.

        Parameters
        ----------
        codebooks : sequence of array-likes of shape (n_codewords, n_features)
            The tables W_1..W_m, in the order of the code columns; a sequence even for a
            single table.  They determine the number of features and the dtype of
            reconstructions.  A table that comes several times, as the same object, is
            shared.
        **parameters : dict
            Parameters of the class, without sizes, which follow from the tables; and
            further arguments of some schemes, listed in the notes.

        Returns
        -------
        quantizer : object
            As if `fit` had found these tables.  `distortion_` is NaN, since there were
            no samples to measure it on.

        Raises
        ------
        ValueError
            If the tables do not fit each other or the parameters.
        AttributeError
            If the scheme has no tables.

        Notes
        -----
        ``cls.from_codebooks(other.codebooks_, **other.get_params(deep=False))`` gives
        the codes of `other`.  Besides tables, `VectorQuantizer` takes the running
        `counts` and `sums` of a stream, `MultiScaleQuantizer` the `kernels` and
        `biases` of its convolutions, and `RotatedQuantizer` the `mean` of its rows.
        Schemes with a `rate_weight` take the `code_lengths`, and those with `balance`
        the `prices`: the `code_lengths_` and `prices_` of a fitted quantizer.

        Examples
        --------
        >>> import numpy as np
        >>> from skvq import ResidualQuantizer
        >>> coarse, fine = np.array([[0.0], [10.0]]), np.array([[-1.0], [1.0]])
        >>> rq = ResidualQuantizer.from_codebooks([coarse, fine])
        >>> rq.transform([[0.7], [9.2]]).tolist(), rq.bits_per_sample_
        ([[0, 1], [1, 0]], 2.0)
        """
        hook = inspect.signature(cls._from_tables).parameters
        beside = {name: parameters.pop(name) for name in hook if name in parameters}
        new = cls(**parameters)
        tables = check_codebooks(codebooks, columns=new._takes_columns())
        new._set_up(tables, backend_of_samples(new, codebooks[0]), beside)
        return new

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit(
        self, X: MatrixLike, y: Any = None, sample_weight: VectorLike | None = None
    ) -> Self:
        """Learn the codebooks, or set them up.

        If it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples; at least two, or one where nothing is learned from them.
            May be a memory map; or a Dask array, of known chunk lengths, whose rows
            stay where they are.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples, not negative; rows of weight zero play no part, and
            a factor that all weights have in common makes no difference.

        Returns
        -------
        self : object
            The fitted quantizer.
        """
        new, data = copy_to_fit(self, fitted=False), (X, y, sample_weight)
        if getattr(self, "warm_start", False) and self.__sklearn_is_fitted__():
            self._check_as_fitted()
            new._before_ = as_it_is_now(self)
        with one_warning(), new._computing():
            new._check_backend(backend_of_samples(new, X))
            fewest = new._fewest_rows()
            X = check_samples(new, X, reset=True, min_samples=fewest, finite=False)
            rows, new._weight_unit_ = new._rows_to_fit(X, sample_weight)
            task = fit_task(self, new, rows, data)
            run(new._learn(rows.under(task)))
        take_over(self, new)
        task.end(lambda: None)
        return self

    @available_unless(_reason_against_streams)
    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def partial_fit(
        self, X: MatrixLike, y: Any = None, sample_weight: VectorLike | None = None
    ) -> Self:
        """Learn from one batch of a stream.

        If it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The batch; one row suffices.  Each chunk of a Dask array is a batch, in
            their order: unlike those of other methods, the result depends on the
            chunks.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples, not negative; rows of weight zero play no part.
            They count beside those of other batches, in which samples without weights
            have weight one; a factor that all of them have in common makes no
            difference.

        Returns
        -------
        self : object
            The quantizer after this batch.
        """
        new = copy_to_fit(self, fitted=True)
        with one_warning(), new._computing():
            name = type(self).__name__
            for batch, weights in batches(name, X, sample_weight):
                new._take_batch(batch, weights)
        take_over(self, new)
        return self

    @available_unless(_reason_against_names)
    @in_own_context
    def rename_codes(self, names: Sequence[VectorLike | None] | NDArray[Any]) -> Self:
        """Rename codes by reordering the codewords of each column.

        The meaning of a code moves with its name, so that nothing else changes: the
        reconstruction of ``names[j][codes[:, j]]`` is that of `codes`, bit for bit.  If
        it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        names : sequence of array-like of shape (n_codewords,) or None
            For each column of codes, the new name of each code: a permutation of the
            numbers from 0 on, as `skvq.codes.match` returns it.  None leaves a column
            unchanged, and is required where codes are places in an order, such as
            levels.  Columns that share a table take the same names.

        Returns
        -------
        self : object
            The quantizer, with `codebooks_`, `code_counts_` and everything else that
            belongs to codewords in the new order.

        Raises
        ------
        ValueError
            If it is not such a sequence.
        AttributeError
            If codes are not names of rows of tables.

        Notes
        -----
        `transform` then returns the renamed codes, with two exceptions: samples that
        are equally near to several codewords get the lowest of the new numbers, and an
        `AdditiveQuantizer` of more than 4096 sums replaces codes at random in its
        search.

        Examples
        --------
        >>> from skvq import VectorQuantizer
        >>> vq = VectorQuantizer.from_codebooks([[[0.0], [1.0], [5.0]]])
        >>> vq.transform([[0.9], [4.0]]).ravel().tolist()
        [1, 2]
        >>> vq = vq.rename_codes([[0, 2, 1]])
        >>> vq.transform([[0.9], [4.0]]).ravel().tolist()
        [2, 1]
        """
        view = as_it_is_now(self)
        view._check_fitted()
        orders = check_names(names, view.codebook_sizes_)
        take_over(self, view._in_order_of(orders))
        return self

    @in_own_context
    def transform(self, X: MatrixLike) -> NDArray[Any]:
        """Encode samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; may be a memory map.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_codes)
            Codes, in the smallest unsigned dtype that holds the largest codebook's; for
            Dask collections a Dask array, computed on demand.  Codes are names, not
            quantities: a model that learns from quantized samples should take
            `QuantizedFeatures` instead.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "transform")
        if nearest.is_dask(X):
            return lazily(self, "transform", X)
        sizes = self.codebook_sizes_
        be = nearest.backend_of(X)
        dtype = be.code_dtype(smallest_dtype(max(sizes)))
        with self._computing(X):
            return be.gathered(X.shape[0], over_blocks(X, self._encode), dtype)

    @available_unless(_reason_against_best)
    @in_own_context
    def encode_best(
        self, X: MatrixLike, n_best: Size
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Encode each sample in several ways, the best first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; may be a memory map.
        n_best : int
            Number of codes per sample.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_found, n_codes)
            In the dtype of `transform`.  `n_found` is `n_best`, or the number of
            distinct codes if that is smaller.
        errors : ndarray of float64, shape (n_samples, n_found)
            Squared Euclidean distances of the samples from the reconstructions.

        Raises
        ------
        ValueError
            If `n_best` is not an integer of one or more, or X is not valid.
        AttributeError
            If the search finds only one code per sample.

        See Also
        --------
        skvq.codes.UniqueIds : Gives every sample one of these codes for itself.

        Notes
        -----
        The order is that of the search: by error; if bits have a price, by error and
        bits together; with `stage_weights`, by the weighted errors of all stages.  If
        codes are used evenly, the first code is that of `transform`, and the others are
        ordered by their errors alone: with prices, cheap sums would come before near
        ones.

        For one table, and for products of tables, the codes are the best that exist,
        and the first is that of `transform`, up to rounding.  For residuals they are
        what a beam of ``max(beam_size, n_best)`` sums finds, and the first is what
        `transform` returns with a beam of that size: usually a better code than with
        `beam_size`, and the same if `n_best` does not exceed it.  If all stages share a
        table, sums that differ only in the order of their codes have the same codes,
        which may then occur several times.

        Extra memory is proportional to the result plus a block of samples.

        Examples
        --------
        >>> import numpy as np
        >>> from skvq import ResidualQuantizer
        >>> coarse, fine = np.array([[0.0], [10.0]]), np.array([[-1.0], [1.0]])
        >>> rq = ResidualQuantizer.from_codebooks([coarse, fine])
        >>> codes, errors = rq.encode_best([[2.0]], 3)
        >>> codes.tolist(), errors.tolist()
        ([[[0, 1], [0, 0], [1, 0]]], [[1.0, 9.0, 49.0]])
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "encode_best")
        n_best = check_count("n_best", n_best)
        n_best = min(n_best, math.prod(self.codebook_sizes_))
        charges = self._charges()
        is_even = any(isinstance(one, Prices) for one in charges)
        unpriced = self._with_charges(of_bits(charges)) if is_even else self

        def work(x: Any) -> tuple[Any, Any]:
            codes = unpriced._encode_best(x, n_best)
            if is_even:
                codes = _first_of_all(self._encode(x), codes)
            return codes, self._errors_of(x, codes)

        be = nearest.backend_of(X)
        dtype = be.code_dtype(smallest_dtype(max(self.codebook_sizes_)))
        with self._computing(X):
            parts = list(over_blocks(X, work, n_best))
        codes = ((rows, one) for rows, (one, _) in parts)
        errors = ((rows, one) for rows, (_, one) in parts)
        return be.gathered(X.shape[0], codes, dtype), be.gathered(X.shape[0], errors)

    @in_own_context
    def inverse_transform(self, codes: MatrixLike) -> NDArray[Any]:
        """Decode codes.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes as `transform` returns them; integral floats and dataframes are
            accepted.  Arrays of libraries other than NumPy follow the rule of
            `transform`.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The reconstructions, in the library and on the device of the tables.

        Raises
        ------
        ValueError
            If a code is not an integer in the range of its column, or if the codes are
            of a library that is neither NumPy nor that of the tables.
        """
        self = as_it_is_now(self)
        self._check_fitted()
        if nearest.is_dask(codes):
            codes = check_lazy_codes(self, codes, self._decodable_widths())
            return lazily(self, "inverse_transform", codes)
        return self._decode(self._check_codes(codes, "inverse_transform"))

    @in_own_context
    def quantize(self, X: MatrixLike) -> NDArray[Any]:
        """Encode and decode in one pass.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The same as ``inverse_transform(transform(X))``; in the container that
            `set_output` chose for `transform`, with the names of the features of X
            (x0, x1, ..., if it had none) and its index.
        """
        self = as_it_is_now(self)
        found = self._reconstructions(X)
        if nearest.is_dask(X):
            check_container(self)
            return found
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"x{j}" for j in range(self.n_features_in_)]
        return in_output_container(self, found, X, names)

    def _reconstructions(self, X: Any) -> Any:
        """Return what `quantize` does, as an array."""
        X = self._check_input(X, "quantize")
        if nearest.is_dask(X):
            return lazily(self, "quantize", X)
        with self._computing(X):
            blocks = over_blocks(X, self._quantize)
            return nearest.backend_of(X).gathered(X.shape[0], blocks)

    @in_own_context
    def score(
        self, X: MatrixLike, y: Any = None, sample_weight: VectorLike | None = None
    ) -> float:
        """Return minus the mean distance of samples from their reconstructions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.

        Returns
        -------
        score : float
            The squared Euclidean distance summed over features and averaged over
            samples, negated; higher is better.  `VectorQuantizer` uses its own metric.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "score")
        if nearest.is_dask(X):
            rows, _ = dask_rows(X, sample_weight)
        else:
            rows = Rows(X, check_weights(sample_weight, X))
        with self._computing(X):
            return -run(mean_distortion(rows, self))

    @in_own_context
    def full_codebook(self, *, max_size: Size = 2**20) -> NDArray[Any]:
        """Build the single table that the scheme is equivalent to.

        Parameters
        ----------
        max_size : int, default=2**20
            The largest number of codewords to build.

        Returns
        -------
        codebook : ndarray of shape (prod V_j, n_features)
            Row ``token_ids(codes)`` is the reconstruction of `codes`.

        Raises
        ------
        ValueError
            If there are more than `max_size` codewords.
        """
        self = as_it_is_now(self)
        self._check_fitted()
        max_size = check_count("max_size", max_size, largest=None)
        size = 1
        for n_codewords in self.codebook_sizes_:
            size *= int(n_codewords)
        if size > max_size:
            raise ValueError(
                f"The full codebook of {type(self).__name__} has {size} codewords, "
                f"more than max_size={max_size}."
            )
        codes = from_token_ids(np.arange(size), self.codebook_sizes_)
        return self._decode(self._home_.like(codes.astype(np.intp)))

    # -- fitted attributes derived from the tables ---------------------------------

    @property
    def codebooks_(self) -> tuple[np.ndarray, ...]:
        """Tables W_1..W_m in the order of the code columns."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(
                f"{type(self).__name__} is not fitted: it has no codebooks_ yet."
            )
        why = self._why_no_codebooks()
        if why is not None:
            raise AttributeError(f"{type(self).__name__} has no codebooks_: {why}")
        # Tables of formulas are computed at each access.
        return tuple(
            (table if isinstance(table, nearest.Table) else nearest.Table(table)).on(
                self._home_
            )
            for table in self._codebooks()
        )

    @property
    def code_lengths_(self) -> tuple[np.ndarray, ...]:
        """Bits that the search counts for each code; zeros if they have no price."""
        charges = of_bits(self._charges()) if self.__sklearn_is_fitted__() else []
        if all(charge is None for charge in charges):
            raise AttributeError(
                f"{type(self).__name__} has no code_lengths_: its search does not "
                "weigh bits, as it does where it was fitted with a rate_weight."
            )
        return tuple(
            self._home_.like(np.zeros(size) if charge is None else charge.bits.copy())
            for charge, size in zip(charges, self.codebook_sizes_, strict=True)
        )

    @property
    def prices_(self) -> tuple[np.ndarray, ...]:
        """Squared distance that the search adds for each code, to use codes evenly."""
        charges = self._charges() if self.__sklearn_is_fitted__() else ()
        if not any(isinstance(charge, Prices) for charge in charges):
            raise AttributeError(
                f"{type(self).__name__} has no prices_: its search does not use codes "
                "evenly, as it does where it was fitted with balance=True."
            )
        return tuple(
            self._home_.like(
                charge.bias.copy() if isinstance(charge, Prices) else np.zeros(size)
            )
            for charge, size in zip(charges, self.codebook_sizes_, strict=True)
        )

    @property
    def bits_per_sample_(self) -> float:
        """Sum of log2 V_j over the code columns."""
        return float(np.log2(np.asarray(self.codebook_sizes_, dtype=float)).sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.codebook_sizes_)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether `fit` has completed."""
        return "codebook_sizes_" in vars(self)

    # Hidden from type checkers, to which every attribute would be there.
    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raise the error that says what to write, of names that are not there."""
            cls = type(self)
            if not name.startswith("_"):  # nobody is told of private names
                # What the class has, but has raised an error of its own, says why.
                line = None if hasattr(cls, name) else line_to_write(cls, name)
                if line is not None:
                    raise AttributeError(line, name=name, obj=self)
            try:
                # Python's own error, or that of the property.
                return object.__getattribute__(self, name)
            except AttributeError as error:
                # A property may have asked for another attribute, which fit sets.
                its_own = hasattr(cls, name) and error.name in (name, None)
                if its_own or name.startswith("_") or self.__sklearn_is_fitted__():
                    raise
                if not is_set_by_fit(cls, name):
                    raise
            raise AttributeError(
                f"{cls.__name__!r} object has no attribute {name!r}: call fit first, "
                "which sets it.",
                name=name,
                obj=self,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.array_api_support = self._follows_namespace
        return tags

    # -- pickling ------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_skvq_version": __version__}
        for name in (*self._made_anew, *OF_A_RUNNING_FIT):
            state.pop(name, None)
        if "_home_" in state:
            # Parts are estimators and pickle themselves.
            state = {name: _with_arrays(v, to_host) for name, v in state.items()}
            state["_home_"] = self._home_.name
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skvq_version", None)
        if not isinstance(version, str) or not re.match(r"\d", version):
            raise pickle.UnpicklingError(
                f"This {type(self).__name__} has _skvq_version={version!r}, where a "
                "pickle of skvq has the version that wrote it: fit it again."
            )
        if version != __version__:
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=f"skvq {__version__}",
                    original_sklearn_version=f"skvq {version}",
                ),
                stacklevel=2,
            )
        state = with_new_names(type(self), state)
        # Parameters that were added after the pickle was written.
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name not in vars(self):
                state.setdefault(name, parameter.default)
        # If the library cannot be imported or has no device, arrays stay NumPy's.
        be = nearest.default_backend(state.pop("_home_", "numpy"))
        super().__setstate__(state)
        if be is not None and be is not nearest.HOST:
            self._assign({}, be)

    # -- shared by the public methods ----------------------------------------------

    def _rows_to_fit(self, X: Any, sample_weight: Any) -> tuple[Rows, WeightUnit]:
        """Return valid rows, and the unit of their weights."""
        if nearest.is_dask(X):
            why = self._needs_rows_in_memory()
            if why is not None:
                raise ValueError(f"{type(self).__name__}: {why}")
            return dask_rows(X, sample_weight)
        weights, unit = weights_in_units(
            X, sample_weight, stream=self._can_partial_fit()
        )
        # All rows, even those of weight zero, are checked before any is used.
        with np.errstate(over="ignore"):
            run(check_finite(X))
        return Rows(X, weights), unit

    def _take_batch(self, X: Any, sample_weight: Any) -> None:
        """Learn from one batch of a stream, given by the user."""
        first = not self.__sklearn_is_fitted__()
        if not first:
            self._check_as_fitted()
            check_same_library(self, backend_of_samples(self, X), "partial_fit")
        self._check_backend(backend_of_samples(self, X))
        X = check_samples(self, X, reset=first)
        weights, self._weight_unit_ = weights_in_units(
            X,
            sample_weight,
            unit=None if first else getattr(self, "_weight_unit_", ONE),
            stream=True,
        )
        self._learn_batch(X, weights)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            check_is_fitted(self)  # raises; it is too slow to call every time
        self._check_as_fitted()

    def _check_input(self, X: Any, method: str) -> np.ndarray:
        """Check in order: fitted, then the library of X, then X itself."""
        self._check_fitted()
        be = backend_of_samples(self, X)
        check_same_library(self, be, method)
        self._check_backend(be)
        if nearest.is_dask(X) and method not in _OF_COLLECTIONS:
            raise TypeError(
                f"{type(self).__name__}.{method} takes no Dask collections: apply it "
                "to the chunks with dask.array.map_blocks."
            )
        return check_samples(self, X, reset=False)

    def _check_codes(
        self, codes: Any, method: str, widths: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Check that it is fitted; return valid codes where the tables are.

        Codes on the host, which come from files, are sent there.
        """
        self._check_fitted()
        be = backend_of_samples(self, codes)
        if be is not nearest.HOST:
            check_same_library(self, be, method, "codes")
        if widths is None:
            widths = self._decodable_widths()
        codes = check_codes(self, codes, self.codebook_sizes_, widths)
        return self._home_.like(codes)

    def _quantize(self, X: Any) -> Any:
        return self._decode(as_indices(self._encode(X)))

    def _errors_of(self, X: Any, codes: Any) -> Any:
        """Return squared distances (n_samples, n_sums) from decoded codes."""
        n, n_sums, n_codes = codes.shape
        decoded = self._decode(as_indices(reshape(codes, (n * n_sums, n_codes))))
        found = nearest.paired(repeat(X, n_sums, axis=0), decoded)
        return reshape(found, (n, n_sums))

    def _learn(self, rows: Rows) -> Learner[None]:
        """Fit this estimator, a copy or a part, to valid rows."""
        began = time.perf_counter()
        plain_parameters(self)
        self.n_features_in_ = rows.n_features
        if self._before_ is not None:
            check_as_before("class", type(self).__name__, type(self._before_).__name__)
            then = self._before_.n_features_in_
            check_as_before("n_features", rows.n_features, then)
        found = yield from self._fit(rows)
        self._assign(found, rows.be)
        yield from self._measure(rows, found)
        self.__dict__.pop("_before_", None)
        _log(
            "%s: fitted on %d x %d in %.2f s, %g bits, distortion %.6g",
            type(self).__name__,
            rows.n_rows,
            rows.n_features,
            time.perf_counter() - began,
            self.bits_per_sample_,
            self.distortion_,
        )

    def _set_up(
        self,
        tables: Any,
        be: nearest.Backend = nearest.HOST,
        beside: dict[str, Any] | None = None,
    ) -> None:
        """Set this estimator, new or a part, to given tables."""
        self._validate_params()
        found = self._from_tables(tables, **(beside or {}))
        self._assign({"distortion_": np.nan, **found}, be)
        self.code_counts_ = rates.no_counts(self.codebook_sizes_)

    def _in_order_of(self, orders: Sequence[np.ndarray | None]) -> Self:
        """Return a fitted copy with renamed codes, given the new order of rows."""
        copy = copy_to_fit(self, fitted=True)
        if all(order is None for order in orders):
            return copy
        why = self._why_no_names()
        if why is not None:
            raise ValueError(
                f"Codes of {type(self).__name__} cannot be renamed: {why} Expected "
                "None as the names of its columns."
            )
        copy._assign(copy._renamed(orders), self._home_)
        copy.code_counts_ = rates.reordered(self.code_counts_, orders)
        return copy

    def _imply(self, **sizes: Any) -> None:
        """Set parameters that given tables imply; raise if they were set otherwise."""
        defaults = inspect.signature(type(self)).parameters
        for name, value in sizes.items():
            given = getattr(self, name)
            if given is not defaults[name].default and not _agree(given, value):
                raise ValueError(
                    f"{name}={given!r}, but the given codebooks tell {name}={value!r}."
                )
            setattr(self, name, value)

    def _learn_batch(self, X: Any, weights: Any) -> None:
        """Fit this estimator to one more batch of a stream."""
        plain_parameters(self)
        self.n_features_in_ = X.shape[1]
        X, weights = drop_zero_weights(_to_compute_in(X), weights)
        before = getattr(self, "code_counts_", None)
        found = self._partial_fit(X, weights)
        self._assign(found, nearest.backend_of(X))
        run(self._measure(Rows(X, weights), found, stream=True))
        if before is not None:
            self.code_counts_ = rates.added(before, self.code_counts_)

    def _measure(
        self, rows: Rows, found: dict[str, Any], stream: bool = False
    ) -> Learner[None]:
        """Measure the distortion and the code counts, if the learner has not.

        Both take one pass.  Weights of a stream keep its unit.
        """
        distances, counts = "distortion_" not in found, "code_counts_" not in found
        if not distances and not counts:
            return
        columns = rates.counted_columns(self.codebook_sizes_) if counts else []
        summed, weight, *counted = yield rows.fold(measures, self, distances, columns)
        if distances:
            self.distortion_ = float(summed / weight)
        if counts:
            n_rows = float(weight) if stream else rows.n_rows
            self.code_counts_ = rates.in_mean_weights(
                counted, weight, n_rows, self.codebook_sizes_
            )

    def _assign(self, found: dict[str, Any], be: nearest.Backend) -> None:
        """Set fitted attributes; those that users see go to where X is."""
        self.__dict__.update(found)
        if be is not nearest.HOST or self._home_ is not nearest.HOST:
            self._home_ = be
            for name, value in list(vars(self).items()):
                seen = name.endswith("_") and not name.startswith("_")
                if seen and name not in _ON_THE_HOST:
                    setattr(self, name, _with_arrays(value, be.like))

    def _check_backend(self, be: nearest.Backend) -> None:
        # Arrays of libraries that are not followed become NumPy's, always accepted.
        nearest.check_backend(getattr(self, "backend", "auto"), be)

    def _computing(self, X: Any = None) -> AbstractContextManager[Any]:
        """Return a context in which the engine computes in this estimator's backend.

        The total work on rows of the host decides whether they go to a device, even
        though they are coded block by block.
        """
        backend = getattr(self, "backend", "auto")
        if not (X is None or nearest.is_dask(X)) and hasattr(self, "backend"):
            backend = nearest.settle(backend, X, X.shape[1] * max(self.codebook_sizes_))
        return nearest.using(backend)

    # The backend of the X given to `fit`.
    _home_: nearest.Backend = nearest.HOST
    # During a warm start, the estimator fitted before, whose tables are the start.
    _before_: Any = None


def _first_of_all(own: Any, codes: Any) -> Any:
    """Put codes (n, n_codes) before others (n, n_found, n_codes).

    Drop the same codes from the others, or the last of them if they are not there.
    """
    be = nearest.backend_of(codes)
    own = reshape(in_dtype(own, be.numpy_dtype(codes)), (codes.shape[0], 1, -1))
    differs = be.xp.any(codes != own, axis=2)
    moved = take_along(codes, stable_order(be.cast(differs, np.float32)))
    is_new = be.xp.all(differs, axis=1)[:, None, None]
    return be.xp.where(is_new, join([own, codes[:, :-1, :]], axis=1), moved)


def _log(message: str, *arguments: object) -> None:
    """Log that a fit is done; errors of handlers do not undo it."""
    try:
        logger.info(message, *arguments)
    except Exception:
        # Handlers of the standard library report their errors in this way, too.
        record = logging.makeLogRecord({"msg": message, "args": arguments})
        logging.Handler().handleError(record)


QUANTIZER = Accepted(
    lambda value: isinstance(value, BaseQuantizer),
    "an instance of a quantizer of skvq (the steps of a pipeline go in front of the "
    "whole, or into a transform that is a quantizer)",
)


def _to_compute_in(X: Any) -> Any:
    """Return all of X in the dtype to compute in."""
    be = nearest.backend_of(X)
    return be.contiguous(be.cast(X, nearest.compute_dtype(be.numpy_dtype(X))))


def check_as_before(name: str, now: Any, then: Any) -> None:
    """Raise if a parameter that a warm start cannot change has changed."""
    if now != then:
        raise ValueError(
            f"warm_start=True goes on from a fit with {name}={then}, but it is now "
            f"{now}: expected the same, or warm_start=False."
        )


def reordered_once(
    kept: Sequence[Any], orders: Sequence[Any], reorder: Callable[[Any, Any], Any]
) -> list[Any]:
    """Return ``reorder(one, order)`` for each; a shared object is reordered once.

    Raises
    ------
    ValueError
        If a shared object is to get several orders.
    """
    found: dict[int, tuple[Any, ...]] = {}
    for j, (one, order) in enumerate(zip(kept, orders, strict=True)):
        if id(one) not in found:
            found[id(one)] = order, reorder(one, order)
        elif not _are_alike(found[id(one)][0], order):
            raise ValueError(
                f"names differ for columns of a table that is shared, of which that of "
                f"place {j} is one; expected the same for all of them."
            )
    return [found[id(one)][1] for one in kept]


def _are_alike(a: Any, b: Any) -> bool:
    """Return whether two orders, or lists of orders, are equal."""
    if isinstance(a, list):
        return all(map(_are_alike, a, b))
    return (a is None) == (b is None) and np.array_equal(a, b)


def reordered_table(table: nearest.Table, order: np.ndarray | None) -> nearest.Table:
    """Return a table with reordered rows; itself if the order is None."""
    return table if order is None else nearest.Table(table.codewords[order])


def _with_arrays(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to an array, or to the arrays of a tuple or a list."""
    if nearest.is_array(value):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_with_arrays(item, function) for item in value)
    return value


def _agree(given: Any, value: Any) -> bool:
    """Return whether a parameter, one value or one for each, agrees with values."""
    try:
        return bool(np.all(np.asarray(given) == np.asarray(value)))
    except ValueError:
        return False


def mean_distortion(rows: Rows, quantizer: BaseQuantizer) -> Learner[float]:
    """Return the weighted mean distance of rows from their reconstructions."""
    summed, weight = yield rows.fold(measures, quantizer, True, [])
    return float(summed / weight)


def measures(
    block: Block, quantizer: BaseQuantizer, distances: bool, columns: Sequence[int]
) -> tuple[Any, ...]:
    """Return summed distances, the weight, and the weight of each code by column.

    Parameters
    ----------
    block : Block
        Rows.
    quantizer : quantizer
        Has the attributes that its hooks need.
    distances : bool
        Whether distances are wanted; if not, their sum is zero.
    columns : sequence of int
        The columns of codes to count.
    """
    counted = [np.zeros(quantizer.codebook_sizes_[j]) for j in columns]
    weights = block.host_weights()

    def work(x: Any) -> tuple[Any, Any]:
        codes, found = quantizer._encode(x), None
        if distances:
            decoded = quantizer._decode(as_indices(codes))
            found = nearest.paired(x, decoded, quantizer._score_metric)
        return found, to_host(codes) if columns else None

    summed = 0.0
    for rows, (found, codes) in over_blocks(block.x, work):
        w = None if block.w is None else block.w[rows]
        if distances:
            summed += block.be.total(found, w)
        rates.count_into(counted, columns, codes, None if w is None else weights[rows])
    return np.array(summed), weights.sum(), *counted


def over_blocks(
    X: Any, work: Callable[[Any], Any], times: int = 1
) -> Iterator[tuple[slice, Any]]:
    """Yield rows, and ``work(block)`` of them, for row blocks of bounded size.

    Blocks are in the dtype to compute in, and shorter if the work holds several vectors
    per row.  The work may be repeated for rows that ran out of memory on their device.
    """

    def tile(rows: slice) -> tuple[slice, Any]:
        return rows, work(_to_compute_in(X[rows, :]))

    # Blocks are larger than the tiles in which the work is done.
    size = _TILES_PER_BLOCK * (_ON_DEVICE if nearest.goes_to_device() else 1)
    per_row = X.shape[1] * times / size
    yield from nearest.backend_of(X).tiles(X.shape[0], per_row, tile)
