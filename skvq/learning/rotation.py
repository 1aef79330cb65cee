"""Codebooks in orthogonal subspaces, and the rotation that is learned with them.

Tables whose rows lie in orthogonal subspaces can be searched one by one.  Since
||x - w||^2 = ||P x - w||^2 + ||x - P x||^2 for w in the range of the projector P, the
table row nearest to x is the one nearest to P x.  The sum of the rows found is the
reconstruction of a product quantizer in a rotated space.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from skvq import nearest
from skvq.coding.turns import powers_of_two
from skvq.learning.cells import cell_means
from skvq.learning.moments import Principal, moments, principal_axes
from skvq.learning.repair import repaired
from skvq.learning.rows import Block, Learner, Rows, rotated, scaled, together, turned
from skvq.learning.start import k_means, ordinary_scale

# Iterations of each start in rotated slices; the best start is then improved.
_STAGE_ITERATIONS = 10
_STAGE_TOL = 1e-3
# Iterations of the best start, as a multiple of those of each start: before its tables
# are learned anew, and again after.
_MORE_ITERATIONS = 5
# Learning a rotation by itself ends when an iteration gains less than this share.
_LEARNED_TOL = 1e-5


class RotatedTables(NamedTuple):
    """A product codebook in a rotated space."""

    # (r, d), orthonormal rows, r the width of the rows.  Rows times this matrix are cut
    # in slices.
    rotation: np.ndarray
    tables: list[np.ndarray]  # (V_j, d_j)
    loss: float = np.inf  # summed squared distance of the rows, if it is known
    n_iter: int = 0  # iterations that led here


def in_slices(product_tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pad the tables of a product quantizer with zeros."""
    borders = _borders(product_tables)
    tables = []
    for table, (begin, end) in zip(product_tables, pairwise(borders), strict=True):
        padded = np.zeros((len(table), borders[-1]), dtype=table.dtype)
        padded[:, begin:end] = table
        tables.append(padded)
    return tables


def in_rotated_slices(
    rows: Rows,
    product_tables: Sequence[np.ndarray],
    rng: np.random.RandomState,
    *,
    max_iter: int,
    tol: float,
) -> Learner[list[np.ndarray]]:
    """Learn tables in orthogonal subspaces, and the subspaces with them.

    Parameters
    ----------
    rows : Rows
        Samples.
    product_tables : sequence of ndarray of shape (V_j, d_j)
        Tables of a product quantizer of the rows, one of the starts.
    rng : RandomState
        Source of the tables of the other starts.
    max_iter : int
        Iterations of each start; the best one gets up to ten times as many in addition.
    tol : float
        A start ends when an iteration gains at most this share, the best one at a
        thousandth of it.

    Returns
    -------
    tables : list of ndarray of shape (V_j, n_features)

    Notes
    -----
    The starts are the given slices, and two assignments of the principal axes to
    slices: in order, and such that the products of the variances become even.  All are
    improved, the best of them for several times as long; for the second half of that
    its tables are learned anew in the rotation reached so far.

    A rotation matters only within the span of the rows, so the rows are expressed in
    those of their principal axes that have any variance.
    """
    d, dtype = rows.n_features, rows.dtype
    borders, sizes = _borders(product_tables), [len(table) for table in product_tables]
    scale = yield from ordinary_scale(rows)
    if scale != 1:
        rows = rows.view(scaled, scale)
    mean, axes = yield from principal_axes(rows)
    along = rows.view(rotated, mean, axes, width=axes.shape[1])
    (variances,) = yield along.fold(_squares)
    negligible = 4 * np.finfo(dtype).eps
    rank = max(1, int((variances > negligible**2 * variances.max()).sum()))
    basis = axes[:, :rank]
    variances = np.append(variances[:rank], np.zeros(d - rank))
    rows = rows.view(rotated, mean, basis, width=rank).held()
    basis = basis.astype(np.float64)
    parts = np.split(mean, borders[1:-1])
    slices = [
        (table * scale - part).astype(dtype)
        for table, part in zip(product_tables, parts, strict=True)
    ]
    starts = [RotatedTables(basis.T, slices)]
    for order in (np.arange(d), balanced_order(variances, np.diff(borders).tolist())):
        rotation = np.eye(rank, d)[:, order]
        fresh = yield from _fresh_tables(rows, rotation, sizes, borders, rng)
        starts.append(RotatedTables(rotation, fresh))
    about = yield from moments(rows)
    squares = about.squares + about.weight * float(about.mean @ about.mean)

    def improve(
        start: RotatedTables, max_iter: int, tol: float
    ) -> Learner[RotatedTables]:
        task = rows.task.begin("rotation", max_iter)
        found = yield from improve_rotation(
            rows.under(task), start, squares, max_iter=max_iter, tol=tol
        )
        task.end()
        return found

    # Iterations gain little each but for long: the best start need not end as the best.
    trials = yield from together(
        [improve(start, max_iter=max_iter, tol=0.1 * tol) for start in starts]
    )
    improve = partial(improve, max_iter=_MORE_ITERATIONS * max_iter, tol=1e-3 * tol)
    best = yield from improve(min(trials, key=_loss))
    # These tables have followed the rotation; new ones may fit better where it is now.
    fresh = yield from _fresh_tables(rows, best.rotation, sizes, borders, rng)
    other = yield from improve(RotatedTables(best.rotation, fresh))
    best = min(best, other, key=_loss)
    # Each table takes the part of the mean in its own subspace: distances within it do
    # not change, and the parts add up to the mean.
    with nearest.single_threaded_blas():
        there, back = whole_rotation(basis, best.rotation)
        parts = np.split(there(mean.astype(np.float64)), borders[1:-1])
        tables = [table + part for table, part in zip(best.tables, parts, strict=True)]
        return [(back(table) / scale).astype(dtype) for table in in_slices(tables)]


def _borders(tables: Sequence[np.ndarray]) -> list[int]:
    """Return where the slices of tables begin, and where the last slice ends."""
    return np.cumsum([0, *(table.shape[1] for table in tables)]).tolist()


def _loss(one: RotatedTables) -> float:
    return one.loss


def _squares(block: Block) -> tuple[Any, ...]:
    x = block.be.cast(block.x, np.float64)
    heavy = x if block.w is None else x * block.w[:, None]
    return (block.be.xp.sum(x * heavy, axis=0),)


def balanced_order(variances: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Return an order of axes, of falling variance, that evens the slices' variances.

    Each axis in turn goes to the slice that has room and whose variances have the
    smallest product so far (Ge et al. 2013, section 3.2).
    """
    slices: list[list[int]] = [[] for _ in widths]
    logs = np.zeros(len(widths))
    floor = max(float(variances.max(initial=0.0)) * 1e-12, np.finfo(float).tiny)
    for axis, variance in enumerate(variances):
        open_slices = [j for j, width in enumerate(widths) if len(slices[j]) < width]
        chosen = min(open_slices, key=lambda j: (logs[j], j))
        slices[chosen].append(axis)
        # Relative to the smallest variance, so that every axis adds to its slice.
        logs[chosen] += np.log(max(float(variance), floor) / floor)
    return np.concatenate([np.array(axes, dtype=np.intp) for axes in slices])


def principal_rotation(
    found: Principal, n_components: int, widths: Sequence[int] | None = None
) -> np.ndarray:
    """Return the first principal axes as rows, in an order that suits slices.

    Parameters
    ----------
    found : Principal
        Principal components of the samples.
    n_components : int
        Number of axes; beyond those in which the samples vary, the basis is completed.
    widths : sequence of int, optional
        Widths of the slices over which variances are balanced, see `balanced_order`.
        None: axes in order of falling variance.

    Returns
    -------
    components : ndarray of shape (n_components, n_features)
        In float64.
    """
    axes = found.axes.astype(np.float64)
    variances = np.zeros(len(axes))
    variances[: len(found.variances)] = np.maximum(found.variances, 0.0)
    with nearest.single_threaded_blas():
        axes = _completed(axes)[:, :n_components]
    # The signs of axes are arbitrary, so that rounding might decide them.
    largest = np.take_along_axis(axes, abs(axes).argmax(axis=0)[None], axis=0)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    variances = variances[:n_components]
    if widths is not None:
        axes = axes[:, balanced_order(variances, widths)]
    return np.ascontiguousarray(axes.T)


def random_rotation(n_features: int, rng: np.random.RandomState) -> np.ndarray:
    """Return a rotation drawn uniformly from all rotations, by Haar's measure.

    References
    ----------
    Mezzadri (2007), "How to generate random matrices from the classical compact
    groups", Notices of the AMS 54(5).
    """
    with nearest.single_threaded_blas():
        q, r = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def mixing_rounds(
    n_features: int, n_rounds: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the signs and the orders of the rounds of a `HadamardTurn`.

    Features outside the widest block move into it in the next round as far as it has
    room.  That block is wider than half of all features, so after two rounds each
    feature has been mixed with many others.

    Returns
    -------
    signs : ndarray of int, shape (n_rounds, n_features)
        Ones and minus ones.
    orders : ndarray of int, shape (n_rounds, n_features)
        Permutations.
    """
    widest = powers_of_two(n_features)[0]
    signs, orders = [], []
    for _ in range(n_rounds):
        signs.append(2 * rng.randint(2, size=n_features) - 1)
        outside = np.arange(widest, n_features)
        inside = rng.permutation(widest)
        n_stay = widest - len(outside)
        block = rng.permutation(np.concatenate([outside, inside[:n_stay]]))
        orders.append(np.concatenate([block, inside[n_stay:]]))
    return np.array(signs), np.array(orders)


def improved_components(
    rows: Rows, components: np.ndarray, tables: Sequence[np.ndarray], max_iter: int
) -> Learner[RotatedTables]:
    """Improve components, in which rows have been turned, to fit tables better.

    Parameters
    ----------
    rows : Rows
        Turned samples, about their mean.
    components : ndarray of shape (n_components, n_features)
        The matrix that has turned them.
    tables : sequence of ndarray of shape (V_j, d_j)
        Tables of a product quantizer of the turned rows.
    max_iter : int
        The most iterations, see `improve_rotation`.

    Returns
    -------
    RotatedTables
        New tables; its `rotation` holds the new components, in float64.
    """
    about = yield from moments(rows)
    squares = about.squares + about.weight * float(about.mean @ about.mean)
    start = RotatedTables(np.eye(len(components)), list(tables))
    found = yield from improve_rotation(
        rows, start, squares, max_iter=max_iter, tol=_LEARNED_TOL
    )
    with nearest.single_threaded_blas():
        return found._replace(rotation=found.rotation.T @ components)


def _fresh_tables(
    rows: Rows,
    rotation: np.ndarray,
    sizes: Sequence[int],
    borders: Any,
    rng: np.random.RandomState,
) -> Learner[list[np.ndarray]]:
    """Return tables of the slices of rotated rows, each learned from its own slice."""
    tables = []
    for size, cut in zip(sizes, pairwise(borders), strict=True):
        axes = rotation[:, slice(*cut)].astype(rows.dtype)
        part = rows.view(turned, axes, width=axes.shape[1]).held()
        limits = _STAGE_ITERATIONS, _STAGE_TOL
        tables.append((yield from k_means(part, size, rng, *limits)))
    return tables


def improve_rotation(
    rows: Rows,
    start: RotatedTables,
    squares: float,
    *,
    max_iter: int,
    tol: float,
) -> Learner[RotatedTables]:
    """Improve tables and rotation alternately.

    Parameters
    ----------
    rows : Rows
        Samples about their mean, in coordinates of their span.
    start : RotatedTables
        Tables and rotation to start from; their loss is computed here.
    squares : float
        Weighted sum of the squared norms of the rows.
    max_iter : int
        The most iterations.
    tol : float
        Stop when an iteration lowers the distortion by at most this share of it.

    Returns
    -------
    RotatedTables
        Its distortion is no higher than that of the start.

    Notes
    -----
    An iteration is one of Lloyd's in every slice, then the rotation that brings the
    samples nearest to their reconstructions: U V^T with U S V^T = X^T Y, Y the
    reconstructions in the rotated space (Ge et al. 2013, section 3.1, without
    parameters; Schonemann 1966).  X^T Y follows from the sums of the samples of each
    code, and so does the distortion: ||X||^2 - 2 <X R, Y> + ||Y||^2.
    """
    best = start
    rotation, tables, value, _ = start
    borders = _borders(tables)

    def improved() -> RotatedTables:
        return best

    for turn in range(max(1, max_iter)):
        searched = nearest.Tables([nearest.Table(one, exact=False) for one in tables])
        here = rotation.astype(rows.dtype)
        cells = yield rows.fold(_cells, here, searched)
        sums, counts = cells[::2], cells[1::2]
        with nearest.single_threaded_blas():
            if turn == 0:
                inner = float((_products(sums, tables) * rotation).sum())
                value = squares - 2 * inner + _squares_of(tables, counts)
                best = best._replace(loss=value)
            if max_iter == 0:
                break
            task = rows.task.begin("iteration")
            axes = np.split(rotation, borders[1:-1], axis=1)
            tables = [
                cell_means(own @ part, n, table, "sqeuclidean")
                for own, part, table, n in zip(sums, axes, tables, counts, strict=True)
            ]
            u, s, vt = np.linalg.svd(_products(sums, tables), full_matrices=False)
            rotation = u @ vt
        new = squares - 2 * float(s.sum()) + _squares_of(tables, counts)
        for j, (begin, end) in enumerate(pairwise(borders)):
            if not counts[j].all():
                codes = yield rows.map(_codes, here, searched, j)
                part = rows.view(turned, here[:, begin:end], width=end - begin)
                tables[j] = yield from repaired(
                    part, codes, tables[j], counts[j], "sqeuclidean", "split"
                )
        if new < best.loss:
            best = RotatedTables(rotation, tables, new, turn + 1)
        if task.end(improved) or value - new <= tol * value:
            break
        value = new
    return improved()


def _cells(
    block: Block, rotation: np.ndarray, tables: nearest.Tables
) -> tuple[Any, ...]:
    """Return sums and counts of the rows with each code, for each slice."""
    be = block.be
    found: list[Any] = []
    codes = nearest.nearest_product(turned(block, rotation), tables)
    for j, table in enumerate(tables):
        code = be.contiguous(codes[:, j])
        found += be.cell_sums(block.x, code, len(table), block.w)
    return tuple(found)


def _codes(
    block: Block, rotation: np.ndarray, tables: nearest.Tables, j: int
) -> tuple[Any, ...]:
    return (nearest.nearest_product(turned(block, rotation), tables)[:, j],)


def _products(sums: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return X^T Y, from the sums of the rows with each code."""
    return np.hstack([own.T @ table for own, table in zip(sums, tables, strict=True)])


def _squares_of(tables: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> float:
    """Return the weighted sum of the squared norms of the reconstructions."""
    pairs = zip(tables, counts, strict=True)
    return float(
        sum(n @ np.square(table, dtype=np.float64).sum(1) for table, n in pairs)
    )


def _completed(frame: np.ndarray) -> np.ndarray:
    """Return an orthogonal matrix that begins with these orthonormal columns."""
    if frame.shape[1] == len(frame):
        return frame
    whole = np.linalg.qr(frame, mode="complete")[0]
    whole[:, : frame.shape[1]] = frame
    return whole


def whole_rotation(
    basis: np.ndarray, rotation: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return functions that rotate rows of all features, and rotate them back.

    The rotation is given by what it makes of the rows of a span.  Among the rotations
    that agree, the one returned moves only the span and its image, which takes no
    matrix of shape (n_features, n_features).

    Parameters
    ----------
    basis : ndarray of shape (n_features, rank)
        Basis of the span, in orthonormal columns.
    rotation : ndarray of shape (rank, n_features)
        The images of the columns.
    """
    both = np.linalg.qr(np.hstack([basis, rotation.T]))[0]
    there = _completed(both.T @ basis) @ _completed(both.T @ rotation.T).T
    change = there - np.eye(len(there))
    return (
        lambda rows: rows + (rows @ both) @ change @ both.T,
        lambda rows: rows + (rows @ both) @ change.T @ both.T,
    )
