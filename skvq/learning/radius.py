"""The length of a vector as code columns, for the schemes that code directions.

A quantizer of directions can leave the length of a vector away or code it in one of
three ways, each by a few code columns after its own.

==============  ====================================================================
``"unit"``      no code: every reconstruction has length 1
``"uniform"``   one code: equal cells between the smallest and the largest length seen
``"learned"``   one code: the levels of least squared error for the lengths seen
``"float32"``   two codes: the upper and the lower 16 bits of the length as a float32
==============  ====================================================================
"""

import numpy as np

from skvq._checks import check_memory
from skvq._validation import all_in_memory, warn
from skvq.coding.levels import Grid, Levels
from skvq.coding.radius import Float32Radius, RadiusCode, ScalarRadius
from skvq.learning.levels import best_levels
from skvq.learning.rows import Learner, Rows, lengths
from skvq.learning.scalar import column_range, of_distinct

RADII = frozenset({"unit", "uniform", "learned", "float32"})


def check_radius_memory(how: str, n_levels: int, x_bytes: int) -> None:
    """Raise if levels of the length take too much memory for X; see `fit_radius`."""
    if how == "learned":
        check_memory(f"Levels of n_radius_levels={n_levels}", 3 * 8 * n_levels, x_bytes)


def radius_in_memory(how: str) -> str | None:
    """Return why the lengths of a Dask array's rows cannot be learned from; or None."""
    return all_in_memory("radius", how) if how == "learned" else None


def fit_radius(how: str, rows: Rows, n_levels: int) -> Learner[RadiusCode]:
    """Set up the code of the lengths of rows; warn if there are too few distinct ones.

    Parameters
    ----------
    how : {"unit", "uniform", "learned", "float32"}
        One of the module's table.
    rows : Rows
        The samples.
        Number of levels V of "uniform" and "learned".
        V of "uniform" and "learned".

    Returns
    -------
    code : RadiusCode

    Raises
    ------
    ValueError
        If a length is infinite.
    """
    if how == "unit":
        return RadiusCode()
    norms = rows.view(lengths, width=1, dtype=np.float64)
    low, high = yield from column_range(norms)
    if not np.isfinite(high[0]):
        raise ValueError(
            "The length of a sample overflows: X is too large for float64."
        )
    if how == "float32":
        return Float32Radius()
    if how == "uniform":
        if low == high and n_levels > 1:
            warn(
                "all lengths of samples are equal, and so are all levels: "
                f"n_radius_levels={n_levels} cut an empty range."
            )
        return ScalarRadius(Grid(low, high, (n_levels,)))
    ((values, mass),) = yield from of_distinct(norms, lambda columns, _: list(columns))
    if len(values) < n_levels:
        warn(
            "{} distinct lengths of samples are fewer than n_radius_levels="
            f"{n_levels}: the codebook repeats them.",
            len(values),
        )
    levels = best_levels([(values, mass)], [n_levels])
    return ScalarRadius(Levels(levels, [n_levels]))
