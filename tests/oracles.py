"""Slow and obvious computations that the library is compared with, in float64."""

import numpy as np
from scipy.spatial.distance import cdist


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def distances(X, table, metric="sqeuclidean"):
    """All distances (n_samples, n_codewords)."""
    X = np.asarray(X, dtype=np.float64)
    table = np.asarray(table, dtype=np.float64)
    if metric == "inner_product":
        return -(X @ table.T)
    if metric == "cosine":
        return 0.5 * cdist(unit(X), unit(table), "sqeuclidean")
    if metric == "manhattan":
        metric = "cityblock"
    return cdist(X, table, metric)


def paired(X, Y, metric="sqeuclidean"):
    """Distance of each row of X to the same row of Y."""
    return np.array(
        [
            distances(x[None], y[None], metric)[0, 0]
            for x, y in zip(np.asarray(X), np.asarray(Y), strict=True)
        ]
    )


def rounding(X, table, metric="sqeuclidean", dtype=np.float64, computed=False):
    """How far apart two computed distances of a row may be that are equal in truth.

    The bound of a product of vectors about the table's mean, in the dtype that it is
    computed in; what cdist computes is good to a few units in the last place.  Of a
    table that is computed from others, each entry has been rounded as well.
    """
    X = np.asarray(X, dtype=np.float64)
    table = np.asarray(table, dtype=np.float64)
    eps = np.finfo(dtype).eps
    if metric == "cosine":
        X, table = unit(X), unit(table)
    elif metric not in ("sqeuclidean", "inner_product"):
        eps = np.finfo(np.float64).eps
    mean = table.mean(axis=0)
    reach = np.linalg.norm(X - mean, axis=1)
    if metric == "inner_product":
        reach = reach + np.linalg.norm(mean)
    radius = np.linalg.norm(table - mean, axis=1).max()
    if metric in ("sqeuclidean", "cosine", "inner_product"):
        # The centre is the mean on a grid of an eighth of the spread, at most.
        radius = 1.25 * radius + eps * np.linalg.norm(mean)
        bound = 4 * (X.shape[1] + 4) * eps * radius * (reach + radius)
        if computed:
            bound += 4 * eps * (np.linalg.norm(mean) + radius) * (reach + radius)
        return bound
    return 64 * X.shape[1] * eps * (1 + reach + radius)


def assert_nearest(
    codes, X, table, metric="sqeuclidean", dtype=np.float64, computed=False, bias=0.0
):
    """Each code is the argmin of the brute force, and of a bias, up to rounding."""
    table_of = distances(X, table, metric) + bias
    codes = np.asarray(codes, dtype=np.intp)
    assert codes.shape == (len(table_of),)
    excess = table_of[np.arange(len(codes)), codes] - table_of.min(axis=1)
    allowed = rounding(X, table, metric, dtype, computed)
    assert (excess <= allowed).all(), (
        f"{(excess > allowed).sum()} codes are not nearest; largest excess "
        f"{excess.max()}"
    )


def priced(quantizer, rate_weight):
    """What is added to the error of each row of the full codebook, for its codes."""
    if rate_weight:
        costs = [rate_weight * np.asarray(bits) for bits in quantizer.code_lengths_]
    else:
        costs = getattr(quantizer, "prices_", None)
    if costs is None:
        return 0.0
    total = np.zeros(1)
    for cost in costs:
        total = np.add.outer(total, np.asarray(cost)).ravel()
    return total


def first_argmin(X, table, metric="sqeuclidean"):
    return distances(X, table, metric).argmin(axis=1)


def sums_and_counts(X, codes, n_codewords, weights=None):
    X = np.asarray(X, dtype=np.float64)
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    sums = np.zeros((n_codewords, X.shape[1]))
    counts = np.zeros(n_codewords)
    for x, code, weight in zip(X, codes, weights, strict=True):
        sums[code] += weight * x
        counts[code] += weight
    return sums, counts


def repeat_cyclically(X, n_codewords):
    """The rule for few samples: distinct rows in lexicographic order, over again."""
    rows = sorted({tuple(row) for row in np.asarray(X).tolist()})
    return np.array([rows[i % len(rows)] for i in range(n_codewords)])


# -- exact distances -------------------------------------------------------------------

# Distances that differ by a smaller share of the larger are the same to the searches.
TOLERANCE = {np.dtype(np.float32): 2.0**-18, np.dtype(np.float64): 2.0**-46}


def tolerance(*arrays):
    """Of the dtype that the searches compute arrays in."""
    narrow = all(a.dtype.itemsize <= 2 or a.dtype == np.float32 for a in arrays)
    return TOLERANCE[np.dtype(np.float32 if narrow else np.float64)]


def exact_distances(X, table, metric="sqeuclidean"):
    """All distances (n_samples, n_codewords) between the stored values.

    With 11 bits more than float64: the differences of float32 are exact.
    """
    X, table = np.asarray(X).astype(np.longdouble), np.asarray(table, np.longdouble)
    if metric == "inner_product":
        return -(X @ table.T)
    if metric == "cosine":
        X, table = (
            rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))
            for rows in (X, table)
        )
    found = np.empty((len(X), len(table)), np.longdouble)
    for low in range(0, len(X), max(1, 2**19 // table.size)):
        cut = slice(low, low + max(1, 2**19 // table.size))
        gaps = X[cut, None, :] - table[None, :, :]
        found[cut] = np.einsum("ijk,ijk->ij", gaps, gaps)
    return found / 2 if metric == "cosine" else found


def excess(codes, distances):
    """Return by how much each code is further than the nearest, and its distance."""
    chosen = distances[np.arange(len(distances)), np.asarray(codes, np.intp)]
    return (chosen - distances.min(axis=1)).astype(float), np.abs(chosen).astype(float)


def assert_exact(codes, distances, share, slack=0.0):
    """No code is further than the nearest by more than a share of its distance."""
    assert np.shape(codes) == (len(distances),)
    found, chosen = excess(codes, distances)
    allowed = share * chosen + slack
    wrong = found > allowed
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        worst = np.max(found / allowed, where=wrong, initial=0)
    assert not wrong.any(), (
        f"{wrong.sum()} of {len(wrong)} codes are not nearest, the first in row "
        f"{wrong.argmax()}; one is further by {worst:.3g} times what it may"
    )
