"""Cells of scalar levels in NumPy arrays, on threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skvq.nearest.backends import levels
from skvq.nearest.backends.levels import tile_rows
from skvq.nearest.threads import map_plain_tiles, scratch

# Cost of an element in multiply-adds, for the choice of threads.
_WORK = 40.0


def equal_cells(
    be: Any, X: np.ndarray, cells: levels.EqualCells, dtype: Any
) -> np.ndarray:
    """Return the cells of X; see `Backend.equal_cells`."""
    codes = np.empty(X.shape, dtype)

    def work(begin: int, end: int) -> None:
        codes[begin:end] = levels.equal_cells(be, X[begin:end], cells, dtype)

    # The search holds some copies of a tile in memory.
    tile = tile_rows(4 * X.shape[1], len(X))
    map_plain_tiles(lambda: work, len(X), tile, _WORK * X.shape[1])
    return codes


def cells_between(X: np.ndarray, edges: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """Return how many edges X has reached; see `Backend.cells_between`."""
    codes = np.empty(X.shape, dtype)

    def work(begin: int, end: int) -> None:
        for j, edge in enumerate(edges):
            codes[begin:end, j] = np.searchsorted(edge, X[begin:end, j], side="right")

    tile = tile_rows(X.shape[1], len(X))
    map_plain_tiles(lambda: work, len(X), tile, _WORK * X.shape[1])
    return codes


def entries(table: np.ndarray, codes: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return entries of tables; see `Backend.entries`."""
    result = np.empty(codes.shape, table.dtype)
    tile = tile_rows(codes.shape[1], len(codes))

    def make_worker() -> Any:
        places = scratch("places", (tile, codes.shape[1]), np.intp)

        def work(begin: int, end: int) -> None:
            place = places[: end - begin]
            np.add(codes[begin:end], begins, out=place, casting="unsafe")
            np.take(table, place, out=result[begin:end], mode="clip")

        return work

    map_plain_tiles(make_worker, len(codes), tile, _WORK * codes.shape[1])
    return result


# -- sums by code ----------------------------------------------------------------------


def level_sums(
    X: Any, codes: Any, shares: Any, sizes: Sequence[int]
) -> tuple[Any, ...]:
    """Return weighted sums of values by code; see `Backend.level_sums`."""
    begins = np.cumsum([0, *sizes])
    sums, reached = np.zeros((2, begins[-1]))
    tile = tile_rows(X.shape[1])
    for begin in range(0, len(X), tile):
        x = X[begin : begin + tile].astype(np.float64)
        share = np.repeat(shares[begin : begin + tile], X.shape[1])
        place = (codes[begin : begin + tile] + begins[:-1]).ravel()
        reached += np.bincount(place, share, len(reached))
        sums += np.bincount(place, x.ravel() * share, len(sums))
    return sums, reached
