"""Viterbi's search, compiled: the arguments of `native/trellis.cc`, and its parts."""

import ctypes
from typing import Any

import numpy as np

from skvq.nearest.native import TYPES
from skvq.nearest.threads import scratch

# Windows that a call of the library looks at, over all steps and groups of rows: some
# milliseconds, so that interrupts are handled soon.
_MOST_WINDOWS = 5 * 10**6
# Cost of a step beside its windows, in windows.
_STEP = 32
_MOST_ROWS = 1024

_ENDS = {"free": 0, "tail_biting": 1, "given": 2}


class _Trellis(ctypes.Structure):
    """`SkvqTrellis` in trellis.cc."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_features", "n_steps", "n_states")),
        ("step_bits", ctypes.c_int64),
        ("has_subsets", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("feature", "rate", "levels")),
        *((name, ctypes.c_void_p) for name in ("level_begin", "edges", "edge_begin")),
        ("scale", ctypes.c_double),
        ("type", ctypes.c_int32),
    )


class _Task(ctypes.Structure):
    """`SkvqViterbi` in trellis.cc."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n_rows", "row_stride", "column_stride")),
        ("ends", ctypes.c_int64),
        ("states", ctypes.c_void_p),
        ("as_levels", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("code_bytes", ctypes.c_int64),
        ("distances", ctypes.c_void_p),
        ("exact", ctypes.c_int64),
    )


class NativeTrellisSearch:
    """The compiled counterpart of `TrellisSearch`.

    Parameters
    ----------
    lib : CDLL
        The compiled library.
    form : TrellisForm
        The prepared alphabets.
    """

    group: Any
    tile_rows: int
    work: Any

    def __init__(self, lib: ctypes.CDLL, form: Any) -> None:
        trellis, number = form.trellis, TYPES[form.dtype.name]
        self._call = lib.skvq_viterbi
        self._call.argtypes = (*[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int64)
        self._call.restype = None
        for function in (lib.skvq_viterbi_scratch, lib.skvq_viterbi_rows):
            function.restype = ctypes.c_int64
        lib.skvq_viterbi_rows.argtypes = (ctypes.c_int32,)
        lib.skvq_viterbi_scratch.argtypes = (ctypes.c_void_p,)
        arrays = {
            "feature": form.steps,
            "rate": np.array(form.rates, dtype=np.int64),
            "levels": _by_state(form),
            "level_begin": form.begins,
            "edges": form.edges,
            "edge_begin": form.edge_begins,
        }
        self._arrays = arrays  # keeps the memory behind the addresses
        self._trellis = _Trellis(
            n_features=len(form.rates),
            n_steps=len(form.steps),
            n_states=trellis.n_states,
            step_bits=trellis.step_bits,
            has_subsets=trellis.has_subsets,
            scale=form.scale,
            type=number,
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        self._pointer = ctypes.addressof(self._trellis)
        self._bytes = lib.skvq_viterbi_scratch(self._pointer)
        self._dtype, self._n_steps = form.dtype, len(form.steps)
        self.elements = 0
        self.group = lib.skvq_viterbi_rows(number)
        self._per_step = trellis.n_windows + _STEP
        self.work = len(form.rates) * (self._per_step / 2)
        # Counted as if every path were tail-biting.
        groups = _MOST_WINDOWS // max(1, 2 * len(form.rates) * self._per_step)
        self.tile_rows = min(max(1, groups) * self.group, _MOST_ROWS)

    def __call__(
        self, x: Any, states: Any, ends: str, as_levels: bool, exact: Any, dtype: Any
    ) -> tuple[Any, ...]:
        """Return codes and distances of a tile of rows; see `TrellisSearch`."""
        n, d = x.shape
        codes, distances = np.empty((n, d), dtype), np.empty(n)
        x = np.asarray(x, self._dtype)
        if states is not None:
            states = np.ascontiguousarray(states, np.int64)
        memory = scratch("trellis", (self._bytes,), np.uint8)
        task = _Task(
            x=x.ctypes.data,
            n_rows=n,
            row_stride=x.strides[0],
            column_stride=x.strides[1],
            ends=_ENDS[ends],
            states=None if states is None else states.ctypes.data,
            as_levels=as_levels,
            codes=codes.ctypes.data,
            code_bytes=codes.itemsize,
            distances=distances.ctypes.data,
            exact=exact,
        )
        n_steps = self._n_steps * (2 if ends == "tail_biting" else 1)
        most = n_steps
        if n <= self.group:
            most = max(1, min(n_steps, _MOST_WINDOWS // self._per_step))
        asked = self._pointer, ctypes.addressof(task), memory.ctypes.data
        for start in range(0, max(1, n_steps), max(1, most)):
            self._call(*asked, start, min(start + most, n_steps))
        return codes, distances


def _by_state(form: Any) -> np.ndarray:
    """Return levels such that the windows into a state are consecutive."""
    trellis, levels = form.trellis, form.levels
    if trellis.has_subsets:
        return levels
    levels = levels.copy()
    for begin in set(form.begins[form.steps].tolist()):
        own = levels[begin : begin + trellis.n_windows]
        own[...] = own.reshape(-1, trellis.n_states).T.ravel()
    return levels
