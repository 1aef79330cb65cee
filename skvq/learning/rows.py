"""Rows, wherever they are stored: learners ask for sums over blocks, never for X.

A block is a run of consecutive rows of X; their number is a power of two that depends
on the width of X alone.  Results of blocks are joined in pairs by number: block 2i with
block 2i + 1, pairs of blocks in the same way, and so on.  So the bits of a sum depend
neither on where the blocks are, nor on how many of them a machine holds, nor on the
order in which they are computed.

====================  ==============================================================
`Rows.fold`           asks for sums over all blocks, on the host
`Rows.map`            asks for arrays of a block's rows, which stay beside them
`Rows.gather`         asks for rows, a stated number at most, on the host
`Rows.view`           rows that a function makes of each block, lazily
`Rows.held`           the same rows, made once for many passes
`Rows.under`          the same rows, for a learner whose progress is told of elsewhere
`run`                 runs a learner
`together`            runs learners side by side, sharing passes over the rows
====================  ==============================================================

A learner is a generator.  It yields requests, made by `fold`, `map` and `gather`, and
receives their results; ``yield from`` runs one learner within another.  Between its
requests other learners may run in the same thread, so no ``with`` statement may hold a
context across a ``yield``.  The functions of a request are defined at the top level of
a module and get all they need as arguments, so that they can be sent to the blocks.

Rows of weight zero are left out of their block and have no number.  A function never
sees an empty block.
"""

import math
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import copy
from functools import partial
from mmap import mmap
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from skvq import nearest
from skvq.learning.tasks import SILENT, Task

R = TypeVar("R")

# Numbers in a block: the memory in use while it is worked on is a few times as many.
BLOCK_ELEMENTS = 2**22
# Bytes of rows that may be held in memory in addition to the user's own rows.
HELD_BYTES = 2**27


def block_rows(n_features: int) -> int:
    """Return the number of rows in a block, a power of two."""
    return 1 << max(0, (BLOCK_ELEMENTS // n_features).bit_length() - 1)


class Block(NamedTuple):
    """Consecutive rows, on their device, in the dtype to compute in."""

    x: Any  # (n, d), contiguous
    w: Any  # (n,), positive weights in float64, or None: all are one
    first: int  # number of the first row
    state: tuple[Any, ...]  # arrays of n rows that `map` has left

    @property
    def be(self) -> nearest.Backend:
        """The backend of the rows."""
        return nearest.engine_of(self.x)

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.x.shape[0]

    def host_weights(self) -> np.ndarray:
        """Return the weights on the host, ones if there are none."""
        return np.ones(self.n_rows) if self.w is None else self.be.to_host(self.w)

    def weighted(self, values: Any) -> Any:
        """Return values of the rows, multiplied by their weights."""
        return values if self.w is None else values * self.w


class View(NamedTuple):
    """A function that makes other rows of a block's rows, or chooses some of them."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    state: Any
    times: int
    # Number of the first chosen row, by the number of the first row of the block.
    firsts: dict[int, int] | None = None

    def of(self, block: Block, place: int) -> Block | None:
        """Return the block of the rows made; None if none are chosen."""
        be = block.be
        if self.state is not None:
            block = block._replace(state=self.state[place])
        found = self.function(block, *self.args)
        if self.firsts is None:
            w = block.w if self.times == 1 else _repeated(be, block.w, self.times)
            x, first, state = found, block.first * self.times, ()
        elif len(found) == 0:
            return None
        else:
            # With several places per row, each place has its state and its row.
            state = tuple(be.take(_unfolded(each), found) for each in block.state)
            found, first = found // self.times, self.firsts[block.first]
            x = be.take(block.x, found)
            w = None if block.w is None else be.take(block.w, found)
        return Block(be.contiguous(x), w, first, state)


def seen(block: Block | None, views: Sequence[View], place: int) -> Block | None:
    """Return the block that a sequence of views makes of one."""
    for view in views:
        block = None if block is None else view.of(block, place)
    return block


def _unfolded(state: Any) -> Any:
    n, times, *shape = state.shape
    return nearest.backend_of(state).xp.reshape(state, (n * times, *shape))


def _repeated(be: nearest.Backend, w: Any, times: int) -> Any:
    if w is None:
        return None
    return be.xp.reshape(be.xp.broadcast_to(w[:, None], (w.shape[0], times)), (-1,))


# -- joining the results of blocks -----------------------------------------------------


class Piece(NamedTuple):
    """The joint result of 2**level blocks, the first of which is place * 2**level."""

    level: int
    place: int
    value: Any  # None: these blocks have no rows

    @property
    def first(self) -> int:
        """The number of the first block."""
        return self.place << self.level


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add tuples of arrays elementwise."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def chain(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put the rows of b behind those of a."""
    return tuple(np.concatenate(pair) for pair in zip(a, b, strict=True))


def merge(*stacks: Sequence[Piece], join: Callable[..., Any] = add) -> list[Piece]:
    """Join pieces with their siblings for as long as there are any.

    Parameters
    ----------
    *stacks : sequence of Piece
        Results of disjoint sets of blocks, in any order.
    join : callable
        ``join(a, b)`` joins results, b being that of the blocks right after those of a.

    Returns
    -------
    stack : list of Piece
        As few pieces as possible, in the order of their blocks.

    Raises
    ------
    ValueError
        If two pieces hold the same block.
    """
    result: list[Piece] = []
    for piece in sorted((p for s in stacks for p in s), key=lambda piece: piece.first):
        if result and result[-1].first + (1 << result[-1].level) > piece.first:
            raise ValueError(f"Block {piece.first} has been found in two pieces.")
        while result and piece.place % 2 and result[-1][:2] == _sibling(piece):
            value = _joined(result.pop().value, piece.value, join)
            piece = Piece(piece.level + 1, piece.place // 2, value)
        result.append(piece)
    return result


def _sibling(piece: Piece) -> tuple[int, int]:
    return piece.level, piece.place ^ 1


def _joined(a: Any, b: Any, join: Callable[..., Any]) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return join(a, b)


def close(
    stack: Sequence[Piece], n_blocks: int, join: Callable[..., Any] = add
) -> tuple[Any, ...]:
    """Join all pieces of the results of n_blocks blocks, on the host."""
    found = sum(1 << piece.level for piece in stack)
    if found != n_blocks:
        raise ValueError(f"Of {n_blocks} blocks {found} have been found.")
    value: Any = None
    for piece in reversed(stack):
        value = _joined(piece.value, value, join)
    return tuple(nearest.backend_of(v).to_host(v) for v in value or ())


# -- requests --------------------------------------------------------------------------


class Request(NamedTuple):
    """A learner's question about rows.

    All but the source and the states may be sent to other machines.
    """

    source: Any
    views: tuple[View, ...]
    function: Callable[..., Any]  # called with a block and the arguments
    args: tuple[Any, ...]
    state: Any
    join: Callable[..., Any] | None  # joins the results of two blocks; None: no joining
    keeps: bool  # whether the function also returns arrays that stay beside the rows
    blocks: Sequence[int] | None  # numbers of the blocks to look at; None: all

    def of(self, block: Block | None, place: int) -> tuple[Any, Any]:
        """Return the result of a block, and the arrays that stay beside its rows."""
        block = seen(block, self.views, place)
        if block is None:
            return None, None
        state = () if self.state is None else self.state[place]
        found = self.function(block._replace(state=state), *self.args)
        if self.join is None:
            return None, found
        return found if self.keeps else (found, None)

    def of_blocks(self, n_blocks: int) -> int:
        """Return how many of n_blocks blocks the request looks at."""
        return n_blocks if self.blocks is None else len(self.blocks)

    def result(self, value: Any, state: Any) -> Any:
        """Return what the learner receives, from sums over all blocks and a state."""
        if self.join is None:
            return state
        return (value, state) if self.keeps else value


# A learner that returns R.  It yields one request, or several for one pass.
Learner = Generator[Request | list[Request], Any, R]


def execute(requests: Sequence[Request]) -> list[Any]:
    """Return the results of requests, in one pass over the blocks of each source."""
    by_source: dict[int, list[int]] = {}
    for j, request in enumerate(requests):
        by_source.setdefault(id(request.source), []).append(j)
    results: list[Any] = [None] * len(requests)
    for which in by_source.values():
        source = requests[which[0]].source
        found = source.execute([requests[j] for j in which])
        for j, result in zip(which, found, strict=True):
            results[j] = result
    return results


def run(learner: Learner[R]) -> R:
    """Run a learner; return what it returns."""
    found: Any = None
    while True:
        try:
            asked = learner.send(found)
        except StopIteration as end:
            return end.value
        found = execute(asked) if isinstance(asked, list) else execute([asked])[0]


def together(learners: Sequence[Learner[R]]) -> Learner[list[R]]:
    """Run learners side by side; return the result of each.

    Requests that are pending at the same time share a pass over the blocks of a common
    source.  The results are the same as if the learners ran one after the other.
    """
    results: list[Any] = [None] * len(learners)
    asked: dict[int, Any] = {}

    def go_on(j: int, found: Any) -> None:
        try:
            asked[j] = learners[j].send(found)
        except StopIteration as end:
            results[j] = end.value
            asked.pop(j, None)

    for j in range(len(learners)):
        go_on(j, None)
    while asked:
        waiting = [(j, isinstance(some, list), some) for j, some in asked.items()]
        found = iter(
            (yield [r for _, many, some in waiting for r in (some if many else [some])])
        )
        for j, many, some in waiting:
            go_on(j, [next(found) for _ in some] if many else next(found))
    return results


# -- rows on this machine --------------------------------------------------------------


class Part:
    """Consecutive rows on one machine: an array of any library, or a memory map.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        The samples, finite.
    weights : array of shape (n_samples,), optional
        Weights, none negative, at least one positive.
    place : int
        Number of the first block.
    first : int
        Number of the first row of positive weight.
    weighted : bool
        Whether there are weights other than one, here or in other parts.
    """

    dtype: np.dtype[Any]
    firsts: NDArray[Any]
    n_blocks: int
    n_features: int
    size: int

    is_local = True

    def __init__(
        self,
        X: Any,
        weights: Any = None,
        place: int = 0,
        first: int = 0,
        weighted: bool = False,
    ) -> None:
        be = nearest.backend_of(X)
        self.place = place
        self.X: Any = be.matrix(X, "X")
        n_samples, self.n_features = self.X.shape
        self.size = block_rows(self.n_features)
        self.dtype = nearest.compute_dtype(be.numpy_dtype(self.X))
        self.n_blocks = -(-n_samples // self.size)
        self.stored: list[Block | None] | None = None
        self.weights: Any = None
        self.heavy: np.ndarray | None = None  # (n_samples,), bool; None: all rows
        starts = np.arange(0, n_samples, self.size)
        counts = np.minimum(n_samples - starts, self.size)
        if weights is not None:
            host = nearest.backend_of(weights).to_host(weights)
            heavy = host > 0
            counts = np.add.reduceat(heavy, starts, dtype=np.intp)
            self.heavy = None if heavy.all() else heavy
            # Equal weights are dropped, so that they give the same bits as no weights.
            if weighted or not (host[heavy] == 1).all():
                self.weights = be.like(weights, np.float64)
        self.firsts = first + np.append(0, np.cumsum(counts))

    @property
    def be(self) -> nearest.Backend:
        """The backend of the rows."""
        stored = next((block for block in self.stored or () if block is not None), None)
        return nearest.backend_of(self.X) if stored is None else stored.be

    @property
    def n_rows(self) -> int:
        """The number of rows of positive weight."""
        return int(self.firsts[-1] - self.firsts[0])

    @property
    def weighted(self) -> bool:
        """Whether there are weights other than one."""
        return self.weights is not None

    def blocks(self, only: set[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield blocks by their places in the part; None for a block without rows."""
        for place in range(self.n_blocks):
            if only is None or self.place + place in only:
                yield place, self.stored[place] if self.stored else self._cut(place)

    def _cut(self, place: int) -> Block | None:
        first = int(self.firsts[place])
        if self.firsts[place + 1] == first:
            return None
        start = place * self.size
        # The array API only defines slices whose bounds lie within X.
        rows = slice(start, min(start + self.size, self.X.shape[0]))
        be = nearest.backend_of(self.X)
        x = self.X[rows, :]
        w = None if self.weights is None else self.weights[rows]
        if self.heavy is not None and not self.heavy[rows].all():
            kept = np.flatnonzero(self.heavy[rows])
            x, w = be.take(x, kept), None if w is None else be.take(w, kept)
        return Block(be.contiguous(be.cast(x, self.dtype)), w, first, ())

    def stacks(
        self, requests: Sequence[Request]
    ) -> list[tuple[list[Piece], list[Any]]]:
        """Return, for each request, the pieces and the states that the blocks give."""
        asked = [request.blocks for request in requests]
        only = None if None in asked else {n for some in asked for n in some or ()}
        found: list[tuple[list[Piece], list[Any]]] = [([], []) for _ in requests]
        for place, block in self.blocks(only):
            number = self.place + place
            for request, (pieces, states) in zip(requests, found, strict=True):
                if request.blocks is not None and number not in request.blocks:
                    continue
                value, state = request.of(block, place)
                piece = Piece(0, number, value)
                pieces[:] = merge(pieces, [piece], join=request.join or add)
                states.append(state)
        return found

    def execute(self, requests: Sequence[Request]) -> list[Any]:
        """Return the results of requests, in one pass over the blocks."""
        results = []
        for request, (pieces, states) in zip(
            requests, self.stacks(requests), strict=True
        ):
            count = request.of_blocks(self.n_blocks)
            value = close(pieces, count, request.join or add)
            results.append(request.result(value, states))
        return results

    def _taken(self) -> int:
        """Return the number of bytes of these rows that are in memory already."""
        if self.stored is not None or is_mapped(self.X):
            return 0
        item = nearest.backend_of(self.X).numpy_dtype(self.X).itemsize
        return math.prod(self.X.shape) * item

    def room(self, n_bytes: int) -> int:
        """Return how many times n_bytes still fit in memory."""
        return (_held.left() + self._taken()) // max(1, n_bytes)

    def held(self, views: tuple[View, ...], like: "Rows") -> "Part | None":
        """Return the rows that views make, in memory; None if there is no room.

        User rows that are in memory already count towards the room.
        """
        n_bytes = max(0, like.n_bytes - self._taken())
        if not _held.take(n_bytes):
            return None
        part = self.stored_as(views)
        weakref.finalize(part, _held.take, -n_bytes)
        part.n_features, part.firsts = like.n_features, like.firsts
        return part

    def stored_as(self, views: Sequence[View]) -> "Part":
        """Return the rows that views make, in memory."""
        part = copy(self)
        part.stored = [seen(block, views, place) for place, block in self.blocks()]
        return part

    def __getstate__(self) -> dict[Any, Any]:
        # Another process needs no more than what is stored.
        return {**vars(self), "X": None if self.stored else self.X}

    def is_ready(self) -> bool:
        """Whether the blocks can be had without computation."""
        if self.stored is not None or self.n_blocks == 0:
            return True
        be, rows = nearest.backend_of(self.X), self.X[: min(2, self.X.shape[0]), :]
        plain = self.heavy is None and be.numpy_dtype(rows) == self.dtype
        return plain and be.contiguous(rows) is rows


class _Budget:
    """The bytes of rows that may be held, over all parts and threads."""

    def __init__(self) -> None:
        # The lock is re-entrant: a garbage collection inside may give bytes back.
        self._lock, self._taken = threading.RLock(), 0

    def take(self, n_bytes: int) -> bool:
        """Take n_bytes if they are left; a negative number gives them back."""
        with self._lock:
            enough = n_bytes <= 0 or self._taken + n_bytes <= HELD_BYTES
            if enough:
                self._taken += n_bytes
        return enough

    def left(self) -> int:
        """Return how many bytes are left."""
        return HELD_BYTES - self._taken


_held = _Budget()


def is_mapped(X: Any) -> bool:
    """Return whether an array is a memory map, or a view of one."""
    while X is not None and not isinstance(X, mmap):
        X = getattr(X, "base", getattr(X, "obj", None))
    return X is not None


# -- rows ------------------------------------------------------------------------------


class Rows:
    """Rows of an array of any library, in memory or mapped, for learners to learn from.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Finite real numbers of any dtype.  Neither copied nor converted as a whole.
    weights : array of shape (n_samples,), optional
        None negative, at least one positive; rows of weight zero play no part.

    Attributes
    ----------
    n_features : int
        Number of features.
    dtype : numpy.dtype
        The dtype of the blocks, `nearest.compute_dtype` of X's.
    weighted : bool
        Whether there are weights other than one.
    firsts : ndarray of int, shape (n_blocks + 1,)
        Number of the first row of each block, then the total number of rows.
    task : Task
        What the learner of these rows tells of its progress.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.learning.rows import Rows, run
    >>> def sums(block):
    ...     return (block.x.sum(axis=0, dtype=float),)
    >>> def learner(rows):
    ...     (found,) = yield rows.fold(sums)
    ...     return found / rows.n_rows
    >>> run(learner(Rows(np.array([[1.0, 0.0], [3.0, 4.0]])))).tolist()
    [2.0, 2.0]
    """

    task: Task = SILENT
    dtype: Any
    firsts: Any
    n_features: int
    weighted: Any

    def __init__(self, X: Any, weights: Any = None) -> None:
        self._set(Part(X, weights))

    @classmethod
    def of(cls, source: Any) -> "Rows":
        """Return the rows of a source: a `Part`, or an object with its interface."""
        rows = object.__new__(cls)
        rows._set(source)
        return rows

    def _set(self, source: Any) -> None:
        self.source: Any = source
        self.views: tuple[View, ...] = ()
        self.firsts, self.n_features = source.firsts, source.n_features
        self.dtype, self.weighted = source.dtype, source.weighted

    @property
    def n_rows(self) -> int:
        """The number of rows of positive weight."""
        return int(self.firsts[-1])

    @property
    def be(self) -> nearest.Backend:
        """The backend of the rows."""
        return self.source.be

    @property
    def n_bytes(self) -> int:
        """The size of the rows in the dtype of the blocks."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    def fold(
        self,
        function: Callable[..., Any],
        *args: Any,
        state: Any = None,
        join: Callable[..., Any] = add,
        keep: bool = False,
        blocks: Sequence[int] | None = None,
    ) -> Request:
        """Ask for sums over blocks of the tuples of arrays ``function(block, *args)``.

        Parameters
        ----------
        function : callable
            Returns a tuple of arrays; sums are to be float64.
        *args : object
            Further arguments of the function.
        state : object, optional
            A state that `map` has left, for ``block.state``.
        join : callable
            Used in place of adding.  Results are joined in the order of the tree of
            blocks.
        keep : bool
            Whether the function returns sums and, as for `map`, arrays to keep; the
            learner then receives both.
        blocks : sequence of int, optional
            Numbers of the blocks to look at; all, if not given.
        """
        return Request(
            self.source, self.views, function, args, state, join, keep, blocks
        )

    def map(
        self, function: Callable[..., Any], *args: Any, state: Any = None
    ) -> Request:
        """Ask to keep the tuples of arrays ``function(block, *args)`` beside the rows.

        The learner receives a token for them: the state of later requests and views.
        """
        return Request(self.source, self.views, function, args, state, None, True, None)

    def gather(
        self,
        function: Callable[..., Any],
        *args: Any,
        most: int,
        join: Callable[..., Any] = chain,
        state: Any = None,
        blocks: Sequence[int] | None = None,
    ) -> Request:
        """Ask for rows, as tuples of arrays ``function(block, *args)``, on the host.

        Parameters
        ----------
        function : callable
            Returns arrays of equally many rows.
        *args : object
            Further arguments of the function.
        most : int
            The most rows that may come together; more are a ValueError.
        join : callable
            ``join(a, b)`` chooses among the rows of two neighbours; by default, all.
        state, blocks : optional
            As in `fold`.
        """
        return self.fold(
            partial(_to_host, function, most),
            *args,
            state=state,
            join=partial(_joined_to, join, most),
            blocks=blocks,
        )

    def view(
        self,
        function: Callable[..., Any],
        *args: Any,
        width: int | None = None,
        times: int = 1,
        state: Any = None,
        dtype: Any = None,
    ) -> "Rows":
        """Return the rows that a function makes of each block; nothing is stored.

        Parameters
        ----------
        function : callable
            ``function(block, *args)`` returns x.
        *args : object
            Further arguments of the function.
        width : int, optional
            Number of features of the result, if it differs.
        times : int
            Number of rows made of each row; each has its weight.
        state : object, optional
            A state that `map` has left, for the function's ``block.state``.
        dtype : dtype, optional
            Dtype of the result, if it differs.
        """
        other = copy(self)
        other.dtype = self.dtype if dtype is None else np.dtype(dtype)
        other.views = (*self.views, View(function, args, state, times))
        other.n_features = self.n_features if width is None else width
        other.firsts = self.firsts * times
        return other

    def chosen(
        self,
        function: Callable[..., Any],
        *args: Any,
        times: int = 1,
        state: Any = None,
    ) -> "Learner[Rows]":
        """Return some of the rows, renumbered.

        Parameters
        ----------
        function : callable
            ``function(block, *args)`` returns ascending places in the block, on the
            host; row i has the places from ``i * times`` on.
        *args : object
            Further arguments of the function.
        times : int
            Number of places of each row.
        state : object, optional
            A state that `map` has left, arrays (n_rows, times, ...).  The next view
            gets that of the chosen places as its ``block.state``.
        """
        begins, counts = yield self.gather(
            _how_many, function, args, most=len(self.firsts), state=state
        )
        filled, n_chosen = self.filled_blocks(), np.zeros(len(self.firsts), np.intp)
        n_chosen[np.add(filled, 1)] = counts
        other = copy(self)
        other.firsts = np.cumsum(n_chosen)
        firsts = dict(zip(begins.tolist(), other.firsts[filled].tolist(), strict=True))
        other.views = (*self.views, View(function, args, state, times, firsts))
        return other

    def held(self) -> "Rows":
        """Return the same rows, computed once for many passes if memory allows it."""
        if not self.views and self.source.is_ready():
            return self
        source = self.source.held(self.views, self)
        if source is None:
            return self
        other = copy(self)
        other._set(source)
        return other

    def under(self, task: Task) -> "Rows":
        """Return the same rows, for a learner that tells of its progress in a task."""
        other = copy(self)
        other.task = task
        return other

    def room(self) -> int:
        """Return how many times as many rows could be held in memory."""
        return self.source.room(self.n_bytes)

    def filled_blocks(self) -> list[int]:
        """Return the numbers of the blocks that have rows."""
        return np.flatnonzero(np.diff(self.firsts)).tolist()

    def blocks_between(self, start: int, stop: int) -> list[int]:
        """Return the numbers of the blocks that hold rows start..stop."""
        low, high = np.searchsorted(self.firsts, [start, stop - 1], side="right") - 1
        return list(range(low, high + 1))


def _how_many(
    block: Block, function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return np.array([block.first]), np.array([len(function(block, *args))])


def _to_host(
    function: Callable[..., Any], most: int, block: Block, *args: Any
) -> tuple[Any, ...]:
    found = function(block, *args)
    return _at_most(most, tuple(nearest.backend_of(f).to_host(f) for f in found))


def _joined_to(
    join: Callable[..., Any], most: int, a: tuple[Any, ...], b: tuple[Any, ...]
) -> tuple[Any, ...]:
    return _at_most(most, join(a, b))


def _at_most(most: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(found[0]) > most:
        raise ValueError(f"{len(found[0])} rows come together; expected {most}.")
    return found


# -- functions of blocks ---------------------------------------------------------------


def everything(block: Block) -> tuple[Any, ...]:
    """Return rows and weights."""
    return block.x, block.host_weights()


def in_memory(rows: Rows) -> Learner[tuple[np.ndarray, np.ndarray | None]]:
    """Return all rows and their weights on the host, for learners that need all."""
    if not rows.source.is_local and rows.n_bytes > HELD_BYTES:
        raise ValueError(
            f"All of {rows.n_rows} rows are needed in memory, which is not done with a "
            "Dask array: give some of them, or compute() them."
        )
    X, weights = yield rows.gather(everything, most=rows.n_rows)
    return X, weights if rows.weighted else None


def picked(block: Block, numbers: np.ndarray) -> tuple[Any, ...]:
    """Return the rows of the given ascending numbers."""
    low, high = np.searchsorted(numbers, [block.first, block.first + block.n_rows])
    return (block.be.take(block.x, numbers[low:high] - block.first),)


def extremes(block: Block) -> tuple[Any, ...]:
    """Return the least and the largest values of the features, for `wider` to join."""
    xp = block.be.xp
    return xp.min(block.x, axis=0), xp.max(block.x, axis=0)


def wider(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Join the results of `extremes`."""
    xp = nearest.backend_of(a[0]).xp
    return xp.minimum(a[0], b[0]), xp.maximum(a[1], b[1])


def no_zero_rows(block: Block) -> tuple[Any, ...]:
    """Raise a ValueError if a row is zero and so has no direction."""
    nearest.check_no_zero_rows(block.x, start=block.first)
    return ()


# -- views -----------------------------------------------------------------------------


def columns(block: Block, start: int, stop: int) -> Any:
    """Return a range of the features."""
    return block.x[:, start:stop]


def stacked(block: Block, width: int) -> Any:
    """Return slices of `width` features, those of each row below each other."""
    return block.be.xp.reshape(block.x, (-1, width))


def scaled(block: Block, factor: float) -> Any:
    """Return the rows times a number."""
    return block.x * factor


def lengths(block: Block) -> Any:
    """Return the norms of the rows, in float64, as a single feature."""
    return nearest.row_norms(block.x)[:, None]


def unit(block: Block) -> Any:
    """Return the rows divided by their norms."""
    return block.be.unit_rows(block.x)


def shifted(block: Block, origin: np.ndarray) -> Any:
    """Return the rows relative to an origin."""
    return block.x - block.be.send(origin)


def turned(block: Block, axes: np.ndarray) -> Any:
    """Return the coordinates of the rows along some axes."""
    with nearest.single_threaded_blas():
        return block.be.xp.matmul(block.x, block.be.send(axes))


def rotated(block: Block, mean: np.ndarray, axes: np.ndarray) -> Any:
    """Return the coordinates of the rows, relative to the mean, along some axes."""
    return turned(block._replace(x=shifted(block, mean)), axes)


def along(block: Block, turn: Any) -> Any:
    """Return the rows turned by a `Turn`."""
    return turn.there(block.x)


def less(block: Block, table: np.ndarray) -> Any:
    """Return the rows minus the codewords of their codes, which are the state."""
    codes = block.be.cast(block.state[0], np.intp)
    return block.x - block.be.look_up(block.be.send(table), codes)
