"""Data files, read piece by piece: .npy, .npz, .csv, .tsv and .parquet.

A source knows its number of rows and yields them in pieces, so that a file may be
larger than memory.  Pieces of an .npy file are memory maps of their own: of one map of
the whole file, every page that was read would count as memory of the process.
"""

import argparse
import csv
import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from skvq._cli.console import CommandError, first_line
from skvq._columns import is_list_type, matrix_of_chunk

# Bytes of a piece, counted as it is decoded to float32 or in its own dtype.
CHUNK_BYTES = 2**25
# What readers raise at a file that is not what its name says.
_FORMAT_ERRORS = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)
SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".parquet")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which part of a file is the data.

    Parameters
    ----------
    parser : ArgumentParser
        Parser of a command with an argument DATA.
    """
    group = parser.add_argument_group("what to read of DATA")
    group.add_argument(
        "--key", metavar="NAME", help="array of an .npz file that holds several"
    )
    group.add_argument(
        "--columns",
        metavar="NAMES",
        help="columns of a .csv, .tsv or .parquet file, separated by commas; "
        "first:last is a range; or one column of a .parquet file that holds a list in "
        "each row; default: all",
    )
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line of a .csv or .tsv file has the names of the "
        "columns; default: if it is not all numbers, or counts from 0",
    )


def open_source(
    path: Path,
    *,
    key: str | None = None,
    columns: str | None = None,
    header: bool | None = None,
) -> "Source":
    """Open a data file.

    Parameters
    ----------
    path : Path
        The file.
    key : str, optional
        Array of an .npz file.
    columns : str, optional
        Columns of a table, separated by commas; ``first:last`` is a range.
    header : bool, optional
        Whether the first line of a .csv or .tsv file has names; None: by its looks.

    Returns
    -------
    source : Source
        The rows of the file.

    Raises
    ------
    CommandError
        If the file cannot be read, or holds no matrix of numbers.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CommandError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES)}"
        )
    if key is not None and suffix != ".npz":
        raise CommandError(f"--key: {path} is no .npz file")
    if columns is not None and suffix in (".npy", ".npz"):
        raise CommandError(f"--columns: {path} has no named columns")
    if header is not None and suffix not in (".csv", ".tsv"):
        raise CommandError(f"--header: {path} is no .csv or .tsv file")
    with readable(path):
        if suffix == ".npy":
            return NpySource(path)
        if suffix == ".npz":
            return NpzSource(path, key)
        if suffix == ".parquet":
            return ParquetSource(path, columns)
        return CsvSource(path, columns, header)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into an error of the user.

    Parameters
    ----------
    path : Path
        The file.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"cannot read {path}: {error.strerror or first_line(error)}"
        ) from error
    except _FORMAT_ERRORS as error:
        message = first_line(error) or type(error).__name__
        raise CommandError(f"cannot read {path}: {message}") from error


class Source(ABC):
    """The rows of a file.

    Attributes
    ----------
    path : Path
        The file.
    n_rows : int
        Number of rows.
    n_features : int
        Number of columns.
    dtype : numpy.dtype
        Type of the numbers.
    columns : list of str or None
        Names of the columns, if the file has any.
    """

    path: Path
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]
    columns: list[str] | None = None

    @abstractmethod
    def _chunks(self, n_rows: int) -> Iterator[np.ndarray]:
        """Yield pieces of n_rows rows."""

    def chunk_rows(self) -> int:
        """Return the number of rows of a piece."""
        return rows_of_chunk(self.n_features, self.dtype.itemsize)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all rows, in order, in pieces of `chunk_rows`."""
        n_rows = 0
        with readable(self.path):
            for chunk in self._chunks(self.chunk_rows()):
                n_rows += len(chunk)
                yield _native(chunk)
            if n_rows != self.n_rows:
                raise ValueError(f"it has {n_rows} rows, and had {self.n_rows} before")

    def load(self) -> np.ndarray:
        """Return all rows, as a memory map if the file can be mapped."""
        return self._gather(self.chunks(), self.n_rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows.

        Parameters
        ----------
        rows : ndarray of int
            Their numbers, increasing.

        Returns
        -------
        X : ndarray of shape (len(rows), n_features)
            The rows.
        """
        return self._gather(self._picked(rows), len(rows))

    def _picked(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        start = 0
        for chunk in self.chunks():
            stop = start + len(chunk)
            first, last = np.searchsorted(rows, [start, stop])
            yield chunk[rows[first:last] - start]
            start = stop

    def _gather(self, chunks: Iterator[np.ndarray], n_rows: int) -> np.ndarray:
        X = np.empty((n_rows, self.n_features), dtype=self.dtype.newbyteorder("="))
        start = 0
        for chunk in chunks:
            X[start : start + len(chunk)] = chunk
            start += len(chunk)
        return X


def rows_of_chunk(n_features: int, itemsize: int) -> int:
    """Return how many rows a piece has.

    Parameters
    ----------
    n_features : int
        Numbers in a row.
    itemsize : int
        Bytes of a number; at least 4 are counted, what it is computed in.

    Returns
    -------
    n_rows : int
        A multiple of 8, so that packed codes of a piece fill whole bytes.
    """
    # Columns that take no space must not make a piece of unbounded length.
    row_bytes = max(n_features, 16) * max(itemsize, 4)
    return max(8, CHUNK_BYTES // row_bytes // 8 * 8)


def _native(chunk: np.ndarray) -> np.ndarray:
    return chunk.astype(chunk.dtype.newbyteorder("="), copy=False)


def _check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"expected a matrix, samples in rows, got an array of shape {shape}"
        )
    if dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, got dtype {dtype}")
    if not shape[1]:
        raise ValueError("it has no columns")


# -- NumPy -------------------------------------------------------------------------


class NpySource(Source):
    """An .npy file, memory-mapped piece by piece.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        X = self._map()
        if not isinstance(X, np.ndarray):
            raise ValueError("it holds an .npz archive")
        _check_matrix(X.shape, X.dtype)
        self.n_rows, self.n_features = X.shape
        self.dtype = X.dtype
        self._offset = path.stat().st_size - X.nbytes
        self._is_fortran = X.flags.f_contiguous and not X.flags.c_contiguous

    def _map(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _chunks(self, n_rows: int) -> Iterator[Any]:
        for start in range(0, self.n_rows, n_rows):
            if self._is_fortran:
                yield self._columns(start, min(start + n_rows, self.n_rows))
            else:
                yield self._map()[start : start + n_rows]

    def _columns(self, start: int, stop: int) -> np.ndarray:
        """Read rows of a file in Fortran order.

        Through a map, the pages between would become memory of the process as well.
        """
        X = np.empty((self.n_features, stop - start), dtype=self.dtype)
        with self.path.open("rb") as file:
            for j, column in enumerate(X):
                file.seek(self._offset + (j * self.n_rows + start) * X.itemsize)
                column[:] = np.fromfile(file, dtype=self.dtype, count=len(column))
        return X.T

    def load(self) -> Any:
        """Return the memory map."""
        with readable(self.path):
            return _native(self._map())


class NpzSource(Source):
    """An array of an .npz file, unpacked piece by piece.

    Parameters
    ----------
    path : Path
        The file.
    key : str or None
        Name of the array; None: the only one.
    """

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        self.name = f"{_npz_key(path, key)}.npy"
        with self._open() as (_, shape, dtype, is_fortran):
            _check_matrix(shape, dtype)
        self.n_rows, self.n_features = shape
        self.dtype = dtype
        self._is_fortran = is_fortran

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Open the array behind its header; yield file, shape, dtype and order."""
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"it holds an array in version {version} of .npy")
            shape, is_fortran, dtype = read(file)
            yield file, shape, dtype, is_fortran

    def _chunks(self, n_rows: int) -> Iterator[Any]:
        if self._is_fortran:  # a row is all over the stream
            with np.load(self.path, allow_pickle=False) as archive:
                X = archive[self.name.removesuffix(".npy")]
            for start in range(0, self.n_rows, n_rows):
                yield X[start : start + n_rows]
            return
        with self._open() as (file, _, dtype, _):
            for start in range(0, self.n_rows, n_rows):
                shape = min(n_rows, self.n_rows - start), self.n_features
                content = _read_exactly(file, math.prod(shape) * dtype.itemsize)
                yield np.frombuffer(content, dtype=dtype).reshape(shape)


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file.

    Parameters
    ----------
    path : Path
        The file.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    return [name.removesuffix(".npy") for name in names]


def _npz_key(path: Path, key: str | None) -> str:
    keys = npz_keys(path)
    if not keys:
        raise ValueError("it holds no arrays")
    if key is None and len(keys) == 1:
        return keys[0]
    if key is None:
        raise ValueError(
            f"it holds several arrays; choose with --key: {some_names(keys)}"
        )
    if key not in keys:
        raise ValueError(f"it holds no array '{key}', but {some_names(keys)}")
    return key


def _read_exactly(file: BinaryIO, n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) != n_bytes:
        raise EOFError("it ends too early")
    return content


def some_names(names: Sequence[str]) -> str:
    """Return the first of some names, and how many there are.

    Parameters
    ----------
    names : sequence of str
        The names.

    Returns
    -------
    text : str
        All of them, if they are few.
    """
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... ({len(names)})"


# -- tables ------------------------------------------------------------------------


def _chosen(names: Sequence[str], columns: str | None) -> list[int]:
    """Return the numbers of the columns that are asked for."""
    if columns is None:
        return list(range(len(names)))
    chosen: list[int] = []
    for item in columns.split(","):
        first, colon, last = item.partition(":")
        if item in names or not colon:
            first = last = item
        for name in (first, last):
            if name not in names:
                raise CommandError(
                    f"--columns: there is no column '{name}'; there are "
                    f"{some_names(names)}"
                )
        start, stop = names.index(first), names.index(last) + 1
        if start >= stop:
            raise CommandError(f"--columns: in '{item}', the last comes first")
        chosen += range(start, stop)
    return chosen


class CsvSource(Source):
    """A .csv or .tsv file.

    The separator is the tab, the semicolon, or the comma: the first of these that the
    first line has.  Blank lines are left out.

    Parameters
    ----------
    path : Path
        The file.
    columns : str or None
        Columns to read.
    header : bool or None
        Whether the first line has names; None: by its looks.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, path: Path, columns: str | None, header: bool | None) -> None:
        self.path = path
        with self._open() as file:
            first = next((line for line in file if line.strip()), None)
            if first is None:
                raise ValueError("it is empty")
            self._separator = next((s for s in "\t;" if s in first), ",")
            names = self._cells(first)
            self._has_header = _is_header(names) if header is None else header
            n_lines = sum(1 for line in file if line.strip())
        self.n_rows = n_lines + (not self._has_header)
        self._n_cells = len(names)
        if not self._has_header:
            names = [str(i) for i in range(len(names))]
        elif columns is None and not all(names):
            raise ValueError(
                f"column {names.index('')} has no name, as an index that was written "
                "with the data; choose those that are data with --columns"
            )
        self._used = _chosen(names, columns)
        self.n_features = len(self._used)
        if self._has_header:
            self.columns = [names[i] for i in self._used]

    def _open(self) -> TextIO:
        # Spreadsheets put a mark before the first name.
        return self.path.open(encoding="utf-8-sig", newline="")

    def _cells(self, line: str) -> list[str]:
        row = next(csv.reader([line], delimiter=self._separator), [])
        return [cell.strip() for cell in row]

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield lines of data with their numbers in the file, from 1."""
        with self._open() as file:
            lines = ((i, line) for i, line in enumerate(file, 1) if line.strip())
            yield from islice(lines, int(self._has_header), None)

    def _chunks(self, n_rows: int) -> Iterator[Any]:
        lines = self._lines()
        while numbered := list(islice(lines, n_rows)):
            yield self._parse(numbered)

    def take(self, rows: np.ndarray) -> Any:
        """Return some rows; the lines between are not parsed."""
        wanted = set(rows.tolist())
        lines = (line for i, line in enumerate(self._lines()) if i in wanted)
        step = self.chunk_rows()
        with readable(self.path):
            parsed = iter(lambda: list(islice(lines, step)), [])
            return self._gather(map(self._parse, parsed), len(rows))

    def _parse(self, numbered: list[tuple[int, str]]) -> np.ndarray:
        try:
            X = np.loadtxt(
                (line for _, line in numbered),
                delimiter=self._separator,
                comments=None,
                quotechar='"',
                usecols=self._used,
                ndmin=2,
            )
        except ValueError as error:
            self._explain(numbered)
            raise ValueError(first_line(error)) from error
        # With chosen columns, loadtxt does not mind cells that are too many.
        if any(
            line.count(self._separator) != self._n_cells - 1 for _, line in numbered
        ):
            self._explain(numbered)
        return X

    def _explain(self, numbered: list[tuple[int, str]]) -> None:
        """Raise a ValueError that names the first line which is wrong, and why."""
        for number, line in numbered:
            cells = self._cells(line)
            if len(cells) != self._n_cells:
                raise ValueError(
                    f"line {number} has {len(cells)} cells, the first has "
                    f"{self._n_cells}"
                )
            for i in self._used:
                if not _is_number(cells[i]):
                    name = "" if self.columns is None else f" ({self.columns[i]})"
                    raise ValueError(
                        f"line {number}, column {i}{name}: '{cells[i]}' is not a "
                        "number; --columns chooses those that are"
                    )


def _is_header(cells: list[str]) -> bool:
    # Tables without names are written with the numbers of their columns.
    # A row of data that begins so is likelier with few columns.
    counted = len(cells) > 3 and cells == [str(i) for i in range(len(cells))]
    return counted or not all(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which Python allows, and nobody else


class ParquetSource(Source):
    """A .parquet file: columns of numbers, or one column of lists of one length.

    Parameters
    ----------
    path : Path
        The file.
    columns : str or None
        Columns to read.
    """

    def __init__(self, path: Path, columns: str | None) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(2, os.strerror(2))
        self._file = _pyarrow().parquet.ParquetFile(path)
        schema = self._file.schema_arrow
        used = _chosen(schema.names, columns)
        self._names = [schema.names[i] for i in used]
        lists = [name for name in self._names if is_list_type(schema.field(name).type)]
        if lists and len(self._names) > 1:
            raise ValueError(
                f"column '{lists[0]}' holds lists; choose it alone: --columns "
                f"{lists[0]}"
            )
        self._called = f"column '{lists[0]}'" if lists else None
        self.columns = None if lists else self._names
        self.n_rows = self._file.metadata.num_rows
        # The type of a column, and the width of one of lists, are those of the data.
        first = next(self._batches(1), None)
        if first is None:
            self.n_features, self.dtype = len(self._names), np.dtype(np.float64)
        else:
            self.n_features, self.dtype = first.shape[1], first.dtype

    def _batches(self, n_rows: int) -> Iterator[np.ndarray]:
        start, width = 0, None
        for batch in self._file.iter_batches(n_rows, columns=self._names):
            if self._called is None:
                yield _matrix(batch)
            elif len(batch):
                X = matrix_of_chunk(batch.column(0), self._called, start, width)
                start, width = start + len(X), X.shape[1]
                yield X

    def _chunks(self, n_rows: int) -> Iterator[Any]:
        yield from self._batches(n_rows)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise CommandError(
            ".parquet files need pyarrow: pip install 'skvq[parquet]'"
        ) from error
    return pyarrow


def _matrix(batch: Any) -> np.ndarray:
    """Turn a record batch of columns of numbers into a matrix."""
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            raise ValueError(f"column '{name}' has missing values")
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "biuf":
            raise ValueError(
                f"column '{name}' holds {column.type}, not numbers; --columns chooses "
                "those that do"
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def first_not_finite(X: np.ndarray) -> tuple[int, int, float] | None:
    """Return row, column and value of the first number that is not finite.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        The numbers.

    Returns
    -------
    found : (int, int, float) or None
        None if all are.
    """
    if X.dtype.kind != "f":
        return None
    step = rows_of_chunk(X.shape[1], X.dtype.itemsize)
    for start in range(0, len(X), step):
        finite = np.isfinite(X[start : start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0].tolist()
            return start + row, column, float(X[start + row, column])
    return None
