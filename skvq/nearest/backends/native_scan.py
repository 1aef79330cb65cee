"""Scans of packed codes by the compiled library, as `native/scan.cc` describes them."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skvq.nearest.backends.host_scan import Best, Column, check_codes
from skvq.nearest.native import TYPES
from skvq.nearest.threads import aligned_empty, scratch

# Rows in a block.
_BLOCK = 256
# Limits of a call, some 20 ms: look-ups, if all have to be made, where each row's work
# in the heap counts as so many; or bytes that are transposed.
_CALL_WORK, _HEAP_WORK = 2**24, 64


class _Task(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_void_p),
        ("n_rows", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("n_bytes", ctypes.c_int64),
        ("columns", ctypes.c_void_p),
        ("n_columns", ctypes.c_int64),
        ("factor", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("n_entries", ctypes.c_int64),
        ("n_queries", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("scores", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("type", ctypes.c_int32),
    ]


class _Memory(NamedTuple):
    """An array, or nothing, and its address."""

    array: np.ndarray | None = None
    address: int | None = None

    @classmethod
    def of(cls, array: np.ndarray) -> "_Memory":
        return cls(array, array.ctypes.data)

    def past(self, n_bytes: int) -> int | None:
        """Return the address n_bytes after the first."""
        return None if self.address is None else self.address + n_bytes


def declare(library: ctypes.CDLL) -> None:
    """Declare the arguments and results of the library's functions."""
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    library.skvq_scan.argtypes = [ctypes.POINTER(_Task)]
    library.skvq_scan.restype = None
    library.skvq_scan_scratch.argtypes = [integer, integer]
    library.skvq_scan_scratch.restype = integer
    library.skvq_scan_blocks.argtypes = [pointer, integer, integer, integer, pointer]
    library.skvq_scan_blocks.restype = None


def takes(codes: Any) -> bool:
    """Return whether the library scans these codes: no column crosses a byte border."""
    within = (column.begin % 8 + column.width <= 8 for column in codes.columns)
    return codes.n_bytes > 0 and all(within)


class Scanner:
    """Lets rows of packed codes compete for the best, kept as heaps, worst at the top.

    Parameters
    ----------
    library : CDLL
        The library.
    codes : Packed
        Codes that `takes` accepts.
    tables : ndarray of shape (n_queries, n_entries)
        Contiguous, in the dtype to compute in.
    """

    def __init__(self, library: ctypes.CDLL, codes: Any, tables: np.ndarray) -> None:
        self._library, self._codes, self._tables = library, codes, tables
        self._columns = codes.form("columns", lambda: _Memory.of(_columns(codes)))
        self._whole: tuple[Any, ...] | None = None
        if codes.is_checked:
            n, dtype = len(codes), tables.dtype
            self._whole = (
                codes.form("blocks", lambda: self._blocks(0, n, _kept)),
                *codes.form(("terms", dtype), lambda: self._terms(0, n, _kept)),
            )

    def __call__(self, best: Best) -> Callable[[int, int], None]:
        """Return a function of `start`, which begins a block, and `stop`.

        It lets the rows in between compete.

        Parameters
        ----------
        best : Best
            The best rows of one thread, whose rows ascend.
        """
        codes, tables, scan_rows = self._codes, self._tables, self._library.skvq_scan
        n_columns, n_queries = len(codes.columns), len(tables)
        n_bytes = self._library.skvq_scan_scratch(codes.n_bytes, n_columns)
        memory = _Memory.of(np.empty(n_bytes, np.uint8))
        # For each query: its table, its best scores and its best rows.
        own = [(_Memory.of(each), each.strides[0]) for each in (tables, *best)]
        task = _Task(
            n_bytes=codes.n_bytes,
            columns=self._columns.address,
            n_columns=n_columns,
            n_entries=tables.shape[1],
            k=best.rows.shape[1],
            scratch=memory.address,
            type=TYPES[tables.dtype.name],
        )
        # Rows are cut first, so that the rows of a call stay in cache for all queries.
        most = max(1, _CALL_WORK // (n_columns + _HEAP_WORK))
        rows_each = max(_BLOCK, most // _BLOCK * _BLOCK)
        queries_each = max(1, most // min(rows_each, len(codes)))

        # This argument keeps the memory alive for as long as its address is used.
        def worker(start: int, stop: int, memory: _Memory = memory) -> None:
            whole, first = self._whole, 0
            if whole is None:
                parts = self._blocks(start, stop, scratch)
                whole, first = (parts, *self._terms(start, stop, scratch)), start
            blocks, factor, offset = whole
            for row in range(start, stop, rows_each):
                past = row - first
                task.first, task.n_rows = row, min(rows_each, stop - row)
                task.blocks = blocks.past(past * codes.n_bytes)
                task.factor = factor.past(past * tables.itemsize)
                task.offset = offset.past(past * tables.itemsize)
                for query in range(0, n_queries, queries_each):
                    task.n_queries = min(queries_each, n_queries - query)
                    task.tables, task.scores, task.rows = (
                        each.past(query * stride) for each, stride in own
                    )
                    scan_rows(task)

        return worker

    def _blocks(self, start: int, stop: int, memory: Callable[..., Any]) -> _Memory:
        """Return rows in blocks, (n_blocks, n_bytes, 256), with checked codes."""
        codes, n_rows = self._codes, stop - start
        shape = -(-n_rows // _BLOCK), codes.n_bytes, _BLOCK
        blocks = memory("blocks", shape, np.uint8)
        some = max(_BLOCK, _CALL_WORK // codes.n_bytes // _BLOCK * _BLOCK)
        for row in range(0, n_rows, some):
            packed = codes.packed[start + row : min(start + row + some, stop)]
            if packed.strides[1] != 1:
                packed = np.ascontiguousarray(packed)
            self._library.skvq_scan_blocks(
                packed.ctypes.data,
                packed.strides[0],
                len(packed),
                codes.n_bytes,
                blocks.ctypes.data + row * codes.n_bytes,
            )
        # The check belongs here, since the library trusts the codes that it looks up.
        check_codes(codes, blocks.swapaxes(0, 1).__getitem__, start)
        return _Memory.of(blocks)

    def _terms(
        self, start: int, stop: int, memory: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Return factor and offset of the rows, padded to whole blocks; or nothing.

        If there is a factor, there is an offset, if only of zeros.
        """
        dtype, n_rows = self._tables.dtype, stop - start
        factor, offset = self._codes.terms(slice(start, stop), dtype)
        shape = (-(-n_rows // _BLOCK) * _BLOCK,)

        def whole(name: str, term: np.ndarray | None) -> _Memory:
            filled = memory(name, shape, dtype)
            filled[:n_rows] = 0 if term is None else term
            filled[n_rows:] = filled[n_rows - 1]
            return _Memory.of(filled)

        if factor is None:
            return _Memory(), _Memory() if offset is None else whole("offset", offset)
        return whole("factor", factor), whole("offset", offset)


def _columns(codes: Any) -> np.ndarray:
    """Return the columns in the form of the library."""

    def row(column: Column) -> tuple[Any, ...]:
        byte = min(column.begin // 8, codes.n_bytes - 1)
        shift = max(0, 8 * byte + 8 - column.begin - column.width)
        mask = (1 << column.width) - 1
        return byte, shift, mask, column.start, column.size

    return np.array([row(column) for column in codes.columns], dtype=np.int32)


def _kept(_: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return memory that no later call overwrites."""
    return aligned_empty(shape, dtype)
