"""Codebooks prepared for the searches; the prepared forms are kept with the table.

For the metrics that are a matrix product, a row tile x and a table C share one form.
With a centre m taken from the table alone,

    argmin_k ||x - c_k||^2 = argmin_k  1/2 ||c_k - m||^2 - (x - m) . (c_k - m),

which is one GEMM of the tile, extended by a column of ones, with the table
[-(C - m)^T; 1/2 ||c - m||^2], and one argmin over each row of the result.  Without the
centre, data far from the origin would lose every digit that matters.

The rounding error of a score is relative to ||x - m||^2, not to the distance.  So a
code is sure if the distance is not small compared to that norm, or if the second best
score is not near.  The few other rows are searched again with care (`careful`).
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skvq._checks import (
    check_counts,
    check_unmasked,
    columns_in_words,
    is_sequence,
    naming,
)
from skvq._typing import MatrixLike
from skvq.nearest.backends.base import Backend
from skvq.nearest.backends.choice import backend_of, is_array
from skvq.nearest.backends.host import HOST
from skvq.nearest.backends.host_scan import check_codes, columns_of
from skvq.nearest.distinct import unique_rows
from skvq.nearest.metrics import Metric

# 2^64 divided by the golden ratio: an odd multiplier that spreads the bits of a hash.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# If the largest squared distance from the mean is this many times their median, the
# centre is the mean of the rows within this many times the median from theirs.
_FAR = 16

# Standard deviation of the rounding error of a product of d terms, in units of sqrt(d)
# roundings of the result, for terms of one sign: partial sums grow towards the result,
# and each rounding is uniform in its last bit.  It is smaller if terms cancel.
_ROUNDING = 0.17
# Terms to add to d: the factors are rounded as well, and sums of few terms are not sums
# of many small errors.
_MORE_TERMS = 6
# Standard deviations of a difference of scores that count as sure.  Among rows whose
# gap between codewords is as small as the tolerance, one in some 10^8 of ordinary data
# exceeds them (one in some thousands for gaps of one or two tolerances).  The careful
# search looks at candidates within more, which costs few rows a second look.
_SURE, _NEAR = 2.5, 6.0
# Number of forms kept for a table: searches for many beams would each have their own.
_MOST_FORMS = 16
# Number of rows of packed codes that are checked at a time.
_CHECKED_ROWS = 2**16
# Searches treat distances as equal that differ by less than this share of the larger.
TOLERANCE: dict[np.dtype[Any], float] = {
    np.dtype(np.float32): 2.0**-18,
    np.dtype(np.float64): 2.0**-46,
}


# The dtypes that are computed in unchanged; every search asks for them.
_COMPUTED = {np.dtype(np.float32), np.dtype(np.float64)}


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the floating dtype in which input of `dtype` is computed.

    It is float32 for float16, float32 and integers of 8 and 16 bits, and float64
    otherwise.  The choice depends neither on the values nor on the byte order.

    Parameters
    ----------
    dtype : dtype-like
        The dtype of the input.

    Returns
    -------
    dtype : numpy.dtype
        The dtype of the computation.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import compute_dtype
    >>> compute_dtype(np.uint8), compute_dtype(np.int64)
    (dtype('float32'), dtype('float64'))
    """
    dtype = np.dtype(dtype)
    if dtype in _COMPUTED:
        return dtype
    dtype = dtype.newbyteorder("=")
    narrow = dtype.kind in "biuf" and dtype.itemsize <= 2
    return np.dtype(np.float32 if narrow or dtype == np.float32 else np.float64)


class _Kept:
    """An object that keeps what is made from it; copies and pickles leave that out."""

    _forms: dict[Hashable, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Run __init__ again, since arrays that were read back may be writable.
        self.__init__(**state)  # type: ignore[misc]

    def form(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return a form of the object, made at the first call.

        Parameters
        ----------
        key : hashable
            Identifies the form.
        make : callable
            Makes the form; called at the first call with this key.

        Returns
        -------
        form : object
            The result of `make`.
        """
        try:
            return self._forms[key]
        except KeyError:
            # If two threads both make it, one result is kept.
            found = self._forms.setdefault(key, make())
        for old in list(self._forms)[:-_MOST_FORMS]:
            self._forms.pop(old, None)
        return found


class Table(_Kept):
    """A codebook that keeps what searches have prepared of it.

    Every search takes one in place of an array, and then prepares nothing twice.

    Parameters
    ----------
    codewords : array-like of shape (n_codewords, n_features)
        An array of any library; a read-only copy is kept on the host.
    exact : bool, default=True
        Whether codes are those of exact distances, as `nearest` says.  Tables that are
        being learned are searched many times; for them it is enough to tell distances
        apart that differ by 2^-14 of the larger (2^-42 in float64).

    Attributes
    ----------
    codewords : ndarray of shape (n_codewords, n_features)
        The codebook.
    exact : bool
        As given.

    Examples
    --------
    >>> from skvq.nearest import Table, nearest
    >>> table = Table([[0.0, 0.0], [4.0, 4.0]])
    >>> nearest([[5.0, 5.0]], table, return_distances=False)[0].tolist()
    [1]
    """

    codewords: NDArray[Any]
    exact: bool

    def __init__(self, codewords: MatrixLike, *, exact: bool = True) -> None:
        codewords = HOST.matrix(fetched(codewords), "codebook")
        self.codewords, self.exact = read_only(codewords), exact
        self._forms = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of codewords and of features."""
        return self.codewords.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the codewords."""
        return self.codewords.dtype

    def __len__(self) -> int:
        return len(self.codewords)

    def __repr__(self) -> str:
        size, width = self.shape
        return f"<Table of {size} codewords, {width} features, {self.dtype}>"

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.array(self.codewords, dtype=dtype, copy=True)

    def on(self, be: Backend) -> Any:
        """Return the codewords in the library and on the device of a backend.

        Parameters
        ----------
        be : Backend
            The backend; NumPy's returns the array that is kept.

        Returns
        -------
        codewords : array of shape (n_codewords, n_features)
            The codewords, which are sent there once.
        """
        return self.form(("rows", be.key), lambda: be.send(self.codewords))

    def rows(self, codes: Any) -> Any:
        r"""Return the codewords of codes, in the library of the codes.

        Parameters
        ----------
        codes : array of int
            Codes of any shape.

        Returns
        -------
        rows : array of shape (\*codes.shape, n_features)
            The codewords.
        """
        be = backend_of(codes)
        return be.look_up(self.on(be), codes)

    def __getstate__(self) -> dict[str, Any]:
        return {"codewords": self.codewords, "exact": self.exact}


class Tables(_Kept):
    """Several codebooks that keep what searches in all of them have prepared.

    Parameters
    ----------
    tables : sequence of Table or array-like
        One for each subspace, stage or factor.
    """

    def __init__(self, tables: Sequence[Any]) -> None:
        self._set(_named(tables))
        for table in self._tables:
            table.codewords = read_only(table.codewords)

    def _set(self, tables: Iterable["Table"]) -> None:
        self._tables, self._forms = tuple(tables), {}

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        features = sum(table.shape[1] for table in self._tables)
        sizes = columns_in_words([len(table) for table in self._tables])
        return f"<Tables for {sizes}, {features} features in all>"

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return self._tables[index]

    @cached_property
    def dtype(self) -> np.dtype:
        """The dtype that searches compute in, except for rows of a wider dtype."""
        dtypes = (compute_dtype(table.dtype) for table in self)
        return np.result_type(np.float32, *dtypes)

    @cached_property
    def widths(self) -> list[int]:
        """Number of features of each table."""
        return [table.shape[1] for table in self]

    @cached_property
    def n_numbers(self) -> int:
        """Number of values in all tables together."""
        return sum(math.prod(table.shape) for table in self)

    @cached_property
    def most_codewords(self) -> int:
        """Number of codewords of the largest table."""
        return max(map(len, self), default=1)

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables)

    def __getstate__(self) -> dict[str, Any]:
        return {"tables": list(self._tables)}


class Columns(_Kept):
    """Edges or levels of columns of scalars, which keep what is prepared of them.

    Parameters
    ----------
    arrays : sequence of 1-d arrays
        One for each column, of any library; columns may share one.  Read-only copies
        are kept on the host.

    Attributes
    ----------
    arrays : tuple of ndarrays
        These copies.
    """

    arrays: tuple[Any, ...]

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._set(arrays, "arrays")
        # An array that columns share is copied once.
        kept: dict[int, np.ndarray] = {}
        for array in self.arrays:
            if id(array) not in kept:
                kept[id(array)] = read_only(np.asarray(fetched(array)))
        self.arrays = tuple(kept[id(array)] for array in self.arrays)

    def _set(self, arrays: Sequence[Any], name: str) -> None:
        if not is_sequence(arrays):
            raise ValueError(
                f"{name}={arrays!r}; expected a sequence of arrays, one a column."
            )
        with naming(name):
            own = [array if is_array(array) else np.asarray(array) for array in arrays]
            for j, array in enumerate(own):
                check_unmasked(array, f"{name}[{j}]")
        for j, array in enumerate(own):
            if len(array.shape) != 1:
                shape = tuple(array.shape)
                raise ValueError(
                    f"{name}[{j}] has shape {shape}; expected one dimension."
                )
        self.arrays, self._forms = tuple(own), {}

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        return f"<Columns of {sum(map(len, self.arrays))} numbers, {len(self)} columns>"

    def __getstate__(self) -> dict[str, Any]:
        return {"arrays": list(self.arrays)}


class Packed(_Kept):
    """Packed codes that keep what scans have prepared of them.

    `scan` takes one in place of an array, and then checks and prepares nothing twice.

    Parameters
    ----------
    packed : array-like of uint8, shape (n_samples, n_bytes)
        Codes packed in rows by `skvq.codes.pack`: each in ceil(log2 V_j) bits, highest
        bits first, and each row from a new byte on.  The array is not copied and must
        not be changed afterwards.
    sizes : sequence of int
        Number of codewords V_j of each column.
    factor, offset : array-like of shape (n_samples,), optional
        Terms of the rows' scores; see `scan`.

    Raises
    ------
    TypeError
        If the dtype of packed is not uint8.
    ValueError
        If shapes do not fit, codes are out of range, or numbers are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.nearest import Packed, scan
    >>> codes = Packed(np.array([[0, 1], [2, 0]], np.uint8), (256, 256))
    >>> indices, scores = scan(codes, None, np.arange(512.0)[None], k=1)
    >>> indices.tolist(), scores.tolist()
    ([[0]], [[257.0]])
    """

    columns: tuple[Any, ...]
    factor: Any
    is_checked: bool
    most_factor: Any
    most_offset: Any
    n_bits: int
    n_bytes: int
    offset: Any
    packed: Any
    sizes: tuple[int, ...]

    def __init__(
        self,
        packed: Any,
        sizes: Sequence[int],
        *,
        factor: Any = None,
        offset: Any = None,
    ) -> None:
        self._set(packed, sizes, factor, offset)
        for start in range(0, len(self), _CHECKED_ROWS):
            some = self.packed[start : start + _CHECKED_ROWS]
            check_codes(self, some.T.__getitem__, start)
        self.is_checked = True

    def _set(self, packed: Any, sizes: Sequence[int], factor: Any, offset: Any) -> None:
        self.sizes = tuple(check_counts("sizes", sizes))
        self.columns, self._forms = columns_of(self.sizes), {}
        if not self.columns:
            raise ValueError("sizes is empty; expected one for each code column.")
        self.n_bits = sum(column.width for column in self.columns)
        self.n_bytes = -(-self.n_bits // 8)
        with naming("packed"):
            packed = np.asarray(check_unmasked(fetched(packed), "packed"))
        if packed.dtype != np.uint8:
            raise TypeError(f"packed has dtype {packed.dtype}; expected uint8.")
        if packed.ndim != 2 or packed.shape[1] != self.n_bytes:
            raise ValueError(
                f"packed has shape {packed.shape}; expected (n_samples, "
                f"{self.n_bytes}) for rows of {self.n_bits} bits."
            )
        self.packed, self.is_checked = packed, False
        self.factor, self.most_factor = self._term(factor, "factor", 1.0)
        self.offset, self.most_offset = self._term(offset, "offset", 0.0)

    def _term(self, term: Any, name: str, most: float) -> tuple[Any, ...]:
        """Return a factor or an offset for the rows, and its largest magnitude."""
        if term is None:
            return None, most
        with naming(name):
            term = np.asarray(check_unmasked(fetched(term), name))
        if term.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {term.dtype}; expected real numbers.")
        if term.shape != self.packed.shape[:1]:
            raise ValueError(
                f"{name} has shape {term.shape}; expected {self.packed.shape[:1]}."
            )
        most = max(abs(float(term.max(initial=0))), abs(float(term.min(initial=0))))
        if not math.isfinite(most):
            raise ValueError(f"{name} contains NaN or infinity.")
        return term, most

    def __len__(self) -> int:
        return len(self.packed)

    def __repr__(self) -> str:
        columns = columns_in_words(self.sizes)
        return f"<Packed codes of {len(self)} rows, {columns}, {self.n_bits} bits each>"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "packed": self.packed,
            "sizes": self.sizes,
            "factor": self.factor,
            "offset": self.offset,
        }

    @property
    def dtypes(self) -> list[np.dtype]:
        """The dtypes of the factor and the offset, if there are any."""
        terms = self.factor, self.offset
        return [compute_dtype(term.dtype) for term in terms if term is not None]

    def terms(self, rows: slice, dtype: np.dtype) -> tuple[Any, ...]:
        """Return factor and offset of some rows, each None if there is none.

        Parameters
        ----------
        rows : slice
            The rows.
        dtype : dtype
            The dtype to return them in.

        Returns
        -------
        factor, offset : ndarray of shape (n_rows,), or None
            None where there is none.
        """
        factor, offset = (
            None if term is None else term[rows].astype(dtype, copy=False)
            for term in (self.factor, self.offset)
        )
        return factor, offset


def as_packed(packed: Any, sizes: Sequence[int], factor: Any, offset: Any) -> Packed:
    """Return codes as `Packed`, which are checked when they are read.

    Parameters
    ----------
    packed : array-like of uint8, or Packed
        The codes.
    sizes, factor, offset : optional
        As in `Packed`; beside a `Packed`, only sizes equal to its own.
    """
    if not isinstance(packed, Packed):
        codes = Packed.__new__(Packed)
        codes._set(packed, () if sizes is None else sizes, factor, offset)
        return codes
    if factor is not None or offset is not None:
        raise ValueError("factor and offset are given to Packed, not beside one.")
    if sizes is not None and tuple(check_counts("sizes", sizes)) != packed.sizes:
        raise ValueError(f"sizes={sizes!r}, but packed was made with {packed.sizes}.")
    return packed


def as_columns(arrays: Any, name: str) -> Columns:
    """Return `Columns` of a sequence of arrays, not copied; or the given `Columns`."""
    if isinstance(arrays, Columns):
        return arrays
    columns = Columns.__new__(Columns)
    columns._set(arrays, name)
    return columns


def as_table(codebook: Any, name: str = "codebook") -> Table:
    """Return a `Table` of an array-like of any library; or the given `Table`."""
    if isinstance(codebook, Table):
        return codebook
    table = Table.__new__(Table)
    table.codewords, table._forms = HOST.matrix(fetched(codebook), name), {}
    table.exact = True
    return table


def as_tables(codebooks: Any) -> Tables:
    """Return `Tables` of a sequence of array-likes; or the given `Tables`."""
    tables = codebooks
    if not isinstance(codebooks, Tables):
        tables = Tables.__new__(Tables)
        tables._set(_named(codebooks))
    if not len(tables):
        raise ValueError("codebooks is empty; expected at least one table.")
    return tables


def _named(codebooks: Sequence[Any]) -> Iterator[Table]:
    return (as_table(each, f"codebooks[{j}]") for j, each in enumerate(codebooks))


def fetched(array: Any) -> Any:
    """Return an array of another library as a NumPy array; anything else unchanged."""
    return backend_of(array).to_host(array)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array if nobody can write to it, else a read-only copy."""
    owner: Any = array
    while getattr(owner, "flags", None) is not None:
        if owner.flags.writeable:
            array = array.copy()
            array.flags.writeable = False
            break
        owner = owner.base
    return array


# -- parts of all forms ----------------------------------------------------------------


class Margin(NamedTuple):
    """The tolerances within which a code is not sure; see `Backend.judged`."""

    share: float  # of the norms: a code is sure if the distance exceeds it
    slack: float  # near scores differ by less than this times 3 * norm + distance
    coarse: float  # as `share`, for a choice of several, which need not be exact
    # Added to the norms, since squares near the smallest numbers have absolute errors.
    least: float
    # As `coarse`, for a choice among residuals, which are exact up to the rounding of
    # the rows.
    left: float
    # The same for distances of rows and codewords as given, in float64, times the
    # square of the number of differences.
    exact: float

    @classmethod
    def of(cls, n_features: int, dtype: np.dtype) -> "Margin":
        """Return the margin for products of n_features terms."""
        unit = float(np.finfo(dtype).eps) / 2
        # Scores are half the distances, and two of them are compared.
        terms = n_features + _MORE_TERMS
        deviation = math.sqrt(2 * terms) * _ROUNDING * unit
        part = 2 * _SURE * deviation / TOLERANCE[np.dtype(dtype)]
        # A product may reach ||y|| (||y|| + r), which is at most (3 ||y||^2 + r^2) / 2.
        least = 16 * n_features * float(np.finfo(dtype).tiny)
        left = (4 * unit / (16 * TOLERANCE[np.dtype(dtype)])) ** 2
        exact = (4 * 2.0**-53 / TOLERANCE[np.dtype(dtype)]) ** 2
        slack = 0.5 * _NEAR * deviation
        return cls(_share(part), slack, _share(part / 16), least, left, exact)

    def of_unit_rows(self, dtype: np.dtype) -> float:
        """Return the rounding of unit rows, as an addition to the norms.

        Multiplied by a squared norm, it also holds for rows that are residuals.  If a
        row is off by e, a difference of squared distances to codewords at distance D
        changes by at most 4 e sqrt(D).
        """
        unit = float(np.finfo(dtype).eps) / 2
        return (4 * unit / TOLERANCE[np.dtype(dtype)]) ** 2 / min(1.0, self.share)


def _share(part: float) -> float:
    return 1.5 * part / (1 - 0.5 * part) if part < 2 else math.inf


class Core(NamedTuple):
    """Distinct codewords, relative to a centre and scaled, in float64."""

    rows: np.ndarray  # (V', d)
    centre: np.ndarray  # (d,), in the dtype to compute in
    scale: float  # power of two that keeps squares from over- and underflowing
    spread: float  # largest magnitude in the rows
    half_norms: np.ndarray  # (V',)
    first: np.ndarray | None  # (V',), index of each row in the codebook; None: all


def make_core(
    codebook: np.ndarray, dtype: np.dtype, scale: float | None = None, unit: Any = False
) -> Core:
    """Return the parts that every form of a codebook is made from.

    Parameters
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The codewords.
    dtype : dtype
        The dtype to compute in.
    scale : float, optional
        A scale that several tables share; None: chosen for this table.
    unit : bool, default=False
        Whether codewords are divided by their norms.
    """
    first = first_of_distinct(codebook)
    rows = (codebook if first is None else codebook[first]).astype(np.float64)
    if unit:
        rows = unit_rows(rows, "the codebook")
    with np.errstate(over="ignore", invalid="ignore"):
        # Rounded to the dtype first, so that rows and samples shift by the same vector.
        centre = coarse_centre(rows).astype(dtype)
        about = rows - centre
        half_norms = _half_norms(about)
        middle = len(rows) // 2
        if half_norms.max() > _FAR * np.partition(half_norms, middle)[middle]:
            centre = coarse_centre(without_far_rows(rows)).astype(dtype)
            about = rows - centre
            half_norms = _half_norms(about)
        spread = float(max(about.max(initial=0.0), -about.min(initial=0.0)))
        if scale is None:
            scale = power_of_two_scale(spread, dtype)
        if scale != 1.0:
            # In this order, since rows are shifted by the centre in its dtype.
            about *= scale
            half_norms = _half_norms(about)
    if not np.isfinite(half_norms).all():
        raise ValueError(
            f"The codebook's values, up to {np.abs(codebook).max():.3g}, are too large "
            f"for squared distances in {dtype}: scale X."
        )
    return Core(about, centre, scale, spread * scale, half_norms, first)


def first_of_distinct(codebook: np.ndarray) -> np.ndarray | None:
    """Return ascending indices of the first of each group of equal rows; or None.

    None means that all rows differ.  Equal columns of a GEMM need not come out equal,
    since its edges use other kernels.  A search over distinct codewords always finds
    the lowest index.
    """
    # Equal rows have equal hashes, so different hashes settle the usual case cheaply.
    # Adding zero gives -0.0 and 0.0 the same bits.
    plain = np.ascontiguousarray(codebook) + 0.0
    wide = plain.shape[1] * plain.itemsize % 8 == 0
    bits = plain.view(np.uint64 if wide else f"u{plain.itemsize}")
    bits = bits.astype(np.uint64, copy=False)
    mixer = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * _GOLDEN
    hashes = np.sort(np.einsum("ij,j->i", bits, mixer))
    if (hashes[1:] != hashes[:-1]).all():
        return None
    first, _ = unique_rows(plain)
    return None if first.size == len(codebook) else np.sort(first)


def without_far_rows(rows: np.ndarray) -> np.ndarray:
    """Return the rows without outliers.

    A far codeword, which no sample need be near, would pull the centre along and cost
    the digits of all others.
    """
    gaps = np.abs(rows - np.median(rows, axis=0)).max(axis=1)
    return rows[gaps <= _FAR * np.median(gaps)]


def coarse_centre(rows: np.ndarray) -> np.ndarray:
    """Return the mean, rounded to a grid so coarse that differences stay short.

    Integers stay integers and dyadic fractions stay short, so that ties in such data
    stay exact.  The centre depends on the table alone: if it depended on X, the code of
    a row would depend on its batch.
    """
    centre = rows.mean(axis=0, dtype=np.float64)
    spread = 0.0
    if rows.size:
        # This finds the largest |row - centre| without an array of that size.
        above, below = rows.max(axis=0) - centre, centre - rows.min(axis=0)
        spread = float(max(above.max(), below.max()))
    if not 0.0 < spread < np.inf:
        return centre
    unit = 2.0 ** max(np.floor(np.log2(spread)) - 3.0, -1000.0)
    if _are_integers(rows[:1]) and _are_integers(rows):
        unit = max(unit, 1.0)
    return np.rint(centre / unit) * unit


def _are_integers(rows: np.ndarray) -> bool:
    return np.array_equal(rows, np.rint(rows))


def power_of_two_scale(spread: float, dtype: np.dtype) -> float:
    """Return 1 for ordinary tables, else the power of two that brings spread near 1."""
    ordinary, most = (30, 100) if dtype == np.float32 else (400, 900)
    exponent = int(np.frexp(spread)[1])
    if spread == 0.0 or abs(exponent) < ordinary:
        return 1.0
    return 2.0 ** float(np.clip(-exponent, -most, most))


def unit_rows(rows: np.ndarray, name: str) -> np.ndarray:
    """Return rows divided by their norms; raise and name the first zero row if any."""
    check_no_zero_rows(rows, name)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    # Dividing by the largest entry first keeps the norms of tiny and huge rows.
    scaled = rows / largest
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled


def check_no_zero_rows(rows: np.ndarray, name: str = "X", start: int = 0) -> None:
    """Raise a ValueError if a row is zero.

    Parameters
    ----------
    rows : array of shape (n_rows, n_features)
        The rows, of any library.
    name : str, default="X"
        The name of the rows in the message.
    start : int, default=0
        Number of the first row.

    Raises
    ------
    ValueError
        If there is a zero row; the message names the first one.
    """
    be = backend_of(rows)
    zero = be.flagged(~be.xp.any(rows != 0, axis=1))
    if zero.size:
        raise ValueError(
            f"metric='cosine' is not defined for zero vectors: row "
            f"{start + zero[0]} of {name} is zero. Drop such rows, or use "
            "metric='sqeuclidean'."
        )


# -- one table, and tables of subspaces ------------------------------------------------


class Flat(NamedTuple):
    """A codebook prepared for a matrix product."""

    weights: np.ndarray  # (d + 1, V'), [-(C - m)^T; 1/2 ||c - m||^2]
    rows: np.ndarray  # (V', d), the distinct codewords, shifted and scaled
    centre: np.ndarray  # (d,), m
    scale: float
    first: np.ndarray | None  # (V',), index of each row in the codebook; None: all
    limit: float  # scores are finite for |x| up to this
    margin: Margin
    # For inner products only: added to the scores to give the product of a row.
    offset: np.ndarray | None  # (d,), m, scaled
    level: float
    reach: float  # largest squared norm of the rows
    rounded: float  # added to norms, for the rounding of unit rows
    near: float  # that rounding shows in distances below this
    exact: np.ndarray  # (V', d), as given, or unit rows
    bias: np.ndarray | None  # (V',), added to the scores
    packed: Any = None  # the backend's own form

    def between(self, x: np.ndarray, row: Any, codeword: Any) -> np.ndarray:
        """Return the exact values behind scores, for pairs of rows and codewords."""
        rows, codewords = x[row], self.exact[codeword]
        if self.offset is not None:
            found = -np.einsum("ij,ij->i", rows, codewords) * self.scale * self.scale
        else:
            found = _half_norms((rows - codewords) * self.scale)
        return found if self.bias is None else found + self.bias[codeword]


def _half_norms(gaps: np.ndarray) -> np.ndarray:
    return 0.5 * np.einsum("ij,ij->i", gaps, gaps)


def flat_form(table: Table, metric: Metric, dtype: np.dtype, bias: Any = None) -> Flat:
    """Return a prepared codebook, with a bias for each codeword if given.

    Parameters
    ----------
    table : Table
        The codebook.
    metric : {"sqeuclidean", "cosine", "inner_product"}
        The distance.
    dtype : dtype
        The dtype to compute in.
    bias : ndarray of shape (n_codewords,), optional
        In the units of the distance.
    """
    plain = table.form(
        ("flat", metric, dtype), lambda: _make_flat(table, metric, dtype)
    )
    return plain if bias is None else _biased(plain, table.codewords, metric, bias)


def _make_flat(table: Table, metric: Metric, dtype: np.dtype) -> Flat:
    codebook = table.codewords
    core = make_core(codebook, dtype, unit=metric == "cosine")
    rows, scale, constants, offset = core.rows, core.scale, core.half_norms, None
    if metric == "inner_product":
        # -x.c is needed up to a constant: -(x - m).(c - m) - m.(c - m)
        offset = scale * core.centre.astype(np.float64)
        constants = -rows @ offset
    weights = np.empty((rows.shape[1] + 1, len(rows)), dtype=dtype)
    np.negative(rows.T, out=weights[:-1])
    weights[-1] = constants
    exact = codebook if core.first is None else codebook[core.first]
    if metric == "cosine":
        exact = unit_rows(exact.astype(np.float64, copy=False), "the codebook")
    margin = Margin.of(rows.shape[1], dtype)
    if not table.exact:
        margin = margin._replace(share=margin.coarse)
    return Flat(
        weights,
        rows.astype(dtype, copy=False),
        core.centre,
        scale,
        core.first,
        _limit(core, dtype),
        margin,
        None if offset is None else offset.astype(dtype),
        0.0 if offset is None else float(offset @ offset),
        2 * float(core.half_norms.max()),
        margin.of_unit_rows(dtype) if metric == "cosine" else 0.0,
        2.0**-9 if metric == "cosine" and dtype == np.float32 and table.exact else 0.0,
        exact.astype(dtype, copy=False),
        None,
    )


def _limit(core: Core, dtype: np.dtype) -> float:
    """Return the bound on |x| below which no score, a sum of d products, overflows."""
    largest = float(np.finfo(dtype).max)
    reach = largest / (4 * max(1.0, core.spread * core.rows.shape[1]))
    return min(reach / core.scale, largest) - float(np.abs(core.centre).max(initial=0))


def check_bias(bias: Any, n_codewords: int, name: str = "bias") -> np.ndarray:
    """Return the biases of codewords in float64; raise unless there is one for each."""
    bias = np.asarray(fetched(bias), dtype=np.float64)
    if bias.shape != (n_codewords,):
        raise ValueError(f"{name} has shape {bias.shape}; expected ({n_codewords},).")
    if np.isnan(bias).any() or (bias == -np.inf).any():
        raise ValueError(f"{name} contains NaN or -inf; expected numbers, or +inf.")
    if not np.isfinite(bias).any():
        raise ValueError(f"{name} is +inf for all codewords, of which none is left.")
    return bias


def distinct_bias(
    codebook: np.ndarray, first: Any, bias: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return bias and index of the best in each group of equal codewords.

    Parameters
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        The codewords.
    first : ndarray of shape (n_distinct,) or None
        The first of each group; None: all are different.
    bias : ndarray of shape (n_codewords,)
        The bias of each codeword.
    """
    if first is None:
        return bias, np.arange(len(bias))
    place = place_of_equals(codebook, first)
    order = np.lexsort((np.arange(len(bias)), bias, place))
    best = order[np.unique(place[order], return_index=True)[1]]
    return bias[best], best


def scaled_bias(bias: np.ndarray, scale: float, dtype: np.dtype) -> np.ndarray:
    """Return biases minus the least one, in the scale of a table.

    Only differences matter, so a large common part must not cost digits.  Excessive
    ones are cut to a value whose sums are still finite.

    Parameters
    ----------
    bias : ndarray of shape (n_codewords,)
        The biases; +inf stays.
    scale : float
        The scale of the table.
    dtype : dtype
        The dtype to compute in.
    """
    with np.errstate(over="ignore"):
        rest = (bias - bias.min()) * scale * scale
    most = float(np.finfo(dtype).max) * 2.0**-20
    return np.where(np.isfinite(bias), np.minimum(rest, most), np.inf)


def place_of_equals(codebook: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return, for each codeword, the index of its equal among the first ones."""
    kept, group = unique_rows(codebook + 0 if codebook.dtype != bool else codebook)
    return np.searchsorted(first, kept)[group]


def _biased(plain: Flat, codebook: np.ndarray, metric: Metric, bias: Any) -> Flat:
    bias, best = distinct_bias(codebook, plain.first, bias)
    kept = np.flatnonzero(np.isfinite(bias))
    half = 0.5 if metric == "sqeuclidean" else 1.0
    scores = half * scaled_bias(bias[kept], plain.scale, plain.weights.dtype)
    weights = plain.weights[:, kept]
    weights[-1] += scores.astype(weights.dtype)
    return plain._replace(
        weights=weights,
        rows=plain.rows[kept],
        first=best[kept],
        exact=plain.exact[kept],
        bias=scores,
    )


class Run(NamedTuple):
    """Consecutive subspaces of one width and one number of distinct codewords."""

    start: int  # the first feature
    stop: int
    weights: np.ndarray  # (m, width + 1, V')
    centre: np.ndarray  # (m, width)
    scale: np.ndarray  # (m,)
    first: np.ndarray | None  # (m, V'), index of each row in its codebook; None: all
    margin: Margin
    tables: tuple[Any, ...]  # the forms that it is made of
    packed: Any = None

    @property
    def width(self) -> int:
        """Number of features of each subspace."""
        return self.weights.shape[1] - 1


def make_runs(tables: Sequence[Flat], most_scores: int) -> list[Run]:
    """Cut the subspaces into runs whose scores one batched product computes."""
    runs: list[Run] = []
    start = first = 0
    while first < len(tables):
        shape = tables[first].weights.shape
        last = first + 1
        most = max(1, most_scores // shape[1])
        while (
            last < len(tables)
            and last - first < most
            and tables[last].weights.shape == shape
            and tables[last].margin == tables[first].margin
        ):
            last += 1
        run = tables[first:last]
        stop = start + len(run) * (shape[0] - 1)
        every = np.arange(shape[1])
        firsts = [every if table.first is None else table.first for table in run]
        runs.append(
            Run(
                start,
                stop,
                np.stack([table.weights for table in run]),
                np.stack([table.centre for table in run]),
                np.array([table.scale for table in run], dtype=run[0].weights.dtype),
                None if all(t.first is None for t in run) else np.stack(firsts),
                run[0].margin,
                tuple(run),
            )
        )
        start, first = stop, last
    return runs
