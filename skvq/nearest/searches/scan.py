"""The rows of packed codes with the smallest sums of table entries."""

from typing import Any

import numpy as np

from skvq.nearest.backends.host_scan import Best
from skvq.nearest.tables import Packed
from skvq.nearest.threads import even_chunk, map_plain_tiles

# Rows of a chunk, of which a multiple begins a block of the compiled library.
_CHUNK_ROWS, _BLOCK = 2**17, 256
# What a look-up costs, in multiply-adds, for the choice of threads.
_WORK = 8.0


def scan(be: Any, codes: Packed, tables: np.ndarray, k: int) -> tuple[Any, ...]:
    """Return indices and scores of the best rows; see `skvq.nearest.scan`."""
    n, n_queries = len(codes), len(tables)
    k = min(k, n)
    if not k or not n_queries:
        return np.zeros((n_queries, k), np.intp), np.zeros((n_queries, k))
    scanner = be.scanner(codes, tables)
    found: list[Best] = []

    def make_worker() -> Any:
        best = Best.none(n_queries, k)
        found.append(best)
        return scanner(best)

    work = _WORK * n_queries * len(codes.columns)
    chunk = -(-even_chunk(n, _CHUNK_ROWS, work) // _BLOCK) * _BLOCK
    map_plain_tiles(make_worker, n, chunk, work)
    scores, rows = found[0]
    if len(found) > 1:
        scores, rows = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
    order = np.lexsort((rows, scores), axis=1)[:, :k]
    query = np.arange(n_queries)[:, None]
    return rows[query, order].astype(np.intp, copy=False), scores[query, order]


def most_score(codes: Packed, tables: np.ndarray) -> float:
    """Return what scores, and sums on the way to them, may reach at most.

    Parameters
    ----------
    codes : Packed
        The codes.
    tables : ndarray of shape (n_queries, n_entries)
        Real numbers; of others than finite ones, neither is the result.
    """
    low, high = tables.min(initial=0), tables.max(initial=0)
    sums = len(codes.columns) * max(-float(low), float(high))
    return max(sums, sums * codes.most_factor + codes.most_offset)
