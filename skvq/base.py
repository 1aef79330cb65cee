"""The contract of every quantizer, stated once.

The public methods live here and only here: they check that the estimator is fitted,
validate at the border, cut the rows in blocks and call the hooks of the scheme.

========================  ==========================================================
hook                      what a scheme does in it
========================  ==========================================================
``_fit(X, weights)``      learn; assign all fitted attributes together at the end;
                          `distortion_` is measured if the scheme does not know it
``_encode(X)``            codes (n_samples, n_codes) of a block of rows
``_decode(codes)``        reconstruction (n_samples, n_features) of a block of codes
``_codebooks()``          W_1..W_m, in the order of the code columns
========================  ==========================================================

Hooks get floating arrays of the right width and never validate.  Fitted attributes,
private ones too, end in an underscore: that is how a failed fit is undone.
"""

import logging
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._compat import UNUSED, _fit_context
from skvq._validation import (
    check_codes,
    check_samples,
    check_weights,
    drop_zero_weights,
    unchanged_on_failure,
)
from skvq._version import __version__
from skvq.codes import from_token_ids, smallest_dtype

# Silent until the user configures logging.  Parts log their own fits, so that a nesting
# scheme tells how far it is.
logger = logging.getLogger("skvq")

# Elements of a row block: bounds the memory of the conversions and of the hooks.
_BLOCK_ELEMENTS = 2**22


def _learns_from_stream(estimator: "BaseQuantizer") -> bool:
    if not estimator._can_partial_fit():
        raise AttributeError(
            f"{type(estimator).__name__} has no partial_fit with these parameters: "
            f"{estimator._why_no_partial_fit()}"
        )
    return True


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
            Weights of the samples, not negative; rows of weight zero play no part.

        Returns
        -------
        self : object
            The fitted quantizer.
        """
        with unchanged_on_failure(self):
            self._forget()
            X, weights = self._check_training(X, sample_weight, reset=True)
            began = time.perf_counter()
            self._fit(X, weights)
            if not hasattr(self, "distortion_"):
                self.distortion_ = self._mean_distance(X, weights)
        logger.info(
            "%s: fitted on %d x %d in %.2f s, %g bits, distortion %.6g",
            type(self).__name__,
            *X.shape,
            time.perf_counter() - began,
            self.bits_per_sample_,
            self.distortion_,
        )
        return self

    @available_if(_learns_from_stream)
    @_fit_context(prefer_skip_nested_validation=False)
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

        Returns
        -------
        self : object
            The quantizer after this batch.
        """
        with unchanged_on_failure(self):
            first = not self.__sklearn_is_fitted__()
            X, weights = self._check_training(X, sample_weight, reset=first, batch=True)
            if hasattr(self, "distortion_"):
                del self.distortion_
            self._partial_fit(X, weights)
            if not hasattr(self, "distortion_"):
                self.distortion_ = self._mean_distance(X, weights)
        return self

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
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        sizes = self.codebook_sizes_
        codes = np.empty((len(X), len(sizes)), dtype=smallest_dtype(max(sizes)))
        for rows, block in _row_blocks(X):
            codes[rows] = self._encode(block)
        return codes

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
        check_is_fitted(self)
        widths = self._decodable_widths()
        return self._decode(check_codes(self, codes, self.codebook_sizes_, widths))

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
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        result = None
        for rows, block in _row_blocks(X):
            decoded = self._decode(self._encode(block).astype(np.intp, copy=False))
            if result is None:
                result = np.empty(X.shape, dtype=decoded.dtype)
            result[rows] = decoded
        return result

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
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        weights = check_weights(sample_weight, X)
        return -self._mean_distance(*drop_zero_weights(X, weights))

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
        check_is_fitted(self)
        size = 1
        for n_codewords in self.codebook_sizes_:
            size *= int(n_codewords)
        if size > max_size:
            raise ValueError(
                f"The full codebook of {type(self).__name__} has {size} codewords, "
                f"more than max_size={max_size}."
            )
        codes = from_token_ids(np.arange(size), self.codebook_sizes_)
        return self._decode(codes.astype(np.intp))

    # -- fitted attributes that follow from the tables -----------------------------

    @property
    def codebooks_(self) -> tuple[np.ndarray, ...]:
        """Tables W_1..W_m in the order of the code columns."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(
                f"{type(self).__name__} is not fitted: it has no codebooks_ yet."
            )
        return self._codebooks()

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
        return tags

    # -- pickling ------------------------------------------------------------------

    def __getstate__(self):
        return {**super().__getstate__(), "_skvq_version": __version__}

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
        X = check_samples(self, X, reset=reset, min_samples=1 if batch else 2)
        weights = check_weights(sample_weight, X)
        X, weights = drop_zero_weights(X, weights)
        return np.ascontiguousarray(X, nearest.compute_dtype(X.dtype)), weights

    def _mean_distance(self, X, weights) -> float:
        total = 0.0
        for rows, block in _row_blocks(X):
            decoded = self._decode(self._encode(block).astype(np.intp, copy=False))
            found = nearest.paired(block, decoded, self._score_metric)
            total += float(found.sum() if weights is None else found @ weights[rows])
        return total / float(len(X) if weights is None else weights.sum())

    def _forget(self) -> None:
        """Drop what an earlier fit has left, so that none of it survives the next."""
        for name in list(vars(self)):
            if name.endswith("_") and not name.startswith("__"):
                delattr(self, name)


def _row_blocks(X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Cut X in row blocks of bounded size, in the dtype to compute in."""
    dtype = nearest.compute_dtype(X.dtype)
    size = max(1, _BLOCK_ELEMENTS // X.shape[1])
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        yield rows, X[rows].astype(dtype, copy=False)
