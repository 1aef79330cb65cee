"""Columns that hold a list in each row, as data frames keep embeddings.

Libraries are told apart by what their columns can do, so that none has to be imported.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq._checks import check_unmasked, class_name, is_sequence

# Rows that are looked at to tell a column of lists from one of other objects.
_LOOKED_AT = 64
# What stands for a row or a number that is missing, as text.
_MISSING = "nan", "<NA>", "NaT"


def rows_of(column: Any) -> NDArray[Any]:
    """Return the lists of a column as a matrix; see `skvq.io.rows`."""
    how = _to_have_rows(column)
    if how is not None:
        raise TypeError(
            f"column is a {class_name(type(column))}; expected a column that holds a "
            f"list of numbers in each row{how}."
        )
    names = _names(column)
    if names is not None:
        column = _only_column(column, names)
    name = _name_of(column)
    if not len(column):
        raise ValueError(f"{_called(name)} has no rows; expected one or more.")
    return _converted(column, _called(name))


def refuse_list_columns(X: Any, name: str) -> None:
    """Raise if what is to be a matrix is, or has, a column of lists.

    Parameters
    ----------
    X : object
        As the user gives it.
    name : str
        What the message calls it.

    Raises
    ------
    ValueError
        With the name of the column, and what makes a matrix of it.
    """
    if getattr(getattr(X, "dtype", None), "kind", "O") != "O":  # an array of numbers
        return
    names = _names(X)
    if names is None:
        if not (_can_be_column(X) and _holds_lists(X)):
            return
        column = _name_of(X)
        what = f"{name} is a column of lists"
        if column is not None:
            what = f"{name} is the column '{column}', which holds lists"
    else:
        column = next((names[j] for j in _columns_of_lists(X, names)), None)
        if column is None:
            return
        what = f"{name} has the column '{column}', which holds lists"
    how = name if column is None else f"df[{_quoted(column)}]"
    raise ValueError(
        f"{what}; expected a matrix of numbers, which skvq.io.rows({how}) makes of it."
    )


def _to_have_rows(column: Any) -> str | None:
    """Return what is to be done before a column has rows; None: it has rows."""
    # The class is asked, since a delayed value of Dask's seems to have everything.
    if hasattr(type(column), "__dask_graph__"):
        return ": compute() it first"
    try:
        len(column)
    except TypeError:  # which sparse matrices and arrays without dimensions have
        return ": collect() it first" if hasattr(column, "collect") else ""
    return None


def _quoted(name: Any) -> str:
    """Return the name of a column as it is written in Python."""
    # As most people write it, unless that would end at a quote within the name.
    plain = isinstance(name, str) and name.isprintable() and not set(name) & {*'"\\'}
    return f'"{name}"' if plain else repr(name)


# -- which columns hold lists ----------------------------------------------------------


def _names(table: Any) -> list[Any] | None:
    """Return the names of the columns of a table; None: it is none."""
    # Of the class: tables of pandas have a column's name as an attribute.
    for attribute in ("column_names", "columns"):
        if hasattr(type(table), attribute):
            return list(getattr(table, attribute))
    return None


def _name_of(column: Any) -> Any:
    """Return the name of a column, if it has one."""
    for attribute in ("name", "column_name"):
        name = getattr(column, attribute, None)
        if name is not None and name != "":
            return name
    return None


def _called(name: Any) -> str:
    return "the column" if name is None else f"column '{name}'"


def _only_column(table: Any, names: list[Any]) -> Any:
    if len(names) == 1:
        return table[names[0]]
    lists = [names[j] for j in _columns_of_lists(table, names)]
    held = ", ".join(f"'{name}'" for name in lists) or "none of them"
    raise ValueError(
        f"column is a table of {len(names)} columns, of which lists are in {held}; "
        'expected one column, such as df["embedding"].'
    )


def _columns_of_lists(table: Any, names: Sequence[Any]) -> Iterator[int]:
    """Yield the places of the columns that hold lists."""
    types = getattr(table, "dtypes", None)
    if types is None:
        types = getattr(getattr(table, "schema", None), "types", [None] * len(names))
    for j, of_column in enumerate(types):
        if getattr(of_column, "kind", "O") != "O":  # numbers, as most are
            continue
        if is_list_type(of_column):
            yield j
        elif of_column is None:
            if _holds_lists(table[names[j]]):
                yield j
        # Of pandas; names may come twice, places do not.
        elif hasattr(of_column, "kind") and _holds_lists(table.iloc[:, j]):
            yield j


def is_list_type(of_column: Any) -> bool:
    """Whether the type of a column says that it holds lists: Polars' and Arrow's do."""
    of_column = getattr(of_column, "pyarrow_dtype", of_column)
    of_column = getattr(of_column, "storage_type", of_column)  # of an extension
    return any(hasattr(of_column, one) for one in ("inner", "value_field"))


def _can_be_column(X: Any) -> bool:
    """Whether X may be one column: a series, or an array of one dimension."""
    if isinstance(X, list | tuple):  # of which NumPy makes a matrix
        return False
    is_column = any(hasattr(X, one) for one in ("dtype", "type", "column_name"))
    return is_column and hasattr(X, "__len__") and getattr(X, "ndim", 1) == 1


def _holds_lists(column: Any) -> bool:
    of_column = getattr(column, "dtype", getattr(column, "type", None))
    if is_list_type(of_column):
        return True
    if getattr(of_column, "kind", "O") != "O" or not hasattr(column, "__iter__"):
        return False
    first = (row for row in islice(column, _LOOKED_AT) if not _is_missing(row))
    return is_sequence(next(first, None))


def _is_missing(row: Any) -> bool:
    # By what they are called, since NaN may be of any type, and the others are pandas'.
    return row is None or (not hasattr(row, "__len__") and str(row) in _MISSING)


# -- what libraries make of them -------------------------------------------------------


def _converted(column: Any, called: str) -> NDArray[Any]:
    if hasattr(column, "column_name") and hasattr(column, "source"):
        column = _as_arrow(column)
    of_column = getattr(column, "dtype", None)
    if hasattr(of_column, "pyarrow_dtype"):  # of a pandas series
        column = column.array.__arrow_array__()
        of_column = None
    if hasattr(of_column, "inner"):
        return _of_polars(column, called)
    if hasattr(column, "null_count") and hasattr(column, "type"):
        return _of_arrow(column, called)
    if getattr(column, "ndim", 1) == 2:
        return _numbers(np.asarray(check_unmasked(column, called)), called)
    return _of_objects(column, called)


def _as_arrow(column: Any) -> Any:
    """Return a column of a data set as Arrow has it; of another, its rows."""
    if not hasattr(column.source, "with_format"):
        return list(column)
    name = column.column_name
    return column.source.select_columns(name).with_format("arrow")[:][name]


def _of_polars(column: Any, called: str) -> NDArray[Any]:
    if column.null_count():
        _raise_missing(called, column.is_null().arg_max())
    lengths = [column.dtype.size] if hasattr(column.dtype, "size") else None
    if lengths is None:
        lengths = column.list.len().to_numpy()
    width = _common_length(lengths, called)
    inner = column.dtype.inner
    if hasattr(inner, "inner") or len(getattr(column.dtype, "shape", (width,))) > 1:
        _raise_nested(called)
    flat = column.explode() if width else column[:0].explode()
    if flat.null_count():
        _raise_null(called, flat.is_null().arg_max(), width)
    return _numbers(flat.to_numpy().reshape(len(column), width), called, inner)


def _of_arrow(column: Any, called: str) -> NDArray[Any]:
    chunks = [one for one in getattr(column, "chunks", [column]) if len(one)]
    found: list[NDArray[Any]] = []
    start, width = 0, None
    for chunk in chunks:
        found.append(matrix_of_chunk(chunk, called, start, width))
        start, width = start + len(chunk), found[0].shape[1]
    return found[0] if len(found) == 1 else np.concatenate(found)


def matrix_of_chunk(
    chunk: Any, called: str, start: int, width: int | None
) -> NDArray[Any]:
    """Return a matrix of the lists of an array of Arrow's.

    Parameters
    ----------
    chunk : pyarrow.Array
        One piece of a column, with one row or more.
    called : str
        What the message calls the column.
    start : int
        The number of its first row.
    width : int or None
        The length of the lists of pieces before it; None: it is the first.
    """
    chunk = getattr(chunk, "storage", chunk)  # of a type that extends another
    if not hasattr(chunk.type, "value_type"):
        raise ValueError(f"{called} holds {chunk.type}; expected lists of numbers.")
    if is_list_type(chunk.type.value_type):
        _raise_nested(called)
    if chunk.null_count:
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        _raise_missing(called, start + int(missing.argmax()))
    lengths = [getattr(chunk.type, "list_size", -1)]
    if lengths[0] < 0:
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
    width = _common_length(lengths, called, start, width)
    flat = chunk.flatten()
    if flat.null_count:
        missing = flat.is_null().to_numpy(zero_copy_only=False)
        _raise_null(called, start * width + int(missing.argmax()), width)
    found = flat.to_numpy(zero_copy_only=False).reshape(len(chunk), width)
    return _numbers(found, called)


def _of_objects(column: Iterable[Any], called: str) -> NDArray[Any]:
    found = list(column)
    for i, row in enumerate(found):
        if _is_missing(row):
            _raise_missing(called, i)
        if not is_sequence(row):
            raise ValueError(
                f"row {i} of {called} is {row!r}; expected a list of numbers."
            )
    check_unmasked(found, called)
    width = _common_length(list(map(len, found)), called)
    try:
        flat = np.concatenate(found)
    except (TypeError, ValueError):
        _raise_nested(called)
    if flat.ndim != 1:
        _raise_nested(called)
    if flat.dtype.kind == "O":
        nulls = [_is_missing(one) for one in flat]
        if any(nulls):
            _raise_null(called, nulls.index(True), width)
    return _numbers(flat.reshape(len(found), width), called)


def _numbers(found: NDArray[Any], called: str, inner: Any = None) -> NDArray[Any]:
    """Return a matrix; raise unless it holds real numbers.

    The message tells the type that the library of the column has for them, if given.
    """
    if not found.shape[1]:
        raise ValueError(f"{called} holds empty lists; expected numbers.")
    if found.dtype.kind not in "biuf":
        held = found.dtype if inner is None else inner
        raise ValueError(f"{called} holds lists of {held}; expected real numbers.")
    return found


def _common_length(
    lengths: Any, called: str, start: int = 0, width: int | None = None
) -> int:
    """Return the length that all lists have; raise and name the first that has not."""
    lengths = np.asarray(lengths)
    width = int(lengths[0]) if width is None else width
    other = np.flatnonzero(lengths != width)
    if len(other):
        i = int(other[0])
        raise ValueError(
            f"row {start + i} of {called} is a list of length {lengths[i]}, and row 0 "
            f"one of length {width}; expected lists of one length."
        )
    return width


def _raise_missing(called: str, row: int) -> None:
    raise ValueError(
        f"row {row} of {called} is missing; expected a list of numbers in each row."
    )


def _raise_null(called: str, place: int, width: int) -> None:
    raise ValueError(
        f"row {place // width} of {called} has a missing value in place "
        f"{place % width}; expected numbers."
    )


def _raise_nested(called: str) -> None:
    raise ValueError(
        f"{called} holds lists of lists, or of other things; expected lists of numbers."
    )
