"""The trellis-coded scheme: levels are chosen along a path."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from skvq import nearest
from skvq._compat import SIZES, Interval, StrOptions
from skvq._given import one_or_each
from skvq._typing import AlphabetRule, Size, Sizes, TrellisName
from skvq.coding.levels import range_of_levels
from skvq.coding.trellis import TrellisCode, gaussian_windows
from skvq.learning.rows import Learner, Rows
from skvq.learning.scalar import per_column, spread, weighted_mean
from skvq.learning.trellis import (
    Alphabets,
    allocated_rates,
    pooled,
    sample,
    start_levels,
    trained,
)
from skvq.scalar import ScalarQuantizer, columns_of_tables

_MOST_BITS, _MOST_WINDOWS = 16, 2**16


class TrellisQuantizer(ScalarQuantizer):
    r"""Replace features by levels whose sequence must follow a trellis.

    Trellis-coded quantization.  A feature of R bits has an alphabet of more than
    :math:`2^R` levels, of which the codes of the features before it leave
    :math:`2^R` to choose from.  Viterbi's algorithm finds the best path for all
    features together.  So a row is one of :math:`2^{\sum R_j}` points, as with scalar
    levels, but they lie in space like those of a good vector codebook: for independent
    Gaussian features the error is below that of Lloyd-Max levels, and nearer to the
    bound of all quantizers.

    Bits pay where features are independent: put PCA in front, and set `total_bits`.

    Parameters
    ----------
    n_bits : int or sequence of int, default=2
        R of every feature, from 1 to 16, or of each, from 0 to 16.  A feature without
        bits takes no step and is decoded to its mean.  With ``trellis="bitshift"``: k,
        from 1 to 4, or for each feature k or 0.
    total_bits : int, optional
        The bits of a row, spread over the features: repeatedly, one or more bits go to
        the feature whose scalar training error falls most per bit.  They are never
        exceeded.  `n_bits` then plays no part, except as k of the bitshift trellis.
    n_states : int, default=8
        A power of two: states from 4 to 256; or, with ``trellis="bitshift"``, windows
        :math:`2^L`, which the paper calls states, from :math:`2^{2k}` to
        :math:`2^{16}`.  Encoding time is proportional to it.  A path needs
        :math:`\log_2` states features with bits; for windows, (L - k) / k.
    trellis : {"ungerboeck", "bitshift"}, default="ungerboeck"
        "ungerboeck": alphabets of :math:`2^{R+1}` levels in four subsets; one bit of a
        code steers the state, and the others select a level of a subset.  "bitshift":
        the last L bits of all codes are the index into an alphabet of :math:`2^L`
        levels.
    alphabets : {"trained", "gaussian"}, default="trained"
        With ``trellis="bitshift"``: whether the levels are means of training values, or
        the unchanged table for a Gaussian.  All features have the same levels, shifted
        by their means and multiplied by their standard deviations.
    share_alphabets : bool, default=False
        Whether all features with the same R have the same alphabet.  This suits
        features that are alike, and then also few rows.
    max_iter : int, default=8
        Rounds of training: paths, then means.  The best one is kept, or the start.

    Attributes
    ----------
    alphabets_ : tuple of ndarray
        Levels of each feature, ascending unless ``trellis="bitshift"``:
        :math:`2^{R+1}` or :math:`2^L`; one, the mean, if it has no bits.  Features that
        share levels have the same array.
    rates_ : tuple of int
        R of each feature.
    codebook_sizes_ : tuple of int
        :math:`2^R` for each feature; 1 if it has no bits.
    bits_per_sample_ : float
        Sum of R.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions.
    n_iter_ : int
        Number of rounds of training; 0 for alphabets that were given or not trained.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    UniformQuantizer : Independent levels for each feature.
    skvq.nearest.viterbi : The search for paths.

    Notes
    -----
    There is no `codebooks_`, since the meaning of a code depends on the codes before
    it.  For the same reason prefixes of codes cannot be decoded, and distances are not
    sums of look-ups.

    A path begins in the state in which it ends ("tail-biting"), so that a row takes
    exactly its bits.  That state is the one at the seam of the best free path through
    the features with their halves exchanged.  Codes are therefore not always those of
    the nearest of all reconstructions, and quantizing reconstructions again may change
    them.

    More than 32 states overfit few rows: with thousands of rows, 8 or 32 are best.

    References
    ----------
    G. Ungerboeck (1982), "Channel coding with multilevel/phase signals", IEEE
    Transactions on Information Theory 28(1), doi:10.1109/TIT.1982.1056454.

    M. W. Marcellin and T. R. Fischer (1990), "Trellis coded quantization of memoryless
    and Gauss-Markov sources", IEEE Transactions on Communications 38(1),
    doi:10.1109/26.46532.

    A. Tseng, Q. Sun, D. Hou and C. De Sa (2024), "QTIP: Quantization with trellises and
    incoherence processing", NeurIPS (arXiv 2406.11235).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import TrellisQuantizer, UniformQuantizer
    >>> X = np.random.default_rng(0).normal(size=(2000, 16))
    >>> tcq = TrellisQuantizer(2, share_alphabets=True).fit(X)
    >>> tcq.codebook_sizes_ == (4,) * 16, tcq.alphabets_[0].shape
    (True, (8,))
    >>> scalar = UniformQuantizer(4, levels="lloyd-max", share_levels=True).fit(X)
    >>> bool(tcq.distortion_ < 0.8 * scalar.distortion_)
    True
    >>> TrellisQuantizer(total_bits=24).fit(X * np.arange(16)).rates_
    (0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3)
    """

    n_iter_: int
    _code_: TrellisCode

    _parameter_constraints = {  # noqa: RUF012
        "n_bits": [Interval(Integral, 1, _MOST_BITS, closed="both"), SIZES],
        "total_bits": [Interval(Integral, 1, None, closed="left"), None],
        "n_states": [Interval(Integral, 4, _MOST_WINDOWS, closed="both")],
        "trellis": [StrOptions({"ungerboeck", "bitshift"})],
        "alphabets": [StrOptions({"trained", "gaussian"})],
        "share_alphabets": ["boolean"],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_bits: Size | Sizes = 2,
        *,
        total_bits: Size | None = None,
        n_states: Size = 8,
        trellis: TrellisName = "ungerboeck",
        alphabets: AlphabetRule = "trained",
        share_alphabets: bool = False,
        max_iter: Size = 8,
    ) -> None:
        self.n_bits = n_bits
        self.total_bits = total_bits
        self.n_states = n_states
        self.trellis = trellis
        self.alphabets = alphabets
        self.share_alphabets = share_alphabets
        self.max_iter = max_iter

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        trellis = self._trellis()
        if self.total_bits is None:
            rates = self._given_rates(rows.n_features)
            self._check_steps(trellis, rates)
        found = yield from sample(rows)
        mean = yield from weighted_mean(rows)
        width = yield from spread(rows, mean)
        if self.total_bits is not None:
            rates = allocated_rates(found, width, int(self.total_bits), trellis)
            self._check_steps(trellis, rates)
        shared = bool(self.share_alphabets)
        if trellis.has_subsets:
            tables, numbers = start_levels(found, rates, mean, width, shared)
            middle, width = np.zeros(len(rates)), np.ones(len(rates))
        else:
            tables, numbers, middle, width = _moved(trellis, rates, mean, width, shared)
        alphabets = Alphabets(trellis, rates, tables, numbers, middle, width)
        return (yield from self._trained(rows, alphabets))

    def _trained(self, rows: Rows, alphabets: Alphabets) -> Learner[dict[str, Any]]:
        if self.alphabets == "gaussian":
            code = alphabets.code(rows.dtype)
            return {"_code_": code, "codebook_sizes_": code.sizes, "n_iter_": 0}

        def fitted(found: tuple[Any, float, int]) -> dict[str, Any]:
            code, distortion, n_iter = found
            return {
                "_code_": code,
                "codebook_sizes_": code.sizes,
                "distortion_": distortion,
                "n_iter_": n_iter,
            }

        rows = rows.under(rows.task.giving(fitted))
        return fitted((yield from trained(rows, alphabets, int(self.max_iter))))

    def _n_tasks(self) -> int | None:
        return 0 if self.alphabets == "gaussian" else int(self.max_iter) + 1

    def _trellis(self) -> nearest.Trellis:
        """Return the trellis that the parameters name."""
        n_states = int(self.n_states)
        bits = n_states.bit_length() - 1
        if self.trellis == "ungerboeck":
            if self.alphabets != "trained":
                raise ValueError(
                    f"alphabets={self.alphabets!r} goes with trellis='bitshift'; the "
                    "alphabets of trellis='ungerboeck' are trained."
                )
            if n_states != 2**bits or n_states > 256:
                raise ValueError(
                    f"n_states={n_states}: expected a power of two from 4 to 256 with "
                    "trellis='ungerboeck'."
                )
            return nearest.Trellis.ungerboeck(n_states)
        step = self._step_bits()
        if n_states != 2**bits or bits < 2 * step:
            raise ValueError(
                f"n_states={n_states}: expected a power of two from {4**step} to "
                f"{_MOST_WINDOWS} with trellis='bitshift' and {step} bits a step "
                f"(n_bits={self.n_bits!r})."
            )
        return nearest.Trellis.bitshift(bits, step)

    def _step_bits(self) -> int:
        """Return k, the bits of a feature with bits in the bitshift trellis."""
        given: Any = self.n_bits
        values = {given} if isinstance(given, Integral) else set(given) - {0}
        if len(values) != 1 or not values <= {1, 2, 3, 4}:
            raise ValueError(
                f"n_bits={given!r}: expected an int from 1 to 4 with "
                "trellis='bitshift', or for each feature this or 0."
            )
        return int(values.pop())

    def _given_rates(self, n_features: int) -> tuple[int, ...]:
        return per_column("n_bits", self.n_bits, n_features, "feature", 0, _MOST_BITS)

    def _check_steps(self, trellis: nearest.Trellis, rates: Sequence[int]) -> None:
        """Raise unless enough features have bits for a path to reach every state."""
        n_steps, fewest = len(rates) - rates.count(0), trellis.n_forgetting
        if n_steps >= fewest:
            return
        which = f"n_bits={self.n_bits!r}"
        if self.total_bits is not None:
            which = f"total_bits={self.total_bits}"
        raise ValueError(
            f"n_states={self.n_states} with trellis={self.trellis!r} needs bits for at "
            f"least {fewest} features, but {which} gives some to {n_steps}, where X "
            f"has n_features={len(rates)}: use fewer states, or more bits."
        )

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        arrays = columns_of_tables(tables)
        trellis = self._trellis()
        rates = tuple(
            self._rate_of(trellis, j, len(array)) for j, array in enumerate(arrays)
        )
        if self.total_bits is None and trellis.has_subsets:
            self._imply(n_bits=one_or_each(rates))
        elif self.total_bits is None and 0 in rates:
            self._imply(n_bits=rates)
        elif self.total_bits is not None and sum(rates) > int(self.total_bits):
            raise ValueError(
                f"total_bits={self.total_bits}, but the given alphabets have "
                f"{sum(rates)} bits."
            )
        self._check_steps(trellis, rates)
        if self.share_alphabets:
            arrays = _shared(arrays, rates)
        code = TrellisCode(trellis, rates, arrays)
        return {
            "_code_": code,
            "codebook_sizes_": code.sizes,
            "n_iter_": 0,
            "n_features_in_": len(rates),
        }

    def _rate_of(self, trellis: nearest.Trellis, j: int, size: int) -> int:
        """Return the bits of a feature with an alphabet of a given size."""
        if size == 1:
            return 0
        rate = size.bit_length() - 2 if trellis.has_subsets else trellis.step_bits
        if rate < 1 or rate > _MOST_BITS or trellis.alphabet_size(rate) != size:
            expected = f"1 or n_states={self.n_states} with trellis='bitshift'"
            if trellis.has_subsets:
                expected = "1 or 2**(R + 1) for R bits"
            raise ValueError(f"codebooks[{j}] has {size} levels; expected {expected}.")
        return rate

    def _takes_columns(self) -> bool:
        return True

    def _why_no_partial_fit(self) -> str:
        return (
            "the scheme does not learn from a stream: all paths change with any level."
        )

    def _why_no_sums(self) -> str | None:
        return "the meaning of a code depends on the codes before it."

    def _why_no_codebooks(self) -> str | None:
        return (
            "the meaning of a code depends on the codes before it; `alphabets_` and "
            "`rates_` take their place."
        )

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        raise AssertionError("guarded by _why_no_codebooks")  # pragma: no cover

    def _encode(self, X: Any) -> Any:
        return self._code_.encode(X)

    def _decode(self, codes: Any) -> Any:
        return self._code_.decode(codes)

    def _ranges(self) -> tuple[np.ndarray, np.ndarray] | None:
        return range_of_levels(self._code_.alphabets.arrays)

    @property
    def alphabets_(self) -> tuple[np.ndarray, ...]:
        """Levels of each feature."""
        arrays = self._fitted_code("alphabets_").alphabets.arrays
        sent = {id(array): self._home_.send(array) for array in arrays}
        return tuple(sent[id(array)] for array in arrays)

    @property
    def rates_(self) -> tuple[int, ...]:
        """Bits of each feature."""
        return self._fitted_code("rates_").rates

    def _fitted_code(self, name: str) -> TrellisCode:
        if not self.__sklearn_is_fitted__():
            raise AttributeError(
                f"{type(self).__name__} is not fitted: it has no {name} yet."
            )
        return self._code_


def _moved(
    trellis: nearest.Trellis, rates: Any, mean: Any, width: Any, shared: bool
) -> tuple[Any, ...]:
    """Return tables of the bitshift trellis, and shift and scale of each feature."""
    window_bits = trellis.state_bits + trellis.step_bits
    tables = [gaussian_windows(window_bits, trellis.step_bits), np.zeros(1)]
    has_bits = np.asarray(rates) > 0
    middle, width = mean.copy(), np.where(has_bits, width, 0.0)
    if shared:
        middle[has_bits], width[has_bits] = pooled(mean[has_bits], width[has_bits])
    return tables, np.where(has_bits, 0, 1), middle, width


def _shared(arrays: Sequence[np.ndarray], rates: Sequence[int]) -> list[np.ndarray]:
    """Return arrays, one for each rate; raise if those of a rate differ."""
    firsts: dict[int, int] = {}
    found = []
    for j, (array, rate) in enumerate(zip(arrays, rates, strict=True)):
        first = j if rate == 0 else firsts.setdefault(rate, j)
        if not np.array_equal(array, arrays[first]):
            raise ValueError(
                "share_alphabets=True takes one alphabet for all features of the same "
                f"bits, but codebooks[{j}] differs from codebooks[{first}]."
            )
        found.append(arrays[first])
    return found
