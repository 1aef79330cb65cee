"""The nearest codewords in all subspaces, in one pass."""

import math
from functools import partial
from typing import Any

import numpy as np

from skvq.nearest.backends.base import Backend, Plan
from skvq.nearest.searches.flat import nearest
from skvq.nearest.tables import Tables, compute_dtype, flat_form, make_runs
from skvq.nearest.threads import even_chunk


def nearest_product(be: Backend, X: Any, tables: Tables, bias: Any, dtype: Any) -> Any:
    """Return the codes (n_samples, m); see `skvq.nearest.nearest_product`."""
    common = np.result_type(compute_dtype(be.numpy_dtype(X)), tables.dtype)
    plan, runs = _prepared(be, tables, common, bias, X.shape[1])
    chunk = even_chunk(X.shape[0], plan.chunk, plan.work, be.tile_rows)
    plan = plan._replace(chunk=chunk)
    outputs = [((len(tables),), dtype), ((len(tables),), np.bool_)]
    tile = partial(_tile, be, X, runs, common)
    codes, unsure = be.over_rows(X.shape[0], plan, tile, outputs)
    if not bool(be.xp.any(unsure)):
        return codes
    some = be.flagged(be.xp.any(unsure, axis=1))
    unsure, starts = be.to_host(be.take(unsure, some)), np.cumsum(tables.widths)
    columns = [codes[:, j] for j in range(len(tables))]
    for j in np.flatnonzero(unsure.any(axis=0)):
        # Unsure rows are searched again in this table alone, more carefully.
        rows, stop = some[unsure[:, j]], int(starts[j])
        x = be.take(X, rows)[:, stop - tables[j].shape[1] : stop]
        constants = None if bias is None else bias[j]
        found, _ = nearest(be, x, tables[j], "sqeuclidean", constants, False)
        columns[j] = be.replaced(columns[j], rows, found)
    return be.concat([column[:, None] for column in columns], axis=1)


def _prepared(
    be: Backend, tables: Tables, dtype: np.dtype, bias: Any, n_features: int
) -> tuple[Any, ...]:
    """Return how to cut the rows, and runs of equal subspaces, on the device."""

    def make() -> tuple[Any, ...]:
        every = [None] * len(tables) if bias is None else bias
        flat = [
            flat_form(table, "sqeuclidean", dtype, constants)
            for table, constants in zip(tables, every, strict=True)
        ]
        most = be.most_run_scores(max(form.weights.shape[1] for form in flat))
        runs = make_runs(flat, most)
        work = sum(math.prod(run.weights.shape) for run in runs)
        elements = max(
            run.weights.shape[0] * sum(run.weights.shape[1:]) for run in runs
        )
        chunk = be.product_rows_at_a_time(work)
        per_row = be.numbers_per_row(n_features, elements)
        plan = Plan(chunk, per_row, work, be.is_compiled)
        return plan, [be.sent(run, "run") for run in runs]

    if bias is not None:
        return make()
    return tables.form(("product", dtype, be.key), make)


def _tile(
    be: Backend, X: Any, runs: Any, dtype: np.dtype, rows: slice
) -> tuple[Any, ...]:
    x = be.product_tile(X[rows, :], dtype)
    found = [be.argmin_run(x, run) for run in runs]
    if len(runs) == 1:
        return found[0]
    return tuple(be.concat(list(part), axis=1) for part in zip(*found, strict=True))
