"""The nearest codeword of one table."""

import math
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from skvq.nearest.backends.base import COARSE, Backend, Plan
from skvq.nearest.backends.careful import CAREFUL
from skvq.nearest.metrics import (
    PRODUCT_METRICS,
    Metric,
    why_out_of_reach,
    why_undefined,
)
from skvq.nearest.tables import (
    Table,
    check_no_zero_rows,
    compute_dtype,
    flat_form,
)
from skvq.nearest.threads import even_chunk

# Distances in a tile that are computed one by one.
_DIRECT_ELEMENTS = 2**16
# Numbers in a block of rows that are searched again.
_AGAIN_ELEMENTS = 2**20


def nearest(
    be: Backend, X: Any, table: Table, metric: Metric, bias: Any, distances: bool
) -> tuple[Any, ...]:
    """Return codes, and distances or None; see `skvq.nearest.nearest`."""
    if metric in PRODUCT_METRICS:
        return _by_product(be, X, table, metric, bias, distances)
    return _by_distances(be, X, table, metric, bias, distances)


def _by_product(
    be: Backend, X: Any, table: Any, metric: Any, bias: Any, distances: Any
) -> tuple[Any, ...]:
    dtype, form, here = _forms(be, X, table, metric, bias)
    d, n_codewords = X.shape[1], form.weights.shape[1]
    chunk = be.rows_at_a_time(d, n_codewords)
    chunk = even_chunk(X.shape[0], chunk, d * n_codewords, be.tile_rows)
    work = d * n_codewords
    plan = Plan(chunk, be.numbers_per_row(d, n_codewords), work, be.is_compiled)
    outputs = [((), np.intp), ((), np.uint8), ((), np.float64)][: 2 + distances]

    def tile(rows: slice) -> tuple[Any, ...]:
        return be.nearest_rows(X[rows, :], here, metric, dtype, distances)

    codes, state, *found = be.over_rows(X.shape[0], plan, tile, outputs)
    again = partial(_again, table, metric, bias, distances, form, be.first_row)
    exact = partial(_exact_cosines, table)
    codes, *found = finished(be, X, codes, state, found, again, exact)
    if distances:
        check_finite(be, found[0], "codebook")
    return codes, found[0] if distances else None


def _search_dtype(be: Backend, X: Any, table: Table) -> np.dtype[Any]:
    return np.result_type(compute_dtype(be.numpy_dtype(X)), compute_dtype(table.dtype))


def _forms(
    be: Backend, X: Any, table: Any, metric: Any, bias: Any
) -> tuple[np.dtype, Any, Any]:
    """Return the dtype of a search, and the table on the host and on the device."""
    dtype = _search_dtype(be, X, table)
    form = flat_form(table, metric, dtype, bias)
    if bias is not None:
        return dtype, form, be.sent(form, "flat")
    key = ("flat", metric, dtype, be.key)
    return dtype, form, table.form(key, lambda: be.sent(form, "flat"))


def nearest_cells(
    be: Backend, X: Any, table: Table, bias: Any, weights: Any, dtype: np.dtype[Any]
) -> tuple[Any, ...] | None:
    """Return codes, sums and counts, if the backend finds them best in one pass."""
    size = len(table)
    if not be.adds_up_found(X, size, _search_dtype(be, X, table)):
        return None
    _, form, here = _forms(be, X, table, "sqeuclidean", bias)
    codes, state, *cells = be.nearest_cells(X, here, weights, size, dtype)
    if be.flagged(state > COARSE).size:
        # These have been added by other codes.
        again = partial(_again, table, "sqeuclidean", bias, False, form, be.first_row)
        (codes,) = finished(be, X, codes, state, [], again, None)
        cells = list(be.cell_sums(X, codes, size, weights))
    return codes, *cells


def _exact_cosines(table: Table, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return cosine distances of rows in float64."""
    rows = (x, table.codewords[codes])
    x, y = (CAREFUL.unit_rows(each.astype(np.float64)) for each in rows)
    return 0.5 * CAREFUL.row_products(x - y, x - y)


def _again(
    table: Any,
    metric: Any,
    bias: Any,
    distances: Any,
    form: Any,
    first_row: Any,
    x: Any,
    rows: np.ndarray,
) -> tuple[Any, ...]:
    """Search some rows again, on the host and with care."""
    if metric == "cosine":
        for place in np.flatnonzero(~x.any(axis=1)):
            check_no_zero_rows(x[[place]], "X", first_row + rows[place])
    check_reach(x, math.inf if metric == "cosine" else form.limit)
    x = x.astype(np.float64)
    form = flat_form(table, metric, np.dtype(np.float64), bias)
    step = CAREFUL.rows_at_a_time(*form.weights.shape)
    parts = [
        CAREFUL.nearest_rows(x[low : low + step], form, metric, x.dtype, distances)
        for low in range(0, len(x), step)
    ]
    code, _, *found = (np.concatenate(part) for part in zip(*parts, strict=True))
    return (code, *found)


def finished(
    be: Backend,
    X: Any,
    codes: Any,
    state: Any,
    found: list[Any],
    again: Any,
    exact: Any,
) -> list[Any]:
    """Return codes, and distances if wanted, after repeating what was too coarse.

    Parameters
    ----------
    be : Backend
        The backend of the arrays.
    X : array of shape (n_samples, n_features)
        All rows.
    codes, state : arrays
        The results of all tiles.
    found : list of arrays
        The distances; empty if they are not wanted.
    again : callable
        ``again(x, rows)`` returns codes, and distances if wanted, of doubtful rows, on
        the host.
    exact : callable
        ``exact(x, codes)`` returns distances of rows from the given numbers, on the
        host, where those that were found are too coarse.
    """
    outputs = [codes, *found]
    if not be.flagged(state).size:
        return outputs
    rows = be.flagged(state > COARSE)
    if rows.size:
        outputs = searched_again(be, X, rows, outputs, again)
    rows = be.flagged(state == COARSE)
    if rows.size:
        codes = outputs[0]

        def distances(x: np.ndarray, rows: np.ndarray) -> tuple[Any, ...]:
            return (exact(x, be.to_host(be.take(codes, rows))),)

        outputs[1:] = searched_again(be, X, rows, outputs[1:], distances)
    return outputs


def searched_again(
    be: Backend, X: Any, rows: np.ndarray, outputs: list[Any], again: Any
) -> list[Any]:
    """Return outputs in which some rows are replaced by what the host computes.

    Parameters
    ----------
    be : Backend
        The backend of the outputs.
    X : array of shape (n_samples, n_features)
        All rows.
    rows : ndarray of shape (n_again,)
        Indices of the rows to replace.
    outputs : list of arrays
        Arrays with an entry for each row of X.
    again : callable
        ``again(x, rows)`` returns the entries of some rows, on the host.
    """
    step = max(1, _AGAIN_ELEMENTS // X.shape[1])
    chunks = [rows[low : low + step] for low in range(0, len(rows), step)]
    plan = Plan(1, 0, math.inf)
    found: list[Any] = [None] * len(chunks)

    def tile(cut: slice) -> tuple[Any, ...]:
        for i in range(cut.start, cut.stop):
            found[i] = again(be.to_host(be.take(X, chunks[i])), chunks[i])
        return ()

    CAREFUL.over_rows(len(chunks), plan, tile, [])
    joined = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return [
        be.replaced(array, rows, values)
        for array, values in zip(outputs, joined, strict=True)
    ]


def check_reach(x: np.ndarray, limit: float) -> None:
    """Raise unless all |x| are below the limit of a table; NaN raises too."""
    largest = max(x.max(initial=0.0), -float(x.min(initial=0.0)))
    if not largest < limit:
        raise ValueError(why_out_of_reach(float(largest)))


def check_finite(be: Backend, found: Any, what: str) -> None:
    """Raise if distances of finite rows are not finite."""
    if not bool(be.xp.all(be.xp.isfinite(found))):
        raise ValueError(f"Distances between X and the {what} overflow: scale X.")


def check_defined(be: Backend, values: Any, metric: Metric, X: Any) -> None:
    """Raise if distances of the rows of X are NaN."""
    if not bool(be.xp.all(be.xp.isfinite(values))):
        largest = max(float(be.xp.max(X)), -float(be.xp.min(X)))
        raise ValueError(why_undefined(metric, largest))


def _by_distances(
    be: Backend, X: Any, table: Any, metric: Any, bias: Any, distances: Any
) -> tuple[Any, ...]:
    """Search by the distances themselves, in float64; on the host where necessary."""
    host = table.codewords.astype(np.float64)
    on_device = metric in be.direct_metrics
    codebook = be.send(host) if on_device else host
    constants = None if bias is None else be.send(bias)

    def all_distances(x: Any) -> Any:
        if not on_device:
            return be.send(cdist(be.to_host(x), codebook, metric))
        gaps = be.xp.abs(x[:, None, :] - codebook[None, :, :])
        return (be.xp.sum if metric == "cityblock" else be.xp.max)(gaps, axis=2)

    def tile(rows: slice) -> tuple[Any, ...]:
        x = be.cast(X[rows, :], np.float64)
        found = all_distances(x)
        biased = found if constants is None else found + constants
        code = be.argmin(biased)
        found = be.take_along(found, code[:, None])[:, 0]
        check_defined(be, found, metric, x)
        return (code, found)[: 1 + distances]

    # Python code holds the interpreter's lock, so that threads would only wait.
    work = 0 if callable(metric) else 8 * host.size
    per_row = 2 * host.size if on_device else sum(host.shape)
    chunk = max(16, _DIRECT_ELEMENTS // len(host))
    outputs = [((), np.intp), ((), np.float64)][: 1 + distances]
    found = be.over_rows(X.shape[0], Plan(chunk, per_row, work), tile, outputs)
    return found[0], found[1] if distances else None
