"""Scans of packed codes for the rows with the smallest sums of table entries."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.threads import scratch

# Numbers in a tile: the table indices of all columns, and the sums.
_TILE_ELEMENTS = 2**17
_MIN_TILE_ROWS, _MAX_TILE_ROWS = 256, 2**14
_NO_ROW = 2**63 - 1


class Best(NamedTuple):
    """The k best rows of each query; free places hold infinity and the largest int."""

    scores: np.ndarray  # (n_queries, k), float64
    rows: np.ndarray  # (n_queries, k), int64

    @classmethod
    def none(cls, n_queries: int, k: int) -> "Best":
        """Return the start, in which all places are free."""
        shape = n_queries, k
        return cls(np.full(shape, np.inf), np.full(shape, _NO_ROW, np.int64))


class Column(NamedTuple):
    """The place of a column's codes in the bytes of a row."""

    begin: int  # the first bit, counted from the highest of the first byte
    width: int  # number of bits
    size: int  # bound of the codes
    start: int  # begin of its entries in the table of all columns

    def codes(self, byte: Callable[[int], np.ndarray]) -> np.ndarray:
        """Return the codes, given a function that returns a byte for all rows."""
        first, end = self.begin // 8, -(-(self.begin + self.width) // 8)
        if first == end:  # a single codeword takes no bits
            return np.zeros(1, np.uint8)
        found = byte(first)
        if end > first + 1:
            found = found.astype(np.int64)
        for i in range(first + 1, end):
            found = found << 8 | byte(i)
        after = 8 * end - self.begin - self.width
        found = found >> after if after else found
        whole = self.begin % 8 == 0
        return found if whole else found & ((1 << self.width) - 1)


def columns_of(sizes: Sequence[int]) -> tuple[Column, ...]:
    """Return the places of columns that follow each other in as few bits as needed."""
    columns, begin, start = [], 0, 0
    for size in sizes:
        width = (size - 1).bit_length()
        columns.append(Column(begin, width, size, start))
        begin, start = begin + width, start + size
    return tuple(columns)


def check_codes(codes: Any, byte: Callable[[int], np.ndarray], first: int) -> None:
    """Raise unless the codes of some rows, and the padding after them, are valid.

    Parameters
    ----------
    codes : Packed
        The codes that they belong to.
    byte : callable
        Returns a byte for all rows.
    first : int
        Number of the first row.
    """
    unused = -codes.n_bits % 8
    if unused:
        bad = np.flatnonzero(byte(codes.n_bytes - 1) & ((1 << unused) - 1))
        if bad.size:
            raise ValueError(
                f"the padding bits at the end of row {first + bad[0]} of packed are "
                "not zero: it is corrupt, or was packed with other sizes or another "
                "method"
            )
    for j, column in enumerate(codes.columns):
        if column.size == 1 << column.width:
            continue  # these bits cannot hold a code that is too large
        found = column.codes(byte)
        bad = np.flatnonzero(found >= column.size)
        if bad.size:
            raise ValueError(
                f"packed holds code {found.flat[bad[0]]} in row {first + bad[0]}, "
                f"column {j}, which has {column.size} codewords: it is corrupt, or was "
                "packed with other sizes or another method"
            )


def scan_rows(
    codes: Any, tables: np.ndarray, best: Best, start: int, stop: int
) -> None:
    """Let rows start..stop compete for the best, sorted; see `NumpyBackend.scanner`."""
    n_columns, dtype = len(codes.columns), tables.dtype
    most = _TILE_ELEMENTS // (n_columns + 3)
    most = min(max(most, _MIN_TILE_ROWS), _MAX_TILE_ROWS)
    for low in range(start, stop, most):
        rows = slice(low, min(low + most, stop))
        n_rows = rows.stop - low
        packed = codes.packed[rows]

        def byte(i: int, packed: np.ndarray = packed) -> np.ndarray:
            return packed[:, i]

        if not codes.is_checked:
            check_codes(codes, byte, low)
        places = scratch("places", (n_columns, n_rows), np.intp)
        for place, column in zip(places, codes.columns, strict=True):
            place[:] = column.codes(byte)
            place += column.start
        factor, offset = codes.terms(rows, dtype)
        sums, part = scratch("sums", (2, n_rows), dtype)
        for table, *found in zip(tables, *best, strict=True):
            np.take(table, places[0], out=sums, mode="clip")
            for place in places[1:]:
                np.take(table, place, out=part, mode="clip")
                sums += part
            # Product and sum are rounded separately, as in the compiled library.
            if factor is not None:
                sums *= factor
            if offset is not None:
                sums += offset
            _let_in(sums, low, *found)


def _let_in(sums: np.ndarray, first: int, scores: np.ndarray, rows: np.ndarray) -> None:
    """Let rows, which follow those seen, compete for the best of one query."""
    k = len(scores)
    near = np.flatnonzero(sums < scores[-1])
    if not near.size:
        return
    if near.size > k:
        near = near[sums[near] <= np.partition(sums[near], k - 1)[k - 1]]
    found = np.append(scores, sums[near])
    order = np.argsort(found, kind="stable")[:k]
    rows[:] = np.append(rows, near + first)[order]
    scores[:] = found[order]
    scores += 0.0  # turns -0 into 0
