"""The scaled scheme: any quantizer of directions, and a scale for each row."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np

from skvq import nearest
from skvq._compat import RANDOM_STATE, Interval, StrOptions
from skvq._typing import BackendName, RandomState, ScaleRule, Size
from skvq._validation import warn
from skvq.base import QUANTIZER, BaseQuantizer, over_blocks
from skvq.codes import smallest_dtype
from skvq.coding.levels import is_table
from skvq.coding.radius import Float32Radius, LogRadius, RadiusCode
from skvq.front import FrontQuantizer
from skvq.grid import UniformQuantizer
from skvq.learning.rows import Block, Learner, Rows, wider
from skvq.learning.scalar import standard_levels
from skvq.parts import Parts

_SCALINGS = ("least_squares", "unbiased", "norm")


class ScaledQuantizer(FrontQuantizer):
    r"""Quantize the directions of rows, and code a scale for each row.

    For each row r the part sees :math:`u = \sqrt{d}\, r / |r|`, whose features have
    mean square 1.  Its reconstruction q is decoded to :math:`s\,q`, with a scale s that
    has a code of its own:

    ===================  ===============================================================
    ``"least_squares"``  :math:`\langle q, r\rangle / |q|^2`, of least squared error
    ``"unbiased"``       :math:`|r|^2 / \langle q, r\rangle`: after a random rotation,
                         inner products with the reconstruction are right on average
    ``"norm"``           :math:`|r| / \sqrt{d}`, the divisor of the row
    ===================  ===============================================================

    After a rotation all features of a row look alike, and one table for a Gaussian
    serves them all: these are the schemes of vector databases, see the notes.

    Parameters
    ----------
    quantizer : quantizer or None, default=None
        The part, any quantizer of skvq; a clone of it is fitted.  None: four levels for
        each feature, the best ones for a standard Gaussian, so that only the scales are
        learned.
    scaling : {"least_squares", "unbiased", "norm"}, default="least_squares"
        See the table above.
    n_scale_bits : int or "float32", default=8
        Bits of the scale's code, 1 to 16: code 0 stands for zero, the others for equal
        ratios from the smallest positive to the largest scale of the training samples.
        "float32": two codes of 16 bits, with nothing to learn.
    warm_start : bool, default=False
        Whether another `fit` starts from the fitted part, so that codes keep their
        meaning as far as possible; see `skvq.codes.match`.  Scales are learned anew:
        their codes are places in an order, not names.
    random_state : int, RandomState instance or None, default=None
        Seeds the part; None: it keeps its own.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.
        With "auto", a part that has a backend of its own keeps it.

    Attributes
    ----------
    quantizer_ : quantizer
        The fitted part, which sees rows of length :math:`\sqrt{d}`.
    codebooks_ : tuple of ndarray
        The tables of the part, then those of the scale, of shape (V, 1).  For "float32"
        these are the scales of the upper 16 bits, and the units in the last place that
        the lower 16 bits count.
    codebook_sizes_ : tuple of int
        The sizes of the part, then those of the scale.
    bits_per_sample_ : float
        Sum of log2 V_j, including the scale.
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
    BinaryQuantizer : A part with one bit for each feature.
    UniformQuantizer : A part with any number of levels.

    Notes
    -----
    A zero row has scale code 0 and is decoded to zeros; the part sees ones in its
    place.  If the part's reconstruction is orthogonal to the row or points away from
    it, no scale helps: the scales of "least_squares" and "unbiased" are then zero.
    This may happen with parts that have seen very different rows in training, but not
    with signs, nor with levels on both sides of zero.

    "unbiased" costs some squared error, more with fewer bits of the part.  "norm" makes
    reconstructions of few bits too short: inner products are too small.  Eight bits of
    a scale cost about a thousandth of the error at 4 bits per feature, and less at
    fewer bits.

    After a random rotation, a Gaussian's levels with ``scaling="norm"`` are TurboQuant,
    with the other two scales EDEN, and signs with ``scaling="unbiased"`` are RaBitQ at
    one bit.

    The scheme does not learn from streams, which would widen the range of the scales.

    References
    ----------
    Gao and Long (2024), "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical
    Error Bound for Approximate Nearest Neighbor Search", SIGMOD, arXiv 2405.12497.

    Vargaftik et al. (2022), "EDEN: Communication-Efficient and Robust Distributed Mean
    Estimation for Federated Learning", ICML, arXiv 2108.08842.

    Zandieh et al. (2025), "TurboQuant: Online Vector Quantization with Near-optimal
    Distortion Rate", arXiv 2504.19874.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import BinaryQuantizer, ScaledQuantizer
    >>> X = np.array([[1.0, -2.0], [-30.0, 40.0], [0.0, 0.0]])
    >>> sq = ScaledQuantizer(BinaryQuantizer(scale=1), n_scale_bits=4).fit(X)
    >>> sq.transform(X).tolist()
    [[1, 0, 1], [0, 1, 15], [1, 1, 0]]
    >>> sq.quantize(X).round(6).tolist()
    [[1.5, -1.5], [-35.0, 35.0], [0.0, 0.0]]
    >>> sq.bits_per_sample_
    6.0
    """

    backend: BackendName

    _scale_code_: RadiusCode

    _parameter_constraints = {  # noqa: RUF012
        "quantizer": [QUANTIZER, None],
        "scaling": [StrOptions(set(_SCALINGS))],
        "n_scale_bits": [
            Interval(Integral, 1, 16, closed="both"),
            StrOptions({"float32"}),
        ],
        "warm_start": ["boolean"],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }

    def __init__(
        self,
        quantizer: BaseQuantizer | None = None,
        *,
        scaling: ScaleRule = "least_squares",
        n_scale_bits: Size | Literal["float32"] = 8,
        warm_start: bool = False,
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.quantizer = quantizer
        self.scaling = scaling
        self.n_scale_bits = n_scale_bits
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend

    def _default_part(self) -> BaseQuantizer:
        # The levels are exact in single precision, so that tables of all dtypes agree.
        levels = standard_levels("gaussian", 4).astype(np.float32).tolist()
        return UniformQuantizer(levels=[levels], share_levels=True)

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        part = yield from self._fit_part(rows.view(_directions))
        code: RadiusCode = Float32Radius()
        if self.n_scale_bits != "float32":
            low, high = yield rows.fold(_range, part, self.scaling, join=wider)
            if not np.isfinite(high[0]):
                raise ValueError(
                    "The scale of a sample overflows: X is too large for float64."
                )
            code = self._log_code(low[0], high[0], rows.dtype)
        return self._of(part, code)

    def _log_code(self, low: float, high: float, dtype: Any) -> LogRadius:
        if not high > 0:
            warn("all samples are zero, or have a scale of zero: so has every code.")
            low = high = 0.0
        largest = float(np.finfo(dtype).max)
        low, high = min(low, largest), min(high, largest)
        return LogRadius.between(low, high, 2 ** int(self.n_scale_bits), dtype)

    def _of(self, part: Any, code: RadiusCode) -> dict[Any, Any]:
        """Return the fitted attributes."""
        return {
            "quantizer_": part,
            "_parts_": Parts([part]),
            "_scale_code_": code,
            "codebook_sizes_": (*part.codebook_sizes_, *code.sizes),
        }

    def _from_tables(
        self, tables: list[nearest.Table], code_lengths: Any = None, prices: Any = None
    ) -> dict[str, Any]:
        n_own = self._n_scales()
        if len(tables) <= n_own:
            raise ValueError(
                f"codebooks has {len(tables)} tables; expected those of the part, and "
                f"{n_own} of the scale behind them."
            )
        own = [table.codewords for table in tables[-n_own:]]
        if self.n_scale_bits == "float32":
            code: RadiusCode = Float32Radius()
            if tuple(table.shape for table in own) != tuple((n, 1) for n in code.sizes):
                raise ValueError(
                    "n_scale_bits='float32': the last two of codebooks are expected to "
                    f"have {code.sizes} rows, as those of a fitted quantizer have."
                )
        else:
            code = LogRadius(_given_scales(own[0]))
            self._imply(n_scale_bits=int(np.log2(len(own[0]))))
        costs = {"code_lengths": code_lengths, "prices": prices}
        for name, given in costs.items():
            if given is not None:  # scales have no costs
                costs[name] = list(given)[:-n_own]
        part = self._part_of_tables(tables[:-n_own], costs)
        return {**self._of(part, code), "n_features_in_": part.n_features_in_}

    # -- hooks of the base class ---------------------------------------------------

    def _own_sizes(self) -> tuple[int, ...]:
        return self._scale_code_.sizes

    def _n_tables(self) -> int | None:
        n_tables = super()._n_tables()
        return None if n_tables is None else n_tables + self._n_scales()

    def _fewest_rows(self) -> int:
        n_rows = super()._fewest_rows()
        return n_rows if self.n_scale_bits == "float32" else max(2, n_rows)

    def _why_no_partial_fit(self) -> str:
        return (
            "the scheme does not learn from a stream: the range of the scales is that "
            "of all training samples."
        )

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        tables = list(super()._codebooks())
        dtype = nearest.Table(tables[0]).codewords.dtype
        return [*tables, *self._scale_code_.tables(dtype)]

    def _encode(self, X: Any) -> Any:
        be = nearest.backend_of(X)
        codes = self.quantizer_._encode(_unit_rows(be, X))
        scales = _scales_of(be, X, self.quantizer_, codes, self.scaling)
        dtype = be.code_dtype(smallest_dtype(max(self.codebook_sizes_)))
        found = [codes, self._scale_code_.encode(scales)]
        return be.concat([be.cast(each, dtype) for each in found], axis=1)

    def _decode(self, codes: Any) -> Any:
        be, n_own = nearest.backend_of(codes), self._n_scales()
        rows = self.quantizer_._decode(codes[:, :-n_own])
        scales = self._scale_code_.decode(codes[:, -n_own:])
        # Adding 0 turns negative zeros positive.
        return rows * be.cast(scales, be.numpy_dtype(rows))[:, None] + 0

    # -- searches over codes -------------------------------------------------------

    def _why_no_sums(self) -> str | None:
        why = super()._why_no_sums()
        part = vars(self).get("quantizer_", self._template().quantizer)
        if why is None and part._n_scales():
            what = "it codes a length of its own, a factor beside the scale."
            return f"its part, {part!r}: {what}"
        return why

    def _entries(self, X: Any, metric: str) -> Any:
        return self.quantizer_._distance_table(X, metric)

    def _n_scales(self) -> int:
        if self.__sklearn_is_fitted__():
            return len(self._scale_code_.sizes)
        return 2 if self.n_scale_bits == "float32" else 1

    def _scales(self, codes: Any) -> Any:
        return self._scale_code_.decode(codes[:, -self._n_scales() :])

    def _alignments(self, X: Any) -> np.ndarray | None:
        if self.scaling != "unbiased":
            return None
        be = nearest.backend_of(X)
        found = self.quantizer_._quantize(_unit_rows(be, X))
        products, norms, squares, _ = _compared(be, X, found)
        lengths, one = norms * be.xp.sqrt(squares), be.xp.ones_like(norms)
        cosines = products / be.xp.where(lengths > 0, lengths, one)
        cosines = be.xp.where(cosines > 0, cosines, 0 * one)
        # A zero row is decoded to itself.
        return be.xp.where(norms > 0, cosines, one)


def _given_scales(table: np.ndarray) -> np.ndarray:
    """Return the given levels of a scale, in float64."""
    levels, size = table[:, 0].astype(np.float64), len(table)
    # Their number must be a power of two, for one bit or more.
    sized = table.shape[1] == 1 and 2 <= size <= 2**16 and not size & (size - 1)
    if not sized or levels[0] != 0 or not is_table(levels):
        raise ValueError(
            f"The last of codebooks, of shape {table.shape}, is expected to hold "
            "scales, of shape (2**n_scale_bits, 1): zero, and others "
            "in ascending order."
        )
    return levels


# -- functions of blocks ---------------------------------------------------------------


def _directions(block: Block) -> Any:
    """Return a block as the part sees it."""
    return _unit_rows(block.be, block.x)


def _unit_rows(be: nearest.Backend, x: Any) -> Any:
    """Return rows of the same directions with length sqrt(d); ones for zero rows."""
    xp = be.xp
    unit = be.unit_rows(x) * float(np.sqrt(x.shape[1]))
    return xp.where(xp.isnan(unit), xp.ones_like(unit), unit)


def _range(block: Block, part: Any, scaling: str) -> tuple[Any, ...]:
    """Return the smallest positive and the largest scale of a block."""
    be = block.be
    xp, lows, highs = be.xp, [], []

    def work(x: Any) -> Any:
        return _scales_of(be, x, part, part._encode(_unit_rows(be, x)), scaling)

    for _, found in over_blocks(block.x, work):
        lows.append(xp.min(xp.where(found > 0, found, xp.inf * xp.ones_like(found))))
        highs.append(xp.max(found))
    return xp.min(xp.stack(lows))[None], xp.max(xp.stack(highs))[None]


def _scales_of(be: nearest.Backend, x: Any, part: Any, codes: Any, scaling: str) -> Any:
    """Return the scale of each row, in float64.

    It is computed from the row itself; what the part has seen of it is rounded.

    Parameters
    ----------
    be : Backend
        The backend that computes.
    x : array of shape (n_rows, n_features)
        The rows.
    part : quantizer
        The fitted part.
    codes : array of shape (n_rows, n_codes)
        Its codes of their directions.
    scaling : str
        How the scale is chosen.
    """
    xp = be.xp
    if scaling == "norm":
        return nearest.row_norms(x) / float(np.sqrt(x.shape[1]))
    found = part._decode(be.cast(codes, np.intp))
    product, norms, squares, exponents = _compared(be, x, found)
    # Less than this is zero up to rounding.
    rounding = 2 * float(np.finfo(be.numpy_dtype(x)).eps)
    serves = product > rounding * norms * xp.sqrt(squares)
    one = xp.ones_like(product)
    product, squares = (xp.where(serves, v, one) for v in (product, squares))
    ratio = norms * norms / product if scaling == "unbiased" else product / squares
    return xp.where(serves, be.ldexp(ratio, exponents), 0 * one)


def _compared(be: nearest.Backend, x: Any, found: Any) -> tuple[Any, ...]:
    """Return rows compared to the part's reconstructions, in float64.

    Returns
    -------
    products, norms, squares, exponents : arrays of shape (n_rows,)
        For rows divided by two to the power of the exponents: their products with the
        reconstructions, their lengths, and squared lengths of the reconstructions.
    """
    rows, exponents = be.scaled_rows(x)
    products = be.row_products(rows, be.cast(found, np.float64))
    norms = be.xp.sqrt(be.squared_norms(rows))
    return products, norms, be.squared_norms(found), exponents
