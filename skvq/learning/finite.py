"""The check that rows are finite, which names the first one that is not."""

import math
from typing import Any

from skvq import nearest
from skvq._checks import refusal
from skvq.learning.rows import Block, Learner, Rows


def check_finite(X: Any) -> Learner[None]:
    """Raise a ValueError that names the first row of X that is not finite."""
    be = nearest.backend_of(X)
    if be.numpy_dtype(X).kind != "f":
        return
    (row,) = yield Rows(X).fold(_first_infinite, join=_smaller)
    if row < math.inf:
        raise ValueError(
            refusal(int(row), be.to_host(X[int(row) : int(row) + 1, :])[0])
        )


def first_infinite(block: Block) -> float:
    """Return the number of the first row that is not finite; infinity if all are."""
    be = block.be
    if be.is_finite(block.x):
        return math.inf
    return block.first + int(be.flagged(~be.xp.all(be.xp.isfinite(block.x), axis=1))[0])


def _first_infinite(block: Block) -> tuple[Any, ...]:
    return (first_infinite(block),)


def _smaller(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return (min(a[0], b[0]),)
