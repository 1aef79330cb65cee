"""Tables whose Kronecker products stand for the samples.

With the codes given and all factors but one held, a sample's codeword is linear in the
row of the free table.  Let a be the product of the other rows, and X_j the sample as a
matrix whose first index is that of the free factor.  Then

    |x - w (x) a|^2 = |a|^2 |X_j a / |a|^2 - w|^2 + const,

so each table in turn is a weighted k-means problem for the targets X_j a / |a|^2: its
best rows are means of cells, and empty cells are repaired as in k-means.  Alternating
only improves on its start, so the start decides the result.  The leading singular
vectors of each sample, as a matrix, give its factors up to sign and scale.  Clusters of
these lines recover the tables that samples were made from.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.extmath import randomized_svd

from skvq import nearest
from skvq.codes import smallest_dtype
from skvq.learning.cells import best_codewords, split_heaviest, unit_rows
from skvq.learning.lloyd import LearnedCodebook, lloyd
from skvq.learning.random_rows import some_rows
from skvq.learning.repair import drawn_by_cost
from skvq.learning.rows import Block, Learner, Rows, add, in_memory, run
from skvq.learning.start import few_distinct, initialise, repeat_cyclically

Tables = list[np.ndarray]
Shape = Sequence[int]

# Alternations over all tables between two assignments.  An assignment costs far more.
_SWEEPS = 2
# Steps towards the best shared table, tried in turn: all slots move at once, so the
# whole step may be too long.
_STEPS = (1.0, 0.5, 0.25, 0.125)
# The start looks at this many samples, or fewer if they are large.
_START_ROWS = 2**14
_START_ELEMENTS = 2**24
_START_WORK = 2**26
_START_ROWS_PER_CODEWORD = 32
# Rounds of the power method for samples with three or more factors, and rounds of the
# fit of the scales.
_POWER_ROUNDS = 4
_SCALE_ROUNDS = 30
# Lines are clustered as their d (d + 1) / 2 products; wide lines in a subspace.
_MAX_LINE_WIDTH = 24
_LINE_ITERATIONS = 10
# A codeword moves to another place if that lowers the distortion by this share.  The
# search ends after this many failures in a row.
_MOVE_GAIN = 1e-3
_MOVE_ITERATIONS = 5
_MOVE_FAILURES = 3


class LearnedTables(NamedTuple):
    """The result of alternating least squares."""

    tables: Tables
    distortion: float  # weighted mean distance of the samples, under these tables
    n_iter: int


class KroneckerProblem(NamedTuple):
    """The shape of the tables to learn, and which of them are fixed."""

    shape: tuple[int, ...]  # (d_1, ..., d_m)
    sizes: tuple[int, ...]  # (V_1, ..., V_m)
    fixed: list[np.ndarray | None]  # given tables, which stay; None: to be learned
    share: bool  # whether one table serves all factors

    @property
    def free(self) -> list[int]:
        """The factors whose tables are learned."""
        return [j for j, table in enumerate(self.fixed) if table is None]

    @property
    def free_tables(self) -> list[list[int]]:
        """For each table that is learned, the factors it serves."""
        return [self.free] if self.share else [[j] for j in self.free]


# -- alternating least squares ---------------------------------------------------------


class _Assigned(NamedTuple):
    """Samples and the codes of their nearest products."""

    value: float  # weighted mean distance of the samples
    counts: list[np.ndarray]  # number of samples with each code of each table
    codes: Any  # state of the rows, (n_rows, n_factors)


def alternate(
    rows: Rows, problem: KroneckerProblem, tables: Tables, *, max_iter: int, tol: float
) -> Learner[LearnedTables]:
    """Improve tables: assign all samples, then solve for one table at a time.

    Parameters
    ----------
    rows : Rows
        The samples.
    problem : KroneckerProblem
        The shape and the fixed tables.
    tables : list of ndarray of shape (V_j, d_j)
        The first tables.
    max_iter : int
        The most rounds.
    tol : float
        Stop when a round lowers the distortion by at most this share of it.

    Returns
    -------
    LearnedTables
        Normalised.  A round that raises the distortion, which only rounding can cause,
        is discarded and ends the iteration.
    """
    tables, n_iter = normalised(problem, tables, 0), 0
    now = yield from _assign(rows, tables)

    def learned() -> LearnedTables:
        return LearnedTables(tables, now.value, max(n_iter, 1))

    while n_iter < max_iter:
        n_iter += 1
        task = rows.task.begin("iteration")
        candidate = tables
        for _ in range(_SWEEPS):
            improve = _improve_shared if problem.share else _improve_each
            candidate = yield from improve(rows, problem, candidate, now.codes)
        candidate = yield from _repaired(rows, problem, candidate, now)
        candidate = normalised(problem, candidate, 0)
        after = yield from _assign(rows, candidate)
        fall = now.value - after.value
        if fall >= 0:
            tables, now = candidate, after
        if task.end(learned) or fall <= tol * (now.value + max(fall, 0.0)):
            break
    return learned()


def _assign(rows: Rows, tables: Tables) -> Learner[_Assigned]:
    (value, weight, *counts), codes = yield rows.fold(
        _encode, nearest.Tables(tables), keep=True
    )
    return _Assigned(float(value / weight), counts, codes)


def _encode(
    block: Block, tables: nearest.Tables
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return summed distances, weights and code counts, and the codes to be kept."""
    be, sizes = block.be, [len(table) for table in tables]
    codes, found = nearest.nearest_kronecker(block.x, tables, return_distances=True)
    own = be.to_host(codes)
    counts = [np.bincount(own[:, j], minlength=size) for j, size in enumerate(sizes)]
    value = be.xp.sum(block.weighted(found))
    kept = be.cast(codes, be.code_dtype(smallest_dtype(max(sizes))))
    return (value, block.host_weights().sum(), *counts), (kept,)


def _improve_each(
    rows: Rows, problem: KroneckerProblem, tables: Tables, codes: Any
) -> Learner[Tables]:
    """Return the tables, each solved for in turn."""
    tables = list(tables)
    for j in problem.free:
        tables[j] = yield from _best_table(rows, problem, tables, [j], codes)
    return tables


def _improve_shared(
    rows: Rows, problem: KroneckerProblem, tables: Tables, codes: Any
) -> Learner[Tables]:
    """Move the shared table towards the best one for each factor, while it helps."""
    best = yield from _best_table(rows, problem, tables, problem.free, codes)
    moves = [tables[0] + step * (best - tables[0]) for step in (0.0, *_STEPS)]
    trials = [nearest.Tables([move] * len(tables)) for move in moves]
    values = yield rows.fold(_values, trials, state=codes)
    return [moves[int(np.argmin(values))]] * len(tables)


def _best_table(
    rows: Rows,
    problem: KroneckerProblem,
    tables: Tables,
    factors: list[int],
    codes: Any,
) -> Learner[np.ndarray]:
    """Return the best table for the codes of the factors that it serves."""
    sums, counts = yield rows.fold(
        _sums, problem.shape, nearest.Tables(tables), factors, state=codes
    )
    result, masses = tables[factors[0]].copy(), sums[:, -1]
    means = masses / np.maximum(counts, np.finfo(float).tiny)
    # Samples whose other factors vanish say nothing about the free table.
    used = means > np.finfo(result.dtype).eps ** 2 * means.max()
    result[used] = sums[used, :-1] / masses[used, None]
    return result


def _sums(
    block: Block, shape: Shape, tables: nearest.Tables, factors: list[int]
) -> tuple[Any, ...]:
    """Return, for each code, sums of X_j a and |a|^2, (V, d_j + 1), and of weights."""
    be, (codes,), found = block.be, block.state, []
    with nearest.single_threaded_blas():
        for j in factors:
            work = partial(_terms, shape, tables, j)
            terms = be.map_rows(block.x, 3 * block.x.shape[1], work, codes)
            own = be.contiguous(be.cast(codes[:, j], np.intp))
            found.append(be.cell_sums(terms, own, len(tables[j]), block.w))
    return reduce(add, found)


def _terms(shape: Shape, tables: nearest.Tables, j: int, x: Any, codes: Any) -> Any:
    products, others = _contract(x, shape, _chosen(tables, codes), j)
    be = nearest.backend_of(x)
    return be.concat([products, be.squared_norms(others)[:, None]], 1)


def _chosen(tables: nearest.Tables, codes: Any) -> list[Any]:
    """Return the rows that the codes choose from each table."""
    return [table.rows(codes[:, j]) for j, table in enumerate(tables)]


def _contract(x: Any, shape: Shape, chosen: Sequence[Any], j: int) -> tuple[Any, Any]:
    """Return X_j a and a in float64, a the product of all chosen rows but the j-th."""
    be = nearest.backend_of(x)
    xp = be.xp
    others = [be.cast(rows, np.float64) for k, rows in enumerate(chosen) if k != j]
    one = xp.ones_like(be.cast(x[:, :1], np.float64))
    product = nearest.kronecker_rows([one, *others])
    x = xp.moveaxis(xp.reshape(x, (x.shape[0], *shape)), j + 1, 1)
    x = be.cast(xp.reshape(x, (x.shape[0], shape[j], -1)), np.float64)
    return xp.matmul(x, product[:, :, None])[:, :, 0], product


def _values(block: Block, trials: list[nearest.Tables]) -> tuple[Any, ...]:
    """Return the summed distances for the given codes under each of several tables."""
    return tuple(block.be.xp.sum(_costs(block, tables)) for tables in trials)


def _costs(block: Block, tables: nearest.Tables) -> Any:
    products = nearest.kronecker_rows(_chosen(tables, block.state[0]))
    return block.weighted(nearest.paired(block.x, products))


def _repaired(
    rows: Rows, problem: KroneckerProblem, tables: Tables, assigned: _Assigned
) -> Learner[Tables]:
    """Give unused rows of tables halves of the heaviest cells.

    The other rows stay, and so does the distance for the current codes.
    """
    unused = [
        np.all([assigned.counts[j] == 0 for j in factors], axis=0)
        for factors in problem.free_tables
    ]
    if not np.any(np.concatenate(unused)):
        return tables
    X, weights, _, codes, _ = yield from drawn_by_cost(
        rows, assigned.codes, _costs, nearest.Tables(tables)
    )
    tables = list(tables)
    for factors, empty in zip(problem.free_tables, unused, strict=True):
        pairs = [targets(X, weights, problem.shape, tables, codes, j) for j in factors]
        goal, mass = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        own, table = codes[:, factors].T.ravel(), tables[factors[0]].copy()
        cost = nearest.paired(goal, table, codes=own) * mass
        table[empty] = split_heaviest(
            goal, own, table, mass, "sqeuclidean", cost, np.flatnonzero(empty)
        )[0][empty]
        for j in factors:
            tables[j] = table
    return tables


def targets(
    X: np.ndarray,
    weights: np.ndarray | None,
    shape: Shape,
    tables: Tables,
    codes: np.ndarray,
    j: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the target of the free table's row for each sample.

    Parameters
    ----------
    X : ndarray of shape (n_samples, prod shape)
        Samples.
    weights : ndarray of shape (n_samples,) or None
        Their weights.
    shape : sequence of int
        (d_1, ..., d_m).
    tables : list of ndarray of shape (V_j, d_j)
        The tables; the j-th is not used.
    codes : ndarray of shape (n_samples, n_factors)
        The code of each sample in each table.
    j : int
        The factor that is free.

    Returns
    -------
    goal : ndarray of shape (n_samples, d_j)
        X_j a / |a|^2; zero where a vanishes.
    mass : ndarray of shape (n_samples,), float64
        |a|^2 times the sample's weight.
    """
    work = partial(_terms, shape, nearest.Tables(tables), j)
    with nearest.single_threaded_blas():
        terms = nearest.HOST.map_rows(X, 3 * X.shape[1], work, codes)
    products, mass = terms[:, :-1], terms[:, -1]
    # Samples whose other factors vanish say nothing about the free table.
    mass = np.where(mass > np.finfo(X.dtype).eps ** 2 * mass.max(), mass, 0.0)
    goal = np.zeros_like(products)
    np.divide(products, mass[:, None], out=goal, where=mass[:, None] > 0)
    return goal.astype(X.dtype), mass if weights is None else mass * weights


# -- scale and sign --------------------------------------------------------------------


def with_ordinary_factors(
    problem: KroneckerProblem, scale: float
) -> tuple[KroneckerProblem, int]:
    """Scale fixed tables by powers of two, so that no square overflows.

    Parameters
    ----------
    problem : KroneckerProblem
        The problem with the tables as given.
    scale : float
        Power of two that the samples are multiplied by.

    Returns
    -------
    problem : KroneckerProblem
        The problem with fixed tables of ordinary size.
    exponent : int
        The products of free tables for the given problem are 2**exponent times those
        for the returned one.
    """
    exponent = 1 - int(np.frexp(scale)[1])
    fixed: list[np.ndarray | None] = []
    for table in problem.fixed:
        if table is not None:
            power = int(np.frexp(np.abs(table).max(initial=0.0))[1])
            table = np.ldexp(table, -power)
            exponent -= power
        fixed.append(table)
    return problem._replace(fixed=fixed), exponent


def normalised(problem: KroneckerProblem, tables: Tables, exponent: int) -> Tables:
    """Normalise what products leave open, and multiply the products by 2**exponent.

    The learned tables get the same root mean square.  In all but the first of them the
    entry of largest magnitude is positive.

    Parameters
    ----------
    problem : KroneckerProblem
        Says which tables were learned.
    tables : list of ndarray of shape (V_j, d_j)
        The tables.
    exponent : int
        Power of two by which the products are multiplied.

    Returns
    -------
    tables : list of ndarray of shape (V_j, d_j)
        In the same dtypes.

    Raises
    ------
    ValueError
        If a table overflows its dtype.
    """
    free = problem.free
    if not free:
        return tables
    wide = [tables[j].astype(np.float64) for j in free]
    sizes = np.array([np.sqrt(np.mean(np.square(table))) for table in wide])
    if problem.share:
        shifts = np.full(len(free), exponent / len(free))
    elif sizes.all():
        logs = np.log2(sizes)
        shifts = (logs.sum() + exponent) / len(free) - logs
        wide = _with_signs(wide)
    else:
        shifts = np.zeros(len(free))  # all products are zero
    result = list(tables)
    for j, table, shift in zip(free, wide, shifts, strict=True):
        # In two steps: 2**shift alone may be out of range.
        with np.errstate(over="ignore"):
            table = np.ldexp(table * 2.0 ** (shift % 1), int(shift // 1))
            result[j] = table.astype(tables[j].dtype)
        if not np.isfinite(result[j]).all():
            raise ValueError(
                f"The codebook of factor {j} is too large for {result[j].dtype}: scale "
                "X, or the fixed factors."
            )
    return [result[0]] * len(result) if problem.share else result


def _with_signs(tables: Tables) -> Tables:
    signs = [np.sign(table.flat[np.abs(table).argmax()]) for table in tables[1:]]
    return [
        table * sign
        for table, sign in zip(tables, [np.prod(signs), *signs], strict=True)
    ]


# -- the spectral start ----------------------------------------------------------------


def spectral_start(
    rows: Rows, problem: KroneckerProblem, rng: np.random.RandomState
) -> Learner[Tables]:
    """Return first tables from the leading singular vectors of the samples.

    Each sample, as a tensor of shape (d_1, ..., d_m), has a best approximation
    sigma u_1 (x) ... (x) u_m by unit vectors.  The sign of a u_j is arbitrary, so the
    lines through them are clustered for each factor, as u_j u_j^T weighted by sigma^2.
    A rank-one fit of the samples' products with the directions found gives these signs
    and lengths.  A few steps of k-means for each factor, the others held, end the
    start.  It recovers tables that the samples were made from, which neither k-means++
    nor random starts do.

    Parameters
    ----------
    rows : Rows
        The samples.  If they are many, the start looks at some of them, on the host:
        eigenvectors and the moves of codewords need LAPACK and short loops.
    problem : KroneckerProblem
        The shape and the fixed tables.
    rng : RandomState
        Source of all random numbers.

    Returns
    -------
    tables : list of ndarray of shape (V_j, d_j)
    """
    *_, second, widest = sorted((1, *problem.shape))
    n_products = _n_products(min(widest, _MAX_LINE_WIDTH))
    most = min(
        _START_ROWS,
        _START_ELEMENTS // max(rows.n_features, 8 * n_products),
        _START_WORK // second**3,
    )
    most = max(most, _START_ROWS_PER_CODEWORD * max(problem.sizes))
    some = yield from some_rows(rows, most, rng)
    X, weights = yield from in_memory(some)
    with nearest.single_threaded_blas():
        units, sizes = rank_one_parts(X, problem.shape)
        mass = np.square(sizes / max(sizes.max(), np.finfo(float).tiny))
        mass = mass if weights is None else mass * weights
        directions, codes = _directions(problem, units, mass, X.dtype, rng)
        tables = _with_lengths(X, weights, problem, directions, codes)
        return _refined(X, weights, problem, tables, codes)


def _refined(
    X: Any, weights: Any, problem: KroneckerProblem, tables: Tables, codes: np.ndarray
) -> Tables:
    """Improve each table by k-means, holding the codes of the other tables.

    Directions do not tell how many lengths a factor needs, in particular one with a
    single feature.
    """
    tables, codes = list(tables), codes.copy()
    if problem.share:
        return tables
    for j in problem.free:
        goal, mass = targets(X, weights, problem.shape, tables, codes, j)
        used = mass > 0
        if used.any():
            tables[j] = _move_codewords(goal[used], tables[j], mass[used])
            codes[:, j], _ = nearest.nearest(
                goal, nearest.Table(tables[j], exact=False), return_distances=False
            )
    return tables


def _n_products(width: int) -> int:
    """Return the number of distinct products u_i u_j."""
    return width * (width + 1) // 2


def rank_one_parts(X: np.ndarray, shape: Shape) -> tuple[Tables, np.ndarray]:
    """Approximate each sample by a Kronecker product of unit vectors.

    Parameters
    ----------
    X : ndarray of shape (n_samples, prod shape)
        The samples.
    shape : sequence of int
        (d_1, ..., d_m).

    Returns
    -------
    units : list of ndarray of shape (n_samples, d_j), float64
        The unit vectors.  They are the best ones for one or two factors; for more, the
        power method finds them from the leading vectors of every mode.
    sizes : ndarray of shape (n_samples,)
        The product of x with them, never negative.

    References
    ----------
    De Lathauwer, De Moor and Vandewalle (2000), "On the best rank-1 and
    rank-(R1,...,RN) approximation of higher-order tensors", SIAM J. Matrix Anal. Appl.
    """
    with nearest.single_threaded_blas():
        *units, sizes = nearest.HOST.map_rows(X, 2 * X.shape[1], partial(_parts, shape))
    return units, sizes


def _parts(shape: Shape, x: np.ndarray) -> tuple[np.ndarray, ...]:
    x, widest = x.astype(np.float64), int(np.argmax(shape))
    rest = [j for j in range(len(shape)) if j != widest]
    units = [np.empty((len(x), width)) for width in shape]
    for j in rest:
        modes = np.moveaxis(x.reshape(len(x), *shape), j + 1, 1)
        modes = modes.reshape(len(x), shape[j], -1)
        units[j] = np.linalg.eigh(modes @ modes.swapaxes(1, 2))[1][:, :, -1]
    rounds = 1 if len(shape) < 3 else _POWER_ROUNDS
    for j in [widest] + (rounds - 1) * [*rest, widest]:
        product, _ = _contract(x, shape, units, j)
        units[j] = unit_rows(product)
    return *units, np.sqrt(np.einsum("ij,ij->i", product, product))


def _directions(
    problem: KroneckerProblem,
    units: Tables,
    mass: np.ndarray,
    dtype: Any,
    rng: np.random.RandomState,
) -> tuple[Any, Any]:
    """Return unit rows for each table, and the code of each sample in it."""
    if problem.share:
        stacked, mass = np.concatenate(units), np.tile(mass, len(units))
        axes, codes = _cluster_lines(stacked, mass, problem.sizes[0], dtype, rng)
        return [axes] * len(units), codes.reshape(len(units), -1).T
    found = []
    for unit, fixed, size in zip(units, problem.fixed, problem.sizes, strict=True):
        if fixed is None:
            found.append(_cluster_lines(unit, mass, size, dtype, rng))
        else:
            axes = unit_rows(fixed.astype(np.float64))
            found.append((axes, _nearest_lines(unit, axes)))
    return [axes for axes, _ in found], np.stack([codes for _, codes in found], axis=1)


def _nearest_lines(units: np.ndarray, axes: np.ndarray) -> np.ndarray:
    both = np.concatenate([axes, -axes])
    codes, _ = nearest.nearest(units, both, return_distances=False)
    return codes % len(axes)


def _cluster_lines(
    units: Any, mass: Any, n_lines: int, dtype: Any, rng: np.random.RandomState
) -> tuple[Any, Any]:
    """Cluster vectors regardless of sign; return unit vectors and codes."""
    narrow = units
    if units.shape[1] > _MAX_LINE_WIDTH:
        rows = units * np.sqrt(mass)[:, None]
        basis = randomized_svd(rows, _MAX_LINE_WIDTH, random_state=rng)[2]
        narrow = units @ basis.T
    i, j = np.triu_indices(narrow.shape[1])
    scaled = narrow.astype(dtype)
    lines = scaled[:, i]
    lines *= scaled[:, j]
    # Products off the diagonal count twice in the norm of a matrix.
    lines *= np.where(i == j, 1.0, np.sqrt(2.0)).astype(dtype)
    used = mass > 0
    if not used.any():
        used[:] = True
        mass = np.ones_like(mass)
    rows = Rows(lines[used], mass[used])
    table = run(few_distinct(rows, n_lines))
    if table is None:
        table = run(initialise(rows, n_lines, "k-means++", "sqeuclidean", rng))
        table = _move_codewords(lines[used], table, mass[used])
    codes, _ = nearest.nearest(
        lines, repeat_cyclically(table, n_lines), return_distances=False
    )
    means, _ = nearest.accumulate(lines, codes, n_lines, weights=mass)
    leading = _leading_vectors(means, narrow.shape[1])
    # Once all vectors of a cluster are on one side, their mean is a step of the power
    # method in the full space.
    along = np.einsum("ij,ij->i", narrow, leading[codes])
    sums, _ = nearest.accumulate(units * along[:, None], codes, n_lines, weights=mass)
    none = ~sums.any(axis=1)
    sums[none] = rng.standard_normal((int(none.sum()), units.shape[1]))
    return unit_rows(sums), codes


def _leading_vectors(lines: np.ndarray, width: int) -> np.ndarray:
    """Return the leading eigenvectors of matrices that are given by their products."""
    i, j = np.triu_indices(width)
    matrices = np.zeros((len(lines), width, width))
    matrices[:, i, j] = lines * np.where(i == j, 1.0, np.sqrt(0.5))
    matrices[:, j, i] = matrices[:, i, j]
    return np.linalg.eigh(matrices)[1][:, :, -1]


def _move_codewords(X: np.ndarray, codebook: np.ndarray, weights: Any) -> np.ndarray:
    """Improve a table by k-means, and by moving codewords to where they help more.

    From any start, k-means leaves some pairs of clusters with one codeword and single
    clusters with two.  So the two cells whose merger costs least are merged and the
    heaviest cell is split, for as long as that pays.

    References
    ----------
    Franti (2018), "Efficiency of random swap clustering", J. Big Data 5(13).
    """
    best = run(lloyd(Rows(X, weights), codebook, max_iter=_LINE_ITERATIONS))
    n_failed = 0
    for _ in range(len(codebook)):
        if n_failed == _MOVE_FAILURES or len(codebook) < 3:
            break
        moved = _move_one(X, best, weights, n_failed)
        if moved.distortion < best.distortion * (1 - _MOVE_GAIN):
            best, n_failed = moved, 0
        else:
            n_failed += 1
    return best.codebook


def _move_one(
    X: Any, learned: LearnedCodebook, weights: Any, which: int
) -> LearnedCodebook:
    """Merge the pair of cells of the given rank, the cheapest first, and split one."""
    table, size = learned.codebook, len(learned.codebook)
    codes, _ = nearest.nearest(X, table, return_distances=False)
    counts = np.bincount(codes, weights, minlength=size)
    i, j = np.triu_indices(size, 1)
    gaps = nearest.DistanceTable(table)(table)[i, j]
    loss = gaps * counts[i] * counts[j] / np.maximum(counts[i] + counts[j], 1e-300)
    pair = np.argsort(loss, kind="stable")[min(which, len(loss) - 1)]
    codes[codes == j[pair]] = i[pair]
    table = best_codewords(X, codes, table, weights, "sqeuclidean")
    cost = nearest.paired(X, table, codes=codes) * weights
    freed = j[pair : pair + 1]
    table, _ = split_heaviest(X, codes, table, weights, "sqeuclidean", cost, freed)
    return run(lloyd(Rows(X, weights), table, max_iter=_MOVE_ITERATIONS))


def _with_lengths(
    X: Any,
    weights: Any,
    problem: KroneckerProblem,
    directions: Tables,
    codes: np.ndarray,
) -> Tables:
    """Return directions with the lengths and signs that fit the samples best."""

    def work(x: np.ndarray, own: np.ndarray) -> np.ndarray:
        chosen = [axes[own[:, k]] for k, axes in enumerate(directions)]
        return np.einsum("ij,ij->i", x, nearest.kronecker_rows(chosen))

    along = nearest.HOST.map_rows(X, 2 * X.shape[1], work, codes)
    weights = np.ones(len(codes)) if weights is None else weights
    # The rows of a fixed table are its unit vectors times its lengths.
    lengths = [
        np.ones(size) if table is None else np.sqrt(np.square(table).sum(axis=1))
        for size, table in zip(problem.sizes, problem.fixed, strict=True)
    ]
    lengths = _rank_one_lengths(along, codes, weights, lengths, problem.free)
    if problem.share:
        signs = [1.0 if lengths[0] @ other >= 0 else -1.0 for other in lengths]
        lengths = [np.array(signs) @ np.stack(lengths) / len(signs)] * len(signs)
    tables = [
        (axes * length[:, None]).astype(X.dtype)
        for axes, length in zip(directions, lengths, strict=True)
    ]
    return [
        table if fixed is None else fixed
        for table, fixed in zip(tables, problem.fixed, strict=True)
    ]


def _rank_one_lengths(
    along: Any, codes: Any, weights: Any, lengths: Any, free: Any
) -> list[np.ndarray]:
    """Fit along[i] by the product of lengths[j][codes[i, j]], by least squares."""
    lengths = list(lengths)
    for _ in range(_SCALE_ROUNDS):
        for j in free:
            chosen = [
                length[column]
                for k, (length, column) in enumerate(zip(lengths, codes.T, strict=True))
                if k != j
            ]
            others = np.prod([np.ones(len(along)), *chosen], axis=0)
            size = len(lengths[j])
            above = np.bincount(codes[:, j], weights * along * others, minlength=size)
            below = np.bincount(codes[:, j], weights * others**2, minlength=size)
            lengths[j] = np.where(
                below > 0, above / np.where(below > 0, below, 1), lengths[j]
            )
        sizes = np.array([np.sqrt(np.mean(lengths[j] ** 2)) for j in free])
        if not sizes.all():
            break
        common = np.exp(np.log(sizes).mean())
        for j, size in zip(free, sizes, strict=True):
            lengths[j] = lengths[j] * (common / size)
    return lengths


def start_from_tables(
    problem: KroneckerProblem, tables: Tables, exponent: int
) -> Tables:
    """Return given tables at the scale of the problem, with the fixed ones inserted.

    Parameters
    ----------
    problem : KroneckerProblem
        The shape and the fixed tables.
    tables : list of ndarray of shape (V_j, d_j)
        The tables.
    exponent : int
        Power of two by which the products of the free tables are to be multiplied.

    Returns
    -------
    tables : list of ndarray of shape (V_j, d_j)
    """
    powers = np.diff(np.arange(len(problem.free) + 1) * exponent // len(problem.free))
    scale = dict(zip(problem.free, powers, strict=True))
    return [
        np.ldexp(table, scale[j]) if fixed is None else fixed
        for j, (table, fixed) in enumerate(zip(tables, problem.fixed, strict=True))
    ]


def start_from_few(problem: KroneckerProblem, rows: np.ndarray) -> Tables | None:
    """Return tables that hold the parts of each of a few samples, deterministically.

    For two factors nothing is better: each sample gets the product nearest to it.

    Parameters
    ----------
    problem : KroneckerProblem
        The shape and the fixed tables.
    rows : ndarray of shape (n_rows, prod shape)
        The distinct samples.

    Returns
    -------
    tables : list of ndarray of shape (V_j, d_j), or None
        The parts in the order of the rows, repeated; None if there are too many parts
        or if a table is fixed.
    """
    n_parts = len(rows) * (len(problem.shape) if problem.share else 1)
    if n_parts > min(problem.sizes) or len(problem.free) < len(problem.shape):
        return None
    units, sizes = rank_one_parts(rows, problem.shape)
    lengths = sizes[:, None] ** (1 / len(units))
    parts = [(unit * lengths).astype(rows.dtype) for unit in units]
    if problem.share:
        parts = [np.concatenate(parts)] * len(parts)
    return [
        repeat_cyclically(part, size)
        for part, size in zip(parts, problem.sizes, strict=True)
    ]
