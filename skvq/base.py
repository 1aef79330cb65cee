"""The contract of every quantizer, stated once.

The public methods live here and only here, those of searches among codes in
`skvq._sums`: they check that the estimator is fitted, validate at the border, cut the
rows in blocks and call the hooks of the scheme.

========================  ==========================================================
hook                      what a scheme does in it
========================  ==========================================================
``_fit(rows)``            a learner: it yields what it asks of the rows (see
                          `skvq.learning.rows`) and returns the fitted attributes, by
                          their names; `distortion_` and `code_counts_` are measured
                          if they are not there
``_encode(X)``            codes (n_samples, n_codes) of a block of rows
``_decode(codes)``        reconstruction (n_samples, n_features) of a block of codes
``_codebooks()``          W_1..W_m, in the order of the code columns
``_from_tables(tables)``  for given W_1..W_m, fitted attributes as `_fit` returns them;
                          parameters that follow from the tables are set
``_entries(X, metric)``   what each code adds to distances, if its reconstruction is a
                          sum of what codes stand for (see `SumsOfCodes`)
``_encode_best(X, n)``    codes (n_samples, n_found, n_codes) of the n best, best first,
                          if the search can (``_can_encode_best()``)
``_charges()``            what the search adds for codes, where bits have a price or
                          codes are used evenly; with ``_code_costs()``, which of the
                          two it will add
``_slice_widths(n)``      widths of slices of n features that are coded apart
``_ranges()``             of scalar schemes, beyond what values are out of range
``_why_no_codebooks()``   why there are no tables by code, if there are none
``_n_tasks()``            how many tasks the learner begins at most, of which callbacks
                          are told (see `skvq.learning.tasks`)
``_renamed(orders)``      fitted attributes whose rows are in another order, where codes
                          are names of rows (``_why_no_names``)
========================  ==========================================================

Hooks get finite floating numbers of the right width and never validate.  Weights of a
stream have mean one over its first batch, and are in the same unit ever after; of other
weights nothing but the ratios may count.  Fitted attributes, private ones too, end in
an underscore: that is how they are told from the others.

Codes, reconstructions and public fitted attributes are arrays of the library of X, on
its device.  The hooks of a scheme that says so in `_follows_namespace` meet such
arrays.  What they keep is NumPy's: tables know what they are on a device
(`nearest.Table`), and arrays that users see are sent there here.  Other schemes get
what NumPy makes of X.
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
from skvq._elsewhere import is_set_by_fit, line_to_write
from skvq._given import check_codebooks
from skvq._match import check_names
from skvq._sums import SumsOfCodes
from skvq._typing import Matrices, MatrixLike, Request, Size, VectorLike
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

# Silent until the user configures logging.  Parts log their own fits, so that a nesting
# scheme tells how far it is.
logger: logging.Logger = logging.getLogger("skvq")

# A block is so many tiles, which bounds the memory of conversions and of hooks; of rows
# that go to a device so many times more: several chunks of the engine, so that one can
# be copied while another is computed.
_TILES_PER_BLOCK = 8
_ON_DEVICE = 64

# Fitted attributes that stay where the coder of their entropy is.
_ON_THE_HOST = ("code_counts_",)

# What is asked of Dask's collections, beside fits.
_OF_COLLECTIONS = ("transform", "quantize", "score")

# The first version whose pickles are laid out as these are.
_FIRST_READ = (0, 2)


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
    """Base class of all quantizers: x is replaced by its code, and the code by W_code.

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
        How often each code of a column is that of a training sample, (V_j,) in float64,
        in units of the mean weight; NumPy's always, since it is what an entropy coder
        is made of (`skvq.codes.EntropyCoder`).  Of a stream, each batch is coded after
        it was learned from, and counts add up.  Zeros where tables were given.  None
        of columns with more than 2^16 codewords; of all, if the others have more than
        2^20 together.
    n_features_in_ : int
        Number of features seen in `fit`.
    """

    codebook_sizes_: tuple[int, ...]
    distortion_: float
    code_counts_: tuple[NDArray[np.float64] | None, ...]
    n_features_in_: int
    # If the samples of `fit` have named their features.
    feature_names_in_: NDArray[Any]

    # Whether the hooks take arrays of any library.
    _follows_namespace = False
    # Fitted attributes that follow from others, and are not pickled.
    _made_anew: tuple[str, ...] = ()

    if TYPE_CHECKING:
        # scikit-learn makes these, of the parameters that the methods have.
        def set_fit_request(self, *, sample_weight: Request) -> Self:
            """Choose whether `fit` gets the weights that are routed."""
            ...

        def set_partial_fit_request(self, *, sample_weight: Request) -> Self:
            """Choose whether `partial_fit` gets the weights that are routed."""
            ...

        def set_score_request(self, *, sample_weight: Request) -> Self:
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
        """Learn from rows; return the fitted attributes, by their names."""

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
        """Learn from one batch more; return the fitted attributes that change."""
        raise AssertionError("guarded by _can_partial_fit")  # pragma: no cover

    def _can_partial_fit(self) -> bool:
        return False

    def _why_no_partial_fit(self) -> str:
        return "the scheme does not learn from a stream."

    def _fewest_rows(self) -> int:
        """Return how many rows `fit` needs: one, if it learns nothing from them."""
        return 2

    def _needs_rows_in_memory(self) -> str | None:
        """Return why a Dask array is not learned from; None: it is."""
        return None

    def _given_size(self) -> int | None:
        """Return V if a parameter gives the table that stays as it is."""
        return None

    def _check_as_fitted(self) -> None:
        """Raise if fitted attributes do not go together, since some were replaced."""

    def _why_no_names(self) -> str | None:
        """Return why codes cannot be renamed; None: they are names of rows."""
        return "its codes are places in an order or a formula, not names of rows."

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        """Return the fitted attributes that change where codes get other names.

        Of each column the rows in their new order; None: as they are.
        """
        raise AssertionError("guarded by _why_no_names")  # pragma: no cover

    def _table_elements(self, n_features: int) -> int:
        """Return how many numbers its tables hold, if they are many."""
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

    # What a scheme that takes this one as a part may ask of it.

    def _searched_table(self) -> nearest.Table | None:
        """Return the one table whose nearest row, by squares, is the code.

        What `_charges` says is added to the squares.
        """
        return None

    def _code_costs(self) -> frozenset[str]:
        """Return what its search adds for codes, with these parameters.

        By the names that `from_codebooks` has for it: "code_lengths" where it weighs
        bits against errors, "prices" where it uses codes evenly.
        """
        return frozenset()

    def _charges(self) -> Charges:
        """Return what the search adds for the codes of each column."""
        return (None,) * len(self.codebook_sizes_)

    def _with_charges(self, charges: Charges) -> Self:
        """Return a fitted copy whose search adds something else for codes."""
        raise AssertionError("guarded by _can_encode_best")  # pragma: no cover

    def _can_encode_best(self) -> bool:
        """Whether `_encode_best` is there, with these parameters."""
        return False

    def _encode_best(self, X: np.ndarray, n_best: int) -> np.ndarray:
        """Return codes (n_samples, n_found, n_codes) of the best sums, best first."""
        raise AssertionError("guarded by _can_encode_best")  # pragma: no cover

    def _has_free_tables(self) -> bool:
        """Whether any other table would do in place of each, with these parameters."""
        return False

    def _free_tables(self) -> list[tuple[slice, np.ndarray]]:
        """Return each table with its columns of X, in the order of the code columns."""
        raise AssertionError("guarded by _has_free_tables")  # pragma: no cover

    def _with_tables(self, tables: list[np.ndarray]) -> Self:
        """Return a fitted copy with other tables in place of `_free_tables`."""
        raise AssertionError("guarded by _has_free_tables")  # pragma: no cover

    def _slice_widths(self, n_features: int) -> list[int] | None:
        """Return the widths of slices that are coded apart; None: there are none."""
        return None

    def _alignments(self, X: np.ndarray) -> np.ndarray | None:
        """Return the cosines (n_samples,) of rows and what their codes stand for.

        None: its codes have no scale that makes inner products unbiased.
        """
        return None

    def _ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ends of the range of each feature; None: it has none.

        They are (n_features,) each, in float64.
        """
        return None

    # What is to be known of tables that are brought along.

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        """Return fitted attributes for given tables; set parameters that follow.

        What a scheme has beside tables is a keyword of its own.
        """
        raise AttributeError(
            f"{type(self).__name__} has no from_codebooks: its codebook is a formula "
            "of its parameters, which `fit` sets up."
        )

    def _n_tables(self) -> int | None:
        """Return how many tables it has, before it is fitted; None: one a feature."""
        return None

    def _takes_columns(self) -> bool:
        """Whether what is given in place of tables may be levels, (n_levels,)."""
        return False

    def _why_no_codebooks(self) -> str | None:
        """Return why there are no tables by code; None: there are."""
        return None

    # -- public methods ------------------------------------------------------------

    @classmethod
    def from_codebooks(cls, codebooks: Matrices, **parameters: Any) -> Self:
        """Return a quantizer that is fitted: its codebooks are given, not learned.

        Parameters
        ----------
        codebooks : sequence of array-likes of shape (n_codewords, n_features)
            The tables W_1..W_m, in the order of the code columns; also for one a
            sequence.  They give the number of features, and the dtype of
            reconstructions.  One that comes several times, as the same object, is one
            table that is shared.
        **parameters : dict
            Parameters of the class.  Sizes follow from the tables.  And, by name, what
            some schemes have beside tables: see the notes.

        Returns
        -------
        quantizer : object
            As if `fit` had found these tables.  `distortion_` is NaN: there were no
            samples to measure it on.

        Raises
        ------
        ValueError
            If the tables do not fit each other, or the parameters.
        AttributeError
            If the scheme has no tables.

        Notes
        -----
        ``cls.from_codebooks(other.codebooks_, **other.get_params(deep=False))`` gives
        the codes of `other`.  Beyond tables, `VectorQuantizer` takes the running
        `counts` and `sums` of a stream, `MultiScaleQuantizer` the `kernels` and
        `biases` of its convolutions, `RotatedQuantizer` the `mean` of its rows, and
        schemes with a `rate_weight` the `code_lengths`, and those with `balance` the
        `prices`, which are the `code_lengths_` and `prices_` of a fitted quantizer.

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
        """Give codes other names: put the codewords of each column in another order.

        What a code stands for goes with its name, so that nothing else changes: the
        reconstruction of ``names[j][codes[:, j]]`` is that of `codes`, bit for bit.  If
        it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        names : sequence of array-like of shape (n_codewords,) or None
            For each column of codes, the new name of each code, every number from 0 on
            once; what `skvq.codes.match` returns.  None: as they are, as codes have to
            stay that are places in an order, such as levels.  Columns of one table that
            is shared take the same names.

        Returns
        -------
        self : object
            The quantizer, with `codebooks_`, `code_counts_` and all that is kept of
            each codeword in the new order.

        Raises
        ------
        ValueError
            If it is no such sequence.
        AttributeError
            If codes are no names of rows of tables.

        Notes
        -----
        `transform` then gives the renamed codes.  Exceptions are samples as near to one
        codeword as to another, whose code is the lowest of these numbers, and an
        `AdditiveQuantizer` of more than 4096 sums, whose search replaces codes by
        random numbers.

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
            Codes in the smallest unsigned dtype that holds the largest codebook's; of
            Dask's collections a Dask array, which is computed when it is asked for.
            They are names, not quantities: a model that is to learn from them takes
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
        """Encode samples in several ways each, the best first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; may be a memory map.
        n_best : int
            How many codes of each sample are asked for.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_found, n_codes)
            In the dtype of `transform`.  `n_found` is `n_best`, or the number of
            distinct codes there are, if that is less.
        errors : ndarray of float64, shape (n_samples, n_found)
            Squared Euclidean distances of the samples from what the codes stand for.

        Raises
        ------
        ValueError
            If `n_best` is no integer of one or more, or X not valid.
        AttributeError
            If the search finds one code for a sample.

        See Also
        --------
        skvq.codes.UniqueIds : Gives every sample a code of its own among these.

        Notes
        -----
        The order is that of the search: by errors; where bits have a price, by errors
        and bits together; with `stage_weights`, by the weighted errors of all stages.
        Where codes are used evenly, the first is that of `transform`, and the others
        are in the order of their errors: prices are for the best code alone, and sums
        that are cheap would come before those that are near.

        Codes of one table, and of products of tables, are the best there are,
        and the first is that of `transform`, up to rounding.  Those of residuals are
        what a beam of ``max(beam_size, n_best)`` sums finds, and the first is what
        `transform` gives with a beam of so many: usually better than with one of
        `beam_size`, and the same where `n_best` is not above it.  With one table for
        all stages, sums that differ in the order of their codes alone have the same
        codes, which come several times then.

        Extra memory is in proportion to what is returned, and to a block of samples.

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
            Codes as `transform` gives them; integral floats and dataframes will do.
            Arrays of another library than NumPy follow the rule of `transform`.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The reconstructions, where the tables are.

        Raises
        ------
        ValueError
            If a code is not an integer in the range of its column; if the codes are of
            another library than NumPy, and of another one than the tables.
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
    def full_codebook(self, max_size: Size = 2**20) -> NDArray[Any]:
        """Build the one table that the scheme stands for.

        Parameters
        ----------
        max_size : int, default=2**20
            The largest number of codewords to build.

        Returns
        -------
        codebook : ndarray of shape (prod V_j, n_features)
            Row `token_ids(codes)` is the reconstruction of `codes`.

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

    # -- fitted attributes that follow from the tables -----------------------------

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
        # Those that follow from a few numbers are made anew.
        return tuple(
            (table if isinstance(table, nearest.Table) else nearest.Table(table)).on(
                self._home_
            )
            for table in self._codebooks()
        )

    @property
    def code_lengths_(self) -> tuple[np.ndarray, ...]:
        """Bits that the search counts for each code; zeros where they have no price."""
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
        """Whether `fit` has run to its end."""
        return "codebook_sizes_" in vars(self)

    # Hidden from type checkers, to which every attribute would be there.
    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raise the error that says what to write, of names that are not there."""
            cls, line = type(self), None
            if not name.startswith("_"):  # nobody is told of those
                line = line_to_write(cls, name)
                if line is None and not self.__sklearn_is_fitted__():
                    if is_set_by_fit(cls, name) and not hasattr(cls, name):
                        line = (
                            f"{cls.__name__!r} object has no attribute {name!r}: call "
                            "fit first, which sets it."
                        )
            if line is None:
                # Python's own error, or that of a property which has raised one.
                return object.__getattribute__(self, name)
            raise AttributeError(line, name=name, obj=self)

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
            # Parts are estimators, and see to themselves.
            state = {name: _with_arrays(v, to_host) for name, v in state.items()}
            state["_home_"] = self._home_.name
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skvq_version", "unknown")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < _FIRST_READ:
            raise pickle.UnpicklingError(
                f"This {type(self).__name__} was pickled by skvq {version}, whose "
                f"fitted attributes are not those of skvq {__version__}: fit it again, "
                f"or save it with skvq {version} and skvq.io.save_codec, and load that "
                "file with skvq.load(path, allow_pickle=True), which converts it."
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
        # Parameters that are newer than the pickle.
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name not in vars(self):
                state.setdefault(name, parameter.default)
        # If the library cannot be imported, or has no device, arrays stay NumPy's.
        be = nearest.default_backend(state.pop("_home_", "numpy"))
        super().__setstate__(state)
        if be is not None and be is not nearest.HOST:
            self._assign({}, be)

    # -- what the public methods share ---------------------------------------------

    def _rows_to_fit(self, X: Any, sample_weight: Any) -> tuple[Rows, WeightUnit]:
        """Return valid rows, and what counts as one of their weights."""
        if nearest.is_dask(X):
            why = self._needs_rows_in_memory()
            if why is not None:
                raise ValueError(f"{type(self).__name__}: {why}")
            return dask_rows(X, sample_weight)
        weights, unit = weights_in_units(
            X, sample_weight, stream=self._can_partial_fit()
        )
        # All rows, those of weight zero too, before any is used.
        with np.errstate(over="ignore"):
            run(check_finite(X))
        return Rows(X, weights), unit

    def _take_batch(self, X: Any, sample_weight: Any) -> None:
        """Learn from one batch of a stream, as the user gives it."""
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
            check_is_fitted(self)  # raises; and takes its time to find out
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
        """Check that it is fitted, and return valid codes where the tables are.

        Those of the host, which files hold and no library computes in, are sent there.
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
        """Return squared distances (n_samples, n_sums) from what some codes are."""
        n, n_sums, n_codes = codes.shape
        decoded = self._decode(as_indices(reshape(codes, (n * n_sums, n_codes))))
        found = nearest.paired(repeat(X, n_sums, axis=0), decoded)
        return reshape(found, (n, n_sums))

    def _learn(self, rows: Rows) -> Learner[None]:
        """Set this estimator, a copy or a part, to what it learns from valid rows."""
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
        """Return a fitted copy whose codes have other names, with rows in order."""
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
        """Set parameters to what given tables tell; raise if they were to be else."""
        defaults = inspect.signature(type(self)).parameters
        for name, value in sizes.items():
            given = getattr(self, name)
            if given is not defaults[name].default and not _agree(given, value):
                raise ValueError(
                    f"{name}={given!r}, but the given codebooks tell {name}={value!r}."
                )
            setattr(self, name, value)

    def _learn_batch(self, X: Any, weights: Any) -> None:
        """Do the same with one batch of a stream."""
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
        """Set what a learner has not found: the distortion, and how often codes are.

        Both in one pass.  Weights of a stream are in its unit, which stays.
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
        """Set fitted attributes; what users see goes to where X is."""
        self.__dict__.update(found)
        if be is not nearest.HOST or self._home_ is not nearest.HOST:
            self._home_ = be
            for name, value in list(vars(self).items()):
                seen = name.endswith("_") and not name.startswith("_")
                if seen and name not in _ON_THE_HOST:
                    setattr(self, name, _with_arrays(value, be.like))

    def _check_backend(self, be: nearest.Backend) -> None:
        # What is not followed becomes an array of NumPy's, and those are taken always.
        nearest.check_backend(getattr(self, "backend", "auto"), be)

    def _computing(self, X: Any = None) -> AbstractContextManager[Any]:
        """Let the engine compute in this estimator's backend.

        Where rows of the host are coded block by block, they go to a device, or stay,
        by the work that all of them are.
        """
        backend = getattr(self, "backend", "auto")
        if not (X is None or nearest.is_dask(X)) and hasattr(self, "backend"):
            backend = nearest.settle(backend, X, X.shape[1] * max(self.codebook_sizes_))
        return nearest.using(backend)

    # Who computes where `fit` has met X.
    _home_: nearest.Backend = nearest.HOST
    # What was fitted before, whose tables learning starts from, while it learns.
    _before_: Any = None


def _first_of_all(own: Any, codes: Any) -> Any:
    """Put codes (n, n_codes) before others (n, n_found, n_codes), without the last.

    Or without what is the same, where there is such a one.
    """
    be = nearest.backend_of(codes)
    own = reshape(in_dtype(own, be.numpy_dtype(codes)), (codes.shape[0], 1, -1))
    differs = be.xp.any(codes != own, axis=2)
    moved = take_along(codes, stable_order(be.cast(differs, np.float32)))
    is_new = be.xp.all(differs, axis=1)[:, None, None]
    return be.xp.where(is_new, join([own, codes[:, :-1, :]], axis=1), moved)


def _log(message: str, *arguments: object) -> None:
    """Tell of a fit that is done, and is not undone by whoever is told."""
    try:
        logger.info(message, *arguments)
    except Exception:
        # As the handlers of the standard library tell of their errors.
        record = logging.makeLogRecord({"msg": message, "args": arguments})
        logging.Handler().handleError(record)


QUANTIZER = Accepted(
    lambda value: isinstance(value, BaseQuantizer),
    "an instance of a quantizer of skvq (the steps of a pipeline go in front of the "
    "whole, or into a transform that is a quantizer)",
)


def _to_compute_in(X: Any) -> Any:
    """Return the whole of X in the dtype to compute in."""
    be = nearest.backend_of(X)
    return be.contiguous(be.cast(X, nearest.compute_dtype(be.numpy_dtype(X))))


def check_as_before(name: str, now: Any, then: Any) -> None:
    """Raise if what a warm start cannot change is not as it was."""
    if now != then:
        raise ValueError(
            f"warm_start=True goes on from a fit with {name}={then}, but it is now "
            f"{now}: expected the same, or warm_start=False."
        )


def reordered_once(
    kept: Sequence[Any], orders: Sequence[Any], reorder: Callable[[Any, Any], Any]
) -> list[Any]:
    """Return ``reorder(one, order)`` of each; of one that is shared, the same object.

    Raises
    ------
    ValueError
        If one that is shared is to have several orders.
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
    """Whether two orders, or lists of orders, are the same."""
    if isinstance(a, list):
        return all(map(_are_alike, a, b))
    return (a is None) == (b is None) and np.array_equal(a, b)


def reordered_table(table: nearest.Table, order: np.ndarray | None) -> nearest.Table:
    """Return a table with its rows in another order; None: itself."""
    return table if order is None else nearest.Table(table.codewords[order])


def _with_arrays(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to an array, or to the arrays of a tuple or a list."""
    if nearest.is_array(value):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_with_arrays(item, function) for item in value)
    return value


def _agree(given: Any, value: Any) -> bool:
    """Whether a parameter says the same, for all or for each."""
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
    """Return summed distances, the weight, and what each code of some columns weighs.

    Parameters
    ----------
    block : Block
        Rows.
    quantizer : quantizer
        Has what its hooks ask for.
    distances : bool
        Whether distances are wanted; if not, their sum is zero.
    columns : sequence of int
        The columns of codes that are counted.
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

    Blocks are in the dtype to compute in, and so many times smaller as the work has
    vectors of each row.  It may be done again for rows that found no memory on their
    device.
    """

    def tile(rows: slice) -> tuple[slice, Any]:
        return rows, work(_to_compute_in(X[rows, :]))

    # Blocks are larger than the tiles in which the work is done.
    size = _TILES_PER_BLOCK * (_ON_DEVICE if nearest.goes_to_device() else 1)
    per_row = X.shape[1] * times / size
    yield from nearest.backend_of(X).tiles(X.shape[0], per_row, tile)
