"""Labels for a training set such that no label has too many rows or too few."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack

from skvq._checks import check_count, check_unmasked
from skvq._code_checks import sent
from skvq._typing import MatrixLike, Size
from skvq._validation import check_numbers, followed_backend

# Number of labels that a message lists.
_MOST_LISTED = 5


def capacitate(
    candidates: MatrixLike,
    errors: MatrixLike,
    *,
    min_size: Size = 0,
    max_size: Size | None = None,
    n_labels: Size | None = None,
) -> NDArray[np.intp]:
    """Choose labels for rows such that each label gets a bounded number of rows.

    The sum of the errors is minimal: this is a transport problem over the candidates,
    solved exactly.  The function is for a training set, all rows of which are known;
    new rows are encoded by a table whose search is balanced, see
    `VectorQuantizer(balance=True)`.

    Parameters
    ----------
    candidates : array-like of int of shape (n_samples, n_candidates)
        Labels that each row may get.  If a row lists one twice, the lower error counts.
    errors : array-like of shape (n_samples, n_candidates)
        Cost of each candidate.
    min_size, max_size : int, default=0 and None
        Least and largest number of rows of each label; None: no bound.
    n_labels : int, default=None
        Labels are 0 to `n_labels` - 1; None: up to the largest candidate.

    Returns
    -------
    labels : ndarray of int of shape (n_samples,)
        One of the candidates of each row.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or no choice keeps the bounds; the message
        names labels that cannot keep them.

    Notes
    -----
    Memory is proportional to the number of candidates of all rows.  Time grows like its
    power of 1.5 to 2: the function is for some ten thousands of rows with some tens of
    candidates each.

    References
    ----------
    Bradley, Bennett and Demiriz (2000), "Constrained k-means clustering", Microsoft
    Research, MSR-TR-2000-65,
    https://www.microsoft.com/en-us/research/wp-content/uploads/2016/02/tr-2000-65.pdf.

    Examples
    --------
    >>> from skvq.codes import capacitate
    >>> candidates = [[0, 1], [0, 1], [0, 1], [0, 1]]
    >>> errors = [[0.0, 9.0], [1.0, 3.0], [1.0, 8.0], [2.0, 3.0]]
    >>> capacitate(candidates, errors, max_size=2).tolist()
    [0, 1, 0, 1]
    """
    be = followed_backend(candidates)
    candidates = np.asarray(check_unmasked(be.to_host(candidates), "candidates"))
    whole = candidates.dtype.kind in "iu"
    if np.asarray(followed_backend(errors).to_host(errors)).dtype.kind not in "biuf":
        raise TypeError("errors must be real numbers")
    if candidates.ndim != 2 or candidates.size == 0 or not whole:
        raise ValueError(
            f"candidates has shape {candidates.shape} and dtype {candidates.dtype}; "
            "expected integers, (n_samples, n_candidates), of one row and one "
            "candidate or more."
        )
    errors = check_numbers(errors, "errors", candidates.shape)
    n_rows = len(candidates)
    largest = int(candidates.max())
    size = largest + 1
    if n_labels is not None:
        size = check_count("n_labels", n_labels, largest=None)
    if candidates.min() < 0 or largest >= size:
        raise ValueError(
            f"candidates ranges from {candidates.min()} to {largest}; expected labels "
            f"from 0 to {size - 1}."
        )
    least, most = _bounds(min_size, max_size, n_rows, size)
    row = np.repeat(np.arange(n_rows), candidates.shape[1])
    label, error = candidates.astype(np.int64).ravel(), errors.ravel()
    # Among equal candidates of a row, keep the best.
    order = np.lexsort((error, label, row))
    row, label, error = row[order], label[order], error[order]
    is_first = np.append(True, (np.diff(row) != 0) | (np.diff(label) != 0))
    row, label, error = row[is_first], label[is_first], error[is_first]
    labels = label[_chosen(row, label, error, n_rows, size, least, most)]
    return sent(be, labels)


def _bounds(min_size: Any, max_size: Any, n_rows: int, size: int) -> tuple[int, int]:
    """Return the bounds; raise if no labelling keeps them."""
    least, most = 0, n_rows
    if min_size != 0:
        least = check_count("min_size", min_size, largest=None)
    if max_size is not None:
        most = check_count("max_size", max_size, largest=None)
    if least > most and max_size is not None:
        raise ValueError(f"min_size={least} is more than max_size={most}.")
    if least * size > n_rows:
        raise ValueError(
            f"min_size={least} for {size} labels takes {least * size} rows, but there "
            f"are {n_rows}."
        )
    if most * size < n_rows:
        raise ValueError(
            f"max_size={most} for {size} labels leaves room for {most * size} rows, "
            f"but there are {n_rows}."
        )
    return least, most


def _chosen(
    row: np.ndarray,
    label: np.ndarray,
    error: np.ndarray,
    n_rows: int,
    size: int,
    least: int,
    most: int,
) -> np.ndarray:
    """Return the index of the chosen candidate of each row."""
    n = len(row)
    # What all candidates of a row have in common decides nothing, and would be rounded.
    firsts = np.flatnonzero(np.append(True, np.diff(row) != 0))
    cost = error - np.minimum.reduceat(error, firsts)[row]
    cost = cost / (float(cost.max()) or 1.0)
    ones, places = np.ones(n), np.arange(n)
    of_rows = csr_array((ones, (row, places)), shape=(n_rows, n))
    of_labels = csr_array((ones, (label, places)), shape=(size, n))
    limits = np.concatenate([np.full(size, float(most)), np.full(size, -float(least))])
    # A transport problem with integer bounds has integer vertices; one is found.
    found = linprog(
        cost,
        A_ub=_stacked(of_labels),
        b_ub=limits,
        A_eq=of_rows,
        b_eq=np.ones(n_rows),
        bounds=(0, None),
        method="highs-ds",
    )
    if found.status == 2:
        raise ValueError(_why_not(of_rows, of_labels, limits, least, most))
    if found.status != 0:
        raise RuntimeError(f"the labels were not found: {found.message}")
    share = found.x
    order = np.lexsort((-share, row))
    return order[np.append(True, np.diff(row[order]) != 0)]


def _stacked(of_labels: csr_array) -> csr_array:
    return csr_array(vstack([of_labels, -of_labels]))


def _why_not(of_rows: Any, of_labels: Any, limits: Any, least: int, most: int) -> str:
    """Return a message about the labels that miss the bounds by the least sum."""
    n_rows, n = of_rows.shape
    missed = eye_array(len(limits), format="csr")
    found = linprog(
        np.concatenate([np.zeros(n), np.ones(len(limits))]),
        A_ub=csr_array(hstack([_stacked(of_labels), -missed])),
        b_ub=limits,
        A_eq=csr_array(hstack([of_rows, csr_array((n_rows, len(limits)))])),
        b_eq=np.ones(n_rows),
        bounds=(0, None),
        method="highs-ds",
    )
    over, under = np.split(np.rint(found.x[n:]).astype(int), 2)
    parts = []
    for name, bound, by, word in (
        ("max_size", most, over, "too many rows have no other candidate than"),
        ("min_size", least, under, "too few rows have as a candidate"),
    ):
        labels = np.flatnonzero(by)
        if len(labels):
            some = ", ".join(map(str, labels[:_MOST_LISTED]))
            more = f" and {len(labels) - _MOST_LISTED} more" * (
                len(labels) > _MOST_LISTED
            )
            parts.append(
                f"{name}={bound} cannot be met, by {by.sum()} rows in all: {word} "
                f"labels such as {some}{more}"
            )
    return "; ".join(parts) + ". Give more candidates for a row, or wider bounds."
