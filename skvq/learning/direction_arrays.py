"""Lengths and angles of vectors in arrays of other libraries, by the standard.

What `skvq.sphere` does with NumPy's arrays, in the same order of operations.  Sums and
products along a row go column by column: not all libraries have running ones, and in
this order they round as NumPy's do.
"""

from typing import Any

import numpy as np

from skvq import nearest
from skvq._array_api import array_namespace, astype, concat
from skvq.learning.scalar_arrays import ldexp, scaled_rows

_TURN = 2 * np.pi
# Arrays of the size of a tile that are in memory at a time.
_COPIES = 6


def split(X: Any, coordinates: str) -> tuple[Any, Any]:
    """Return the lengths (n_rows,) and the angles (n_rows, n_features - 1) of rows."""
    split_rows = _split_tree if coordinates == "tree" else _split_standard

    def work(rows: Any) -> tuple[Any, Any]:
        scaled, exponent = scaled_rows(rows)
        scaled = scaled + 0.0  # negative zeros have angles of their own
        if rows.shape[1] == 1:
            lengths, angles = scaled[:, 0], scaled[:, :0]
        else:
            lengths, angles = split_rows(scaled)
        return ldexp(lengths, exponent), angles

    with np.errstate(over="ignore"):  # array-api-strict's numbers are NumPy's
        return nearest.map_rows(X, _COPIES * X.shape[1], work)


def join(lengths: Any, angles: Any, coordinates: str, levels: list[int]) -> Any:
    """Return the vectors (n_rows, n_features) of lengths and angles, in float64.

    Parameters
    ----------
    lengths : array of shape (n_rows,)
        Lengths.
    angles : array of shape (n_rows, n_features - 1)
        Angles.
    coordinates : {"standard", "tree"}
        What they are.
    levels : list of int
        How many nodes the levels of the tree have, from below.
    """
    if coordinates == "tree":
        return _join_tree(lengths, angles, levels)
    return _join_standard(lengths, angles)


def _split_standard(X: Any) -> tuple[Any, Any]:
    xp = array_namespace(X)
    n_features = X.shape[1]
    squares = X[:, n_features - 1] * X[:, n_features - 1]
    rest = [xp.sqrt(squares)]
    for k in range(n_features - 2, -1, -1):
        squares = squares + X[:, k] * X[:, k]
        rest.insert(0, xp.sqrt(squares))
    angles = [xp.atan2(rest[k + 1], X[:, k]) for k in range(n_features - 2)]
    angles.append(_round_the_circle(X[:, n_features - 1], X[:, n_features - 2]))
    return rest[0], xp.stack(angles, axis=1)


def _join_standard(lengths: Any, angles: Any) -> Any:
    xp = array_namespace(angles)
    columns, product = [], lengths
    for k in range(angles.shape[1]):
        columns.append(product * xp.cos(angles[:, k]))
        product = product * xp.sin(angles[:, k])
    return xp.stack([*columns, product], axis=1)


def _split_tree(nodes: Any) -> tuple[Any, Any]:
    xp = array_namespace(nodes)
    angles: list[Any] = []
    while nodes.shape[1] > 1:
        even = nodes.shape[1] // 2 * 2
        a, b = nodes[:, 0:even:2], nodes[:, 1:even:2]
        angles.append(xp.atan2(b, a) if angles else _round_the_circle(b, a))
        nodes = concat(xp, [xp.sqrt(a * a + b * b), nodes[:, even:]], axis=1)
    return nodes[:, 0], concat(xp, angles, axis=1)


def _join_tree(lengths: Any, angles: Any, levels: list[int]) -> Any:
    xp = array_namespace(angles)
    nodes, end = lengths[:, None], angles.shape[1]
    for n_nodes in reversed(levels):
        n_pairs = n_nodes // 2
        level = angles[:, end - n_pairs : end]
        end -= n_pairs
        joined = nodes[:, :n_pairs]
        pairs = xp.stack([joined * xp.cos(level), joined * xp.sin(level)], axis=2)
        pairs = xp.reshape(pairs, (nodes.shape[0], 2 * n_pairs))
        nodes = concat(xp, [pairs, nodes[:, n_pairs:]], axis=1)
    return nodes


def _round_the_circle(y: Any, x: Any) -> Any:
    """Return the angle of (x, y) in [0, 2 pi)."""
    xp = array_namespace(y)
    angle = xp.atan2(y, x)
    angle = xp.where(angle < 0, angle + _TURN, angle)
    last = xp.full_like(angle, float(np.nextafter(_TURN, 0)))
    return astype(xp, xp.minimum(angle, last), xp.float64)
