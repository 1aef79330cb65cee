"""One codebook for all scales of a pyramid, and its convolutions.

k-means over the tokens of all scales has no objective here: a codeword that moves for
one scale changes what all later ones see.  For given codes, though, the reconstruction
is linear in the codewords, and in the convolutions, so that the squared error of all
samples has its minimum where a linear system is solved.  Its matrix, interpolation
times one-hot codes, is applied and never built: conjugate gradients.  Coding anew after
that may raise the error again; then a part of the step is taken, or none, so that no
round ends worse than it began.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from skvq import nearest
from skvq._arrays import (
    average,
    in_dtype,
    join,
    look_up,
    repeat,
    reshape,
    squared_norms,
    take_rows,
    to_host,
    zeros,
)
from skvq.coding.pyramid import Pyramid, Smoothing, windows
from skvq.learning.cells import repair_empty
from skvq.learning.rows import Rows, run
from skvq.learning.start import k_means

# Parts of a step that are tried in turn.
_STEPS = (1.0, 0.5, 0.25, 0.125)
# The ridge towards the tables at hand, as a share of the diagonal.
_RIDGE = 1e-2
_MAX_GRADIENTS = 12
_ENOUGH = 1e-4  # of the squared length of the first gradient
_START_ITERATIONS = 10
# Tokens that starts and repairs look at, for each codeword.
_TOKENS_PER_CODEWORD = 256


class LearnedPyramid(NamedTuple):
    """What was learned."""

    table: np.ndarray  # (V, C)
    smoothing: Smoothing | None
    n_iter: int


class Samples(NamedTuple):
    """Flattened maps, and their weights; of any library."""

    X: np.ndarray
    weights: np.ndarray | None

    def mean(self, values: np.ndarray) -> float:
        """Average over samples."""
        return average(values, self.weights)


class _State(NamedTuple):
    """A table, a pyramid, and what they make of the samples."""

    table: np.ndarray
    pyramid: Pyramid
    codes: np.ndarray
    rest: np.ndarray
    error: float


def _encoded(samples: Samples, pyramid: Pyramid, table: np.ndarray) -> _State:
    codes, rest = pyramid.encode(samples.X, table)
    return _State(table, pyramid, codes, rest, samples.mean(squared_norms(rest)))


def _counts(codes, n_codewords: int, mass=None) -> np.ndarray:
    """Return how often, or with what weight, each codeword is used; on the host."""
    codes = reshape(codes, (-1,))
    return to_host(nearest.accumulate(codes[:, None], codes, n_codewords, mass)[1])


def learn(
    samples: Samples,
    pyramid: Pyramid,
    table: np.ndarray,
    rng: np.random.RandomState,
    *,
    max_iter: int,
    tol: float,
) -> LearnedPyramid:
    """Alternate between codes and least squares.

    Parameters
    ----------
    samples : Samples
        What to learn from.
    pyramid : Pyramid
        Scales, and the first convolutions, if any.
    table : ndarray of shape (V, C)
        The start; its first row is zero and stays so.
    rng : RandomState
        Chooses the samples that repairs look at.
    max_iter : int
        Largest number of rounds.
    tol : float
        Stop when a round lowers the error by this share of it or less.

    Returns
    -------
    LearnedPyramid
        Never worse on the samples than the start.
    """
    state = _encoded(samples, pyramid, table)
    n_iter = 0
    while n_iter < max_iter and state.error > 0:
        n_iter += 1
        before = state.error
        state = _repaired(samples, state, rng)
        state = _better_table(samples, state)
        smoothing = state.pyramid.smoothing
        if smoothing is not None:
            state = _better_kernels(samples, state, smoothing)
        if before - state.error <= tol * before:
            break
    return LearnedPyramid(state.table, state.pyramid.smoothing, max(n_iter, 1))


def _better_table(samples: Samples, state: _State) -> _State:
    """Step towards the best codewords for the codes, as far as it helps."""
    step = _table_step(samples, state)
    for share in _STEPS:
        table = (state.table + share * step).astype(state.table.dtype)
        candidate = _encoded(samples, state.pyramid, table)
        if candidate.error < state.error:
            return candidate
    return state


def _table_step(samples: Samples, state: _State) -> np.ndarray:
    """Solve for the change of the codewords, by conjugate gradients."""
    pyramid, codes = state.pyramid, state.codes
    size = len(state.table)
    diagonal = np.zeros(size)
    for scale, span in enumerate(pyramid.columns()):
        mass = samples.weights
        if mass is not None:
            mass = repeat(mass, pyramid.n_tokens[scale], axis=0)
        diagonal += pyramid.gain(scale) * _counts(codes[:, span], size, mass)
    diagonal[0] = 0  # the codeword that stays zero
    free = diagonal > 0
    inverse = np.zeros((size, 1))
    inverse[free, 0] = 1 / diagonal[free]
    ridge = _RIDGE * diagonal[:, None]

    rest = _gathered(samples, state, lambda rows: state.rest[rows, :])
    step = np.zeros_like(rest)
    direction = inverse * rest
    energy = float(np.sum(rest * direction))
    enough = _ENOUGH * energy
    for _ in range(_MAX_GRADIENTS):
        if not energy > enough:
            break
        table = direction.astype(pyramid.dtype)
        image = _gathered(
            samples, state, lambda rows, t=table: pyramid.decode(codes[rows, :], t)
        )
        image[~free] = 0
        image += ridge * direction
        length = energy / float(np.sum(image * direction))
        step += length * direction
        rest -= length * image
        scaled = inverse * rest
        new = float(np.sum(rest * scaled))
        direction = scaled + new / energy * direction
        energy = new
    return step


def _gathered(samples: Samples, state: _State, flat_maps) -> np.ndarray:
    """Return for each codeword the sum of maps as the tokens that use it see them.

    Parameters
    ----------
    samples, state
        Weights, codes and pyramid.
    flat_maps : callable
        Returns the flattened maps of a slice of rows.

    Returns
    -------
    sums : ndarray of shape (V, C)
    """
    pyramid, codes = state.pyramid, state.codes
    total = np.zeros(state.table.shape)

    def work(rows: slice, _) -> list[np.ndarray]:
        maps = reshape(flat_maps(rows), (-1, *pyramid.map_shape))
        weights = None if samples.weights is None else samples.weights[rows]
        sums = []
        for scale, span in enumerate(pyramid.columns()):
            tokens = pyramid.grow_transposed(maps, scale)
            tokens = reshape(tokens, (-1, pyramid.n_channels))
            mass = None
            if weights is not None:
                mass = repeat(weights, pyramid.n_tokens[scale], axis=0)
            flat = reshape(codes[rows, span], (-1,))
            sums.append(to_host(nearest.accumulate(tokens, flat, len(total), mass)[0]))
        return sums

    with nearest.single_threaded_blas():
        for sums in pyramid.over_tiles(samples.X, work):
            for each in sums:
                total += each
    return total


# -- convolutions ----------------------------------------------------------------------


def _better_kernels(samples: Samples, state: _State, smoothing: Smoothing) -> _State:
    """Step towards the best convolutions for the codes, as far as it helps."""
    step = _kernel_step(samples, state, smoothing)
    for share in _STEPS:
        kernels = smoothing.kernels + share * step
        pyramid = Pyramid(
            state.pyramid.map_shape,
            state.pyramid.scales,
            state.pyramid.dtype,
            smoothing._replace(kernels=kernels),
        )
        candidate = _encoded(samples, pyramid, state.table)
        if candidate.error < state.error:
            return candidate
    return state


def _kernel_step(samples: Samples, state: _State, smoothing: Smoothing) -> np.ndarray:
    """Solve for the change of all convolutions at once: ordinary least squares."""
    pyramid = state.pyramid
    kernels = smoothing.kernels
    n_kernels, *size, n_channels, _ = kernels.shape
    width = n_kernels * size[0] * size[1] * n_channels
    gram, moments = np.zeros((width, width)), np.zeros((width, n_channels))

    def work(rows: slice, maps) -> tuple[np.ndarray, np.ndarray]:
        own_dtype = in_dtype(maps[:0, ...], pyramid.dtype).dtype
        sums = [zeros(tuple(maps.shape), maps, own_dtype)] * n_kernels
        for scale, span in enumerate(pyramid.columns()):
            tokens = look_up(state.table, state.codes[rows, span])
            k = smoothing.of_scale[scale]
            sums[k] = sums[k] + pyramid.interpolate(tokens, scale)
        seen = join([part for one in sums for part in windows(one, size)], axis=3)
        seen = in_dtype(reshape(seen, (-1, width)), np.dtype(np.float64))
        seen = smoothing.rho * seen
        rest = reshape(state.rest[rows, :], (-1, n_channels))
        rest = in_dtype(rest, np.dtype(np.float64))
        heavy = seen
        if samples.weights is not None:
            n_places = seen.shape[0] // maps.shape[0]
            heavy = seen * repeat(samples.weights[rows], n_places, axis=0)[:, None]
        return to_host(heavy.T @ seen), to_host(heavy.T @ rest)

    with nearest.single_threaded_blas():
        copies = n_kernels * size[0] * size[1]
        for squares, products in pyramid.over_tiles(samples.X, work, copies):
            gram += squares
            moments += products
        # Places of the window that see nothing but zeros keep their weights.
        diagonal = gram.diagonal()
        gram.flat[:: width + 1] += _RIDGE * diagonal + 1e-12 * diagonal.max() + 1e-300
        step = scipy.linalg.solve(gram, moments, assume_a="pos", check_finite=False)
    return step.reshape(kernels.shape)


# -- starts and repairs ----------------------------------------------------------------


def greedy_start(
    samples: Samples,
    pyramid: Pyramid,
    n_codewords: int,
    init: str,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Return the zero codeword, and a small table of each scale, one after the other.

    Parameters
    ----------
    samples : Samples
        What to learn from.
    pyramid : Pyramid
        The scales.
    n_codewords : int
        V.
    init : str
        Start of each small table.
    rng : RandomState
        Chooses tokens to look at, and starts.

    Returns
    -------
    table : ndarray of shape (V, C)
    """
    X, weights = _some_rows(samples, pyramid, n_codewords, rng)
    zero = np.zeros((1, pyramid.n_channels), dtype=pyramid.dtype)
    tables = [zero]
    rest = X.astype(pyramid.dtype).reshape(-1, *pyramid.map_shape)
    shares = np.array_split(np.arange(n_codewords - 1), len(pyramid.scales))
    # Where there are fewer codewords than scales, the last ones have most tokens.
    for scale, share in enumerate(sorted(shares, key=len)):
        tokens = pyramid.shrink(rest, scale).reshape(-1, pyramid.n_channels)
        mass = None if weights is None else np.repeat(weights, pyramid.n_tokens[scale])
        if len(share):
            rows = Rows(tokens, mass)
            small = k_means(rows, len(share), rng, _START_ITERATIONS, init=init)
            tables.append(run(small))
        table = np.concatenate([zero, tables[-1]])
        found, _ = nearest.nearest(tokens, table, return_distances=False)
        rest = rest - pyramid.grow(table[found.reshape(len(X), -1)], scale)
    return np.concatenate(tables)


def start_from_few(samples, pyramid, n_codewords: int, rng) -> np.ndarray:
    """Return a start without chance, for samples of fewer tokens than codewords.

    Parameters
    ----------
    samples, pyramid, n_codewords, rng
        As in `greedy_start`.

    Returns
    -------
    table : ndarray of shape (V, C)
        On a grid, so that codewords that are equal but for rounding are equal: the
        last scales of such samples have nothing but rounding to code; and sorted.
    """
    table = greedy_start(samples, pyramid, n_codewords, "splitting", rng)
    digits = np.finfo(table.dtype).nmant * 2 // 3
    largest = int(np.frexp(np.abs(table).max(initial=0.0))[1])
    table = np.ldexp(np.rint(np.ldexp(table, digits - largest)), largest - digits)
    order = np.lexsort(table[1:].T[::-1])
    return np.concatenate([table[:1], table[1:][order]])


def _some_rows(samples: Samples, pyramid: Pyramid, n_codewords: int, rng):
    """Return enough rows of X for a table, with their weights, on the host."""
    X, weights = samples
    most = max(n_codewords * _TOKENS_PER_CODEWORD // pyramid.n_tokens[-1], 256)
    if X.shape[0] > most:
        rows = np.sort(rng.choice(X.shape[0], most, replace=False))
        X = take_rows(X, rows)
        weights = None if weights is None else take_rows(weights, rows)
    return to_host(X), None if weights is None else to_host(weights)


def _repaired(samples: Samples, state: _State, rng) -> _State:
    """Give unused codewords halves of the heaviest cells, if that helps."""
    used = _counts(state.codes, len(state.table)) > 0
    used[0] = True
    if used.all():
        return state
    pyramid = state.pyramid
    X, weights = _some_rows(samples, pyramid, len(used), rng)
    tokens, codes, masses = [], [], []
    rest = X.astype(pyramid.dtype).reshape(-1, *pyramid.map_shape)
    for scale, n_tokens in enumerate(pyramid.n_tokens):
        seen = pyramid.shrink(rest, scale).reshape(-1, pyramid.n_channels)
        found, _ = nearest.nearest(seen, state.table, return_distances=False)
        tokens.append(seen)
        codes.append(found)
        mass = np.ones(len(X)) if weights is None else weights
        masses.append(pyramid.gain(scale) * np.repeat(mass, n_tokens))
        rest = rest - pyramid.grow(state.table[found.reshape(len(X), -1)], scale)
    table = repair_empty(
        np.concatenate(tokens),
        np.concatenate(codes),
        state.table,
        np.concatenate(masses),
    )
    table[0] = 0
    candidate = _encoded(samples, pyramid, table)
    return candidate if candidate.error < state.error else state
