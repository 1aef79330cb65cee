"""The rows of packed codes with the smallest sums of table entries."""

from typing import Any

import numpy as np

from skvq.nearest.backends.host_scan import Best
from skvq.nearest.tables import Packed
from skvq.nearest.threads import even_chunk, map_plain_tiles

# Rows in a chunk: a multiple of the blocks of the compiled library.
_CHUNK_ROWS, _BLOCK = 2**17, 256
# Cost of a look-up in multiply-adds, for the choice of threads.
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
    chunk = even_chunk(n, _CHUNK_ROWS, work, _BLOCK)
    map_plain_tiles(make_worker, n, chunk, work)
    scores, rows = found[0]
    if len(found) > 1:
        scores, rows = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
    order = np.lexsort((rows, scores), axis=1)[:, :k]
    query = np.arange(n_queries)[:, None]
    return rows[query, order].astype(np.intp, copy=False), scores[query, order]


def most_score(codes: Packed, tables: np.ndarray) -> float:
    """Return a bound on scores, and on the sums that lead to them.

    Parameters
    ----------
    codes : Packed
        The codes.
    tables : ndarray of shape (n_queries, n_entries)
        Real numbers; if one of them is not finite, neither is the result.
    """
    low, high = tables.min(initial=0), tables.max(initial=0)
    sums = len(codes.columns) * max(-float(low), float(high))
    return max(sums, sums * codes.most_factor + codes.most_offset)
