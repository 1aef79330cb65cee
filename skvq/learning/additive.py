r"""Tables whose codewords add up: learned together, or each in a subspace of its own.

**Joint.**  A code is a choice of one codeword from each table, the nearest sum to the
sample among those that a beam search and iterated conditional modes come across.  The
tables start as those of a residual quantizer and are then learned in rounds: encode all
samples anew, solve for all tables at once by least squares with a ridge towards the
tables at hand (Babenko and Lempitsky 2014; Martinez et al. 2018).  Few samples per
codeword would fit noise, so that rows held out of the rounds choose the strength of the
ridge, and whether there are any rounds at all.

**Independent.**  Each code is the nearest codeword of its own table to the sample, so
tables that reconstruct together must not repeat each other: they lie in subspaces of
their own, of a product quantizer in some rotation.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from skvq import nearest
from skvq._arrays import (
    average,
    column_means,
    in_dtype,
    join,
    join_columns,
    largest_magnitude,
    like,
    look_up,
    numpy_dtype,
    take_rows,
    times_power,
    to_host,
)
from skvq.learning.joint import hold_out
from skvq.learning.least_squares import NormalEquations, normal_equations, ridge
from skvq.learning.rotation import (
    Rotated,
    balanced_order,
    improve_rotation,
    principal_axes,
    turn,
)
from skvq.learning.rows import Rows, run
from skvq.learning.start import k_means

# Up to so many sums, all are compared: as fast as a beam, and exact.
MAX_EXHAUSTIVE = 4096

# Of the starts in rotated slices, of which the best is improved.
_STAGE_ITERATIONS = 10
_STAGE_TOL = 1e-3
# Turns of the best of these, as a multiple of those that each of them gets: before its
# tables are learned anew, and after.
_MORE_TURNS = 5

# Strengths of the ridge, in mean weights of a codeword, from weak to strong.
_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_HELD_OUT_SHARE = 0.2
_MAX_HELD_OUT = 4096
_MIN_HELD_OUT = 8
# Where more than this is held out, all is learned again with all samples.
_MAX_LOST_SHARE = 0.05


class Search(NamedTuple):
    """How hard codes are searched for."""

    beam_size: int
    n_rounds: int  # of iterated conditional modes, after the beam
    seed: int = 0  # of their schedule


Start = Callable[
    [np.ndarray, np.ndarray | None, np.random.RandomState], list[np.ndarray]
]


class Learned(NamedTuple):
    """What the joint learner returns."""

    tables: list[np.ndarray]  # one for each code, or the one that they share
    strengths: tuple[float, ...] = ()  # of the ridge, in each round that helped
    codes: np.ndarray | None = None  # of the samples, where they were searched for


def encode(X: np.ndarray, tables: Sequence[np.ndarray], search: Search) -> np.ndarray:
    """Return codes (n_samples, n_codebooks) whose codewords nearly add up to X."""
    tables = [to_host(table) for table in tables]
    sizes = [len(table) for table in tables]
    if math.prod(sizes) <= MAX_EXHAUSTIVE:
        codes, _ = nearest.nearest(X, all_sums(tables), return_distances=False)
        return _unravelled(codes, sizes)
    codes = nearest.nearest_best(X, tables, search.beam_size, return_distances=False)[0]
    if search.n_rounds == 0:
        return codes[:, 0, :]
    return nearest.improve_sums(
        X, tables, codes[:, 0, :], n_rounds=search.n_rounds, seed=search.seed
    )[0]


def _unravelled(index, sizes: Sequence[int]):
    """Return the codes that an index of sums stands for."""
    columns = []
    for size in reversed(sizes):
        rest = index // size
        columns.append((index - rest * size)[:, None])
        index = rest
    return join(columns[::-1], axis=1)


def decode(codes: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sums of the codewords."""
    total = look_up(tables[0], codes[:, 0])
    for j, table in enumerate(tables[1:], start=1):
        total += look_up(table, codes[:, j])
    return total


def all_sums(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return all sums, the last table's code running fastest."""
    sizes = [len(table) for table in tables]
    places = np.unravel_index(np.arange(math.prod(sizes)), sizes)
    with np.errstate(over="ignore"):  # the search says what is too large
        return decode(np.stack(places, axis=1), tables)


# -- joint -----------------------------------------------------------------------------


def learn_jointly(
    X: np.ndarray,
    sizes: Sequence[int],
    weights: np.ndarray | None,
    rng: np.random.RandomState,
    *,
    start: Start,
    shared: bool,
    search: Search,
    strength: float | None,
    max_iter: int,
    tol: float,
) -> Learned:
    """Learn tables that are searched together.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    sizes : sequence of int
        V_1..V_m.
    weights : ndarray of shape (n_samples,) or None
        Positive sample weights.
    rng : RandomState
        Source of random numbers.
    start : callable
        Returns the first tables, of a residual quantizer, from samples, their weights
        and the source of random numbers; one table if it is shared.
    shared : bool
        Whether one table serves all codes; then the sizes are equal.
    search : Search
        How the samples are encoded in each round.
    strength : float or None
        Of the ridge: what each codeword at hand weighs, in mean weights of a codeword;
        None: chosen on rows held out.
    max_iter : int
        Largest number of rounds.
    tol : float
        Stop when a round lowers the distortion by this share of it or less.

    Returns
    -------
    Learned

    Notes
    -----
    All samples are encoded anew in every round.  Where a sample keeps the better of its
    new and its old code instead, as in LSQ, the tables come to depend on codes that no
    search finds again: after eight rounds on 100,000 dense SIFT vectors, the samples
    were .4 % and others 1.3 % worse off.
    """
    mean = column_means(X, weights)
    centred = _less(X, mean)
    problem = _Problem(centred, sizes, weights, shared, search, start)
    n_held = 0
    if max_iter > 0 and strength is None:
        found = hold_out(Rows(X, weights), _HELD_OUT_SHARE, _MAX_HELD_OUT, rng)
        held_out = run(found)
        n_held, held_rows = len(held_out.X), held_out.numbers
        rows = np.delete(np.arange(X.shape[0]), held_rows)
    if max_iter == 0 or (strength is None and n_held < _MIN_HELD_OUT):
        learned = Learned(problem.start(rng))
    elif strength is not None:
        tables = problem.start(rng)
        learned = _rounds(problem, problem, tables, (strength,), max_iter, tol)
    else:
        held, train = problem.part(held_rows), problem.part(rows)
        learned = _rounds(train, held, train.start(rng), _STRENGTHS, max_iter, tol)
        if n_held > _MAX_LOST_SHARE * held_out.n_distinct:
            # With all rows now, in the rounds that were found good.
            learned = _repeat(problem, problem.start(rng), learned.strengths)
        else:
            place = np.argsort(np.concatenate([rows, held_rows]))
            learned = learned._replace(codes=take_rows(learned.codes, place))
    # One table serves m times, so that it bears an m-th of the mean.
    share = mean / len(sizes) if shared else mean
    first = (learned.tables[0] + share).astype(numpy_dtype(X))
    return learned._replace(tables=[first, *learned.tables[1:]])


def _less(X, mean: np.ndarray):
    """Return X less its mean, in X's dtype."""
    wide = in_dtype(X, np.float64) - like(mean, X)[None, :]
    return in_dtype(wide, numpy_dtype(X))


class _Problem:
    """Samples, and the form of the tables that are to approximate them."""

    def __init__(self, X, sizes, weights, shared, search, start) -> None:
        self.X, self.weights, self.search = X, weights, search
        self.first_tables = start
        self.sizes = list(sizes)
        self.shared = shared
        self.starts = [0] * len(self.sizes)
        if not shared:
            self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).tolist()

    def start(self, rng) -> list[np.ndarray]:
        """Return the tables of a residual quantizer."""
        return self.first_tables(self.X, self.weights, rng)

    def part(self, rows) -> "_Problem":
        weights = None if self.weights is None else take_rows(self.weights, rows)
        return _Problem(
            take_rows(self.X, rows),
            self.sizes,
            weights,
            self.shared,
            self.search,
            self.first_tables,
        )

    def encode(self, tables) -> tuple[np.ndarray, float]:
        """Return codes and their mean distortion."""
        all_tables = tables * len(self.sizes) if self.shared else tables
        codes = encode(self.X, all_tables, self.search)
        found = nearest.paired(self.X, decode(codes, all_tables))
        return codes, average(found, self.weights)

    def equations(self, codes) -> NormalEquations:
        # Pairs of codes are counted on the host; the samples stay on their device.
        codes = to_host(codes)
        return normal_equations(self.X, codes, self.starts, self.sizes, self.weights)

    def solve(self, equations, tables, strength) -> list[np.ndarray]:
        """Return new tables, drawn towards the ones at hand."""
        stacked = np.concatenate(tables)
        fixed = None
        if self.shared and len(stacked) > 1:
            fixed = np.arange(len(stacked)) == 0  # the codeword of zero
        solved = ridge(equations, stacked, strength, fixed)
        solved = solved.astype(numpy_dtype(self.X))
        return [solved] if self.shared else np.split(solved, self.starts[1:])


def _rounds(problem, judge, tables, strengths, max_iter, tol) -> Learned:
    """Encode and solve in turns, as long as the judge's samples gain.

    Returns the codes of the problem's samples, and after them those of the judge's, if
    these are others.
    """
    codes, value = problem.encode(tables)
    judge_codes, judged = codes, value
    if judge is not problem:
        judge_codes, judged = judge.encode(tables)
    taken: list[float] = []
    while len(taken) < max_iter and value > 0.0:
        equations = problem.equations(codes)
        found = _best_step(problem, judge, equations, tables, strengths, judged)
        if found is None:
            break
        tables, strength, judge_codes, judged = found
        taken.append(strength)
        # What was too weak once would be so again, with tables that fit better.
        strengths = strengths[strengths.index(strength) :]
        codes, new_value = judge_codes, judged
        if judge is not problem:
            codes, new_value = problem.encode(tables)
        fall, value = value - new_value, new_value
        if fall <= tol * (value + fall):
            break
    if judge is not problem:
        codes = join([codes, judge_codes], axis=0)
    return Learned(tables, tuple(taken), codes)


def _repeat(problem, tables, strengths) -> Learned:
    codes, _ = problem.encode(tables)
    for strength in strengths:
        tables = problem.solve(problem.equations(codes), tables, strength)
        codes, _ = problem.encode(tables)
    return Learned(tables, strengths, codes)


def _best_step(train, judge, equations, tables, strengths, judged):
    """Return the best step, None if none helps.

    Its tables, strength, and the judge's codes and their distortion.
    """
    best = None
    for strength in strengths:
        solved = train.solve(equations, tables, strength)
        codes, value = judge.encode(solved)
        if value < judged:
            best, judged = (solved, strength, codes, value), value
        elif best is not None:
            break
    return best


# -- independent -----------------------------------------------------------------------


def encode_independently(X: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each table the code of its codeword nearest to the sample."""
    found = [nearest.nearest(X, table, return_distances=False)[0] for table in tables]
    return join([codes[:, None] for codes in found], axis=1)


def independent_distortion(X, tables, weights) -> float:
    """Return the mean squared distance of X from its sums of nearest codewords."""
    found = nearest.paired(X, decode(encode_independently(X, tables), tables))
    return average(found, weights)


def in_slices(product_tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pad the tables of a product quantizer with zeros."""
    widths = [table.shape[1] for table in product_tables]
    tables = []
    for j, table in enumerate(product_tables):
        padded = np.zeros((len(table), sum(widths)), dtype=table.dtype)
        begin = sum(widths[:j])
        padded[:, begin : begin + widths[j]] = table
        tables.append(padded)
    return tables


def in_rotated_slices(
    X: np.ndarray,
    product_tables: Sequence[np.ndarray],
    weights: np.ndarray | None,
    rng: np.random.RandomState,
    *,
    max_iter: int,
    tol: float,
) -> list[np.ndarray]:
    """Learn tables in orthogonal subspaces that are learned with them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    product_tables : sequence of ndarray of shape (V_j, d_j)
        Tables of a product quantizer of X, one of the starts.
    weights : ndarray of shape (n_samples,) or None
        Positive sample weights.
    rng : RandomState
        For the tables of the other starts.
    max_iter : int
        Turns for each start; the best gets up to ten times as many again.
    tol : float
        A start is left when ten turns gain less than this share, the best when a
        thousand do.

    Returns
    -------
    tables : list of ndarray of shape (V_j, n_features)

    Notes
    -----
    The starts are the slices as they are, and two ways to share out the principal axes
    among the slices: in order, and evening out the products of their variances.  All
    are improved, and the best of them for several times as long, the second half of it
    with tables learned anew in the rotation that it has reached.
    """
    widths = [table.shape[1] for table in product_tables]
    sizes = [len(table) for table in product_tables]
    mean, dtype = column_means(X, weights), numpy_dtype(X)
    centred = _less(X, mean)
    begins = np.cumsum(widths)[:-1]
    tables = [
        (table - part).astype(dtype)
        for table, part in zip(product_tables, np.split(mean, begins), strict=True)
    ]
    basis, axes, variances = _principal_basis(centred, weights)
    if basis is None:
        slices = np.eye(X.shape[1])
    else:
        # A rotation counts only as far as it turns the span of the rows.
        centred, slices = turn(centred, basis), basis.T
    starts = [_rotated(centred, slices, tables, weights)]
    for order in (np.arange(len(variances)), balanced_order(variances, widths)):
        rotation = axes[:, order]
        tables = _fresh_tables(centred, rotation, sizes, begins, weights, rng)
        starts.append(_rotated(centred, rotation, tables, weights))
    # A turn gains little, and gains it for long: the best start is not the best end.
    trials = [
        improve_rotation(centred, start, weights, max_iter=max_iter, tol=0.1 * tol)
        for start in starts
    ]
    best = min(trials, key=lambda trial: trial.distortion)

    def improve(start: Rotated) -> Rotated:
        turns = _MORE_TURNS * max_iter
        return improve_rotation(centred, start, weights, max_iter=turns, tol=1e-3 * tol)

    best = improve(best)
    # Its tables have followed the rotation all the way; others fit where it now is.
    tables = _fresh_tables(centred, best.rotation, sizes, begins, weights, rng)
    fresh = improve(_rotated(centred, best.rotation, tables, weights))
    best = min(best, fresh, key=lambda one: one.distortion)
    # Each table bears the part of the mean in its own subspace: distances within it
    # are as they were, and the parts add up to the mean.
    there, back = _whole_rotation(basis, best.rotation)
    parts = np.split(there(mean), begins)
    tables = [table + part for table, part in zip(best.tables, parts, strict=True)]
    return [back(table).astype(dtype) for table in in_slices(tables)]


def _principal_basis(X, weights):
    """Return a basis of the span of centred rows, principal axes, and variances.

    Returns
    -------
    basis : ndarray of shape (n_features, rank), or None
        Its columns are orthonormal; None: the rank is not low, and the features will
        do.
    axes : ndarray of shape (rank or n_features, n_features)
        In columns, by coordinates in the basis, of falling variance; zero where there
        is none.
    variances : ndarray of shape (n_features,)
        Along the axes.
    """
    d = X.shape[1]
    axes = principal_axes(X, weights)
    # Of ordinary size, so that no square overflows or vanishes.
    scaled = times_power(X, -int(np.frexp(largest_magnitude(X))[1]))
    variances = _variances(scaled, axes, weights)
    negligible = 4 * np.finfo(numpy_dtype(X)).eps
    rank = max(1, int((variances > negligible**2 * variances.max()).sum()))
    if 2 * rank <= d:
        variances = np.append(variances[:rank], np.zeros(d - rank))
        return axes[:, :rank], np.eye(rank, d), variances
    variances = np.append(variances, np.zeros(d - len(variances)))
    return None, _completed(axes), variances


def _completed(frame: np.ndarray) -> np.ndarray:
    """Return an orthogonal matrix that begins with these orthonormal columns."""
    if frame.shape[1] == len(frame):
        return frame
    whole = np.linalg.qr(frame, mode="complete")[0]
    whole[:, : frame.shape[1]] = frame
    return whole


def _whole_rotation(basis: np.ndarray | None, rotation: np.ndarray):
    """Return functions that turn rows of all features by a rotation, and back.

    The rotation is given as far as it turns the rows of a span.  Of those that turn
    them so, the one that turns nothing but the span and what it is turned into: that
    takes no matrix of (n_features, n_features).
    """
    if basis is None:
        return lambda rows: rows @ rotation, lambda rows: rows @ rotation.T
    both = np.linalg.qr(np.hstack([basis, rotation.T]))[0]
    turned = _completed(both.T @ basis) @ _completed(both.T @ rotation.T).T
    change = turned - np.eye(len(turned))
    return (
        lambda rows: rows + (rows @ both) @ change @ both.T,
        lambda rows: rows + (rows @ both) @ change.T @ both.T,
    )


def _fresh_tables(X, rotation, sizes, begins, weights, rng) -> list[np.ndarray]:
    """Return tables of the slices of rotated samples, each learned from its own."""
    tables = []
    for part, size in zip(_cut(X, rotation, begins), sizes, strict=True):
        rows, limits = Rows(part, weights), (_STAGE_ITERATIONS, _STAGE_TOL)
        tables.append(run(k_means(rows, size, rng, *limits)))
    return tables


def _variances(X, axes: np.ndarray, weights) -> np.ndarray:
    """Return the mean squares of the rows along some axes."""
    along = in_dtype(X, np.float64) @ like(np.ascontiguousarray(axes), X)
    return column_means(along * along, weights)


def _cut(X, rotation, begins) -> list[np.ndarray]:
    """Return the slices of rotated samples."""
    turned = turn(X, rotation)
    borders = [0, *(int(end) for end in begins), turned.shape[1]]
    be = nearest.backend_of(turned)
    return [be.contiguous(turned[:, a:b]) for a, b in pairwise(borders)]


def _rotated(X, rotation, tables, weights) -> Rotated:
    turned = turn(X, rotation)
    codes = nearest.nearest_product(turned, tables)
    decoded = join_columns(
        [look_up(table, codes[:, j]) for j, table in enumerate(tables)]
    )
    found = nearest.paired(turned, decoded)
    return Rotated(rotation, tables, average(found, weights))
