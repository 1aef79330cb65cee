"""Improve the tables of a sum of codewords together: encode, solve, repeat."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq.learning.least_squares import NormalEquations, normal_equations, ridge
from skvq.learning.random_rows import first_distinct, first_of_block, new_key, row_lots
from skvq.learning.rows import Block, Learner, Rows
from skvq.learning.start import distinct, weights_of

# Samples held out of all learning, on which the strength of the ridge is chosen.
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 4096
# Strengths of the ridge, in mean weights of a codeword.
_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# A round must lower the loss of the samples held out by this share of it.
_MIN_GAIN = 1e-3

# Rounds of (encode, solve) for a table that all stages share.
_SHARED_ROUNDS = 10
_SHARED_STRENGTH = 0.03
_MIN_SHARED_GAIN = 1e-4


class Stack(NamedTuple):
    """Tables that are solved for together: those of the same features."""

    features: slice
    columns: list[int]  # of the codes, one for each stage
    starts: list[int]  # where each stage's table begins in the stacked one
    sizes: list[int]


# Codes (n, m) of rows under the stacked tables, and the loss of each row; it is sent to
# where the rows are.
Encode = Callable[[Any, list[np.ndarray]], tuple[Any, Any]]


class Problem(NamedTuple):
    """What a refinement minimises, and over what."""

    stacks: Sequence[Stack]
    encode: Encode
    stage_weights: np.ndarray | None  # of the partial sums in the loss
    fixed: np.ndarray | None  # (n_codewords,), bool: those of a stack that stay


class HeldOut(NamedTuple):
    """Rows to judge by what is learned from the others."""

    rows: Rows  # the others
    X: Any  # (n_held, n_features), distinct
    weights: np.ndarray  # (n_held,), of all rows that equal each
    numbers: np.ndarray  # of all rows that equal those held, ascending
    n_distinct: int  # of all rows; an estimate where they are many


def hold_out(
    rows: Rows, share: float, most: int, rng: np.random.RandomState
) -> Learner[HeldOut]:
    """Choose rows to judge by what is learned from the others.

    Equal rows stay together, and are one to the choice: what has been learned from its
    twin is no judge, and a row of weight two has the place of two rows.

    Parameters
    ----------
    rows : Rows
        The samples.
    share : float
        How many of the distinct rows to hold out.
    most : int
        Their largest number.
    rng : RandomState
        Source of the choice.

    Notes
    -----
    A row's lot is a hash of what is in it.  That of the k-th of so many distinct rows
    is k over their number, on average, which is how they are counted.

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
    (numbers,) = yield rows.gather(_numbers_upto, key, limit, most=rows.n_rows)
    others = yield from rows.chosen(_lots_above, key, limit)
    X = distinct(X[:n_held])
    weights = np.empty(0)
    if n_held:
        held = yield from rows.chosen(_lots_upto, key, limit)
        (weights,) = yield held.fold(weights_of, X)
    return HeldOut(others, X, weights, numbers, n_distinct)


def _smallest_lots(block: Block, key: int, most: int) -> tuple:
    lots = row_lots(block, key)
    return first_of_block(block, lots, np.arange(block.n_rows), most)


def _lots_upto(block: Block, key: int, limit: float) -> np.ndarray:
    return np.flatnonzero(row_lots(block, key) <= limit)


def _numbers_upto(block: Block, key: int, limit: float) -> tuple:
    return (block.first + _lots_upto(block, key, limit),)


def _lots_above(block: Block, key: int, limit: float) -> np.ndarray:
    return np.flatnonzero(row_lots(block, key) > limit)


def choose_strengths(
    held_out: HeldOut, tables: list[np.ndarray], problem: Problem, n_rounds: int
) -> Learner[list[float]]:
    """Refine tables on some rows; return what helped others, round by round.

    Parameters
    ----------
    held_out : HeldOut
        The rows that the tables were learned from, and others.
    tables : list of ndarray
        The tables of each stack.
    problem : Problem
        The loss.
    n_rounds : int
        Largest number of rounds.

    Returns
    -------
    strengths : list of float
        The strength of the ridge in each round; it ends with the last round that lowers
        the loss of the rows held out.
    """

    def judged(tables: list[np.ndarray]) -> float:
        losses = problem.encode(held_out.X, tables)[1]
        be = nearest.backend_of(losses)
        return be.average(losses, be.like(held_out.weights))

    chosen: list[float] = []
    grid: Sequence[float] = _STRENGTHS
    loss = judged(tables)
    for _ in range(n_rounds):
        _, systems = yield from _systems(held_out.rows, tables, problem)
        solved = [_solve(systems, tables, strength, problem) for strength in grid]
        losses = [judged(each) for each in solved]
        best = int(np.argmin(losses))
        if not losses[best] < (1 - _MIN_GAIN) * loss:
            break
        chosen.append(grid[best])
        tables, loss, strength = solved[best], losses[best], grid[best]
        # Later rounds need about the same strength.
        grid = [strength / 2, strength, 2 * strength]
    return chosen


def refine(
    rows: Rows,
    tables: list[np.ndarray],
    problem: Problem,
    strengths: Sequence[float],
) -> Learner[list[np.ndarray]]:
    """Alternate between the codes and one least-squares solve for all tables.

    The ridge draws the tables towards those at hand.

    Parameters
    ----------
    rows : Rows
        Samples.
    tables, problem
        As in `choose_strengths`.
    strengths : sequence of float
        Strength of the ridge in each round.

    Returns
    -------
    tables : list of ndarray
        The tables of least loss over the samples; the given ones are among them.
    """
    best = tables
    if len(strengths) == 0:
        return best
    best_loss, systems = yield from _systems(rows, tables, problem)
    for strength in strengths:
        tables = _solve(systems, tables, strength, problem)
        loss, systems = yield from _systems(rows, tables, problem)
        if not loss < best_loss:
            break
        best, best_loss = tables, loss
    return best


def share(
    rows: Rows, table: np.ndarray, n_stages: int, encode: Encode, fixed: np.ndarray
) -> Learner[np.ndarray]:
    """Alternate between the codes and the one table that all stages share.

    Parameters
    ----------
    rows : Rows
        Samples.
    table : ndarray of shape (n_codewords, n_features)
        The start.
    n_stages : int
        How many codewords of it are added.
    encode : callable
        Gives codes and losses of rows under a table.
    fixed : ndarray of shape (n_codewords,), dtype bool
        Codewords that stay as they are.

    Returns
    -------
    table : ndarray of shape (n_codewords, n_features)
        The one of least loss.
    """
    best, best_loss = table, np.inf
    starts, sizes = [0] * n_stages, [len(table)] * n_stages
    stack = Stack(slice(0, rows.n_features), list(range(n_stages)), starts, sizes)
    problem = Problem([stack], encode, None, fixed)
    for _ in range(_SHARED_ROUNDS):
        loss, systems = yield from _systems(rows, [table], problem)
        gain = best_loss - loss
        if gain > 0:
            best, best_loss = table, loss
        if not gain > _MIN_SHARED_GAIN * loss:
            break
        (table,) = _solve(systems, [table], _SHARED_STRENGTH, problem)
    return best


def _systems(
    rows: Rows, tables: list[np.ndarray], problem: Problem
) -> Learner[tuple[float, list[NormalEquations]]]:
    """Return the summed loss of tables, and the linear systems of the codes."""
    loss, *parts = yield rows.fold(_system, tables, problem)
    n = len(NormalEquations._fields)
    return float(loss), [
        NormalEquations(*parts[i : i + n]) for i in range(0, len(parts), n)
    ]


def _system(block: Block, tables: list[np.ndarray], problem: Problem) -> tuple:
    be = block.be
    codes, losses = problem.encode(block.x, tables)
    found: list = [be.xp.sum(block.weighted(be.like(losses, np.float64)))]
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
    problem: Problem,
) -> list[np.ndarray]:
    return [
        ridge(system, table, strength, problem.fixed).astype(table.dtype)
        for system, table in zip(systems, tables, strict=True)
    ]
