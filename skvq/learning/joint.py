"""Joint refinement of the tables of a sum of codewords: encode, solve, repeat."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq.learning.least_squares import NormalEquations, normal_equations, ridge
from skvq.learning.random_rows import first_distinct, first_of_block, new_key, row_lots
from skvq.learning.rows import Block, Learner, Rows
from skvq.learning.start import distinct, weights_of

# Share of the samples held out of learning, which choose the strength of the ridge.
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 4096
# Strengths of the ridge, in mean weights of a codeword, from weak to strong.
_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

# Rounds of (encode, solve) for a table that all stages share.
SHARED_ROUNDS = 10
_SHARED_STRENGTH = 0.03
_MIN_SHARED_GAIN = 1e-4


class Stack(NamedTuple):
    """Tables that are solved for together: those of the same features."""

    features: slice
    columns: Sequence[int]  # code columns, one for each stage
    starts: list[int]  # where each stage's table begins in the stacked one
    sizes: Sequence[int]

    @classmethod
    def of(
        cls, features: slice, columns: Any, sizes: Sequence[int], shared: bool
    ) -> "Stack":
        """Return the stack of tables of these sizes, or of one that all share."""
        starts = [0] * len(sizes) if shared else np.cumsum([0, *sizes[:-1]]).tolist()
        return cls(features, columns, starts, sizes)

    def split(self, stacked: np.ndarray) -> list[np.ndarray]:
        """Return the table of each stage."""
        pairs = zip(self.starts, self.sizes, strict=True)
        return [stacked[start : start + size] for start, size in pairs]


# Gives codes (n, m) of rows under the stacked tables, and the loss of each row.  It may
# run where the rows are stored.
Encode = Callable[[Any, list[np.ndarray]], tuple[Any, Any]]


class JointProblem(NamedTuple):
    """The loss that a refinement minimises, and the tables it minimises over."""

    stacks: Sequence[Stack]
    encode: Encode
    stage_weights: np.ndarray | None  # of the partial sums in the loss
    fixed: np.ndarray | None  # (n_codewords,), bool: rows of a stack that stay


class HeldOut(NamedTuple):
    """Rows to learn from, and rows to judge the result by."""

    rows: Rows  # rows to learn from
    X: Any  # (n_held, n_features), distinct rows that are held out
    weights: np.ndarray  # (n_held,), summed over all rows that equal each
    n_distinct: int  # number of distinct rows; an estimate where they are many


def hold_out(
    rows: Rows, share: float, most: int, rng: np.random.RandomState
) -> Learner[HeldOut]:
    """Choose rows that judge what is learned from the others.

    Equal rows stay together and count as one in the choice: a row cannot judge what was
    learned from its twin.  A row of weight two is treated as two rows.

    Parameters
    ----------
    rows : Rows
        The samples.
    share : float
        Share of the distinct rows to hold out.
    most : int
        The most distinct rows to hold out.
    rng : RandomState
        Source of the choice.

    Notes
    -----
    The lot of a row is a hash of its content.  The k-th smallest of n lots is k / n on
    average, which gives the number of distinct rows.

    References
    ----------
    Bar-Yossef et al. (2002), "Counting distinct elements in a data stream".
    """
    key, looked_at = new_key(rng), most + 1
    X, lots, _ = yield rows.gather(
        _smallest_lots,
        key,
        looked_at,
        join=partial(first_distinct, looked_at),
        most=looked_at,
    )
    n_distinct = len(X) if len(X) < looked_at else round(most / lots[-1])
    n_held = min(int(share * n_distinct), most)
    limit = lots[n_held - 1] if n_held else -1.0
    others = yield from rows.chosen(_lots_above, key, limit)
    X = distinct(X[:n_held])
    weights = np.empty(0)
    if n_held:
        held = yield from rows.chosen(_lots_upto, key, limit)
        (weights,) = yield held.fold(weights_of, X)
    return HeldOut(others, X, weights, n_distinct)


def _smallest_lots(block: Block, key: int, most: int) -> tuple[Any, ...]:
    lots = row_lots(block, key)
    return first_of_block(block, lots, np.arange(block.n_rows), most)


def _lots_upto(block: Block, key: int, limit: float) -> np.ndarray:
    return np.flatnonzero(row_lots(block, key) <= limit)


def _lots_above(block: Block, key: int, limit: float) -> np.ndarray:
    return np.flatnonzero(row_lots(block, key) > limit)


class Refined(NamedTuple):
    """The result of rounds of least squares."""

    tables: list[np.ndarray]  # one for each stack
    strengths: list[float]  # of the ridge, in each round
    loss: np.ndarray  # (2,), the loss summed over the rows, and their weight


def choose_strengths(
    held_out: HeldOut,
    tables: list[np.ndarray],
    problem: JointProblem,
    n_rounds: int,
    tol: float,
) -> Learner[Refined]:
    """Refine tables on some rows for as long as the rows held out gain.

    Parameters
    ----------
    held_out : HeldOut
        The rows that the tables were learned from, and those held out.
    tables : list of ndarray
        The tables of each stack.
    problem : JointProblem
        The loss and what it is minimised over.
    n_rounds : int
        The most rounds.
    tol : float
        Stop when a round lowers the loss of the rows by at most this share of it.

    Returns
    -------
    Refined
        Its loss is that of all rows, including those held out.

    Notes
    -----
    In each round the strength of the ridge grows for as long as that helps the rows
    held out.  A round starts from the strength of the round before: what was too weak
    once would be too weak again for tables that fit better.
    """
    be = held_out.rows.be
    X, weights = be.like(held_out.X), be.like(held_out.weights)

    def judged(tables: list[np.ndarray]) -> np.ndarray:
        losses = be.like(problem.encode(X, tables)[1], np.float64)
        return np.array([be.total(losses, weights), be.total(weights)])

    chosen: list[float] = []
    grid: Sequence[float] = _STRENGTHS
    held = judged(tables)
    loss, systems = yield from _systems(held_out.rows, tables, problem)

    def refined() -> Refined:
        return Refined(tables, chosen, loss + held)

    while len(chosen) < n_rounds:
        task = held_out.rows.task.begin("iteration")
        best: tuple[Any, ...] | None = None
        for strength in grid:
            solved = _solve(systems, tables, strength, problem)
            found = judged(solved)
            if found[0] < held[0]:
                best, held = (solved, strength), found
            elif best is not None:
                break
        if best is None:
            task.end(refined)
            break
        tables, strength = best
        chosen.append(strength)
        grid = grid[grid.index(strength) :]
        before = loss[0]
        loss, systems = yield from _systems(held_out.rows, tables, problem)
        if task.end(refined) or before - loss[0] <= tol * before:
            break
    return refined()


def refine(
    rows: Rows,
    tables: list[np.ndarray],
    problem: JointProblem,
    strengths: Iterable[float],
    tol: float = 0.0,
) -> Learner[Refined]:
    """Alternate between encoding and one least-squares solve for all tables.

    The ridge draws the solution towards the current tables.

    Parameters
    ----------
    rows : Rows
        Samples.
    tables, problem, tol
        As in `choose_strengths`.
    strengths : iterable of float
        Strength of the ridge in each round.

    Returns
    -------
    Refined
        The tables of least loss on the samples, possibly those given.
    """
    taken: list[float] = []
    loss, systems = yield from _systems(rows, tables, problem)

    def refined() -> Refined:
        return Refined(tables, taken, loss)

    for strength in strengths:
        task = rows.task.begin("iteration")
        solved = _solve(systems, tables, strength, problem)
        found, systems = yield from _systems(rows, solved, problem)
        fall = loss[0] - found[0]
        if fall > 0:
            tables, loss = solved, found
            taken.append(strength)
        if task.end(refined) or not fall > tol * (loss[0] + fall):
            break
    return refined()


def share(
    rows: Rows, table: np.ndarray, n_stages: int, encode: Encode, fixed: np.ndarray
) -> Learner[np.ndarray]:
    """Alternate between encoding and solving for the one table that all stages share.

    Parameters
    ----------
    rows : Rows
        Samples.
    table : ndarray of shape (n_codewords, n_features)
        The start.
    n_stages : int
        Number of codewords that are added up.
    encode : callable
        Returns codes and losses of rows under a table.
    fixed : ndarray of shape (n_codewords,), dtype bool
        Codewords that stay as they are.

    Returns
    -------
    table : ndarray of shape (n_codewords, n_features)
        The table of least loss.
    """
    best, best_loss = table, np.inf
    features, sizes = slice(0, rows.n_features), [len(table)] * n_stages
    stack = Stack.of(features, range(n_stages), sizes, shared=True)
    problem = JointProblem([stack], encode, None, fixed)

    def shared() -> np.ndarray:
        return best

    for _ in range(SHARED_ROUNDS):
        task = rows.task.begin("iteration")
        (loss, _), systems = yield from _systems(rows, [table], problem)
        gain = best_loss - loss
        if gain > 0:
            best, best_loss = table, loss
        if task.end(shared) or not gain > _MIN_SHARED_GAIN * loss:
            break
        (table,) = _solve(systems, [table], _SHARED_STRENGTH, problem)
    return shared()


def _systems(
    rows: Rows, tables: list[np.ndarray], problem: JointProblem
) -> Learner[tuple[np.ndarray, list[NormalEquations]]]:
    """Return loss and weight of all rows, and the normal equations for their codes."""
    loss, weight, *parts = yield rows.fold(_system, tables, problem)
    n = len(NormalEquations._fields)
    return np.array([loss, weight]), [
        NormalEquations(*parts[i : i + n]) for i in range(0, len(parts), n)
    ]


def _system(
    block: Block, tables: list[np.ndarray], problem: JointProblem
) -> tuple[Any, ...]:
    be = block.be
    codes, losses = problem.encode(block.x, tables)
    loss = be.xp.sum(block.weighted(be.like(losses, np.float64)))
    found: list[Any] = [loss, block.host_weights().sum()]
    # Pairs of codes are counted on the host; the samples stay on their device.
    codes = be.to_host(codes)
    for stack in problem.stacks:
        found += normal_equations(
            block.x[:, stack.features],
            codes[:, stack.columns],
            stack.starts,
            stack.sizes,
            block.w,
            problem.stage_weights,
        )
    return tuple(found)


def _solve(
    systems: list[NormalEquations],
    tables: list[np.ndarray],
    strength: float,
    problem: JointProblem,
) -> list[np.ndarray]:
    return [
        ridge(system, table, strength, problem.fixed).astype(table.dtype)
        for system, table in zip(systems, tables, strict=True)
    ]
