"""Lengths and angles of vectors, for arrays of any library.

``"standard"`` coordinates are those of `skvq.SphericalQuantizer`'s formula; ``"tree"``
coordinates join neighbours in pairs, then the pairs, and so on.
"""

from typing import Any

import numpy as np

from skvq import nearest

TURN = 2 * np.pi
# Cost of a coordinate in multiply-adds, and the number of copies of a tile in memory.
_WORK, _COPIES = 300.0, 6


def direction_plan(n_features: int) -> nearest.Plan:
    """Return how to cut rows whose angles are computed."""
    return nearest.row_plan(n_features, _COPIES, _WORK)


def split(be: nearest.Backend, X: Any, coordinates: str) -> list[Any]:
    """Return the lengths (n_rows,) and the angles (n_rows, n_features - 1) of rows.

    With a single feature, the length is X itself, sign included.
    """
    n, n_features = X.shape

    def tile(cut: slice) -> tuple[Any, ...]:
        return split_tile(be, X[cut, :], coordinates)

    outputs = [((), np.float64), ((n_features - 1,), np.float64)]
    return be.over_rows(n, direction_plan(n_features), tile, outputs)


def split_tile(be: nearest.Backend, rows: Any, coordinates: str) -> tuple[Any, Any]:
    """Return the lengths and the angles of a tile of rows.

    Rows are scaled by a power of two first: no square overflows, and entries that
    vanish are negligible compared to the length.
    """
    scaled, exponent = be.scaled_rows(rows)
    scaled += 0.0  # negative zeros would have other angles
    if rows.shape[1] == 1:
        lengths, angles = scaled[:, 0], scaled[:, :0]
    elif coordinates == "tree":
        lengths, angles = _split_tree(be, scaled)
    else:
        lengths, angles = _split_standard(be, scaled)
    return be.ldexp(lengths, exponent), angles


def join(be: nearest.Backend, lengths: Any, angles: Any, coordinates: str) -> Any:
    """Return the vectors (n_rows, n_features), float64, of lengths and angles."""
    n, n_angles = angles.shape

    def tile(cut: slice) -> tuple[Any, ...]:
        return (join_tile(be, lengths[cut], angles[cut, :], coordinates),)

    outputs = [((n_angles + 1,), np.float64)]
    return be.over_rows(n, direction_plan(n_angles + 1), tile, outputs)[0]


def join_tile(be: nearest.Backend, lengths: Any, angles: Any, coordinates: str) -> Any:
    """Return the vectors of a tile of rows."""
    joined = _join_tree if coordinates == "tree" else _join_standard
    return joined(be, lengths, angles)


def _split_standard(be: nearest.Backend, X: Any) -> tuple[Any, Any]:
    xp = be.xp
    # Lengths of the rest of the vector from each coordinate on, summed from the end.
    backwards = xp.flip(X, axis=1)
    rest = xp.flip(xp.sqrt(be.running_sums(backwards * backwards)), axis=1)
    angles = be.angle(rest[:, 1:-1], X[:, :-2])
    last = _round_the_circle(be, X[:, -1:], X[:, -2:-1])
    return rest[:, 0], be.concat([angles, last], axis=1)


def _join_standard(be: nearest.Backend, lengths: Any, angles: Any) -> Any:
    xp = be.xp
    sines = be.concat([lengths[:, None], xp.sin(angles)], axis=1)
    products = be.running_products(sines)
    heads = products[:, :-1] * xp.cos(angles)
    return be.concat([heads, products[:, -1:]], axis=1)


def _split_tree(be: nearest.Backend, nodes: Any) -> tuple[Any, Any]:
    """Join nodes in pairs until one is left; the last one of an odd number waits."""
    angles: list[Any] = []
    while nodes.shape[1] > 1:
        even = nodes.shape[1] // 2 * 2
        a, b = nodes[:, 0:even:2], nodes[:, 1:even:2]
        # Lengths are never negative, so only the first angles need more than atan2.
        angles.append(be.angle(b, a) if angles else _round_the_circle(be, b, a))
        joined = be.xp.sqrt(a * a + b * b)
        nodes = be.concat([joined, nodes[:, even:]], axis=1)
    return nodes[:, 0], be.concat(angles, axis=1)


def _join_tree(be: nearest.Backend, lengths: Any, angles: Any) -> Any:
    xp, nodes, end = be.xp, lengths[:, None], angles.shape[1]
    for n_nodes, _ in reversed(tree_levels(angles.shape[1] + 1)):
        n_pairs = n_nodes // 2
        level = angles[:, end - n_pairs : end]
        end -= n_pairs
        joined = nodes[:, :n_pairs]
        pairs = xp.stack([joined * xp.cos(level), joined * xp.sin(level)], axis=2)
        pairs = xp.reshape(pairs, (nodes.shape[0], 2 * n_pairs))
        nodes = be.concat([pairs, nodes[:, n_pairs:]], axis=1)
    return nodes


def tree_levels(n_features: int) -> list[tuple[int, list[int]]]:
    """Return, for each level of pairs, the number of nodes and the width of each."""
    levels, widths = [], [1] * n_features
    while len(widths) > 1:
        levels.append((len(widths), widths))
        even = len(widths) // 2 * 2
        pairs = zip(widths[0:even:2], widths[1:even:2], strict=True)
        widths = [a + b for a, b in pairs] + widths[even:]
    return levels


def _round_the_circle(be: nearest.Backend, y: Any, x: Any) -> Any:
    """Return the angle of (x, y) in [0, 2 pi)."""
    xp, angle = be.xp, be.angle(y, x)
    angle = xp.where(angle < 0, angle + TURN, angle)
    return xp.minimum(angle, xp.full_like(angle, float(np.nextafter(TURN, 0))))
