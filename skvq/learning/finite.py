"""The check that rows are finite, which names the first one that is not."""

import math
from typing import Any

import numpy as np

from skvq import nearest
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


def refusal(row: int, values: np.ndarray) -> str:
    """Return the message about a row that is not finite, from its values as given."""
    column = int(np.argmin(np.isfinite(values.astype(np.float64))))
    what = "a value too large for float64, the widest dtype that is computed in"
    if not np.isfinite(values[column]):
        what = "NaN" if np.isnan(values[column]) else "infinity"
    return f"Input X contains {what}: in row {row}, column {column}."


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
