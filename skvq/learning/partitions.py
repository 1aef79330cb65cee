"""Rows of a Dask array: passes run where the rows are, and only sums come back.

A partition is a run of consecutive blocks, as many as fit one of the array's own
chunks.  In a pass, one task per partition evaluates its blocks, tasks above these join
siblings, and the last one closes the sums.  What reaches the client is as large as one
sum, however many partitions there are.  States of rows stay on the workers.  Tasks
compute on one thread, since Dask runs several of them at a time.

Functions and arguments of a pass, tables for example, are one value of the graph, on
which all of its tasks depend.  Tasks are named by numbers, so nothing is hashed.
"""

import math
import threading
from collections.abc import Sequence
from copy import copy
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import dask.array
import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq._checks import refusal
from skvq._validation import warn
from skvq._weights import (
    ONE,
    WeightsSeen,
    WeightUnit,
    in_units,
    look_at_weights,
    unit_of_all,
    weights_as_given,
)
from skvq.learning.finite import first_infinite
from skvq.learning.rows import (
    HELD_BYTES,
    Block,
    Part,
    Piece,
    Request,
    Rows,
    View,
    add,
    block_rows,
    close,
    merge,
)

# Number of results that one task joins.
_FAN_IN = 8
# Dask's warning about large graphs is switched off: a pass holds each table only once.
_LARGE_TABLES = {"distributed.admin.large-graph-warning-threshold": "1TB"}


class _LargeTables:
    """Lets graphs be large while passes run, in any thread.

    Dask's configuration is global.  A thread that restored it while another thread is
    in its own pass would disturb that pass, so the last one to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._running = threading.Lock(), 0
        self._set: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._running == 0:
                self._set = dask.config.set(_LARGE_TABLES)
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._set.__exit__(*error)


_large_tables = _LargeTables()


def dask_rows(X: Any, sample_weight: Any = None) -> tuple[Rows, WeightUnit]:
    """Return the rows of a Dask array, and the unit that their weights are counted in.

    Parameters
    ----------
    X : dask.array.Array of shape (n_samples, n_features)
        Real numbers, in chunks that are NumPy arrays of known lengths.  The first pass
        checks that they are finite.
    sample_weight : dask.array.Array or array-like of shape (n_samples,), optional
        Weights of the samples.

    Raises
    ------
    ValueError
        If the weights are not valid.
    """
    if np.isnan(X.shape[0]):
        raise ValueError(
            "X has chunks of unknown lengths: call X.compute_chunk_sizes() first, or, "
            "of a dataframe, give X.to_dask_array(lengths=True)."
        )
    X = _in_whole_blocks(X)
    if sample_weight is None:
        return Rows.of(Partitions(X)), ONE
    weights = weights_as_given(sample_weight, X.shape[0])
    if nearest.is_dask(sample_weight):
        weights = weights.rechunk((X.chunks[0],))
    else:
        # Arrays of the client travel once, not in each pass, and are not hashed.
        with _large_tables:
            weights = dask.array.from_array(weights, (X.chunks[0],), name=False)
            weights = weights.persist()
    chunks = weights.to_delayed()
    seen = _look_at_all(chunks, X, None)
    exponent = max(one.exponent for one in seen)
    if np.ldexp(min(one.smallest for one in seen), -exponent) == 0:
        seen = _look_at_all(chunks, X, exponent)
    exponent, unit, are_one = unit_of_all(seen)
    if are_one and all(one.n_heavy.sum() == one.n_rows for one in seen):
        return Rows.of(Partitions(X)), unit
    scale = _Scale(exponent, unit, not are_one)
    return Rows.of(Partitions(X, _Weights(weights, chunks, seen, scale))), unit


def _look_at_all(chunks: Any, X: Any, exponent: int | None) -> Sequence[WeightsSeen]:
    """Return what is known of the weights, in chunks like those of X."""
    lengths, size = X.chunks[0], block_rows(X.shape[1])
    look = dask.delayed(look_at_weights, pure=False)
    tasks = [
        look(w, start, size, exponent)
        for w, start in zip(chunks, _starts(lengths), strict=True)
    ]
    seen = dask.compute(*tasks)
    for one, length, start in zip(seen, lengths, _starts(lengths), strict=True):
        if one.n_rows != length:
            raise ValueError(
                f"sample_weight has a chunk of {one.n_rows} weights, from number "
                f"{start} on, where it declares {length}: "
                "sample_weight.compute_chunk_sizes() counts them."
            )
    return seen


def _in_whole_blocks(X: Any) -> Any:
    """Return the array in chunks of whole blocks, about as large as its own chunks."""
    n_features = X.shape[1]
    size = block_rows(n_features)
    if X.numblocks[1] == 1 and not any(start % size for start in _starts(X.chunks[0])):
        return X
    rows, columns = map(max, X.chunks)
    n_blocks = max(1, rows * columns // (size * n_features))
    return X.rechunk({0: n_blocks * size, 1: -1})


def _starts(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]


class _Scale(NamedTuple):
    """How weights are counted."""

    exponent: int  # power of two that all weights are scaled by
    unit: WeightUnit
    differ: bool  # whether there are others than zero and one


class _Weights(NamedTuple):
    """Weights, in partitions like those of the rows."""

    array: Any
    chunks: Sequence[Any]
    seen: Sequence[WeightsSeen]
    scale: _Scale


class _Place(NamedTuple):
    """Where a partition lies, and what its array declares of it."""

    sample: int  # number of its first row, rows of weight zero included
    block: int  # number of its first block
    first: int  # number of its first row, rows of weight zero left out
    shape: tuple[int, int]
    dtype: np.dtype
    weights: _Scale | None


class _Partition(NamedTuple):
    """A partition as an argument of tasks."""

    x: Any  # its rows, or its `Part`
    w: Any
    place: _Place
    n_blocks: int


class _Pass(NamedTuple):
    """The requests of a pass, without sources and states."""

    backend: str
    requests: tuple[Request, ...]


class _PassResult(NamedTuple):
    """The results of some partitions."""

    stacks: list[list[Piece]]  # one for each request
    wrong: tuple[float, str]  # the first row that is not finite, and the message
    engines: frozenset[str]


class _KeptState(NamedTuple):
    """A state that stays beside the rows."""

    parts: dict[int, Any]  # states of all requests of a pass, by partition
    place: int  # index of this state among the requests


class Partitions:
    """The rows of a Dask array; a source of `Rows`, like `Part`.

    Parameters
    ----------
    X : dask.array.Array
        In chunks of whole blocks and of all features.
    weights : _Weights, optional
        In chunks like those of X.
    """

    dtype: np.dtype[Any]
    firsts: NDArray[Any]
    n_blocks: int
    n_features: int
    weighted: bool

    is_local = False

    def __init__(self, X: Any, weights: _Weights | None = None) -> None:
        n_samples, self.n_features = X.shape
        self.dtype = nearest.compute_dtype(X.dtype)
        # These references keep persisted chunks alive, which the delayed chunks do not.
        self._arrays = X, None if weights is None else weights.array
        self.weighted = weights is not None and weights.scale.differ
        size = block_rows(self.n_features)
        lengths = X.chunks[0]
        self.n_blocks = -(-n_samples // size)
        if weights is None:
            of_blocks = np.full(self.n_blocks, size)
            of_blocks[-1] = n_samples - size * (self.n_blocks - 1)
        else:
            of_blocks = np.concatenate([one.n_heavy for one in weights.seen])
        self.firsts = np.append(0, np.cumsum(of_blocks))
        self._unchecked = set(range(len(lengths)))
        self._engines: frozenset[str] = frozenset()
        self._parts = []
        chunks = X.to_delayed().ravel()
        for j, sample in enumerate(_starts(lengths)):
            block = sample // size
            scale = None if weights is None else weights.scale
            first, shape = int(self.firsts[block]), (int(lengths[j]), self.n_features)
            place = _Place(sample, block, first, shape, X.dtype, scale)
            self._parts.append(
                _Partition(
                    chunks[j],
                    None if weights is None else weights.chunks[j],
                    place,
                    -(-lengths[j] // size),
                )
            )

    @property
    def be(self) -> nearest.Backend:
        """The backend that works on the results."""
        return nearest.HOST

    def room(self, n_bytes: int) -> int:
        """Return 0: parts learn side by side, with one pass for all of them."""
        return 0

    def is_ready(self) -> bool:
        """Whether the rows need no further computation before learning."""
        return True

    def execute(self, requests: Sequence[Request]) -> list[Any]:
        """Return the results of requests, in one pass over the partitions."""
        keeps = any(request.keeps for request in requests)
        given = _shared(_Pass(nearest.chosen(), tuple(map(_bare, requests))))
        found, kept = [], {}
        looked_at = self._looked_at(requests)
        for j in looked_at:
            states = [_states(request, j) for request in requests]
            task = self._task(_look, j, given, states, j in self._unchecked, keeps)
            if keeps:
                task, kept[j] = _FIRST(task), _SECOND(task)
            found.append(task)
        joins = [request.join or add for request in requests]
        while len(found) > 1:
            groups = (found[i : i + _FAN_IN] for i in range(0, len(found), _FAN_IN))
            found = [_JOIN(joins, *group) for group in groups]
        counts = [request.of_blocks(self.n_blocks) for request in requests]
        end = _CLOSE(found[0], joins, counts)
        with _large_tables:
            if keeps:
                end, *states = dask.persist(end, *kept.values())
                kept = dict(zip(kept, states, strict=True))
            values, (_, why), engines = end.compute()
        if why:
            raise ValueError(why)
        self._unchecked -= set(looked_at)
        self._compare(engines)
        return [
            request.result(value, _KeptState(kept, i))
            for i, (request, value) in enumerate(zip(requests, values, strict=True))
        ]

    def _task(self, function: Any, j: int, *arguments: Any) -> Any:
        x, w, place, _ = self._parts[j]
        name = f"skvq{function.__name__}-{uuid4().hex}-{j}"
        task = dask.delayed(function, pure=False)
        return task(x, w, place, *arguments, dask_key_name=name)

    def _looked_at(self, requests: Sequence[Request]) -> list[int]:
        """Return the numbers of the partitions that a pass needs."""
        if not requests or any(request.blocks is None for request in requests):
            return list(range(len(self._parts)))
        asked = np.unique(np.concatenate([request.blocks for request in requests]))
        starts = [part.place.block for part in self._parts]
        return np.unique(np.searchsorted(starts, asked, side="right") - 1).tolist()

    def _compare(self, engines: frozenset[str]) -> None:
        """Warn if workers compute in different ways, once."""
        before, self._engines = self._engines, self._engines | engines
        if len(before) < 2 <= len(self._engines):
            warn(
                "the workers of Dask compute in different ways, so that the result may "
                "depend, by rounding, on which of them does what: "
                f"{'; '.join(sorted(self._engines))}."
            )

    def held(self, views: tuple[View, ...], like: Rows) -> "Partitions | None":
        """Return the rows that views make, held by the workers; None if they are many.

        With many rows, the user decides what is in memory, by `persist`.
        """
        if like.n_bytes > HELD_BYTES:
            return None
        if self._unchecked:
            self.execute([])
        request = Request(None, views, _nothing, (), None, None, True, None)
        given = _shared(_Pass(nearest.chosen(), (_bare(request),)))
        tasks = [
            self._task(_hold, j, given, [_states(request, j)])
            for j in range(len(self._parts))
        ]
        with _large_tables:
            made = dask.persist(*tasks)
        other = copy(self)
        other.n_features, other.firsts = like.n_features, like.firsts
        other.dtype = like.dtype
        other._parts = [
            part._replace(x=x, w=None)
            for part, x in zip(self._parts, made, strict=True)
        ]
        return other


def _bare(request: Request) -> Request:
    """Return a request without the fields that only the client has."""
    views = tuple(view._replace(state=None) for view in request.views)
    return request._replace(source=None, state=None, views=views)


def _states(request: Request, j: int) -> list[Any] | None:
    """Return the states that a partition has kept for a request and its views."""
    states = [request.state, *(view.state for view in request.views)]
    if all(state is None for state in states):
        return None
    # The lists of a pass are passed whole, which saves a task for each.
    return [None if own is None else (own.parts[j], own.place) for own in states]


def _with_states(request: Request, states: list[Any] | None) -> Request:
    if states is None:
        return request
    state, *of_views = (None if own is None else own[0][own[1]] for own in states)
    pairs = zip(request.views, of_views, strict=True)
    views = tuple(view._replace(state=own) for view, own in pairs)
    return request._replace(state=state, views=views)


def _shared(value: Any) -> Any:
    """Return a value that all tasks of a pass share."""
    name = f"skvq-asked-{uuid4().hex}"
    return dask.delayed(value, name=name, pure=False, traverse=False)


# -- what runs on the workers ----------------------------------------------------------


def _part_of(x: Any, w: Any, place: _Place) -> Part:
    if isinstance(x, Part):
        return x
    if w is not None and place.weights is not None:
        exponent, unit, differ = place.weights
        w = in_units(w, exponent, unit)
        # Weights that are equal up to rounding become one; negligible ones zero.
        w = w if differ else (w > 0).astype(np.float64)
        return Part(x, w, place.block, place.first, weighted=differ)
    return Part(x, None, place.block, place.first)


def _as_declared(x: Any, place: _Place) -> Any:
    """Return rows in the dtype that their array has declared.

    Raises
    ------
    TypeError
        If a chunk is not a NumPy array, or of a dtype whose values would change by more
        than rounding.
    ValueError
        If the chunk's shape differs from what the array has declared.
    """
    if isinstance(x, Part):
        return x
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"X has a chunk that is a {type(x).__name__}; expected arrays of NumPy's."
        )
    if x.shape != place.shape:
        raise ValueError(
            f"X has a chunk of shape {x.shape}, from row {place.sample} on, where it "
            f"declares {place.shape}: X.compute_chunk_sizes() counts the rows."
        )
    rounds = place.dtype.kind == "f" and x.dtype.kind in "biuf"
    if not (rounds or np.can_cast(x.dtype, place.dtype)):
        raise TypeError(
            f"X has a chunk of dtype {x.dtype}, from row {place.sample} on, where it "
            f"declares {place.dtype}: what makes the chunks has to name their dtype."
        )
    return x.astype(place.dtype, copy=False)


def _look(
    x: Any,
    w: Any,
    place: _Place,
    asked: _Pass,
    states: list[Any],
    check: bool,
    keep: bool,
) -> Any:
    """Return the results of a partition, and the states that stay beside its rows."""
    with nearest.using(asked.backend), nearest.one_thread():
        x = _as_declared(x, place)
        wrong = _first_wrong(x, place) if check else _RIGHT
        pieces: list[list[Piece]] = [[] for _ in asked.requests]
        kept: list[list[Any]] = [[] for _ in asked.requests]
        if wrong == _RIGHT and asked.requests:
            pairs = zip(asked.requests, states, strict=True)
            requests = [_with_states(request, own) for request, own in pairs]
            stacks = _part_of(x, w, place).stacks(requests)
            pieces, kept = ([found[i] for found in stacks] for i in (0, 1))
        found = _PassResult(pieces, wrong, frozenset([_engine(asked.backend)]))
        return (found, kept) if keep else found


# The value of `_PassResult.wrong` if all rows are finite.
_RIGHT = (math.inf, "")


def _first_wrong(x: Any, place: _Place) -> tuple[float, str]:
    if isinstance(x, Part) or x.dtype.kind != "f":
        return _RIGHT
    part = Part(x, None, place.block, place.sample)
    with np.errstate(over="ignore"):
        found = (first_infinite(block) for _, block in part.blocks())
        row = min(found, default=math.inf)
    if row == math.inf:
        return _RIGHT
    return row, refusal(int(row), x[int(row) - place.sample])


def _hold(x: Any, w: Any, place: _Place, asked: _Pass, states: list[Any]) -> Part:
    """Return the rows that views make of a partition, in memory."""
    with nearest.using(asked.backend), nearest.one_thread():
        (request,) = map(_with_states, asked.requests, states)
        part = _part_of(_as_declared(x, place), w, place).stored_as(request.views)
    # Without these, a few chosen rows would keep all rows in memory.
    part.X = part.weights = part.heavy = None
    return part


def _join(joins: Sequence[Any], *found: _PassResult) -> _PassResult:
    """Join the results of neighbouring partitions."""
    stacks = [
        merge(*(one.stacks[i] for one in found), join=join)
        for i, join in enumerate(joins)
    ]
    engines = frozenset().union(*(one.engines for one in found))
    return _PassResult(stacks, min(one.wrong for one in found), engines)


def _close(
    found: _PassResult, joins: Sequence[Any], counts: Sequence[int]
) -> tuple[Any, ...]:
    """Return the sums over all partitions, and what to report about them."""
    if found.wrong != _RIGHT:
        return None, found.wrong, found.engines
    values = [
        close(stack, count, join)
        for stack, count, join in zip(found.stacks, counts, joins, strict=True)
    ]
    return values, found.wrong, found.engines


def _first(pair: tuple[Any, ...]) -> Any:
    return pair[0]


def _second(pair: tuple[Any, ...]) -> Any:
    return pair[1]


def _nothing(block: Block) -> tuple[Any, ...]:
    return ()


@cache
def _engine(backend: str) -> str:
    """Return the names of the engine here on which the bits of a result depend."""
    return nearest.engine_of(np.empty(0)).fingerprint()


_FIRST, _SECOND, _JOIN, _CLOSE = (
    dask.delayed(function, pure=False) for function in (_first, _second, _join, _close)
)
