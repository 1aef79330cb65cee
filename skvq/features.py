"""Quantized samples as features, for models that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._callbacks import fit_clone
from skvq._compat import (
    Accepted,
    BaseEstimator,
    CallbackSupportMixin,
    Documented,
    OneToOneFeatureMixin,
    TransformerMixin,
    _fit_context,
)
from skvq._dask import check_container
from skvq._typing import Frozen, MatrixLike, RoutingRequest, VectorLike
from skvq._validation import (
    as_it_is_now,
    backend_of_samples,
    check_reconstructions,
    check_same_library,
    check_samples,
    copy_to_fit,
    in_own_context,
    take_over,
)
from skvq._weights import check_weights
from skvq.base import QUANTIZER, BaseQuantizer


def _is_frozen_quantizer(value: Any) -> bool:
    return isinstance(getattr(value, "estimator", None), BaseQuantizer) and isinstance(
        value, FrozenEstimator
    )


FROZEN = Accepted(_is_frozen_quantizer, "a fitted one in a FrozenEstimator")


class QuantizedFeatures(
    Documented,
    CallbackSupportMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Transformer whose output is the reconstruction of its input.

    Codes are names: 7 is not closer to 8 than to 200.  A model that learns from
    quantized samples needs the codewords themselves, in the space of X.

    Parameters
    ----------
    quantizer : quantizer
        Any quantizer of skvq.  A clone of it is fitted.

    Attributes
    ----------
    quantizer_ : quantizer
        The fitted clone.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import QuantizedFeatures, VectorQuantizer
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
    >>> vq = VectorQuantizer(2, init="splitting")
    >>> QuantizedFeatures(vq).fit_transform(X).tolist()
    [[0.0, 0.5], [0.0, 0.5], [9.0, 8.5], [9.0, 8.5]]
    """

    quantizer_: BaseQuantizer
    n_features_in_: int
    feature_names_in_: NDArray[Any]

    if TYPE_CHECKING:
        # scikit-learn makes it, of the parameters that the method has.
        def set_fit_request(self, *, sample_weight: RoutingRequest) -> Self:
            """Choose whether `fit` gets the weights that are routed."""
            ...

    _parameter_constraints = {  # noqa: RUF012
        "quantizer": [QUANTIZER, FROZEN]
    }

    def __init__(self, quantizer: BaseQuantizer | Frozen) -> None:
        self.quantizer = quantizer

    @_fit_context(prefer_skip_nested_validation=False)
    @in_own_context
    def fit(
        self, X: MatrixLike, y: Any = None, sample_weight: VectorLike | None = None
    ) -> Self:
        """Fit a clone of the quantizer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        new, data = copy_to_fit(self, fitted=False), (X, y, sample_weight)
        X = check_samples(new, X, reset=True, min_samples=2)
        weights = sample_weight
        if not nearest.is_dask(X):
            weights = check_weights(sample_weight, X)
        new.quantizer_, task = fit_clone(self, new, X, data, weights)
        check_is_fitted(new.quantizer_)  # a frozen quantizer need not be fitted
        if new.quantizer_.n_features_in_ != new.n_features_in_:
            raise ValueError(
                f"X has {new.n_features_in_} features, but the frozen quantizer was "
                f"fitted on {new.quantizer_.n_features_in_}."
            )
        take_over(self, new)
        task.end(lambda: None)
        return self

    @in_own_context
    def transform(self, X: MatrixLike) -> NDArray[Any]:
        """Replace samples by their reconstructions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X_quant : ndarray of shape (n_samples, n_features)
            The same as ``quantizer_.quantize(X)``.
        """
        check_is_fitted(self)
        check_same_library(self, backend_of_samples(self, X), "transform")
        if nearest.is_dask(X):
            check_container(self)
        X = check_samples(self, X, reset=False)
        # An array: the container is that of this estimator, with the index of its X.
        return as_it_is_now(self.quantizer_)._reconstructions(X)

    def inverse_transform(self, X: MatrixLike) -> NDArray[Any]:
        """Return quantized samples unchanged: they are in the space of X already.

        This lets pipelines lead back through this step, and targets that it quantizes
        be predicted in their own unit (`TransformedTargetRegressor`, with
        ``check_inverse=False``, since quantizing is not undone).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Quantized samples, or predictions of them; finite numbers.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The same values; the same array, if it is one.
        """
        check_is_fitted(self)
        check_same_library(self, backend_of_samples(self, X), "inverse_transform")
        return check_reconstructions(self, X)

    # Library and device are those of the quantizer.

    @property
    def _follows_namespace(self) -> bool:
        return getattr(self.quantizer, "_follows_namespace", False)

    @property
    def _home_(self) -> nearest.Backend:
        return getattr(vars(self).get("quantizer_"), "_home_", nearest.HOST)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether `fit` has completed."""
        return hasattr(self, "quantizer_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.array_api_support = self._follows_namespace
        return tags
