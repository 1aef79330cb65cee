"""Cells of scalars by the compiled library: the arguments of `native/cells.cc`."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from skvq.nearest.backends.levels import EqualCells
from skvq.nearest.native import TYPES
from skvq.nearest.threads import even_chunk, map_plain_tiles

# Numbers per call into the library: some milliseconds.
_CALL_NUMBERS = 2**20
# Cost of a number in multiply-adds, for the choice of threads.
_WORK = 10.0
# Up to this many edges, comparing with each edge is faster than buckets.
_FEW_EDGES = 32
# Buckets per edge of a column: most buckets have at most one edge.
_BUCKETS = 4

_POINTERS = "edges begin start per_unit last buckets first".split()
_CELLS = "low width size last".split()


class _Edges(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("period", ctypes.c_int64),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("step", ctypes.c_int32),
    ]


class _EqualCells(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("period", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("start", "per_unit", "most")),
        ("doubt", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _CELLS),
    ]


def declare(library: ctypes.CDLL) -> None:
    """Declare the arguments and results of the library's functions."""
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    for name in ("lanes", "scratch"):
        function = getattr(library, f"skvq_cells_{name}")
        function.restype, function.argtypes = integer, [integer]
    for function in (library.skvq_cells_between, library.skvq_equal_cells):
        function.restype = None
        function.argtypes = [pointer, pointer, pointer, integer, pointer]


class Edges:
    """Edges of columns in the form of the library.

    Parameters
    ----------
    be : NativeBackend
        The backend of the library.
    arrays : sequence of 1-d ndarrays
        Edges of each column, ascending, in the dtype of the values to be placed, at
        most float64.
    """

    cut: _Edges

    def __init__(self, be: Any, arrays: Sequence[np.ndarray]) -> None:
        dtype = np.dtype(np.float32 if arrays[0].itemsize <= 4 else np.float64)
        arrays = [edge.astype(dtype) for edge in arrays]
        most = max(map(len, arrays))
        if most <= _FEW_EDGES:
            table = np.full((most, len(arrays)), np.nan, dtype)
            for j, edge in enumerate(arrays):
                table[: len(edge), j] = edge
            step, places, tables = 0, {"edges": table}, dict[str, np.ndarray]()
        else:
            step, places, tables = _bucketed(arrays, dtype)
        places, period = _repeated(be, places, dtype)
        self._arrays = places | tables  # keeps the memory behind the addresses
        self.cut = _Edges(
            type=TYPES[dtype.name],
            period=period,
            count=most,
            step=step,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )


def _bucketed(
    arrays: Sequence[np.ndarray], dtype: np.dtype
) -> tuple[int, dict[Any, Any], dict[Any, Any]]:
    """Return equal buckets over the edges of each column, and the edges before each.

    The bucket of a number is computed by monotone steps, so that edges in the buckets
    below it are certainly below the number, whatever the rounding.
    """
    starts, scales = np.zeros((2, len(arrays)), dtype)
    sizes = np.array([_BUCKETS * (len(edge) + 1) for edge in arrays])
    # These are never rounded up: there is no bucket behind the last.
    last = (sizes - 1).astype(dtype)
    last = np.where(last > sizes - 1, np.nextafter(last, dtype.type(0)), last)
    before, most = [], 0
    for j, edge in enumerate(arrays):
        bucket = np.zeros(len(edge), np.intp)
        with np.errstate(over="ignore", invalid="ignore"):
            span = edge[-1] - edge[0] if len(edge) else dtype.type(0)
            if 0 < span < np.inf:
                starts[j] = edge[0]
                scales[j] = min(sizes[j] / float(span), float(np.finfo(dtype).max))
                place = (edge - starts[j]) * scales[j]
                bucket = np.minimum(place, last[j]).astype(np.intp)
        counts = np.bincount(bucket, minlength=sizes[j])
        most = max(most, int(counts.max()))
        before.append(np.cumsum(counts) - counts)
    step = 2 ** (most.bit_length() - 1)
    ends = np.full(2 * step - 1, np.nan, dtype)
    edges = [part for edge in arrays for part in (edge, ends)]
    lengths = np.array([len(edge) + len(ends) for edge in arrays])
    places = {
        "start": starts,
        "per_unit": scales,
        "last": last,
    }
    tables = {
        "edges": np.concatenate(edges),
        "begin": np.cumsum(lengths) - lengths,
        "buckets": np.concatenate(before).astype(np.int32),
        "first": np.cumsum(sizes) - sizes,
    }
    return step, places, tables


def _repeated(
    be: Any, rows: dict[Any, Any], dtype: np.dtype
) -> tuple[dict[Any, Any], int]:
    """Return the data of columns, repeated so often that they fill whole registers."""
    lanes = be.library.skvq_cells_lanes(TYPES[dtype.name])
    n_columns = next(iter(rows.values())).shape[-1]
    times = lanes // math.gcd(lanes, n_columns)
    return {name: np.tile(row, times) for name, row in rows.items()}, n_columns * times


def cells_between(be: Any, X: np.ndarray, edges: Edges, dtype: np.dtype) -> np.ndarray:
    """Return how many edges X has reached; see `Backend.cells_between`."""
    return _found(be, be.library.skvq_cells_between, X, edges.cut, dtype)


def equal_cells(be: Any, X: np.ndarray, cells: EqualCells, dtype: np.dtype) -> Any:
    """Return the cells of X, see `Backend.equal_cells`; None if that cannot be done."""
    precision = cells.precision(X.dtype)
    if precision is None or X.itemsize > 8 or max(cells.sizes) >= 2**31:
        return None
    own = np.dtype(precision)
    sizes = np.asarray(cells.sizes, np.float64)
    rows = {
        "start": cells.start(own).astype(own),
        "per_unit": cells.per_unit.astype(own),
        "most": (sizes - 1).astype(own),
        "low": cells.low,
        "width": cells.width,
        "size": sizes,
        "last": cells.last,
    }
    rows, period = _repeated(be, rows, own)
    cut = _EqualCells(
        type=TYPES[own.name],
        period=period,
        doubt=2 * cells.doubt(own),
        **{name: row.ctypes.data for name, row in rows.items()},
    )
    return _found(be, be.library.skvq_equal_cells, X, cut, dtype)


def _found(be: Any, search: Any, X: np.ndarray, cut: Any, dtype: np.dtype) -> Any:
    """Return the codes of X that the library finds."""
    n, d = X.shape
    codes = np.empty(X.shape, dtype.newbyteorder("="))
    n_bytes = be.library.skvq_cells_scratch(cut.period)

    def worker(start: int, stop: int) -> None:
        rows, _kept = be.rows(X[start:stop])
        search(
            ctypes.byref(cut),
            ctypes.byref(rows),
            codes[start:].ctypes.data,
            codes.itemsize,
            be.memory(n_bytes),
        )

    if codes.size:
        chunk = even_chunk(n, max(1, _CALL_NUMBERS // d), _WORK * d)
        map_plain_tiles(lambda: worker, n, chunk, _WORK * d)
    return codes.astype(dtype, copy=False)
