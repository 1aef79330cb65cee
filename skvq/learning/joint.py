"""Improve the tables of a sum of codewords together: encode, solve, repeat."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from skvq.learning.least_squares import normal_equations, ridge

# Samples held out of the solve, on which its strength is chosen.
_HELD_OUT_SHARE = 0.1
_MAX_HELD_OUT = 4096
# Strengths of the ridge, in samples per codeword.
_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_MIN_GAIN = 1e-4

# Rounds of (encode, solve) for a table that all stages share.
_SHARED_ROUNDS = 10
_SHARED_STRENGTH = 3.0


class Block(NamedTuple):
    """Tables that are solved for together: those of the same features of X."""

    features: slice
    columns: list[int]  # of the codes, one for each stage
    starts: list[int]  # where each stage's table begins in the stacked one
    sizes: list[int]


# Codes of X under the stacked tables of each block, and the loss of each row.
Encode = Callable[[np.ndarray, list[np.ndarray]], tuple[np.ndarray, np.ndarray]]


def refine(
    X: np.ndarray,
    weights: np.ndarray | None,
    tables: list[np.ndarray],
    blocks: Sequence[Block],
    encode: Encode,
    *,
    n_rounds: int,
    stage_weights,
    fixed: np.ndarray | None,
    rng: np.random.RandomState,
) -> list[np.ndarray]:
    """Alternate between the codes and one least-squares solve for all tables.

    The ridge draws the tables towards those at hand.  In each round its strength is the
    best of a few on samples that no solve sees; a round that helps none of them, or
    raises the loss over all samples, is undone and ends the refinement.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    weights : ndarray of shape (n_samples,) or None
        Their weights.
    tables : list of ndarray
        The stacked tables of each block.
    blocks : sequence of Block
        Where they belong.
    encode : callable
        Gives codes and losses of rows under such tables.
    n_rounds : int
        Largest number of solves.
    stage_weights : array-like of shape (n_stages,) or None
        Weights of the partial sums in the loss.
    fixed : ndarray of shape (n_codewords,), dtype bool, or None
        Codewords of each block that stay as they are.
    rng : RandomState
        Chooses the samples held out.

    Returns
    -------
    tables : list of ndarray
        Tables whose loss over all samples is no higher than that of the given ones.
    """
    n_held = min(int(_HELD_OUT_SHARE * len(X)), _MAX_HELD_OUT)
    if n_held == 0:
        return tables
    order = rng.permutation(len(X))
    held, rest = np.sort(order[:n_held]), np.sort(order[n_held:])
    held_X, held_weights = X[held], None if weights is None else weights[held]
    rest_weights = None if weights is None else weights[rest]
    best, best_loss = tables, np.inf
    strengths: Sequence[float] = _STRENGTHS
    for step in range(n_rounds + 1):
        codes, losses = encode(X, tables)
        loss = _mean(losses, weights)
        if loss >= best_loss:
            break
        best, best_loss = tables, loss
        if step == n_rounds:
            break
        systems = [
            normal_equations(
                X[rest][:, block.features],
                codes[rest][:, block.columns],
                block.starts,
                block.sizes,
                rest_weights,
                stage_weights,
            )
            for block in blocks
        ]
        before = _mean(losses[held], held_weights)
        found = []
        for strength in strengths:
            solved = [
                ridge(system, table, strength, fixed).astype(table.dtype)
                for system, table in zip(systems, tables, strict=True)
            ]
            after = _mean(encode(held_X, solved)[1], held_weights)
            found.append((after, strength, solved))
        after, strength, solved = min(found, key=lambda one: one[0])
        if not after < (1 - _MIN_GAIN) * before:
            break
        tables = solved
        # Later rounds need about the same strength.
        strengths = [strength / 2, strength, 2 * strength]
    return best


def share(
    X: np.ndarray,
    weights: np.ndarray | None,
    table: np.ndarray,
    n_stages: int,
    encode: Encode,
    fixed: np.ndarray | None,
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
    fixed : ndarray of shape (n_codewords,), dtype bool, or None
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
        loss = _mean(losses, weights)
        gain = best_loss - loss
        if gain > 0:
            best, best_loss = table, loss
        if not gain > _MIN_GAIN * loss:
            break
        system = normal_equations(X, codes, starts, sizes, weights)
        table = ridge(system, table, _SHARED_STRENGTH, fixed).astype(table.dtype)
    return best


def _mean(losses, weights) -> float:
    return float(np.average(losses, weights=weights))
