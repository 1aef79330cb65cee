"""Checks of tables that are given instead of learned."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from skvq import nearest
from skvq._checks import is_sequence
from skvq._validation import check_matrix, check_numbers


def check_codebooks(codebooks: Any, *, columns: bool = False) -> list[nearest.Table]:
    """Return given tables in one floating dtype.

    Parameters
    ----------
    codebooks : sequence of array-likes of shape (n_codewords, n_features)
        Arrays of any library; one that comes more than once stays one table.
    columns : bool, default=False
        Whether 1-d arrays are tables of one feature.

    Raises
    ------
    ValueError
        If it is not a sequence of matrices of finite numbers.
    """
    expected = "expected a sequence of 2-d tables, [W] for one"
    shape = getattr(codebooks, "shape", None)
    dimensions = (2, 3) if columns else (3,)
    if not is_sequence(codebooks) or (
        shape is not None and len(shape) not in dimensions
    ):
        found = f"={codebooks!r}" if shape is None else f" has shape {tuple(shape)}"
        raise ValueError(f"codebooks{found}; {expected}.")
    given = list(codebooks)
    if not given:
        raise ValueError(f"codebooks is empty; {expected}.")
    distinct = {}
    for j, table in enumerate(given):
        if id(table) not in distinct:
            table = nearest.backend_of(table).to_host(table)
            if columns and np.ndim(table) == 1:
                table = np.asarray(table)[:, None]
            name = f"codebooks[{j}]"
            distinct[id(given[j])] = check_matrix(nearest.HOST, table, name)
    dtype = np.result_type(
        *(nearest.compute_dtype(table.dtype) for table in distinct.values())
    )
    tables = {
        key: nearest.Table(table.astype(dtype)) for key, table in distinct.items()
    }
    return [tables[id(table)] for table in given]


def as_shared(
    tables: Sequence[nearest.Table], asked: bool, what: str = "share_codebook=True"
) -> list[nearest.Table]:
    """Return tables; if one is to be shared, raise unless all are equal.

    Parameters
    ----------
    tables : sequence of Table
        The tables.
    asked : bool
        Whether one table is to serve in all places.
    what : str
        The parameter that asks for it, for the message.
    """
    if not asked:
        return list(tables)
    first = tables[0]
    for j, each in enumerate(tables):
        if not np.array_equal(first.codewords, each.codewords):
            raise ValueError(
                f"{what} takes one table in all places, but codebooks[{j}] differs "
                "from codebooks[0]."
            )
    return [first] * len(tables)


def are_shared(tables: Sequence[Any] | nearest.Tables) -> bool:
    """Return whether there are several tables that are all the same object."""
    return len(tables) > 1 and all(each is tables[0] for each in tables)


def demand(tables: Sequence[Any], n_tables: int, why: str) -> Sequence[Any]:
    """Return tables; raise unless there are n_tables of them."""
    if len(tables) != n_tables:
        raise ValueError(f"codebooks has {len(tables)} tables, but {why}.")
    return tables


# Names of what a search adds for codes, with the parameter, meaning and unit of each.
_COSTS = {
    "code_lengths": ("rate_weight", "the bits of each code", "bits"),
    "prices": ("balance", "the price of each code", "squared distance"),
}


def check_costs(
    given: Mapping[str, Any],
    tables: Sequence[nearest.Table],
    wanted: Collection[str],
) -> dict[str, list[np.ndarray]]:
    """Return the costs of codes for a search in given tables.

    Parameters
    ----------
    given : mapping
        For the names "code_lengths" and "prices", a sequence of array-likes of shape
        (n_codewords,), one for each table; or None.
    tables : sequence of Table
        The tables.
    wanted : collection of str
        The names that the search needs with its parameters.

    Returns
    -------
    costs : dict of list of ndarray
        The wanted costs, by name.

    Raises
    ------
    ValueError
        If a wanted cost is missing, or an unwanted one is given; or if costs are not
        numbers of zero or more, one for each codeword.
    """
    for name, costs in given.items():
        parameter, meaning, _ = _COSTS[name]
        if costs is None and name in wanted:
            raise ValueError(
                f"A {parameter} needs {name} beside codebooks, {meaning}, as {name}_ "
                "of a fitted quantizer are."
            )
        if costs is not None and name not in wanted:
            raise ValueError(
                f"{name} are given, but play no part without a {parameter}."
            )
    return {
        name: _costs_of_each(name, costs, tables)
        for name, costs in given.items()
        if costs is not None
    }


def _costs_of_each(
    name: str, given: Any, tables: Sequence[nearest.Table]
) -> list[np.ndarray]:
    shape = getattr(given, "shape", None)
    if not is_sequence(given) or (shape is not None and len(shape) != 2):
        got = f"={given!r}" if shape is None else f" has shape {tuple(shape)}"
        raise ValueError(
            f"{name}{got}; expected a sequence of arrays, [{name}] for one."
        )
    given = list(given)
    if len(given) != len(tables):
        raise ValueError(
            f"{name} has {len(given)} arrays, but there are {len(tables)} tables."
        )
    found = []
    for j, (costs, table) in enumerate(zip(given, tables, strict=True)):
        costs = check_numbers(costs, f"{name}[{j}]", (len(table),))
        if costs.min() < 0:
            raise ValueError(
                f"{name}[{j}] ranges from {costs.min()} to {costs.max()}; expected "
                f"numbers of {_COSTS[name][2]}, zero or more."
            )
        found.append(costs)
    return found


def one_width(widths: Sequence[int]) -> int:
    """Return the number of features of all tables, or stages; raise if they differ."""
    if len(set(widths)) > 1:
        raise ValueError(
            f"The given codebooks have {widths} features; expected one number for all, "
            "since codewords add up."
        )
    return widths[0]


def one_or_each(sizes: Sequence[Any]) -> Any:
    """Return one size for all if they are equal, else the sizes."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
