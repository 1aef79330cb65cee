"""Cells of scalars, the levels of codes, and the lengths of rows."""

from typing import Any

import numpy as np

from skvq.nearest.backends.base import Backend, Plan
from skvq.nearest.backends.levels import EqualCells, tile_rows
from skvq.nearest.tables import Columns

# Cost of an element in multiply-adds, for the choice of threads.
_WORK = 40.0


def row_plan(n_columns: int, copies: int = 4, work: float = _WORK) -> Plan:
    """Return how to cut rows for work with a few float64 copies of them.

    Parameters
    ----------
    n_columns : int
        Number of columns.
    copies : int, default=4
        Number of copies in memory at a time, on devices.
    work : float, default=40
        Multiply-adds per element.
    """
    return Plan(tile_rows(n_columns), copies * n_columns, work * n_columns, plain=True)


def cells_between(be: Backend, X: Any, edges: Columns, dtype: Any) -> Any:
    """Return the cells of X; see `skvq.nearest.cells_between`."""
    if be.numpy_dtype(X).kind != "f":
        X = be.cast(X, np.float64)
    own = be.numpy_dtype(X).newbyteorder("=")

    def make() -> Any:
        for j, edge in enumerate(edges.arrays):
            if not (edge[1:] >= edge[:-1]).all():
                raise ValueError(f"edges[{j}] are not in ascending order.")
        return be.edges([rounded_up(edge, own) for edge in edges.arrays])

    if not X.shape[1]:
        return be.zeros(X.shape, dtype)

    return be.cells_between(X, edges.form(("edges", own, be.key), make), dtype)


def rounded_up(edges: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return edges in `dtype` that its numbers reach exactly if they reach these."""
    with np.errstate(over="ignore"):
        rounded = edges.astype(dtype)
        low = rounded < edges
        rounded[low] = np.nextafter(rounded[low], np.inf, dtype=dtype)
    return rounded


def equal_levels(be: Backend, codes: Any, cells: EqualCells, dtype: Any) -> Any:
    """Return the midpoints of cells; see `skvq.nearest.equal_levels`."""
    factor, cells = cells.scaled
    rows = [factor, cells.low, cells.width, 2.0 * np.asarray(cells.sizes)]
    sent = be.send(np.stack(rows))
    factor, low, width, twice = (sent[i, :] for i in range(len(rows)))

    def tile(cut: slice) -> tuple[Any, ...]:
        x = be.cast(codes[cut, :], np.float64)
        x *= 2
        x += 1
        x *= width
        x /= twice
        x += low
        x /= factor
        return (x,)

    n, n_columns = codes.shape
    outputs = [((n_columns,), dtype)]
    return be.over_rows(n, row_plan(n_columns), tile, outputs)[0]


def entries(be: Backend, codes: Any, tables: Columns, dtype: np.dtype) -> Any:
    """Return the entries of codes; see `skvq.nearest.entries`."""

    def make() -> tuple[Any, ...]:
        begins = np.cumsum([0, *map(len, tables.arrays)])[:-1]
        table = np.concatenate(tables.arrays).astype(dtype)
        return be.send(table), be.send(begins)

    table, begins = tables.form(("entries", dtype, be.key), make)
    return be.entries(table, codes, begins)


def row_norms(be: Backend, X: Any) -> Any:
    """Return the lengths of rows; see `skvq.nearest.row_norms`."""

    def tile(cut: slice) -> tuple[Any, ...]:
        scaled, exponent = be.scaled_rows(X[cut, :])
        return (be.ldexp(be.xp.sqrt(be.row_products(scaled, scaled)), exponent),)

    n, n_columns = X.shape
    return be.over_rows(n, row_plan(n_columns, work=4), tile, [((), np.float64)])[0]
