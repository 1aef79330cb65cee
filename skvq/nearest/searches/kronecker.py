"""The search among Kronecker products, one factor at a time.

A codeword is c = u (x) v, with u a product of all factors but the last.  For any
centres a and b of the two tables, with u' = u - a, v' = v - b and y = x - a (x) b,

    c - a (x) b         = u (x) v' + u' (x) b,
    1/2 |c - a (x) b|^2 = 1/2 |u|^2 |v'|^2 + (u.u') (v'.b) + 1/2 |u'|^2 |b|^2,
    y . (c - a (x) b)   = v' . (Y^T u) + u' . (Y b),      Y the matrix that y flattens,

so that the scores of all pairs are one matrix product with d_m + 3 terms each, where
the dense search has d + 1: Y^T u, and below it three products of a part that depends on
u alone and a part that depends on v alone.  Y^T u is built up factor by factor in the
same way.  The centres cost next to nothing and keep the digits of data far from the
origin.  However, the two terms of a codeword may be far longer than their sum, whose
score then has the rounding of the terms.  Where centres are short compared to the rows,
they are therefore zero.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.backends.base import COARSE, DOUBTFUL, Backend, Plan
from skvq.nearest.backends.careful import CAREFUL
from skvq.nearest.backends.choice import backend_of
from skvq.nearest.searches.flat import check_finite, check_reach, finished
from skvq.nearest.tables import (
    Margin,
    Tables,
    coarse_centre,
    compute_dtype,
    first_of_distinct,
    without_far_rows,
)

# Number of codewords scored at once.  If there are more, the first factors take turns.
_MAX_AT_ONCE = 2**20
_TURN = 2**17


def kronecker_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the Kronecker product of corresponding rows, for all rows.

    Parameters
    ----------
    rows : sequence of ndarray of shape (n_samples, d_j)
        One row of each factor for each sample; all of one library.

    Returns
    -------
    products : ndarray of shape (n_samples, prod d_j)
        The index of the last factor runs fastest.
    """
    xp = backend_of(rows[0]).xp

    def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        width = left.shape[1] * right.shape[1]
        return xp.reshape(left[:, :, None] * right[:, None, :], (left.shape[0], width))

    return reduce(times, rows)


def _exact_rows(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Return Kronecker products of rows in float64, and the digits that they lost.

    The numbers are split in halves, whose products are exact (Dekker 1971).
    """
    high, low = rows[0], rows[0] * 0.0
    for right in rows[1:]:
        product = kronecker_rows([high, right])
        left_parts, right_parts = _halves(high), _halves(right)
        lost = product
        for part in right_parts:
            for other in left_parts:
                lost = lost - kronecker_rows([other, part])
        high, low = product, kronecker_rows([low, right]) - lost
    return high, low


def _halves(rows: Any) -> tuple[Any, Any]:
    """Return numbers as sums of two parts with half the digits each."""
    large = rows * (2.0**27 + 1)
    high = large - (large - rows)
    return high, rows - high


class _Factor(NamedTuple):
    """A table and its centre; or all products of several tables."""

    rows: np.ndarray  # (V, d), w
    shifted: np.ndarray  # (V, d), w minus the centre
    centre: np.ndarray  # (d,)

    @classmethod
    def about(cls, rows: np.ndarray, centre: np.ndarray) -> "_Factor":
        return cls(rows, rows - centre, centre)

    def sent(self, be: Backend, dtype: np.dtype) -> "_Factor":
        return _Factor(*(be.send(array.astype(dtype)) for array in self))


class _Norms(NamedTuple):
    """Terms of the norms of products; for each row w, with w' = w - centre."""

    full: np.ndarray  # |w|^2
    mixed: np.ndarray  # w.w'
    shifted: np.ndarray  # |w'|^2
    parts: np.ndarray  # (sum |part|)^2 of the parts that w' is the sum of
    along: np.ndarray  # w'.centre
    centre: float  # |centre|^2

    @classmethod
    def of(cls, factor: _Factor) -> "_Norms":
        rows, shifted, centre = factor.rows, factor.shifted, factor.centre
        norms = np.einsum("ij,ij->i", shifted, shifted)
        return cls(
            np.einsum("ij,ij->i", rows, rows),
            np.einsum("ij,ij->i", rows, shifted),
            norms,
            norms,
            shifted @ centre,
            float(centre @ centre),
        )

    def times(self, last: "_Norms") -> "_Norms":
        """Return the norms of all products u (x) v of two tables, in C order."""
        full, mixed, shifted, parts, along = (each[:, None] for each in self[:5])
        both = np.sqrt(full * last.shifted) + np.sqrt(parts * last.centre)
        return _Norms(
            (full * last.full).ravel(),
            (full * last.mixed + mixed * (last.along + last.centre)).ravel(),
            (
                full * last.shifted + 2 * mixed * last.along + shifted * last.centre
            ).ravel(),
            (both**2).ravel(),
            ((along + self.centre) * last.along + along * last.centre).ravel(),
            self.centre * last.centre,
        )


class CodewordBlock:
    """Consecutive codewords, prepared for scoring on a backend's device."""

    constants: Any
    contract: list[Any]
    half_norms: Any
    inner: list[_Factor]
    last_centre: Any
    margin: Margin
    n_last: int
    n_prefix: int
    rounded: float
    weights: Any
    width: int

    def __init__(
        self, be: Backend, factors: list[_Factor], first: int, dtype: np.dtype
    ) -> None:
        self.factors = factors
        *prefix, last = factors
        self.first = first  # index of its first codeword
        self.dtype = dtype
        norms = reduce(_Norms.times, [_Norms.of(factor) for factor in prefix])
        ends = _Norms.of(last)
        self.n_prefix, self.n_last = len(norms.full), len(last.rows)
        self.width = len(last.centre)
        weights = [-last.shifted.T, np.ones(self.n_last), ends.shifted / 2, ends.along]

        def send(array: np.ndarray) -> Any:
            return be.send(array.astype(dtype, order="C"))

        self.last_centre = send(last.centre)
        self.contract = [send(factor.rows.T) for factor in prefix]
        self.weights = send(np.vstack(weights))
        self.constants = send(np.stack([norms.full, norms.mixed]))
        self.half_norms = send(0.5 * norms.shifted * ends.centre)
        self.inner = [factor.sent(be, dtype) for factor in prefix]
        self.margin, self.rounded = self._margin(norms, ends)

    def _margin(self, norms: _Norms, ends: _Norms) -> tuple[Margin, float]:
        """Return the margin, and the addition to the norms that covers rounding."""
        d = math.prod(len(factor.centre) for factor in self.factors)
        plain = Margin.of(d, self.dtype)
        # A codeword relative to the centre is a sum of two terms, which may cancel.
        terms = [
            norms.full.max() * ends.shifted.max(),
            norms.parts.max() * ends.centre,
        ]
        both = sum(map(math.sqrt, terms)) / math.sqrt(max(*map(float, terms), 1e-300))
        # How much the squared sum of the terms' lengths exceeds a multiple of the norm.
        most, square = ends.centre, 2 * both * both
        left = [
            (1 - square) * norms.full,
            (norms.parts - square * norms.shifted) * most,
            2 * np.sqrt(norms.full * norms.parts),
            -2 * square * norms.mixed,
        ]
        ones = np.ones(len(ends.shifted))
        right = [ends.shifted, ones, np.sqrt(ends.shifted * most), ends.along]
        rounded = float((np.stack(left, axis=1) @ np.stack(right)).max())
        margin = plain._replace(share=plain.share * both, slack=plain.slack * both)
        return margin, max(0.0, rounded)


class _PreparedFactors:
    """Prepared tables: distinct rows, scaled, in the order in which they contract."""

    def __init__(self, be: Backend, tables: Tables, dtype: np.dtype) -> None:
        self.be, self.dtype = be, dtype
        codebooks = [table.codewords for table in tables]
        self.widths = [table.shape[1] for table in codebooks]
        firsts = [first_of_distinct(table) for table in codebooks]
        self.firsts = [None if each is None else be.send(each) for each in firsts]
        scaled, self.exponent = _scale_tables(codebooks, firsts, dtype)
        centres = _centres([without_far_rows(table) for table in scaled])
        # The narrowest factor comes last: its width is the length of the many products.
        self.order = sorted(range(len(scaled)), key=lambda j: -self.widths[j])
        self.factors = [_Factor.about(scaled[j], centres[j]) for j in self.order]
        if len(scaled) == 1:
            self.factors.insert(0, _Factor.about(np.ones((1, 1)), np.ones(1)))
        centre = _exact_rows([factor.centre[None] for factor in self.factors])
        self.centre = [be.send(part) for part in centre if part.any()]
        self.sizes = [len(factor.rows) for factor in self.factors]
        self.n_codewords = float(np.prod([float(size) for size in self.sizes]))
        self.n_leading = self._how_many_take_turns()
        zero_rows = [(table == 0).all(axis=1) for table in codebooks]
        self.zero_codes = _first_zero(zero_rows)
        self.zero_rows = [be.send(zero) for zero in zero_rows]
        self.blocks = [next(self._prepare_blocks())]
        # A bound for scores: no product of the scaled tables exceeds 1.
        self.limit = float(np.finfo(dtype).max) / (16 * math.prod(self.widths))

    def _how_many_take_turns(self) -> int:
        if self.n_codewords <= _MAX_AT_ONCE:
            return 0
        rest, n_leading = self.n_codewords / self.sizes[0], 1
        while rest > _TURN and n_leading < len(self.sizes) - 1:
            rest /= self.sizes[n_leading]
            n_leading += 1
        return n_leading

    def all_blocks(self) -> Iterable[CodewordBlock]:
        """Return blocks of all codewords in the order of their indices."""
        return self._prepare_blocks() if self.n_leading else self.blocks

    def _prepare_blocks(self) -> Iterator[CodewordBlock]:
        if not self.n_leading:
            yield CodewordBlock(self.be, self.factors, 0, self.dtype)
            return
        leading, rest = self.factors[: self.n_leading], self.factors[self.n_leading :]
        sizes = self.sizes[: self.n_leading]
        total = int(np.prod(sizes, dtype=np.int64))
        n_rest = int(np.prod(self.sizes[self.n_leading :], dtype=np.int64))
        centre = kronecker_rows([factor.centre[None] for factor in leading])[0]
        turn = max(1, _TURN // n_rest)
        for start in range(0, total, turn):
            index = np.unravel_index(np.arange(start, min(start + turn, total)), sizes)
            rows = kronecker_rows(
                [factor.rows[i] for factor, i in zip(leading, index, strict=True)]
            )
            factors = [_Factor.about(rows, centre), *rest]
            yield CodewordBlock(self.be, factors, start * n_rest, self.dtype)

    def shift(self, x: Any) -> tuple[Any, Any]:
        """Return scaled samples with their factors in order, and minus the centre."""
        be, (n, d) = self.be, x.shape
        scaled = be.times_power(be.cast(x, np.float64), -self.exponent)
        scaled = be.xp.reshape(scaled, (n, *self.widths))
        scaled = be.permuted(scaled, (0, *(j + 1 for j in self.order)))
        scaled = be.xp.reshape(scaled, (n, d))
        shifted = scaled
        for part in self.centre:
            shifted = shifted - part
        return scaled, be.cast(shifted, self.dtype)

    def between(
        self, scaled: np.ndarray, first: int, row: Any, codeword: Any
    ) -> np.ndarray:
        """Return half the distances between scaled rows and codewords of a block."""
        index = np.unravel_index(first + codeword, self.sizes)
        rows = [f.rows[i] for f, i in zip(self.factors, index, strict=True)]
        high, low = _exact_rows(rows)
        gaps = (scaled[row] - high) - low
        return 0.5 * np.einsum("ij,ij->i", gaps, gaps)

    def codes(self, index: Any) -> Any:
        """Return the codes, in the caller's tables, of indices of codewords."""
        be, columns = self.be, [index] * len(self.order)
        # A single table got a factor of one in front, which the caller does not have.
        idle = len(self.sizes) - len(self.order)
        none = None
        for place in reversed(range(len(self.order))):
            size, j = self.sizes[idle + place], self.order[place]
            rest = index // size
            column, index = index - rest * size, rest
            if self.firsts[j] is not None:
                column = be.look_up(self.firsts[j], column)
            columns[j] = be.cast(column, np.intp)[:, None]
            if self.zero_codes is not None:
                zero = be.look_up(self.zero_rows[j], column)
                none = zero if none is None else none | zero
        codes = be.concat(columns, axis=1)
        if none is None:
            return codes
        lowest = be.send(np.array(self.zero_codes, dtype=np.int64))
        return be.xp.where(none[:, None], lowest[None, :], codes)


def _scale_tables(
    codebooks: Any, firsts: Any, dtype: Any
) -> tuple[list[np.ndarray], int]:
    """Return distinct rows, scaled to at most 1, and the exponent of their product."""
    scaled, exponent = [], 0
    for table, first in zip(codebooks, firsts, strict=True):
        rows = (table if first is None else table[first]).astype(np.float64)
        power = int(np.frexp(np.abs(rows).max(initial=0.0))[1])
        scaled.append(np.ldexp(rows, -power))
        exponent += power
    if exponent >= np.finfo(dtype).maxexp:
        raise ValueError(
            f"Kronecker products of the codebooks, up to 2**{exponent}, are too large "
            f"for {dtype}: scale X."
        )
    return scaled, max(exponent, -1100)


def _centres(tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return a centre for each table; zeros if the centres take too little away.

    Relative to zero, codewords are products instead of sums whose terms may cancel.
    """
    centres = [coarse_centre(table) for table in tables]
    shares = [
        (centre @ centre) / max(np.einsum("ij,ij->", table, table) / len(table), 1e-300)
        for centre, table in zip(centres, tables, strict=True)
    ]
    return centres if math.prod(shares) > 0.5 else [0 * centre for centre in centres]


def _first_zero(zero_rows: Sequence[np.ndarray]) -> tuple[int, ...] | None:
    """Return the lowest codes whose product is zero; None if there are none."""
    found = []
    for j, zero in enumerate(zero_rows):
        if zero.any():
            behind = len(zero_rows) - j - 1
            found.append((0,) * j + (int(zero.argmax()),) + (0,) * behind)
    return min(found, default=None)


def nearest_kronecker(
    be: Backend, X: Any, tables: Tables, distances: bool
) -> tuple[Any, ...]:
    """Return codes, and distances or None; see `skvq.nearest.nearest_kronecker`."""
    dtype = np.result_type(compute_dtype(be.numpy_dtype(X)), tables.dtype)
    search = _prepared(be, tables, dtype)
    block, d = search.blocks[0], X.shape[1]
    rows = be.product_rows(block)
    plan = Plan(
        rows,
        block.n_prefix * (block.width + 3 + block.n_last) + 4 * d,
        search.n_codewords * (min(search.widths) + 3),
    )
    sent = [be.send(table.codewords.astype(np.float64)) for table in tables]

    def tile(cut: slice) -> tuple[Any, ...]:
        return _tile(be, X[cut, :], search, sent if distances else None)

    outputs = [((len(tables),), np.intp), ((), np.uint8), ((), np.float64)]
    codes, state, *found = be.over_rows(
        X.shape[0], plan, tile, outputs[: 2 + distances]
    )
    again = partial(_again, tables, distances, search)
    exact = partial(_exact_distances, tables)
    codes, *found = finished(be, X, codes, state, found, again, exact)
    if distances:
        check_finite(be, found[0], "codebook")
    return codes, found[0] if distances else None


def _prepared(be: Backend, tables: Tables, dtype: np.dtype) -> _PreparedFactors:
    key = ("kronecker", dtype, be.key)
    return tables.form(key, lambda: _PreparedFactors(be, tables, dtype))


def _exact_distances(tables: Tables, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return squared distances of rows to products, computed without rounding these."""
    chosen = [t.codewords[codes[:, j]].astype(np.float64) for j, t in enumerate(tables)]
    high, low = _exact_rows(chosen)
    return CAREFUL.squared_norms((x.astype(np.float64) - high) - low)


def _again(
    tables: Tables, distances: bool, search: _PreparedFactors, x: Any, rows: slice
) -> tuple[Any, ...]:
    """Search some rows again, on the host and with care."""
    check_reach(x, math.inf)
    with np.errstate(over="ignore"):
        check_reach(np.ldexp(x.astype(np.float64), -search.exponent), search.limit)
    careful = _prepared(CAREFUL, tables, np.dtype(np.float64))
    step = CAREFUL.product_rows(careful.blocks[0])
    cuts = [slice(low, low + step) for low in range(0, len(x), step)]
    codes = np.concatenate([_tile(CAREFUL, x[cut], careful, None)[0] for cut in cuts])
    if not distances:
        return (codes,)
    found = [_exact_distances(tables, x[cut], codes[cut]) for cut in cuts]
    return codes, np.concatenate(found)


def _tile(
    be: Backend, x: Any, search: _PreparedFactors, tables: Any
) -> tuple[Any, ...]:
    """Return codes and state of a tile, and distances if `tables` are given."""
    xp, (scaled, y) = be.xp, search.shift(x)
    norms = be.row_products(y, y)
    index = best = state = None
    for block in search.all_blocks():
        between = partial(search.between, scaled, block.first)
        found, score, doubt = be.argmin_products(y, norms, block, between)
        if index is None:
            index, best, state = found, score, doubt
            continue
        room = 3 * (norms + block.rounded) + norms + 2 * xp.minimum(score, best)
        room = block.margin.slack * room
        near = xp.abs(score - best) <= room
        state = xp.maximum(xp.maximum(state, doubt), be.cast(near, np.uint8) * DOUBTFUL)
        index = xp.where(score < best, found, index)
        best = xp.minimum(score, best)
    codes = search.codes(index)
    if tables is None:
        return codes, state
    rows = [be.look_up(table, codes[:, j]) for j, table in enumerate(tables)]
    x = be.cast(x, np.float64)
    gaps = x - kronecker_rows(rows)
    found = be.row_products(gaps, gaps)
    # Products are rounded: those of float32 numbers by a negligible amount.
    share = 2.0**-60 if search.dtype == np.float32 else 2.0**-8
    coarse = be.cast(~(found > share * be.row_products(x, x)), np.uint8) * COARSE
    return codes, xp.maximum(state, coarse), found
