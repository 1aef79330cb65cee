"""Scalar codebooks: levels matched to a density, and statistics of columns.

A scalar codebook cuts one feature in intervals.  Its search is a place in a sorted
list, and the best codebook solves a problem in one dimension.  This module has

- `lloyd_max`, the levels of least squared error for a density (Lloyd 1982, Max 1960),
  and `uniform_reach`, the best equal cells; levels for samples are found in `levels`;
- the statistics of columns from which ranges are set.

`skvq.coding.levels` encodes and decodes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_banded
from scipy.optimize import minimize_scalar

from skvq import nearest
from skvq._checks import check_counts, check_unmasked
from skvq.coding.levels import Grid, Levels  # noqa: F401  old pickles look here
from skvq.learning.rows import (
    HELD_BYTES,
    Block,
    Learner,
    Rows,
    columns,
    extremes,
    in_memory,
    wider,
)

# Number of copies of a tile in memory while a mean is taken.
_COPIES = 8


def per_column(
    name: str, value: Any, n_columns: int, column: str, smallest: int, largest: int
) -> tuple[int, ...]:
    """Return a parameter, an int or one int for each column, as a tuple of ints.

    Parameters
    ----------
    name : str
        The parameter, named in the messages.
    value : int or sequence of int
        The value that was given.
    n_columns : int
        Number of columns.
    column : str
        What a column is called in the messages.
    smallest, largest : int
        Limits of each entry.

    Returns
    -------
    sizes : tuple of int

    Raises
    ------
    ValueError
        If a sequence has another length, or an entry is no integer within the limits.
    """
    if isinstance(value, Integral):
        return (int(value),) * n_columns
    values = list(value)
    if len(values) != n_columns:
        raise ValueError(
            f"{name} has {len(values)} entries, but X has {n_columns} {column}s; give "
            "one int for all, or one for each."
        )
    return tuple(check_counts(name, values, smallest, largest))


def positive_per_column(name: str, value: Any, n_columns: int) -> np.ndarray:
    """Return a parameter, a positive number or one for each column, as float64.

    Parameters
    ----------
    name : str
        The parameter, named in the messages.
    value : float or sequence of float
        The value that was given.
    n_columns : int
        Number of columns.

    Returns
    -------
    numbers : ndarray of float64, shape (n_columns,)

    Raises
    ------
    ValueError
        If a sequence has another length, or an entry is not finite and positive.
    """
    check_unmasked(value, name)
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    if found.shape not in ((), (n_columns,)):
        raise ValueError(
            f"{name}={value!r}; expected one positive number for all of {n_columns} "
            "features, or a sequence with one for each."
        )
    if not ((found > 0) & np.isfinite(found)).all():
        raise ValueError(f"{name}={value!r}; expected finite numbers above zero.")
    return np.broadcast_to(found, (n_columns,)).copy()


# -- weighted columns ------------------------------------------------------------------


def distinct(column: Any, weights: Any | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a column, ascending, and the weight of each.

    Integer weights give the same arrays as repeated values do.  Arrays of other
    libraries are taken to the host.
    """
    be = nearest.backend_of(column)
    weights = None if weights is None else be.to_host(weights)
    values, inverse = np.unique(
        be.to_host(column).astype(np.float64), return_inverse=True
    )
    return values, np.bincount(inverse.ravel(), weights, len(values)).astype(float)


def distinct_of_all(rows: Rows, most: int) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return the distinct values of all features together, and the weight of each.

    This takes the memory of a block.  If there are more distinct values than may be
    kept, neighbours are merged where that adds least error: far values of a tail stay.

    Parameters
    ----------
    rows : Rows
        The samples.
    most : int
        The most values to keep.
    """
    values, weights = yield rows.fold(_few_values, most, join=partial(_merged, most))
    return values, weights


def _few_values(block: Block, most: int) -> tuple[np.ndarray, np.ndarray]:
    be, d = block.be, block.x.shape[1]
    weights = None if block.w is None else np.repeat(block.host_weights(), d)
    return _thinned(*distinct(be.xp.reshape(block.x, (-1,)), weights), most)


def _merged(
    most: int, one: tuple[Any, ...], other: tuple[Any, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the union of two sets of weighted values."""
    values, weights = map(np.concatenate, zip(one, other, strict=True))
    return _thinned(*distinct(values, weights), most)


def _thinned(values: Any, weights: Any, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge pairs of neighbours, least squared error first, until few values remain."""
    while len(values) > most:
        first = np.arange(0, len(values) - 1, 2)
        a, b = weights[first], weights[first + 1]
        # Half gaps, relative to the whole range, neither overflow nor vanish.
        gaps = 0.5 * values[first + 1] - 0.5 * values[first]
        gaps = gaps / (0.5 * values[-1] - 0.5 * values[0])
        errors = a * b / (a + b) * gaps**2
        # At most half of the pairs at a time: the others may get nearer neighbours.
        count = min(len(values) - most, -(-len(first) // 2))
        first = first[errors <= np.partition(errors, count - 1)[count - 1]]
        share = weights[first + 1] / (weights[first] + weights[first + 1])
        values, weights = values.copy(), weights.copy()
        values[first] = (1 - share) * values[first] + share * values[first + 1]
        weights[first] += weights[first + 1]
        kept = np.ones(len(values), dtype=bool)
        kept[first + 1] = False
        values, weights = values[kept], weights[kept]
    return values, weights


def equal_shares(values: np.ndarray, weights: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the n_cells - 1 edges between cells of equal weight, ascending.

    An edge lies halfway between the two values that it separates.  Edges coincide where
    one value weighs more than a cell.
    """
    reached, shares = np.cumsum(weights), np.arange(1, n_cells) / n_cells
    # Rounding may leave a sum of floats just below a share that it reaches.
    wanted = shares * reached[-1] * (1 - 1e-12)
    below = np.minimum(np.searchsorted(reached, wanted), len(weights) - 1)
    above = np.minimum(below + 1, len(values) - 1)
    return 0.5 * values[below] + 0.5 * values[above]


def of_distinct(
    rows: Rows, function: Callable[[Iterator[Any], slice], list[Any]]
) -> Learner[list[Any]]:
    """Return what a function makes of the distinct values of each feature.

    All values of some features at a time are taken into memory.

    Parameters
    ----------
    rows : Rows
        The samples.
    function : callable
        ``function(columns, features)`` returns a list with an entry for each of the
        features, a slice; columns yields what `distinct` returns for each.
    """
    found: list[Any] = []
    step = max(1, rows.n_features * HELD_BYTES // (2 * rows.n_bytes))
    for start in range(0, rows.n_features, step):
        cut = slice(start, min(start + step, rows.n_features))
        some = rows.view(columns, cut.start, cut.stop, width=cut.stop - cut.start)
        X, weights = yield from in_memory(some)
        found += function((distinct(x, weights) for x in X.T), cut)
    return found


def column_range(rows: Rows) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return the smallest and the largest value of each column, in float64."""
    low, high = yield rows.fold(extremes, join=wider)
    return low.astype(np.float64), high.astype(np.float64)


def weighted_mean(
    rows: Rows, function: Callable[..., Any] | None = None, *args: Any
) -> Learner[np.ndarray]:
    """Return the mean over rows of function(backend, x, *args), in float64.

    The weights are scaled to sum 1 first, so that no sum exceeds the largest value.
    """
    share = yield from _share_of_one(rows)
    (mean,) = yield rows.fold(_mean, share, function, args)
    return mean


def _mean(block: Block, share: float, function: Any, args: Any) -> tuple[Any, ...]:
    be, n_columns, shares = block.be, block.x.shape[1], _shares(block, share)

    def work(cut: slice) -> Any:
        x = be.cast(block.x[cut, :], np.float64)
        if function is not None:
            x = be.cast(function(be, x, *args), np.float64)
        return be.xp.sum(x * shares[cut][:, None], axis=0)

    return (sum(be.tiles(block.n_rows, _COPIES * n_columns, work)),)


def _share_of_one(rows: Rows) -> Learner[float]:
    """Return the factor that scales the weights to sum 1."""
    return 1.0 / (yield from total_weight(rows))


def total_weight(rows: Rows) -> Learner[float]:
    """Return the sum of the weights of rows."""
    if not rows.weighted:
        return float(rows.n_rows)
    (whole,) = yield rows.fold(_weight)
    return float(whole)


def _weight(block: Block) -> tuple[Any, ...]:
    return (block.host_weights().sum(),)


def _shares(block: Block, share: float) -> Any:
    return block.weighted(block.be.zeros((block.n_rows,)) + share)


def spread(rows: Rows, mean: np.ndarray) -> Learner[np.ndarray]:
    """Return the root mean square of the rows minus their mean, in float64."""
    low, high = yield from column_range(rows)
    largest = np.maximum(np.maximum(-low, high), np.abs(mean))
    scale = np.where(largest > 0, largest, 1.0)  # no square overflows or vanishes
    squares = yield from weighted_mean(rows, _squared_gaps, scale, mean / scale)
    return scale * np.sqrt(squares)


def _squared_gaps(be: nearest.Backend, x: Any, scale: Any, shift: Any) -> Any:
    gap = x / be.send(scale) - be.send(shift)
    return gap * gap


def level_shares(
    rows: Rows, codec: Any, sizes: tuple[int, ...]
) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return, for each code of each column, its part of the mean and its share of rows.

    Parameters
    ----------
    rows : Rows
        The samples.
    codec : object
        Its method `encode` returns the codes of rows.
    sizes : tuple of int
        V of each column.

    Returns
    -------
    parts, shares : ndarray of float64, shape (sum V,)
        Concatenated over columns.  The parts of a column sum to its mean, its shares
        to one.
    """
    share = yield from _share_of_one(rows)
    parts, shares = yield rows.fold(_level_sums, codec, share, sizes)
    return parts, shares


def level_means(
    parts: np.ndarray, shares: np.ndarray, sizes: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Return the mean of the values of each code of each column.

    Codes without values lie on the line between the means of the nearest codes that
    have values; at the ends they equal the nearest one.

    Parameters
    ----------
    parts, shares : ndarray of float64, shape (sum V,)
        The results of `level_shares`.
    sizes : tuple of int
        V of each column.

    Returns
    -------
    means : tuple of ndarray of float64, shape (V,)
    """
    begins = np.cumsum([0, *sizes])
    cuts = [slice(begins[j], begins[j + 1]) for j in range(len(sizes))]
    return tuple(_filled_means(parts[cut], shares[cut]) for cut in cuts)


def _level_sums(
    block: Block, codec: Any, share: float, sizes: Sequence[int]
) -> tuple[Any, ...]:
    codes = codec.encode(block.x)
    return block.be.level_sums(block.x, codes, _shares(block, share), sizes)


def _filled_means(sums: Any, shares: Any) -> Any:
    used = np.flatnonzero(shares > 0)
    return np.interp(np.arange(len(sums)), used, sums[used] / shares[used])


def mean_squares(rows: Rows, codecs: Sequence[Any], unit: float) -> Learner[np.ndarray]:
    """Return the mean squared error of each column with each of some codecs.

    Parameters
    ----------
    rows : Rows
        The samples.
    codecs : sequence of object
        Their methods `encode` and `decode` return codes, and levels.
    unit : float
        Errors are divided by it before they are squared, so that no square overflows.

    Returns
    -------
    errors : ndarray of float64, shape (n_columns, n_codecs)
        In squares of the unit.
    """
    share = yield from _share_of_one(rows)
    (errors,) = yield rows.fold(_mean_squares, tuple(codecs), share, unit)
    return errors.T


def _mean_squares(
    block: Block, codecs: Any, share: float, unit: float
) -> tuple[Any, ...]:
    xp, found = block.be.xp, []
    x, shares = block.be.cast(block.x, np.float64), _shares(block, share)[:, None]
    for codec in codecs:
        gap = (x - codec.decode(codec.encode(block.x), np.float64)) / unit
        found.append(xp.sum(gap * gap * shares, axis=0))
    return (xp.stack(found),)


def unit_of(rows: Rows, *others: np.ndarray) -> Learner[float]:
    """Return the least power of two that bounds the values of rows, and the others."""
    ends = yield from column_range(rows)
    largest = max(float(np.abs(each).max()) for each in (*ends, *others))
    return float(2.0 ** min(int(np.frexp(largest)[1]), 1023)) if largest > 0 else 1.0


# -- statistics of streams -------------------------------------------------------------


class Averages(NamedTuple):
    """Weighted means over the part of a stream seen so far.

    Parameters
    ----------
    weight : float
        Weight of all rows.
    means : tuple of ndarray
        The quantities that are averaged.
    """

    weight: float
    means: tuple[np.ndarray, ...]

    def joined(self, other: "Averages") -> "Averages":
        """Return the means over both parts of the stream."""
        weight = self.weight + other.weight
        share = other.weight / weight
        pairs = zip(self.means, other.means, strict=True)
        return Averages(weight, tuple(a + share * (b - a) for a, b in pairs))


class Spans(NamedTuple):
    """The least and the largest values of columns of a stream.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n_columns,)
        The values.
    """

    low: np.ndarray
    high: np.ndarray

    def joined(self, other: "Spans") -> "Spans":
        """Return the least and largest values over both parts of the stream."""
        return Spans(*wider(self, other))


class Moments(NamedTuple):
    """Means and standard deviations of columns of a stream.

    Parameters
    ----------
    weight : float
        Weight of all rows.
    mean, spread : ndarray of float64, shape (n_columns,)
        The moments.
    """

    weight: float
    mean: np.ndarray
    spread: np.ndarray

    def joined(self, other: "Moments") -> "Moments":
        """Return the moments over both parts; no square overflows or vanishes."""
        weight = self.weight + other.weight
        share = other.weight / weight
        gap = other.mean - self.mean
        within = np.hypot(
            np.sqrt(1 - share) * self.spread, np.sqrt(share) * other.spread
        )
        between = np.sqrt(share * (1 - share)) * gap
        return Moments(weight, self.mean + share * gap, np.hypot(within, between))


# -- levels for a density --------------------------------------------------------------


class Density(NamedTuple):
    """A log-concave density on an interval, up to a constant factor.

    Parameters
    ----------
    pdf : callable
        The density at an array of places.
    low, high : float
        Bounds beyond which the density is negligible.
    """

    pdf: Callable[[np.ndarray], np.ndarray]
    low: float
    high: float


# Densities of mean 0 and standard deviation 1.
GAUSSIAN = Density(lambda x: np.exp(-0.5 * x * x), -12.0, 12.0)
LAPLACIAN = Density(lambda x: np.exp(-np.sqrt(2.0) * np.abs(x)), -48.0, 48.0)
DENSITIES = {"gaussian": GAUSSIAN, "laplacian": LAPLACIAN}

# Gauss-Legendre of this order on this many panels integrates all densities used here
# to rounding; an even number puts the Laplacian's kink on a border.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_N_PANELS = 256
# Newton's method takes about five steps.
_MAX_STEPS = 200


def lloyd_max(
    density: Density, n_levels: int, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the levels of least squared error for a density.

    Every level is the mean of its cell, and every edge lies halfway between two levels.
    For log-concave densities there is one solution (Fleischer 1964).  Newton's method,
    whose equations are tridiagonal, finds it from the levels that are asymptotically
    best as V grows (Panter and Dite 1951).

    Parameters
    ----------
    density : Density
        Log-concave.
    n_levels : int
        V.
    start : ndarray of shape (n_levels,), optional
        Levels that are known to be close to the solution, ascending.

    Returns
    -------
    levels : ndarray of float64, shape (n_levels,)
        Ascending.
    """
    levels = _panter_dite(density, n_levels) if start is None else start
    edges, mass, mean, error = _cells(density, levels)
    for _ in range(_MAX_STEPS):
        gap = levels - mean
        if np.abs(gap).max() <= 1e-14 * (density.high - density.low):
            break
        trial = levels - _newton_step(density, edges, levels, mass, gap)
        if (np.diff(trial, prepend=density.low, append=density.high) > 0).all():
            found = _cells(density, trial)
            if found[-1] <= error * (1 + 1e-13):
                levels, (edges, mass, mean, error) = trial, found
                continue
        levels = mean  # Lloyd's step, which never raises the error
        edges, mass, mean, error = _cells(density, levels)
    return levels


def _cells(density: Any, levels: Any) -> tuple[Any, Any, Any, Any]:
    """Return the edges, the masses and means of cells, and the total error."""
    edges = 0.5 * (levels[:-1] + levels[1:])
    mass, mean, error = cell_moments(density, edges, levels)
    return edges, mass, mean, float(error.sum())


def _panter_dite(density: Any, n_levels: Any) -> Any:
    """Return the levels whose own density follows the cube root of the density."""
    places = np.linspace(density.low, density.high, 16 * _N_PANELS + 1)
    middles = 0.5 * (places[:-1] + places[1:])
    reached = np.concatenate(([0.0], np.cumsum(np.cbrt(density.pdf(middles)))))
    shares = (np.arange(n_levels) + 0.5) / n_levels
    return np.interp(shares * reached[-1], reached, places)


def _newton_step(density: Any, edges: Any, levels: Any, mass: Any, gap: Any) -> Any:
    """Solve for the step that closes the gaps between the levels and the cell means."""
    height = density.pdf(edges)
    # Derivatives of a cell's mean by its upper and its lower edge; an edge moves half
    # as far as each of its two levels.
    by_upper = 0.5 * height * (edges - levels[:-1]) / mass[:-1]
    by_lower = 0.5 * height * (levels[1:] - edges) / mass[1:]
    bands = np.zeros((3, len(levels)))
    bands[0, 1:] = -by_upper
    bands[1] = 1.0
    bands[1, :-1] -= by_upper
    bands[1, 1:] -= by_lower
    bands[2, :-1] = -by_lower
    if not np.isfinite(bands).all():
        return gap
    return solve_banded((1, 1), bands, gap)


def cell_moments(
    density: Density, edges: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrate a density over the cells between edges.

    Parameters
    ----------
    density : Density
        Up to a factor.
    edges : ndarray of shape (V - 1,)
        Ascending.
    levels : ndarray of shape (V,)
        Levels of the cells.

    Returns
    -------
    mass : ndarray of shape (V,)
        Integral of the density, with its factor.
    mean : ndarray of shape (V,)
        Mean of the cell; its level where there is no mass.
    error : ndarray of shape (V,)
        Integral of the squared distance from the level, with the factor.
    """
    places, heights, cell = quadrature(density, edges)
    gaps = places - levels[cell][:, None]
    mass, moment, error = (
        np.bincount(cell, (heights * gaps**power).sum(axis=1), len(levels))
        for power in (0, 1, 2)
    )
    shift = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)
    return mass, levels + shift, error


def quadrature(
    density: Density, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points and weights for integrals over cells; no panel crosses an edge.

    Parameters
    ----------
    density : Density
        Up to a factor.
    edges : ndarray of shape (V - 1,)
        Ascending.

    Returns
    -------
    places : ndarray of shape (n_panels, n_nodes)
        Points in each panel.
    weights : ndarray of shape (n_panels, n_nodes)
        The density at each point, times the weight of the point.
    cell : ndarray of int, shape (n_panels,)
        The cell in which each panel lies.
    """
    panels = np.linspace(density.low, density.high, _N_PANELS + 1)
    inside = edges[(edges > density.low) & (edges < density.high)]
    borders = np.union1d(panels, inside)
    half = 0.5 * np.diff(borders)
    middle = 0.5 * (borders[:-1] + borders[1:])
    places = middle[:, None] + half[:, None] * _NODES
    weights = density.pdf(places) * (half[:, None] * _WEIGHTS)
    return places, weights, np.searchsorted(edges, middle)


def mean_error(density: Density, edges: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean squared error of a scalar codebook under a density."""
    mass, _, error = cell_moments(density, edges, levels)
    return float(error.sum() / mass.sum())


@lru_cache(maxsize=256)
def standard_levels(name: str, n_levels: int) -> np.ndarray:
    """Return the Lloyd-Max levels of a density of mean 0 and standard deviation 1.

    Parameters
    ----------
    name : {"gaussian", "laplacian"}
        The density.
    n_levels : int
        V.

    Returns
    -------
    levels : ndarray of float64, shape (n_levels,)
        Ascending; read-only.
    """
    levels = lloyd_max(DENSITIES[name], n_levels)
    levels = 0.5 * (levels - levels[::-1])  # symmetric to the last digit
    levels.flags.writeable = False
    return levels


@lru_cache(maxsize=256)
def uniform_reach(name: str, n_levels: int) -> float:
    """Return the a for which V equal cells of [-a, a) have the least squared error.

    Parameters
    ----------
    name : {"gaussian", "laplacian"}
        The density, of mean 0 and standard deviation 1.
    n_levels : int
        V.

    Returns
    -------
    reach : float
    """
    density = DENSITIES[name]

    def error(reach: float) -> float:
        if n_levels > 4096:
            # Beyond, the granular error has its limit, and the end cells are narrow.
            inner = reach * reach / (3.0 * n_levels**2)
            ends = np.array([-reach, 0.0, reach])
            mass, _, far = cell_moments(
                density, ends[[0, 2]], np.array([-reach, 0.0, reach])
            )
            return float(inner + (far[0] + far[2]) / mass.sum())
        edges = np.linspace(-reach, reach, n_levels + 1)
        levels = 0.5 * (edges[:-1] + edges[1:])
        return mean_error(density, edges[1:-1], levels)

    found = minimize_scalar(
        error, bounds=(0.1, density.high), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)
