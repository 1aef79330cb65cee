"""Names that codes keep from one fit to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from skvq._checks import is_sequence
from skvq._typing import HasCodebooks, Matrices
from skvq._validation import check_matrix
from skvq.nearest import HOST, DistanceTable, backend_of


def match(
    old: Matrices | HasCodebooks, new: Matrices | HasCodebooks
) -> tuple[NDArray[np.intp], ...]:
    """Return new names for codewords such that codes keep their meaning.

    A fit numbers its codewords arbitrarily.  Here each old codeword passes its number
    to one new codeword, such that the sum of squared distances between the two, over
    all pairs of a table, is least.

    Parameters
    ----------
    old, new : sequence of array-likes of shape (n_codewords, n_features), or quantizers
        Tables W_1..W_m in the order of the code columns, as in `codebooks_`, or objects
        with that attribute.  New tables may be larger: new codewords without a partner
        take the numbers after the old ones, in their order.

    Returns
    -------
    names : tuple of ndarray of shape (n_codewords,)
        For each column, ``names[j][k]`` is the name of codeword k of the new table j,
        as `rename_codes` of a quantizer takes it.  Codes are renamed by
        ``names[j][codes[:, j]]``.

    Raises
    ------
    ValueError
        If there is another number of tables, or one of them is smaller, has another
        width, or holds numbers that are not finite.

    See Also
    --------
    skvq.metrics.changed_codes : Share of codes that differ between two arrays.

    Notes
    -----
    New columns that share one table (the same object) get the same names, by the sum of
    their distances.  In a sum of codewords, the meaning of a codeword depends on the
    tables before it: stages of a residual quantizer, and sums that are learned jointly,
    are comparable if the new fit continued the old one (``warm_start=True``).

    Memory grows with the square of the number of codewords of a table, and time with
    its cube in the worst case: 4096 codewords take seconds.

    References
    ----------
    Crouse (2016), "On implementing 2D rectangular assignment algorithms", IEEE Trans.
    Aerospace and Electronic Systems 52(4), doi:10.1109/TAES.2016.140952.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import codes
    >>> old = [np.array([[0.0], [5.0], [9.0]])]
    >>> new = [np.array([[9.1], [0.2], [5.0]])]
    >>> [names.tolist() for names in codes.match(old, new)]
    [[2, 0, 1]]
    """
    befores, afters = _tables_of(old, "old"), _tables_of(new, "new")
    if len(befores) != len(afters):
        raise ValueError(
            f"old has {len(befores)} tables and new has {len(afters)}; expected one of "
            "each for every column of codes."
        )
    # By table, since a table of several columns has one name for each codeword.
    columns: dict[int, list[int]] = {}
    for j, table in enumerate(afters):
        columns.setdefault(id(table), []).append(j)
    for own in columns.values():
        for j in own:
            _check_pair(befores[j], afters[j], j, befores[own[0]])
    names: list[Any] = [None] * len(afters)
    for own in columns.values():
        distances_of = DistanceTable(afters[own[0]])
        distances = sum(distances_of(befores[j]).astype(np.float64) for j in own)
        found = _names(np.asarray(distances))
        for j in own:
            names[j] = found
    return tuple(names)


def _names(distances: np.ndarray) -> NDArray[np.intp]:
    """Return the name of each column of a matrix of distances, (n_old, n_new)."""
    n_old, n_new = distances.shape
    rows, chosen = linear_sum_assignment(distances)
    names = np.full(n_new, -1, np.intp)
    names[chosen] = rows
    names[names < 0] = np.arange(n_old, n_new)
    return names


def _check_pair(old: np.ndarray, new: np.ndarray, j: int, first: np.ndarray) -> None:
    if old.shape[1] != new.shape[1]:
        raise ValueError(
            f"old[{j}] has {old.shape[1]} features and new[{j}] has {new.shape[1]}; "
            "expected the same number."
        )
    if len(new) < len(old):
        raise ValueError(
            f"new[{j}] has {len(new)} codewords, fewer than the {len(old)} of "
            f"old[{j}], whose names it cannot keep; expected as many or more."
        )
    if len(old) != len(first):
        raise ValueError(
            f"old[{j}] has {len(old)} codewords and another column of the same new "
            f"table has {len(first)}; expected the same number."
        )


def _tables_of(given: Any, name: str) -> list[np.ndarray]:
    """Return tables on the host; a table that comes several times stays one object."""
    tables = getattr(given, "codebooks_", given)
    if not is_sequence(tables) or getattr(tables, "ndim", 3) != 3:
        raise ValueError(
            f"{name} is {given!r}; expected a sequence of 2-d tables, [W] for one, or "
            "a fitted quantizer."
        )
    # All of them are kept alive, since they are told apart by address.
    given_tables, found = list(tables), {}
    for j, table in enumerate(given_tables):
        if id(table) not in found:
            table = backend_of(table).to_host(table)
            found[id(given_tables[j])] = check_matrix(HOST, table, f"{name}[{j}]")
    return [found[id(table)] for table in given_tables]


def check_names(names: Any, sizes: Sequence[int]) -> list[NDArray[np.intp] | None]:
    """Return the order of codewords under given names; None: unchanged.

    Parameters
    ----------
    names : sequence of array-likes of shape (n_codewords,) or None
        New names of the codes of each column.
    sizes : sequence of int
        V_1..V_m.
    """
    expected = f"expected {len(sizes)} entries, one for each column of codes"
    if not is_sequence(names):
        raise ValueError(f"names={names!r}; {expected}, [names] for one.")
    given = list(names)
    if len(given) != len(sizes):
        raise ValueError(f"names has {len(given)} entries; {expected}.")
    return [_order(own, f"names[{j}]", sizes[j]) for j, own in enumerate(given)]


def _order(names: Any, label: str, size: int) -> NDArray[np.intp] | None:
    if names is None:
        return None
    found = np.asarray(backend_of(names).to_host(names))
    whole = found.shape == (size,) and found.dtype.kind in "iu"
    if not whole or not np.array_equal(np.sort(found), np.arange(size)):
        raise ValueError(
            f"{label} is {names!r}; expected the integers from 0 to {size - 1}, each "
            "of them once, or None."
        )
    if np.array_equal(found, np.arange(size)):
        return None
    return np.argsort(found)
