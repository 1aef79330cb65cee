"""Tables that are given in place of learned ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skvq import nearest
from skvq._checks import is_sequence
from skvq._validation import check_matrix, check_numbers


def check_codebooks(codebooks, *, columns: bool = False) -> list[nearest.Table]:
    """Return tables that are given in place of learned ones, in one floating dtype.

    Parameters
    ----------
    codebooks : sequence of array-likes of shape (n_codewords, n_features)
        Of any library; one that comes more than once stays one table.
    columns : bool, default=False
        Whether arrays of one dimension are tables of one feature.

    Raises
    ------
    ValueError
        If it is no sequence of matrices of finite numbers.
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
    """Return tables; if one is asked for in place of all, raise unless they are equal.

    Parameters
    ----------
    tables : sequence of Table
        The tables.
    asked : bool
        Whether one is to serve in all places.
    what : str
        What asks for it, for the message.
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


def are_shared(tables: Sequence) -> bool:
    """Whether there are several, all of which are the same object."""
    return len(tables) > 1 and all(each is tables[0] for each in tables)


def demand(tables: Sequence, n_tables: int, why: str) -> Sequence:
    """Return tables; raise unless they are so many."""
    if len(tables) != n_tables:
        raise ValueError(f"codebooks has {len(tables)} tables, but {why}.")
    return tables


def check_lengths(
    code_lengths, tables: Sequence[nearest.Table], wanted: bool
) -> list[np.ndarray] | None:
    """Return the bits that a search is to count for the codes of given tables.

    Parameters
    ----------
    code_lengths : sequence of array-likes of shape (n_codewords,), or None
        Those of each table.
    tables : sequence of Table
        The tables.
    wanted : bool
        Whether the search weighs bits, with the parameters.

    Raises
    ------
    ValueError
        If they are wanted and not there, or the other way around; or if they are no
        numbers of zero or more, one for each codeword.
    """
    if code_lengths is None:
        if wanted:
            raise ValueError(
                "A rate_weight needs code_lengths beside codebooks, the bits of each "
                "code, as code_lengths_ of a fitted quantizer are."
            )
        return None
    if not wanted:
        raise ValueError(
            "code_lengths are given, but play no part without a rate_weight."
        )
    shape = getattr(code_lengths, "shape", None)
    if not is_sequence(code_lengths) or (shape is not None and len(shape) != 2):
        got = f"={code_lengths!r}" if shape is None else f" has shape {tuple(shape)}"
        raise ValueError(
            f"code_lengths{got}; expected a sequence of arrays, [lengths] for one."
        )
    given = list(code_lengths)
    if len(given) != len(tables):
        raise ValueError(
            f"code_lengths has {len(given)} arrays, but there are {len(tables)} tables."
        )
    found = []
    for j, (bits, table) in enumerate(zip(given, tables, strict=True)):
        bits = check_numbers(bits, f"code_lengths[{j}]", (len(table),))
        if bits.min() < 0:
            raise ValueError(
                f"code_lengths[{j}] ranges from {bits.min()} to {bits.max()}; expected "
                "numbers of bits, zero or more."
            )
        found.append(bits)
    return found


def one_width(widths: Sequence[int]) -> int:
    """Return how many features tables, or stages, have; raise if they differ."""
    if len(set(widths)) > 1:
        raise ValueError(
            f"The given codebooks have {widths} features; expected one number for all, "
            "since codewords add up."
        )
    return widths[0]


def one_or_each(sizes: Sequence) -> Any:
    """Return one size for all, if they are equal."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
