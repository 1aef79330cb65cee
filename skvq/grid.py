"""Scalar schemes: each feature replaced by the level of its cell on the line."""

from functools import cached_property
from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._checks import check_memory, check_unmasked
from skvq._compat import NUMBERS, SIZE, SIZES, Interval, StrOptions
from skvq._validation import all_in_memory, as_it_is_now, check_codes, warn_of_some
from skvq.base import BaseQuantizer, over_blocks
from skvq.codes import smallest_dtype
from skvq.coding.levels import Grid, Levels, LevelTables
from skvq.coding.sums import level_entries
from skvq.learning.levels import best_levels
from skvq.learning.quantiles import quantiles
from skvq.learning.rows import Learner, Rows
from skvq.learning.scalar import (
    DENSITIES,
    column_range,
    equal_shares,
    level_means,
    of_distinct,
    per_column,
    spread,
    standard_levels,
    uniform_reach,
    weighted_mean,
)


class UniformQuantizer(BaseQuantizer):
    r"""Cut the range of each feature in equal cells.

    The Cartesian codebook: [low, high) is cut in V cells, and level j is the middle of
    its cell, :math:`W_j = low + (2j + 1)(high - low) / (2V)`.  The nearest level is
    found by a formula, and no table is kept: V may be as large as one likes, and the
    cost is the same.  An edge belongs to the cell above it, and values beyond the
    range to the end cells.  Several features are the concatenated scheme of such
    grids; the range [0, N) with V = N rounds down to i and adds one half.

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
    levels : {"uniform", "lloyd-max"}, default="uniform"
        "uniform": equal cells; "lloyd-max": the levels of least squared error.
    density : {"data", "gaussian", "laplacian"}, default="data"
        With ``levels="lloyd-max"``: what the levels are matched to: the training
        samples themselves, or a density fitted to them.  A Gaussian has their mean and
        standard deviation, a Laplacian their median and mean absolute deviation.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, 1)
        The levels of each feature.
    codebook_sizes_ : tuple of int
        V_1..V_d.
    feature_range_ : tuple of two ndarrays of shape (n_features,)
        With ``levels="uniform"``: low and high.
    clipped_share_ : ndarray of shape (n_features,)
        With ``levels="uniform"``: the share of the training weight that lies below low
        or above high.
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
    with, whatever their dtype.  Of Gaussian features Lloyd-Max levels leave an error of
    .363, .1175, .0345 and .0095 of the variance at 1 to 4 bits, the best equal cells
    .363, .1188, .0374 and .0115.  With ``density="data"``, a feature with fewer
    distinct samples than levels is a ConvergenceWarning; its levels are those,
    repeated.  So is a range that is a point, of a constant feature or between two equal
    quantiles.

    The levels for ``density="data"`` are the best there are up to 1024 distinct values,
    found by dynamic programming; beyond, a local optimum that is never worse than that
    of scikit-learn's ``KBinsDiscretizer(strategy="kmeans")``.

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
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_levels": [SIZE, SIZES],
        "feature_range": [StrOptions({"minmax", "quantile", *DENSITIES}), NUMBERS],
        "quantile_range": [NUMBERS],
        "levels": [StrOptions({"uniform", "lloyd-max"})],
        "density": [StrOptions({"data", *DENSITIES})],
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
    ):
        self.n_levels = n_levels
        self.feature_range = feature_range
        self.quantile_range = quantile_range
        self.levels = levels
        self.density = density

    def _fit(self, rows):
        d = rows.n_features
        sizes = per_column("n_levels", self.n_levels, d, "feature", 1, 2**32)
        shares = self._quantile_shares()
        found = {"_dtype_": rows.dtype, "codebook_sizes_": sizes}
        if self.levels == "lloyd-max":
            _check_memory("n_levels", self.n_levels, sizes, rows)
            codec = yield from self._matched_levels(rows, sizes)
            return {**found, "_codec_": codec}
        low, high = yield from self._range(rows, sizes, shares)
        _warn_of_points(low, high, sizes, "n_levels")
        clipped = np.zeros(d)
        if self.feature_range != "minmax":  # which has nothing outside
            clipped = yield from weighted_mean(rows, _outside, low, high)
        return {
            **found,
            "_codec_": Grid(low, high, sizes),
            "feature_range_": (low, high),
            "clipped_share_": clipped,
        }

    def _range(self, rows, sizes, shares) -> Learner:
        how = self.feature_range
        if not isinstance(how, str):
            return self._given_range(rows.n_features)
        if how == "minmax":
            return (yield from column_range(rows))
        if how == "quantile":
            low, high = yield from quantiles(rows, shares)
            return low.astype(np.float64), high.astype(np.float64)
        middle, scale = yield from _moments(how, rows)
        reach = scale * [uniform_reach(how, size) for size in sizes]
        return middle - reach, middle + reach

    def _given_range(self, n_features):
        try:
            for end in (self.feature_range, *self.feature_range):
                check_unmasked(end, "feature_range")
            low, high = (
                np.broadcast_to(np.asarray(end, dtype=np.float64), (n_features,)).copy()
                for end in self.feature_range
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"feature_range={self.feature_range!r}: expected (low, high), two "
                f"numbers or two arrays of {n_features} numbers."
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

    def _matched_levels(self, rows, sizes) -> Learner[Levels]:
        if self.density != "data":
            middle, scale = yield from _moments(self.density, rows)
            _warn_of_points(middle, middle + scale, sizes, "n_levels")
            tables = [
                np.unique(middle[j] + scale[j] * standard_levels(self.density, size))
                for j, size in enumerate(sizes)
            ]
            return Levels(tables, sizes)
        counts: list[int] = []

        def learn(columns, features) -> list:
            pairs = list(columns)
            counts.extend(len(values) for values, _ in pairs)
            return best_levels(pairs, sizes[features])

        tables = yield from of_distinct(rows, learn)
        _warn_of_few(
            counts,
            sizes,
            "{} distinct samples are fewer than n_levels={size}: the codebook repeats "
            "them.",
        )
        return Levels(tables, sizes)

    def _needs_rows_in_memory(self):
        if self.levels == "lloyd-max" and self.density == "data":
            return all_in_memory("levels", self.levels)
        return None

    def _encode(self, X):
        return self._codec_.encode(X)

    def _entries(self, X, metric):
        return level_entries(X, self._codebooks(), metric)

    def _is_concatenation(self):
        return True

    def _decode(self, codes):
        return self._codec_.decode(codes, self._dtype_)

    def _codebooks(self):
        return self._codec_.tables(self._dtype_)


def _outside(be: nearest.Backend, x, low, high):
    return (x < be.send(low)) | (x > be.send(high))


def _check_memory(name: str, given, sizes, rows) -> None:
    """Raise if the levels, or the counts of their samples, are out of proportion."""
    check_memory(
        f"Levels of {name}={given} for each of {rows.n_features} features",
        3 * 8 * sum(sizes),
        rows.n_bytes,
    )


def _warn_of_few(counts, sizes, text: str) -> None:
    """Warn of features that have a smaller count of something than levels."""
    for size in sorted(set(sizes)):
        few = [
            count if count < size == own else None
            for count, own in zip(counts, sizes, strict=True)
        ]
        warn_of_some("feature", text.replace("{size}", str(size)), few)


def _warn_of_points(low, high, sizes, name: str) -> None:
    """Warn of features whose range is a point, so that all their levels are equal.

    The mean and the spread of a constant feature are so but for rounding.
    """
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high))
    points = 0.5 * high - 0.5 * low <= rounding
    warn_of_some(
        "feature",
        f"the range that is cut is one point, and all {name} are equal.",
        [
            0 if size > 1 and point else None
            for point, size in zip(points, sizes, strict=True)
        ],
    )


def _moments(name: str, rows: Rows) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Fit a density to each column: its middle and its standard deviation."""
    if name == "gaussian":
        mean = yield from weighted_mean(rows)
        return mean, (yield from spread(rows, mean))
    (median,) = (yield from quantiles(rows, [0.5])).astype(np.float64)
    deviation = yield from weighted_mean(rows, _gaps, median)
    # The median is a sample, and may lie on an edge: to 40 bits the sums of weights and
    # of repeats, which round otherwise, are the same.
    mantissa, exponent = np.frexp(np.sqrt(2.0) * deviation)
    return median, np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40)


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


class FiniteScalarQuantizer(BaseQuantizer):
    r"""Bound each feature, then round it to one of a few integers (FSQ).

    A feature z with L levels is squashed to a range that holds L integers, and rounded
    (half to even).  With ``bound="tanh"``, as published and corrected,

    .. math:: b = h \tanh(z + \mathrm{artanh}(o / h)) - o,
        \quad h = (L - 1)(1 + 10^{-3}) / 2,

    with o = 1/2 for even L, else 0.  The code is
    :math:`\mathrm{round}(b) + \lfloor L/2 \rfloor`.  A row of codes is one token of a
    codebook of :math:`\prod L_i`, of which no entry needs to be learned.

    Parameters
    ----------
    levels : int or sequence of int, default=8
        L of every feature, or of each, 2 or more; see `recommended_levels`.
    bound : {"tanh", "cdf", "none"}, default="tanh"
        The squash.  "tanh": fixed, made for features of about unit scale; "cdf": the
        distribution function of each feature in training, so that every level is used
        equally; "none": linear, end levels at the smallest and the largest value in
        training.
    formula : {"corrected", "paper"}, default="corrected"
        With ``bound="tanh"``: the formula above, or the listing of the paper, which has
        :math:`1 - 10^{-3}` and tan for artanh; for models that were trained with that.

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
    `inverse_transform` leads back to the space of X: a level is decoded to the mean of
    its training samples, because the inverse of the squash is far off at the end levels
    (for a Gaussian feature and 8 levels it is nearly as bad as no code at all).  Levels
    without samples lie on the line between their neighbours.  The numbers that a model
    trained with FSQ works with are `bounded_values`, before rounding, and
    `code_values`, after it.

    The published form shifts even levels by the wrong function; ids differ in about 1%
    of rows.  L = 2 is degenerate in either form: its border is far from zero.  With
    "cdf" and "none" cells are half-open intervals and rounding intervals respectively;
    the codes are the uniform grid's on [0, L) of the bounded value + floor(L/2) + 1/2.

    References
    ----------
    Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR.

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
    """

    _parameter_constraints = {  # noqa: RUF012
        "levels": [Interval(Integral, 2, 2**16, closed="both"), SIZES],
        "bound": [StrOptions({"tanh", "cdf", "none"})],
        "formula": [StrOptions({"corrected", "paper"})],
    }
    _follows_namespace = True

    def __init__(self, levels=8, *, bound="tanh", formula="corrected"):
        self.levels = levels
        self.bound = bound
        self.formula = formula

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
            hands to a decoder.
        """
        self = as_it_is_now(self)
        check_is_fitted(self)
        sizes = self.codebook_sizes_
        codes = check_codes(self, codes, sizes, self._decodable_widths())
        # Looked up, which is the same in all libraries.
        values = [(np.arange(size) - size // 2) / (size // 2) for size in sizes]
        return LevelTables(values).decode(self._home_.like(codes), self._dtype_)

    def _fit(self, rows):
        sizes = per_column("levels", self.levels, rows.n_features, "feature", 2, 2**16)
        _check_memory("levels", self.levels, sizes, rows)
        if self.bound == "tanh":
            squash: _Tanh | _Spread | _Distribution = _Tanh(sizes, self.formula)
        elif self.bound == "none":
            low, high = yield from column_range(rows)
            _warn_of_points(low, high, sizes, "levels")
            squash = _Spread(sizes, low, high)
        else:
            squash = yield from _fit_distribution(rows, sizes)
        means = yield from level_means(rows, squash, sizes)
        return {
            "_squash_": squash,
            "_tables_": LevelTables(means),
            "_dtype_": rows.dtype,
            "codebook_sizes_": sizes,
        }

    def _needs_rows_in_memory(self):
        return all_in_memory("bound", self.bound) if self.bound == "cdf" else None

    def _encode(self, X):
        return self._squash_.encode(X)

    def _entries(self, X, metric):
        return level_entries(X, self._codebooks(), metric)

    def _is_concatenation(self):
        return True

    def _decode(self, codes):
        return self._tables_.decode(codes, self._dtype_)

    def _codebooks(self):
        return self._tables_.tables(self._dtype_)


class _Tanh:
    """The squash of the paper, corrected or as it is printed."""

    def __init__(self, sizes, formula: str):
        self.sizes = sizes
        levels = np.asarray(sizes, dtype=np.float64)
        self.offset = np.where(levels % 2 == 0, 0.5, 0.0)
        if formula == "paper":
            self.scale = (levels - 1) * (1 - 1e-3) / 2
            self.shift = np.tan(self.offset / self.scale)
        else:
            self.scale = (levels - 1) * (1 + 1e-3) / 2
            self.shift = np.arctanh(self.offset / self.scale)

    def __getstate__(self) -> dict:
        # What follows from the rest is found again.
        return {k: v for k, v in vars(self).items() if k != "_edges"}

    @cached_property
    def _edges(self) -> nearest.Columns:
        rows = zip(self.sizes, self.scale, self.shift, self.offset, strict=True)
        return nearest.Columns([self._borders(*row) for row in rows])

    @staticmethod
    def _borders(size, scale, shift, offset):
        """Return where the bounded value is halfway between two integers.

        Only tanh(0) is met exactly; it belongs above, as half to even has it.
        """
        bounded = np.arange(1, size) - size // 2 - 0.5
        # As printed, the range does not hold all of a thousand levels and more.
        shares = np.clip((bounded + offset) / scale, -1, 1)
        with np.errstate(divide="ignore"):
            return np.arctanh(shares) - shift

    def encode(self, X):
        """Return the codes of X."""
        return nearest.cells_between(X, self._edges, smallest_dtype(max(self.sizes)))

    def bounded(self, X):
        """Return the bounded values of X, in its dtype."""
        be = nearest.backend_of(X)
        dtype = be.numpy_dtype(X)
        rows = self.scale, self.shift, self.offset
        scale, shift, offset = (be.send(row.astype(dtype)) for row in rows)

        def tile(cut: slice) -> tuple:
            z = be.xp.tanh(X[cut, :] + shift)
            z *= scale
            z -= offset
            return (z,)

        plan, outputs = nearest.row_plan(X.shape[1]), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]


class _Spread:
    """A linear squash: end levels at the smallest and the largest training value."""

    def __init__(self, sizes, low, high):
        self.sizes, self.low, self.high = sizes, low, high
        tables, edges = zip(*map(self._column, range(len(sizes))), strict=True)
        self._levels = Levels(tables, edges=edges)

    def _column(self, j):
        """Return the codes of a column, and the least values that have them."""
        size, code = self.sizes[j], np.arange(self.sizes[j])
        # Scaled by a power of two, which is exact, the width does not overflow.
        exponent = int(np.frexp(max(abs(self.low[j]), abs(self.high[j])))[1])
        low, high = np.ldexp([self.low[j], self.high[j]], -exponent)
        edges = low + (code[1:] - 0.5) * (high - low) / (size - 1)
        edges = np.ldexp(edges, exponent)
        # The bounded value is rounded half to even: every other edge belongs below.
        below = (code[1:] - size // 2) % 2 == 1
        edges[below] = np.nextafter(edges[below], np.inf)
        return code.astype(np.float64), np.maximum.accumulate(edges)

    def encode(self, X):
        """Return the codes of X."""
        return self._levels.encode(X)

    def bounded(self, X):
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

        def tile(cut: slice) -> tuple:
            # What overflows is beyond the range, and kept from it.
            z = be.ldexp(be.cast(X[cut, :], np.float64), exponent)
            z -= low
            z *= last
            z /= width
            z = be.xp.minimum(be.xp.maximum(z, be.xp.zeros_like(last)), last)
            return (z - half,)

        plan, outputs = nearest.row_plan(X.shape[1], 6), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]


class _Distribution:
    """The distribution function of the training samples, straight between edges."""

    def __init__(self, sizes, edges, knots):
        self.sizes = sizes
        gaps = list(map(np.diff, knots))
        with np.errstate(over="ignore"):  # of denormal gaps
            slopes = [
                np.divide(1.0, gap, out=np.zeros_like(gap), where=gap > 0)
                for gap in gaps
            ]
        # Where each cell begins, and the height that it has to the unit.
        self._levels = Levels([cuts[:-1] for cuts in knots], edges=edges)
        self._slopes = LevelTables(slopes)
        self._first, self._last = (np.array([cut[i] for cut in knots]) for i in (0, -1))

    def encode(self, X):
        """Return the codes of X."""
        return self._levels.encode(X)

    def bounded(self, X):
        """Return the bounded values of X, in its dtype."""
        # What `numpy.interp` does, from the cells on.
        be, sizes = nearest.backend_of(X), np.asarray(self.sizes, dtype=np.float64)
        codes, dtype = self.encode(X), be.numpy_dtype(X)
        rows = self._first, self._last, sizes, sizes // 2
        first, last, size, half = map(be.send, rows)

        def tile(cut: slice) -> tuple:
            x, cell = be.cast(X[cut, :], np.float64), codes[cut, :]
            gap, zero = x - self._levels.decode(cell), be.xp.zeros_like(x)
            share = be.xp.where(gap > 0, self._slopes.decode(cell) * gap, zero)
            # An infinite slope is that of a gap without width.
            share = be.xp.minimum(share, be.xp.ones_like(x))
            share += be.cast(cell, np.float64)
            share = be.xp.where(x < first, zero, share)
            share = be.xp.where(x >= last, size + zero, share)
            share -= 0.5
            return (share - half,)

        plan, outputs = nearest.row_plan(X.shape[1], 8), [((X.shape[1],), dtype)]
        return be.over_rows(X.shape[0], plan, tile, outputs)[0]


def _fit_distribution(rows: Rows, sizes) -> Learner[_Distribution]:
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
        used,
        sizes,
        "{} levels have samples, fewer than levels={size}: edges between levels "
        "coincide, where too many samples are equal.",
    )
    return _Distribution(sizes, edges, knots)
