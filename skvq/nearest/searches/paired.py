"""Distances of rows to their own reconstructions, and sums of rows by code."""

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from skvq.nearest.backends.base import Backend, Plan
from skvq.nearest.metrics import DIRECT_METRICS, PRODUCT_METRICS, Metric
from skvq.nearest.searches.flat import check_defined
from skvq.nearest.tables import check_no_zero_rows

_TILE_ELEMENTS = 2**16
_COMPILED_ELEMENTS = 2**19


def paired(be: Backend, X: Any, codes: Any, Y: Any, metric: Metric) -> Any:
    """Return the distance of each pair; see `skvq.nearest.paired`."""

    def tile(cut: slice) -> tuple[Any, ...]:
        if metric == "sqeuclidean":
            some = (Y[cut, :], None) if codes is None else (Y, codes[cut])
            return (be.squared_gaps(X[cut, :], *some),)
        x = be.cast(X[cut, :], np.float64)
        y = Y[cut, :] if codes is None else be.look_up(Y, codes[cut])
        return (_distances(be, x, be.cast(y, np.float64), metric),)

    d = max(1, X.shape[1])
    elements = _COMPILED_ELEMENTS if be.is_compiled else _TILE_ELEMENTS
    plan = Plan(max(1, elements // d), 4 * d, 8 * d)
    (found,) = be.over_rows(X.shape[0], plan, tile, [((), np.float64)])
    check_defined(be, found, metric, X)
    return found


def _distances(be: Backend, x: Any, y: Any, metric: Metric) -> Any:
    xp = be.xp
    if metric == "inner_product":
        return -be.row_products(x, y)
    if metric in DIRECT_METRICS:
        return (xp.sum if metric == "cityblock" else xp.max)(xp.abs(x - y), axis=1)
    if metric not in PRODUCT_METRICS:
        pairs = zip(be.to_host(x), be.to_host(y), strict=True)
        found = [cdist(a[None], b[None], metric)[0, 0] for a, b in pairs]
        return be.send(np.array(found))
    half = 1.0
    if metric == "cosine":
        check_no_zero_rows(be.to_host(x), "X")
        check_no_zero_rows(be.to_host(y), "Y")
        x, y, half = be.unit_rows(x), be.unit_rows(y), 0.5
    gap = x - y
    return half * be.row_products(gap, gap)
