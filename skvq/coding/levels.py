"""Scalar codecs of many columns at once: cells on a line, and their levels.

`Grid` has equal cells, found by a formula; `Levels` any sorted levels, found by
comparison with their edges; `LevelTables` says only what codes are decoded to.  Cells
are half-open: a value on an edge belongs to the cell above.

All are NumPy's in themselves.  Values, codes and levels are arrays of any library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skvq import nearest
from skvq.codes import smallest_dtype


@dataclass(frozen=True)
class Grid(nearest.EqualCells):
    """Each column's [low, high) cut in equal cells, with levels at the midpoints.

    Edge j is ``low + j * (high - low) / V``, evaluated in float64 in this order, which
    makes the edges of integer and decimal grids exact; values beyond the range belong
    to the end cells.  No table is kept: any V costs the same.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The range.  Where it is empty, all levels are equal and every code is 0.
    sizes : tuple of int
        V of each column.
    """

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        return nearest.equal_cells(X, self, smallest_dtype(max(self.sizes)))

    def decode(self, codes: Any, dtype: Any = np.float64) -> Any:
        """Return the levels (n_rows, n_columns) of codes."""
        return nearest.equal_levels(codes, self, dtype)

    def tables(self, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
        """Return the levels of each column, (V, 1)."""
        return tuple(
            Grid(self.low[[j]], self.high[[j]], (size,)).decode(
                np.arange(size)[:, None], dtype
            )
            for j, size in enumerate(self.sizes)
        )


class LevelTables:
    """A table of numbers for each column, which codes are looked up in.

    Parameters
    ----------
    tables : sequence of 1-d arrays
        The numbers.
    """

    def __init__(self, tables: Sequence[np.ndarray]) -> None:
        self._tables = nearest.Columns(tables)

    def decode(self, codes: Any, dtype: Any = np.float64) -> Any:
        """Return the levels (n_rows, n_columns) of codes."""
        return nearest.entries(codes, self._tables, dtype)

    def tables(self, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
        """Return the levels of each column, (V, 1)."""
        return tuple(table.astype(dtype)[:, None] for table in self._tables.arrays)


class Levels(LevelTables):
    """Sorted levels for each column, and the edges halfway between them.

    Parameters
    ----------
    levels : sequence of 1-d arrays
        Distinct levels of each column, ascending.
    sizes : sequence of int, optional
        V of each column; where there are fewer distinct levels they are repeated.
    edges : sequence of 1-d arrays, optional
        Ascending, one fewer than the levels; if they are not halfway between them.
    """

    def __init__(self, levels, sizes=None, edges=None):
        if edges is None:
            edges = [0.5 * table[:-1] + 0.5 * table[1:] for table in levels]
        if sizes is None:
            sizes = [len(table) for table in levels]
        self._edges = nearest.Columns(edges)
        self.sizes = tuple(int(size) for size in sizes)
        super().__init__(list(map(np.resize, levels, self.sizes)))

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the levels of each column."""
        return self._edges.arrays

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        dtype = smallest_dtype(max(self.sizes))
        return nearest.cells_between(X, self._edges, dtype)
