"""Alphabets of trellises: levels that paths, and not single values, choose among.

Alphabets begin as the Lloyd-Max levels of a sample of the rows.  Then paths and levels
are found in turn: each level becomes the mean of the values on whose path it is, and
those of a trellis of subsets are put in order again.  As the search is not told which
levels would suit the next round, the error may rise; the round of least error counts.

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

# Rows of the sample, about, and the key of the numbers that choose them; values of all
# features together for levels that these share.
_SAMPLE_ROWS, _KEY, _SHARED_VALUES = 4096, 0, 2**17
# Up to so many bits errors are those of the sample.  Beyond, a bit more is taken to
# leave a quarter of the error.
_SAMPLED_BITS = 5
# Up to so many levels alphabets begin as those of the sample; more lie between these.
_SAMPLED_LEVELS = 64
# The most bits of a feature that are given to it from a total.
_MOST_BITS = 12


class Sample(NamedTuple):
    """Some rows of all, or all of few."""

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
    """Return so many levels, ascending; where there are fewer they are repeated."""
    return np.sort(np.resize(levels, n_levels))


def sample(rows: Rows) -> Learner[Sample]:
    """Return some thousand rows, chosen by their numbers; all, if there are no more."""
    some = rows
    if rows.n_rows > _SAMPLE_ROWS:
        share = _SAMPLE_ROWS / rows.n_rows
        some = yield from rows.chosen(some_places, _KEY, share)
    X, weights = yield from in_memory(some)
    return Sample(X.astype(np.float64), weights)


def allocated_rates(
    found: Sample, spread: np.ndarray, total_bits: int, trellis: Trellis
) -> tuple[int, ...]:
    """Return the bits of each feature, for the errors of Lloyd-Max levels.

    Bits that no feature gains from go to the first ones without, as far as paths need
    them: those of constant features.

    Parameters
    ----------
    found : Sample
        What errors are measured on.
    spread : ndarray of shape (n_features,)
        Standard deviations of the features.
    total_bits : int
        What all features may have together.
    trellis : Trellis
        That the features with bits are steps of.
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
    """Return the mean squared errors (n_features, n_rates) at some rates."""
    columns = [distinct(column, found.weights) for column in found.X.T]
    sampled, places = np.unique(np.minimum(bits, _SAMPLED_BITS), return_inverse=True)
    curves = level_errors(columns, [2**rate for rate in sampled.tolist()])
    errors = np.array([np.ldexp(curve, 2 * exponent) for curve, exponent in curves])
    # That of no bits is known of all rows.
    ratios = np.divide(
        variances, errors[:, 0], out=np.zeros_like(variances), where=errors[:, 0] > 0
    )
    return ratios[:, None] * errors[:, places] * 0.25 ** (bits - sampled[places])


def start_levels(
    found: Sample, rates: Sequence[int], mean: Any, spread: Any, shared: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return alphabets of subsets to begin with, and which of them each feature has.

    Parameters
    ----------
    found : Sample
        What they are found on.
    rates : sequence of int
        Bits of each feature.
    mean, spread : ndarray of shape (n_features,)
        Of the features.
    shared : bool
        Whether features of the same rate have one alphabet.

    Returns
    -------
    alphabets : list of ndarray of float64
        Ascending; one of one level for each feature that has no bits.
    numbers : ndarray of int, shape (n_features,)
        Place of each feature's.
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
    """Return as many levels, as dense everywhere as some ascending ones are."""
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
    """Levels of all features, some of which are others moved and stretched.

    Parameters
    ----------
    trellis : Trellis
        Which levels may follow each other.
    rates : tuple of int
        Bits of each feature.
    tables : list of ndarray of float64
        Levels.
    numbers : ndarray of int, shape (n_features,)
        Place of each feature's table.
    middle, width : ndarray of float64, shape (n_features,)
        What its levels are moved by, after they have been multiplied.
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
        """Return the levels of least squared error for what has chosen them."""
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
    """Return the best code that rounds of paths and means lead to.

    Parameters
    ----------
    rows : Rows
        The samples.
    alphabets : Alphabets
        Those of the start.
    max_iter : int
        How many rounds there are at most.

    Returns
    -------
    code : TrellisCode
        That of least error on the rows.
    distortion : float
        Its mean squared distance.
    n_iter : int
        The rounds there were: no more follow where nothing has changed.
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
    """Return the error, and for each table the sums over its levels, and their weights.

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
