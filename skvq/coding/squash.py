"""Squashes of finite scalars, which bound features and round them to integers."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq.codes import smallest_dtype
from skvq.coding.levels import Levels, LevelTables


class Squash:
    """A map that bounds samples and rounds them to integers.

    Attributes
    ----------
    sizes : tuple of int
        Number of levels of each feature.
    symmetric : bool
        Whether code values are equal steps from -1 to 1.
    """

    sizes: tuple[int, ...]
    symmetric = False

    def values(self) -> list[np.ndarray]:
        """Return the numbers, in [-1, 1], that the codes of each feature stand for."""
        made = {}
        for size in set(self.sizes):
            code, half = np.arange(size), size // 2
            steps = 2.0 * code / max(size - 1, 1) - 1.0
            # The single level of a feature without bits is zero.
            made[size] = steps if self.symmetric else (code - half) / max(half, 1)
        return [made[size] for size in self.sizes]

    def ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ends of each column's range; None if there is no range."""
        return None

    @property
    @abstractmethod
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the cells of each column."""

    @abstractmethod
    def encode(self, X: Any) -> Any:
        """Return the codes (n_samples, n_features) of floating X."""

    @abstractmethod
    def bounded(self, X: Any) -> Any:
        """Return the bounded values of X, in its dtype."""


class Tanh(Squash):
    """The tanh squash of the paper, corrected or as printed, or a symmetric form."""

    offset: NDArray[Any]
    scale: NDArray[Any]
    shift: NDArray[Any]
    sizes: tuple[int, ...]
    symmetric: bool

    # Samples are divided by this; it is one in files written before it existed.
    unit: np.ndarray = np.ones(1)

    def __init__(self, sizes: tuple[int, ...], formula: str, unit: np.ndarray) -> None:
        self.sizes, self.unit = sizes, unit
        self.symmetric = formula == "symmetric"
        levels = np.asarray(sizes, dtype=np.float64)
        self.offset = np.where(levels % 2 == 0, 0.5, 0.0)
        excess = {"corrected": 1e-3, "paper": -1e-3, "symmetric": 0.0}[formula]
        self.scale = (levels - 1) * (1 + excess) / 2
        if self.symmetric:
            self.shift = np.zeros_like(levels)
        elif formula == "paper":
            self.shift = self._as_printed(self.offset / self.scale)
        else:
            self.shift = self._inverse(self.offset / self.scale)

    # The bounding function; its inverse, which is infinite at the ends; and the inverse
    # that the paper prints.

    @staticmethod
    def _function(be: nearest.Backend, z: Any) -> Any:
        return be.xp.tanh(z)

    @staticmethod
    def _inverse(shares: np.ndarray) -> np.ndarray:
        return np.arctanh(shares)

    @staticmethod
    def _as_printed(shares: np.ndarray) -> np.ndarray:
        return np.tan(shares)

    def __getstate__(self) -> dict[Any, Any]:
        # The edges are left out, since they follow from the rest.
        return {k: v for k, v in vars(self).items() if k != "_edges"}

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the cells of each column."""
        return self._edges.arrays

    @cached_property
    def _edges(self) -> nearest.Columns:
        unit = np.broadcast_to(self.unit, self.scale.shape)
        rows = zip(self.sizes, self.scale, self.shift, self.offset, unit, strict=True)
        return nearest.Columns([self._borders(*row) for row in rows])

    def _borders(
        self, size: int, scale: Any, shift: Any, offset: Any, unit: Any
    ) -> Any:
        """Return where the bounded value is halfway between two integers.

        Only zero hits a border of tanh exactly.  It belongs above, as rounding half to
        even has it, and so do all borders of the symmetric form.
        """
        bounded = np.arange(1, size) - size // 2 - 0.5
        # As printed, the range is too narrow for a thousand levels or more.
        shares = np.clip((bounded + offset) / scale, -1, 1)
        with np.errstate(divide="ignore"):
            return (self._inverse(shares) - shift) * unit

    def encode(self, X: Any) -> Any:
        """Return the codes of X."""
        return nearest.cells_between(X, self._edges, smallest_dtype(max(self.sizes)))

    def bounded(self, X: Any) -> Any:
        """Return the bounded values of X, in its dtype."""
        be = nearest.backend_of(X)
        dtype = be.numpy_dtype(X)
        unit = np.broadcast_to(self.unit, self.scale.shape)
        rows = self.scale, self.shift, self.offset, unit
        scale, shift, offset, unit = (be.send(row.astype(dtype)) for row in rows)

        def tile(cut: slice) -> tuple[Any, ...]:
            z = self._function(be, X[cut, :] / unit + shift)
            z *= scale
            z -= offset
            return (z,)

        plan, outputs = nearest.row_plan(X.shape[1]), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]


class Clamp(Tanh):
    """The same formulas with the identity, clipped to [-1, 1], in place of tanh."""

    def ranges(self) -> tuple[Any, Any]:
        """Return the values of each column beyond which it clips."""
        unit = np.broadcast_to(self.unit, self.scale.shape)
        return (-1 - self.shift) * unit, (1 - self.shift) * unit

    @staticmethod
    def _function(be: nearest.Backend, z: Any) -> Any:
        one = be.xp.ones_like(z)
        return be.xp.minimum(be.xp.maximum(z, -one), one)

    @staticmethod
    def _inverse(shares: Any) -> Any:
        beyond = np.where(np.abs(shares) < 1, 1.0, np.inf)
        return shares * beyond

    @staticmethod
    def _as_printed(shares: Any) -> Any:
        return shares


class Spread(Squash):
    """A linear squash: end levels at the smallest and the largest training value."""

    high: Any
    low: Any
    sizes: tuple[int, ...]

    def ranges(self) -> tuple[Any, Any]:
        """Return the smallest and the largest training value of each column."""
        return self.low, self.high

    def __init__(self, sizes: tuple[int, ...], low: Any, high: Any) -> None:
        self.sizes, self.low, self.high = sizes, low, high
        tables, edges = zip(*map(self._column, range(len(sizes))), strict=True)
        self._levels = Levels(tables, edges=edges)

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the cells of each column."""
        return self._levels.edges

    def _column(self, j: Any) -> tuple[Any, Any]:
        """Return the codes of a column, and the least value that has each code."""
        size, code = self.sizes[j], np.arange(self.sizes[j])
        # Scaling by a power of two is exact and keeps the width from overflowing.
        exponent = int(np.frexp(max(abs(self.low[j]), abs(self.high[j])))[1])
        low, high = np.ldexp([self.low[j], self.high[j]], -exponent)
        edges = low + (code[1:] - 0.5) * (high - low) / (size - 1)
        edges = np.ldexp(edges, exponent)
        # The bounded value is rounded half to even: every other edge belongs below.
        below = (code[1:] - size // 2) % 2 == 1
        edges[below] = np.nextafter(edges[below], np.inf)
        return code.astype(np.float64), np.maximum.accumulate(edges)

    def encode(self, X: Any) -> Any:
        """Return the codes of X."""
        return self._levels.encode(X)

    def bounded(self, X: Any) -> Any:
        """Return the bounded values of X, in its dtype."""
        be = nearest.backend_of(X)
        dtype = be.numpy_dtype(X)
        last = np.asarray(self.sizes) - 1
        half = np.asarray(self.sizes) // 2
        exponent = np.frexp(np.maximum(np.abs(self.low), np.abs(self.high)))[1]
        low, high = np.ldexp([self.low, self.high], -exponent)
        width = np.where(high > low, high - low, 1.0)
        exponent = be.send(-exponent.astype(np.int64))
        rows = np.stack([low, width, last, half])
        low, width, last, half = (be.send(row) for row in rows)

        def tile(cut: slice) -> tuple[Any, ...]:
            # Values that overflow are beyond the range, and are clipped to it.
            z = be.ldexp(be.cast(X[cut, :], np.float64), exponent)
            z -= low
            z *= last
            z /= width
            z = be.xp.minimum(be.xp.maximum(z, be.xp.zeros_like(last)), last)
            return (z - half,)

        plan, outputs = nearest.row_plan(X.shape[1], 6), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]


class Distribution(Squash):
    """The distribution function of the training samples, linear between edges."""

    def ranges(self) -> tuple[Any, Any]:
        """Return the smallest and the largest training value of each column."""
        return self._first, self._last

    def __init__(self, sizes: tuple[int, ...], edges: Any, knots: Any) -> None:
        self.sizes = sizes
        gaps = list(map(np.diff, knots))
        with np.errstate(over="ignore"):  # from denormal gaps
            slopes = [
                np.divide(1.0, gap, out=np.zeros_like(gap), where=gap > 0)
                for gap in gaps
            ]
        # Where each cell begins, and its slope.
        self._levels = Levels([cuts[:-1] for cuts in knots], edges=edges)
        self._slopes = LevelTables(slopes)
        self._first, self._last = (np.array([cut[i] for cut in knots]) for i in (0, -1))

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges between the cells of each column."""
        return self._levels.edges

    def encode(self, X: Any) -> Any:
        """Return the codes of X."""
        return self._levels.encode(X)

    def bounded(self, X: Any) -> Any:
        """Return the bounded values of X, in its dtype."""
        # The same as `numpy.interp`, starting from the cells.
        be, sizes = nearest.backend_of(X), np.asarray(self.sizes, dtype=np.float64)
        codes, dtype = self.encode(X), be.numpy_dtype(X)
        rows = self._first, self._last, sizes, sizes // 2
        first, last, size, half = map(be.send, rows)

        def tile(cut: slice) -> tuple[Any, ...]:
            x, cell = be.cast(X[cut, :], np.float64), codes[cut, :]
            gap, zero = x - self._levels.decode(cell), be.xp.zeros_like(x)
            share = be.xp.where(gap > 0, self._slopes.decode(cell) * gap, zero)
            # The slope of a gap of width zero is infinite.
            share = be.xp.minimum(share, be.xp.ones_like(x))
            share += be.cast(cell, np.float64)
            share = be.xp.where(x < first, zero, share)
            share = be.xp.where(x >= last, size + zero, share)
            share -= 0.5
            return (share - half,)

        plan, outputs = nearest.row_plan(X.shape[1], 8), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]
