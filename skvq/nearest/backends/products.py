"""Scores of Kronecker products: for any library, and in scratch memory for the host."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.threads import scratch

# Scores in a tile: fewer than in the dense search, whose products are longer, so that
# they are still in the inner caches when `argmin` reads them.
_TILE_SCORES = 2**17
_MAX_TILE_ROWS = 4096
# Each sample has a matrix product with this many rows; if the tables are small, several
# samples share one.
_PRODUCT_ROWS = 64
# Rows for which blocks of codewords are prepared, and tiles that are shifted at once.
_MIN_CHUNK_ROWS = 64
_CHUNK_TILES = 16


def scores(be: Any, y: Any, block: Any) -> Any:
    """Return the scores (n_rows, n_codewords) of shifted samples."""
    xp, n, n_prefix = be.xp, y.shape[0], block.n_prefix
    top = y
    for table in block.contract:
        top = _contracted(xp, top, table)
    top = xp.reshape(top, (n, block.width, n_prefix))
    common = _common_terms(xp, y, block)[:, None, :]
    constants = xp.broadcast_to(block.constants[None, ...], (n, 2, n_prefix))
    extended = be.concat([top, common, constants], axis=1)
    extended = xp.reshape(be.permuted(extended, (0, 2, 1)), (n * n_prefix, -1))
    return xp.reshape(xp.matmul(extended, block.weights), (n, -1))


def _columns(xp: Any, y: Any, width: int) -> Any:
    """View each row as a matrix of `width` columns, by its leading index."""
    y = xp.reshape(y, (y.shape[0], width, -1))
    # The property came with NumPy 2.
    return y.mT if hasattr(y, "mT") else y.swapaxes(1, 2)


def _contracted(xp: Any, y: Any, table: Any) -> Any:
    """Replace the leading factor of each row by its products, along the last axis."""
    y = xp.matmul(_columns(xp, y, table.shape[0]), table)
    return xp.reshape(y, (y.shape[0], -1))


def _shorter(xp: Any, y: Any, centre: Any) -> Any:
    rows = xp.reshape(y, (-1, centre.shape[0]))
    return xp.reshape(xp.matmul(rows, centre), (y.shape[0], -1))


def _common_terms(xp: Any, y: Any, block: Any) -> Any:
    """Return the terms that the scores of all v have in common, for each row and u."""
    shorter = _shorter(xp, y, block.last_centre)
    return block.half_norms - _inner(xp, shorter, block.inner)


def _inner(xp: Any, y: Any, factors: Sequence[Any]) -> Any:
    """Return y.(c - centre) for all products c of the factors, (n_rows, n_products)."""
    *prefix, last = factors
    if not prefix:
        return xp.matmul(y, last.shifted.T)
    contracted = y
    for factor in prefix:
        contracted = _contracted(xp, contracted, factor.rows.T)
    columns = _columns(xp, contracted, last.centre.shape[0])
    rest = _inner(xp, _shorter(xp, y, last.centre), prefix)
    result = xp.matmul(columns, last.shifted.T) + rest[:, :, None]
    return xp.reshape(result, (y.shape[0], -1))


# -- on the host -----------------------------------------------------------------------


def tile_shape(block: Any) -> tuple[int, int, int]:
    """Return samples per group, groups per tile, and samples per chunk."""
    n_codewords = block.n_prefix * block.n_last
    rows = int(np.clip(_TILE_SCORES // n_codewords, 2, _MAX_TILE_ROWS))
    group = int(np.clip(_PRODUCT_ROWS // block.n_prefix, 1, rows))
    tile = rows // group
    n_tiles = max(_CHUNK_TILES, -(-_MIN_CHUNK_ROWS // (tile * group)))
    return group, tile, n_tiles * tile * group


def host_tiles(y: np.ndarray, block: Any) -> Iterator[Any]:
    """Yield slices of the rows and their scores, in memory that is reused.

    The scores of a group of samples are one matrix product, one factor of which is what
    the contraction has written: nothing is copied.

    Parameters
    ----------
    y : ndarray of shape (n_rows, d)
        Shifted samples.
    block : CodewordBlock
        The codewords.
    """
    group, tile, _ = tile_shape(block)
    size = group * tile * block.n_prefix * (block.width + 3 + block.n_last)
    memory = scratch("products", (size,), block.dtype)
    n, d = y.shape
    if n % group:
        y = np.concatenate([y, np.zeros((-n % group, d), y.dtype)])
    common = _common_terms(np, y, block).reshape(-1, group * block.n_prefix)
    # Samples lie side by side, as the columns of each group's matrix.
    y = np.ascontiguousarray(y.reshape(-1, group, d).swapaxes(1, 2))
    views = None
    for low in range(0, len(y), tile):
        y_tile, common_tile = y[low : low + tile], common[low : low + tile]
        if views is None or len(views.extended) != len(y_tile):
            views = _Views.cut(memory, block, len(y_tile), group)
        *tables, final = block.contract
        for table in tables:
            y_tile = np.matmul(_grouped(y_tile, len(table)), table)
        np.matmul(_grouped(y_tile, len(final)), final, out=views.top)
        views.extended[:, block.width] = common_tile
        np.matmul(views.columns, block.weights, out=views.scores)
        rows = slice(low * group, min(n, low * group + len(views.by_row)))
        yield rows, views.by_row[: rows.stop - rows.start]


class _Views(NamedTuple):
    """Views of one thread's memory for a tile of samples."""

    extended: np.ndarray  # (n_groups, width + 3, group * n_prefix)
    columns: np.ndarray  # the same, the last two axes swapped
    top: np.ndarray  # its first rows, as the last contraction writes them
    scores: np.ndarray  # (n_groups, group * n_prefix, n_last)
    by_row: np.ndarray  # the same, (n_samples, n_codewords)

    @classmethod
    def cut(cls, memory: np.ndarray, block: Any, n_groups: int, group: int) -> Any:
        n_prefix, n_samples = block.n_prefix, n_groups * group
        shape = (n_groups, block.width + 3, group * n_prefix)
        size = n_samples * n_prefix
        extended = memory[: size * (block.width + 3)].reshape(shape)
        constants = extended[:, block.width + 1 :]
        constants.reshape(n_groups, 2, group, n_prefix)[...] = block.constants[:, None]
        top = extended[:, : block.width]
        scores = memory[extended.size :][: size * block.n_last]
        return cls(
            extended,
            extended.swapaxes(1, 2),
            top.reshape(n_groups, -1, block.contract[-1].shape[1]),
            scores.reshape(n_groups, -1, block.n_last),
            scores.reshape(n_samples, -1),
        )


def _grouped(y: np.ndarray, width: int) -> np.ndarray:
    """View each matrix of the stack as `width` columns, by its leading index."""
    return y.reshape(len(y), width, -1).swapaxes(1, 2)
