"""The search among Kronecker products, one factor at a time.

A codeword is c = u (x) v, with u a product of all factors but the last.  For any
centres a and b of the two tables, with u' = u - a, v' = v - b and y = x - a (x) b,

    c - a (x) b         = u (x) v' + u' (x) b,
    1/2 |c - a (x) b|^2 = 1/2 |u|^2 |v'|^2 + (u.u') (v'.b) + 1/2 |u'|^2 |b|^2,
    y . (c - a (x) b)   = v' . (Y^T u) + u' . (Y b),      Y the matrix that y flattens,

so that the scores of all pairs are one matrix product with d_m + 3 terms each, where
the dense search has d + 1: Y^T u above the three products of what depends on u alone
and what depends on v alone.  Y^T u is built up factor by factor in the same way.  The
centres cost nothing that shows, and keep the digits of data far from the origin.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from skvq._array_api import reshape
from skvq.nearest._numpy import (
    _as_2d,
    _check_finite,
    _check_reach,
    _coarse_centre,
    _common_dtype,
    _first_of_distinct,
)
from skvq.nearest._threads import map_tiles

# Scores of one tile, in elements: fewer than in the dense search, whose products are
# longer, so that they are still in the inner caches when `argmin` reads them.
_TILE_SCORES = 2**17
_MAX_TILE_ROWS = 4096
# Codewords that are scored at once.  Of more, the first factors take turns.
_MAX_AT_ONCE = 2**20
_TURN = 2**17
# A matrix product for each sample, of this many rows; where the tables are small, one
# for several samples.
_PRODUCT_ROWS = 64
# Rows that blocks of codewords are prepared for, and tiles that are shifted at once.
_MIN_CHUNK_ROWS = 64
_CHUNK_TILES = 16
# Rows so many times farther from the median than half of them have no say in a centre.
_OUTLIER = 16


def kronecker_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Multiply row by row: the i-th is the Kronecker product of all i-th rows.

    Parameters
    ----------
    rows : sequence of ndarray of shape (n_samples, d_j)
        One row of each factor for each sample; all of one library.

    Returns
    -------
    products : ndarray of shape (n_samples, prod d_j)
        With the last factor's index running fastest.
    """

    def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        width = left.shape[1] * right.shape[1]
        return reshape(left[:, :, None] * right[:, None, :], (left.shape[0], width))

    return reduce(times, rows)


class _Factor(NamedTuple):
    """A table and its centre, or the table of all products of some of them."""

    rows: np.ndarray  # (V, d), w
    shifted: np.ndarray  # (V, d), w less the centre
    centre: np.ndarray  # (d,)

    @classmethod
    def about(cls, rows: np.ndarray, centre: np.ndarray) -> "_Factor":
        return cls(rows, rows - centre, centre)

    def astype(self, dtype: np.dtype) -> "_Factor":
        return _Factor(*(array.astype(dtype) for array in self))


class _Norms(NamedTuple):
    """What the norms of products follow from; of each row w, with w' = w - centre."""

    full: np.ndarray  # |w|^2
    mixed: np.ndarray  # w.w'
    shifted: np.ndarray  # |w'|^2
    along: np.ndarray  # w'.centre
    centre: float  # |centre|^2

    @classmethod
    def of(cls, factor: _Factor) -> "_Norms":
        rows, shifted, centre = factor.rows, factor.shifted, factor.centre
        return cls(
            np.einsum("ij,ij->i", rows, rows),
            np.einsum("ij,ij->i", rows, shifted),
            np.einsum("ij,ij->i", shifted, shifted),
            shifted @ centre,
            float(centre @ centre),
        )

    def times(self, last: "_Norms") -> "_Norms":
        """Return the norms of all products u (x) v of two tables, in C order."""
        full, mixed, shifted = (
            values[:, None] for values in (self.full, self.mixed, self.shifted)
        )
        along = self.along[:, None]
        return _Norms(
            (full * last.full).ravel(),
            (full * last.mixed + mixed * (last.along + last.centre)).ravel(),
            (
                full * last.shifted + 2 * mixed * last.along + shifted * last.centre
            ).ravel(),
            ((along + self.centre) * last.along + along * last.centre).ravel(),
            self.centre * last.centre,
        )


class _Block:
    """Consecutive codewords, ready to be scored."""

    def __init__(self, factors: list[_Factor], first: int, dtype: np.dtype) -> None:
        *self.prefix, last = factors
        self.first = first  # index of its first codeword
        self.dtype = dtype
        norms = reduce(_Norms.times, [_Norms.of(factor) for factor in self.prefix])
        ends = _Norms.of(last)
        self.n_prefix, self.n_last = len(norms.full), len(last.rows)
        self.width, self.last_centre = len(last.centre), last.centre.astype(dtype)
        self.contract = [f.rows.T.astype(dtype, order="C") for f in self.prefix]
        weights = [-last.shifted.T, np.ones(self.n_last), ends.shifted / 2, ends.along]
        self.weights = np.vstack(weights).astype(dtype, order="C")
        self.constants = np.stack([norms.full, norms.mixed]).astype(dtype)
        self.half_norms = (0.5 * norms.shifted * ends.centre).astype(dtype)
        self.inner = [factor.astype(dtype) for factor in self.prefix]

    def find(self, y: np.ndarray, group: int, tile: int, scratch: np.ndarray):
        """Return index and score of the best codeword of each row.

        Parameters
        ----------
        y : ndarray of shape (n_rows, d)
            Shifted samples, a multiple of `group` of them.
        group : int
            Samples that share a matrix product.
        tile : int
            Groups to score at once.
        scratch : ndarray
            Memory for `scratch_size` elements.
        """
        common = self._common_terms(y).reshape(-1, group * self.n_prefix)
        index = np.empty(len(y), dtype=np.intp)
        best = np.empty(len(y), dtype=self.dtype)
        # Samples side by side: the columns of each group's matrix.
        y = np.ascontiguousarray(y.reshape(-1, group, y.shape[1]).swapaxes(1, 2))
        memory = None
        for low in range(0, len(y), tile):
            y_tile, common_tile = y[low : low + tile], common[low : low + tile]
            if memory is None or len(memory.extended) != len(y_tile):
                memory = _Memory.cut(scratch, self, len(y_tile), group)
            self._score(y_tile, common_tile, memory)
            rows = slice(low * group, low * group + len(memory.by_row))
            memory.by_row.argmin(axis=1, out=index[rows])
            best[rows] = memory.by_row[memory.row, index[rows]]
        return index + self.first, best

    def _common_terms(self, y: np.ndarray) -> np.ndarray:
        """Return what the scores of all v have in common, for every row and u."""
        shorter = y.reshape(-1, self.width) @ self.last_centre
        return self.half_norms - _inner(shorter.reshape(len(y), -1), self.inner)

    def _score(self, y: np.ndarray, common: np.ndarray, memory: "_Memory") -> None:
        """Write the scores of a tile, (n_groups, d, group) samples, into memory."""
        *tables, final = self.contract
        for table in tables:
            y = np.matmul(_columns(y, len(table)), table)
        np.matmul(_columns(y, len(final)), final, out=memory.top)
        memory.extended[:, self.width] = common
        np.matmul(memory.columns, self.weights, out=memory.scores)

    def scratch_size(self, n_samples: int) -> int:
        """Elements of memory that the scores of so many samples take."""
        return n_samples * self.n_prefix * (self.width + 3 + self.n_last)


class _Memory(NamedTuple):
    """Views of one thread's memory for a tile of samples."""

    extended: np.ndarray  # (n_groups, width + 3, group * n_prefix)
    columns: np.ndarray  # the same, the last two axes swapped
    top: np.ndarray  # its first rows, as the last contraction writes them
    scores: np.ndarray  # (n_groups, group * n_prefix, n_last)
    by_row: np.ndarray  # the same, (n_samples, n_codewords)
    row: np.ndarray  # (n_samples,), 0, 1, ...

    @classmethod
    def cut(cls, scratch: np.ndarray, block: _Block, n_groups: int, group: int):
        n_prefix, n_samples = block.n_prefix, n_groups * group
        shape = (n_groups, block.width + 3, group * n_prefix)
        size = n_samples * n_prefix
        extended = scratch[: size * (block.width + 3)].reshape(shape)
        constants = extended[:, block.width + 1 :]
        constants.reshape(n_groups, 2, group, n_prefix)[...] = block.constants[:, None]
        top = extended[:, : block.width]
        scores = scratch[extended.size :][: size * block.n_last]
        return cls(
            extended,
            extended.swapaxes(1, 2),
            top.reshape(n_groups, -1, block.contract[-1].shape[1]),
            scores.reshape(n_groups, -1, block.n_last),
            scores.reshape(n_samples, -1),
            np.arange(n_samples),
        )


def _columns(y: np.ndarray, width: int) -> np.ndarray:
    """View each matrix of the stack as `width` columns, by its leading index."""
    return y.reshape(len(y), width, -1).swapaxes(1, 2)


def _inner(y: np.ndarray, factors: Sequence[_Factor]) -> np.ndarray:
    """Return y.(c - centre) for all products c of the factors, (n_rows, n_products)."""
    *prefix, last = factors
    if not prefix:
        return y @ last.shifted.T
    contracted = y
    for factor in prefix:
        contracted = _columns(contracted, factor.rows.shape[1]) @ factor.rows.T
    width = len(last.centre)
    result = _columns(contracted.reshape(len(y), -1), width) @ last.shifted.T
    shorter = (y.reshape(-1, width) @ last.centre).reshape(len(y), -1)
    result += _inner(shorter, prefix)[:, :, None]
    return result.reshape(len(y), -1)


class _Search:
    """Tables made ready: distinct rows, scaled, in the order in which they contract."""

    def __init__(self, codebooks: Sequence[np.ndarray], dtype: np.dtype) -> None:
        self.dtype = dtype
        self.widths = [table.shape[1] for table in codebooks]
        self.firsts = [_first_of_distinct(table) for table in codebooks]
        scaled, self.exponent = _scale_tables(codebooks, self.firsts, dtype)
        centres = [_coarse_centre(table, _middle) for table in scaled]
        self.centre = kronecker_rows([centre[None] for centre in centres])[0]
        # The last factor's width is the length of the many products: the least is best.
        self.order = sorted(range(len(scaled)), key=lambda j: -self.widths[j])
        self.factors = [_Factor.about(scaled[j], centres[j]) for j in self.order]
        if len(scaled) == 1:
            self.factors.insert(0, _Factor.about(np.ones((1, 1)), np.ones(1)))
        self.sizes = [len(factor.rows) for factor in self.factors]
        self.n_codewords = float(np.prod([float(size) for size in self.sizes]))
        self.n_leading = self._how_many_take_turns()
        self.zero_rows = [(table == 0).all(axis=1) for table in codebooks]
        self.zero_codes = _first_zero(self.zero_rows)
        self.blocks = [next(self._prepare_blocks())]
        # What bounds the values of scores: no product of the scaled tables exceeds 1.
        self.limit = float(np.finfo(dtype).max) / (16 * len(self.centre))

    def _how_many_take_turns(self) -> int:
        if self.n_codewords <= _MAX_AT_ONCE:
            return 0
        rest, n_leading = self.n_codewords / self.sizes[0], 1
        while rest > _TURN and n_leading < len(self.sizes) - 1:
            rest /= self.sizes[n_leading]
            n_leading += 1
        return n_leading

    def all_blocks(self) -> Iterable[_Block]:
        """Give all codewords in the order of their indices."""
        return self._prepare_blocks() if self.n_leading else self.blocks

    def _prepare_blocks(self) -> Iterator[_Block]:
        if not self.n_leading:
            yield _Block(self.factors, 0, self.dtype)
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
            yield _Block(
                [_Factor.about(rows, centre), *rest], start * n_rest, self.dtype
            )

    def shift(self, x: np.ndarray, multiple: int) -> np.ndarray:
        """Return scaled samples less the centre, the factors in order.

        Idle rows at the end make their number a multiple.
        """
        # In two steps if need be, of which each is a number.
        steps = [-self.exponent]
        if abs(self.exponent) > 1000:
            steps = [-self.exponent // 2, -self.exponent - (-self.exponent // 2)]
        scaled = x
        for step in steps:
            scaled = scaled * np.float64(2.0**step)
        scaled -= self.centre
        y = np.zeros((-(-len(x) // multiple) * multiple, x.shape[1]), self.dtype)
        axes = [j + 1 for j in self.order]
        scaled = scaled.reshape(len(x), *self.widths).transpose(0, *axes)
        y[: len(x)].reshape(scaled.shape)[...] = scaled
        _check_reach(y, self.limit)
        return y

    def codes(self, index: np.ndarray) -> np.ndarray:
        """Turn indices of codewords into codes of the caller's tables."""
        columns = np.unravel_index(index, self.sizes)[-len(self.order) :]
        codes = np.empty((len(index), len(self.order)), dtype=np.intp)
        for j, column in zip(self.order, columns, strict=True):
            first = self.firsts[j]
            codes[:, j] = column if first is None else first[column]
        if self.zero_codes is not None:
            pairs = zip(self.zero_rows, codes.T, strict=True)
            codes[np.any([zero[column] for zero, column in pairs], axis=0)] = (
                self.zero_codes
            )
        return codes


def _middle(rows: np.ndarray) -> np.ndarray:
    """Mean of the rows without outliers.

    A product of two outliers, which no sample need be near, is so far from all others
    that a mean, which it pulls along, would cost these their digits.
    """
    gaps = np.abs(rows - np.median(rows, axis=0)).max(axis=1)
    return rows[gaps <= _OUTLIER * np.median(gaps)].mean(axis=0)


def _scale_tables(codebooks, firsts, dtype) -> tuple[list[np.ndarray], int]:
    """Return distinct rows in float64, at most 1, and the exponent of the product."""
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


def _first_zero(zero_rows: Sequence[np.ndarray]) -> tuple[int, ...] | None:
    """Return the lowest codes whose product is the zero vector; None if none is."""
    found = []
    for j, zero in enumerate(zero_rows):
        if zero.any():
            behind = len(zero_rows) - j - 1
            found.append((0,) * j + (int(zero.argmax()),) + (0,) * behind)
    return min(found, default=None)


def nearest_kronecker(X, codebooks: Sequence, *, return_distances=False):
    """Do on NumPy what `skvq.nearest.nearest_kronecker` says."""
    X = _as_2d(X, "X")
    tables = [_as_2d(table, f"codebooks[{j}]") for j, table in enumerate(codebooks)]
    _check_widths(X, tables)
    search = _Search(tables, np.result_type(*(_common_dtype(X, t) for t in tables)))
    codes = np.empty((len(X), len(tables)), dtype=np.intp)
    found = np.empty(len(X)) if return_distances else None
    group, tile, chunk = _tile_shape(search.blocks[0])

    def make_worker():
        first = search.blocks[0]
        scratch = _aligned(first.scratch_size(group * tile), search.dtype)

        def worker(start: int, stop: int) -> None:
            x = X[start:stop]
            y = search.shift(x, group)
            index = np.empty(len(y), dtype=np.intp)
            best = np.full(len(y), np.inf, dtype=search.dtype)
            for block in search.all_blocks():
                candidate, score = block.find(y, group, tile, scratch)
                better = score < best
                index[better], best[better] = candidate[better], score[better]
            codes[start:stop] = search.codes(index[: len(x)])
            if found is not None:
                found[start:stop] = _distances(x, tables, codes[start:stop])

        return worker

    width = min(search.widths) + 3
    map_tiles(make_worker, len(X), chunk, search.n_codewords * width)
    _check_finite(found)
    return codes, found


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Allocate memory that begins with a line of the cache: 5% of the time."""
    memory = np.empty(size + 64 // dtype.itemsize, dtype=dtype)
    return memory[-memory.ctypes.data % 64 // dtype.itemsize :]


def _check_widths(X: np.ndarray, tables: Sequence[np.ndarray]) -> None:
    widths = [table.shape[1] for table in tables]
    if not widths or int(np.prod(widths, dtype=np.int64)) != X.shape[1]:
        raise ValueError(
            f"The codebooks' widths {widths} do not multiply to the {X.shape[1]} "
            "features of X."
        )
    for j, table in enumerate(tables):
        if len(table) == 0:
            raise ValueError(f"codebooks[{j}] has no codewords; expected at least one.")
        if not np.isfinite(table).all():
            raise ValueError(f"codebooks[{j}] contains NaN or infinity.")


def _tile_shape(block: _Block) -> tuple[int, int, int]:
    """Return samples of a group, groups of a tile, and samples of a chunk."""
    n_codewords = block.n_prefix * block.n_last
    rows = int(np.clip(_TILE_SCORES // n_codewords, 2, _MAX_TILE_ROWS))
    group = int(np.clip(_PRODUCT_ROWS // block.n_prefix, 1, rows))
    tile = rows // group
    n_tiles = max(_CHUNK_TILES, -(-_MIN_CHUNK_ROWS // (tile * group)))
    return group, tile, n_tiles * tile * group


def _distances(x: np.ndarray, tables, codes: np.ndarray) -> np.ndarray:
    rows = [
        table[column].astype(np.float64)
        for table, column in zip(tables, codes.T, strict=True)
    ]
    gaps = kronecker_rows(rows)
    np.subtract(x, gaps, out=gaps)
    return np.einsum("ij,ij->i", gaps, gaps)
