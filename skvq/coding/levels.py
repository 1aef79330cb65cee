"""Scalar codecs of many columns at once: cells on a line, and their levels.

`Grid` has equal cells, found by a formula; `Levels` has any sorted levels, found by
comparison with their edges; `LevelTables` only decodes.  Cells are half-open: a value
on an edge belongs to the cell above.

The codecs hold NumPy arrays.  Values, codes and levels are arrays of any library.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skvq import nearest
from skvq.codes import smallest_dtype


@dataclass(frozen=True)
class Grid(nearest.EqualCells):
    """Each column's [low, high) cut in equal cells, with levels at the midpoints.

    Edge j is ``low + j * (high - low) / V``, evaluated in float64 in this order, which
    makes the edges of integer and decimal grids exact.  Values beyond the range belong
    to the end cells.  There is no table, so the cost does not depend on V.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The range.  Where it is empty, all levels are equal and every code is 0.
    sizes : tuple of int
        Number of cells V of each column.
    """

    @classmethod
    def with_ends(
        cls, low: np.ndarray, high: np.ndarray, sizes: tuple[int, ...]
    ) -> "Grid":
        """Return cells whose first and last levels are low and high.

        There are V - 1 steps between the levels, and half a step beyond either end.
        The single level of a column with one level lies in the middle.

        Parameters
        ----------
        low, high : ndarray of float64, shape (n_columns,)
            The levels at the ends.
        sizes : tuple of int
            Number of levels V of each column.
        """
        steps = np.asarray(sizes, dtype=np.float64) - 1
        half = np.divide(
            0.25 * high - 0.25 * low, steps, out=np.zeros_like(low), where=steps > 0
        )
        half *= 2  # comes last, so that the width does not overflow
        with np.errstate(over="ignore"):  # infinite if nearly all numbers are in range
            return cls(low - half, high + half, sizes)

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        return nearest.equal_cells(X, self, smallest_dtype(max(self.sizes)))

    def decode(self, codes: Any, dtype: Any = np.float64) -> Any:
        """Return the levels (n_rows, n_columns) of codes."""
        return nearest.equal_levels(codes, self, dtype)

    def tables(self, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
        """Return the levels of each column, (V, 1); equal columns share an array."""
        columns = list(
            zip(self.low.tolist(), self.high.tolist(), self.sizes, strict=True)
        )
        made = {}
        for low, high, size in set(columns):
            column = Grid(np.array([low]), np.array([high]), (size,))
            codes = np.arange(size)[:, None]
            made[low, high, size] = column.decode(codes, dtype)
        return tuple(made[column] for column in columns)


class LevelTables:
    """A table of numbers for each column, in which codes are looked up.

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
        """Return the levels of each column, (V, 1); columns may share an array."""
        arrays = self._tables.arrays
        made = {id(table): table.astype(dtype)[:, None] for table in arrays}
        return tuple(made[id(table)] for table in arrays)


class CellMeans(LevelTables):
    """Equal cells that are decoded to any levels.

    Parameters
    ----------
    cells : Grid
        The cells of each column.
    levels : sequence of 1-d arrays
        The levels that the codes of each column are decoded to.
    """

    def __init__(self, cells: Grid, levels: Sequence[np.ndarray]) -> None:
        super().__init__(levels)
        self.cells = cells

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes V of each column."""
        return self.cells.sizes

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the cells of each column."""
        low, width, sizes = self.cells.low, self.cells.width, self.sizes
        return tuple(
            low[j] + np.arange(1, size) * width[j] / size
            for j, size in enumerate(sizes)
        )

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        return self.cells.encode(X)


class Levels(LevelTables):
    """Sorted levels for each column, and the edges halfway between them.

    Parameters
    ----------
    levels : sequence of 1-d arrays
        Levels of each column, ascending; columns may share an array.  Among equal
        levels the first is found.
    sizes : sequence of int, optional
        Number of levels V of each column; fewer levels are repeated up to that number.
    edges : sequence of 1-d arrays, optional
        Ascending, one fewer than the levels; by default, halfway between them.
    """

    sizes: tuple[int, ...]

    def __init__(
        self, levels: Any, sizes: Sequence[int] | None = None, edges: Any = None
    ) -> None:
        if edges is None:
            halves = {id(table): _halfway(table) for table in levels}
            edges = [halves[id(table)] for table in levels]
        if sizes is None:
            sizes = [len(table) for table in levels]
        self._edges = nearest.Columns(edges)
        self.sizes = tuple(int(size) for size in sizes)
        pairs = list(zip(levels, self.sizes, strict=True))
        made = {(id(table), size): np.resize(table, size) for table, size in pairs}
        super().__init__([made[id(table), size] for table, size in pairs])

    @classmethod
    def of_tables(cls, tables: Sequence[np.ndarray]) -> "Levels":
        """Return the codec of given tables, which may repeat their levels.

        Parameters
        ----------
        tables : sequence of 1-d arrays
            Levels of each column: ascending, or ascending and then repeated.  Columns
            may share an array.
        """
        own = {id(table): _without_repeats(table) for table in tables}
        return cls([own[id(table)] for table in tables], list(map(len, tables)))

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the levels of each column."""
        return self._edges.arrays

    def encode(self, X: Any) -> Any:
        """Return the codes (n_rows, n_columns) of floating X."""
        dtype = smallest_dtype(max(self.sizes))
        return nearest.cells_between(X, self._edges, dtype)


def range_of_levels(
    tables: Iterable[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the range of each column's levels: half a step beyond the end levels.

    A single level covers all values, so its range is infinite.

    Parameters
    ----------
    tables : iterable of ndarray of shape (n_levels,)
        Levels of each column, ascending.
    """
    low, high = [], []
    for table in tables:
        levels = np.unique(np.asarray(table, dtype=np.float64))
        if len(levels) == 1:
            low.append(-np.inf)
            high.append(np.inf)
            continue
        low.append(levels[0] - (levels[1] / 2 - levels[0] / 2))
        high.append(levels[-1] + (levels[-1] / 2 - levels[-2] / 2))
    return np.array(low), np.array(high)


def is_table(table: np.ndarray) -> bool:
    """Return whether an array can be a table of `Levels.of_tables`."""
    table = _without_repeats(table)
    return bool((table[1:] >= table[:-1]).all())


def _without_repeats(table: np.ndarray) -> np.ndarray:
    """Return the levels before a table starts to repeat them; all, if it does not."""
    distinct = np.unique(table)
    repeats = np.array_equal(table, np.resize(distinct, len(table)))
    return distinct if repeats else table


def _halfway(levels: np.ndarray) -> np.ndarray:
    """Return the edges halfway between levels."""
    return between(levels, 0.5 * levels[:-1] + 0.5 * levels[1:])


def between(levels: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return the edges between levels; equal levels get the next edge, or infinity."""
    edges = np.where(levels[:-1] < levels[1:], middles, np.inf)
    return np.minimum.accumulate(edges[::-1])[::-1]
