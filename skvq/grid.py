"""Scalar schemes: each feature is replaced by the level of its cell."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._checks import check_unmasked, is_sequence
from skvq._compat import NUMBERS, SIZE, SIZES, Accepted, Interval, StrOptions
from skvq._given import as_shared, one_or_each
from skvq._typing import (
    FeatureDistribution,
    LevelsRule,
    Number,
    RangeEnds,
    RangeRule,
    Size,
    Sizes,
    VectorLike,
    Vectors,
)
from skvq._validation import all_in_memory, check_numbers, warn
from skvq.coding.levels import CellMeans, Grid, Levels, is_table, range_of_levels
from skvq.coding.squash import Distribution, Spread, Tanh
from skvq.finite import FiniteScalarQuantizer as FiniteScalarQuantizer
from skvq.learning.levels import best_levels, level_errors
from skvq.learning.quantiles import quantiles
from skvq.learning.rows import Learner, Rows, run, stacked
from skvq.learning.scalar import (
    DENSITIES,
    Averages,
    Moments,
    Spans,
    column_range,
    distinct_of_all,
    mean_squares,
    of_distinct,
    per_column,
    spread,
    standard_levels,
    total_weight,
    uniform_reach,
    unit_of,
    weighted_mean,
)
from skvq.learning.steps import (
    MOST_PASSES,
    cells_of_step,
    means_of_step,
    step_of_rate,
)
from skvq.parts import check_as_begun
from skvq.scalar import (
    ScalarQuantizer,
    allocated_sizes,
    check_levels_memory,
    columns_of_tables,
    shared_tables,
    warn_of_few,
    warn_of_points,
)

ARRAYS = Accepted(is_sequence, "a sequence of arrays")
# The name of a range that was given in numbers.
_GIVEN = "(low, high)"
# The largest deviation of the rate on the training samples from the target.
_RATE_TOLERANCE = 1e-3
# Number of values over all features that are kept, for levels that features share.
_MOST_VALUES, _VALUES_PER_LEVEL = 2**18, 16
# Names that files and pickles of earlier versions look for here.
_Tanh, _Spread, _Distribution = Tanh, Spread, Distribution


class UniformQuantizer(ScalarQuantizer):
    r"""Cut the range of each feature into equal cells.

    The Cartesian codebook: [low, high) is cut into V cells, and level j is the midpoint
    of its cell, :math:`W_j = low + (2j + 1)(high - low) / (2V)`; or, with
    ``range_ends="levels"``, low and high are levels themselves, with V - 1 steps
    between them.  The nearest level is found by a formula without a table, so the cost
    does not depend on V.  An edge belongs to the cell above it, and values beyond the
    range to the end cells.  Several features are a concatenation of such grids.  The
    range [0, N) with V = N rounds down and adds one half.

    Parameters
    ----------
    n_levels : int or sequence of int, default=256
        Number of levels V of every feature, or of each.
    clip_range : {"minmax", "quantile", "gaussian", "laplacian"} or (low, high), \
            default="minmax"
        With ``levels="uniform"``: the range that is cut.  "minmax": that of the
        training samples; "quantile": that between two quantiles of them, which a few
        outliers do not widen; "gaussian" or "laplacian": the range with the least
        squared error for such a density, fitted to the training samples; or two
        numbers, or two arrays with one number for each feature, low < high.
    quantile_range : (float, float), default=(0.1, 99.9)
        The quantiles of ``clip_range="quantile"``, in percent.
    levels : {"uniform", "lloyd-max"} or sequence of arrays, default="uniform"
        "uniform": equal cells; "lloyd-max": the levels of least squared error; or the
        levels themselves, ascending: an array for each feature, or a single one with
        ``share_levels=True``.  Nothing is then learned, and `n_levels` plays no part.
    feature_distribution : {"data", "gaussian", "laplacian"}, default="data"
        With ``levels="lloyd-max"``: what the levels are fitted to, the training samples
        themselves or a density fitted to them.  A Gaussian has their mean and standard
        deviation, a Laplacian their median and mean absolute deviation.
    range_ends : {"edges", "levels"}, default="edges"
        With ``levels="uniform"``: the meaning of low and high.  "edges": the outer
        edges of V equal cells; "levels": the first and the last level, with V - 1 equal
        steps between them.
    share_levels : bool, default=False
        Whether all features have the same levels, learned from all values together.
    total_bits : float, default=None
        If given, it replaces `n_levels`: this many bits are spread over the features
        such that the training error becomes small.  They are never exceeded.  A feature
        takes at most 16; a feature without bits is decoded to its mean.
    powers_of_two : bool, default=False
        With `total_bits`: whether features get whole bits.  If not, any numbers of
        levels up to 16, and four to the octave beyond.
    step : float, default=None
        If given, all features have cells of this width, [(k - 1/2) step, (k + 1/2)
        step) for integers k: the cells that the training samples reach and, for
        features with several cells, one more at either end for other samples.  A cell
        is decoded to the mean of its samples, or to its midpoint if it has none.
        `n_levels` and ranges play no part.
    target_bits : float, default=None
        If given, the step is found for which the codes of the training samples take
        this many bits a row, if each costs -log2 of its share in its column.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, 1)
        The levels of each feature; features that share them have the same array.
    codebook_sizes_ : tuple of int
        V_1..V_d.
    clip_range_ : tuple of two ndarrays of shape (n_features,)
        With ``levels="uniform"``: low and high.
    step_ : float
        With `step` or `target_bits`: the width of the cells.
    clipped_share_ : ndarray of shape (n_features,)
        With ``levels="uniform"``: the share of the training weight below low or above
        high.  For a stream, each batch is measured by the range known after it; NaN for
        given tables.
    bits_per_sample_ : float
        Sum of log2 V_j.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    FiniteScalarQuantizer : Squashes the features to a bounded range first.

    Notes
    -----
    Edge j is ``low + j * (high - low) / V`` in float64; values of any dtype are
    compared with it.  A value in the range is off by at most (high - low) / (2V); with
    ``range_ends="levels"`` by at most (high - low) / (2(V - 1)), and low and high
    themselves are exact up to rounding.

    A `step` pays only if codes are entropy coded: no other scalar levels then have much
    less error at their rate.  `bits_per_sample_` remains the sum of log2 V_j, whatever
    the codes take.  Cells are counted from zero, so features are best centred before,
    for example by a principal component analysis.

    `partial_fit` widens the range of "minmax", updates the mean and the standard
    deviation of "gaussian" (for levels or range), and counts what a given range clips.

    For Gaussian features, Lloyd-Max levels leave an error of .363, .1175, .0345 and
    .0095 of the variance at 1 to 4 bits, the best equal cells .363, .1188, .0374 and
    .0115.  With ``feature_distribution="data"``, a feature with fewer distinct samples
    than levels gives a ConvergenceWarning, and repeats these samples as levels.  So
    does a range that is a point, for a constant feature or between two equal quantiles.

    For up to 1024 distinct values, the levels of ``feature_distribution="data"`` are
    optimal, found by dynamic programming; for more, they are a local optimum, never
    worse than that of scikit-learn's ``KBinsDiscretizer(strategy="kmeans")``.  With
    ``share_levels=True``, near values are merged if there are more than 262,144 (or 16
    per level, if that is more), which bounds the memory to that of a block of rows.

    References
    ----------
    Lloyd (1982), "Least Squares Quantization in PCM", IEEE Trans. Inf. Theory 28(2),
    doi:10.1109/TIT.1982.1056489.

    Max (1960), "Quantizing for Minimum Distortion", IRE Trans. Inf. Theory 6(1),
    doi:10.1109/TIT.1960.1057548.

    Gray and Neuhoff (1998), "Quantization", IEEE Trans. Inf. Theory 44(6),
    doi:10.1109/18.720541.

    Shoham and Gersho (1988), "Efficient bit allocation for an arbitrary set of
    quantizers", IEEE Trans. Acoustics, Speech and Signal Processing 36(9),
    doi:10.1109/29.90373.

    Gish and Pierce (1968), "Asymptotically efficient quantizing", IEEE Trans. Inf.
    Theory 14(5), doi:10.1109/TIT.1968.1054193.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import UniformQuantizer
    >>> X = np.array([[0.0, -1.0], [2.5, 0.2], [7.9, 1.0]])
    >>> grid = UniformQuantizer(8, clip_range=(0, 8)).fit(X)
    >>> grid.transform(X).tolist()
    [[0, 0], [2, 0], [7, 1]]
    >>> grid.quantize(X).tolist()
    [[0.5, 0.5], [2.5, 0.5], [7.5, 1.5]]
    >>> grid.clipped_share_.round(2).tolist()
    [0.0, 0.33]
    >>> steps = UniformQuantizer(3, clip_range=(-1, 1), range_ends="levels").fit(X)
    >>> steps.quantize(X).tolist()
    [[0.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    >>> Z = np.random.default_rng(0).normal(size=(500, 3)) * [9.0, 3.0, 0.1]
    >>> UniformQuantizer(levels="lloyd-max", total_bits=5).fit(Z).codebook_sizes_
    (16, 2, 1)
    >>> UniformQuantizer(step=4.0).fit(Z).codebook_sizes_
    (18, 8, 1)
    """

    levels: LevelsRule | Vectors

    clip_range_: tuple[NDArray[Any], NDArray[Any]]
    step_: float
    clipped_share_: NDArray[Any]
    _codec_: Any
    _dtype_: np.dtype

    _parameter_constraints = {  # noqa: RUF012
        "n_levels": [SIZE, SIZES],
        "clip_range": [StrOptions({"minmax", "quantile", *DENSITIES}), NUMBERS],
        "quantile_range": [NUMBERS],
        "levels": [StrOptions({"uniform", "lloyd-max"}), ARRAYS],
        "feature_distribution": [StrOptions({"data", *DENSITIES})],
        "range_ends": [StrOptions({"edges", "levels"})],
        "share_levels": ["boolean"],
        "total_bits": [Interval(Real, 0, 2**32, closed="both"), None],
        "powers_of_two": ["boolean"],
        "step": [Interval(Real, 0, None, closed="neither"), None],
        "target_bits": [Interval(Real, 0, 2**32, closed="right"), None],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_levels: Size | Sizes = 256,
        *,
        clip_range: RangeRule | VectorLike | Vectors = "minmax",
        quantile_range: VectorLike = (0.1, 99.9),
        levels: LevelsRule | Vectors = "uniform",
        feature_distribution: FeatureDistribution = "data",
        range_ends: RangeEnds = "edges",
        share_levels: bool = False,
        total_bits: Number | None = None,
        powers_of_two: bool = False,
        step: Number | None = None,
        target_bits: Number | None = None,
    ) -> None:
        self.n_levels = n_levels
        self.clip_range = clip_range
        self.quantile_range = quantile_range
        self.levels = levels
        self.feature_distribution = feature_distribution
        self.range_ends = range_ends
        self.share_levels = share_levels
        self.total_bits = total_bits
        self.powers_of_two = powers_of_two
        self.step = step
        self.target_bits = target_bits

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        how = self._number_from()
        if how == "total_bits":
            return self._allocated(rows)
        if how != "n_levels":
            return self._stepped(rows)
        return self._learned(rows, None)

    def _n_tasks(self) -> int | None:
        return 0 if self.target_bits is None else MOST_PASSES

    def _ways(self) -> list[str]:
        """Return the parameters that are given in place of numbers of levels."""
        ways = "total_bits", "step", "target_bits"
        return [name for name in ways if getattr(self, name) is not None]

    def _number_from(self) -> str:
        """Return the parameter that determines the numbers of levels.

        Raises
        ------
        ValueError
            If there are several, or if another parameter does not fit it.
        """
        given = self._ways()
        if not given:
            return "n_levels"
        values = [f"{name}={getattr(self, name)!r}" for name in given]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(values)}: each says how many levels there are; give "
                "one of them."
            )
        needs: dict[str, Any] = {"share_levels": False}
        if given == ["total_bits"]:
            if not isinstance(self.levels, str):
                raise ValueError(
                    f"{values[0]} with levels that are given: there is nothing to "
                    "choose; expected levels='uniform' or 'lloyd-max'."
                )
        else:
            needs |= {
                "levels": "uniform",
                "clip_range": "minmax",
                "range_ends": "edges",
            }
        for name, value in needs.items():
            own = getattr(self, name)
            if not (isinstance(own, type(value)) and own == value):
                raise ValueError(
                    f"{values[0]} with {name}={own!r}: expected {name}={value!r}."
                )
        return given[0]

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        rows, seen = Rows(X, weights), getattr(self, "_seen_", None)
        if isinstance(self.levels, str) and self._statistic() != _GIVEN:
            seen = self._seen_before()
        found = run(self._learned(rows, seen))
        return {**found, "_dtype_": getattr(self, "_dtype_", rows.dtype)}

    def _learned(self, rows: Rows, seen: Any) -> Learner[dict[str, Any]]:
        """Return what is fitted to rows and to what was seen of a stream before."""
        d = rows.n_features
        found: dict[str, Any] = {"_dtype_": rows.dtype}
        if not isinstance(self.levels, str):
            return {**found, **_of_tables(self._given_levels(d))}
        found["codebook_sizes_"] = sizes = self._sizes(d)
        if self.levels == "lloyd-max":
            check_levels_memory("n_levels", self.n_levels, sizes, rows)
        if self.levels == "lloyd-max" and self.feature_distribution == "data":
            tables = yield from self._best_tables(rows, sizes)
            return {**found, "_codec_": Levels(_of_all(tables, d), sizes)}
        return {**found, **(yield from self._of_statistics(rows, sizes, seen))}

    def _of_statistics(
        self, rows: Rows, sizes: tuple[int, ...], seen: Any
    ) -> Learner[dict[str, Any]]:
        """Return the codec that follows from a few statistics of the features."""
        d, columns, own = rows.n_features, rows, sizes
        if self.share_levels:
            # The values of all features are treated as those of one.
            columns, own = rows.view(stacked, 1, width=1, times=d), sizes[:1]
        how, shared = self._statistic(), bool(self.share_levels)
        if seen is not None:
            learns = self.levels == "lloyd-max"
            which = "feature_distribution" if learns else "clip_range"
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

    def _sizes(self, n_features: int) -> tuple[int, ...]:
        sizes = per_column("n_levels", self.n_levels, n_features, "feature", 1, 2**32)
        if self.share_levels and len(set(sizes)) > 1:
            raise ValueError(
                f"n_levels={self.n_levels!r}: with share_levels=True all features have "
                "the same levels; give one int."
            )
        return sizes

    def _grid(self, low: Any, high: Any, sizes: tuple[int, ...]) -> dict[str, Any]:
        make = Grid if self.range_ends == "edges" else Grid.with_ends
        codec = make(low, high, sizes)
        if not np.isfinite([codec.low, codec.high]).all():
            raise ValueError(
                f"range_ends={self.range_ends!r}: the cells of the outermost levels "
                "would reach beyond the numbers of float64; scale X, or use "
                "range_ends='edges'."
            )
        return {"_codec_": codec, "clip_range_": (low, high)}

    # -- allocated bits, and one step -----------------------------------------------

    def _allocated(self, rows: Rows) -> Learner[dict[str, Any]]:
        """Return the fitted attributes with `total_bits`."""
        found: dict[str, Any] = {"_dtype_": rows.dtype}
        if self.levels == "lloyd-max" and self.feature_distribution == "data":
            sizes = yield from allocated_sizes(self, rows, _errors_of_data(rows))
            tables = yield from self._best_tables(rows, sizes)
            codec: Any = Levels(tables, sizes)
            return {**found, "codebook_sizes_": sizes, "_codec_": codec}
        statistics = yield from self._statistics(rows, self._quantile_shares())
        mean = yield from weighted_mean(rows)
        ends = () if isinstance(statistics, Moments) else statistics
        unit = yield from unit_of(rows, *ends)

        def errors(candidates: tuple[int, ...]) -> Learner[np.ndarray]:
            codecs = [
                self._codec_of(statistics, mean, (size,) * rows.n_features)
                for size in candidates
            ]
            return mean_squares(rows, codecs, unit)

        sizes = yield from allocated_sizes(self, rows, errors)
        codec = self._codec_of(statistics, mean, sizes)
        found |= {"codebook_sizes_": sizes, "_codec_": codec}
        if self.levels == "lloyd-max":
            return found
        low, high = self._ends(statistics, sizes)
        clipped = yield from self._clipped(rows, low, high)
        (share,) = clipped.means
        return {**found, "clip_range_": (low, high), "clipped_share_": share}

    def _codec_of(
        self, statistics: Any, mean: Any, sizes: tuple[int, ...]
    ) -> Grid | Levels:
        """Return the codec for some numbers of levels; a single level is the mean."""
        one = np.asarray(sizes) == 1
        if self.levels == "lloyd-max":
            tables = _density_tables(self.feature_distribution, statistics, sizes)
            pairs = zip(one, mean, tables, strict=True)
            return Levels([np.array([m]) if o else t for o, m, t in pairs], sizes)
        low, high = self._ends(statistics, sizes)
        low, high = (np.where(one, mean, end) for end in (low, high))
        return self._grid(low, high, sizes)["_codec_"]

    def _stepped(self, rows: Rows) -> Learner[dict[str, Any]]:
        """Return the fitted attributes with `step` or `target_bits`."""
        if self.target_bits is None:
            step, what = float(cast(Number, self.step)), f"step={self.step!r}"
        else:
            target = float(self.target_bits)
            step, rate = yield from step_of_rate(rows, target)
            what = f"the step of target_bits={self.target_bits!r}, {step:.6g}"
            if abs(rate - target) > _RATE_TOLERANCE * target:
                warn(
                    f"target_bits={self.target_bits!r} is not a rate that the training "
                    f"samples have with one step: the nearest is {rate:.6g} bits a "
                    f"row, with step {step:.6g}."
                )
        codec = yield from means_of_step(rows, step, what)
        return {
            "_dtype_": rows.dtype,
            "codebook_sizes_": codec.sizes,
            "_codec_": codec,
            "step_": step,
            "clip_range_": (codec.cells.low, codec.cells.high),
            "clipped_share_": np.zeros(rows.n_features),
        }

    # -- ranges --------------------------------------------------------------------

    def _statistic(self) -> str:
        """Return the name of the statistic that range or levels follow from."""
        if self.levels == "lloyd-max":
            return self.feature_distribution
        return self.clip_range if isinstance(self.clip_range, str) else _GIVEN

    def _statistics(self, rows: Rows, shares: Any) -> Learner[Spans | Moments]:
        how = self._statistic()
        if how == _GIVEN:
            return Spans(*self._given_range(rows.n_features))
        if how == "minmax":
            return Spans(*(yield from column_range(rows)))
        if how == "quantile":
            low, high = yield from quantiles(rows, shares)
            return Spans(low.astype(np.float64), high.astype(np.float64))
        return (yield from _moments(how, rows))

    def _range(self, statistics: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
        """Return the range to cut, and warn if it is a single point."""
        low, high = self._ends(statistics, sizes)
        warn_of_points(self._column_noun(), low, high, sizes, "n_levels")
        return low, high

    def _ends(self, statistics: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
        """Return the range to cut."""
        if not isinstance(statistics, Moments):
            return statistics.low, statistics.high
        _, middle, scale = statistics
        reach = scale * [self._reach(size) for size in sizes]
        return middle - reach, middle + reach

    def _reach(self, size: int) -> float:
        """Return the half width of the best range for a density."""
        reach = uniform_reach(str(self.clip_range), size)
        outermost = max(size - 1, 1) / size
        return reach if self.range_ends == "edges" else reach * outermost

    def _clipped(self, rows: Rows, low: Any, high: Any) -> Learner[Averages]:
        """Return the share of the weight beyond the range of each column."""
        if self._statistic() == "minmax":  # nothing is outside
            return Averages(1.0, (np.zeros(len(low)),))
        weight = yield from total_weight(rows)
        share = yield from weighted_mean(rows, _outside, low, high)
        return Averages(weight, (share,))

    def _given_range(self, n_columns: Any) -> tuple[Any, Any]:
        try:
            given: Any = self.clip_range
            for end in (given, *given):
                check_unmasked(end, "clip_range")
            low, high = (
                np.broadcast_to(np.asarray(end, dtype=np.float64), (n_columns,)).copy()
                for end in given
            )
        except (TypeError, ValueError) as error:
            arrays = "" if self.share_levels else f" or two arrays of {n_columns}"
            raise ValueError(
                f"clip_range={self.clip_range!r}: expected (low, high), two "
                f"numbers{arrays and arrays + ' numbers'}."
            ) from error
        if not ((low < high) & np.isfinite(low) & np.isfinite(high)).all():
            raise ValueError(
                f"clip_range={self.clip_range!r}: expected finite low < high."
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

    def _matched_tables(self, moments: Any, sizes: tuple[int, ...]) -> list[np.ndarray]:
        """Return the levels of least squared error for densities with given moments."""
        _, middle, scale = moments
        noun = self._column_noun()
        warn_of_points(noun, middle, middle + scale, sizes, "n_levels")
        return _density_tables(self.feature_distribution, moments, sizes)

    def _best_tables(
        self, rows: Rows, sizes: tuple[int, ...]
    ) -> Learner[list[np.ndarray]]:
        """Return the levels of least squared error for the samples."""
        counts: list[int] = []

        def learn(columns: Any, features: Any) -> list[Any]:
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
        if self.total_bits is None:  # it is meant to leave out levels
            warn_of_few(
                self._column_noun(),
                counts,
                sizes,
                "{} distinct samples are fewer than n_levels={size}: the codebook "
                "repeats them.",
            )
        return tables

    def _column_noun(self) -> str:
        return "set of levels" if self.share_levels else "feature"

    def _given_levels(self, n_features: int) -> list[np.ndarray]:
        """Return the arrays in `levels`, one for each feature."""
        expected = 1 if self.share_levels else n_features
        if len(self.levels) != expected:
            how = "with share_levels=True" if self.share_levels else "a feature"
            raise ValueError(
                f"levels has {len(self.levels)} entries, but X has {n_features} "
                f"features; expected {expected}, one array {how}."
            )
        arrays = [_as_levels(f"levels[{j}]", a) for j, a in enumerate(self.levels)]
        return _of_all(arrays, n_features)

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        how = self._number_from()
        tables = as_shared(tables, self.share_levels, "share_levels=True")
        arrays = columns_of_tables(tables)
        d, dtype = len(arrays), tables[0].dtype
        own = {id(a): _as_levels(f"codebooks[{j}]", a) for j, a in enumerate(arrays)}
        levels = [own[id(array)] for array in arrays]
        sizes = tuple(map(len, levels))
        found: dict[str, Any] = {
            "_dtype_": dtype,
            "n_features_in_": d,
            "codebook_sizes_": sizes,
        }
        if how == "total_bits":
            self._check_total(sizes)
        elif how != "n_levels":
            return {**found, **self._steps_of_tables(levels)}
        else:
            self._imply(n_levels=one_or_each(sizes))
        if not isinstance(self.levels, str):
            self._check_as_given(levels)
        if self.levels == "uniform" and not isinstance(self.clip_range, str):
            low, high = ends = self._given_range(d)
            if how == "total_bits":  # a single level is the mean
                means = np.array([table[0] for table in levels])
                one = np.asarray(sizes) == 1
                low, high = (np.where(one, means, end) for end in ends)
            found.update(self._grid(low, high, sizes))
            found["clip_range_"] = ends
            _check_middles(found["_codec_"].tables(dtype), levels, self.clip_range)
            return {**found, "clipped_share_": np.full(d, np.nan)}
        if self.levels == "uniform":
            # Set to None, since it is unknown how the numbers were found.
            self.total_bits = None
            self.levels = tuple(levels[:1] if self.share_levels else levels)
        return {**found, **_of_tables(levels)}

    def _check_total(self, sizes: tuple[int, ...]) -> None:
        bits = float(np.log2(sizes).sum())
        if bits > float(cast(Number, self.total_bits)) + 1e-9:
            raise ValueError(
                f"total_bits={self.total_bits!r}, but the given codebooks take "
                f"{bits:.6g}."
            )

    def _steps_of_tables(self, levels: Any) -> dict[str, Any]:
        """Return fitted attributes for tables with one level in each cell of a step."""
        if self.step is None:
            raise ValueError(
                "UniformQuantizer has no from_codebooks with target_bits="
                f"{self.target_bits!r}, whose step they do not tell: give step=, the "
                "step_ of a fitted one."
            )
        step = float(self.step)
        with np.errstate(over="ignore"):
            # The rounding of a level must not move it to the next cell.
            firsts = [
                np.median(np.floor(t / step + 0.5) - np.arange(len(t))) for t in levels
            ]
        first, last = (
            np.array(
                [f + k * (len(t) - 1) for f, t in zip(firsts, levels, strict=True)]
            )
            for k in (0, 1)
        )
        cells = cells_of_step(first * step, last * step, step)
        inside = cells is not None and all(
            _are_in_cells(table, f, step)
            for table, f in zip(levels, first, strict=True)
        )
        if cells is None or not inside:
            raise ValueError(
                f"step={self.step!r}: the given codebooks have not one level in each "
                "of neighbouring cells of this width."
            )
        return {
            "codebook_sizes_": cells.sizes,
            "_codec_": CellMeans(cells, levels),
            "step_": step,
            "clip_range_": (cells.low, cells.high),
            "clipped_share_": np.full(len(levels), np.nan),
        }

    def _check_as_given(self, levels: Any) -> None:
        """Raise unless arrays in `levels` agree with the tables."""
        pairs = zip(self._given_levels(len(levels)), levels, strict=True)
        for j, (given, table) in enumerate(pairs):
            if not np.array_equal(given, table):
                raise ValueError(
                    f"levels[{j}] differs from codebooks[{j}]: leave levels out, or "
                    "give the same."
                )

    # -- hooks of the base class ---------------------------------------------------

    def _fewest_rows(self) -> int:
        learns = isinstance(self.levels, str) and self._statistic() != _GIVEN
        learns |= self.total_bits is not None
        return 2 if learns else 1

    def _can_partial_fit(self) -> bool:
        if self._ways():
            return False
        if not isinstance(self.levels, str):
            return True
        return self._statistic() in (_GIVEN, "minmax", "gaussian")

    def _why_no_partial_fit(self) -> str:
        for how in self._ways():
            return (
                f"{how}={getattr(self, how)!r} does not learn from a stream, since it "
                "looks at all samples more than once; n_levels does."
            )
        if self.levels == "lloyd-max":
            return (
                f"feature_distribution={self.feature_distribution!r} does not learn "
                "from a stream; 'gaussian' does."
            )
        return (
            f"clip_range={self.clip_range!r} does not learn from a stream; "
            "'minmax', 'gaussian' and (low, high) do."
        )

    def _needs_rows_in_memory(self) -> str | None:
        learns = isinstance(self.levels, str) and not self.share_levels
        if learns and self._statistic() == "data":
            return all_in_memory("levels", self.levels)
        return None

    def _encode(self, X: Any) -> Any:
        return self._codec_.encode(X)

    def _decode(self, codes: Any) -> Any:
        return self._codec_.decode(codes, self._dtype_)

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        return shared_tables(self._codec_.tables(self._dtype_))

    def _ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        ends = getattr(self, "clip_range_", None)
        if ends is None:
            return range_of_levels(table[:, 0] for table in self._codec_.tables())
        low, high = (nearest.backend_of(end).to_host(end) for end in ends)
        return low, high


def _errors_of_data(rows: Rows) -> Any:
    """Return the learner of the errors of features with numbers of Lloyd-Max levels."""

    def errors(candidates: tuple[int, ...]) -> Learner[np.ndarray]:
        def of_columns(columns: Any, features: Any) -> list[Any]:
            return list(level_errors(columns, candidates))

        found = yield from of_distinct(rows, of_columns)
        exponents = np.array([exponent for _, exponent in found])
        # In units of the widest feature, whose squares are below one: none overflows.
        factors = np.ldexp(1.0, 2 * (exponents - exponents.max()))
        return np.array([curve for curve, _ in found]) * factors[:, None]

    return errors


def _density_tables(
    density: str, moments: Moments, sizes: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the levels of least squared error for densities with given moments."""
    _, middle, scale = moments
    return [
        np.unique(middle[j] + scale[j] * standard_levels(density, size))
        for j, size in enumerate(sizes)
    ]


def _are_in_cells(levels: np.ndarray, first: float, step: float) -> bool:
    """Return whether each level is in its cell, up to the rounding of float32."""
    gap = np.abs(levels - (first + np.arange(len(levels))) * step)
    slack = 2.0**-20 * np.abs(levels)
    return bool((gap <= 0.5 * step * (1 + 2.0**-20) + slack).all())


class _Seen(NamedTuple):
    """The statistics of a stream for a uniform quantizer."""

    how: str
    shared: bool
    statistics: Spans | Moments
    clipped: Averages | None = None


def _of_tables(levels: list[np.ndarray]) -> dict[str, Any]:
    """Return the fitted attributes for given levels of each feature."""
    sizes = tuple(map(len, levels))
    return {"codebook_sizes_": sizes, "_codec_": Levels.of_tables(levels)}


def _of_all(tables: list[np.ndarray], n_features: int) -> list[np.ndarray]:
    """Return a table for each feature from the one that all share, or one for each."""
    return tables * n_features if len(tables) == 1 else tables


def _as_levels(name: str, values: Any) -> np.ndarray:
    """Return given levels in float64; raise unless they are valid."""
    levels = check_numbers(values, name, ("n_levels",))
    if not is_table(levels):
        raise ValueError(f"{name}: levels are not ascending; sort them.")
    return levels


def _check_middles(middles: Any, levels: Any, clip_range: Any) -> None:
    """Raise unless given levels are those of a given range, up to rounding."""
    for j, (middle, table) in enumerate(zip(middles, levels, strict=True)):
        eps = np.finfo(middle.dtype).eps
        middle = middle[:, 0].astype(np.float64)
        gap = np.abs(middle - table).max()
        if not gap <= 8 * eps * np.abs(middle).max():
            raise ValueError(
                f"clip_range={clip_range!r}: codebooks[{j}] is off its levels by "
                f"{gap:.3g}; expected those, or leave clip_range out."
            )


def _outside(be: nearest.Backend, x: Any, low: Any, high: Any) -> Any:
    return (x < be.send(low)) | (x > be.send(high))


def _moments(name: str, rows: Rows) -> Learner[Moments]:
    """Return the middle and the standard deviation of each column for a density."""
    weight = yield from total_weight(rows)
    if name == "gaussian":
        mean = yield from weighted_mean(rows)
        return Moments(weight, mean, (yield from spread(rows, mean)))
    (median,) = (yield from quantiles(rows, [0.5])).astype(np.float64)
    deviation = yield from weighted_mean(rows, _gaps, median)
    # The median is a sample, and may lie on an edge.  Rounding to 40 bits makes sums of
    # weights and of repeats, which round differently, the same.
    mantissa, exponent = np.frexp(np.sqrt(2.0) * deviation)
    scale = np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40)
    return Moments(weight, median, scale)


def _gaps(be: nearest.Backend, x: Any, middle: Any) -> Any:
    return abs(x - be.send(middle))
