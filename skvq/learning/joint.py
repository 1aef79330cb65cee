"""Improve the tables of a sum of codewords together: encode, solve, repeat."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from skvq._array_api import average, to_host, unique_rows
from skvq.learning.least_squares import (
    NormalEquations,
    normal_equations,
    ridge,
)

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


class Block(NamedTuple):
    """Tables that are solved for together: those of the same features of X."""

    features: slice
    columns: list[int]  # of the codes, one for each stage
    starts: list[int]  # where each stage's table begins in the stacked one
    sizes: list[int]


# Codes of X under the stacked tables of each block, and the loss of each row.
Encode = Callable[[np.ndarray, list[np.ndarray]], tuple[np.ndarray, np.ndarray]]


class Problem(NamedTuple):
    """What a refinement minimises, and over what."""

    blocks: Sequence[Block]
    encode: Encode
    stage_weights: np.ndarray | None  # of the partial sums in the loss
    fixed: np.ndarray | None  # (n_codewords,), bool: those of a block that stay


def choose_strengths(
    X: np.ndarray,
    weights: np.ndarray | None,
    tables: list[np.ndarray],
    problem: Problem,
    held_X: np.ndarray,
    held_weights: np.ndarray | None,
    n_rounds: int,
) -> list[float]:
    """Refine tables on some samples; return what helped others, round by round.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples that the tables were learned from.
    weights : ndarray of shape (n_samples,) or None
        Their weights.
    tables : list of ndarray
        The stacked tables of each block.
    problem : Problem
        The loss.
    held_X, held_weights : ndarray
        Samples that played no part in the tables, and their weights.
    n_rounds : int
        Largest number of rounds.

    Returns
    -------
    strengths : list of float
        The strength of the ridge in each round; it ends with the last round that lowers
        the loss of the samples held out.
    """
    chosen: list[float] = []
    grid: Sequence[float] = _STRENGTHS
    loss = average(problem.encode(held_X, tables)[1], held_weights)
    for _ in range(n_rounds):
        codes, _ = problem.encode(X, tables)
        systems = _systems(X, codes, weights, problem)
        found = []
        for strength in grid:
            solved = _solve(systems, tables, strength, problem)
            after = average(problem.encode(held_X, solved)[1], held_weights)
            found.append((after, strength, solved))
        after, strength, solved = min(found, key=lambda one: one[0])
        if not after < (1 - _MIN_GAIN) * loss:
            break
        chosen.append(strength)
        tables, loss = solved, after
        # Later rounds need about the same strength.
        grid = [strength / 2, strength, 2 * strength]
    return chosen


def refine(
    X: np.ndarray,
    weights: np.ndarray | None,
    tables: list[np.ndarray],
    problem: Problem,
    strengths: Sequence[float],
) -> list[np.ndarray]:
    """Alternate between the codes and one least-squares solve for all tables.

    The ridge draws the tables towards those at hand.

    Parameters
    ----------
    X, weights, tables, problem
        As in `choose_strengths`.
    strengths : sequence of float
        Strength of the ridge in each round.

    Returns
    -------
    tables : list of ndarray
        The tables of least loss over the samples; the given ones are among them.
    """
    if len(strengths) == 0:
        return tables
    codes, losses = problem.encode(X, tables)
    best, best_loss = tables, average(losses, weights)
    for strength in strengths:
        systems = _systems(X, codes, weights, problem)
        tables = _solve(systems, tables, strength, problem)
        codes, losses = problem.encode(X, tables)
        loss = average(losses, weights)
        if not loss < best_loss:
            break
        best, best_loss = tables, loss
    return best


def hold_out(
    X: np.ndarray, share: float, most: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Choose rows to judge by what is learned from the others.

    Equal rows stay together, and are one to the choice: what has been learned from its
    twin is no judge, and a row of weight two has the place of two rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Samples of any library.
    share : float
        How many of the distinct rows to hold out.
    most : int
        Their largest number.
    rng : RandomState
        Source of the choice.

    Returns
    -------
    rows, held : ndarray
        Indices of the rows to learn from, and of those held out; ascending.
    n_distinct, n_held : int
        How many distinct rows there are, and are held out.
    """
    _, which = unique_rows(to_host(X))
    n_distinct = int(which.max()) + 1
    n_held = min(int(share * n_distinct), most)
    is_held = np.zeros(n_distinct, dtype=bool)
    is_held[rng.permutation(n_distinct)[:n_held]] = True
    held = is_held[which]
    return np.flatnonzero(~held), np.flatnonzero(held), n_distinct, n_held


def _systems(X, codes, weights, problem: Problem) -> list[NormalEquations]:
    # Pairs of codes are counted on the host; the samples stay on their device.
    codes = to_host(codes)
    return [
        normal_equations(
            X[:, block.features],
            codes[:, block.columns],
            block.starts,
            block.sizes,
            weights,
            problem.stage_weights,
        )
        for block in problem.blocks
    ]


def _solve(systems, tables, strength: float, problem: Problem) -> list[np.ndarray]:
    return [
        ridge(system, table, strength, problem.fixed).astype(table.dtype)
        for system, table in zip(systems, tables, strict=True)
    ]


def share(
    X: np.ndarray,
    weights: np.ndarray | None,
    table: np.ndarray,
    n_stages: int,
    encode: Encode,
    fixed: np.ndarray,
) -> np.ndarray:
    """Alternate between the codes and the one table that all stages share.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    weights : ndarray of shape (n_samples,) or None
        Their weights.
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
    for _ in range(_SHARED_ROUNDS):
        codes, losses = encode(X, [table])
        loss = average(losses, weights)
        gain = best_loss - loss
        if gain > 0:
            best, best_loss = table, loss
        if not gain > _MIN_SHARED_GAIN * loss:
            break
        system = normal_equations(X, to_host(codes), starts, sizes, weights)
        table = ridge(system, table, _SHARED_STRENGTH, fixed).astype(table.dtype)
    return best
