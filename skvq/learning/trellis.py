"""Alphabets of trellises: the levels that paths choose among.

Alphabets begin as the Lloyd-Max levels of a sample of the rows.  Then paths and levels
are found in turn: each level becomes the mean of the values whose path takes it, and
the levels of a trellis of subsets are sorted again.  The search does not know which
levels would suit the next round, so the error may rise.  The round of least error
counts.

References
----------
M. W. Marcellin and T. R. Fischer (1990), "Trellis coded quantization of memoryless and
Gauss-Markov sources", IEEE Transactions on Communications 38(1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq.coding.trellis import TrellisCode
from skvq.learning.allocation import best_sizes
from skvq.learning.levels import best_levels, level_errors
from skvq.learning.random_rows import some_places
from skvq.learning.rows import Block, Learner, Rows, in_memory
from skvq.learning.scalar import distinct, total_weight
from skvq.nearest import Trellis

# The number of rows in the sample, about; the key of the numbers that choose them; and
# the number of values, over all features, for levels that features share.
_SAMPLE_ROWS, _KEY, _SHARED_VALUES = 4096, 0, 2**17
# Up to this many bits errors are measured on the sample.  Each bit beyond is assumed to
# quarter the error.
_SAMPLED_BITS = 5
# Up to this many levels are learned from the sample; more levels lie between these.
_SAMPLED_LEVELS = 64
# The most bits that one feature gets from a total.
_MOST_BITS = 12


class Sample(NamedTuple):
    """A sample of the rows, or all rows if they are few."""

    X: np.ndarray  # (n_samples, n_features), float64
    weights: np.ndarray | None

    def levels(self, feature: int, n_levels: int) -> np.ndarray:
        """Return the levels of least squared error of a feature."""
        column = distinct(self.X[:, feature], self.weights)
        return _of_number(best_levels([column], [n_levels])[0], n_levels)

    def shared_levels(self, features: np.ndarray, n_levels: int) -> np.ndarray:
        """Return the levels of least squared error of features together."""
        n_rows = max(1, _SHARED_VALUES // len(features))
        values = self.X[:n_rows, features]
        weights = self.weights
        if weights is not None:
            weights = np.repeat(weights[:n_rows], len(features))
        column = distinct(values.ravel(), weights)
        return _of_number(best_levels([column], [n_levels])[0], n_levels)


def _of_number(levels: np.ndarray, n_levels: int) -> np.ndarray:
    """Return n_levels ascending levels, by repeating them where there are fewer."""
    return np.sort(np.resize(levels, n_levels))


def sample(rows: Rows) -> Learner[Sample]:
    """Return some thousand rows, chosen by their numbers, or all of fewer."""
    some = rows
    if rows.n_rows > _SAMPLE_ROWS:
        share = _SAMPLE_ROWS / rows.n_rows
        some = yield from rows.chosen(some_places, _KEY, share)
    X, weights = yield from in_memory(some)
    return Sample(X.astype(np.float64), weights)


def allocated_rates(
    found: Sample, spread: np.ndarray, total_bits: int, trellis: Trellis
) -> tuple[int, ...]:
    """Return the bits of each feature that suit the errors of Lloyd-Max levels.

    Bits from which no feature gains go to the first features without bits, such as
    constant ones, if paths need more steps.

    Parameters
    ----------
    found : Sample
        The sample on which errors are measured.
    spread : ndarray of shape (n_features,)
        Standard deviations of the features.
    total_bits : int
        The most bits that all features may have together.
    trellis : Trellis
        The trellis, whose steps are the features with bits.
    """
    step = trellis.step_bits
    bits = np.arange(0, (_MOST_BITS if trellis.has_subsets else step) + 1, step)
    # No square overflows or vanishes.
    largest = spread.max() if spread.max() > 0 else 1.0
    found, parts = found._replace(X=found.X / largest), spread / largest
    errors = _errors(found, parts**2, bits)
    rates = bits[best_sizes(errors, bits.astype(np.float64), total_bits)]
    n_left = min(
        (total_bits - int(rates.sum())) // step,
        trellis.n_forgetting - np.count_nonzero(rates),
    )
    rates[np.flatnonzero(rates == 0)[: max(0, n_left)]] = step
    return tuple(rates.tolist())


def _errors(found: Sample, variances: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the mean squared errors (n_features, n_rates) at several rates."""
    columns = [distinct(column, found.weights) for column in found.X.T]
    sampled, places = np.unique(np.minimum(bits, _SAMPLED_BITS), return_inverse=True)
    curves = level_errors(columns, [2**rate for rate in sampled.tolist()])
    errors = np.array([np.ldexp(curve, 2 * exponent) for curve, exponent in curves])
    # The error at zero bits is known from all rows.
    ratios = np.divide(
        variances, errors[:, 0], out=np.zeros_like(variances), where=errors[:, 0] > 0
    )
    return ratios[:, None] * errors[:, places] * 0.25 ** (bits - sampled[places])


def start_levels(
    found: Sample, rates: Sequence[int], mean: Any, spread: Any, shared: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the first alphabets of subsets, and which of them each feature has.

    Parameters
    ----------
    found : Sample
        The sample to find them on.
    rates : sequence of int
        Bits of each feature.
    mean, spread : ndarray of shape (n_features,)
        Mean and standard deviation of each feature.
    shared : bool
        Whether features of the same rate have one alphabet.

    Returns
    -------
    alphabets : list of ndarray of float64
        Ascending; a feature without bits has an alphabet of one level.
    numbers : ndarray of int, shape (n_features,)
        Index of each feature's alphabet.
    """
    alphabets: list[np.ndarray] = []
    numbers = np.zeros(len(rates), dtype=np.intp)
    places: dict[int, int] = {}
    of_rate = np.asarray(rates)
    for j, rate in enumerate(rates):
        if shared and rate in places:
            numbers[j] = places[rate]
            continue
        numbers[j], n_levels = len(alphabets), 2 ** (rate + 1)
        if rate == 0:
            alphabets.append(mean[j : j + 1])
            continue
        places[rate] = len(alphabets)
        alike = np.flatnonzero(of_rate == rate) if shared else np.array([j])
        n_sampled = min(n_levels, _SAMPLED_LEVELS)
        if shared:
            levels = found.shared_levels(alike, n_sampled)
        else:
            levels = found.levels(j, n_sampled)
        alphabets.append(_refined(levels, n_levels))
    return alphabets, numbers


def _refined(levels: np.ndarray, n_levels: int) -> np.ndarray:
    """Return n_levels levels that are distributed like the given ascending ones."""
    if n_levels == len(levels):
        return levels
    places = (np.arange(n_levels) + 0.5) * (len(levels) / n_levels) - 0.5
    below, above = np.minimum(places, 0), np.maximum(places - (len(levels) - 1), 0)
    found = np.interp(places, np.arange(len(levels)), levels)
    return found + below * (levels[1] - levels[0]) + above * (levels[-1] - levels[-2])


def pooled(mean: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Return the mean and the standard deviation of all features together."""
    middle = float(mean.mean())
    gaps = np.hypot(spread, mean - middle)
    largest = max(float(gaps.max()), np.finfo(np.float64).tiny)
    return middle, largest * float(np.sqrt(np.mean((gaps / largest) ** 2)))


class Alphabets(NamedTuple):
    """Levels of all features, where features may share a table up to shift and scale.

    Parameters
    ----------
    trellis : Trellis
        Which levels may follow each other.
    rates : tuple of int
        Bits of each feature.
    tables : list of ndarray of float64
        Levels before shift and scale.
    numbers : ndarray of int, shape (n_features,)
        Index of each feature's table.
    middle, width : ndarray of float64, shape (n_features,)
        Shift and scale of each feature's levels: middle + width * level.
    """

    trellis: Trellis
    rates: tuple[int, ...]
    tables: list[np.ndarray]
    numbers: np.ndarray
    middle: np.ndarray
    width: np.ndarray

    def code(self, dtype: np.dtype) -> TrellisCode:
        """Return the code of these levels, rounded to a dtype."""
        made: dict[tuple[Any, ...], np.ndarray] = {}
        arrays = []
        for key in zip(
            self.numbers.tolist(),
            self.middle.tolist(),
            self.width.tolist(),
            strict=True,
        ):
            if key not in made:
                number, middle, width = key
                made[key] = (middle + width * self.tables[number]).astype(dtype)
            arrays.append(made[key])
        return TrellisCode(self.trellis, self.rates, arrays)

    def moved(self, sums: list[np.ndarray], counts: list[np.ndarray]) -> "Alphabets":
        """Return the levels of least squared error for the values that chose them."""
        tables = [
            np.divide(total, count, out=table.copy(), where=count > 0)
            for table, total, count in zip(self.tables, sums, counts, strict=True)
        ]
        if self.trellis.has_subsets:
            tables = [np.sort(table) for table in tables]
        return self._replace(tables=tables)


def trained(
    rows: Rows, alphabets: Alphabets, max_iter: int
) -> Learner[tuple[TrellisCode, float, int]]:
    """Return the best code found by alternating between paths and means of levels.

    Parameters
    ----------
    rows : Rows
        The samples.
    alphabets : Alphabets
        The first alphabets.
    max_iter : int
        The most rounds.

    Returns
    -------
    code : TrellisCode
        The code of least error on the rows.
    distortion : float
        Its mean squared distance.
    n_iter : int
        The number of rounds; they end early once nothing changes.
    """
    weight = yield from total_weight(rows)
    rows = rows.held()
    code = alphabets.code(rows.dtype)
    best, least = code, np.inf

    def found_so_far() -> tuple[TrellisCode, float, int]:
        return best, least / weight, n_iter

    for n_iter in range(max_iter + 1):
        task = rows.task.begin("iteration")
        error, *found = yield rows.fold(_sums, code, alphabets)
        if error < least:
            best, least = code, float(error)
        n_tables = len(alphabets.tables)
        alphabets = alphabets.moved(found[:n_tables], found[n_tables:])
        following = alphabets.code(rows.dtype)
        stops = task.end(found_so_far)
        if stops or n_iter == max_iter or _are_equal(code, following):
            break
        code = following
    return found_so_far()


def _are_equal(one: TrellisCode, other: TrellisCode) -> bool:
    pairs = zip(one.alphabets.arrays, other.alphabets.arrays, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _sums(block: Block, code: TrellisCode, alphabets: Alphabets) -> tuple[Any, ...]:
    """Return the error and, for each table, sums over its levels and their weights.

    A level t stands for middle + width t, so a value x asks for (x - middle) / width,
    and its error counts width^2 times.
    """
    be = block.be
    places, errors = code.search(block.x, as_levels=True, distances=True)
    sums = [np.zeros(len(table)) for table in alphabets.tables]
    counts = [np.zeros(len(table)) for table in alphabets.tables]
    for j, number in enumerate(alphabets.numbers.tolist()):
        size, width = len(sums[number]), float(alphabets.width[j])
        column = be.cast(block.x[:, j : j + 1], np.float64) - float(alphabets.middle[j])
        own = be.contiguous(be.cast(places[:, j], np.intp))
        total, count = map(be.to_host, be.cell_sums(column, own, size, block.w))
        sums[number] += width * total[:, 0]
        counts[number] += width * width * count
    return (np.array(be.total(errors, block.w)), *sums, *counts)
