"""Names of metrics, and what each of them asks of the engine."""

from collections.abc import Callable

Metric = str | Callable

# Metrics that become one matrix product over the tile.
PRODUCT_METRICS = frozenset({"sqeuclidean", "cosine", "inner_product"})

# The other names that `scipy.spatial.distance.cdist` knows.
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

# cdist estimates the scales of these from the rows that it is given: the codes of a row
# would depend on the rows beside it.
BATCH_DEPENDENT_METRICS = frozenset({"mahalanobis", "seuclidean"})

METRICS = PRODUCT_METRICS | CDIST_METRICS


def check_metric(metric: Metric) -> Metric:
    """Return the name of a metric without aliases, or the callable unchanged.

    Parameters
    ----------
    metric : str or callable
        The metric.

    Returns
    -------
    metric : str or callable
        "cityblock" for "manhattan"; all else is its own name.

    Raises
    ------
    ValueError
        If the name is unknown, or stands for a distance whose scales depend on the
        batch.
    """
    if callable(metric):
        return metric
    if metric in BATCH_DEPENDENT_METRICS:
        raise ValueError(
            f"metric={metric!r} takes its scales from the rows that it is given, so a "
            "row's code would depend on its batch. Scale X beforehand (StandardScaler, "
            "PCA(whiten=True)) and use metric='sqeuclidean'."
        )
    if metric not in METRICS:
        raise ValueError(
            f"metric={metric!r} is unknown. Accepted are {sorted(METRICS)}, and a "
            "callable of two vectors."
        )
    return "cityblock" if metric == "manhattan" else metric
