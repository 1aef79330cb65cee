"""Scalar schemes: each feature replaced by the level of its cell on the line."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq._checks import check_count, check_memory, check_unmasked, is_sequence
from skvq._compat import NUMBERS, SIZE, SIZES, Accepted, Interval, StrOptions
from skvq._given import as_shared, one_or_each
from skvq._validation import (
    all_in_memory,
    as_it_is_now,
    check_numbers,
    warn_of_some,
)
from skvq.base import over_blocks
from skvq.coding.levels import Grid, Levels, LevelTables, is_table
from skvq.coding.squash import Clamp, Distribution, Spread, Squash, Tanh
from skvq.learning.levels import best_levels
from skvq.learning.quantiles import quantiles
from skvq.learning.rows import Learner, Rows, run, stacked
from skvq.learning.scalar import (
    DENSITIES,
    Averages,
    Moments,
    Spans,
    column_range,
    distinct_of_all,
    equal_shares,
    level_means,
    level_shares,
    of_distinct,
    per_column,
    positive_per_column,
    spread,
    standard_levels,
    total_weight,
    uniform_reach,
    weighted_mean,
)
from skvq.parts import check_as_begun
from skvq.scalar import ScalarQuantizer, columns_of_tables, shared_tables

ARRAYS = Accepted(is_sequence, "a sequence of arrays")
# What a range that was given in numbers is called.
_GIVEN = "(low, high)"
# How many values of all features are kept, for levels that these share.
_MOST_VALUES, _VALUES_PER_LEVEL = 2**18, 16
# Where files and pickles of earlier versions look for squashes.
_Tanh, _Spread, _Distribution = Tanh, Spread, Distribution
# Squashes of which nothing is learned.
_FIXED_BOUNDS = frozenset({"tanh", "clamp"})


class UniformQuantizer(ScalarQuantizer):
    r"""Cut the range of each feature in equal cells.

    The Cartesian codebook: [low, high) is cut in V cells, and level j is the middle of
    its cell, :math:`W_j = low + (2j + 1)(high - low) / (2V)`; or, with
    ``ends="levels"``, low and high are levels themselves, with V - 1 steps between
    them.  The nearest level is found by a formula, and no table is kept: V may be as
    large as one likes, and the cost is the same.  An edge belongs to the cell above
    it, and values beyond the range to the end cells.  Several features are the
    concatenated scheme of such grids; the range [0, N) with V = N rounds down to i and
    adds one half.

    Parameters
    ----------
    n_levels : int or sequence of int, default=256
        V of every feature, or of each.
    feature_range : {"minmax", "quantile", "gaussian", "laplacian"} or (low, high), \
            default="minmax"
        With ``levels="uniform"``: the range that is cut.  "minmax": that of the
        training samples; "quantile": that between two quantiles of them, which a few
        outliers don't widen; "gaussian" or "laplacian": the one with the least squared
        error for such a density, fitted to the training samples; or two numbers, or
        two arrays with one number for each feature, low < high.
    quantile_range : (float, float), default=(0.1, 99.9)
        The quantiles of ``feature_range="quantile"``, in percent.
    levels : {"uniform", "lloyd-max"} or sequence of arrays, default="uniform"
        "uniform": equal cells; "lloyd-max": the levels of least squared error; or the
        levels themselves, ascending, an array for each feature, or one in all with
        ``share_levels=True``: nothing is learned then, and `n_levels` plays no part.
    density : {"data", "gaussian", "laplacian"}, default="data"
        With ``levels="lloyd-max"``: what the levels are matched to: the training
        samples themselves, or a density fitted to them.  A Gaussian has their mean and
        standard deviation, a Laplacian their median and mean absolute deviation.
    ends : {"edges", "levels"}, default="edges"
        With ``levels="uniform"``: what low and high are.  "edges": the outer edges of V
        equal cells; "levels": the first and the last level, with V - 1 equal steps
        between them.
    share_levels : bool, default=False
        Whether all features have the same levels, learned from all values together.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, 1)
        The levels of each feature; features that share them have the same array.
    codebook_sizes_ : tuple of int
        V_1..V_d.
    feature_range_ : tuple of two ndarrays of shape (n_features,)
        With ``levels="uniform"``: low and high.
    clipped_share_ : ndarray of shape (n_features,)
        With ``levels="uniform"``: the share of the training weight that lies below low
        or above high; of a stream, of each batch by the range that it has led to; NaN,
        of tables that were given.
    bits_per_sample_ : float
        Sum of log2 V_j.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    n_features_in_ : int
        Number of features.

    See Also
    --------
    FiniteScalarQuantizer : Squashes the features to a bounded range first.

    Notes
    -----
    Edge j is ``low + j * (high - low) / V`` in float64, and is what values are compared
    with, whatever their dtype.  A value in the range is off by (high - low) / (2V) at
    most; with ``ends="levels"`` by (high - low) / (2(V - 1)), and low and high
    themselves are exact but for rounding.

    `partial_fit` widens the range of "minmax", goes on with the mean and the standard
    deviation of "gaussian" (for levels or range), and counts what a given range clips.

    Of Gaussian features Lloyd-Max levels leave an error of
    .363, .1175, .0345 and .0095 of the variance at 1 to 4 bits, the best equal cells
    .363, .1188, .0374 and .0115.  With ``density="data"``, a feature with fewer
    distinct samples than levels is a ConvergenceWarning; its levels are those,
    repeated.  So is a range that is a point, of a constant feature or between two equal
    quantiles.

    The levels for ``density="data"`` are the best there are up to 1024 distinct values,
    found by dynamic programming; beyond, a local optimum that is never worse than that
    of scikit-learn's ``KBinsDiscretizer(strategy="kmeans")``.  With
    ``share_levels=True``, of more than 262,144 values (16 for each level, if that is
    more) near ones are merged: memory is that of a block of rows, whatever their
    number.

    References
    ----------
    Lloyd (1982), "Least Squares Quantization in PCM", IEEE Trans. Inf. Theory 28(2).

    Max (1960), "Quantizing for Minimum Distortion", IRE Trans. Inf. Theory 6(1).

    Gray and Neuhoff (1998), "Quantization", IEEE Trans. Inf. Theory 44(6).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import UniformQuantizer
    >>> X = np.array([[0.0, -1.0], [2.5, 0.2], [7.9, 1.0]])
    >>> grid = UniformQuantizer(8, feature_range=(0, 8)).fit(X)
    >>> grid.transform(X).tolist()
    [[0, 0], [2, 0], [7, 1]]
    >>> grid.quantize(X).tolist()
    [[0.5, 0.5], [2.5, 0.5], [7.5, 1.5]]
    >>> grid.clipped_share_.round(2).tolist()
    [0.0, 0.33]
    >>> steps = UniformQuantizer(3, feature_range=(-1, 1), ends="levels").fit(X)
    >>> steps.quantize(X).tolist()
    [[0.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_levels": [SIZE, SIZES],
        "feature_range": [StrOptions({"minmax", "quantile", *DENSITIES}), NUMBERS],
        "quantile_range": [NUMBERS],
        "levels": [StrOptions({"uniform", "lloyd-max"}), ARRAYS],
        "density": [StrOptions({"data", *DENSITIES})],
        "ends": [StrOptions({"edges", "levels"})],
        "share_levels": ["boolean"],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_levels=256,
        *,
        feature_range="minmax",
        quantile_range=(0.1, 99.9),
        levels="uniform",
        density="data",
        ends="edges",
        share_levels=False,
    ):
        self.n_levels = n_levels
        self.feature_range = feature_range
        self.quantile_range = quantile_range
        self.levels = levels
        self.density = density
        self.ends = ends
        self.share_levels = share_levels

    def _fit(self, rows):
        return self._learned(rows, None)

    def _partial_fit(self, X, weights):
        rows, seen = Rows(X, weights), getattr(self, "_seen_", None)
        if isinstance(self.levels, str) and self._statistic() != _GIVEN:
            seen = self._seen_before()
        found = run(self._learned(rows, seen))
        return {**found, "_dtype_": getattr(self, "_dtype_", rows.dtype)}

    def _learned(self, rows, seen) -> Learner[dict[str, Any]]:
        """Return what follows from rows, and from what was seen of a stream before."""
        d = rows.n_features
        found: dict[str, Any] = {"_dtype_": rows.dtype}
        if not isinstance(self.levels, str):
            return {**found, **_of_tables(self._given_levels(d))}
        found["codebook_sizes_"] = sizes = self._sizes(d)
        if self.levels == "lloyd-max":
            _check_memory("n_levels", self.n_levels, sizes, rows)
        if self.levels == "lloyd-max" and self.density == "data":
            tables = yield from self._best_tables(rows, sizes)
            return {**found, "_codec_": Levels(_of_all(tables, d), sizes)}
        return {**found, **(yield from self._of_statistics(rows, sizes, seen))}

    def _of_statistics(self, rows, sizes, seen) -> Learner[dict[str, Any]]:
        """Return the codec that a few statistics of the features lead to."""
        d, columns, own = rows.n_features, rows, sizes
        if self.share_levels:
            # The values of all features are those of one.
            columns, own = rows.view(stacked, 1, width=1, times=d), sizes[:1]
        how, shared = self._statistic(), bool(self.share_levels)
        if seen is not None:
            which = "density" if self.levels == "lloyd-max" else "feature_range"
            check_as_begun(which, how, seen.how)
            check_as_begun("share_levels", shared, seen.shared)
        statistics = yield from self._statistics(columns, self._quantile_shares())
        if seen is not None and how != _GIVEN:
            statistics = seen.statistics.joined(statistics)
        if self.levels == "lloyd-max":
            tables = _of_all(self._matched_tables(statistics, own), d)
            now = _Seen(how, shared, statistics)
            return {"_codec_": Levels(tables, sizes), "_seen_": now}
        low, high = self._range(statistics, own)
        clipped = yield from self._clipped(columns, low, high)
        if seen is not None and seen.clipped is not None:
            clipped = seen.clipped.joined(clipped)
        outer = low, high, *clipped.means
        low, high, share = (np.broadcast_to(each, (d,)).copy() for each in outer)
        return {
            **self._grid(low, high, sizes),
            "clipped_share_": share,
            "_seen_": _Seen(how, shared, statistics, clipped),
        }

    def _sizes(self, n_features) -> tuple[int, ...]:
        sizes = per_column("n_levels", self.n_levels, n_features, "feature", 1, 2**32)
        if self.share_levels and len(set(sizes)) > 1:
            raise ValueError(
                f"n_levels={self.n_levels!r}: with share_levels=True all features have "
                "the same levels; give one int."
            )
        return sizes

    def _grid(self, low, high, sizes) -> dict[str, Any]:
        make = Grid if self.ends == "edges" else Grid.with_ends
        codec = make(low, high, sizes)
        if not np.isfinite([codec.low, codec.high]).all():
            raise ValueError(
                f"ends={self.ends!r}: the cells of the outermost levels would reach "
                "beyond the numbers of float64; scale X, or use ends='edges'."
            )
        return {"_codec_": codec, "feature_range_": (low, high)}

    # -- ranges --------------------------------------------------------------------

    def _statistic(self) -> str:
        """Return the name of what the range, or the levels, are found from."""
        if self.levels == "lloyd-max":
            return self.density
        return self.feature_range if isinstance(self.feature_range, str) else _GIVEN

    def _statistics(self, rows, shares) -> Learner[Spans | Moments]:
        how = self._statistic()
        if how == _GIVEN:
            return Spans(*self._given_range(rows.n_features))
        if how == "minmax":
            return Spans(*(yield from column_range(rows)))
        if how == "quantile":
            low, high = yield from quantiles(rows, shares)
            return Spans(low.astype(np.float64), high.astype(np.float64))
        return (yield from _moments(how, rows))

    def _range(self, statistics, sizes):
        """Return the range that is cut, and warn where it is one point."""
        if isinstance(statistics, Moments):
            _, middle, scale = statistics
            reach = scale * [self._reach(size) for size in sizes]
            low, high = middle - reach, middle + reach
        else:
            low, high = statistics
        _warn_of_points(self._column_noun(), low, high, sizes, "n_levels")
        return low, high

    def _reach(self, size: int) -> float:
        """Return how far the best range for a density reaches, from its middle."""
        reach = uniform_reach(self.feature_range, size)
        outermost = max(size - 1, 1) / size
        return reach if self.ends == "edges" else reach * outermost

    def _clipped(self, rows, low, high) -> Learner[Averages]:
        """Return the share of the weight beyond the range of each column."""
        if self._statistic() == "minmax":  # which has nothing outside
            return Averages(1.0, (np.zeros(len(low)),))
        weight = yield from total_weight(rows)
        share = yield from weighted_mean(rows, _outside, low, high)
        return Averages(weight, (share,))

    def _given_range(self, n_columns):
        try:
            for end in (self.feature_range, *self.feature_range):
                check_unmasked(end, "feature_range")
            low, high = (
                np.broadcast_to(np.asarray(end, dtype=np.float64), (n_columns,)).copy()
                for end in self.feature_range
            )
        except (TypeError, ValueError) as error:
            arrays = "" if self.share_levels else f" or two arrays of {n_columns}"
            raise ValueError(
                f"feature_range={self.feature_range!r}: expected (low, high), two "
                f"numbers{arrays and arrays + ' numbers'}."
            ) from error
        if not ((low < high) & np.isfinite(low) & np.isfinite(high)).all():
            raise ValueError(
                f"feature_range={self.feature_range!r}: expected finite low < high."
            )
        return low, high

    def _quantile_shares(self) -> np.ndarray:
        check_unmasked(self.quantile_range, "quantile_range")
        try:
            shares = np.asarray(self.quantile_range, dtype=np.float64) / 100
        except (TypeError, ValueError):
            shares = np.empty(0)
        if shares.shape != (2,) or not 0 <= shares[0] < shares[1] <= 1:
            raise ValueError(
                f"quantile_range={self.quantile_range!r}: expected two percentages, "
                "0 <= lower < upper <= 100."
            )
        return shares

    # -- levels --------------------------------------------------------------------

    def _matched_tables(self, moments, sizes) -> list[np.ndarray]:
        """Return the levels of least squared error for densities of such moments."""
        _, middle, scale = moments
        noun = self._column_noun()
        _warn_of_points(noun, middle, middle + scale, sizes, "n_levels")
        return [
            np.unique(middle[j] + scale[j] * standard_levels(self.density, size))
            for j, size in enumerate(sizes)
        ]

    def _best_tables(self, rows, sizes) -> Learner[list[np.ndarray]]:
        """Return the levels of least squared error for the samples."""
        counts: list[int] = []

        def learn(columns, features) -> list:
            pairs = list(columns)
            counts.extend(len(values) for values, _ in pairs)
            return best_levels(pairs, sizes[features])

        if self.share_levels:
            sizes = sizes[:1]
            most = max(_MOST_VALUES, _VALUES_PER_LEVEL * sizes[0])
            pair = yield from distinct_of_all(rows, most)
            tables = learn([pair], slice(0, 1))
        else:
            tables = yield from of_distinct(rows, learn)
        _warn_of_few(
            self._column_noun(),
            counts,
            sizes,
            "{} distinct samples are fewer than n_levels={size}: the codebook repeats "
            "them.",
        )
        return tables

    def _column_noun(self) -> str:
        return "set of levels" if self.share_levels else "feature"

    def _given_levels(self, n_features) -> list[np.ndarray]:
        """Return the arrays of `levels`, one for each feature."""
        expected = 1 if self.share_levels else n_features
        if len(self.levels) != expected:
            how = "with share_levels=True" if self.share_levels else "a feature"
            raise ValueError(
                f"levels has {len(self.levels)} entries, but X has {n_features} "
                f"features; expected {expected}, one array {how}."
            )
        arrays = [_as_levels(f"levels[{j}]", a) for j, a in enumerate(self.levels)]
        return _of_all(arrays, n_features)

    def _from_tables(self, tables):
        tables = as_shared(tables, self.share_levels, "share_levels=True")
        arrays = columns_of_tables(tables)
        d, dtype = len(arrays), tables[0].dtype
        own = {id(a): _as_levels(f"codebooks[{j}]", a) for j, a in enumerate(arrays)}
        levels = [own[id(array)] for array in arrays]
        sizes = tuple(map(len, levels))
        found = {
            "_dtype_": dtype,
            "n_features_in_": d,
            "codebook_sizes_": sizes,
        }
        if not isinstance(self.levels, str):
            self._check_as_given(levels)
        self._imply(n_levels=one_or_each(sizes))
        if self.levels == "uniform" and not isinstance(self.feature_range, str):
            low, high = self._given_range(d)
            found.update(self._grid(low, high, sizes))
            _check_middles(found["_codec_"].tables(dtype), levels, self.feature_range)
            return {**found, "clipped_share_": np.full(d, np.nan)}
        if self.levels == "uniform":
            # What they are, since nothing is known of how they were found.
            self.levels = tuple(levels[:1] if self.share_levels else levels)
        return {**found, **_of_tables(levels)}

    def _check_as_given(self, levels) -> None:
        """Raise unless `levels`, if it holds arrays, says the same as the tables."""
        pairs = zip(self._given_levels(len(levels)), levels, strict=True)
        for j, (given, table) in enumerate(pairs):
            if not np.array_equal(given, table):
                raise ValueError(
                    f"levels[{j}] differs from codebooks[{j}]: leave levels out, or "
                    "give the same."
                )

    # -- what the base class asks --------------------------------------------------

    def _fewest_rows(self):
        learns = isinstance(self.levels, str) and self._statistic() != _GIVEN
        return 2 if learns else 1

    def _can_partial_fit(self):
        if not isinstance(self.levels, str):
            return True
        return self._statistic() in (_GIVEN, "minmax", "gaussian")

    def _why_no_partial_fit(self):
        if self.levels == "lloyd-max":
            return (
                f"density={self.density!r} does not learn from a stream; 'gaussian' "
                "does."
            )
        return (
            f"feature_range={self.feature_range!r} does not learn from a stream; "
            "'minmax', 'gaussian' and (low, high) do."
        )

    def _needs_rows_in_memory(self):
        learns = isinstance(self.levels, str) and not self.share_levels
        if learns and self._statistic() == "data":
            return all_in_memory("levels", self.levels)
        return None

    def _encode(self, X):
        return self._codec_.encode(X)

    def _decode(self, codes):
        return self._codec_.decode(codes, self._dtype_)

    def _codebooks(self):
        return shared_tables(self._codec_.tables(self._dtype_))


class _Seen(NamedTuple):
    """What a uniform quantizer has seen of a stream."""

    how: str
    shared: bool
    statistics: Spans | Moments
    clipped: Averages | None = None


def _of_tables(levels: list[np.ndarray]) -> dict[str, Any]:
    """Return the fitted attributes of given levels of each feature."""
    sizes = tuple(map(len, levels))
    return {"codebook_sizes_": sizes, "_codec_": Levels.of_tables(levels)}


def _of_all(tables: list[np.ndarray], n_features: int) -> list[np.ndarray]:
    """Return a table for each feature: the one that all share, or those there are."""
    return tables * n_features if len(tables) == 1 else tables


def _as_levels(name: str, values) -> np.ndarray:
    """Return levels that were given, in float64; raise unless they can be levels."""
    levels = check_numbers(values, name, ("n_levels",))
    if not is_table(levels):
        raise ValueError(f"{name}: levels are not ascending; sort them.")
    return levels


def _check_middles(middles, levels, feature_range) -> None:
    """Raise unless given levels are those of a given range, but for rounding."""
    for j, (middle, table) in enumerate(zip(middles, levels, strict=True)):
        eps = np.finfo(middle.dtype).eps
        middle = middle[:, 0].astype(np.float64)
        gap = np.abs(middle - table).max()
        if not gap <= 8 * eps * np.abs(middle).max():
            raise ValueError(
                f"feature_range={feature_range!r}: codebooks[{j}] is off its levels by "
                f"{gap:.3g}; expected those, or leave feature_range out."
            )


def _outside(be: nearest.Backend, x, low, high):
    return (x < be.send(low)) | (x > be.send(high))


def _check_memory(name: str, given, sizes, rows) -> None:
    """Raise if the levels, or the counts of their samples, are out of proportion."""
    check_memory(
        f"Levels of {name}={given} for each of {rows.n_features} features",
        3 * 8 * sum(sizes),
        rows.n_bytes,
    )


def _warn_of_few(noun: str, counts, sizes, text: str) -> None:
    """Warn of features that have a smaller count of something than levels."""
    for size in sorted(set(sizes)):
        few = [
            count if count < size == own else None
            for count, own in zip(counts, sizes, strict=True)
        ]
        warn_of_some(noun, text.replace("{size}", str(size)), few)


def _warn_of_points(noun: str, low, high, sizes, name: str) -> None:
    """Warn of features whose range is a point, so that all their levels are equal.

    The mean and the spread of a constant feature are so but for rounding.
    """
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high))
    points = 0.5 * high - 0.5 * low <= rounding
    warn_of_some(
        noun,
        f"the range that is cut is one point, and all {name} are equal.",
        [
            0 if size > 1 and point else None
            for point, size in zip(points, sizes, strict=True)
        ],
    )


def _moments(name: str, rows: Rows) -> Learner[Moments]:
    """Fit a density to each column: its middle and its standard deviation."""
    weight = yield from total_weight(rows)
    if name == "gaussian":
        mean = yield from weighted_mean(rows)
        return Moments(weight, mean, (yield from spread(rows, mean)))
    (median,) = (yield from quantiles(rows, [0.5])).astype(np.float64)
    deviation = yield from weighted_mean(rows, _gaps, median)
    # The median is a sample, and may lie on an edge: to 40 bits the sums of weights and
    # of repeats, which round otherwise, are the same.
    mantissa, exponent = np.frexp(np.sqrt(2.0) * deviation)
    scale = np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40)
    return Moments(weight, median, scale)


def _gaps(be: nearest.Backend, x, middle):
    return abs(x - be.send(middle))


# -- finite scalar quantization --------------------------------------------------------

_RECOMMENDED = {
    8: (8, 6, 5),
    10: (8, 5, 5, 5),
    12: (7, 5, 5, 5, 5),
    14: (8, 8, 8, 6, 5),
    16: (8, 8, 8, 5, 5, 5),
}


def recommended_levels(n_bits: int) -> tuple[int, ...]:
    """Return the levels that the authors of FSQ recommend for a codebook size.

    Parameters
    ----------
    n_bits : {8, 10, 12, 14, 16}
        log2 of the number of tokens, which the product of the levels comes near.

    Returns
    -------
    levels : tuple of int
        Levels of each feature: as many features as there are entries.

    Raises
    ------
    ValueError
        If there is no recommendation for this number.

    References
    ----------
    Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR,
    table 1.

    Examples
    --------
    >>> from skvq.grid import recommended_levels
    >>> recommended_levels(8)
    (8, 6, 5)
    """
    if not isinstance(n_bits, Integral) or n_bits not in _RECOMMENDED:
        raise ValueError(
            f"n_bits={n_bits!r}: there are recommended levels for "
            f"{sorted(_RECOMMENDED)}."
        )
    return _RECOMMENDED[n_bits]


class FiniteScalarQuantizer(ScalarQuantizer):
    r"""Bound each feature, then round it to one of a few integers (FSQ).

    A feature z with L levels is squashed to a range that holds L integers, and rounded
    (half to even).  With ``bound="tanh"``, as published and corrected,

    .. math:: b = h \tanh(z + \mathrm{artanh}(o / h)) - o,
        \quad h = (L - 1)(1 + 10^{-3}) / 2,

    with o = 1/2 for even L, else 0.  The code is
    :math:`\mathrm{round}(b) + \lfloor L/2 \rfloor`.  A row of codes is one token of a
    codebook of :math:`\prod L_i`, of which no entry needs to be learned.  The symmetric
    form has no shift, :math:`b = (L - 1) / 2 \cdot \tanh(z) - o`: its values are L
    equal steps from -1 to 1, two of them the signs.

    Parameters
    ----------
    levels : int or sequence of int, default=8
        L of every feature, or of each, 2 or more; see `recommended_levels`.
    bound : {"tanh", "clamp", "cdf", "none"}, default="tanh"
        The squash.  "tanh": fixed, made for features of about unit scale; "clamp": the
        same formula with what is beyond -1 and 1 cut off, in place of tanh; "cdf": the
        distribution function of each feature in training, so that every level is used
        equally; "none": linear, end levels at the smallest and the largest value in
        training.
    formula : {"corrected", "paper", "symmetric"}, default="corrected"
        With ``bound`` "tanh" or "clamp": the formula above, or the listing of the
        paper, which has :math:`1 - 10^{-3}` and tan for artanh; or the symmetric form,
        as in the stages of residual FSQ.  For models that were trained with these.
    scale : float or sequence of float, default=1.0
        With ``bound`` "tanh" or "clamp": what samples are divided by before the squash;
        one for all features, or one for each.
    decode_to : {"means", "values"}, default="means"
        Where a level is decoded to: the mean of its training samples; or its code
        value times `scale`, as in models that are trained with FSQ: with ``bound``
        "tanh" or "clamp" nothing is learned then.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (L_j, 1)
        Where each level of a feature is decoded to, in the space of X.
    codebook_sizes_ : tuple of int
        The levels of each feature.
    bits_per_sample_ : float
        Sum of log2 L_j.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    n_features_in_ : int
        Number of features.

    See Also
    --------
    UniformQuantizer : Equal cells without a squash.
    skvq.codes.token_ids : With ``order="F"``, the token index of the paper.

    Notes
    -----
    By default `inverse_transform` leads back to the space of X: a level is decoded to
    the mean of its training samples, because the inverse of the squash is far off at
    the end levels (for a Gaussian feature and 8 levels it is nearly as bad as no code
    at all).  Levels without samples lie on the line between their neighbours.  The
    numbers that a model trained with FSQ works with are `bounded_values`, before
    rounding, and `code_values`, after it.

    The published form shifts even levels by the wrong function; ids differ in about 1%
    of rows.  L = 2 is degenerate in either form: its border is far from zero.  In the
    symmetric form it is zero, and borders belong above.  With "cdf" and "none" cells
    are half-open intervals and rounding intervals respectively; the codes are the
    uniform grid's on [0, L) of the bounded value + floor(L/2) + 1/2.

    With ``bound`` "tanh" or "clamp", `partial_fit` goes on with the means.

    References
    ----------
    Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR.

    Parker et al. (2024), "Scaling Transformers for Low-Bitrate High-Quality Speech
    Coding", arXiv 2411.19842, section 3.2 (the symmetric form).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import FiniteScalarQuantizer
    >>> X = np.random.default_rng(0).normal(size=(1000, 3))
    >>> fsq = FiniteScalarQuantizer((8, 6, 5)).fit(X)
    >>> codes = fsq.transform([[-9.0, 0.0, 9.0]])
    >>> codes.tolist()
    [[0, 3, 4]]
    >>> fsq.code_values(codes).tolist()
    [[-1.0, 0.0, 1.0]]
    >>> signs = FiniteScalarQuantizer(2, formula="symmetric", decode_to="values")
    >>> signs.fit_transform([[-0.3, 0.0, 5.0]]).tolist()
    [[0, 1, 1]]
    >>> signs.quantize([[-0.3, 0.0, 5.0]]).tolist()
    [[-1.0, 1.0, 1.0]]
    """

    _parameter_constraints = {  # noqa: RUF012
        "levels": [Interval(Integral, 2, 2**16, closed="both"), SIZES],
        "bound": [StrOptions({*_FIXED_BOUNDS, "cdf", "none"})],
        "formula": [StrOptions({"corrected", "paper", "symmetric"})],
        "scale": [Interval(Real, 0, None, closed="neither"), NUMBERS],
        "decode_to": [StrOptions({"means", "values"})],
    }
    _follows_namespace = True

    def __init__(
        self,
        levels=8,
        *,
        bound="tanh",
        formula="corrected",
        scale=1.0,
        decode_to="means",
    ):
        self.levels = levels
        self.bound = bound
        self.formula = formula
        self.scale = scale
        self.decode_to = decode_to

    def bounded_values(self, X):
        """Return the bounded values of samples, before they are rounded.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        bounded : ndarray of shape (n_samples, n_features)
            b of the formula: L integers from -floor(L/2) on are within its range.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "bounded_values")
        blocks = over_blocks(X, self._squash_.bounded)
        return nearest.backend_of(X).gathered(X.shape[0], blocks)

    def code_values(self, codes):
        """Return the numbers that codes stand for, in [-1, 1].

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_features)
            Codes as `transform` gives them.

        Returns
        -------
        values : ndarray of shape (n_samples, n_features)
            (code - floor(L/2)) / floor(L/2), which is what the published quantizer
            hands to a decoder; 2 code / (L - 1) - 1 in the symmetric form.
        """
        self = as_it_is_now(self)
        codes = self._check_codes(codes, "code_values")
        # Looked up, which is the same in all libraries.
        values = LevelTables(self._squash_.values())
        return values.decode(codes, self._dtype_)

    def _fit(self, rows):
        sizes = per_column("levels", self.levels, rows.n_features, "feature", 2, 2**16)
        _check_memory("levels", self.levels, sizes, rows)
        if self.bound in _FIXED_BOUNDS:
            squash: Squash = self._fixed_squash(sizes)
        elif self.bound == "none":
            low, high = yield from column_range(rows)
            _warn_of_points("feature", low, high, sizes, "levels")
            squash = Spread(sizes, low, high)
        else:
            squash = yield from _fit_distribution(rows, sizes)
        found = {"_squash_": squash, "_dtype_": rows.dtype, "codebook_sizes_": sizes}
        if self.decode_to == "values":
            return {**found, "_tables_": LevelTables(self._scaled_values(squash))}
        averages = yield from _averages_of_levels(rows, squash)
        return {**found, **_decoded_to(averages, sizes)}

    def _partial_fit(self, X, weights):
        rows, d = Rows(X, weights), X.shape[1]
        sizes = per_column("levels", self.levels, d, "feature", 2, 2**16)
        squash = self._fixed_squash(sizes)
        dtype = getattr(self, "_dtype_", rows.dtype)
        found = {"_squash_": squash, "_dtype_": dtype, "codebook_sizes_": sizes}
        if self.decode_to == "values":
            return {**found, "_tables_": LevelTables(self._scaled_values(squash))}
        seen, averages = self._seen_before(), run(_averages_of_levels(rows, squash))
        if seen is not None:
            check_as_begun("levels", sizes, self.codebook_sizes_)
            self._check_cells_as_begun(squash)
            averages = seen.joined(averages)
        return {**found, **_decoded_to(averages, sizes)}

    def _check_cells_as_begun(self, squash: "Tanh") -> None:
        """Raise if the samples before, whose means go on, were in other cells."""
        if not all(map(np.array_equal, squash.edges, self._squash_.edges)):
            raise ValueError(
                f"bound={self.bound!r}, formula={self.formula!r} and scale="
                f"{self.scale!r} have other cells than the stream began with: fit anew "
                "to change them."
            )

    def _fixed_squash(self, sizes) -> "Tanh":
        scales = positive_per_column("scale", self.scale, len(sizes))
        make = Tanh if self.bound == "tanh" else Clamp
        return make(sizes, self.formula, scales)

    def _scaled_values(self, squash) -> list[np.ndarray]:
        """Return the code values of each feature in the unit of X."""
        scales = positive_per_column("scale", self.scale, len(squash.sizes))
        pairs = zip(squash.values(), scales, strict=True)
        return [values * scale for values, scale in pairs]

    def _from_tables(self, tables):
        if self.bound not in _FIXED_BOUNDS:
            raise ValueError(
                "FiniteScalarQuantizer has no from_codebooks with "
                f"bound={self.bound!r}, which is found from samples: give bound='tanh' "
                "or 'clamp', or use UniformQuantizer, for the nearest levels."
            )
        arrays = columns_of_tables(tables)
        sizes, dtype = tuple(map(len, arrays)), tables[0].dtype
        for j, size in enumerate(sizes):
            check_count(f"the length of codebooks[{j}]", size, 2, 2**16)
        squash = self._fixed_squash(sizes)
        values = self._scaled_values(squash)
        own = all(map(_is_close, arrays, values))
        if self.decode_to == "values" and not own:
            raise ValueError(
                "decode_to='values': codebooks are not the code values times scale; "
                "leave decode_to out to decode to any others."
            )
        self._imply(levels=one_or_each(sizes))
        # Code values are decoded to again by a fit, which learns nothing then.
        self.decode_to = "values" if own else "means"
        return {
            "_squash_": squash,
            "_tables_": LevelTables(arrays),
            "_dtype_": dtype,
            "codebook_sizes_": sizes,
            "n_features_in_": len(sizes),
        }

    def _fewest_rows(self):
        learns = self.bound not in _FIXED_BOUNDS or self.decode_to == "means"
        return 2 if learns else 1

    def _can_partial_fit(self):
        return self.bound in _FIXED_BOUNDS

    def _why_no_partial_fit(self):
        return (
            f"bound={self.bound!r} does not learn from a stream; 'tanh' and 'clamp' do."
        )

    def _needs_rows_in_memory(self):
        return all_in_memory("bound", self.bound) if self.bound == "cdf" else None

    def _encode(self, X):
        return self._squash_.encode(X)

    def _decode(self, codes):
        return self._tables_.decode(codes, self._dtype_)

    def _codebooks(self):
        return shared_tables(self._tables_.tables(self._dtype_))


def _averages_of_levels(rows: Rows, squash: "Squash") -> Learner[Averages]:
    weight = yield from total_weight(rows)
    return Averages(weight, (yield from level_shares(rows, squash, squash.sizes)))


def _decoded_to(averages: Averages, sizes) -> dict[str, Any]:
    """Return the fitted attributes of levels that are decoded to their means."""
    parts, shares = averages.means
    means = level_means(parts, shares, sizes)
    return {"_tables_": LevelTables(means), "_seen_": averages}


def _is_close(given: np.ndarray, expected: np.ndarray) -> bool:
    """Whether numbers are the expected ones but for the rounding of their dtype."""
    gap = np.abs(given.astype(np.float64) - expected)
    return bool(gap.max() <= 4 * np.finfo(given.dtype).eps * np.abs(expected).max())


def _fit_distribution(rows: Rows, sizes) -> Learner[Distribution]:
    """Find edges between levels of equal weight, and warn where they coincide."""

    def cut(columns, features) -> list:
        found = []
        for (values, mass), size in zip(columns, sizes[features], strict=True):
            edges = equal_shares(values, mass, size)
            used = len(np.unique(np.searchsorted(edges, values, side="right")))
            knots = np.concatenate((values[:1], edges, values[-1:]))
            found.append((edges, knots, used))
        return found

    edges, knots, used = zip(*(yield from of_distinct(rows, cut)), strict=True)
    _warn_of_few(
        "feature",
        used,
        sizes,
        "{} levels have samples, fewer than levels={size}: edges between levels "
        "coincide, where too many samples are equal.",
    )
    return Distribution(sizes, edges, knots)
