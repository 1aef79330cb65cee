"""Levels of least squared error for the samples of one feature, or of many at once.

On a line, the cells of the best codebook are runs of the sorted values.  The best runs
can be found exactly, by dynamic programming over the borders between them: k-means in
one dimension (Wang and Song 2011, Gronlund et al. 2017).

Beyond a thousand distinct values that would take too long.  There, the same method
chooses among at most a thousand borders: those of a fine partition, which splits the
cells of largest error, and those that Lloyd's iterations reach from equal cells.  The
latter are what scikit-learn's ``KBinsDiscretizer(strategy="kmeans")`` learns, so the
levels found here are never worse.  Quantiles would not do as a fine partition: the few
far values of a long tail, which cause most of the error, would share a cell.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest import map_jobs

# Up to this many distinct values the levels are optimal.
_MOST_EXACT = 1024
# Cells of the fine partition for each level.
_CELLS_PER_LEVEL = 8
# Beyond this many levels, a thousand borders leave nothing to choose.
_MOST_CHOSEN = 512
# Number of feature values that are held and processed together.
_ELEMENTS = 2**21
_TOGETHER = 2**14
# Up to this many candidates per border on average, halving their range does not pay.
_FEW_CANDIDATES = 6
_MAX_ITER = 500
# If only the error is wanted: up to this many levels are chosen among this many cells;
# more levels are found by this many rounds of Lloyd's iteration.
_FEW_LEVELS, _FINE_CELLS, _FEW_ITER = 64, 512, 60


def best_levels(
    columns: Iterable[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int]
) -> list[np.ndarray]:
    """Return the levels of least squared error of each feature.

    Up to 1024 distinct values no other levels have a smaller error.  Among equally good
    ones, the last cell begins as low as possible, then the one before it, and so on.

    Parameters
    ----------
    columns : iterable of (values, weights)
        The distinct values of each feature, ascending, in float64, and the weight of
        each value.  Columns are taken from the iterable as they are needed.
    sizes : sequence of int
        Number of levels V for each column.

    Returns
    -------
    levels : list of 1-d ndarrays of float64, ascending
        V levels of each feature; its distinct values if they are at most V.

    References
    ----------
    Wang and Song (2011), "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by
    Dynamic Programming", The R Journal 3(2).

    Gronlund, Larsen, Mathiasen, Nielsen, Schneider and Song (2017), "Fast Exact
    k-Means, k-Medians and Bregman Divergence Clustering in 1D", arXiv 1701.07204.
    """
    levels: list[np.ndarray] = []
    waiting: list[_Line] = []
    n_waiting = 0
    for (values, weights), size in zip(columns, sizes, strict=True):
        levels.append(values)
        if len(values) > size:
            waiting.append(_line(len(levels) - 1, values, weights, int(size)))
            n_waiting += len(values)
        if n_waiting >= _ELEMENTS:
            _learn(waiting, levels)
            waiting, n_waiting = [], 0
    _learn(waiting, levels)
    return levels


def level_errors(
    columns: Iterable[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the error of each feature with its best levels, for several numbers.

    Few levels are chosen among the borders of a fine partition, for all numbers at
    once; for up to 512 distinct values no other levels have a smaller error.  Many
    levels come from a partition that splits the cells of largest error, by some of
    Lloyd's iterations.  Their error is some percent above that of `best_levels`, at a
    small part of the cost.

    Parameters
    ----------
    columns : iterable of (values, weights)
        As in `best_levels`.
    sizes : sequence of int
        The numbers of levels, ascending.

    Yields
    ------
    errors : ndarray of shape (n_sizes,)
        Mean squared errors; they never rise with the number of levels.
    exponent : int
        The errors are in units of 4**exponent.
    """
    for values, weights in columns:
        line = _line(0, values, weights, 1)
        found = _few_errors(line, [size for size in sizes if size <= _FEW_LEVELS])
        for size in sizes[len(found) :]:
            if size >= len(values):
                found.append(0.0)
                continue
            start = _means(line, _split(line, size))
            (borders,) = _improve([line], [start], _FEW_ITER)
            found.append(_error(line, borders))
        errors = np.minimum.accumulate(found) / line.weights.sum()
        yield errors, line.exponent


def _few_errors(line: "_Line", sizes: Sequence[int]) -> list[float]:
    """Return the errors of one feature for small numbers of levels."""
    if not sizes:
        return []
    n = len(line.x)
    borders = np.arange(n + 1) if n <= _FINE_CELLS else _split(line, _FINE_CELLS)
    means = _means(line, borders)[None]
    masses = np.add.reduceat(line.weights, borders[:-1])[None]
    within = _error(line, borders)
    n_layers = min(max(sizes), len(borders) - 1)
    curve = [float(e[0, -1]) for _, e in _layers(means, masses, n_layers)]
    return [within + curve[min(size, n_layers) - 1] for size in sizes]


class _Line(NamedTuple):
    """The values of one feature, and cumulative sums over them."""

    place: int
    size: int
    x: np.ndarray  # (n,), scaled by a power of two to 1 or less
    weights: np.ndarray  # (n,), scaled by a power of two to a sum of 1 or less
    mean: float
    mass: np.ndarray  # (n + 1,), sums of weights
    moment: np.ndarray  # ... times the distance from the mean
    square: np.ndarray  # ... times its square
    exponent: int


def _line(place: Any, values: Any, weights: Any, size: int) -> _Line:
    exponent = int(np.frexp(max(abs(values[0]), abs(values[-1])))[1])
    x = np.ldexp(values, -exponent)
    weights = np.ldexp(weights, -int(np.frexp(weights.sum())[1]))
    mean = float(np.average(x, weights=weights))
    mass, moment, square = (
        np.append(0.0, np.cumsum(weights * (x - mean) ** power)) for power in range(3)
    )
    return _Line(place, size, x, weights, mean, mass, moment, square, exponent)


def _learn(lines: list[_Line], levels: list[np.ndarray]) -> None:
    """Find the levels of some features and write them to their places in `levels`."""
    exact = [line for line in lines if len(line.x) <= _MOST_EXACT]
    all_borders = [np.arange(len(line.x) + 1) for line in exact]
    for line, chosen in zip(exact, _choose(exact, all_borders), strict=True):
        levels[line.place] = _levels(line, chosen)
    others = [line for line in lines if len(line.x) > _MOST_EXACT]
    for size in sorted({line.size for line in others}):
        alike = [line for line in others if line.size == size]
        for line, borders in zip(alike, _local_optima(alike, size), strict=True):
            levels[line.place] = _levels(line, borders)


def _local_optima(lines: list[_Line], size: int) -> list[np.ndarray]:
    """Return borders of V cells of each feature, at least as good as from equal cells.

    The result is never worse than these borders; for many levels, where there is no
    choice of borders, the better of two results is taken.
    """
    equal = _improve(lines, [_middles(line) for line in lines])
    if size > _MOST_CHOSEN:
        found = [_split(line, size) for line in lines]
    else:
        n_cells = min(_CELLS_PER_LEVEL * size, _MOST_EXACT - size)
        fine = [_split(line, n_cells) for line in lines]
        found = _choose(lines, list(map(np.union1d, fine, equal)))
    starts = [_means(line, borders) for line, borders in zip(lines, found, strict=True)]
    improved = _improve(lines, starts)
    return [
        one if _error(line, one) < _error(line, two) else two
        for line, one, two in zip(lines, equal, improved, strict=True)
    ]


def _levels(line: Any, borders: Any) -> np.ndarray:
    levels = np.ldexp(_means(line, borders), line.exponent)
    return np.unique(levels)  # rounding may have made some equal


def _means(line: Any, borders: Any) -> np.ndarray:
    """Return the mean of each cell, summed from its first value, to keep all digits."""
    first, count = borders[:-1], np.diff(borders)
    base = line.x[first]
    gaps = np.add.reduceat(line.weights * (line.x - np.repeat(base, count)), first)
    return base + gaps / np.add.reduceat(line.weights, first)


def _error(line: Any, borders: Any) -> float:
    gaps = line.x - np.repeat(_means(line, borders), np.diff(borders))
    return float(line.weights @ (gaps * gaps))


# -- the best of given borders ---------------------------------------------------------


def _choose(lines: Sequence[_Line], borders: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each feature, return the V + 1 of its borders to keep, both ends included."""
    found: list[np.ndarray] = [*borders]
    batches = list(_batches([len(cuts) - 1 for cuts in borders]))

    def choose(i: int) -> None:
        rows = batches[i]
        n = max(len(borders[row]) - 1 for row in rows)
        means, masses = np.zeros((2, len(rows), n))
        for j, row in enumerate(rows):
            line, cuts = lines[row], borders[row]
            means[j, : len(cuts) - 1] = _means(line, cuts)
            masses[j, : len(cuts) - 1] = np.add.reduceat(line.weights, cuts[:-1])
        firsts = _first_cells(means, masses, max(lines[row].size for row in rows))
        for j, row in enumerate(rows):
            chosen, last = [len(borders[row]) - 1], len(borders[row]) - 1
            for layer in reversed(range(lines[row].size)):
                if last > 0:
                    last = int(firsts[layer, j, last - 1])
                    chosen.append(last)
            found[row] = borders[row][chosen[::-1]]

    map_jobs(choose, len(batches))
    return found


def _batches(lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield batches of places of similar lengths, so large that calls are cheap."""
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    while order.size:
        count = max(1, _TOGETHER // int(lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def _first_cells(x: Any, w: Any, n_cells: int) -> np.ndarray:
    """Return where the last of 1, 2, ... cells begins, for the first j values, all j.

    Parameters
    ----------
    x, w : ndarray of shape (n_features, n)
        Ascending values and their weights.  A feature may be padded with values of
        weight zero.
    n_cells : int
        The largest number of cells.

    Returns
    -------
    firsts : ndarray of int32, shape (n_cells, n_features, n)
        At [k, f, j]: the first value of the last of k + 1 cells of the values 0..j; the
        lowest among equally good ones.
    """
    return np.array([firsts for firsts, _ in _layers(x, w, n_cells)])


def _layers(x: Any, w: Any, n_cells: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield where the last of 1, 2, ... cells begins, and the error of all these cells.

    Yields
    ------
    firsts : ndarray of int32, shape (n_features, n)
        As in `_first_cells`.
    errors : ndarray of shape (n_features, n)
        At [f, j]: the least weighted squared error of the values 0..j.
    """
    n_features, n = x.shape
    costs = _Costs(x, w)
    ends = np.arange(n)
    firsts = np.zeros((n_features, n), dtype=np.int32)
    errors = np.zeros((n_features, n + 1))  # at [f, j]: of the first j values
    rows = np.repeat(np.arange(n_features), n)
    one_cell = costs(rows, np.zeros_like(rows), np.tile(ends, n_features))
    errors[:, 1:] = one_cell.reshape(n_features, n)
    yield firsts, errors[:, 1:]
    for k in range(1, n_cells):
        layer = _Layer(costs, errors, np.minimum(np.maximum(firsts, k), ends))
        if (ends - layer.low + 1).sum() <= _FEW_CANDIDATES * layer.low.size:
            layer.solve(ends, layer.low, np.broadcast_to(ends, layer.low.shape))
        else:
            layer.halve()
        errors, firsts = layer.errors, layer.firsts
        yield firsts, errors[:, 1:]


class _Costs:
    """Squared errors of cells, for many runs of values at once.

    The halves of blocks of 2, 4, 8, ... values are summed outwards from the middle of
    the block.  Every run crosses the middle of one block, and is put together there
    from its two parts.  Nothing is subtracted that is large compared to the result, so
    no digits are lost, however far a cell is from zero or from other cells.  Sums that
    start at the first value would lose them.

    Parameters
    ----------
    x, w : ndarray of shape (n_features, n)
        See `_first_cells`.
    """

    def __init__(self, x: Any, w: Any) -> None:
        n_features, n = x.shape
        n_levels = max(1, (n - 1).bit_length())
        self._width = 1 << n_levels
        padding = ((0, 0), (0, self._width - n))
        x, w = np.pad(x, padding, "edge"), np.pad(w, padding)
        self._level = np.zeros(self._width, dtype=np.intp)  # index of the highest bit
        parts = np.zeros((3, n_features, n_levels, self._width))
        for level in range(n_levels):
            half = 1 << level
            self._level[half : 2 * half] = level
            blocks = (n_features, self._width // (2 * half), 2, half)
            y, m = x.reshape(blocks), w.reshape(blocks)
            parts[:, :, level] = np.stack(
                [
                    _from_first(y[:, :, 0, ::-1], m[:, :, 0, ::-1])[..., ::-1],
                    _from_first(y[:, :, 1], m[:, :, 1]),
                ],
                axis=3,
            ).reshape(3, n_features, self._width)
            # Relative to the last value of the left half, which no mean exceeds.
            step = y[:, :, 1, :1] - y[:, :, 0, -1:]
            parts[1, :, level].reshape(blocks)[:, :, 1] += step
        self._mass, self._mean, self._error = parts.reshape(3, -1)
        self._rows = np.arange(n_features) * n_levels * self._width

    def __call__(self, row: Any, first: Any, last: Any) -> np.ndarray:
        """Return the errors of the runs of values first..last of some features."""
        level = self._level[first ^ last]
        level *= self._width
        level += self._rows[row]
        left, right = level + first, level + last
        a, b = self._mass[left], self._mass[right]
        gap = self._mean[right]
        gap -= self._mean[left]
        gap *= gap
        gap *= a
        gap *= b
        a += b
        np.divide(gap, a, out=gap, where=a > 0)
        gap += self._error[left]
        gap += self._error[right]
        gap[first == last] = 0.0
        return gap


def _from_first(y: Any, w: Any) -> np.ndarray:
    """Return masses, means and errors of the first 1, 2, ... values, (3, ...).

    Means are relative to the first value.
    """
    gaps = y - y[..., :1]
    mass = np.cumsum(w, axis=-1)
    moment, square = np.cumsum(w * gaps, axis=-1), np.cumsum(w * gaps * gaps, axis=-1)
    mean = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.array([mass, mean, np.maximum(square - mean * moment, 0.0)])


class _Layer:
    """The step from k to k + 1 cells: where the new cell begins, for each last value.

    Parameters
    ----------
    costs : _Costs
        Errors of runs of values.
    before : ndarray of shape (n_features, n + 1)
        Errors of the first j values in k cells.
    low : ndarray of int, shape (n_features, n)
        Lowest possible begin: with one cell more, the last one begins no lower.
    """

    def __init__(self, costs: Any, before: Any, low: Any) -> None:
        self._costs, self._before = costs, before.ravel()
        self.low = low
        self.errors = np.zeros_like(before)
        self.firsts = np.zeros_like(low)

    def halve(self) -> None:
        """Solve for every second value between those already solved, and so on.

        The last cell begins no lower when there are more values, so its begin lies
        between those of the two neighbours.
        """
        n = self.low.shape[1]
        stride = 1 << (n - 1).bit_length()
        while stride:
            ends = np.arange(stride - 1, n, 2 * stride)
            low = self.low[:, ends]
            high = np.broadcast_to(ends, low.shape).copy()
            low[:, 1:] = np.maximum(low[:, 1:], self.firsts[:, ends[1:] - stride])
            inner = ends[ends + stride < n]
            bound = self.firsts[:, inner + stride]
            high[:, : len(inner)] = np.minimum(high[:, : len(inner)], bound)
            if ends.size:
                self.solve(ends, low, np.maximum(low, high))
            stride //= 2

    def solve(self, ends: Any, low: Any, high: Any) -> None:
        """Find the best begin between low and high for some last values."""
        n = self.low.shape[1]
        length = (high - low + 1).ravel()
        stops = np.cumsum(length)
        starts = stops - length
        shift = low.ravel() - starts
        problem = np.repeat(np.arange(len(length)), length)
        first = np.arange(stops[-1]) + shift[problem]
        row, end = np.divmod(problem, len(ends))
        error = self._costs(row, first, ends[end])
        error += self._before[row * (n + 1) + first]
        best = np.minimum.reduceat(error, starts)
        found = np.flatnonzero(error == best[problem])
        first = found[np.searchsorted(found, starts)] + shift
        self.firsts[:, ends] = first.reshape(low.shape)
        self.errors[:, ends + 1] = best.reshape(low.shape)


# -- borders to choose from ------------------------------------------------------------


def _split(line: _Line, n_cells: int) -> np.ndarray:
    """Return borders (n_cells + 1,) from rounds of splitting cells of large error."""
    borders = np.array([0, len(line.x)])
    while len(borders) <= n_cells:
        begin, end = borders[:-1], borders[1:]
        mass, moment, square = (
            sums[end] - sums[begin] for sums in (line.mass, line.moment, line.square)
        )
        # Sums from the first value on lose values that are light compared to them: a
        # cell of such values has no mass and no error, and may be cut anywhere.
        gap = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)
        error = np.where(end - begin > 1, np.maximum(square - moment * gap, 0.0), -1.0)
        heaviest = np.argsort(-error, kind="stable")[: n_cells + 1 - len(borders)]
        # If its values lie evenly, each half of a cell has an eighth of its error.
        heavy = heaviest[error[heaviest] >= 0.125 * error.max()]
        middle = np.searchsorted(line.x, gap[heavy] + line.mean)
        middle = np.clip(middle, begin[heavy] + 1, end[heavy] - 1)
        borders = np.sort(np.concatenate([borders, middle]))
    return borders


def _middles(line: _Line) -> np.ndarray:
    """Return the middles of equal cells between the lowest and the highest value."""
    edges = np.linspace(line.x[0], line.x[-1], line.size + 1)
    return 0.5 * (edges[1:] + edges[:-1])


def _improve(
    lines: Sequence[_Line], starts: Sequence[np.ndarray], max_iter: int = _MAX_ITER
) -> list[np.ndarray]:
    """Return the borders that Lloyd's iterations reach, with all V cells in use.

    Means and borders are updated in turn (Lloyd 1982) until no border moves.  Thanks to
    cumulative sums, an iteration costs one binary search per border.
    """
    if not lines:
        return []
    levels = np.array(starts)
    mean = np.array([line.mean for line in lines])[:, None]
    offsets = np.cumsum([0, *(len(line.mass) for line in lines)])[:-1, None]
    mass = np.concatenate([line.mass for line in lines])
    moment = np.concatenate([line.moment for line in lines])
    borders = np.zeros((len(lines), levels.shape[1] + 1), dtype=np.intp)
    moving = np.arange(len(lines))
    for _ in range(max_iter):
        edges = 0.5 * (levels[moving, :-1] + levels[moving, 1:])
        moved = np.zeros((len(moving), borders.shape[1]), dtype=np.intp)
        for row, j, edge in zip(moved, moving.tolist(), edges, strict=True):
            row[1:-1] = np.searchsorted(lines[j].x, edge, side="right")
            row[-1] = len(lines[j].x)
        changed = (moved != borders[moving]).any(axis=1)
        moving, moved = moving[changed], moved[changed]
        if not moving.size:
            break
        borders[moving] = moved
        place = moved + offsets[moving]
        weight = np.diff(mass[place])
        empty = (weight <= 0).any(axis=1)
        means = np.diff(moment[place]) / np.where(weight > 0, weight, 1.0)
        means += mean[moving]
        for row in np.flatnonzero(empty):
            j = moving[row]
            means[row] = _refilled(lines[j], moved[row], levels[j])
        levels[moving] = means
    return [np.unique(row) for row in borders]


def _refilled(line: _Line, borders: Any, levels: Any) -> np.ndarray:
    """Return the means of cells; empty cells take the values of the largest error."""
    count = np.diff(borders)
    cell = np.repeat(np.arange(len(levels)), count)
    empty = np.flatnonzero(count == 0)
    gaps = np.abs(line.x - levels[cell])
    far = np.argsort(-gaps, kind="stable")[: len(empty)]
    cell[far] = empty
    mass = np.bincount(cell, line.weights, len(levels))
    sums = np.bincount(cell, line.weights * line.x, len(levels))
    return np.sort(np.divide(sums, mass, out=levels.copy(), where=mass > 0))
