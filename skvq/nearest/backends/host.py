"""NumPy: the searches in scratch memory, on threads."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csc_array

from skvq._checks import check_unmasked
from skvq.nearest.backends import host_bits, host_levels, host_scan, products
from skvq.nearest.backends.arrays import to_host
from skvq.nearest.backends.base import (
    DOUBTFUL,
    MAX_ROUNDS,
    OUT_OF_REACH,
    SURE,
    Backend,
    Plan,
    Sums,
    less,
)
from skvq.nearest.threads import (
    even_chunk,
    map_jobs,
    map_plain_tiles,
    map_tiles,
    multiply_rows,
    product_rows,
    scratch,
)

# Numbers of a tile of what is no search.
_TILE_ELEMENTS = 2**19
# Scores of one tile, in elements: what a core's cache holds, with enough rows in it
# that the calls into NumPy do not show (benchmarks/nearest.py).
_TILE_SCORES = 2**18
_MAX_TILE_SCORES = 2**21
_MIN_GOOD_ROWS = 512

# Rows so narrow are kept feature by feature: longer loops.
_NARROW = 16
# A share of unsure rows above which it pays to look at the scores of each tile, and not
# at those of the few rows of all of them, made once more.
_OFTEN = 0.03

# Numbers that change places at a time.
_TRANSPOSED = 2**13

# Rows of a product tile: one subspace's scores are small, so fewer rows do.
_PRODUCT_TILE_ROWS = 128
_PRODUCT_TILE_SCORES = 2**21

# `cell_sums` cuts the rows in at most this many chunks, whatever the threads.
_MAX_CHUNKS = 16
_MIN_CHUNK_ROWS = 16384
# Up to so many numbers, sums are counted rather than multiplied out.
_FEW_ELEMENTS = 4096

# Candidates that share a minimum in the search for many smallest.
_GROUP = 16


class NumpyBackend(Backend):
    """The host.  Nothing here is needed but for speed, and for older NumPys."""

    on_host = True
    takes_second_looks = True
    direct_metrics: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__(np, None)

    # -- where and how ---------------------------------------------------------------

    def map_jobs(self, job, n_jobs):
        """Call ``job(i)`` for all i, on as many threads as there may be."""
        map_jobs(job, n_jobs)

    def tile_elements(self):
        """Return how many numbers a tile may have."""
        return _TILE_ELEMENTS

    def gathered(self, n_rows, parts, dtype=None):
        """Join arrays of the rows that stand beside them."""
        whole: Any = None
        for rows, part in parts:
            if whole is None:
                whole = np.empty((n_rows, *part.shape[1:]), dtype or part.dtype)
            whole[rows] = part
        return whole

    def over_rows(self, n_rows, plan: Plan, tile, outputs) -> list:
        """Copy what tiles return into arrays; on threads."""
        joined = [np.empty((n_rows, *shape), dtype) for shape, dtype in outputs]

        def worker(start: int, stop: int) -> None:
            parts = tile(slice(start, stop))
            for whole, part in zip(joined, parts, strict=True):
                whole[start:stop] = part

        run = map_plain_tiles if plan.plain else map_tiles
        run(lambda: worker, n_rows, plan.chunk, plan.work)
        return joined

    # -- arrays ----------------------------------------------------------------------

    def matrix(self, X, name):
        """Return a matrix of real numbers as an array; raise if it is none."""
        X = np.asarray(check_unmasked(X, name))
        if X.ndim != 2:
            raise ValueError(f"{name} has shape {X.shape}; expected two dimensions.")
        if X.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {X.dtype}; expected real numbers.")
        return X

    def like(self, array, dtype=None):
        """Return an array of any library as one of NumPy's."""
        return np.asarray(to_host(array), dtype=dtype)

    def dtype(self, dtype):
        """Return the dtype."""
        return np.dtype(dtype)

    def code_dtype(self, dtype):
        """Return the dtype, in which NumPy computes."""
        return np.dtype(dtype)

    def numpy_dtype(self, array):
        """Return the array's dtype."""
        return array.dtype

    def send(self, array):
        """Return the array."""
        return array

    def sent(self, form, kind=""):
        """Return the named tuple."""
        return form

    def to_host(self, array):
        """Return the array."""
        return array

    def cast(self, array, dtype):
        """Return the array in a dtype; itself if it has it."""
        if array.dtype == np.bool_ and dtype == np.uint8:
            return array.view(np.uint8)  # the same bytes
        return array.astype(dtype, copy=False)

    def zeros(self, shape, dtype=np.float64):
        """Return zeros."""
        return np.zeros(shape, dtype)

    def concat(self, parts, axis):
        """Join arrays along an axis."""
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    def contiguous(self, array):
        """Return an array with its rows one after the other in memory."""
        return np.ascontiguousarray(array)

    def take(self, array, rows):
        """Return rows of an array."""
        return array[rows]

    def look_up(self, table, codes):
        """Return the rows of a table by codes of any shape."""
        return table[codes]

    def take_along(self, array, index):
        """Return (n, k, ...) entries along the second axis, by an index (n, k)."""
        index = index.reshape(index.shape + (1,) * (array.ndim - 2))
        return np.take_along_axis(array, index, axis=1)

    def replaced(self, array, rows, values):
        """Return the array, in which some rows are others now."""
        array[rows] = values
        return array

    def flagged(self, state):
        """Return where entries of a vector are not zero."""
        return np.flatnonzero(state)

    def permuted(self, array, axes):
        """Return an array with its axes in another order."""
        return array.transpose(axes)

    def cumulated(self, values):
        """Return running sums down the rows."""
        return np.cumsum(values, axis=0)

    def repeat(self, array, times, axis):
        """Repeat each entry along an axis."""
        return np.repeat(array, times, axis=axis)

    def squared_norms(self, rows):
        """Return the sums of squares along the last axis, added up in float64."""
        return np.einsum("...j,...j->...", rows, rows, dtype=np.float64)

    def stable_order(self, values):
        """Return the order of the entries of each row; equals stay in theirs."""
        return np.argsort(values, axis=1, kind="stable")

    def unit_rows(self, x):
        """Return rows divided by their norms; those of zeros become NaN."""
        largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
        scaled = x / np.where(largest > 0, largest, 1)
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        scaled /= np.where(norms > 0, norms, np.nan)
        return scaled

    def row_sums(self, x):
        """Return sums along the last axis, as float64."""
        return (x @ np.ones(x.shape[-1], x.dtype)).astype(np.float64)

    def total(self, values, weights=None):
        """Return the weighted sum of a vector."""
        return float(values.sum() if weights is None else values @ weights)

    def average(self, values, weights=None):
        """Return the weighted mean of a vector."""
        return float(np.average(values, weights=weights))

    def is_finite(self, x):
        """Whether there is neither NaN nor infinity."""
        return bool(np.isfinite(x).all())

    def row_products(self, x, y):
        """Return the product of each row with its own."""
        return np.einsum("ij,ij->i", x, y)

    # -- one table -------------------------------------------------------------------

    def centred(self, x, table, dtype):
        """Return rows less the centre of a table, in its scale, with a one each."""
        n, d = x.shape
        if d <= _NARROW:
            memory = scratch("extended", (d + 1, n), dtype)
            rest = memory[:d]
            _features_first(x, rest)
            rest -= table.centre[:, None]
            extended = memory.T
        else:
            extended = scratch("extended", (n, d + 1), dtype)
            rest = _less(x, table.centre, scratch("centred", (n, d), dtype))
        if table.scale != 1.0:
            rest *= dtype.type(table.scale)
        if d > _NARROW:
            extended[:, :d] = rest
        extended[:, d] = 1
        return _Rows(x, rest, extended, d <= _NARROW)

    def argmin_product(self, rows, table):
        """Return argmin_k of [x 1] W of each centred row, and what is sure of it."""
        extended, weights = rows.extended, table.weights
        n, n_codewords, dtype = len(extended), weights.shape[1], extended.dtype
        most = max(
            _TILE_SCORES // n_codewords,
            min(_MIN_GOOD_ROWS, _MAX_TILE_SCORES // n_codewords),
            16,
        )
        norms, base = rows.norms(), None
        if table.offset is not None:
            # The product that was asked for, before the centre was taken.
            base = (rows.rest.T if rows.narrow else rows.rest) @ table.offset
            base += dtype.type(table.level)
        codes, best = np.empty(n, np.intp), scratch("best", (n,), dtype)
        # Of one tile, the scores are at hand.
        state, often = np.zeros(n, np.uint8), n <= most
        memory = scratch("scores", (min(most, n), n_codewords), dtype)
        starts = np.arange(0, memory.size, n_codewords)
        product = product_rows(n_codewords, extended.shape[1])
        for low in range(0, n, most):
            cut = slice(low, min(low + most, n))
            scores = memory[: cut.stop - low]
            multiply_rows(extended[cut], weights, scores, product)
            scores.argmin(axis=1, out=codes[cut])
            at = codes[cut] + starts[: len(scores)]
            np.take(scores.reshape(-1), at, out=best[cut], mode="clip")
            if low and not often:
                continue
            weight, found = _weighed(norms[cut], best[cut], base, cut, table)
            if not low and not often:
                few, _ = doubtful(weight, found, table, state[cut], codes[cut])
                often = few.size > _OFTEN * len(scores)
            if often:
                between = partial(table.between, rows.x[cut])
                codes[cut], state[cut] = self.looked_at(
                    scores, codes[cut], weight, found, table, between
                )
        if not often:
            weight, found = _weighed(norms, best, base, slice(0, n), table)
            few, room = doubtful(weight, found, table, state, codes)
            for low in range(0, few.size, most):
                at = few[low : low + most]
                scores = np.matmul(extended[at], weights, out=memory[: len(at)])
                between = partial(table.between, rows.x)
                codes[at], state[at] = self.decided(
                    scores, codes[at], best[at], room[low : low + most], between, at
                )
        return codes, state

    def decided(self, scores, codes, best, room, between, rows) -> tuple:
        """Return codes and state of rows whose best scores may be too near to others.

        Parameters
        ----------
        scores : ndarray of shape (n_rows, n_codewords)
            To be overwritten.
        codes, best : ndarray of shape (n_rows,)
            Where the smallest are, and which.
        room : ndarray of shape (n_rows,)
            What two scores may differ by and be taken for each other.
        between : callable
            ``between(rows, codewords)`` returns what scores stand for, of pairs.
        rows : ndarray of shape (n_rows,)
            What that is to be called with.
        """
        scores[np.arange(len(scores)), codes] = np.inf
        sure = scores.min(axis=1) > best + room
        return codes, np.where(sure, np.uint8(SURE), np.uint8(DOUBTFUL))

    def looked_at(self, scores, codes, norms, distances, form, between) -> tuple:
        """Return codes and state of rows of which all scores are at hand."""
        state = np.zeros(len(codes), np.uint8)
        few, room = doubtful(norms, distances, form, state, codes)
        if few.size:
            own = scores if few.size == len(scores) else scores[few]
            code = codes[few]
            best = own[np.arange(len(own)), code]
            codes[few], state[few] = self.decided(own, code, best, room, between, few)
        return codes, state

    def gap_norms(self, x, rows, codes):
        """Return ||c - x||^2, as float64, of each x and the row c of its code."""
        gaps = scratch("gaps", x.shape, rows.dtype)
        np.take(rows, codes, axis=0, out=gaps, mode="clip")
        np.subtract(gaps, x, out=gaps, casting="same_kind")
        gaps *= gaps
        return self.row_sums(gaps)

    # -- tables of subspaces ---------------------------------------------------------

    def most_run_scores(self, n_codewords):
        """Return the most scores of a row in a run of subspaces."""
        return _PRODUCT_TILE_SCORES // _run_rows(n_codewords)

    def product_tile(self, x, dtype):
        """Return rows feature by feature."""
        return _features_first(x, np.empty(x.shape[::-1], x.dtype))

    def argmin_run(self, x, run):
        """Return codes (n_rows, m) in consecutive subspaces, and which are not sure."""
        m, _, n_codewords = run.weights.shape
        n, dtype = x.shape[1], run.weights.dtype
        rows = min(_run_rows(n_codewords), n)
        x = x[run.start : run.stop].reshape(m, run.width, n)
        extended = scratch("extended", (m, run.width + 1, rows), dtype)
        extended[:, -1] = 1
        memory = scratch("scores", (m, rows, n_codewords), dtype)
        codes = np.empty((m, n), np.intp)
        norms, best = (scratch(name, (m, n), dtype) for name in ("norms", "best"))
        often, unsure = False, np.empty((m, n), bool)
        starts = np.arange(0, m * rows * n_codewords, n_codewords)
        scaled = bool((run.scale != 1.0).any())
        centre, scale = run.centre[:, :, None], run.scale[:, None, None]
        for low in range(0, n, rows):
            cut = slice(low, min(low + rows, n))
            size = cut.stop - low
            rest = extended[:, :-1, :size]
            np.subtract(x[:, :, cut], centre, out=rest, casting="same_kind")
            if scaled:
                rest *= scale
            flat = memory.reshape(-1)[: m * size * n_codewords]
            scores = flat.reshape(m, size, n_codewords)
            np.matmul(extended[:, :, :size].swapaxes(1, 2), run.weights, out=scores)
            code = scores.argmin(axis=2)
            codes[:, cut] = code
            code += starts[: m * size].reshape(m, size)
            best[:, cut] = flat[code]
            np.einsum("mwr,mwr->mr", rest, rest, out=norms[:, cut])
            found = norms[:, cut], best[:, cut], codes[:, cut]
            if not low:
                often = self._unsure(*found, run).mean() > _OFTEN
            if often:
                unsure[:, cut] = self._unsure(*found, run, scores)
        if not often:
            unsure = self._unsure(norms, best, codes, run)
        if run.first is not None:
            codes = np.take_along_axis(run.first, codes, axis=1)
        return codes.T, unsure.T

    def _unsure(self, norms, best, codes, run, scores=None) -> np.ndarray:
        """Return (m, n) which codes are not sure; after a look at the scores if given.

        As `Backend.judged` says, and by how far codewords are apart.
        """
        # distance > share * norms, without a distance.
        half = max(-1e30, min(1e30, 0.5 * (run.margin.share - 1)))
        sure = best > norms.dtype.type(half) * norms
        sure &= norms < np.inf
        near = np.nonzero(~sure)
        if not near[0].size or (run.apart is None and scores is None):
            return ~sure
        norms, best, code = norms[near], best[near], codes[near]
        distances = norms + 2 * best
        room = norms.dtype.type(run.margin.slack) * (3 * norms + distances)
        if run.apart is not None:
            sure[near] = distances + 2 * room < run.apart[near[0], code]
        if scores is not None:
            left = np.flatnonzero(~sure[near])
            near = near[0][left], near[1][left]
            few = scores[near]
            few[np.arange(len(few)), code[left]] = np.inf
            sure[near] = few.min(axis=1) > (best + room)[left]
        return ~sure

    # -- smallest of many, and sums --------------------------------------------------

    def argmin(self, scores):
        """Return where the smallest of each row is, along the last axis; the first."""
        return scores.argmin(axis=-1)

    def product_rows(self, block):
        """Return how many rows are compared with products at a time."""
        return products.tile_shape(block)[2]

    def argmin_products(self, y, norms, block, between):
        """Return index and score of the best product of each row, and state."""
        n = len(y)
        index, best = np.empty(n, np.intp), np.empty(n, block.dtype)
        state = np.zeros(n, np.uint8)
        memory = _aligned(products.scratch_size(block), block.dtype)
        for cut, scores in products.host_tiles(y, block, memory):
            scores.argmin(axis=1, out=index[cut])
            best[cut] = scores[np.arange(len(scores)), index[cut]]
        weighed = norms + norms.dtype.type(block.rounded)
        few, room = doubtful(weighed, norms + 2 * best, block, state, index)
        if not few.size:
            return index + block.first, best, state
        for cut, scores in products.host_tiles(y[few], block, memory):
            at = few[cut]
            index[at], state[at] = self.decided(
                scores, index[at], best[at], room[cut], between, at
            )
        return index + block.first, best, state

    def residuals(self, x, n_sums, search):
        """Return what so many empty sums leave of a tile of rows."""
        return _Residuals(self, x, n_sums, search)

    def sums(self, x, factors, centre, search):
        """Return sums of codewords for a tile of rows, to be improved."""
        return _Sums(self, x, factors, centre, search)

    def smallest_few(self, scores, k):
        """Return where the k smallest of each row are, ascending; of equals the first.

        Changes the scores.
        """
        if k == 1:
            return scores.argmin(axis=1)[:, None]
        if k > MAX_ROUNDS:
            return _smallest_by_bound(scores, k)
        rows = np.arange(len(scores))
        best = np.empty((len(scores), k), dtype=np.intp)
        for j in range(k):
            best[:, j] = scores.argmin(axis=1)
            scores[rows, best[:, j]] = np.inf
        return best

    def cell_sums(self, X, codes, n_codewords, weights):
        """Return sums (n_codewords, d) and counts (n_codewords,) of rows by code."""
        n, d = X.shape
        chunk = max(_MIN_CHUNK_ROWS, n_codewords, -(-n // _MAX_CHUNKS))
        chunk = even_chunk(n, chunk, 16 * d)
        parts: dict[int, np.ndarray] = {}

        def worker(start: int, stop: int) -> None:
            rows = X[start:stop].astype(np.float64, copy=False)
            some = None if weights is None else weights[start:stop]
            add_up = _add_up_few if rows.size <= _FEW_ELEMENTS else _add_up
            parts[start] = add_up(rows, codes[start:stop], n_codewords, some)

        map_tiles(lambda: worker, n, chunk, 16 * d)
        sums = np.zeros((n_codewords, d))
        for start in sorted(parts):
            sums += parts[start]
        counts = np.bincount(codes, weights, minlength=n_codewords)
        return sums, counts.astype(np.float64)

    # -- packed codes ----------------------------------------------------------------

    def scanner(self, codes, tables):
        """Return what makes what lets rows of packed codes into the best so far.

        Parameters
        ----------
        codes : Packed
            The codes.
        tables : ndarray of shape (n_queries, n_entries)
            Contiguous, in the dtype to compute in.

        Returns
        -------
        scanner : callable
            ``scanner(best)``, called once in each thread, returns a function that lets
            the rows from `start`, a multiple of 256, to `stop` in.  Rows ascend, and
            the order of the best is the scanner's own affair.
        """
        return partial(partial, host_scan.scan_rows, codes, tables)

    def pack_words(self, words, widths, row_aligned):
        """Return words as bytes, each in so many bits, the highest bits first.

        Parameters
        ----------
        words : ndarray of int, shape (n_rows, n_words)
            Not negative, and no longer than their widths.
        widths : sequence of int
            Bits of the words of each column, up to 32.
        row_aligned : bool
            Whether a row begins with a byte of its own.
        """
        return host_bits.pack_words(words, widths, row_aligned)

    def unpack_words(self, packed, n_rows, widths, row_aligned, dtype):
        """Return the words (n_rows, n_words) that were packed, in an unsigned dtype."""
        return host_bits.unpack_words(packed, n_rows, widths, row_aligned, dtype)

    # -- cells of scalar levels ------------------------------------------------------

    def equal_cells(self, X, cells, dtype):
        """Return the cells (n_rows, n_columns) of floating X in equal cells."""
        return host_levels.equal_cells(self, X, cells, dtype)

    def edges(self, edges):
        """Return edges of columns, each ascending, as `cells_between` takes them."""
        return edges

    def cells_between(self, X, edges, dtype):
        """Return how many edges of its column each value of floating X has reached."""
        return host_levels.cells_between(X, edges, dtype)

    def entries(self, table, codes, begins):
        """Return the entries that codes name in their columns' parts of a table."""
        return host_levels.entries(table, codes, begins)

    def level_sums(self, X, codes, shares, sizes):
        """Return weighted sums of the values of each code, and of the weights."""
        return host_levels.level_sums(X, codes, shares, sizes)

    def scaled_rows(self, rows):
        """Return rows in float64, divided by a power of two, and its exponent."""
        rows = rows.astype(np.float64)
        exponent = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
        return np.ldexp(rows, -exponent[:, None]), exponent

    def ldexp(self, values, exponents):
        """Return values times two to the power of integers; exact, if they fit."""
        return np.ldexp(values, exponents)

    def float32_bits(self, values):
        """Return the bits (n,), int64, of numbers, at least 0 and at most float32's."""
        values = np.minimum(values, np.finfo(np.float32).max)
        return values.astype(np.float32).view(np.uint32).astype(np.int64)

    def from_float32_bits(self, bits):
        """Return the numbers of such bits, in float64."""
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)

    def angle(self, y, x):
        """Return the angles of points (x, y), from -pi to pi."""
        return np.arctan2(y, x)

    def running_sums(self, x):
        """Return the sums of the first 1, 2, ... entries of each row."""
        return np.cumsum(x, axis=1)

    def running_products(self, x):
        """Return the products of the first 1, 2, ... entries of each row."""
        return np.cumprod(x, axis=1)


class _Rows(NamedTuple):
    """A tile of rows, in scratch memory."""

    x: np.ndarray  # (n, d), as they were given, or unit rows
    rest: np.ndarray  # (n, d), less the centre, and scaled; (d, n) if narrow
    extended: np.ndarray  # (n, d + 1), the same, and ones
    narrow: bool

    def norms(self) -> np.ndarray:
        """Return the squared norms of the centred rows."""
        if not self.narrow:
            return np.einsum("ij,ij->i", self.rest, self.rest)
        squares = scratch("gaps", self.rest.shape, self.rest.dtype)
        return np.multiply(self.rest, self.rest, out=squares).sum(axis=0)


class _Residuals:
    """Residuals in scratch memory, beside columns of ones and of costs."""

    def __init__(self, be, x, n_sums, search) -> None:
        n, d = x.shape
        self.be, self.n, self.b, self.d = be, n, n_sums, d
        self.dtype, self.turn = search.dtype, 0
        self.wide = self._memory()
        self.rest.reshape(n, n_sums, d)[...] = x[:, None]
        if search.scale != 1.0:
            self.rest[...] *= self.dtype.type(search.scale)
        self.most: Any = None
        self.known: Any = None
        self.found: Any = None

    def _memory(self) -> np.ndarray:
        name = ("residuals", "next residuals")[self.turn]
        wide = scratch(name, (self.n * self.b, self.d + 2), self.dtype)
        wide[:, self.d] = 1
        return wide

    @property
    def rest(self) -> np.ndarray:
        return self.wide[:, : self.d]

    def subtract(self, rows, codes) -> None:
        self.rest[...] -= rows[codes.ravel()]
        self.known = None

    def shift(self, centre) -> None:
        self.rest[...] -= centre
        self.known = None

    def norms(self) -> np.ndarray:
        if self.known is None:
            squares = np.einsum("ij,ij->i", self.rest, self.rest)
            self.known = squares.reshape(self.n, self.b).astype(np.float64)
        return self.known

    def choose(self, loss, stage):
        """Return sum and codeword of the best candidates, and state of the rows."""
        least = self._set_costs(loss, stage)
        n_codewords = stage.weights.shape[1]
        scores = scratch("scores", (len(self.wide), n_codewords), self.dtype)
        multiply_rows(self.wide, stage.weights, scores, stage.product)
        scores = scores.reshape(self.n, -1)
        best = self.be.smallest_few(scores, stage.width)
        state = None
        if stage.width == 1:
            code = best[:, 0]
            found = least + 2 * scores[np.arange(self.n), code]
            plain = loss is None and stage.bias is None
            self.found = found[:, None] if plain else None
            _, state = self.be.looked_at(scores, code, self.most, found, stage, None)
        if self.b > 1:
            return *np.divmod(best, n_codewords), state
        return np.zeros_like(best), best, state

    def _set_costs(self, loss, stage) -> np.ndarray:
        """Set the column of costs; return the least of each row, which is 0 there."""
        norms = self.norms()
        self.most = norms.max(axis=1)
        if self.b == 1:
            self.wide[:, -1] = 0
            return (
                norms[:, 0]
                if loss is None
                else norms[:, 0] + loss[:, 0] / (stage.weight + stage.ahead)
            )
        costs = norms if loss is None else norms + loss / (stage.weight + stage.ahead)
        # Only differences within a row count: this keeps them from drowning.
        least = costs.min(axis=1)
        self.wide[:, -1] = 0.5 * (costs - least[:, None]).ravel()
        return least

    def advance(self, parent, code, stage) -> None:
        """Put the residuals of the chosen sums in place of those before."""
        before, width = self.b, parent.shape[1]
        gaps = scratch("gaps", (self.n * width, self.d), self.dtype)
        np.take(stage.rows, code.ravel(), axis=0, out=gaps, mode="clip")
        if before > 1 or width > 1:
            chosen = (parent + before * np.arange(self.n)[:, None]).ravel()
            old, self.b, self.turn = self.wide, width, 1 - self.turn
            self.wide = self._memory()
            np.take(old, chosen, axis=0, out=self.wide, mode="clip")
        self.rest[...] -= gaps
        # Of one sum, the distance that its choice has found: good enough to go on.
        self.known = self.found if width == 1 and stage.ahead else None

    def doubtful(self, stage) -> np.ndarray:
        """Return the state of the rows of which several sums were chosen."""
        best = self.norms()[:, 0]
        sure = (best > stage.margin.coarse * self.most) & (self.most < np.inf)
        return (~sure).astype(np.uint8) * np.uint8(DOUBTFUL)


class _CarefulResiduals(_Residuals):
    """Residuals in float64, not shifted, so that their differences are exact."""

    def __init__(self, be, x, n_sums, search) -> None:
        super().__init__(be, x, n_sums, search)
        self.centre: Any = 0.0

    def shift(self, centre) -> None:
        self.centre = centre

    def choose(self, loss, stage):
        """Return sum and codeword of the best candidates, by exact distances."""
        raw = self.rest.copy()
        self.rest[...] -= self.centre
        self.known, self.centre = None, 0.0
        least = self._set_costs(loss, stage)
        n, b, n_codewords = self.n, self.b, stage.weights.shape[1]
        scores = (self.wide @ stage.weights).reshape(n, -1)
        self.rest[...] = raw
        room = stage.margin.slack * (4 * self.most + least)
        kth = np.partition(scores, stage.width - 1, axis=1)[:, stage.width - 1]
        row, place = np.nonzero(scores <= (kth + room)[:, None])
        parent, code = np.divmod(place, n_codewords)
        found = np.empty(len(row))
        step = max(1, 2**18 // self.d)
        for low in range(0, len(row), step):
            cut = slice(low, low + step)
            gaps = raw[row[cut] * b + parent[cut]] - stage.exact[code[cut]]
            found[cut] = np.einsum("ij,ij->i", gaps, gaps)
        share = 1.0 / (stage.weight + stage.ahead)
        if loss is not None:
            found += loss[row, parent] * share
        if stage.bias is not None:
            found += stage.bias[code] * share
        order = np.lexsort((place, found, row))
        first = np.searchsorted(row[order], np.arange(n))
        best = place[order][first[:, None] + np.arange(stage.width)]
        self.known = None
        return *np.divmod(best, n_codewords), np.zeros(n, np.uint8)

    def advance(self, parent, code, stage) -> None:
        super().advance(parent, code, stage._replace(rows=stage.exact))
        self.known = None

    def doubtful(self, stage) -> np.ndarray:
        return np.zeros(self.n, np.uint8)


class _Sums(Sums):
    """The same in scratch memory, with a one after each row."""

    def __init__(self, be, x, factors, centre, search) -> None:
        super().__init__(be, x, factors, centre, search)
        n, d = x.shape
        self.wide = scratch("extended", (n, d + 1), search.dtype)
        self.wide[:, d] = 1
        self.left = self.wide[:, :d]
        self.chosen = scratch("gaps", (n, d), search.dtype)

    def leave(self, codes):
        self.left[...] = self.target
        for factor, column in zip(self.factors, codes, strict=True):
            self.left -= self._take(factor, column)
        return np.einsum("ij,ij->i", self.left, self.left).astype(np.float64)

    def _take(self, factor, column) -> np.ndarray:
        return np.take(factor.rows, column, axis=0, out=self.chosen, mode="clip")

    def step(self, j, column, size):
        factor = self.factors[j]
        self.left += self._take(factor, column)
        codes, state = self._chosen(factor, size)
        self.left -= self._take(factor, codes)
        return codes, state

    def _chosen(self, factor, size, between=None) -> tuple:
        """Return the nearest codes to what is left, and their state if it is asked."""
        n, dtype = len(self.left), self.left.dtype
        scores = scratch("scores", (n, len(factor.rows)), dtype)
        np.matmul(self.wide, factor.weights, out=scores)
        codes, state = scores.argmin(axis=1), None
        if size is not None:
            norms = np.einsum("ij,ij->i", self.left, self.left)
            distances = norms + 2 * scores[np.arange(n), codes]
            norms += dtype.type(factor.rounded) * size
            codes, state = self.be.looked_at(
                scores, codes, norms, distances, factor, between
            )
        return codes, state


class _CarefulSums(_Sums):
    """The same, anew from what was given in every step, and without an error."""

    def __init__(self, be, x, factors, centre, search) -> None:
        super().__init__(be, x, factors, centre, search)
        self.given = x * search.scale
        self.codes: list = []

    def _less(self, but: int | None) -> tuple:
        """Return what all codewords but one leave, and the digits that it has lost."""
        left = self.given, 0.0
        for j, factor in enumerate(self.factors):
            if j != but:
                left = less(*left, factor.exact[self.codes[j]])
        return left

    def leave(self, codes):
        self.codes = list(codes)
        left = np.add(*self._less(None))
        return np.einsum("ij,ij->i", left, left)

    def step(self, j, column, size):
        factor, (high, low) = self.factors[j], self._less(j)

        def between(row, codeword):
            gaps = (high[row] - factor.exact[codeword]) + low[row]
            return 0.5 * np.einsum("ij,ij->i", gaps, gaps)

        self.left[...] = (high - factor.centre) + low
        # Nothing of what is left has been rounded away.
        size = None if size is None else 0.0
        self.codes[j], state = self._chosen(factor, size, between)
        return self.codes[j], state


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Return memory that begins with a line of the cache: 5% of the time."""
    memory = scratch("products", (size + 64 // dtype.itemsize,), dtype)
    return memory[-memory.ctypes.data % 64 // dtype.itemsize :]


def _weighed(norms, best, base, cut: slice, table) -> tuple:
    """Return what the rounding of scores is a share of, and the distances found."""
    if base is None:
        return norms + norms.dtype.type(table.rounded), norms + 2 * best
    half = norms.dtype.type(0.5)
    return half * (norms + norms.dtype.type(table.reach)), np.abs(base[cut] - best)


def doubtful(norms, distances, form, state, codes) -> tuple:
    """Return which rows may not be sure of their best scores, and within what room.

    As `Backend.judged` says.  Marks those that cannot be compared.
    """
    # NaN is not larger: whatever cannot be compared is looked at.
    margin = form.margin
    sure = distances > norms.dtype.type(margin.share) * norms
    sure &= norms < np.inf
    few = np.flatnonzero(~sure)
    if not few.size:
        return few, norms[:0]
    norms, distances = norms[few], distances[few]
    finite = np.isfinite(norms) & np.isfinite(distances)
    if not finite.all():
        state[few[~finite]] = OUT_OF_REACH
        few, norms, distances = few[finite], norms[finite], distances[finite]
    room = norms.dtype.type(margin.slack) * (3 * norms + distances)
    apart = getattr(form, "apart", None)
    if apart is not None:
        left = ~(distances + 2 * room < apart[codes[few]])
        few, room = few[left], room[left]
    return few, room


def _features_first(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write rows feature by feature; so many at a time as stay in the inner cache."""
    step = max(16, _TRANSPOSED // x.shape[1])
    for low in range(0, len(x), step):
        cut = slice(low, low + step)
        np.copyto(out[:, cut], x[cut].T, casting="same_kind")
    return out


def _less(x: np.ndarray, centre: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Take the centre from each row; narrow rows several at a time: longer loops."""
    fold = max(1, 512 // max(1, x.shape[1]))
    if len(x) % fold == 0 and x.flags.c_contiguous:
        x = x.reshape(len(x) // fold, -1)
        np.subtract(
            x, np.tile(centre, fold), out=out.reshape(x.shape), casting="same_kind"
        )
    else:
        np.subtract(x, centre, out=out, casting="same_kind")
    return out


def _run_rows(n_codewords: int) -> int:
    """Rows of a tile in a run of subspaces."""
    return int(np.clip(_PRODUCT_TILE_SCORES // n_codewords, 16, _PRODUCT_TILE_ROWS))


def _smallest_by_bound(scores: np.ndarray, k: int) -> np.ndarray:
    """Look only at the scores that the k-th smallest minimum of a group bounds."""
    n, size = scores.shape
    group = _GROUP
    while group > 1 and (size // group < 4 * k or size % group):
        group //= 2
    minima = scores.reshape(n, group, size // group)
    minima = minima.min(axis=1) if group > 1 else scores.copy()
    minima.partition(k - 1, axis=1)
    bound = minima[:, k - 1]
    flat = np.flatnonzero(scores <= bound[:, None])
    rows = flat // size
    starts = np.searchsorted(rows, np.arange(n + 1))
    counts = np.diff(starts)
    place = np.arange(len(flat)) - starts[rows]
    values = np.full((n, counts.max()), np.inf, dtype=scores.dtype)
    where = np.zeros(values.shape, dtype=np.intp)
    values[rows, place] = scores.ravel()[flat]
    where[rows, place] = flat - rows * size
    order = np.argsort(values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(where, order, axis=1)


def _add_up(rows, codes, n_codewords: int, weights) -> np.ndarray:
    """Add up the rows of each code, in float64, in the order of the rows."""
    values = np.ones(len(rows)) if weights is None else weights
    # Column i of this matrix has one entry, in the row of sample i's code.
    chosen = csc_array(
        (values, codes, np.arange(len(rows) + 1)), shape=(n_codewords, len(rows))
    )
    return chosen @ rows


def _add_up_few(rows, codes, n_codewords: int, weights) -> np.ndarray:
    """Do the same, in the same order, without a matrix, whose making costs more."""
    width = rows.shape[1]
    if weights is not None:
        rows = rows * weights[:, None]
    cells = codes[:, None] * width + np.arange(width)
    sums = np.bincount(cells.ravel(), rows.ravel(), minlength=n_codewords * width)
    return sums.reshape(n_codewords, width)


class CarefulBackend(NumpyBackend):
    """The host, for the few rows whose best scores are too near to each other.

    It computes in float64, and decides between near scores by the distances themselves,
    from the differences of what was given: their rounding is a share of the distance.
    """

    @property
    def key(self):
        """What tells this backend's arrays from those of others."""
        return ("careful",)

    def decided(self, scores, codes, best, room, between, rows):
        """Decide by distances between all scores within the room of the best."""
        row, codeword = np.nonzero(scores <= (best + room)[:, None])
        several = np.bincount(row, minlength=len(scores)) > 1
        row, codeword = (each[several[row]] for each in (row, codeword))
        if row.size:
            found = between(rows[row], codeword)
            # By row, then by distance; of equals the first.
            order = np.lexsort((codeword, found, row))
            chosen, at = np.unique(row[order], return_index=True)
            codes[chosen] = codeword[order][at]
        return codes, np.zeros(len(codes), np.uint8)

    def argmin_products(self, y, norms, block, between):
        """Return index and score of the best product of each row, and state."""
        index, _, state = super().argmin_products(y, norms, block, between)
        # As exact as they are compared, also with those of other blocks.
        return index, between(np.arange(len(y)), index - block.first), state

    def residuals(self, x, n_sums, search):
        """Return what so many empty sums leave of a tile of rows."""
        return _CarefulResiduals(self, x, n_sums, search)

    def sums(self, x, factors, centre, search):
        """Return sums of codewords for a tile of rows, to be improved."""
        return _CarefulSums(self, x, factors, centre, search)


HOST = NumpyBackend()
CAREFUL = CarefulBackend()
