"""The best sums of codewords, one from each of several tables: a beam search.

A tile of rows passes through all tables before the next tile begins.  After each table
the B partial sums with the least error stay, per row: the beam.  One GEMM of the tile's
B residuals, extended by a column of ones and by one with what each partial sum has
cost so far, with the table [-(C - m)^T; 1/2 ||c - m||^2; 1] scores all B V_j candidates
of a row, whose k smallest are the next beam.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skvq._checks import check_memory
from skvq.nearest._numpy import (
    _as_2d,
    _check_reach,
    _coarse_centre,
    _common_dtype,
    _first_of_distinct,
    _power_of_two_scale,
)
from skvq.nearest._threads import (
    even_chunk,
    map_tiles,
    multiply_rows,
    product_rows,
    scratch,
)

# Candidates of one tile: what a core's cache holds, and the most where that would leave
# too few rows for a good GEMM.
_TILE_SCORES = 2**18
_MAX_TILE_SCORES = 2**21
_MIN_GOOD_ROWS = 512
_MAX_TILE_ROWS = 1024

# Up to so many smallest are found one after the other.
_MAX_ROUNDS = 8
# Candidates that share a minimum in the search for more.
_GROUP = 16


class _Stage(NamedTuple):
    """A table made ready for the search."""

    weights: np.ndarray  # (d + 2, V'), [-(C - m)^T; 1/2 ||c - m||^2; 1]
    rows: np.ndarray  # (V', d), what the distinct codewords take from a residual
    centre: np.ndarray | None  # (d,), m, still to be taken from it; None: nothing
    first: np.ndarray | None  # (V',), index of each row in the codebook; None: all
    width: int  # sums that are kept after this stage
    weight: float  # of the error after this stage in the loss
    ahead: float  # weight that this error bears for the stages to come
    product: int | None  # rows that a product takes at a time, see `multiply_rows`


def nearest_best(
    X,
    codebooks: Sequence,
    beam_size: int,
    *,
    n_best: int = 1,
    begin=None,
    stage_weights=None,
    return_distances: bool = True,
    dtype=np.intp,
):
    """Do on NumPy what `skvq.nearest.nearest_best` says."""
    X = _as_2d(X, "X")
    tables = [_as_2d(table, f"codebooks[{j}]") for j, table in enumerate(codebooks)]
    begun = _check_begin(begin, X, tables)
    for j, table in enumerate(tables):
        if table.shape[1] != X.shape[1] or len(table) == 0:
            raise ValueError(
                f"codebooks[{j}] has shape {table.shape}; expected one codeword or "
                f"more of {X.shape[1]} features."
            )
    search = _Search(X, tables, begun, beam_size, n_best, stage_weights)
    n_found = search.stages[-1].width if search.stages else begun.shape[1]
    codes = np.empty((len(X), n_found, len(tables)), dtype=dtype)
    found = np.empty((len(X), n_found)) if return_distances else None

    def make_worker():
        tile = _Tile(search)

        def worker(start: int, stop: int) -> None:
            chosen = codes[start:stop]
            errors = tile.search(
                X[start:stop], begun[start:stop], chosen, found is not None
            )
            if found is not None:
                found[start:stop] = errors

        return worker

    map_tiles(make_worker, len(X), search.tile, search.work)
    if found is not None and not np.isfinite(found).all():
        raise ValueError("Distances between X and the codebooks overflow: scale X.")
    return codes, found


def _check_begin(begin, X, tables) -> np.ndarray:
    if begin is None:
        return np.empty((len(X), 1, 0), dtype=np.intp)
    return _check_begin_shape(np.asarray(begin), X, tables)


def _check_begin_shape(begin, X, tables):
    """Raise unless these are codes of the rows of X in the first of the tables."""
    shape, n = tuple(begin.shape), X.shape[0]
    if len(shape) != 3 or shape[0] != n or shape[2] > len(tables):
        raise ValueError(
            f"begin has shape {shape}; expected (n_samples, n_sums, n_begun) "
            f"with {n} samples and at most {len(tables)} codes."
        )
    return begin


class _Search:
    """What all tiles share: the tables, made ready, and the sizes of the scratch."""

    def __init__(self, X, tables, begun, beam_size, n_best, stage_weights) -> None:
        self.dtype = np.result_type(*(_common_dtype(X, table) for table in tables))
        n_begun = begun.shape[2]
        largest = [float(np.abs(table).max(initial=0.0)) for table in tables]
        self.scale = _common_scale(tables, self.dtype)
        self.begun = [
            (table.astype(np.float64) * self.scale).astype(self.dtype)
            for table in tables[:n_begun]
        ]
        self.weighted = stage_weights is not None
        if self.weighted:
            weights = np.asarray(stage_weights, dtype=np.float64)
        else:
            weights = np.zeros(len(tables))
            weights[-1] = 1.0
        ahead = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)
        self.begun_weights = weights[:n_begun]
        self.stages: list[_Stage] = []
        width = begun.shape[1]
        most, self.work = width, 0.0
        for j in range(n_begun, len(tables)):
            keep = n_best if j == len(tables) - 1 else beam_size
            stage = self._prepare(tables[j], width, keep, weights[j], ahead[j])
            self.stages.append(stage)
            self.work += width * stage.weights.size
            most, width = max(most, width * len(stage.rows)), stage.width
        if not self.weighted:
            self._move_with_the_codewords()
        self.most_sums = max([begun.shape[1], *(stage.width for stage in self.stages)])
        self.most_scores = most
        good = min(-(-_MIN_GOOD_ROWS // self.most_sums), _MAX_TILE_SCORES // most)
        rows = min(max(_TILE_SCORES // most, good, 1), _MAX_TILE_ROWS)
        self.tile = min(rows, even_chunk(X.shape[0], rows, self.work))
        self._check_memory(X, beam_size)
        # Residuals may reach the sum of all that is subtracted; squares must be finite.
        reach = math.sqrt(float(np.finfo(self.dtype).max) / (16 * max(1, X.shape[1])))
        self.limit = min(reach / self.scale, float(np.finfo(self.dtype).max)) - sum(
            largest
        )

    def _check_memory(self, X, beam_size) -> None:
        """Raise if the beam is out of proportion to the rows."""
        n, d = X.shape
        size = self.dtype.itemsize
        sums = self.stages[-1].width if self.stages else 1
        scratch_bytes = self.tile * (self.most_scores + 3 * self.most_sums * (d + 2))
        found_bytes = n * sums * (len(self.stages) + len(self.begun) + 1)
        check_memory(
            f"beam_size={beam_size}, which keeps up to {self.most_sums} sums of each "
            f"of {n} rows,",
            size * (scratch_bytes + found_bytes),
            size * n * d,
        )

    def _prepare(self, codebook, width, keep, weight, ahead) -> _Stage:
        first = _first_of_distinct(codebook)
        rows = (codebook if first is None else codebook[first]).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            rows *= self.scale
            centre = _coarse_centre(rows).astype(self.dtype)
            rows = rows - centre
            half_norms = 0.5 * np.einsum("ij,ij->i", rows, rows)
        ones = np.ones(len(rows))
        weights = np.concatenate([-rows.T, half_norms[None], ones[None]])
        return _Stage(
            weights.astype(self.dtype, order="C"),
            rows.astype(self.dtype),
            centre if centre.any() else None,
            first,
            min(keep, width * len(rows)),
            weight,
            ahead,
            product_rows(*reversed(weights.shape)),
        )

    def _move_with_the_codewords(self) -> None:
        """Let a stage's codewords take the next one's centre along: one pass less.

        The weighted losses look at residuals in between, which must not have moved.
        """
        for j in range(len(self.stages) - 1):
            here, ahead = self.stages[j : j + 2]
            if ahead.centre is not None:
                rows = here.rows.astype(np.float64) + ahead.centre
                self.stages[j] = here._replace(rows=rows.astype(self.dtype))
                self.stages[j + 1] = ahead._replace(centre=None)


def _common_scale(tables, dtype) -> float:
    """Return 1, or the power of two that brings extraordinary tables near 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        spreads = [
            float(np.abs(table - table.mean(axis=0, dtype=np.float64)).max(initial=0.0))
            for table in tables
        ]
    return _power_of_two_scale(max(spreads), dtype)


class _Tile:
    """One thread's memory, and the search in one tile of rows."""

    def __init__(self, search: _Search) -> None:
        self.shared = search
        dtype = search.dtype
        d = (
            search.stages[0].rows.shape[1]
            if search.stages
            else search.begun[0].shape[1]
        )
        shape = (search.tile * search.most_sums, d + 2)
        self.d = d
        self.residuals = scratch("beam residuals", shape, dtype)
        self.next = scratch("next beam residuals", shape, dtype)
        for rows in (self.residuals, self.next):
            rows[:, d] = 1
        self.gaps = scratch("beam gaps", (shape[0], d), dtype)
        self.scores = scratch("scores", (search.tile * search.most_scores,), dtype)

    def search(self, x, begun, codes, distances: bool) -> np.ndarray | None:
        """Write the codes of the tile; return the distances if they are asked for."""
        shared = self.shared
        loss = self._begin(x, begun)
        parents, chosen = [], []
        b = begun.shape[1]
        for j, stage in enumerate(shared.stages):
            last = j == len(shared.stages) - 1
            self._set_costs(len(x), b, stage, loss)
            parent, code = self._choose(len(x), b, stage)
            parents.append(parent)
            chosen.append(code)
            if not last or distances:
                self._subtract(b, stage, parent, code)
                if shared.weighted:
                    loss = np.take_along_axis(loss, parent, axis=1)
                    loss += stage.weight * self._norms(len(x), stage.width)
            b = stage.width
        self._trace_back(begun, parents, chosen, codes)
        if not distances:
            return None
        total = loss if shared.weighted else self._norms(len(x), b)
        return total / shared.scale / shared.scale

    def _begin(self, x, begun):
        """Fill the residuals of the sums begun; return their loss so far."""
        shared = self.shared
        n, b, n_begun = begun.shape
        x = x.astype(shared.dtype, copy=False)
        _check_reach(x, shared.limit)
        rows = self.residuals[: n * b, : self.d]
        rows.reshape(n, b, self.d)[...] = x[:, None]
        if shared.scale != 1.0:
            rows *= shared.dtype.type(shared.scale)
        loss = np.zeros((n, b))
        for j in range(n_begun):
            rows -= shared.begun[j][begun[:, :, j].ravel()]
            if shared.weighted:
                loss += shared.begun_weights[j] * self._norms(n, b)
        return loss

    def _norms(self, n, b) -> np.ndarray:
        rows = self.residuals[: n * b, : self.d]
        return np.einsum("ij,ij->i", rows, rows).reshape(n, b).astype(np.float64)

    def _set_costs(self, n, b, stage, loss) -> None:
        """Move the residuals about the table's centre; set the column of costs."""
        rows = self.residuals[: n * b]
        if stage.centre is not None:
            rows[:, : self.d] -= stage.centre
        if b == 1:
            rows[:, -1] = 0
            return
        costs = self._norms(n, b)
        if self.shared.weighted:
            costs += loss / (stage.weight + stage.ahead)
        # Only differences within a row count: this keeps them from drowning.
        costs -= costs.min(axis=1, keepdims=True)
        rows[:, -1] = 0.5 * costs.ravel()

    def _choose(self, n, b, stage):
        n_codewords = len(stage.rows)
        scores = self.scores[: n * b * n_codewords]
        multiply_rows(
            self.residuals[: n * b],
            stage.weights,
            scores.reshape(-1, n_codewords),
            stage.product,
        )
        best = _smallest(scores.reshape(n, b * n_codewords), stage.width)
        return np.divmod(best, n_codewords) if b > 1 else (np.zeros_like(best), best)

    def _subtract(self, b, stage, parent, code) -> None:
        """Put the residuals of the chosen sums in place of those before."""
        n, width = parent.shape
        gaps = self.gaps[: n * width]
        np.take(stage.rows, code.ravel(), axis=0, out=gaps, mode="clip")
        if b > 1 or width > 1:
            rows = (parent + b * np.arange(n)[:, None]).ravel()
            chosen = self.next[: n * width]
            np.take(self.residuals, rows, axis=0, out=chosen, mode="clip")
            self.residuals, self.next = self.next, self.residuals
        self.residuals[: n * width, : self.d] -= gaps

    def _trace_back(self, begun, parents, chosen, codes) -> None:
        """Follow the kept sums back to the first table."""
        n_begun = begun.shape[2]
        at = None
        for j in reversed(range(len(chosen))):
            code, parent, first = chosen[j], parents[j], self.shared.stages[j].first
            if at is not None:
                code = np.take_along_axis(code, at, axis=1)
                parent = np.take_along_axis(parent, at, axis=1)
            codes[:, :, n_begun + j] = code if first is None else first[code]
            at = parent
        kept = (
            begun if at is None else np.take_along_axis(begun, at[:, :, None], axis=1)
        )
        codes[:, :, :n_begun] = kept


def _smallest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return where the k smallest of each row are, ascending; of equals the first.

    Changes the scores.
    """
    if k == 1:
        return scores.argmin(axis=1)[:, None]
    if k <= _MAX_ROUNDS:
        return _smallest_in_rounds(scores, k)
    return _smallest_by_bound(scores, k)


def _smallest_in_rounds(scores: np.ndarray, k: int) -> np.ndarray:
    rows = np.arange(len(scores))
    best = np.empty((len(scores), k), dtype=np.intp)
    for j in range(k):
        best[:, j] = scores.argmin(axis=1)
        scores[rows, best[:, j]] = np.inf
    return best


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
