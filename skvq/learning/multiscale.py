"""The codebook that all scales of a pyramid share, and its convolutions.

k-means over the tokens of all scales minimises nothing here: a codeword that moves for
one scale changes what all later scales see.  For given codes, however, the
reconstruction is linear in the codewords and in the convolutions, so the squared error
of all samples is least where a linear system is solved.  Its matrix, interpolation
times one-hot codes, is applied by conjugate gradients and never built.  Encoding anew
may then raise the error again; if so, only a part of the step is taken, or none.  So no
round ends worse than it began.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from skvq import nearest
from skvq.codes import smallest_dtype
from skvq.coding.pyramid import Pyramid, Smoothing, windows
from skvq.learning.cells import repair_empty
from skvq.learning.random_rows import some_rows
from skvq.learning.rows import Block, Learner, Rows, add, everything
from skvq.learning.start import k_means

# Fractions of a step, tried in turn.
_STEPS = (1.0, 0.5, 0.25, 0.125)
# Strength of the ridge towards the current tables, as a share of the diagonal.
_RIDGE = 1e-2
_MAX_GRADIENTS = 12
_ENOUGH = 1e-4  # end at this share of the first gradient's squared length
_START_ITERATIONS = 10
# Number of tokens per codeword that starts and repairs look at.
_TOKENS_PER_CODEWORD = 256


class LearnedPyramid(NamedTuple):
    """The result of learning a pyramid."""

    table: np.ndarray  # (V, C)
    pyramid: Pyramid
    n_iter: int
    distortion: float | None  # weighted mean error of the samples; None: not known


class _State(NamedTuple):
    """A table, a pyramid, and their statistics over the samples."""

    table: np.ndarray
    pyramid: Pyramid
    codes: Any  # state of the rows, (n_rows, n_tokens)
    pull: (
        np.ndarray
    )  # (V, C), sum of what is left, as the tokens of each codeword see it
    mass: np.ndarray  # (V,), weighted squared norms of what one unit of each grows to
    error: float


def _encoded(rows: Rows, pyramid: Pyramid, table: np.ndarray) -> Learner[_State]:
    (error, weight, pull, mass), codes = yield rows.fold(
        _encode, pyramid, nearest.Table(table), keep=True
    )
    return _State(table, pyramid, codes, pull, mass, float(error / weight))


def _encode(block: Block, pyramid: Pyramid, table: nearest.Table) -> tuple[Any, ...]:
    be = block.be
    dtype = be.code_dtype(smallest_dtype(len(table)))
    codes, rest = pyramid.encode(block.x, table, dtype)
    error = be.xp.sum(block.weighted(be.squared_norms(rest)))
    pulled = _pulled(block, pyramid, codes, len(table), lambda rows: rest[rows, :])
    return (error, block.host_weights().sum(), *pulled), (codes,)


def _pulled(
    block: Block,
    pyramid: Pyramid,
    codes: Any,
    size: int,
    maps_of: Callable[[slice], Any],
) -> tuple[Any, ...]:
    """Return sums of maps as the tokens of each codeword see them, and their masses."""
    be = block.be

    def tile(rows: slice) -> tuple[Any, ...]:
        maps = be.xp.reshape(maps_of(rows), (-1, *pyramid.map_shape))
        found: list[tuple[Any, ...]] = []
        for scale, tokens in enumerate(pyramid.grow_transposed(maps)):
            own = be.cast(codes[rows, pyramid.columns[scale]], np.intp)
            weights = block.w
            if weights is not None:
                weights = be.repeat(weights[rows], pyramid.n_tokens[scale], 0)
            tokens = be.xp.reshape(tokens, (-1, pyramid.n_channels))
            own = be.xp.reshape(own, (-1,))
            sums, counts = be.cell_sums(tokens, own, size, weights)
            found.append((sums, pyramid.gains[scale] * counts))
        return reduce(add, found)

    return _over_tiles(block, 1, tile)


def _over_tiles(
    block: Block, copies: int, tile: Callable[[slice], tuple[Any, ...]]
) -> tuple[Any, ...]:
    """Add up the results of `tile` for tiles of rows, of which it makes some copies."""
    with nearest.single_threaded_blas():
        elements = copies * block.x.shape[1]
        return reduce(add, block.be.tiles(block.n_rows, elements, tile))


def learn(
    rows: Rows,
    pyramid: Pyramid,
    table: np.ndarray,
    rng: np.random.RandomState,
    *,
    max_iter: int,
    tol: float,
) -> Learner[LearnedPyramid]:
    """Alternate between encoding and least squares.

    Parameters
    ----------
    rows : Rows
        Flattened maps.
    pyramid : Pyramid
        The scales, and the first convolutions, if any.
    table : ndarray of shape (V, C)
        The first table; its first row is zero and stays so.
    rng : RandomState
        Chooses the samples that repairs look at.
    max_iter : int
        The most rounds.
    tol : float
        Stop when a round lowers the error by at most this share of it.

    Returns
    -------
    LearnedPyramid
        Its error on the samples is never above that of the start.
    """
    state = yield from _encoded(rows, pyramid, table)
    n_iter = 0

    def learned() -> LearnedPyramid:
        return LearnedPyramid(state.table, state.pyramid, max(n_iter, 1), state.error)

    while n_iter < max_iter and state.error > 0:
        n_iter += 1
        task = rows.task.begin("iteration")
        before = state.error
        state = yield from _repaired(rows, state, rng)
        state = yield from _better_table(rows, state)
        smoothing = state.pyramid.smoothing
        if smoothing is not None:
            state = yield from _better_kernels(rows, state, smoothing)
        if task.end(learned) or before - state.error <= tol * before:
            break
    return learned()


def _better_table(rows: Rows, state: _State) -> Learner[_State]:
    """Step towards the best codewords for the codes, while it helps."""
    step = yield from _table_step(rows, state)
    for share in _STEPS:
        table = (state.table + share * step).astype(state.table.dtype)
        candidate = yield from _encoded(rows, state.pyramid, table)
        if candidate.error < state.error:
            return candidate
    return state


def _table_step(rows: Rows, state: _State) -> Learner[np.ndarray]:
    """Solve for the change of the codewords, by conjugate gradients."""
    pyramid, codes, diagonal = state.pyramid, state.codes, state.mass[:, None].copy()
    diagonal[0] = 0  # this codeword stays zero
    inverse = np.divide(1, diagonal, where=diagonal > 0, out=np.zeros_like(diagonal))

    rest, step = state.pull, np.zeros_like(state.pull)
    direction = inverse * rest
    energy = float(np.sum(rest * direction))
    enough = _ENOUGH * energy
    for _ in range(_MAX_GRADIENTS):
        if not energy > enough:
            break
        table = nearest.Table(direction.astype(pyramid.dtype))
        (image,) = yield rows.fold(_image, pyramid, table, state=codes)
        image += _RIDGE * diagonal * direction
        length = energy / float(np.sum(image * direction))
        step += length * direction
        rest = rest - length * image
        scaled = inverse * rest
        new = float(np.sum(rest * scaled))
        direction = scaled + new / energy * direction
        energy = new
    return step


def _image(block: Block, pyramid: Pyramid, table: nearest.Table) -> tuple[Any, ...]:
    """Return reconstructions' images as the tokens of each codeword see them."""
    (codes,) = block.state

    def maps(rows: slice) -> Any:
        grown = pyramid.interpolated(codes[rows, :], table).items()
        return sum(pyramid.smooth(one, k) for k, one in grown)

    return _pulled(block, pyramid, codes, len(table), maps)[:1]


# -- convolutions ----------------------------------------------------------------------


def _better_kernels(rows: Rows, state: _State, smoothing: Smoothing) -> Learner[_State]:
    """Step towards the best convolutions for the codes, while it helps."""
    step = yield from _kernel_step(rows, state, smoothing)
    for share in _STEPS:
        kernels = smoothing.kernels + share * step
        pyramid = state.pyramid.with_smoothing(smoothing._replace(kernels=kernels))
        candidate = yield from _encoded(rows, pyramid, state.table)
        if candidate.error < state.error:
            return candidate
    return state


def _kernel_step(
    rows: Rows, state: _State, smoothing: Smoothing
) -> Learner[np.ndarray]:
    """Solve for the change of all convolutions at once: ordinary least squares."""
    table = nearest.Table(state.table)
    gram, moments = yield rows.fold(
        _equations, state.pyramid, smoothing, table, state=state.codes
    )
    # Places of the window that see only zeros keep their weights.
    diagonal = gram.diagonal()
    ridge = _RIDGE * diagonal + 1e-12 * diagonal.max() + 1e-300
    with nearest.single_threaded_blas():
        step = scipy.linalg.solve(
            gram + np.diag(ridge), moments, assume_a="pos", check_finite=False
        )
    return step.reshape(smoothing.kernels.shape)


def _equations(
    block: Block, pyramid: Pyramid, smoothing: Smoothing, table: nearest.Table
) -> tuple[Any, ...]:
    """Return the matrix and the right side of the system for all convolutions."""
    be, xp, kernels = block.be, block.be.xp, smoothing.kernels
    n_kernels, *size, n_channels, _ = kernels.shape
    width = n_kernels * size[0] * size[1] * n_channels
    flat = be.send(kernels.reshape(width, n_channels).astype(np.float64))

    def tile(rows: slice) -> tuple[Any, ...]:
        x, codes = block.x[rows, :], block.state[0][rows, :]
        maps = xp.reshape(x, (x.shape[0], *pyramid.map_shape))
        sums = pyramid.interpolated(codes, table)
        one_each = [sums.get(k, xp.zeros_like(maps)) for k in range(n_kernels)]
        seen = be.concat([part for one in one_each for part in windows(one, size)], 3)
        seen = be.cast(xp.reshape(seen, (-1, width)), np.float64)
        rest = maps - (1 - smoothing.rho) * sum(sums.values())
        rest = be.cast(xp.reshape(rest, (-1, n_channels)), np.float64)
        seen = smoothing.rho * seen
        rest, heavy = rest - xp.matmul(seen, flat), seen
        if block.w is not None:
            n_places = seen.shape[0] // x.shape[0]
            heavy = seen * be.repeat(block.w[rows], n_places, 0)[:, None]
        return xp.matmul(heavy.T, seen), xp.matmul(heavy.T, rest)

    return _over_tiles(block, n_kernels * size[0] * size[1], tile)


# -- starts and repairs ----------------------------------------------------------------


def greedy_start(
    rows: Rows,
    pyramid: Pyramid,
    n_codewords: int,
    init: str,
    rng: np.random.RandomState,
) -> Learner[np.ndarray]:
    """Return the zero codeword followed by a small table for each scale, in order.

    Parameters
    ----------
    rows : Rows
        Flattened maps; if they are many, the start looks at some of them.
    pyramid : Pyramid
        The scales.
    n_codewords : int
        V.
    init : str
        How each small table is initialised.
    rng : RandomState
        Chooses tokens to look at, and starts.

    Returns
    -------
    table : ndarray of shape (V, C)
    """
    rest, weights = yield from _some_maps(rows, pyramid, n_codewords, rng)
    zero = np.zeros((1, pyramid.n_channels), dtype=pyramid.dtype)
    tables = [zero]
    shares = np.array_split(np.arange(n_codewords - 1), len(pyramid.scales))
    # With fewer codewords than scales, the last scales get one: they have most tokens.
    for scale, share in enumerate(sorted(shares, key=len)):
        tokens = pyramid.shrink(rest, scale).reshape(-1, pyramid.n_channels)
        if len(share):
            heavy = np.repeat(weights, pyramid.n_tokens[scale])
            small = k_means(
                Rows(tokens, heavy), len(share), rng, _START_ITERATIONS, init=init
            )
            tables.append((yield from small))
        table = nearest.Table(np.concatenate([zero, tables[-1]]))
        _, rest = pyramid.coded(rest, table, scale)
    return np.concatenate(tables)


def start_from_few(
    rows: Rows, pyramid: Pyramid, n_codewords: int, rng: np.random.RandomState
) -> Learner[np.ndarray]:
    """Return a deterministic start, for samples with fewer tokens than codewords.

    Parameters
    ----------
    rows, pyramid, n_codewords, rng
        As in `greedy_start`.

    Returns
    -------
    table : ndarray of shape (V, C)
        Sorted, and rounded to a grid so that codewords that differ only by rounding are
        equal: the last scales of such samples have only rounding errors to code.
    """
    table = yield from greedy_start(rows, pyramid, n_codewords, "splitting", rng)
    digits = np.finfo(table.dtype).nmant * 2 // 3
    largest = int(np.frexp(np.abs(table).max(initial=0.0))[1])
    table = np.ldexp(np.rint(np.ldexp(table, digits - largest)), largest - digits)
    order = np.lexsort(table[1:].T[::-1])
    return np.concatenate([table[:1], table[1:][order]])


def _some_maps(
    rows: Rows, pyramid: Pyramid, n_codewords: int, rng: np.random.RandomState
) -> Learner[tuple[np.ndarray, np.ndarray]]:
    """Return enough maps for a table, with their weights, on the host."""
    most = max(n_codewords * _TOKENS_PER_CODEWORD // pyramid.n_tokens[-1], 1024)
    some = yield from some_rows(rows, most, rng)
    X, weights = yield some.gather(everything, most=some.n_rows)
    return X.reshape(-1, *pyramid.map_shape), weights


def _repaired(rows: Rows, state: _State, rng: np.random.RandomState) -> Learner[_State]:
    """Give unused codewords halves of the heaviest cells, if that lowers the error."""
    if (state.mass[1:] > 0).all():
        return state
    pyramid, table = state.pyramid, nearest.Table(state.table)
    rest, weights = yield from _some_maps(rows, pyramid, len(table), rng)
    tokens, codes, masses = [], [], []
    for scale, n_tokens in enumerate(pyramid.n_tokens):
        tokens.append(pyramid.shrink(rest, scale).reshape(-1, pyramid.n_channels))
        found, rest = pyramid.coded(rest, table, scale)
        codes.append(found.ravel())
        masses.append(pyramid.gains[scale] * np.repeat(weights, n_tokens))
    seen, own, mass = map(np.concatenate, (tokens, codes, masses))
    repaired = repair_empty(seen, own, state.table, mass)
    if repaired is state.table:
        return state
    repaired[0] = 0
    candidate = yield from _encoded(rows, pyramid, repaired)
    return candidate if candidate.error < state.error else state
