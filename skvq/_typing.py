"""Types of parameters and results, by names that signatures share.

`numpy.typing.ArrayLike` takes texts, since NumPy makes arrays of them.  Where a name of
an option may stand in place of an array, a checker would then accept every text as an
array; and texts are no samples.  So there are array-likes here that take none.
"""

from collections.abc import Sequence
from typing import (
    Any,
    Literal,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypeVar,
)

import numpy as np
from numpy.typing import NDArray


class Array(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> Any:
        """The lengths of the axes."""
        ...

    @property
    def dtype(self) -> Any:
        """The type of the numbers."""
        ...


# Of functions that answer in the library of their arrays.
ArrayT = TypeVar("ArrayT", bound=Array)


class Frozen(Protocol):
    """scikit-learn's `FrozenEstimator`, by what it has beside an estimator."""

    @property
    def estimator(self) -> Any:
        """The estimator that stays as it is."""
        ...


class HasCodebooks(Protocol):
    """A fitted quantizer, or what else has its tables."""

    @property
    def codebooks_(self) -> Sequence[Any]:
        """The tables W_1..W_m."""
        ...


class SupportsArray(Protocol):
    """What NumPy can read: arrays of all libraries of the host, and dataframes."""

    def __array__(self) -> np.ndarray[Any, Any]: ...


# Integers of Python and of NumPy; no truth values, which is told when they are met.
Size: TypeAlias = SupportsIndex
Sizes: TypeAlias = Sequence[SupportsIndex] | NDArray[Any]
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]

VectorLike: TypeAlias = SupportsArray | Sequence[SupportsFloat]
MatrixLike: TypeAlias = (
    SupportsArray | Sequence[SupportsArray] | Sequence[Sequence[SupportsFloat]]
)
# Several of them, of which an array is taken apart along its first axis.
Vectors: TypeAlias = Sequence[VectorLike] | NDArray[Any]
Matrices: TypeAlias = Sequence[MatrixLike] | NDArray[Any]
# Of three dimensions.
StackLike: TypeAlias = (
    SupportsArray
    | Sequence[SupportsArray]
    | Sequence[Sequence[Sequence[SupportsFloat]]]
)

NamesLike: TypeAlias = NDArray[Any] | Sequence[str]

RandomState: TypeAlias = SupportsIndex | np.random.RandomState | None

# What scikit-learn's metadata routing may be told of a parameter of a method.
RoutingRequest: TypeAlias = bool | str | None
OutputContainer: TypeAlias = Literal["default", "pandas", "polars"] | None

# -- options by name; that they are those of `_parameter_constraints` is tested --------

BackendName: TypeAlias = Literal["auto", "numpy", "native", "cupy"]
MetricName: TypeAlias = Literal[
    "braycurtis",
    "canberra",
    "chebyshev",
    "cityblock",
    "correlation",
    "cosine",
    "dice",
    "euclidean",
    "hamming",
    "inner_product",
    "jaccard",
    "jensenshannon",
    "manhattan",
    "minkowski",
    "rogerstanimoto",
    "russellrao",
    "sokalsneath",
    "sqeuclidean",
    "yule",
]
SumMetric: TypeAlias = Literal["sqeuclidean", "cosine", "inner_product"]
NeighborsMetric: TypeAlias = Literal[
    "euclidean", "sqeuclidean", "cosine", "inner_product"
]
ConvolutionMetric: TypeAlias = Literal["sqeuclidean", "cosine"]
Learning: TypeAlias = Literal["lloyd", "minibatch", "ema", "sgd", "fixed"]
Init: TypeAlias = Literal["k-means++", "random", "splitting", "progressive", "normal"]
DeadCodes: TypeAlias = Literal["split", "farthest", "keep"]
Assignment: TypeAlias = Literal["joint", "independent"]
RotationName: TypeAlias = Literal["balanced", "pca", "learned", "random", "hadamard"]
ScaleRule: TypeAlias = Literal["least_squares", "norm", "unbiased"]
Radius: TypeAlias = Literal["unit", "float32", "uniform", "learned"]
Coordinates: TypeAlias = Literal["standard", "tree"]
Angles: TypeAlias = Literal["uniform", "density"]
SquashName: TypeAlias = Literal["tanh", "clamp", "cdf", "none"]
GaussianBound: TypeAlias = Literal["covariance", "independent"]
SquashFormula: TypeAlias = Literal["corrected", "symmetric", "paper"]
DecodeTo: TypeAlias = Literal["means", "values"]
RangeRule: TypeAlias = Literal["minmax", "quantile", "gaussian", "laplacian"]
LevelsRule: TypeAlias = Literal["uniform", "lloyd-max"]
FeatureDistribution: TypeAlias = Literal["data", "gaussian", "laplacian"]
RangeEnds: TypeAlias = Literal["edges", "levels"]
TrellisName: TypeAlias = Literal["ungerboeck", "bitshift"]
AlphabetRule: TypeAlias = Literal["trained", "gaussian"]
