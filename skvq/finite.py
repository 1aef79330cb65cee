"""Finite scalar quantization: features are squashed to a range, then rounded."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._checks import check_count
from skvq._compat import NUMBERS, SIZES, Interval, StrOptions
from skvq._given import one_or_each
from skvq._typing import (
    DecodeTo,
    MatrixLike,
    Number,
    Size,
    Sizes,
    SquashFormula,
    SquashName,
    VectorLike,
)
from skvq._validation import all_in_memory, as_it_is_now
from skvq.base import over_blocks
from skvq.coding.levels import LevelTables
from skvq.coding.squash import Clamp, Distribution, Spread, Squash, Tanh
from skvq.learning.rows import Learner, Rows, run
from skvq.learning.scalar import (
    Averages,
    column_range,
    equal_shares,
    level_means,
    level_shares,
    mean_squares,
    of_distinct,
    per_column,
    positive_per_column,
    total_weight,
    unit_of,
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

# `FiniteScalarQuantizer` is public as skvq.FiniteScalarQuantizer.
__all__ = ["recommended_levels"]

# Squashes with nothing to learn.
_FIXED_SQUASHES = frozenset({"tanh", "clamp"})
_RECOMMENDED = {
    8: (8, 6, 5),
    10: (8, 5, 5, 5),
    12: (7, 5, 5, 5, 5),
    14: (8, 8, 8, 6, 5),
    16: (8, 8, 8, 5, 5, 5),
}


def recommended_levels(total_bits: int) -> tuple[int, ...]:
    """Return the levels that the authors of FSQ recommend for a codebook size.

    Parameters
    ----------
    total_bits : {8, 10, 12, 14, 16}
        log2 of the number of tokens, which is about the product of the levels.

    Returns
    -------
    levels : tuple of int
        Levels of each feature; the number of features is their number.

    Raises
    ------
    ValueError
        If there is no recommendation for this number.

    References
    ----------
    Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR,
    table 1, arXiv 2309.15505.

    Examples
    --------
    >>> from skvq.finite import recommended_levels
    >>> recommended_levels(8)
    (8, 6, 5)
    """
    if not isinstance(total_bits, Integral) or total_bits not in _RECOMMENDED:
        raise ValueError(
            f"total_bits={total_bits!r}: there are recommended levels for "
            f"{sorted(_RECOMMENDED)}."
        )
    return _RECOMMENDED[total_bits]


class FiniteScalarQuantizer(ScalarQuantizer):
    r"""Bound each feature, then round it to one of a few integers (FSQ).

    A feature z with L levels is squashed to a range that holds L integers, and rounded
    (half to even).  With ``squash="tanh"``, as published and corrected,

    .. math:: b = h \tanh(z + \mathrm{artanh}(o / h)) - o,
        \quad h = (L - 1)(1 + 10^{-3}) / 2,

    with o = 1/2 for even L, else 0.  The code is
    :math:`\mathrm{round}(b) + \lfloor L/2 \rfloor`.  A row of codes is a token of a
    codebook of :math:`\prod L_i`, none of whose entries is learned.  The symmetric form
    has no shift, :math:`b = (L - 1) / 2 \cdot \tanh(z) - o`: its values are L equal
    steps from -1 to 1; for L = 2 they are the signs.

    Parameters
    ----------
    n_levels : int or sequence of int, default=8
        L of every feature, or of each, 2 or more; see `recommended_levels`.
    squash : {"tanh", "clamp", "cdf", "none"}, default="tanh"
        The function that features go through before they are rounded.  "tanh": fixed,
        made for features of about unit scale; "clamp": the same formula with clipping
        to [-1, 1] in place of tanh; "cdf": the distribution function of each feature in
        training, so that every level is used equally; "none": linear, with the end
        levels at the smallest and the largest value in training.
    squash_formula : {"corrected", "paper", "symmetric"}, default="corrected"
        With ``squash`` "tanh" or "clamp": "corrected" is the formula above; "paper" is
        the listing of the paper, which has :math:`1 - 10^{-3}` and tan for artanh;
        "symmetric" is the form used in residual FSQ.  The latter two are for models
        that were trained with them.
    scale : float or sequence of float, default=1.0
        With ``squash`` "tanh" or "clamp": divisor of the samples before the squash; one
        for all features, or one for each.
    decode_to : {"means", "values"}, default="means"
        What a level is decoded to: the mean of its training samples; or its code value
        times `scale`, as in models that are trained with FSQ.  With the latter and
        ``squash`` "tanh" or "clamp" nothing is learned.
    total_bits : float, default=None
        With ``squash="none"`` and ``decode_to="means"``: it replaces `n_levels`, and
        this many bits are spread over the features such that the training error becomes
        small.  They are never exceeded.  A feature takes at most 16; a feature without
        bits is decoded to its mean.
    powers_of_two : bool, default=False
        With `total_bits`: whether features get whole bits.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (L_j, 1)
        The values that the levels of each feature are decoded to, in the space of X.
    codebook_sizes_ : tuple of int
        The levels of each feature.
    bits_per_sample_ : float
        Sum of log2 L_j.
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
    UniformQuantizer : Equal cells without a squash.
    skvq.codes.token_ids : With ``order="F"``, the token index of the paper.

    Notes
    -----
    By default `inverse_transform` returns to the space of X: a level is decoded to the
    mean of its training samples, because the inverse of the squash is far off at the
    end levels (for a Gaussian feature and 8 levels it is nearly as bad as no code at
    all).  Levels without samples lie on the line between their neighbours.  Models
    trained with FSQ work with `bounded_values`, before rounding, and `code_values`,
    after it.

    The published form shifts even levels by the wrong function; ids differ in about 1%
    of rows.  L = 2 is degenerate in both forms: its border is far from zero.  In the
    symmetric form it is zero, and borders belong above.  Cells are half-open intervals
    with "cdf" and rounding intervals with "none"; the codes are those of the uniform
    grid on [0, L) for the bounded value + floor(L/2) + 1/2.

    With ``squash`` "tanh" or "clamp", `partial_fit` updates the means.

    References
    ----------
    Mentzer et al. (2024), "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR,
    arXiv 2309.15505.

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
    >>> signs = FiniteScalarQuantizer(2, squash_formula="symmetric", decode_to="values")
    >>> signs.fit_transform([[-0.3, 0.0, 5.0]]).tolist()
    [[0, 1, 1]]
    >>> signs.quantize([[-0.3, 0.0, 5.0]]).tolist()
    [[-1.0, 1.0, 1.0]]
    """

    _dtype_: np.dtype
    _squash_: Squash
    _tables_: LevelTables

    _parameter_constraints = {  # noqa: RUF012
        "n_levels": [Interval(Integral, 2, 2**16, closed="both"), SIZES],
        "squash": [StrOptions({*_FIXED_SQUASHES, "cdf", "none"})],
        "squash_formula": [StrOptions({"corrected", "paper", "symmetric"})],
        "scale": [Interval(Real, 0, None, closed="neither"), NUMBERS],
        "decode_to": [StrOptions({"means", "values"})],
        "total_bits": [Interval(Real, 0, 2**32, closed="both"), None],
        "powers_of_two": ["boolean"],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_levels: Size | Sizes = 8,
        *,
        squash: SquashName = "tanh",
        squash_formula: SquashFormula = "corrected",
        scale: Number | VectorLike = 1.0,
        decode_to: DecodeTo = "means",
        total_bits: Number | None = None,
        powers_of_two: bool = False,
    ) -> None:
        self.n_levels = n_levels
        self.squash = squash
        self.squash_formula = squash_formula
        self.scale = scale
        self.decode_to = decode_to
        self.total_bits = total_bits
        self.powers_of_two = powers_of_two

    def bounded_values(self, X: MatrixLike) -> NDArray[Any]:
        """Return the bounded values of samples, before they are rounded.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        bounded : ndarray of shape (n_samples, n_features)
            b of the formula; the L integers from -floor(L/2) on are within its range.
        """
        self = as_it_is_now(self)
        X = self._check_input(X, "bounded_values")
        blocks = over_blocks(X, self._squash_.bounded)
        return nearest.backend_of(X).gathered(X.shape[0], blocks)

    def code_values(self, codes: MatrixLike) -> NDArray[Any]:
        """Return the values in [-1, 1] that codes stand for.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_features)
            Codes as `transform` returns them.

        Returns
        -------
        values : ndarray of shape (n_samples, n_features)
            (code - floor(L/2)) / floor(L/2), which the published quantizer passes to a
            decoder; 2 code / (L - 1) - 1 in the symmetric form.
        """
        self = as_it_is_now(self)
        codes = self._check_codes(codes, "code_values")
        # Looking values up gives the same bits in all libraries.
        values = LevelTables(self._squash_.values())
        return values.decode(codes, self._dtype_)

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        if self.total_bits is not None:
            return (yield from self._allocated(rows))
        sizes = per_column(
            "n_levels", self.n_levels, rows.n_features, "feature", 2, 2**16
        )
        check_levels_memory("n_levels", self.n_levels, sizes, rows)
        if self.squash in _FIXED_SQUASHES:
            squash: Squash = self._fixed_squash(sizes)
        elif self.squash == "none":
            low, high = yield from column_range(rows)
            warn_of_points("feature", low, high, sizes, "n_levels")
            squash = Spread(sizes, low, high)
        else:
            squash = yield from _fit_distribution(rows, sizes)
        found = {"_squash_": squash, "_dtype_": rows.dtype, "codebook_sizes_": sizes}
        if self.decode_to == "values":
            return {**found, "_tables_": LevelTables(self._scaled_values(squash))}
        averages = yield from _averages_of_levels(rows, squash)
        return {**found, **_decoded_to(averages, sizes)}

    def _allocated(self, rows: Rows) -> Learner[dict[str, Any]]:
        """Return the fitted attributes with `total_bits`."""
        self._check_allocates()
        low, high = yield from column_range(rows)
        unit = yield from unit_of(rows)

        def errors(candidates: tuple[int, ...]) -> Learner[np.ndarray]:
            codecs = []
            for size in candidates:
                squash = Spread((size,) * rows.n_features, low, high)
                averages = yield from _averages_of_levels(rows, squash)
                parts, shares = averages.means
                means = level_means(parts, shares, squash.sizes)
                codecs.append(_Means(squash, LevelTables(means)))
            return (yield from mean_squares(rows, codecs, unit))

        sizes = yield from allocated_sizes(self, rows, errors)
        squash = Spread(sizes, low, high)
        averages = yield from _averages_of_levels(rows, squash)
        found = {"_squash_": squash, "_dtype_": rows.dtype, "codebook_sizes_": sizes}
        return {**found, **_decoded_to(averages, sizes)}

    def _check_allocates(self) -> None:
        """Raise if other parameters do not fit `total_bits`."""
        for name, value in (("squash", "none"), ("decode_to", "means")):
            if self.total_bits is not None and getattr(self, name) != value:
                raise ValueError(
                    f"total_bits={self.total_bits!r} with {name}="
                    f"{getattr(self, name)!r}: expected {name}={value!r}."
                )

    def _partial_fit(self, X: Any, weights: Any) -> dict[str, Any]:
        self._check_allocates()
        rows, d = Rows(X, weights), X.shape[1]
        sizes = per_column("n_levels", self.n_levels, d, "feature", 2, 2**16)
        squash = self._fixed_squash(sizes)
        dtype = getattr(self, "_dtype_", rows.dtype)
        found = {"_squash_": squash, "_dtype_": dtype, "codebook_sizes_": sizes}
        if self.decode_to == "values":
            return {**found, "_tables_": LevelTables(self._scaled_values(squash))}
        seen, averages = self._seen_before(), run(_averages_of_levels(rows, squash))
        if seen is not None:
            check_as_begun("n_levels", sizes, self.codebook_sizes_)
            self._check_cells_as_begun(squash)
            averages = seen.joined(averages)
        return {**found, **_decoded_to(averages, sizes)}

    def _check_cells_as_begun(self, squash: Tanh) -> None:
        """Raise if the cells differ from those of the samples behind the means."""
        if not all(map(np.array_equal, squash.edges, self._squash_.edges)):
            raise ValueError(
                f"squash={self.squash!r}, squash_formula={self.squash_formula!r} and "
                f"scale={self.scale!r} have other cells than the stream began with: "
                "fit anew to change them."
            )

    def _fixed_squash(self, sizes: tuple[int, ...]) -> Tanh:
        scales = positive_per_column("scale", self.scale, len(sizes))
        make = Tanh if self.squash == "tanh" else Clamp
        return make(sizes, self.squash_formula, scales)

    def _scaled_values(self, squash: Any) -> list[np.ndarray]:
        """Return the code values of each feature in the unit of X."""
        scales = positive_per_column("scale", self.scale, len(squash.sizes))
        pairs = zip(squash.values(), scales, strict=True)
        return [values * scale for values, scale in pairs]

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        self._check_allocates()
        if self.squash not in _FIXED_SQUASHES:
            raise ValueError(
                "FiniteScalarQuantizer has no from_codebooks with "
                f"squash={self.squash!r}, which is found from samples: give "
                "squash='tanh' or 'clamp', or use UniformQuantizer, for the nearest "
                "levels."
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
        self._imply(n_levels=one_or_each(sizes))
        # These settings let a later fit decode to the same values.
        self.decode_to = "values" if own else "means"
        return {
            "_squash_": squash,
            "_tables_": LevelTables(arrays),
            "_dtype_": dtype,
            "codebook_sizes_": sizes,
            "n_features_in_": len(sizes),
        }

    def _fewest_rows(self) -> int:
        learns = self.squash not in _FIXED_SQUASHES or self.decode_to == "means"
        return 2 if learns else 1

    def _can_partial_fit(self) -> bool:
        return self.squash in _FIXED_SQUASHES

    def _why_no_partial_fit(self) -> str:
        return (
            f"squash={self.squash!r} does not learn from a stream; 'tanh' and 'clamp' "
            "do."
        )

    def _needs_rows_in_memory(self) -> str | None:
        return all_in_memory("squash", self.squash) if self.squash == "cdf" else None

    def _encode(self, X: Any) -> Any:
        return self._squash_.encode(X)

    def _decode(self, codes: Any) -> Any:
        return self._tables_.decode(codes, self._dtype_)

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        return shared_tables(self._tables_.tables(self._dtype_))

    def _ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._squash_.ranges()


class _Means(NamedTuple):
    """A squash, and the values that its codes are decoded to."""

    squash: Spread
    tables: LevelTables

    def encode(self, X: Any) -> Any:
        return self.squash.encode(X)

    def decode(self, codes: Any, dtype: Any) -> Any:
        return self.tables.decode(codes, dtype)


def _averages_of_levels(rows: Rows, squash: Squash) -> Learner[Averages]:
    weight = yield from total_weight(rows)
    return Averages(weight, (yield from level_shares(rows, squash, squash.sizes)))


def _decoded_to(averages: Averages, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Return the fitted attributes for levels that are decoded to their means."""
    parts, shares = averages.means
    means = level_means(parts, shares, sizes)
    return {"_tables_": LevelTables(means), "_seen_": averages}


def _is_close(given: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether numbers are the expected ones, up to rounding in their dtype."""
    gap = np.abs(given.astype(np.float64) - expected)
    return bool(gap.max() <= 4 * np.finfo(given.dtype).eps * np.abs(expected).max())


def _fit_distribution(rows: Rows, sizes: tuple[int, ...]) -> Learner[Distribution]:
    """Return the squash with edges of equal weight, and warn where they coincide."""

    def cut(columns: Any, features: Any) -> list[Any]:
        found = []
        for (values, mass), size in zip(columns, sizes[features], strict=True):
            edges = equal_shares(values, mass, size)
            used = len(np.unique(np.searchsorted(edges, values, side="right")))
            knots = np.concatenate((values[:1], edges, values[-1:]))
            found.append((edges, knots, used))
        return found

    edges, knots, used = zip(*(yield from of_distinct(rows, cut)), strict=True)
    warn_of_few(
        "feature",
        used,
        sizes,
        "{} levels have samples, fewer than n_levels={size}: edges between levels "
        "coincide, where too many samples are equal.",
    )
    return Distribution(sizes, edges, knots)
