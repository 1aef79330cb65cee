"""Random numbers that belong to row numbers, and rows that are drawn by them.

A row has the same random number in whatever block it comes, so the same rows are drawn
however the rows are cut.
"""

from functools import partial
from typing import Any

import numpy as np

from skvq.learning.rows import Block, Learner, Rows, chain
from skvq.nearest.distinct import unique_rows

# Up to this many numbers are gathered from each block without a threshold.
_FEW_ELEMENTS = 2**18


def uniforms(key: int, first: int, n_rows: int) -> np.ndarray:
    """Return the random numbers of consecutive rows.

    Parameters
    ----------
    key : int
        Selects the sequence of random numbers.
    first, n_rows : int
        Number of the first row, and the number of rows.

    Returns
    -------
    numbers : ndarray of shape (n_rows,), dtype float64
        In [0, 1).

    References
    ----------
    Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> from skvq.learning.random_rows import uniforms
    >>> uniforms(7, 0, 5)[3:].tolist() == uniforms(7, 3, 2).tolist()
    True
    """
    bits = np.random.Philox(key=key)
    # The generator makes four numbers at a time.
    before = first % 4
    bits.advance(first // 4)
    return np.random.Generator(bits).random(before + n_rows)[before:]


def new_key(rng: np.random.RandomState) -> int:
    """Draw the key of a sequence of random numbers."""
    return int(rng.randint(2**31 - 1))


def some_places(block: Block, key: int, share: float, times: int = 1) -> np.ndarray:
    """Return a random share of the places of rows that have several places each."""
    numbers = uniforms(key, times * block.first, times * block.n_rows)
    return np.flatnonzero(numbers < share)


def some_rows(rows: Rows, most: int, rng: np.random.RandomState) -> Learner[Rows]:
    """Return all rows, or a random sample of about `most` of them."""
    if rows.n_rows <= most:
        return rows
    return (yield from rows.chosen(some_places, new_key(rng), most / rows.n_rows))


def row_lots(block: Block, key: int) -> np.ndarray:
    """Return random numbers in [0, 1) that are the same for equal rows.

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators",
    whose finaliser mixes the values of a row in turn.
    """
    x = np.ascontiguousarray(block.be.to_host(block.x) + 0.0)
    words = x.view(f"u{x.itemsize}").astype(np.uint64, copy=False)
    mixed = np.full(len(x), key, np.uint64)
    for j in range(words.shape[1]):
        mixed = (mixed ^ words[:, j]) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53


def draw_distinct(
    rows: Rows, n_drawn: int, rng: np.random.RandomState
) -> Learner[np.ndarray]:
    """Draw distinct rows one after the other, with probability by weight.

    Equal rows are drawn as one row of their summed weight.

    Parameters
    ----------
    rows : Rows
        At least n_drawn of them distinct.  If scaling has made too many equal, the rest
        is drawn among equal rows.
    n_drawn : int
        Number of rows to draw.
    rng : RandomState
        Source of the key of their random numbers.

    Returns
    -------
    drawn : ndarray of shape (n_drawn, n_features)
        In the order in which they were drawn.

    Notes
    -----
    Exponential times, divided by the weights, put the rows in the order of drawing
    without replacement.  The first time among equal rows is distributed as that of one
    row of their summed weight, so only the first of equal rows counts.  Many rows are
    fetched in a second pass, once it is known which times can matter.

    References
    ----------
    Efraimidis and Spirakis (2006), "Weighted random sampling with a reservoir",
    Information Processing Letters 97(5).
    """
    key, looked_at = new_key(rng), n_drawn
    few = n_drawn * rows.n_features <= _FEW_ELEMENTS
    while True:
        limit = np.inf
        looked_at = min(looked_at, rows.n_rows)
        if not few and looked_at < rows.n_rows:
            (earliest,) = yield rows.gather(
                _earliest,
                key,
                looked_at,
                join=partial(_smallest, looked_at),
                most=looked_at,
            )
            limit = earliest[-1]
        drawn, _, taken = yield rows.gather(
            _first_come,
            key,
            n_drawn,
            limit,
            join=partial(first_distinct, n_drawn),
            most=n_drawn,
        )
        if len(drawn) == n_drawn:
            return drawn
        if limit == np.inf:
            break
        looked_at *= 2
    left = n_drawn - len(drawn)
    rest, times, _ = yield rows.gather(
        _others, key, left, taken, join=partial(_first, left), most=left
    )
    return np.concatenate([drawn, rest[np.argsort(times, kind="stable")]])


def times_of(block: Block, key: int) -> np.ndarray:
    """Return the time at which each row arrives, exponential at the rate of its weight.

    The rows that arrive first are a sample drawn with probability by weight.
    """
    times = -np.log1p(-uniforms(key, block.first, block.n_rows))
    if block.w is None:
        return times
    with np.errstate(over="ignore"):
        return times / block.host_weights()


def _earliest(block: Block, key: int, n_times: int) -> tuple[Any, ...]:
    return (np.sort(times_of(block, key))[:n_times],)


def _smallest(most: int, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return (np.sort(np.concatenate([a[0], b[0]]))[:most],)


def _first_come(block: Block, key: int, most: int, limit: float) -> tuple[Any, ...]:
    times = times_of(block, key)
    return first_of_block(block, times, np.flatnonzero(times <= limit), most)


def _others(block: Block, key: int, most: int, taken: np.ndarray) -> tuple[Any, ...]:
    times = times_of(block, key)
    numbers = block.first + np.arange(block.n_rows)
    places = np.flatnonzero(~np.isin(numbers, taken))
    places = places[np.argsort(times[places], kind="stable")[:most]]
    return block.be.take(block.x, places), times[places], numbers[places]


# -- the rows of the smallest values ---------------------------------------------------


def first_of_block(
    block: Block, values: np.ndarray, places: np.ndarray, most: int
) -> tuple[Any, Any, Any]:
    """Return rows, values and numbers of the distinct rows of smallest values.

    Parameters
    ----------
    block : Block
        The rows.
    values : ndarray of shape (n_rows,)
        A value for each row; the first of equal ones counts.
    places : ndarray of int
        Indices of the candidate rows, ascending.
    most : int
        Number of rows to return; no more candidates are looked at than that takes.
    """
    looked_at = most
    while True:
        chosen = places
        if looked_at < len(places):
            bound = np.partition(values[places], looked_at - 1)[looked_at - 1]
            chosen = places[values[places] <= bound]
        x = block.be.to_host(block.be.take(block.x, chosen))
        found = _distinct(x, values[chosen], block.first + chosen, most)
        if len(found[0]) == most or len(chosen) == len(places):
            return found
        looked_at *= 2


def first_distinct(
    most: int, a: tuple[Any, ...], b: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Join what `first_of_block` returns."""
    x, values, numbers = chain(a, b)
    return _distinct(x, values, numbers, most)


def _distinct(x: Any, values: Any, numbers: Any, most: int) -> tuple[Any, Any, Any]:
    order = np.lexsort((numbers, values))
    if len(order):
        order = order[np.sort(unique_rows(x[order])[0])[:most]]
    return x[order], values[order], numbers[order]


def _first(most: int, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    x, values, numbers = chain(a, b)
    order = np.lexsort((numbers, values))[:most]
    return x[order], values[order], numbers[order]
