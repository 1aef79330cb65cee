"""Names of metrics, and what each of them requires of the engine."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeAlias

Metric: TypeAlias = str | Callable[..., Any]

# Metrics for which the search is one matrix product per tile.
PRODUCT_METRICS = frozenset({"sqeuclidean", "cosine", "inner_product"})

# Metrics that are computed from the differences themselves.
DIRECT_METRICS = frozenset({"cityblock", "chebyshev"})

# Other names that `scipy.spatial.distance.cdist` knows.
CDIST_METRICS = frozenset(
    {
        "braycurtis",
        "canberra",
        "chebyshev",
        "cityblock",
        "correlation",
        "dice",
        "euclidean",
        "hamming",
        "jaccard",
        "jensenshannon",
        "manhattan",
        "minkowski",
        "rogerstanimoto",
        "russellrao",
        "sokalsneath",
        "yule",
    }
)

# cdist estimates scales for these from the rows that it is given, so that the code of a
# row would depend on the rows beside it.
BATCH_DEPENDENT_METRICS = frozenset({"mahalanobis", "seuclidean"})

METRICS = PRODUCT_METRICS | CDIST_METRICS

# Aliases; distance and squared distance find the same codewords.
_OTHER_NAMES = {
    "sqeuclidean": ("euclid", "l2", "l2_squared", "squared_euclidean", "mse"),
    "manhattan": ("l1", "taxicab", "absolute"),
    "chebyshev": ("linf", "max", "maximum"),
    "cosine": ("cos", "cosine_similarity", "angular"),
    "inner_product": ("dot", "dot_product", "ip", "product", "mips"),
}
_KNOWN_BY = {other: name for name, others in _OTHER_NAMES.items() for other in others}


# Metrics that are finite for all finite rows unless something overflows.
_DEFINED_EVERYWHERE = frozenset(
    {"sqeuclidean", "inner_product", "cityblock", "euclidean", "chebyshev", "minkowski"}
)


def why_undefined(metric: Metric, largest: float) -> str:
    """Return why a distance came out as NaN, for the message.

    Parameters
    ----------
    metric : str or callable
        The metric, without aliases.
    largest : float
        The largest magnitude in X; NaN if X has a NaN.
    """
    if not largest < float("inf"):
        return "X contains NaN or infinity."
    if metric in _DEFINED_EVERYWHERE:
        return (
            f"Distances under metric={metric!r} overflow: X has values up to "
            f"{largest:.3g}. Scale X."
        )
    return f"metric={metric!r} is not defined on some rows of X."


def why_out_of_reach(largest: float) -> str:
    """Return why rows cannot be compared with a table, for the message."""
    if not largest < float("inf"):
        return "X contains NaN or infinity."
    return (
        f"X has values up to {largest:.3g}, so far from the codebook that distances "
        "overflow: scale X, or pass float64."
    )


def check_metric(metric: Metric) -> Metric:
    """Return the name of a metric without aliases, or the callable unchanged.

    Parameters
    ----------
    metric : str or callable
        The metric.

    Returns
    -------
    metric : str or callable
        "cityblock" for "manhattan"; other metrics unchanged.

    Raises
    ------
    ValueError
        If the name is unknown, or the metric takes its scales from the batch.
    """
    if callable(metric):
        return metric
    if not isinstance(metric, str):
        raise ValueError(
            f"metric={metric!r}; expected one of {sorted(METRICS)}, or a callable of "
            "two vectors."
        )
    if metric in BATCH_DEPENDENT_METRICS:
        raise ValueError(
            f"metric={metric!r} takes its scales from the rows that it is given, so a "
            "row's code would depend on its batch. Scale X beforehand (StandardScaler, "
            "PCA(whiten=True)) and use metric='sqeuclidean'."
        )
    if metric not in METRICS:
        raise ValueError(
            f"metric={metric!r} is unknown{_suggestion(metric)} Accepted are "
            f"{sorted(METRICS)}, and a callable of two vectors."
        )
    return "cityblock" if metric == "manhattan" else metric


def _suggestion(name: str) -> str:
    """Return a suggestion for a misspelt name, as the end of a sentence."""
    lowered = name.lower().replace("-", "_").replace(" ", "_")
    names = {**_KNOWN_BY, **{metric: metric for metric in METRICS}}
    near = get_close_matches(lowered, names, n=1, cutoff=0.75)
    return f"; did you mean {names[near[0]]!r}?" if near else "."
