"""Transformers of scikit-learn that a codec file may hold, and their attributes.

They consist of numbers only: parameters, which `get_params` returns, and the fitted
attributes that are listed here.  Any other attribute is refused when a codec is saved
and when it is loaded, so that new attributes in a scikit-learn version are noticed.
"""

from typing import Any, NamedTuple

from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection


class Declared(NamedTuple):
    """The attributes of a transformer besides its parameters."""

    module: str
    attributes: tuple[str, ...]  # attributes that it has once it is fitted
    optional: tuple[str, ...] = ("n_features_in_", "feature_names_in_")


def _preprocessing(*attributes: str) -> Declared:
    return Declared("sklearn.preprocessing", attributes)


_PCA = (
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "mean_",
    "n_components_",
    "noise_variance_",
    "singular_values_",
)
_SVD = (
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
)

TRANSFORMERS: dict[type[Any], Declared] = {
    StandardScaler: _preprocessing("mean_", "n_samples_seen_", "scale_", "var_"),
    MinMaxScaler: _preprocessing(
        "data_max_", "data_min_", "data_range_", "min_", "n_samples_seen_", "scale_"
    ),
    MaxAbsScaler: _preprocessing("max_abs_", "n_samples_seen_", "scale_"),
    RobustScaler: _preprocessing("center_", "scale_"),
    QuantileTransformer: _preprocessing("n_quantiles_", "quantiles_", "references_"),
    Normalizer: _preprocessing(),
    PCA: Declared("sklearn.decomposition", (*_PCA, "n_samples_", "_fit_svd_solver")),
    IncrementalPCA: Declared(
        "sklearn.decomposition", (*_PCA, "batch_size_", "n_samples_seen_", "var_")
    ),
    TruncatedSVD: Declared("sklearn.decomposition", _SVD),
    GaussianRandomProjection: Declared(
        "sklearn.random_projection",
        ("components_", "n_components_", "_n_features_out"),
        ("inverse_components_", "n_features_in_", "feature_names_in_"),
    ),
    VarianceThreshold: Declared("sklearn.feature_selection", ("variances_",)),
    Pipeline: Declared("sklearn.pipeline", ()),
    FrozenEstimator: Declared("sklearn.frozen", ()),
}
