"""The best paths through a trellis, and the levels of paths."""

from typing import Any, NamedTuple

import numpy as np

from skvq._checks import naming
from skvq.nearest.backends.base import Backend, Plan
from skvq.nearest.metrics import why_out_of_reach
from skvq.nearest.searches.flat import check_finite
from skvq.nearest.searches.levels import rounded_up, row_plan
from skvq.nearest.tables import Columns, compute_dtype, fetched, power_of_two_scale
from skvq.nearest.threads import even_chunk
from skvq.nearest.trellis import Trellis


class Options(NamedTuple):
    """The arguments of `skvq.nearest.viterbi`."""

    trellis: Trellis
    rates: tuple[int, ...]
    ends: str
    as_levels: bool
    distances: bool
    dtype: Any


class TrellisForm(NamedTuple):
    """Alphabets prepared for the search."""

    trellis: Trellis
    rates: tuple[int, ...]
    steps: np.ndarray  # (n_steps,), the features that have bits
    levels: np.ndarray  # levels of all alphabets, scaled
    begins: np.ndarray  # (n_features,), begin of each feature's levels
    # With subsets: the value between levels i and i + 4 of an alphabet from which on
    # the second is nearer.
    edges: np.ndarray
    edge_begins: np.ndarray  # (n_features,)
    scale: float  # power of two that keeps squares from over- and underflowing
    dtype: np.dtype


def viterbi(
    be: Backend, X: Any, states: Any, alphabets: Columns, options: Any
) -> tuple[Any, ...]:
    """Return codes, and distances or None; see `skvq.nearest.viterbi`."""
    own = alphabets.form("dtype", lambda: _dtype(alphabets))
    dtype = np.result_type(compute_dtype(be.numpy_dtype(X)), own)
    asked = options.trellis, options.rates, dtype
    form = alphabets.form(
        ("trellis", *asked), lambda: _make_form(alphabets.arrays, *asked)
    )
    search = alphabets.form(
        ("trellis", *asked, be.key), lambda: be.trellis_search(form)
    )
    n, d = X.shape
    # A chunk is whole groups of rows that are searched together.
    chunk = even_chunk(n, search.tile_rows, search.work)
    chunk = -(-chunk // search.group) * search.group
    plan = Plan(chunk, search.elements, search.work, plain=True)

    def tile(rows: slice) -> tuple[Any, ...]:
        return search(
            be.cast(X[rows, :], dtype),
            None if states is None else states[rows],
            options.ends,
            options.as_levels,
            options.distances,
            options.dtype,
        )

    outputs = [((d,), be.code_dtype(options.dtype)), ((), np.float64)]
    codes, found = be.over_rows(n, plan, tile, outputs)
    if n and not bool(be.xp.all(be.xp.isfinite(found))):
        largest = max(float(be.xp.max(X)), -float(be.xp.min(X)))
        raise ValueError(why_out_of_reach(largest))
    if not options.distances:
        return codes, None
    with np.errstate(over="ignore"):
        found = found / form.scale / form.scale
    check_finite(be, found, "alphabets")
    return codes, found


def _dtype(alphabets: Columns) -> np.dtype:
    with naming("alphabets"):
        dtypes = [compute_dtype(np.asarray(fetched(a)).dtype) for a in alphabets.arrays]
    return np.result_type(np.float32, *dtypes)


def _make_form(
    arrays: Any, trellis: Trellis, rates: Any, dtype: np.dtype
) -> TrellisForm:
    # An array that features share is checked and kept once ...
    numbers: dict[int, int] = {}
    distinct: list[np.ndarray] = []
    for j, (array, rate) in enumerate(zip(arrays, rates, strict=True)):
        # ... except for its length, since the features' rates may differ.
        levels = _checked(fetched(array), trellis, rate, f"alphabets[{j}]", dtype)
        if id(array) not in numbers:
            numbers[id(array)] = len(distinct)
            distinct.append(levels)
    levels = np.concatenate([*distinct, np.empty(0, dtype)])
    scale = power_of_two_scale(float(np.abs(levels).max(initial=0.0)), dtype)
    levels *= dtype.type(scale)
    parts = [np.empty(0, dtype)] * len(distinct)
    if trellis.has_subsets:
        parts = [_edges(own * dtype.type(scale)) for own in distinct]
    number = np.array([numbers[id(array)] for array in arrays], dtype=np.intp)
    begins, edge_begins = (
        np.cumsum([0, *map(len, each)], dtype=np.int64)[number]
        for each in (distinct, parts)
    )
    edges = np.concatenate([*parts, np.empty(0, dtype)])
    steps = np.flatnonzero(rates).astype(np.int64)
    return TrellisForm(
        trellis, rates, steps, levels, begins, edges, edge_begins, scale, dtype
    )


def _edges(levels: np.ndarray) -> np.ndarray:
    """Return the edges between each level and the next one of its subset."""
    wide = levels.astype(np.float64)
    return rounded_up(0.5 * wide[:-4] + 0.5 * wide[4:], levels.dtype)


def _checked(
    levels: Any, trellis: Trellis, rate: int, name: str, dtype: Any
) -> np.ndarray:
    """Return levels as an array; raise unless they suit the trellis."""
    levels, size = np.asarray(levels), trellis.alphabet_size(rate)
    if levels.shape != (size,):
        raise ValueError(
            f"{name} has shape {levels.shape}; expected ({size},) for {rate} bits."
        )
    if levels.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {levels.dtype}; expected real numbers.")
    # Wider dtypes than float64 may exceed its range.
    with np.errstate(over="ignore"):
        levels = levels.astype(dtype)
    if not np.isfinite(levels).all():
        raise ValueError(f"{name} holds other than finite numbers of {dtype}.")
    if trellis.has_subsets and (levels[1:] < levels[:-1]).any():
        raise ValueError(f"{name} is not in ascending order.")
    return levels


def trellis_levels(
    be: Backend,
    codes: Any,
    states: Any,
    ends: Any,
    rates: Any,
    trellis: Any,
    dtype: Any,
) -> Any:
    """Return indices into the alphabets; see `skvq.nearest.trellis_levels`."""
    k, before = trellis.step_bits, trellis.n_forgetting
    steps = np.flatnonzero(rates)
    within = np.maximum(np.asarray(rates, dtype=np.int64)[steps] - 1, 0)
    shifts = be.send(within if trellis.has_subsets else np.zeros_like(within))
    places = np.full(len(rates), len(steps))
    places[steps] = np.arange(len(steps))
    if trellis.has_subsets:
        subsets = be.send(trellis.subsets.astype(np.int64))

    def tile(rows: slice) -> tuple[Any, ...]:
        code = be.cast(codes[rows, :], np.int64)
        n = code.shape[0]
        nothing = be.zeros((n, 1), np.int64)
        if not len(steps):
            return (code,)
        features = be.take(be.permuted(code, (1, 0)), steps)
        code = be.permuted(features, (1, 0))
        bits = code >> shifts
        # A window holds the bits of the last steps.  The first windows also hold bits
        # of the state in which the path begins.
        if ends == "tail_biting":
            head = bits[:, len(steps) - before :]
        else:
            state = nothing if states is None else states[rows][:, None]
            places_of = [k * i for i in reversed(range(before))]
            parts = [(state >> shift) & (2**k - 1) for shift in places_of]
            head = be.concat(parts, axis=1)
        stream = be.concat([head, bits], axis=1)
        window = be.zeros((n, len(steps)), np.int64)
        for i in range(before + 1):
            window = (window << k) | stream[:, i : i + len(steps)]
        window = window & (trellis.n_windows - 1)
        if trellis.has_subsets:
            least = be.xp.ones_like(code) << shifts
            window = 4 * (code & (least - 1)) + be.look_up(subsets, window)
        if len(steps) == len(rates):
            return (window,)
        window = be.concat([window, nothing], axis=1)
        columns = be.take(be.permuted(window, (1, 0)), places)
        return (be.permuted(columns, (1, 0)),)

    n, d = codes.shape
    plan = row_plan(d, copies=8)
    return be.over_rows(n, plan, tile, [((d,), dtype)])[0]
