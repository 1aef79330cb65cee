"""The contract of every quantizer, stated once.

The public methods live here and only here: they check that the estimator is fitted,
validate at the border, cut the rows in blocks and call the hooks of the scheme.

========================  ==========================================================
hook                      what a scheme does in it
========================  ==========================================================
``_fit(X, weights)``      learn; assign all fitted attributes together at the end,
                          on a copy of the estimator, which hands them over at once;
                          `distortion_` is measured if the scheme does not know it
``_encode(X)``            codes (n_samples, n_codes) of a block of rows
``_decode(codes)``        reconstruction (n_samples, n_features) of a block of codes
``_codebooks()``          W_1..W_m, in the order of the code columns
========================  ==========================================================

Hooks get floating arrays of the right width and never validate.  Equal weights come as
None.  Those of a stream have mean one over its first batch, and are in the same unit
ever after; of other weights nothing but the ratios may count.  Fitted attributes,
private ones too, end in an underscore: that is how they are told from the others.

Everything follows X: of what library its array is, and on which device, of that are
codes, reconstructions and fitted attributes.  A hook of a scheme that says so in
`_follows_namespace` meets such arrays; what it assigns may be NumPy's, and is sent to
the device here, when the fit is done.  Other schemes get what NumPy makes of X.
"""

import logging
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._checks import check_count
from skvq._compat import UNUSED, Accepted, _fit_context, available_unless
from skvq._validation import (
    ONE,
    as_it_is_now,
    backend_of_samples,
    check_codes,
    check_same_library,
    check_samples,
    check_weights,
    copy_to_fit,
    drop_zero_weights,
    in_own_context,
    one_warning,
    plain_parameters,
    take_over,
    weights_in_units,
)
from skvq._version import __version__
from skvq.codes import from_token_ids, smallest_dtype

# Silent until the user configures logging.  Parts log their own fits, so that a nesting
# scheme tells how far it is.
logger = logging.getLogger("skvq")

# A block is so many tiles, which bounds the memory of conversions and of hooks; of rows
# that go to a device so many times more: several chunks of the engine, so that one can
# be copied while another is computed.
_TILES_PER_BLOCK = 8
_ON_DEVICE = 64


def _reason_against_streams(estimator: "BaseQuantizer") -> str | None:
    if estimator._can_partial_fit():
        return None
    return (
        f"{type(estimator).__name__} has no partial_fit with these parameters: "
        f"{estimator._why_no_partial_fit()}"
    )


class BaseQuantizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
    n_features_in_ : int
        Number of features seen in `fit`.
    """

    # Whether the hooks take arrays of any library.
    _follows_namespace = False

    # Codes are the method's data, not metadata to be routed.
    __metadata_request__inverse_transform = {"codes": UNUSED}  # noqa: RUF012

    @property
    def _score_metric(self) -> nearest.Metric:
        """The metric of `score` and `distortion_`."""
        return "sqeuclidean"

    # -- hooks ---------------------------------------------------------------------

    @abstractmethod
    def _fit(self, X: np.ndarray, weights: np.ndarray | None) -> None:
        """Learn from floating X, without rows of zero weight; set the attributes."""

    @abstractmethod
    def _encode(self, X: np.ndarray) -> np.ndarray:
        """Return integer codes (n_samples, n_codes) of floating X."""

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the reconstruction (n_samples, n_features) of intp codes."""

    @abstractmethod
    def _codebooks(self) -> tuple[np.ndarray, ...]:
        """Return the tables W_1..W_m."""

    def _partial_fit(self, X: np.ndarray, weights: np.ndarray | None) -> None:
        """Learn from one batch more; never change an attribute's array in place."""
        raise AssertionError("guarded by _can_partial_fit")  # pragma: no cover

    def _can_partial_fit(self) -> bool:
        return False

    def _why_no_partial_fit(self) -> str:
        return "the scheme does not learn from a stream."

    def _template(self) -> "BaseQuantizer":
        """Return the quantizer that parts are clones of."""
        raise AssertionError("of nesting schemes alone")  # pragma: no cover

    def _table_elements(self, n_features: int) -> int:
        """Return how many numbers its tables hold, if they are many."""
        return 0

    def _decodable_widths(self) -> tuple[int, ...]:
        """Return the numbers of code columns that `inverse_transform` takes."""
        return (len(self.codebook_sizes_),)

    # What a scheme that takes this one as a part may ask of it.

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

    # -- public methods ------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit(self, X, y=None, sample_weight=None):
        """Learn the codebooks, or set them up.

        If it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples; at least two.
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
        new = copy_to_fit(self, fitted=False)
        with one_warning(), new._computing():
            X, weights = new._check_training(X, sample_weight, reset=True)
            began = time.perf_counter()
            plain_parameters(new)
            new._fit(X, weights)
            new._settle(X)
            if not hasattr(new, "distortion_"):
                new.distortion_ = new._mean_distance(X, weights)
        seconds = time.perf_counter() - began
        take_over(self, new)
        _log(
            "%s: fitted on %d x %d in %.2f s, %g bits, distortion %.6g",
            type(self).__name__,
            *X.shape,
            seconds,
            new.bits_per_sample_,
            new.distortion_,
        )
        return self

    @available_unless(_reason_against_streams)
    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def partial_fit(self, X, y=None, sample_weight=None):
        """Learn from one batch of a stream.

        If it fails, the estimator stays as it was before the call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The batch; one row suffices.
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
            first = not new.__sklearn_is_fitted__()
            if not first:
                new._return_home()
                check_same_library(new, X, "partial_fit")
            X, weights = new._check_training(X, sample_weight, reset=first, batch=True)
            if hasattr(new, "distortion_"):
                del new.distortion_
            plain_parameters(new)
            new._partial_fit(X, weights)
            new._settle(X)
            if not hasattr(new, "distortion_"):
                new.distortion_ = new._mean_distance(X, weights)
        take_over(self, new)
        return self

    @in_own_context
    def transform(self, X):
        """Encode samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; may be a memory map.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_codes)
            Codes in the smallest unsigned dtype that holds the largest codebook's.
            They are names, not quantities: a model that is to learn from them takes
            `QuantizedFeatures` instead.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "transform")
        sizes = self.codebook_sizes_
        be = nearest.backend_of(X)
        dtype = be.code_dtype(smallest_dtype(max(sizes)))
        with self._computing(X):
            return be.gathered(X.shape[0], _over_blocks(X, self._encode), dtype)

    @in_own_context
    def inverse_transform(self, codes):
        """Decode codes.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_codes)
            Codes as `transform` gives them; integral floats and dataframes will do.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The reconstructions.

        Raises
        ------
        ValueError
            If a code is not an integer in the range of its column.
        """
        self = as_it_is_now(self)
        check_is_fitted(self)
        self._return_home()
        widths = self._decodable_widths()
        codes = check_codes(self, codes, self.codebook_sizes_, widths)
        return self._decode(self._on_own_device(codes))

    @in_own_context
    def quantize(self, X):
        """Encode and decode in one pass.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The same as ``inverse_transform(transform(X))``.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "quantize")
        with self._computing(X):
            blocks = _over_blocks(X, self._quantize)
            return nearest.backend_of(X).gathered(X.shape[0], blocks)

    @in_own_context
    def score(self, X, y=None, sample_weight=None):
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
        weights = check_weights(sample_weight, X)
        with self._computing(X):
            return -self._mean_distance(*drop_zero_weights(X, weights))

    @in_own_context
    def full_codebook(self, max_size=2**20):
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
        check_is_fitted(self)
        self._return_home()
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
        return self._decode(self._on_own_device(codes.astype(np.intp)))

    def set_params(self, **params):
        """Set parameters, of parts as well, by ``<part>__<parameter>``.

        Parameters
        ----------
        **params : dict
            Parameters and their values.

        Returns
        -------
        self : object
            The quantizer.

        Raises
        ------
        ValueError
            If there is no such parameter, or the part is None, which stands for a
            default that is made anew in every fit.
        """
        for name, value in params.items():
            part, _, parameter = name.partition("__")
            if not parameter or part != "quantizer":
                continue
            if params.get(part, getattr(self, part, part)) is None:
                default = self._template()
                raise ValueError(
                    f"{name}={value!r} cannot be set while quantizer=None, which "
                    f"stands for {default!r}: set quantizer={default!r} first, or with "
                    "it."
                )
        return super().set_params(**params)

    # -- fitted attributes that follow from the tables -----------------------------

    @property
    def codebooks_(self) -> tuple[np.ndarray, ...]:
        """Tables W_1..W_m in the order of the code columns."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(
                f"{type(self).__name__} is not fitted: it has no codebooks_ yet."
            )
        self._return_home()
        tables = self._codebooks()
        if "_namespace_" in vars(self):
            # Those that follow from a few numbers are made on the host.
            tables = tuple(self._on_own_device(table) for table in tables)
        return tables

    @property
    def bits_per_sample_(self) -> float:
        """Sum of log2 V_j over the code columns."""
        return float(np.log2(np.asarray(self.codebook_sizes_, dtype=float)).sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.codebook_sizes_)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` has run to its end."""
        return hasattr(self, "codebook_sizes_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.array_api_support = self._follows_namespace
        return tags

    # -- pickling ------------------------------------------------------------------

    def __getstate__(self):
        state = {**super().__getstate__(), "_skvq_version": __version__}
        if "_namespace_" in state:
            # Parts are estimators, and see to themselves.
            state = {name: _with_arrays(v, _to_host) for name, v in state.items()}
            state.pop("_device_", None)
        return state

    def __setstate__(self, state):
        state = dict(state)
        version = state.pop("_skvq_version", "unknown")
        if version != __version__:
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=f"skvq {__version__}",
                    original_sklearn_version=f"skvq {version}",
                ),
                stacklevel=2,
            )
        super().__setstate__(state)

    # -- what the public methods share ---------------------------------------------

    def _check_training(self, X, sample_weight, *, reset: bool, batch: bool = False):
        self._check_backend(X)
        X = check_samples(self, X, reset=reset, min_samples=1 if batch else 2)
        unit = None if reset else getattr(self, "_weight_unit_", ONE)
        X, weights, self._weight_unit_ = weights_in_units(
            X, sample_weight, unit=unit, stream=self._can_partial_fit()
        )
        return _to_compute_in(X), weights

    def _check_input(self, X, method: str):
        """Check in order: fitted, then the library of X, then X itself."""
        check_is_fitted(self)
        self._return_home()
        check_same_library(self, X, method)
        self._check_backend(X)
        return check_samples(self, X, reset=False)

    def _quantize(self, X):
        codes = self._encode(X)
        return self._decode(nearest.backend_of(codes).cast(codes, np.intp))

    def _mean_distance(self, X, weights) -> float:
        def work(block):
            return nearest.paired(block, self._quantize(block), self._score_metric)

        be, summed = nearest.backend_of(X), 0.0
        for rows, found in _over_blocks(X, work):
            summed += be.total(found, None if weights is None else weights[rows])
        return summed / float(X.shape[0] if weights is None else be.total(weights))

    # -- arrays of other libraries -------------------------------------------------

    def _check_backend(self, X) -> None:
        # What is not followed becomes an array of NumPy's, and those are taken always.
        backend = getattr(self, "backend", "auto")
        nearest.check_backend(backend, backend_of_samples(self, X))

    def _computing(self, X=None) -> AbstractContextManager:
        """Let the engine compute in this estimator's backend.

        Where rows of the host are coded block by block, they go to a device, or stay,
        by the work that all of them are.
        """
        backend = getattr(self, "backend", "auto")
        if X is not None and hasattr(self, "backend"):
            backend = nearest.settle(backend, X, X.shape[1] * max(self.codebook_sizes_))
        return nearest.using(backend)

    def _settle(self, X) -> None:
        """Send the fitted arrays, of parts as well, to the device of X."""
        be = nearest.backend_of(X)
        if be.name != "numpy":
            self._move(be)

    def _move(self, be: nearest.Backend) -> None:
        for name, value in list(vars(self).items()):
            if name.endswith("_") and not name.startswith("__"):
                setattr(self, name, _with_arrays(value, be.like))
                for part in _parts_in(value):
                    part._move(be)
        self._device_, self._namespace_ = be.device, be.name

    def _return_home(self) -> None:
        """Send arrays that were loaded from a pickle to the library they came from.

        If it cannot be imported, or has no device, they stay NumPy's for good.
        """
        name = vars(self).get("_namespace_")
        if name is None or "_device_" in vars(self):
            return
        be = nearest.default_backend(name)
        if be is None:
            del self._namespace_
        else:
            self._move(be)

    def _on_own_device(self, codes):
        """Return codes as an array of the library that the estimator was fitted in."""
        be = nearest.default_backend(vars(self).get("_namespace_", "numpy"))
        if be is None:
            return codes
        be.device = vars(self).get("_device_")
        return be.like(codes)


def _log(message: str, *arguments) -> None:
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


def _to_compute_in(X):
    """Return the whole of X in the dtype to compute in."""
    be = nearest.backend_of(X)
    return be.contiguous(be.cast(X, nearest.compute_dtype(be.numpy_dtype(X))))


def _to_host(array) -> np.ndarray:
    return nearest.backend_of(array).to_host(array)


def _with_arrays(value, function):
    """Apply a function to an array, or to the arrays of a tuple or a list."""
    if nearest.is_array(value):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_with_arrays(item, function) for item in value)
    return value


def _parts_in(value) -> list["BaseQuantizer"]:
    """Return the distinct quantizers in a fitted attribute."""
    items = value if isinstance(value, tuple | list) else (value,)
    parts = {id(item): item for item in items if isinstance(item, BaseQuantizer)}
    return list(parts.values())


def _over_blocks(X, work: Callable[[Any], Any]) -> Iterator[tuple[slice, Any]]:
    """Yield rows, and ``work(block)`` of them, for row blocks of bounded size.

    Blocks are in the dtype to compute in.  The work may be done again for rows that
    found no memory on their device.
    """

    def tile(rows: slice) -> tuple[slice, Any]:
        return rows, work(_to_compute_in(X[rows, :]))

    # Blocks are larger than the tiles in which the work is done.
    size = _TILES_PER_BLOCK * (_ON_DEVICE if nearest.goes_to_device() else 1)
    per_row = X.shape[1] / size
    yield from nearest.backend_of(X).tiles(X.shape[0], per_row, tile)
