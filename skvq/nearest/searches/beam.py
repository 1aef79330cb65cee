"""The best sums of codewords, one from each of several tables: a beam search.

A tile of rows passes through all tables before the next tile begins.  After each table
the B partial sums of least error stay for each row: the beam.  The B residuals of each
row, extended by a one and by the cost of their partial sum, are multiplied with the
table [-(C - m)^T; 1/2 ||c - m||^2; 1].  This GEMM scores all B V_j candidates of a row,
the k smallest of which are the next beam.
"""

import math
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvq._checks import check_memory
from skvq.nearest.backends.base import COARSE, Backend, Plan, less
from skvq.nearest.backends.careful import CAREFUL
from skvq.nearest.searches.flat import check_finite, check_reach, finished
from skvq.nearest.tables import (
    Margin,
    Tables,
    compute_dtype,
    distinct_bias,
    make_core,
    power_of_two_scale,
    scaled_bias,
)
from skvq.nearest.threads import even_chunk

# Candidates in a tile: as many as a core's cache holds, and the most where that would
# leave too few rows for a good GEMM.
_TILE_SCORES = 2**18
_MAX_TILE_SCORES = 2**21
_MIN_GOOD_ROWS = 512
_MAX_TILE_ROWS = 1024
# Limits of a tile where not all scores are kept: numbers in its residuals, and
# multiply-adds of one stage, which an interrupt has to wait for.
_TILE_NUMBERS, _TILE_WORK = 2**19, 2**28
# Numbers in rows whose errors are computed from the given numbers at a time.
_EXACT_ELEMENTS = 2**15


class Options(NamedTuple):
    """The arguments of `skvq.nearest.nearest_best`."""

    beam_size: int
    n_best: int
    stage_weights: Any
    biases: list[Any] | None
    distances: bool
    dtype: Any


class Stage(NamedTuple):
    """A table prepared for the search."""

    weights: np.ndarray  # (d + 2, V'), [-(C - m)^T; 1/2 ||c - m||^2; 1]
    rows: np.ndarray  # (V', d), the distinct codewords, shifted and scaled
    centre: np.ndarray | None  # (d,), m, to subtract from residuals; None: nothing
    first: np.ndarray | None  # (V',), index of each row in the codebook; None: all
    bias: np.ndarray | None  # (V',), scaled
    margin: Margin
    exact: np.ndarray | None  # (V', d), as given but scaled; only in float64
    width: int  # number of sums kept after this stage
    weight: float  # weight in the loss of the error after this stage
    ahead: float  # sum of the weights of later stages, which this error also bears
    packed: Any = None  # the backend's own form


class PreparedStages:
    """The prepared tables and the sizes of tiles, which all tiles share."""

    begun: list[NDArray[Any]]
    begun_biases: list[Any]
    begun_weights: NDArray[Any]
    biased: bool
    limit: float
    most_sums: int
    most_work: float
    scale: float
    weighted: bool
    width: Any
    work: float

    def __init__(
        self, tables: Tables, n_sums: int, n_begun: int, options: Any, dtype: Any
    ) -> None:
        self.dtype = dtype
        codebooks = [table.codewords for table in tables]
        self.scale = common_scale(codebooks, dtype)
        self.begun = [
            (codebook.astype(np.float64) * self.scale).astype(dtype, order="C")
            for codebook in codebooks[:n_begun]
        ]
        self.weighted = options.stage_weights is not None
        if self.weighted:
            weights = np.asarray(options.stage_weights, dtype=np.float64)
        else:
            weights = np.zeros(len(tables))
            weights[-1] = 1.0
        self.weights = weights
        ahead = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)
        self.begun_weights = weights[:n_begun]
        biases: list[Any] = [None] * len(tables)
        if options.biases is not None:
            biases = [scaled_bias(each, self.scale, dtype) for each in options.biases]
        self.biased = options.biases is not None
        self.begun_biases = biases[:n_begun]
        self.stages: list[Stage] = []
        width = n_sums
        most, self.work, self.most_work = width, 0.0, 1.0
        for j in range(n_begun, len(tables)):
            keep = options.n_best if j == len(tables) - 1 else options.beam_size
            stage = self._prepare(
                codebooks[j], biases[j], width, keep, weights[j], ahead[j]
            )
            self.stages.append(stage)
            self.work += width * stage.weights.size
            self.most_work = max(self.most_work, width * stage.weights.size)
            most, width = max(most, width * len(stage.rows)), stage.width
        self.n_found = width
        # A residual of one stage is relative to the centre of the next.
        self.shifted = sum(
            float(stage.centre @ stage.centre)
            for stage in self.stages[not n_begun :]
            if stage.centre is not None
        )
        self.most_sums = max([n_sums, *(stage.width for stage in self.stages)])
        self.most_scores = most
        self.products: Any = None  # what the backend looks up
        # Residuals may reach the sum of all codewords; their squares must be finite.
        self.width = d = codebooks[0].shape[1]
        reach = math.sqrt(float(np.finfo(dtype).max) / (16 * max(1, d)))
        largest = [float(np.abs(codebook).max(initial=0.0)) for codebook in codebooks]
        most_finite = float(np.finfo(dtype).max)
        self.limit = min(reach / self.scale, most_finite) - sum(largest)

    def tile_rows(self, n_rows: int, be: Backend = CAREFUL) -> int:
        """Return how many rows a thread of the host takes at a time."""
        if be.is_compiled:
            # A tile holds residuals of the sums, or their codes.
            size = self.width if self.products is None else len(self.stages)
            most = min(_TILE_NUMBERS // (self.most_sums * size), 8192)
            most = max(1, min(max(16, most), _TILE_WORK // int(self.most_work)))
            return even_chunk(n_rows, most, self.work)
        good = min(
            -(-_MIN_GOOD_ROWS // self.most_sums), _MAX_TILE_SCORES // self.most_scores
        )
        rows = min(max(_TILE_SCORES // self.most_scores, good, 1), _MAX_TILE_ROWS)
        return min(rows, even_chunk(n_rows, rows, self.work))

    def check_memory(self, n: int, d: int, beam_size: int) -> None:
        """Raise if the beam takes too much memory for the rows."""
        size = self.dtype.itemsize
        per_row = self.most_scores + 3 * self.most_sums * (d + 2)
        found_bytes = n * self.n_found * (len(self.stages) + len(self.begun) + 1)
        check_memory(
            f"beam_size={beam_size}, which keeps up to {self.most_sums} sums of each "
            f"of {n} rows,",
            size * (self.tile_rows(n) * per_row + found_bytes),
            size * n * d,
        )

    def _prepare(
        self, codebook: Any, bias: Any, width: Any, keep: Any, weight: Any, ahead: Any
    ) -> Stage:
        core = make_core(codebook, self.dtype, self.scale)
        rows, first, constants = core.rows, core.first, core.half_norms
        exact = None
        if self.dtype == np.float64:
            exact = codebook if first is None else codebook[first]
            exact = exact.astype(np.float64) * self.scale
        if bias is not None:
            bias, best = distinct_bias(codebook, first, bias)
            kept = np.isfinite(bias)
            rows, first, bias = rows[kept], best[kept], bias[kept]
            exact = None if exact is None else exact[kept]
            constants = constants[kept] + 0.5 * bias / (weight + ahead)
        ones = np.ones(len(rows))
        weights = np.concatenate([-rows.T, constants[None], ones[None]])
        centre = core.centre.astype(np.float64) * self.scale
        return Stage(
            weights.astype(self.dtype, order="C"),
            rows.astype(self.dtype, order="C"),
            centre.astype(self.dtype) if centre.any() else None,
            first,
            bias,
            Margin.of(rows.shape[1], self.dtype),
            exact,
            min(keep, width * len(rows)),
            float(weight),
            float(ahead),
        )


def common_scale(codebooks: Any, dtype: Any) -> float:
    """Return 1, or the power of two that brings extraordinary tables near 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        spreads = [
            float(np.abs(table - table.mean(axis=0, dtype=np.float64)).max(initial=0.0))
            for table in codebooks
        ]
    return power_of_two_scale(max(spreads), dtype)


def nearest_best(
    be: Backend, X: Any, begun: Any, tables: Tables, options: Any
) -> tuple[Any, ...]:
    """Return codes, and distances or None; see `skvq.nearest.nearest_best`."""
    dtype = np.result_type(compute_dtype(be.numpy_dtype(X)), tables.dtype)
    search, here = _prepared(be, tables, begun.shape[1], begun.shape[2], options, dtype)
    search.check_memory(*X.shape, options.beam_size)
    per_row = 2 * search.most_scores + 4 * search.most_sums * X.shape[1]
    chunk = search.tile_rows(X.shape[0], be)
    plan = Plan(chunk, per_row, search.work, be.is_compiled)
    shape, wanted = (search.n_found, len(tables)), be.code_dtype(options.dtype)
    outputs = [(shape, wanted), ((), np.uint8), (shape[:1], np.float64)]

    def tile(rows: slice) -> tuple[Any, ...]:
        return _tile(be, X[rows, :], begun[rows, ...], search, here, options.distances)

    outputs = outputs[: 2 + options.distances]
    codes, state, *found = be.over_rows(X.shape[0], plan, tile, outputs)
    again = partial(_again, be, begun, tables, options, search.limit)
    exact = partial(exact_errors, tables, search.weights, search.scale)
    codes, *found = finished(be, X, codes, state, found, again, exact)
    if options.distances:
        check_finite(be, found[0], "codebooks")
    return codes, found[0] if options.distances else None


def _prepared(
    be: Backend, tables: Any, n_sums: int, n_begun: int, options: Any, dtype: Any
) -> tuple[Any, ...]:
    """Return the prepared stages, and tables and stages on the device."""

    def make() -> tuple[Any, ...]:
        search = PreparedStages(tables, n_sums, n_begun, options, dtype)
        begun = [
            (be.send(rows), None if bias is None else be.send(bias))
            for rows, bias in zip(search.begun, search.begun_biases, strict=True)
        ]
        stages = [be.sent(stage, "stage") for stage in search.stages]
        if n_sums == 1 and not begun:
            search.products = be.products(search, stages, tables)
        return search, (begun, stages)

    if options.biases is not None or options.stage_weights is not None:
        return make()
    asked = n_sums, n_begun, options.beam_size, options.n_best
    return tables.form(("beam", dtype, be.key, *asked), make)


def _again(
    be: Backend, begun: Any, tables: Any, options: Any, limit: Any, x: Any, rows: slice
) -> tuple[Any, ...]:
    """Search some rows again, on the host and with care."""
    check_reach(x, limit)
    x, given = x.astype(np.float64), be.to_host(be.take(begun, rows))
    shape = given.shape[1:]
    n_sums, n_begun = shape
    search, here = _prepared(CAREFUL, tables, n_sums, n_begun, options, x.dtype)
    step = search.tile_rows(len(x))
    cuts = [slice(low, low + step) for low in range(0, len(x), step)]
    parts = [_tile(CAREFUL, x[cut], given[cut], search, here, False) for cut in cuts]
    codes = np.concatenate([codes for codes, _ in parts])
    if not options.distances:
        return (codes,)
    return codes, exact_errors(tables, search.weights, search.scale, x, codes)


def _tile(
    be: Backend, x: Any, begun: Any, search: PreparedStages, here: Any, distances: bool
) -> tuple[Any, ...]:
    """Return codes and state of a tile, and the distances if they are asked for."""
    n, b = begun.shape[:2]
    begun_tables, stages = here
    rest = be.residuals(be.cast(x, search.dtype), b, search)
    loss: Any = be.zeros((n, b)) if search.weighted or search.biased else None
    plain = loss  # the loss without the biases
    reach = []  # squared norms on the way
    for j, (rows, bias) in enumerate(begun_tables):
        own = be.cast(begun[:, :, j], np.intp)
        rest.subtract(rows, own)
        if distances:
            reach.append(be.xp.max(rest.norms(), axis=1))
        if search.weighted:
            error = float(search.begun_weights[j]) * rest.norms()
            loss, plain = loss + error, plain + error
        if bias is not None:
            loss = loss + be.look_up(bias, own)
    parents, chosen, state = [], [], be.zeros((n,), np.uint8)
    for j, stage in enumerate(stages):
        if stage.centre is not None:
            rest.shift(stage.centre)
        parent, code, doubt = rest.choose(loss, stage)
        parents.append(parent)
        chosen.append(code)
        last = j == len(stages) - 1
        if distances:
            reach.append(rest.most)
        if not last or distances or stage.width > 1:
            rest.advance(parent, code, stage)
        if stage.width > 1:
            doubt = rest.doubtful(stage)
        state = be.xp.maximum(state, doubt)
        if not last or distances:
            if loss is not None:
                loss, plain = (be.take_along(each, parent) for each in (loss, plain))
            if search.weighted:
                error = stage.weight * rest.norms()
                loss, plain = loss + error, plain + error
            if stage.bias is not None:
                loss = loss + be.look_up(stage.bias, code)
    codes = _traced_back(be, begun, parents, chosen, stages)
    if not distances:
        return codes, state
    total = plain if search.weighted else rest.norms()
    most = reduce(be.xp.maximum, reach) + search.shifted
    state = be.xp.maximum(state, coarse(be, x, total, most, search.weights.sum()))
    return codes, state, total / search.scale / search.scale


def coarse(be: Backend, x: Any, errors: Any, reach: Any, weight: float = 1.0) -> Any:
    """Return the state of rows by what their errors have lost to rounding.

    Parameters
    ----------
    be : Backend
        Of the arrays.
    x : array of shape (n_rows, n_features)
        The rows.
    errors : array of shape (n_rows, n_sums)
        Squared distances, or sums of them by weight.
    reach : array of shape (n_rows,)
        The largest that has been rounded on the way, squared.
    weight : float, default=1
        Sum of the weights.
    """
    # Twice the deviation of the rounding is some 16 units then: that of independent
    # errors, which less and less agree with the gaps, the more features there are.
    share = float(weight) / (32 * max(1, min(x.shape[1], 8)))
    least = errors[:, 0] if errors.shape[1] == 1 else be.xp.min(errors, axis=1)
    return be.cast(~(least > share * reach), np.uint8) * COARSE


def exact_errors(
    tables: Tables, weights: Any, scale: float, x: Any, codes: Any
) -> np.ndarray:
    """Return the errors of sums, (n_rows, n_sums), from what was given, on the host.

    Parameters
    ----------
    tables : Tables
        The codebooks.
    weights : ndarray of shape (n_codebooks,)
        Of the squared distances from the partial sums.
    scale : float
        By which squares stay in range.
    x : ndarray of shape (n_rows, n_features)
        Rows, as given.
    codes : ndarray of shape (n_rows, n_sums, n_codebooks)
        Of the sums.
    """
    found = np.zeros(codes.shape[:2])
    step = max(1, _EXACT_ELEMENTS // (codes.shape[1] * x.shape[1]))
    for start in range(0, len(x), step):
        cut = slice(start, start + step)
        high, low = x[cut, None, :].astype(np.float64) * scale, 0.0
        for j, weight in enumerate(weights.tolist()):
            rows = tables[j].codewords[codes[cut, :, j]].astype(np.float64)
            high, low = less(high, low, rows * scale)
            if weight:
                found[cut] += weight * CAREFUL.squared_norms(high + low)
    return found / scale / scale


def _traced_back(
    be: Backend, begun: Any, parents: Any, chosen: Any, stages: Any
) -> Any:
    """Follow the kept sums back to the first table."""
    at, columns = None, []

    def traced(array: Any) -> Any:
        alone = at is None or at.shape[1] == array.shape[1] == 1
        return array if alone else be.take_along(array, at)

    for parent, code, stage in zip(
        reversed(parents), reversed(chosen), reversed(stages), strict=True
    ):
        code, parent = traced(code), traced(parent)
        if stage.first is not None:
            code = be.look_up(stage.first, code)
        columns.append(be.cast(code, np.intp)[:, :, None])
        at = parent
    return be.concat([be.cast(traced(begun), np.intp), *reversed(columns)], axis=2)
